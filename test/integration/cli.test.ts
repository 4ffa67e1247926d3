import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { BenchReport } from '../../dist/src/index.js';

const CLI = resolve('dist/src/cli/main.js');
const BUILD_2G = resolve('bench/guests/build-2g');
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-cli-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command in a folder of its own. `onStderr` sees each line as it comes. */
function lacuna(
  args: string[],
  onStderr: (line: string, kill: (signal: NodeJS.Signals) => void) => void = () => {},
): Promise<Result> {
  const child = spawn(process.execPath, [CLI, ...args], {
    cwd: folder,
    env: { ...process.env, NO_COLOR: '1' },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
    for (const line of chunk.toString().split('\n')) {
      onStderr(line, (signal) => child.kill(signal));
    }
  });
  return new Promise((done) => {
    child.on('close', (code) => done({ code, stdout, stderr }));
  });
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
  const { code, stdout } = await lacuna([
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
  const { code, stdout } = await lacuna([...SMALL, '--page-poison', '0xaa', '--baseline', 'zero,both']);
  expect(code).toBe(0);
  expect(stdout).toContain('0xaaaaaaaa');
  const [zero, both] = readReport().runs;
  expect(both).toMatchObject({ initOnAlloc: false, pagePoison: 0xaaaa_aaaa });
  expect(zero!.ram.duplicate).toBeLessThan(200);
  expect(both!.ram.filled).toBe(both!.hints.applied);
  expect(both!.verified).toMatchObject({ pagesDifferent: 0, guestSelfCheck: 'passed' });
});

it.each([
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
  [['bench', '--guest', 'trace-build-2g'], /kpageflags\.bin\.gz is missing/],
  [['bench', '--no-such-option'], /unknown option/],
  [['no-such-command'], /unknown command/],
])('wrong usage %j ends with exit code 2 and says what to do', async (args, message) => {
  const { code, stdout, stderr } = await lacuna(args);
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
  const { code, stderr } = await lacuna(['bench', '--guest', './capture']);
  expect(stderr).toMatch(message);
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
  const { code, stdout } = await lacuna(['bench', '--help']);
  expect(code).toBe(0);
  expect(stdout).toContain('Examples:');
  expect(stdout).toContain('130 interrupted');
});
