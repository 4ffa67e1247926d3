import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { BenchReport } from '../../dist/src/index.js';
import { type CliOptions, type CliResult, runCli, runHere } from '../support/cli.js';
import { busyTrace } from '../support/made-up-trace.js';

const BUILD_2G = resolve('bench/guests/build-2g');
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-cli-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function lacuna(args: string[], onStderr?: CliOptions['onStderr']): Promise<CliResult> {
  return runCli(folder, args, { onStderr });
}

/** In this process: what is to be seen is in the report. */
function here(args: readonly string[]): Promise<CliResult> {
  return runHere(folder, args);
}

function readReport(name = 'report.json'): BenchReport {
  return JSON.parse(readFileSync(join(folder, name), 'utf8')) as BenchReport;
}

const SMALL = ['bench', '--memory', '16MiB', '--runs', '1', '--link', '1gbit'];

it('runs a benchmark, prints a table and writes the report', async () => {
  const { code, stdout, stderr } = await lacuna(SMALL);
  expect(stderr.match(/verified/g)).toHaveLength(4);
  expect(code).toBe(0);
  for (const baseline of ['none', 'zero', 'hints', 'both']) {
    expect(stdout).toMatch(new RegExp(`│ ${baseline} .*│ yes`));
  }
  expect(stdout + stderr).not.toContain('\u001b'); // no colours without a terminal
  const report = readReport();
  expect(report.schema).toBe(1);
  expect(report.machine.cores).toBeGreaterThan(0);
  expect(report.summary).toHaveLength(4);
  expect(report.runs.map(({ baseline }) => baseline)).toEqual(['none', 'zero', 'hints', 'both']);
  for (const run of report.runs) {
    expect(run).toMatchObject({
      status: 'completed',
      error: null,
      guest: 'synthetic-16m',
      memoryBytes: 16 * 1024 * 1024,
      dialect: 'command-register',
      transport: 'memory',
      link: '1gbit',
      verified: { pagesCompared: 4096, pagesDifferent: 0, guestSelfCheck: 'passed' },
    });
    expect(run['total-time']).toBeGreaterThan(0);
    expect(run.downtime).toBeGreaterThan(0);
    for (const round of run.rounds) {
      expect(round.sent + round.zero + round.filled + round.skipped + round.carried + round.cancelled).toBe(
        round.pending,
      );
    }
    const hinted = run.baseline === 'hints' || run.baseline === 'both';
    expect(run.hints.sessions).toHaveLength(hinted ? 1 : 0);
    expect(run.exits.byFeature.shared.configReads > 0).toBe(hinted);
    // None of a run's numbers is a NaN that JSON has turned into null.
    expect(Object.values(run.ram).every((value) => typeof value === 'number')).toBe(true);
  }
});

it('says nothing but the table when it is told to be quiet', async () => {
  const { code, stderr } = await lacuna([...SMALL, '--baseline', 'both', '--quiet', '--json', 'mine.json']);
  expect(code).toBe(0);
  expect(stderr).toBe('');
  expect(readReport('mine.json').runs).toHaveLength(1);
});

it('measures a guest that holds and zeroes what it reports, with the old data back in its free memory', async () => {
  const { code, stdout } = await here([
    ...[...SMALL, '--report-mode', 'hold', '--init-on-alloc', '--free-memory', 'data'],
    ...['--baseline', 'zero,hints', '--schedule', 'wait'],
  ]);
  expect(code).toBe(0);
  expect(stdout).toContain('zeroes every page that it allocates');
  const [zero, hints] = readReport().runs;
  expect(zero).toMatchObject({ reportMode: 'hold', initOnAlloc: true, pagePoison: null });
  expect(zero!.ram.duplicate).toBeLessThan(200); // rehearsed reports have zeroed some 1800 pages
  expect(hints!.hints.applied).toBeGreaterThan(1500);
  expect(hints!.hints.reDirtied).toBe(hints!.hints.applied);
});

it('measures a guest that poisons what it frees', async () => {
  const { code, stdout } = await here([...SMALL, '--page-poison', '0xaa', '--baseline', 'zero,both']);
  expect(code).toBe(0);
  expect(stdout).toContain('0xaaaaaaaa');
  const [zero, both] = readReport().runs;
  expect(both).toMatchObject({ initOnAlloc: false, pagePoison: 0xaaaa_aaaa });
  expect(zero!.ram.duplicate).toBeLessThan(200);
  expect(both!.ram.filled).toBe(both!.hints.applied);
  expect(both!.verified).toMatchObject({ pagesDifferent: 0, guestSelfCheck: 'passed' });
});

it('measures a guest that speaks VIRTIO’s dialect, and says so', async () => {
  const args = [...SMALL, '--dialect', 'virtio', '--report-mode', 'hold', '--baseline', 'none,hints'];
  const { code, stdout } = await here([...args, '--schedule', 'wait']);
  expect(code).toBe(0);
  expect(stdout).toContain("the guest's balloon driver speaks the dialect virtio");
  const [none, hints] = readReport().runs;
  expect(none).toMatchObject({ dialect: 'virtio', hints: { sessions: [] } });
  // As many as without the reports that were rehearsed: what was held for them has come back.
  expect(hints!.hints.applied).toBeGreaterThan(1500);
  expect(hints!.exits.byFeature.shared).toEqual({ configReads: 0, configWrites: 0, kicks: 0 });
  expect(hints!.exits.byFeature.reporting.configReads).toBeGreaterThan(0);
  expect(hints!.verified).toMatchObject({ pagesDifferent: 0, guestSelfCheck: 'passed' });
  expect((await here(['report', 'show', 'report.json'])).code).toBe(0);
});

it.each([
  [['bench', '--dialect', 'xen'], /Allowed choices are command-register, virtio/],
  [['bench', '--page-poison', '0xgg'], /A byte or 32 bits/],
  [['bench', '--guest', 'no-such-guest'], /no guest "no-such-guest".*build-2g/],
  [['bench', '--memory', '100'], /at least 8MiB/],
  [['bench', '--memory', '900GiB', '--runs', '1'], /MiB are available/],
  [['bench', '--link', 'fast'], /A rate is/],
  [['bench', '--runs', '0'], /whole number from 1/],
  [['bench', '--baseline', 'none,some'], /"some" is none of/],
  [['bench', '--min-order', '11'], /from 0 to 10/],
  [['bench', '--workload', 'dirty:often'], /A rate is/],
  [['bench', '--schedule', 'never'], /wait, overlap, adaptive/],
  [['bench', '--guest', 'trace-build-2g', '--at', '61'], /goes from 0 to 60\.265 s: there is no 61 s/],
  [['bench', '--guest', 'trace-build-2g', '--at', 'soon'], /A time in seconds/],
  [['bench', '--guest', 'trace-build-2g', '--trace-speed', '0'], /A factor above 0/],
  [['bench', '--guest', 'trace-build-2g', '--workload', 'halt'], /does what its trace says/],
  [['bench', '--guest', 'build-2g', '--at', '20'], /for a guest in time.*trace-build-2g/],
  [['bench', '--no-such-option'], /unknown option/],
  [['no-such-command'], /unknown command/],
])('wrong usage %j ends with exit code 2 and says what to do', async (args, message) => {
  const { code, stdout, stderr } = await here(args);
  expect(stderr).toMatch(message);
  expect(stdout).toBe('');
  expect(code).toBe(2);
});

it.each([
  [
    'a truncated file',
    (path: string) =>
      writeFileSync(join(path, 'zero.bin.gz'), readFileSync(join(path, 'zero.bin.gz')).subarray(0, 100)),
    /zero\.bin\.gz can't be read/,
  ],
  [
    'a file that is not gzip',
    (path: string) => writeFileSync(join(path, 'kpageflags.bin.gz'), 'text'),
    /kpageflags\.bin\.gz can't be read/,
  ],
  [
    'a meta.json that is not JSON',
    (path: string) => writeFileSync(join(path, 'meta.json'), '{'),
    /meta\.json can't be read/,
  ],
  [
    'a meta.json without a field',
    (path: string) => writeFileSync(join(path, 'meta.json'), '{"name": "x"}'),
    /memoryBytes/,
  ],
])('a capture with %s ends with exit code 2 and names the file', async (_what, damage, message) => {
  const capture = join(folder, 'capture');
  cpSync(BUILD_2G, capture, { recursive: true });
  damage(capture);
  const { code, stderr } = await here(['bench', '--guest', './capture']);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

it('replays a trace of a folder, and says in the report where in it the guest was', async () => {
  const { meta, records } = busyTrace({ pages: 4096, samples: 11, intervalMs: 1000, changes: 150 });
  const trace = join(folder, 'trace');
  mkdirSync(trace);
  writeFileSync(join(trace, 'meta.json'), JSON.stringify(meta));
  writeFileSync(join(trace, 'trace.bin.gz'), gzipSync(records));
  const args = ['bench', '--guest', './trace', '--at', '1.5', '--trace-speed', '2', '--runs', '1'];
  const { code, stderr } = await here([...args, '--baseline', 'both', '--free-memory', 'data']);
  expect(stderr).toContain('verified');
  expect(code).toBe(0);
  const [run] = readReport().runs;
  expect(run).toMatchObject({
    guest: 'made-up',
    workload: 'made-up at 1.5 s ×2',
    verified: { pagesDifferent: 0 },
  });
  expect(run!.replay).toMatchObject({ speed: 2, ended: false });
  expect(run!.replay!.beganAt).toBeGreaterThanOrEqual(1500);
  expect(run!.replay!.stoppedAt).toBeGreaterThanOrEqual(run!.replay!.beganAt);
  expect(run!.guestWork.askedPagesPerSecond).toBeGreaterThan(0);
  // A guest that has come to the end of its trace halts, and is a guest like any other.
  const last = meta.samples.at(-1)!.tMs;
  const end = await here([
    ...args.slice(0, 3),
    '--at',
    String(last / 1000),
    '--runs',
    '1',
    '--baseline',
    'both',
    '--quiet',
  ]);
  expect(end.code).toBe(0);
  expect(readReport().runs[0]!.replay).toMatchObject({ beganAt: last, stoppedAt: last, ended: true });
});

it.each([
  [
    'records that are larger than its meta.json says',
    (path: string) => writeFileSync(join(path, 'trace.bin.gz'), gzipSync(new Uint8Array(20_000_000))),
    /trace\.bin\.gz can't be read/,
  ],
  [
    'records that are cut off',
    (path: string) => writeFileSync(join(path, 'trace.bin.gz'), gzipSync(new Uint8Array(1000))),
    /the trace has 1000 bytes/,
  ],
  [
    'a meta.json without samples',
    (path: string) => writeFileSync(join(path, 'meta.json'), '{"name": "x"}'),
    /samples/,
  ],
])('a trace with %s ends with exit code 2 and says what is wrong', async (_what, damage, message) => {
  const trace = join(folder, 'trace');
  cpSync(resolve('bench/guests/trace-build-2g'), trace, { recursive: true });
  damage(trace);
  const { code, stderr } = await here(['bench', '--guest', './trace']);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

it.each(['tcp', 'tls'])(
  'moves a guest to another process over %s, and compares every page',
  async (transport) => {
    const args = [
      'bench',
      '--memory',
      '16MiB',
      '--runs',
      '1',
      '--baseline',
      'both',
      '--transport',
      transport,
    ];
    const { code, stdout, stderr } = await here([...args, '--link', 'unlimited', '--free-memory', 'data']);
    expect(stderr).toMatch(/1\/1 synthetic-16m both: completed in .*, verified/);
    expect(code).toBe(0);
    expect(stdout).toContain(`over ${transport} to another process`);
    const { runs, plan } = readReport();
    expect(plan.settings).toMatchObject({ transport });
    expect(runs).toHaveLength(1);
    const [run] = runs;
    expect(run).toMatchObject({
      transport,
      verified: { pagesCompared: 4096, pagesDifferent: 0, guestSelfCheck: 'passed' },
    });
    // What was skipped, and held data, is zero there.
    expect(run!.ram.skipped).toBeGreaterThan(1000);
    expect(run!.verified.pagesLeftBehind).toBe(run!.ram.skipped);
    expect(run!.cpu.destination).toBeGreaterThan(0);
  },
);

it('a guest whose memory is not all there is for this process alone', async () => {
  const args = ['bench', '--guest', 'build-2g', '--grow-to', '4GiB', '--transport', 'tcp', '--runs', '1'];
  const { code, stderr } = await here(args);
  expect(stderr).toMatch(/use --transport memory/);
  expect(code).toBe(2);
});

it('SIGINT calls the migration off: exit code 130, and the runs so far in the report', async () => {
  const { code, stderr } = await lacuna(
    ['bench', '--memory', '16MiB', '--runs', '1000', '--baseline', 'both', '--link', '1gbit'],
    (line, kill) => {
      if (line.includes('2/1000')) {
        kill('SIGINT');
      }
    },
  );
  expect(stderr).toContain('interrupted');
  expect(code).toBe(130);
  const { runs } = readReport();
  expect(runs.length).toBeGreaterThanOrEqual(2);
  expect(runs.length).toBeLessThan(1000);
});

it('helps, with examples and exit codes', async () => {
  const { code, stdout } = await here(['bench', '--help']);
  expect(code).toBe(0);
  expect(stdout).toContain('Examples:');
  expect(stdout).toContain('130 interrupted');
});
