/**
 * *walk* against *hold*, in a guest that zeroes every page that it allocates (Linux's `init_on_alloc=1`) and in one that
 * does not: what hints save, and how much of what was hinted the report itself has written again. Free memory holds old
 * data. All cases alternate, so that a machine that changes its speed does so to all of them.
 *
 * The guest is QEMU's in the rows below the table: 1 GiB, 80 % of it free in large blocks, no cap on the link, a downtime
 * limit of 300 ms. Its zero detection is always on, so its two columns are `zero` and `both` here.
 *
 * ```
 * npm run bench:hold-walk -- [--runs 5] [--memory 1GiB] [--link unlimited] [--json hold-walk.json]
 * ```
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type RunSpec, runOnce } from '../../src/cli/bench/run.js';
import { parseMemory, parseRate, parseWhole } from '../../src/cli/units.js';
import { syntheticImage } from '../../src/guest/image.js';
import { REPORT_MODES, type ReportMode } from '../../src/guest/runtime.js';
import { IDLE_WORKLOAD } from '../../src/guest/workload.js';
import { MemoryPool } from '../../src/memory/memory-pool.js';
import { MIB } from '../../src/memory/page.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { BASELINES, type Baseline, type RunReport } from '../../src/report/schema.js';
import { isVerified } from '../../src/report/summary.js';
import { Verifier } from '../../src/vmm/verifier.js';
import { DEFAULT_RING_SIZE } from '../../src/vmm/worker-guest.js';
import { median, needMemory, printMachine, printTable, spread } from './figures.js';

const { values: given } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    memory: { type: 'string', default: '1GiB' },
    link: { type: 'string', default: 'unlimited' },
    json: { type: 'string' },
  },
});
const RUNS = parseWhole(1, 1000)(given.runs);
const MEMORY_BYTES = parseMemory(given.memory);

/**
 * QEMU 10.0.2 (TCG, q35, 1 vCPU) with Linux 6.1, which reports by hold; 1 GiB, 80 % of it filled and freed before;
 * loopback TCP; another machine (2-core AMD EPYC), so what counts is the ratio within a row. Median (min–max), ms; MB.
 */
const QEMU_ROWS: readonly (readonly string[])[] = [
  ['hold', 'no', '315 (305–321)', '956', '173 (81–304)', '410 (182–948)', '45 %'],
  ['hold', 'yes', '315', '956', '324 (314–344)', '300', '-3 %'],
];

interface Case {
  readonly reportMode: ReportMode;
  readonly initOnAlloc: boolean;
  readonly baseline: Baseline;
}

const CASES: readonly Case[] = REPORT_MODES.flatMap((reportMode) =>
  [false, true].flatMap((initOnAlloc) =>
    BASELINES.map((baseline) => ({ reportMode, initOnAlloc, baseline })),
  ),
);

function specOf(of: Case, memoryBytes: number): RunSpec {
  return {
    ...of,
    image: syntheticImage(atomicMapper, { memoryBytes, freeShare: 0.8, freeRunPages: 4096 }),
    freeMemory: 'data',
    workload: IDLE_WORKLOAD,
    traceAtMs: 0,
    traceSpeed: 1,
    schedule: 'adaptive',
    minOrder: 0,
    dialect: 'command-register',
    ringSize: DEFAULT_RING_SIZE,
    pagePoison: null,
    link: { name: given.link, bytesPerSecond: parseRate(given.link) },
    downtimeLimitMs: 300,
    transport: 'memory',
    destination: 'touched',
    seed: 1,
  };
}

async function measure(): Promise<RunReport[]> {
  const verifier = new Verifier();
  const services = {
    pool: new MemoryPool(),
    verifier,
    signal: new AbortController().signal,
    onProgress: () => {},
    onPhase: () => {},
  };
  try {
    const [first] = CASES;
    await runOnce(specOf({ ...first!, baseline: 'both' }, 128 * MIB), services); // compiled code from here on
    const runs: RunReport[] = [];
    for (let run = 0; run < RUNS; run += 1) {
      for (const of of CASES) {
        const report = await runOnce(specOf(of, MEMORY_BYTES), services);
        if (!isVerified(report) || report.status !== 'completed') {
          throw new Error(`${JSON.stringify(of)}: ${report.status}, ${JSON.stringify(report.verified)}`);
        }
        runs.push(report);
      }
    }
    return runs;
  } finally {
    await verifier.close();
  }
}

function runsOf(runs: readonly RunReport[], of: Case): RunReport[] {
  return runs.filter(
    ({ reportMode, initOnAlloc, baseline }) =>
      reportMode === of.reportMode && initOnAlloc === of.initOnAlloc && baseline === of.baseline,
  );
}

function timeOf(runs: readonly RunReport[]): number {
  return median(runs.map((run) => run['total-time']));
}

function rowOf(runs: readonly RunReport[], of: Case): string[] {
  const own = runsOf(runs, of);
  // What hints add to what is done without them.
  const against = of.baseline === 'both' ? 'zero' : 'none';
  const saved = 1 - timeOf(own) / timeOf(runsOf(runs, { ...of, baseline: against }));
  const values = (value: (run: RunReport) => number): number[] => own.map(value);
  const hinted = of.baseline === 'hints' || of.baseline === 'both';
  return [
    `${of.reportMode}, init_on_alloc=${of.initOnAlloc ? 1 : 0}`,
    of.baseline,
    spread(
      values((run) => run['total-time']),
      0,
    ),
    hinted ? `${(saved * 100).toFixed(0)} %` : '',
    median(values((run) => run.downtime ?? Number.NaN)).toFixed(1),
    (median(values((run) => run.ram.transferred)) / 1e6).toFixed(0),
    hinted ? median(values((run) => run.hints.applied)).toFixed(0) : '',
    hinted ? median(values((run) => run.hints.reDirtied)).toFixed(0) : '',
    hinted ? reportTime(own) : '',
  ];
}

/** From the request to the stop sign; a report that the host did not wait for, until it was told to stop. */
function reportTime(runs: readonly RunReport[]): string {
  const sessions = runs.map((run) => run.hints.sessions[0]!);
  const isCutShort = sessions.some((session) => session['to-stop'] === null);
  const times = sessions.map((session) => session['to-stop'] ?? session['to-close'] ?? Number.NaN);
  return `${isCutShort ? '> ' : ''}${median(times).toFixed(1)}`;
}

printMachine();
needMemory(2 * MEMORY_BYTES + 512 * MIB);
const runs = await measure();
printTable(
  [
    'guest',
    'baseline',
    'time, ms',
    'hints save',
    'downtime, ms',
    'sent, MB',
    'pages left out',
    'written again',
    'report, ms',
  ],
  CASES.map((of) => rowOf(runs, of)),
);
console.log(
  `median (min–max) of n = ${RUNS}; ${given.memory}, 80 % free, free memory holds old data; link ${given.link}; ` +
    'hints save: hints against none, both against zero\n\nQEMU with Linux, elsewhere:',
);
printTable(
  ['reports by', 'init_on_alloc', 'hints off, ms', 'MB', 'hints on, ms', 'MB', 'hints save'],
  QEMU_ROWS,
);
if (given.json !== undefined) {
  writeFileSync(given.json, `${JSON.stringify({ runs, qemu: QEMU_ROWS }, null, 2)}\n`);
}
