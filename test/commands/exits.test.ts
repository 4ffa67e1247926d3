import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ExitsReport, ExitsRun } from '../../dist/src/cli/exits/report.js';
import { type CliOptions, type CliResult, runCli, runHere } from '../support/cli.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-exits-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function exits(args: string[], onStderr?: CliOptions['onStderr']): Promise<CliResult> {
  return runCli(folder, ['exits', ...args], { onStderr });
}

function readReport(): ExitsReport {
  return JSON.parse(readFileSync(join(folder, 'exits.json'), 'utf8')) as ExitsReport;
}

function totalOf({ path }: ExitsRun): number {
  return path.reads + path.acknowledgements;
}

it('counts what the formula says, for 1 to 8 features, in guests that run', async () => {
  const { code, stdout } = await exits(['--requests', '3', '--json', 'exits.json', '--quiet']);
  expect(code).toBe(0);
  const report = readReport();
  expect(report.schema).toBe(1);
  expect(report.command).toContain('lacuna exits');
  // 7 mixes, two of which need two features, by 8 numbers of features, by 4 designs.
  expect(report.runs).toHaveLength((7 * 8 - 2) * 4);
  for (const run of report.runs) {
    expect(run).toMatchObject({ agrees: true, path: run.expected });
    // Each resize is answered once, whatever the design; nothing else is written.
    expect(run.actualWrites).toBe(run.requestsByKind.balloon);
    expect(run.exits.reporting.configWrites).toBe(0);
    expect(run.exits.other.configWrites).toBe(0);
    expect(run.exits.other.kicks).toBe(0);
    expect(run.kicks.aReport?.min ?? 1).toBeGreaterThanOrEqual(1);
    expect(run.rangesPerReport?.min ?? 1000).toBeGreaterThanOrEqual(1000);
  }
  // A balloon request alone: 3 exits with the command register, and one for each feature by polling.
  const balloon = (design: ExitsRun['design']): number[] =>
    report.runs
      .filter((run) => run.mix === 'balloon' && run.design === design)
      .map((run) => totalOf(run) / run.requests);
  expect(balloon('command-register')).toEqual([3, 3, 3, 3, 3, 3, 3, 3]);
  expect(balloon('read-to-clear')).toEqual([2, 2, 2, 2, 2, 2, 2, 2]);
  expect(balloon('polling')).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(balloon('register-and-polling')).toEqual([3, 4, 5, 6, 7, 8, 9, 10]);
  expect(
    report.breakEven.find(
      ({ mix, design, against }) =>
        mix === 'balloon' && design === 'command-register' && against === 'polling',
    ),
  ).toMatchObject({ ties: [3], cheaperFrom: 4 });
  expect(stdout).toContain('from 4 on, as many at 3');
  expect(stdout).toContain('2.99 (command register)');
});

it('requests that are pending together share one read and one acknowledgement', async () => {
  const { code } = await exits([
    '--mix',
    'all-at-once',
    '--features',
    '8',
    '--json',
    'exits.json',
    '--quiet',
  ]);
  expect(code).toBe(0);
  for (const run of readReport().runs) {
    expect(run.requests).toBe(run.interrupts * 8);
    expect(run.byKind).toEqual({});
    if (run.design === 'command-register') {
      expect(run.exits.shared).toEqual({
        configReads: run.interrupts,
        configWrites: run.interrupts,
        kicks: 0,
      });
    }
  }
});

it('draws a chart', async () => {
  const { code } = await exits([
    ...['--mix', 'balloon,all-at-once', '--features', '1,2,4', '--requests', '4'],
    ...['--svg', 'exits.svg', '--quiet'],
  ]);
  expect(code).toBe(0);
  const svg = readFileSync(join(folder, 'exits.svg'), 'utf8');
  expect(svg).toContain('command register, balloon: 3, 3, 3.');
  expect(svg).toContain('polling, balloon: 1, 2, 4.');
  expect(svg).toContain('polling, all-at-once: 1, 1, 1.');
});

it.each([
  [['--features', '9'], /whole number from 1 to 8/i],
  [['--features', '3-1'], /1-8/],
  [['--mix', 'mails'], /"mails" is none of balloon/],
  [['--design', 'x'], /none of command-register/],
  [['--requests', '0'], /whole number/i],
  [['--mix', 'mail', '--features', '1'], /needs? .*2 features/],
])('%j is refused with exit code 2', async (args, message) => {
  const { code, stderr } = await runHere(folder, ['exits', ...args]);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

it('a report that can’t be written is said to be so, with exit code 2', async () => {
  const few = ['--mix', 'balloon', '--features', '1', '--requests', '1', '--quiet'];
  for (const option of ['--json', '--svg']) {
    const { code, stderr } = await runHere(folder, ['exits', ...few, option, 'nowhere/file']);
    expect(stderr).toContain('choose another file');
    expect(code).toBe(2);
  }
});

it('SIGINT ends it: exit code 130, and what was measured until then', async () => {
  const args = ['--mix', 'balloon,reports', '--features', '1', '--requests', '1000', '--json', 'exits.json'];
  const { code, stderr } = await exits(args, (text, kill) => {
    if (text.includes('balloon: 4 runs')) {
      kill('SIGINT');
    }
  });
  expect(stderr).toContain('interrupted');
  expect(code).toBe(130);
  const { runs } = readReport();
  expect(runs.length).toBeGreaterThanOrEqual(4);
  expect(runs.length).toBeLessThan(8);
});

it('helps, with mixes, designs and exit codes', async () => {
  const { code, stdout } = await exits(['--help']);
  expect(code).toBe(0);
  for (const word of ['all-at-once', 'register-and-polling', 'Examples:', '130 interrupted']) {
    expect(stdout).toContain(word);
  }
});
