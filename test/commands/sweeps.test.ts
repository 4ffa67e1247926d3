import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BenchReport } from '../../dist/src/index.js';
import { type CliResult, runHere, runProcess } from '../support/cli.js';
import { planRequest, reportFor } from '../support/reports.js';

/** Generous: a slow machine fails nothing here. */
const TIMEOUT_MS = 300_000;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-sweeps-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** In this process: what is to be seen is in the reports. */
function lacuna(args: readonly string[]): Promise<CliResult> {
  return runHere(folder, args);
}

function readReport(name: string): BenchReport {
  return JSON.parse(readFileSync(join(folder, name), 'utf8')) as BenchReport;
}

/**
 * Fields that are times, or follow from times: what a merged report may have different from one that was made at
 * once. Exits: a guest that is late sees two requests in one interrupt. Bytes: in the device state are times too.
 */
const TIMES = new Set([
  ...['createdAt', 'command', 'parts'],
  ...['total-time', 'downtime', 'setup-time', 'mbps', 'start', 'ms', 'cpu', 'eventLoop', 'pagesPerSecond'],
  ...['to-start', 'to-first-range', 'to-stop', 'to-close', 'hintTime', 'timeSaved', 'overLink'],
  ...['exits', 'transferred', 'requested', 'timeline'],
]);

function withoutTimes(report: BenchReport): unknown {
  return JSON.parse(
    JSON.stringify(report, (key, value: unknown) => (TIMES.has(key) ? undefined : value)),
  ) as unknown;
}

/** A guest that stands still, and a host that sends nothing before its report has ended: the counts are the same each time. */
const STILL = ['--memory', '16MiB', '--runs', '1', '--workload', 'halt', '--schedule', 'wait', '--quiet'];
const SWEEP = ['bench', '--sweep', 'min-order', '--values', '0,3,6,8,9,10', '--link', 'unlimited', ...STILL];

it(
  'four shards, merged, are the unsharded run in everything but times',
  async () => {
    expect(await lacuna([...SWEEP, '--json', 'whole.json'])).toMatchObject({ code: 0, stderr: '' });
    const files = ['3', '1', '4', '2'].map((shard) => `part-${shard}.json`);
    for (const file of files) {
      const shard = `${file.slice(5, 6)}/4`;
      expect(await lacuna([...SWEEP, '--shard', shard, '--json', file])).toMatchObject({
        code: 0,
        stderr: '',
      });
    }
    const merge = ['report', 'merge', ...files, '--json', 'merged.json', '--svg', 'merged.svg'];
    const { code, stdout, stderr } = await lacuna(merge);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/any │ none +│.*\n.* 0 │ hints +│/);

    const [whole, merged] = [readReport('whole.json'), readReport('merged.json')];
    expect(withoutTimes(merged)).toEqual(withoutTimes(whole));
    // What was compared is worth it: plan, places and counts are there, and are not all the same.
    expect(whole.runs).toHaveLength(6 + 2);
    const hinted = whole.runs.filter(({ baseline }) => baseline === 'hints');
    expect(new Set(hinted.map(({ hints }) => hints.applied)).size).toBeGreaterThan(2);
    expect(hinted[0]!.hints.applied).toBe(hinted[0]!.freePages);
    expect(whole.runs.every(({ verified }) => verified.guestSelfCheck === 'passed')).toBe(true);
    expect(whole.sweep?.values.map(({ x }) => x)).toEqual([0, 3, 6, 8, 9, 10]);
    expect(merged.parts.map(({ shard, runs }) => [shard.index, runs])).toEqual([
      [1, 5],
      [2, 3],
      [3, 0],
      [4, 0],
    ]);
    expect(merged.command).toBe(`lacuna ${SWEEP.join(' ')} --json part-3.json`);
    expect(readFileSync(join(folder, 'merged.svg'), 'utf8')).toContain('Free ranges reported');

    const shown = await lacuna(['report', 'show', 'merged.json']);
    expect(shown).toMatchObject({ code: 0, stderr: '' });
    expect(stdout.startsWith(shown.stdout.trimEnd())).toBe(true);
  },
  TIMEOUT_MS,
);

it(
  'a plain benchmark is split by guests, and merges too',
  async () => {
    const guests = [
      'bench',
      '--memory',
      '16MiB',
      '--baseline',
      'both',
      '--runs',
      '1',
      '--quiet',
      '--link',
      '1gbit',
    ];
    for (const shard of ['1', '2']) {
      const { code, stdout } = await lacuna([...guests, '--shard', `${shard}/2`, '--json', `${shard}.json`]);
      expect(code).toBe(0);
      expect(stdout.includes('no runs')).toBe(shard === '2');
    }
    expect(readReport('2.json')).toMatchObject({
      runs: [],
      summary: [],
      plan: { runs: 1, shard: { index: 2, count: 2 } },
    });
    expect((await lacuna(['report', 'merge', '1.json', '2.json', '--json', 'all.json'])).code).toBe(0);
    expect(readReport('all.json').runs).toHaveLength(1);
  },
  TIMEOUT_MS,
);

it(
  'sweeps over guests that are made for each value, in memory for the largest, and draws them',
  async () => {
    const { code, stderr } = await lacuna(
      'bench --sweep guest-size --values 16MiB,64MiB,32MiB --runs 1 --link 1gbit --svg sizes.svg'.split(' '),
    );
    expect(code).toBe(0);
    expect(stderr).toMatch(/^plan: 6 runs in 3 groups; guest-size at 16MiB, 64MiB, 32MiB; 0\.1 GiB/);
    expect(stderr).toMatch(/3\/6 synthetic-64m none, guest size 64MiB: completed/);
    expect(readReport('report.json').runs.map(({ guest, point }) => [guest, point.value])).toEqual(
      ['16', '16', '64', '64', '32', '32'].map((size) => [`synthetic-${size}m`, `${size}MiB`]),
    );
    expect(readFileSync(join(folder, 'sizes.svg'), 'utf8')).toContain('<title>made-up</title>');
  },
  TIMEOUT_MS,
);

it('shows a plan and runs nothing', async () => {
  const { code, stdout, stderr } = await lacuna([...SWEEP, '--shard', '2/2', '--dry-run']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatch(/1 │ synthetic-16m │ 9, 10 +│ none, hints │ +3/);
  expect(stdout).toMatch(/plan: 3 runs in 1 group; .*; shard 2\/2 of 8 runs/);
  expect(readdirSync(folder)).toEqual([]);
});

it.each([
  [['--sweep', 'moon-phase'], /min-order, guest-size, free-share/],
  [['--sweep', 'min-order', '--values', '0,eleven'], /--values: "eleven" is no min-order\. A whole number/],
  [
    ['--sweep', 'min-order', '--min-order', '3'],
    /--min-order can't be given beside --sweep min-order.*--values/,
  ],
  [['--sweep', 'guest-size', '--guest', 'build-2g'], /--guest can't be given beside --sweep guest-size/],
  [['--sweep', 'guest-size', '--memory', '1GiB'], /--memory can't be given beside/],
  [['--sweep', 'schedule', '--baseline', 'none'], /changes nothing without hints/],
  [['--values', '1,2'], /--values is of a sweep/],
  [['--svg', 'a.svg'], /--svg is of a sweep/],
  [['--shard', '0/4'], /from 1: 1\/4/],
  [['--shard', '5/4'], /from 1: 1\/4/],
])('wrong usage of bench %j ends with exit code 2 and says what to do', async (args, message) => {
  const { code, stdout, stderr } = await lacuna(['bench', ...args, '--dry-run']);
  expect(stderr).toMatch(message);
  expect(stdout).toBe('');
  expect(code).toBe(2);
});

describe('lacuna report', () => {
  const asked = planRequest({ sweep: 'min-order', values: ['0', '5', '8', '9', '10'] });

  function write(name: string, report: object): void {
    writeFileSync(join(folder, name), JSON.stringify(report));
  }

  beforeEach(() => {
    write('1.json', reportFor(asked, { index: 1, count: 2 }));
    write('2.json', reportFor(asked, { index: 2, count: 2 }));
    write('seed.json', reportFor({ ...asked, seed: 5 }, { index: 2, count: 2 }));
    write('plain.json', reportFor(planRequest()));
    write('stress.json', { schema: 1, kind: 'stress' });
    writeFileSync(join(folder, 'cut.json'), '{"schema": 1,');
  });

  it.each([
    [['merge', '1.json', 'seed.json'], /seed is 1 in 1\.json and 5 in seed\.json/],
    [['merge', '1.json', '1.json'], /shard 1\/2 is in 1\.json and in 1\.json/],
    [['merge', '1.json', 'plain.json'], /not parts of one plan.*sweep is min-order in 1\.json and not set/],
    [['merge', '1.json', 'stress.json'], /stress\.json is no report of lacuna bench: createdAt/],
    [['merge', '1.json', 'cut.json'], /cut\.json is no report of lacuna bench/],
    [['merge', '1.json', 'none.json'], /none\.json.*no such file/],
    [['merge'], /missing required argument/],
    [['merge', '1.json', '2.json', '--json', '/no/such/folder/x.json'], /choose another file/],
    [['show', 'plain.json', '--svg', 'a.svg'], /--svg draws a sweep, and this report is of none/],
    [['show', 'cut.json'], /cut\.json is no report/],
    [['mend'], /unknown command/],
  ])('wrong usage %j ends with exit code 2 and says what to do', async (args, message) => {
    const { code, stderr } = await lacuna(['report', ...args]);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
  });

  it('a missing shard is told, and is exit code 1 unless that is allowed; the rest is merged', async () => {
    const { code, stderr } = await lacuna(['report', 'merge', '2.json', '--json', 'some.json']);
    expect(stderr).toMatch(
      /missing: shard 1\/2 is in none of the files\n.*10 of the plan's 14 runs are missing/,
    );
    expect(code).toBe(1);
    expect(readReport('some.json').runs).toHaveLength(4);
    expect((await lacuna(['report', 'merge', '2.json', '--allow-missing'])).code).toBe(0);
    expect((await lacuna(['report', 'merge', 'some.json', '1.json'])).code).toBe(0);
  });

  it('a run that was not verified is exit code 1', async () => {
    const { runs, ...rest } = reportFor(planRequest());
    write('bad.json', {
      ...rest,
      runs: runs.map((run) => ({ ...run, verified: { ...run.verified, pagesDifferent: 1 } })),
    });
    const { code, stdout } = await lacuna(['report', 'show', 'bad.json']);
    expect(stdout).toContain('│ NO');
    expect(code).toBe(1);
  });

  it('helps', async () => {
    const { code, stdout } = await lacuna(['report', 'merge', '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('--shard 1/2');
    expect(stdout).toContain('Exit codes:');
  });
});

/** Commands in the examples run as they stand there, in a shell, with what their scheduler would have set. */
describe('the examples', () => {
  const EXAMPLES = resolve('examples/sweeps');
  const SHARDS = [1, 2, 3, 4];
  const MANIFESTS: Record<string, (shard: number) => Record<string, string>> = {
    'github-actions.yml': () => ({}),
    'kubernetes-job.yaml': (shard) => ({ JOB_COMPLETION_INDEX: String(shard - 1) }),
    'slurm-array.sh': (shard) => ({ SLURM_ARRAY_TASK_ID: String(shard), SLURM_ARRAY_TASK_COUNT: '4' }),
  };

  /** The two lines of a manifest that call lacuna, continued lines joined, with what its scheduler puts into them. */
  function commandsIn(name: string, shard: number): { bench: string; merge: string } {
    const text = readFileSync(join(EXAMPLES, name), 'utf8')
      .replace(/\$\{\{ matrix\.shard \}\}/g, String(shard))
      .replaceAll('/reports/', './')
      .replace(/^ *#.*$/gm, '')
      .replace(/\\\n\s*/g, '');
    const commands = [...text.matchAll(/\blacuna (?:bench|report) [^\n']*/g)].map(([command]) => command);
    const bench = commands.filter((command) => command.startsWith('lacuna bench'));
    const merge = commands.filter((command) => command.startsWith('lacuna report merge'));
    expect([commands.length, bench.length, merge.length], name).toEqual([2, 1, 1]);
    return { bench: bench[0]!, merge: merge[0]! };
  }

  /** Runs a command in a shell where `lacuna` says what it was called with. */
  function inShell(command: string, env: Record<string, string>): Promise<CliResult> {
    return runProcess('bash', ['-c', command], folder, {
      env: { PATH: `${join(folder, 'bin')}:${process.env['PATH'] ?? ''}`, ...env },
    });
  }

  /** What a shell makes of a command that calls lacuna. */
  async function argumentsOf(command: string, env: Record<string, string>): Promise<string[]> {
    const { code, stdout, stderr } = await inShell(command, env);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return stdout.split('\n').slice(0, -1);
  }

  beforeEach(() => {
    mkdirSync(join(folder, 'bin'));
    writeFileSync(join(folder, 'bin', 'lacuna'), '#!/bin/sh\nprintf "%s\\n" "$@"\n');
    chmodSync(join(folder, 'bin', 'lacuna'), 0o755);
  });

  it('are these', () => {
    expect(readdirSync(EXAMPLES).sort()).toEqual(Object.keys(MANIFESTS).sort());
  });

  it.each(Object.keys(MANIFESTS).map((name) => ({ name })))(
    '$name: its shards are the whole plan, and its last step merges them',
    async ({ name }) => {
      let planned = 0;
      const files: string[] = [];
      for (const shard of SHARDS) {
        const { bench } = commandsIn(name, shard);
        const args = await argumentsOf(bench, MANIFESTS[name]!(shard));
        const { code, stdout, stderr } = await lacuna([...args, '--dry-run']);
        expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
        const [, own, ofShard, all] = /plan: (\d+) runs in .*; shard (\d)\/4 of (\d+) runs/.exec(stdout)!;
        expect(Number(ofShard)).toBe(shard);
        planned += Number(own);
        if (shard === SHARDS.length) {
          expect(planned).toBe(Number(all));
        }
        // What the shard would have written, under the name that it would have had.
        const written = args.at(-1)!;
        files.push(written);
        const asked = planRequest({ sweep: 'min-order', values: ['0', '9'], guestCount: 3 });
        writeFileSync(join(folder, written), JSON.stringify(reportFor(asked, { index: shard, count: 4 })));
      }
      expect(new Set(files).size).toBe(SHARDS.length);
      const merged = await lacuna(await argumentsOf(commandsIn(name, 1).merge, {}));
      expect(merged).toMatchObject({ code: 0, stderr: '' });
      expect(readReport('report.json').parts).toHaveLength(SHARDS.length);
      expect(existsSync(join(folder, 'min-order.svg'))).toBe(true);
    },
    TIMEOUT_MS,
  );

  it('slurm-array.sh submits its shards, and the merge after them', async () => {
    const shim = join(folder, 'bin', 'sbatch');
    writeFileSync(shim, '#!/bin/sh\nfor word; do echo "$word" >> sbatch.log; done\necho "17;cluster"\n');
    chmodSync(shim, 0o755);
    const script = join(EXAMPLES, 'slurm-array.sh');
    expect(await inShell(`bash ${script}`, { SLURM_ARRAY_TASK_ID: '' })).toMatchObject({
      code: 0,
      stderr: '',
    });
    const words = readFileSync(join(folder, 'sbatch.log'), 'utf8').trim().split('\n');
    expect(words.slice(0, 2)).toEqual(['--parsable', script]);
    expect(words).toContain('--dependency=afterany:17');
    expect(words.at(-1)).toBe(`--wrap=${commandsIn('slurm-array.sh', 1).merge}`);
  });
});
