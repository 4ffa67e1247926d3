import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  type CasePlan,
  FAULT_KINDS,
  type FaultKind,
  faultsOf,
  type LinkMoment,
  planCase,
} from '../../dist/src/cli/stress/plan.js';
import { parseStressReport, type StressReport } from '../../dist/src/cli/stress/report.js';
import { type StressRequest, stress } from '../../dist/src/cli/stress/stress.js';
import { FaultBoard } from '../../dist/src/guest/faulty-driver.js';
import {
  atomicMapper,
  q35Blocks,
  RamLayout,
  SharedGuestMemory,
  type Verification,
  WorkerDestination,
  type WorkerGuest,
} from '../../dist/src/index.js';
import { ThreadPool } from '../../dist/src/vmm/threads.js';
import { type CliOptions, type CliResult, runCli, runHere } from '../support/cli.js';
import { Bench } from '../support/guests.js';
import { LONG } from '../support/long.js';

const NETWORK_FAULTS = ['link-cuts', 'link-silent', 'destination-restarts', 'hostile-peer'] as const;
/** Generous: a slow machine fails nothing here. */
const TIMEOUT_MS = LONG ? 3_600_000 : 300_000;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-stress-'));
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

function lacuna(args: string[], onStderr?: CliOptions['onStderr']): Promise<CliResult> {
  return runCli(folder, args, { onStderr });
}

function readReport(name = 'stress.json'): StressReport {
  return parseStressReport(JSON.parse(readFileSync(join(folder, name), 'utf8')));
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}

it(
  'moves guests with all faults, loses nothing, and reports what it did',
  async () => {
    const { code, stdout, stderr } = await lacuna([
      'stress',
      '--seed',
      '11',
      '--migrations',
      '40',
      '--json',
      'stress.json',
    ]);
    expect(stderr).toContain('seed 11, faults: all');
    expect(stderr).not.toContain('FAILED');
    expect(code).toBe(0);
    const report = readReport();
    expect(report).toMatchObject({
      seed: 11,
      migrations: 40,
      interrupted: false,
      failures: [],
      transport: 'memory',
      faults: faultsOf('memory'),
      command: 'lacuna stress --seed 11 --migrations 40 --json stress.json',
    });
    expect(sum(report.outcomes)).toBe(40);
    const { completed = 0, cancelled = 0 } = report.outcomes;
    expect(completed).toBeGreaterThan(10);
    expect(completed).toBeLessThan(40);
    expect(cancelled).toBeLessThan(20);
    expect(sum(report.injected)).toBeGreaterThan(10);
    expect(Object.values(report.injected).filter((times) => times > 0).length).toBeGreaterThan(5);
    expect(report.pages.compared).toBeGreaterThan(completed * 4096 - 1);
    expect(report.hints.applied).toBeGreaterThan(0);
    expect(report.downtime?.max).toBeGreaterThan(0);
    expect(stdout).toMatch(/completed +│ +\d+ │ driver-hangs/);
    expect(stdout).toContain('40 migrations of');
  },
  TIMEOUT_MS,
);

/** Where every migration comes by, and early: whatever is planned for then happens. */
function isEarly(moment: LinkMoment): boolean {
  return 'afterBytes' in moment
    ? moment.afterBytes < 100_000
    : 'event' in moment && moment.nth === 1 && ['started', 'round'].includes(moment.event);
}

/** Kinds of network fault that a plan injects for certain: alone in their migration, and at an early moment. */
function certainFaults(plans: readonly CasePlan[]): FaultKind[] {
  const hops = plans.flatMap((plan) => plan.hops).filter(({ kinds }) => kinds.length === 1);
  const moments = hops.flatMap(({ kinds: [kind], faults }) =>
    [
      ...(faults.cuts ?? []).map(({ at }) => at),
      ...(faults.silences ?? []).map(({ at }) => at),
      ...(faults.restarts ?? []),
      ...(faults.hostilePeers === undefined ? [] : [faults.hostilePeers.at]),
    ].map((at) => ({ kind: kind!, at })),
  );
  return [...new Set(moments.filter(({ at }) => isEarly(at)).map(({ kind }) => kind))].toSorted();
}

it(
  'moves guests over loopback TCP with all faults of a network, loses nothing, and leaves nothing behind',
  async () => {
    const seed = 13_931;
    const cases = LONG ? { first: 1, last: 50 } : { first: 1, last: 2 };
    const plans = Array.from({ length: cases.last }, (_, i) => planCase(seed, i + 1, NETWORK_FAULTS, 'tcp'));
    expect(certainFaults(plans), 'another seed has to be found').toEqual([...NETWORK_FAULTS].toSorted());
    const migrations = plans.reduce((total, { hops }) => total + hops.length, 0);
    const { code, stdout, stderr } = await lacuna([
      'stress',
      '--transport',
      'tcp',
      '--seed',
      `${seed}`,
      '--faults',
      NETWORK_FAULTS.join(','),
      '--case',
      `${cases.first}..${cases.last}`,
      '--json',
      'stress.json',
    ]);
    expect(stderr).toContain(`seed ${seed}, by tcp, faults: ${NETWORK_FAULTS.join(', ')}`);
    expect(stderr).not.toContain('FAILED');
    expect(code).toBe(0);
    const report = readReport();
    expect(report).toMatchObject({
      seed,
      transport: 'tcp',
      migrations,
      failures: [],
      faults: NETWORK_FAULTS,
    });
    expect(sum(report.outcomes)).toBe(migrations);
    const { completed = 0 } = report.outcomes;
    expect(completed).toBeGreaterThan(migrations / 2);
    const { injected, links, pages } = report;
    for (const kind of NETWORK_FAULTS) {
      expect(injected[kind], kind).toBeGreaterThan(0);
    }
    expect(links.epochs).toBe(migrations + links.restored);
    expect(links.restored).toBeGreaterThan(0);
    expect(links.lost).toBeGreaterThanOrEqual(links.restored);
    expect(links.startedOver).toBeGreaterThan(0);
    expect(pages.compared).toBeGreaterThan(completed * 4096 - 1);
    expect(stdout).toMatch(/links: \d+, of which \d+ broke/);
  },
  TIMEOUT_MS,
);

it(
  'without faults every migration completes, and a case by itself has the migrations of its plan',
  async () => {
    const seed = 3;
    const plan = planCase(seed, 4, []);
    const { code, stderr } = await lacuna([
      'stress',
      '--seed',
      `${seed}`,
      '--case',
      '4',
      '--faults',
      'none',
      '--quiet',
      '--json',
      'stress.json',
    ]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const report = readReport();
    expect(report).toMatchObject({ cases: 1, migrations: plan.hops.length, faults: [] });
    expect(report.outcomes).toMatchObject({ completed: plan.hops.length });
    expect(sum(report.injected)).toBe(0);
  },
  TIMEOUT_MS,
);

const CLEAN: Verification = {
  pagesCompared: 1,
  pagesDifferent: 0,
  firstDifferentPfn: -1,
  pagesLeftBehind: 0,
};

/** Runs in this process, so that a test can put its own verification in place. Standard error as one text. */
async function stressHere(
  changes: Partial<StressRequest>,
  compare: () => Promise<Verification>,
): Promise<{ code: number; stderr: string }> {
  const lines: string[] = [];
  vi.spyOn(console, 'log').mockImplementation(() => {});
  vi.spyOn(console, 'error').mockImplementation((line: string) => {
    lines.push(line);
  });
  const code = await stress(
    {
      seed: 21,
      transport: 'memory',
      faults: [],
      seconds: undefined,
      migrations: 10,
      cases: undefined,
      jobs: 2,
      json: join(folder, 'stress.json'),
      quiet: true,
      version: '0',
      command: 'test',
      ...changes,
    },
    new AbortController().signal,
    compare,
  );
  return { code, stderr: lines.join('\n') };
}

it(
  'a page that is lost stops the run, is told in words, and with a command that meets it again',
  async () => {
    let compared = 0;
    const { code, stderr } = await stressHere({}, () => {
      compared += 1;
      return Promise.resolve(
        compared === 3 ? { ...CLEAN, pagesDifferent: 2, firstDifferentPfn: 4711 } : CLEAN,
      );
    });
    expect(code).toBe(1);
    expect(stderr).toMatch(/FAILED.*2 pages of 1 were lost, the first of them 4711/);
    const report = readReport();
    expect(report.migrations).toBeLessThan(10);
    expect(report.failures).toHaveLength(1);
    const [failure] = report.failures;
    expect(failure!.command).toBe(`lacuna stress --seed 21 --case ${failure!.case} --faults none`);
    expect(stderr).toContain(failure!.command);
    expect(failure!.plan[0]).toMatch(/^guest: \d+ MiB/);
    expect(failure!.plan).toHaveLength(1 + failure!.hop);

    // What the command would do: that case alone, as it was, up to the migration that failed.
    vi.restoreAllMocks();
    let again = 0;
    const second = await stressHere(
      { cases: { first: failure!.case, last: failure!.case }, migrations: undefined, jobs: 1 },
      () => {
        again += 1;
        return Promise.resolve(again === failure!.hop ? { ...CLEAN, pagesDifferent: 1 } : CLEAN);
      },
    );
    expect(second.code).toBe(1);
    expect(readReport().failures[0]).toMatchObject({
      case: failure!.case,
      hop: failure!.hop,
      plan: failure!.plan,
    });
  },
  TIMEOUT_MS,
);

it(
  'an error of lacuna’s own is a failure too, with its stack',
  async () => {
    const { code, stderr } = await stressHere({ jobs: 1 }, () => Promise.reject(new TypeError('a mistake')));
    expect(code).toBe(1);
    expect(stderr).toContain('a mistake');
    expect(readReport().failures).toMatchObject([{ case: 1, hop: 1, error: 'a mistake' }]);
    expect(readReport().failures[0]!.stack).toContain('TypeError');
  },
  TIMEOUT_MS,
);

it(
  'an error that nobody waits for is a failure, and does not end the process',
  async () => {
    let thrown = false;
    const { code, stderr } = await stressHere({ jobs: 1 }, () => {
      if (!thrown) {
        thrown = true;
        setImmediate(() => {
          process.emit('uncaughtException', new RangeError('from nowhere'));
        });
      }
      return Promise.resolve(CLEAN);
    });
    expect(code).toBe(1);
    expect(stderr).toContain('from nowhere');
    expect(readReport().failures).toHaveLength(1);
  },
  TIMEOUT_MS,
);

it(
  'SIGINT calls everything off: exit code 130, and the results so far',
  async () => {
    let killed = false;
    const { code, stdout, stderr } = await lacuna(
      ['stress', '--migrations', '100000', '--seed', '1', '--json', 'stress.json'],
      (_line, kill) => {
        if (!killed) {
          killed = true;
          setTimeout(() => kill('SIGINT'), 1000);
        }
      },
    );
    expect(stderr).toContain('interrupted');
    expect(code).toBe(130);
    const report = readReport();
    expect(report.interrupted).toBe(true);
    expect(report.failures).toEqual([]);
    expect(sum(report.outcomes)).toBe(report.migrations);
    expect(stdout).toContain(`${report.migrations} migrations of`);
  },
  TIMEOUT_MS,
);

it.each([
  [['--faults', 'lightning'], /"lightning" is none of driver-hangs/],
  [['--faults', 'link-cuts'], /no "link-cuts" with --transport memory/],
  [['--transport', 'tcp', '--faults', 'reply-lost'], /no "reply-lost" with --transport tcp/],
  [['--transport', 'pigeon'], /Allowed choices are memory, tcp/],
  [['--seconds', '0'], /whole number from 1/],
  [['--seconds', '5', '--migrations', '5'], /cannot be used with/],
  [['--case', '3..1'], /the first and the last as in 17\.\.20/],
  [['--seed', '-1'], /whole number from 0/],
  [['--jobs', 'many'], /whole number from 1/],
  [['--migrations', '1', '--faults', 'none', '--json', '/no/such/folder/x.json'], /choose another file/],
])('wrong usage %j ends with exit code 2 and says what to do', async (args, message) => {
  const { code, stderr } = await runHere(folder, ['stress', ...args]);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

it('helps, with the faults, examples and exit codes', async () => {
  const { code, stdout } = await lacuna(['stress', '--help']);
  expect(code).toBe(0);
  for (const kind of FAULT_KINDS) {
    expect(stdout).toContain(`  ${kind} `);
  }
  expect(stdout).toContain('Examples:');
  expect(stdout).toContain('130 interrupted');
});

/** What stress does to threads, each by itself. */
describe('faults of threads', () => {
  let bench: Bench;
  beforeEach(() => {
    bench = new Bench();
  });
  afterEach(async () => {
    await bench.close();
  });

  const CHURN = { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 256 } as const;

  async function isWholeHere(guest: WorkerGuest): Promise<void> {
    await expect.poll(() => guest.running, { timeout: TIMEOUT_MS }).toBe(true);
    expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  }

  it('I8 a destination whose thread is ended is noticed at once, and the guest goes on at the source', async () => {
    const guest = await bench.guest({ workload: CHURN });
    const destination = await bench.destinationFor(guest);
    const source = await bench.migrate(guest, destination, {
      options: { bytesPerSecond: 200e6 },
      onEvent: ({ type }) => {
        if (type === 'session-issued') {
          void destination.kill();
        }
      },
    });
    expect(source.error).toMatchObject({
      code: 'DESTINATION_FAILED',
      message: 'the destination gave up: the destination thread ended',
    });
    await isWholeHere(guest);
  });

  it.each(['device-state', 'start'] as const)(
    'I8 a destination that refuses (%s) leaves the guest at the source, and never starts it',
    async (refuses) => {
      const guest = await bench.guest({ workload: CHURN });
      const destination = await WorkerDestination.prepare(
        guest,
        SharedGuestMemory.allocate(guest.memory.layout),
        { refuses },
      );
      const source = await bench.migrate(guest, destination);
      expect(source.error?.code).toBe('DESTINATION_FAILED');
      expect(source.error?.message).toContain('told to refuse');
      await isWholeHere(guest);
      await destination.close();
      expect(destination.guest.control.startedAt).toBe(0);
      await destination.guest.stop();
    },
  );

  it('a vCPU that is stuck fails the migration by its deadline, and goes on once it is not', async () => {
    const { pfnSpan } = new RamLayout(q35Blocks(32 * 1024 * 1024));
    const buffer = new SharedArrayBuffer(FaultBoard.byteLength(pfnSpan));
    const board = new FaultBoard(atomicMapper, buffer, pfnSpan);
    const guest = await bench.guest({ workload: CHURN, faults: buffer });
    const destination = await bench.destinationFor(guest);
    board.arm({ name: 'stuck', amount: 0, ms: 0, seed: 1 });
    await expect.poll(() => board.injected('stuck'), { timeout: TIMEOUT_MS }).toBe(1);
    const source = await bench.migrate(guest, destination, {
      options: { pauseTimeoutMs: 30, hintTimeoutMs: 20 },
    });
    expect(source.error?.code).toBe('VCPU_STUCK');
    board.disarm();
    const { pagesWritten } = guest.counters();
    await expect
      .poll(() => guest.counters().pagesWritten, { timeout: TIMEOUT_MS })
      .toBeGreaterThan(pagesWritten);
    await isWholeHere(guest);
  });

  it('threads of a pool are used again, by guests that have nothing to do with each other', async () => {
    const threads = new ThreadPool();
    const started: Worker[] = [];
    const noteStart = (worker: Worker): void => void started.push(worker);
    process.on('worker', noteStart);
    onTestFinished(() => void process.off('worker', noteStart));
    const live = (): Worker[] => started.filter(({ threadId }) => threadId !== -1);
    const small = await bench.guest({ threads, image: { memoryBytes: 8 * 1024 * 1024 } });
    expect(await small.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
    const before = live();
    expect(before).not.toEqual([]);
    await small.stop();
    const large = await bench.guest({ threads, seed: 2, workload: CHURN });
    expect(live()).toEqual(before);
    await isWholeHere(large);
    // One that was ended by force is not used again.
    await large.kill();
    expect(live()).toHaveLength(before.length - 1);
    const next = await bench.guest({ threads, workload: CHURN });
    await isWholeHere(next);
    await next.stop();
    await threads.close();
    expect(live()).toEqual([]);
  });
});
