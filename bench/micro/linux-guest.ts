/**
 * A real Linux guest in v86, moved to another process over loopback while it counts, with hints and without, alternately.
 * Free memory holds old data: three quarters of it were filled and freed before. Each run has two processes of its own, and
 * starts from the same state.
 *
 * ```
 * npm run bench:linux -- [--runs 5] [--memory 128,256,512] [--init-on-alloc] [--json linux.json]
 * ```
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { Counted } from '../../src/cli/linux/counted.js';
import { DestinationProcess } from '../../src/cli/linux/destination-process.js';
import { isMissing } from '../../src/cli/linux/image/guest-files.js';
import { type LinuxImage, obtainLinuxImage } from '../../src/cli/linux/image/linux-image.js';
import { makeMachine } from '../../src/cli/linux/machine.js';
import { Move, type MoveReport } from '../../src/cli/linux/move.js';
import { startMachine } from '../../src/cli/linux/snapshot.js';
import { parseEndpoint, parseWhole } from '../../src/cli/units.js';
import { bufferOf } from '../../src/memory/byte-ops.js';
import { MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { median, needMemory, printMachine, printTable, spread } from './figures.js';

const { values: given } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    memory: { type: 'string', default: '128,256,512' },
    'init-on-alloc': { type: 'boolean', default: false },
    json: { type: 'string' },
    /** Of the process that makes one run: where the guest's state is. */
    state: { type: 'string' },
    hints: { type: 'string', default: 'on' },
  },
});
const RUNS = parseWhole(1, 100)(given.runs);
const SIZES: readonly number[] = given.memory.split(',').map((mib) => parseWhole(64, 2048)(mib) * MIB);
/** Lines of the counter before the guest is moved, and after. */
const LINES = 10;
const OLD_DATA_SHARE = 0.75;

/** One run. */
interface Result {
  readonly memoryBytes: number;
  readonly hints: boolean;
  readonly report: MoveReport;
  /** By the guest's own clock, in ms. */
  readonly counter: {
    /** From one line to the next, before the guest is moved. */
    readonly pace: number;
    /** From the last line at the source to the first at the destination. */
    readonly gap: number;
    /** The longest step of all. */
    readonly longest: number;
  };
}

async function image(): Promise<LinuxImage> {
  const obtained = await obtainLinuxImage({ initOnAlloc: given['init-on-alloc'] });
  if (isMissing(obtained)) {
    throw new Error(obtained.missing);
  }
  return obtained;
}

/** A guest whose free memory holds old data, as a file. */
async function prepare(of: LinuxImage, memoryBytes: number, file: string): Promise<void> {
  const machine = await startMachine({ image: of, memoryBytes, log: console.error });
  machine.guest.resume();
  const free = Number(/MemFree (\d+) kB/.exec(await machine.console.run('memfree'))?.[1]) / 1024;
  await machine.console.run(`use ${Math.floor(free * OLD_DATA_SHARE)}; unuse`);
  machine.guest.requestPause();
  writeFileSync(file, new Uint8Array(await machine.emulator.save_state()));
  await machine.close();
}

async function runOnce(state: string, memoryBytes: number, hints: boolean): Promise<Result> {
  const signal = new AbortController().signal;
  const machine = await makeMachine({ image: await image(), memoryBytes, role: 'boot' });
  const destination = new DestinationProcess(signal);
  await machine.emulator.restore_state(bufferOf(readFileSync(state)));
  machine.guest.resume();
  const left = new Counted(() => {});
  machine.console.onText((text) => left.take(text));
  machine.console.send('counter\n');
  await left.lines(LINES);
  const pace = ((left.last!.uptime - left.first!.uptime) * 1000) / (left.last!.count - left.first!.count);
  const move = await Move.connect({
    machine,
    name: 'linux',
    to: parseEndpoint(await destination.listening),
    tls: undefined,
    streams: 1,
    compression: 'off',
    options: { hints },
    signal,
    onEvent: () => {},
  });
  const { source, report } = await move.run();
  if (source.phase !== 'completed') {
    throw source.error ?? new Error(source.phase);
  }
  const come = new Counted(() => {}, left.rest);
  come.take(destination.console.unread);
  destination.console.onText((text) => come.take(text));
  await come.lines(LINES);
  if (come.first?.count !== (left.last?.count ?? 0) + 1) {
    throw new Error(`the counter went from ${left.last?.count} to ${come.first?.count}`);
  }
  await move.close();
  await destination.close();
  await machine.close();
  const gap = (come.first.uptime - left.last!.uptime) * 1000;
  const longest = Math.max(left.longestStep * 1000, gap, come.longestStep * 1000);
  return { memoryBytes, hints, report, counter: { pace, gap, longest } };
}

async function measure(): Promise<Result[]> {
  const folder = mkdtempSync(join(tmpdir(), 'lacuna-bench-linux-'));
  const of = await image();
  const results: Result[] = [];
  try {
    for (const memoryBytes of SIZES) {
      needMemory(4 * memoryBytes);
      const state = join(folder, `${memoryBytes}`);
      await prepare(of, memoryBytes, state);
      for (let run = 0; run < RUNS; run += 1) {
        for (const hints of [true, false]) {
          results.push(await child(state, memoryBytes, hints));
        }
      }
    }
    return results;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A process of its own: what a machine has held of memory is not given back soon. */
async function child(state: string, memoryBytes: number, hints: boolean): Promise<Result> {
  const args = ['--state', state, '--memory', String(memoryBytes / MIB), '--hints', hints ? 'on' : 'off'];
  const { stdout } = await promisify(execFile)(process.execPath, [
    fileURLToPath(import.meta.url),
    ...args,
    ...(given['init-on-alloc'] ? ['--init-on-alloc'] : []),
  ]);
  return JSON.parse(stdout) as Result;
}

function row(results: readonly Result[], memoryBytes: number, hints: boolean): string[] {
  const own = results.filter((result) => result.memoryBytes === memoryBytes && result.hints === hints);
  const without = results.filter((result) => result.memoryBytes === memoryBytes && !result.hints);
  const sent = (of: readonly Result[]): number => median(of.map(({ report }) => report.ram.transferred));
  const values = (value: (result: Result) => number | null): number[] =>
    own.map((result) => value(result) ?? Number.NaN);
  // The host may have gone on before a stop sign came.
  const session = (key: 'to-first-range' | 'to-stop'): string => {
    const times = values(({ report }) => report.hints.sessions[0]?.[key] ?? null);
    return times.some(Number.isNaN) ? '' : spread(times, 0);
  };
  return [
    `${memoryBytes / MIB} MiB`,
    hints ? 'on' : 'off',
    (sent(own) / MIB).toFixed(0),
    hints ? `${((sent(own) / sent(without)) * 100).toFixed(0)} %` : '',
    hints ? ((median(values(({ report }) => report.ram.skipped)) * PAGE_SIZE) / MIB).toFixed(0) : '',
    spread(
      values(({ report }) => report['total-time']),
      0,
    ),
    spread(
      values(({ report }) => report.downtime),
      0,
    ),
    spread(
      values(({ counter }) => Math.max(0, counter.gap - counter.pace)),
      0,
    ),
    spread(
      values(({ counter }) => counter.longest),
      0,
    ),
    session('to-first-range'),
    session('to-stop'),
    median(values(({ report }) => report.scans.ms / report.scans.passes)).toFixed(1),
  ];
}

if (given.state !== undefined) {
  console.log(JSON.stringify(await runOnce(given.state, SIZES[0]!, given.hints === 'on')));
} else {
  printMachine();
  const results = await measure();
  printTable(
    [
      'guest',
      'hints',
      'sent, MiB',
      'of without',
      'left out, MiB',
      'time, ms',
      'downtime, ms',
      'counter lost, ms',
      'longest step, ms',
      'first range, ms',
      'stop sign, ms',
      'a scan, ms',
    ],
    SIZES.flatMap((memoryBytes) => [row(results, memoryBytes, false), row(results, memoryBytes, true)]),
  );
  console.log(
    `median (min–max) of n = ${RUNS}; init_on_alloc=${given['init-on-alloc'] ? 1 : 0}, loopback TCP, one stream, downtime limit 300 ms; ` +
      'three quarters of free memory hold old data',
  );
  if (given.json !== undefined) {
    writeFileSync(given.json, JSON.stringify(results));
  }
}
