import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { loadCapture } from '../../dist/src/cli/captures.js';
import type { EstimateReport } from '../../dist/src/cli/estimate/report.js';
import { type CliResult, runCli, runHere } from '../support/cli.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-estimate-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function lacuna(args: string[], input?: Uint8Array): Promise<CliResult> {
  // In this process, but for what comes by its standard input.
  return input === undefined ? runHere(folder, args) : runCli(folder, args, { input });
}

function readReport(name: string): EstimateReport {
  return JSON.parse(readFileSync(join(folder, name), 'utf8')) as EstimateReport;
}

it('prints what a capture is worth and writes it as JSON', async () => {
  const { code, stdout, stderr } = await lacuna([
    'estimate',
    'fragmented-2g',
    '--zero-scan',
    '8GB/s',
    '--quiet',
    '--json',
    'estimate.json',
  ]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  expect(stdout).toMatch(/│ free +│ 325092 │/);
  expect(stdout).toMatch(/│ +10 \(Linux\) │ +4 MiB │ +4\.0 │ +0\.3 % │/);
  expect(stdout).toMatch(/│ hints, from order 0 +│/);
  const report = readReport('estimate.json');
  expect(report).toMatchObject({
    schema: 1,
    command: expect.stringContaining('lacuna estimate fragmented-2g') as string,
    source: { name: 'fragmented-2g', kind: 'capture', ramFrom: 'meta.json', zeroPages: 'captured' },
    memory: { bytes: 2 ** 31, freeRuns: 62_936 },
    assumed: { link: '10gbit', linkBytesPerSecond: 1.25e9, zeroScanBytesPerSecond: 8e9, zeroScan: 'given' },
  });
  expect(report.machine.cores).toBeGreaterThan(0);
  expect(report.memory.orders).toHaveLength(11);
  expect(report.predictions.map(({ baseline, minOrder }) => [baseline, minOrder])).toEqual([
    ['none', null],
    ['zero', null],
    ['hints', 0],
    ['both', 0],
    ['hints', 10],
    ['both', 10],
  ]);
  const [none, , hints, , linux] = report.predictions;
  expect(hints!.timeSaved).toBeGreaterThan(0.5);
  expect(linux!.timeSaved).toBeLessThan(0.01); // Linux reports 0.3 % of what is free here
  expect(none!.transferred - hints!.transferred).toBe(hints!.bytesSaved);
  expect(report).not.toHaveProperty('checks');
});

it('has no times on a link that limits nothing, and says why', async () => {
  const { code, stdout } = await lacuna(['estimate', 'build-2g', '--link', 'unlimited', '--json', 'a.json']);
  expect(code).toBe(0);
  expect(stdout).toMatch(/No times: .*lacuna bench --link unlimited/);
  const report = readReport('a.json');
  expect(report.predictions.every((one) => one['total-time'] === null && one.timeSaved === null)).toBe(true);
  expect(report.assumed.linkBytesPerSecond).toBeNull();
});

it('reads flags from standard input', async () => {
  const words = Array.from({ length: 4096 }, (_, pfn) => (pfn % 4 === 0 ? 0x68n : 1n << 10n));
  const flags = new Uint8Array(new BigUint64Array(words).buffer);
  const { code, stdout } = await lacuna(['estimate', '-', '--json', 'a.json'], flags);
  expect(code).toBe(0);
  expect(stdout).toMatch(/all free memory zero, and all of it old data/);
  expect(readReport('a.json')).toMatchObject({
    source: { kind: 'flags', ramFrom: 'flags', zeroPages: 'unknown' },
    memory: { use: { pages: 4096, free: 3072 } },
  });
});

/** Whether this machine's flags can be read: as root, outside most containers. */
function flagsAreReadable(): boolean {
  try {
    closeSync(openSync('/proc/kpageflags', 'r'));
    return true;
  } catch {
    return false;
  }
}

it.runIf(flagsAreReadable())('records this machine, and reads the record back', async () => {
  const made = await lacuna(['capture', 'mine']);
  expect(made.stderr).toBe('');
  expect(made.code).toBe(0);
  const image = loadCapture(join(folder, 'mine'));
  const free = new Uint32Array(image.free).filter((word) => word !== 0).length;
  expect(free).toBeGreaterThan(0);
  expect(image.zeroUnknown).toBe(true);
  const { code } = await lacuna(['estimate', 'mine', '--zero-scan', '8GB/s', '--json', 'a.json']);
  expect(code).toBe(0);
  const report = readReport('a.json');
  expect(report.source).toMatchObject({ name: 'mine', kind: 'capture', zeroPages: 'unknown' });
  // The kernel takes some of RAM for itself before it counts; what it counts is less, and not by much.
  const memTotal = 1024 * Number(/MemTotal:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))![1]);
  expect(report.memory.bytes).toBeGreaterThan(memTotal);
  expect(report.memory.bytes).toBeLessThan(1.2 * memTotal);
  const again = await lacuna(['capture', 'mine']);
  expect(again.stderr).toMatch(/has a capture in it already.*--force/);
  expect(again.code).toBe(2);
});

it.each([
  [['estimate', 'no-such-file'], /no file "no-such-file".*build-2g/],
  [['estimate', 'trace-build-2g'], /no file "trace-build-2g"/],
  [['estimate', 'odd'], /odd: 13 bytes are no whole number of 8-byte words/],
  [['estimate', 'build-2g', '--link', 'fast'], /A rate is/],
  [['estimate', 'build-2g', '--min-order', '11'], /from 0 to 10/],
  [['estimate', 'build-2g', '--zero-scan', 'quick'], /A rate is/],
  [['estimate', 'build-2g', '--check', '0'], /whole number from 1/],
  [['estimate', 'build-2g', '--json', 'no/such/folder.json'], /choose another file/],
  [['estimate', '--proc', 'nowhere'], /nowhere\/kpageflags is not there.*CONFIG_PROC_PAGE_MONITOR/],
  [['capture'], /missing required argument/],
  [['capture', 'mine', '--proc', 'nowhere'], /is not there/],
  [['capture', 'odd', '--proc', '.'], /can't be written/],
])('%j ends with exit code 2 and says what to do', async (args, message) => {
  writeFileSync(join(folder, 'odd'), new Uint8Array(13));
  const { code, stderr } = await runHere(folder, args);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

it('--check migrates what it predicted, and sets the two side by side', async () => {
  const words = Array.from({ length: 8192 }, (_, pfn) => (pfn < 4096 || pfn % 4 === 0 ? 0x68n : 1n << 10n));
  writeFileSync(join(folder, 'flags'), new Uint8Array(new BigUint64Array(words).buffer));
  const { code, stdout, stderr } = await lacuna([
    ...['estimate', 'flags', '--min-order', '10', '--check', '2', '--json', 'a.json'],
  ]);
  expect(code).toBe(0);
  expect(stderr.match(/, verified/g)).toHaveLength(12);
  expect(stdout).toMatch(/│ hints, from order 10[^│]*│ [^│]+│ [^│]+│ +[+−][\d.]+ % │/);
  const { checks, predictions } = readReport('a.json');
  expect(checks!.map(({ predicted }) => predicted)).toEqual(predictions);
  for (const { runs, predicted, timeError, bytesError, ...measured } of checks!) {
    expect(runs.map(({ baseline }) => baseline)).toEqual([predicted.baseline, predicted.baseline]);
    expect(measured.transferred).toBe((runs[0]!.ram.transferred + runs[1]!.ram.transferred) / 2);
    expect(bytesError).toBeCloseTo(predicted.transferred / measured.transferred - 1, 12);
    expect(timeError).toBeCloseTo(predicted['total-time']! / measured['total-time'] - 1, 12);
  }
});
