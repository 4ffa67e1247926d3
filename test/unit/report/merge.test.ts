import { describe, expect, it } from 'vitest';
import { mergeReports } from '../../../src/report/merge.js';
import { notesOf } from '../../../src/report/notes.js';
import { parseBenchReport } from '../../../src/report/parse.js';
import type { BenchReport, BenchRun } from '../../../src/report/schema.js';
import { planRequest, reportFor } from '../../support/reports.js';

const ASKED = { sweep: 'min-order', values: ['0', '1', '2', '3', '4', '5', '10'] } as const;

function part(index: number, count = 2, changes: Parameters<typeof planRequest>[0] = ASKED): BenchReport {
  return reportFor(planRequest(changes), { index, count });
}

function merge(...reports: BenchReport[]): ReturnType<typeof mergeReports> {
  return mergeReports(reports.map((report, i) => ({ file: `${'abcdef'[i]}.json`, report })));
}

function refusal(...reports: BenchReport[]): string {
  try {
    merge(...reports);
  } catch (thrown) {
    expect(thrown).toMatchObject({ code: 'INVALID_ARGUMENT' });
    return (thrown as Error).message;
  }
  throw new Error('it was merged');
}

describe('merging', () => {
  it('puts the runs in the plan’s order and says what went in', () => {
    const { report, missing } = merge(part(2), part(1));
    expect(missing).toEqual([]);
    expect(report.runs.map(({ point }) => point.position)).toEqual([...Array(report.plan.runs).keys()]);
    expect(report.plan.shard).toBeNull();
    expect(report.command).toBe('lacuna bench --quiet');
    expect(report.parts).toMatchObject([
      { shard: { index: 1, count: 2 }, command: 'lacuna bench --shard 1/2 --quiet' },
      { shard: { index: 2, count: 2 } },
    ]);
    expect(report.parts[0]!.runs + report.parts[1]!.runs).toBe(report.plan.runs);
  });

  it('makes the summary anew of all runs', () => {
    const [first, second] = [part(1), part(2)];
    expect(merge(first, second).report.summary).toEqual(reportFor(planRequest(ASKED)).summary);
    expect(merge({ ...first, summary: [] }, second).report.summary).toHaveLength(8);
  });

  it('lists machines, and allows them to differ', () => {
    const other = { ...part(2), machine: { ...part(2).machine, cpu: 'Another', node: 'v22.0.0' } };
    const { report } = merge(part(1), other);
    expect(report.parts.map(({ machine }) => machine.cpu)).toEqual(['A processor', 'Another']);
    expect(report.machine.cpu).toBe('A processor');
  });

  it('takes one whole report as it is', () => {
    const whole = reportFor(planRequest());
    const { report, missing } = merge(whole);
    expect(missing).toEqual([]);
    expect({ ...report, createdAt: whole.createdAt }).toEqual(whole);
  });

  it('takes empty shards, which are not missing if they are not there', () => {
    const parts = [1, 2, 3, 4].map((index) => part(index, 4));
    expect(parts[2]!.runs).toEqual([]);
    expect(merge(...parts).missing).toEqual([]);
    expect(merge(...parts.slice(0, 2)).missing).toEqual([]);
  });

  it.each([
    [['--shard', '1/2', '--json', 'a'], 'lacuna bench --json a'],
    [['--shard=1/2'], 'lacuna bench'],
    [['--json', 'a', '--shard', '2/2'], 'lacuna bench --json a'],
  ])('its command is that of the whole: %j', (args, command) => {
    const given = { ...part(1), command: ['lacuna', 'bench', ...args].join(' ') };
    expect(merge(given, part(2)).report.command).toBe(command);
  });
});

describe('what is missing is told', () => {
  it('a shard', () => {
    const { report, missing } = merge(part(2));
    expect(missing).toEqual(['shard 1/2 is in none of the files', `10 of the plan's 18 runs are missing`]);
    expect(report.runs).toHaveLength(8);
  });

  it('runs of a shard that was interrupted', () => {
    const cut = part(1);
    expect(merge({ ...cut, runs: cut.runs.slice(0, 4) }, part(2)).missing).toEqual([
      `6 of the plan's 18 runs are missing: a run was interrupted`,
    ]);
  });

  it('what is missing can be merged later', () => {
    const first = merge(part(2, 3)).report;
    expect(merge(first, part(1, 3), part(3, 3)).missing).toEqual([]);
  });
});

describe('what is not of one plan is refused, and what differs is named', () => {
  it.each<[string, Parameters<typeof planRequest>[0], RegExp]>([
    ['seed', { ...ASKED, seed: 7 }, /seed is 1 in a\.json and 7 in b\.json/],
    ['runs', { ...ASKED, runs: 3 }, /runs is 2 in a\.json and 3 in b\.json/],
    ['values', { ...ASKED, values: ['0'] }, /values is 0,1,2,3,4,5,10 in a\.json and 0 in b\.json/],
    ['sweep', { sweep: 'ring-size', values: ['64'] }, /sweep is min-order in a\.json and ring-size/],
    ['no sweep', {}, /sweep is min-order in a\.json and not set in b\.json/],
    ['baselines', { ...ASKED, baselines: ['hints'] }, /baseline is none,hints in a\.json and hints/],
    [
      'guests',
      { ...ASKED, guestCount: 2 },
      /guest is synthetic-16m in a\.json and synthetic-16m synthetic-17m/,
    ],
  ])('%s', (_what, changes, message) => {
    expect(refusal(part(1), part(2, 2, changes))).toMatch(message);
  });

  it('the version of lacuna', () => {
    const other = part(2);
    expect(refusal(part(1), { ...other, machine: { ...other.machine, lacuna: '9.9.9' } })).toMatch(
      /lacuna's version is 0\.1\.0 in a\.json and 9\.9\.9 in b\.json/,
    );
  });

  it('memory maps of one name', () => {
    const other = part(2);
    expect(refusal(part(1), { ...other, plan: { ...other.plan, digest: 'x' } })).toMatch(
      /memory maps differ/,
    );
  });

  it('the third of three', () => {
    expect(refusal(part(1, 3), part(2, 3), part(3, 3, { ...ASKED, seed: 2 }))).toMatch(
      /seed is 1 in a\.json and 2 in c\.json/,
    );
  });
});

describe('runs that are there twice are refused', () => {
  it('a shard', () => {
    expect(refusal(part(1), part(2), part(1))).toMatch(/shard 1\/2 is in a\.json and in c\.json/);
  });

  it('an empty shard', () => {
    expect(refusal(part(4, 4), part(4, 4))).toMatch(/shard 4\/4 is in a\.json and in b\.json/);
  });

  it('a plan that was split in two ways', () => {
    expect(refusal(part(1, 2), part(2, 3))).toMatch(/b\.json is of 3 shards and a\.json of 2/);
  });

  it('a whole and a part', () => {
    expect(refusal(reportFor(planRequest(ASKED)), part(1))).toMatch(/run 0 is in a\.json and in b\.json/);
  });

  it('a merged report and a part of it', () => {
    expect(refusal(merge(part(1), part(2)).report, part(2))).toMatch(
      /shard 2\/2 is in a\.json and in b\.json/,
    );
  });

  it('nothing at all', () => {
    expect(() => mergeReports([])).toThrow(/nothing to merge/);
  });
});

describe('a report that contradicts itself is refused', () => {
  const moved = (report: BenchReport, change: Partial<BenchRun['point']>): BenchReport => ({
    ...report,
    runs: report.runs.map((run, i) => (i === 0 ? { ...run, point: { ...run.point, ...change } } : run)),
  });

  it('a run beyond the plan', () => {
    expect(refusal(moved(part(1), { position: 18 }), part(2))).toMatch(
      /run 18 of group 0 is not of its plan/,
    );
    expect(refusal(moved(part(1), { group: 2 }), part(2))).toMatch(/of group 2 is not of its plan/);
  });

  it('a run of another shard', () => {
    expect(refusal(moved(part(1), { group: 1 }), part(2))).toMatch(/is not of shard 1\/2/);
  });

  it('one run twice', () => {
    expect(refusal(moved(part(1), { position: 1 }))).toMatch(/run 1 is in a\.json and in a\.json/);
  });
});

describe('reading a report', () => {
  /** As it is in a file, for the tests to damage. */
  interface Stored {
    plan?: object;
    readonly runs: {
      point?: unknown;
      fromTheFuture?: unknown;
      'cpu-throttle-percentage'?: number;
      readonly cpu: { guest: unknown };
      readonly ram: object;
    }[];
  }
  const stored = (): Stored => JSON.parse(JSON.stringify(part(1))) as Stored;

  it('gives back what was written, summary and all', () => {
    expect(parseBenchReport(stored())).toEqual(part(1));
    expect(parseBenchReport({ ...stored(), summary: 'nonsense' })).toEqual(part(1));
  });

  it('keeps fields that it does not know', () => {
    const json = stored();
    json.runs[0]!.fromTheFuture = { pages: 3 };
    const parsed = parseBenchReport({ ...json, more: 1 });
    expect(parsed).toMatchObject({
      more: 1,
      runs: expect.arrayContaining([expect.objectContaining({ fromTheFuture: { pages: 3 } })]),
    });
  });

  it('takes a null for a figure that could not be measured', () => {
    const json = stored();
    json.runs[0]!.cpu.guest = null;
    expect(parseBenchReport(json).runs[0]!.cpu.guest).toBeNaN();
  });

  it('takes one of before guests could be throttled, and says where they were', () => {
    const json = stored();
    delete json.runs[0]!['cpu-throttle-percentage'];
    const parsed = parseBenchReport(json);
    expect(parsed.runs[0]!['cpu-throttle-percentage']).toBe(0);
    expect(notesOf(parsed).join()).not.toContain('throttled');
    json.runs[0]!['cpu-throttle-percentage'] = 40;
    json.runs[1]!['cpu-throttle-percentage'] = 70;
    expect(notesOf(parseBenchReport(json))).toContain(
      `guests throttled in 2 of ${json.runs.length} runs, up to 70 % of the time`,
    );
  });

  it.each<[string, (json: Stored) => void, RegExp]>([
    ['another schema', (json) => Object.assign(json, { schema: 2 }), /reads schema 1/],
    ['no plan', (json) => delete json.plan, /"plan"/],
    [
      'a shard that is none',
      (json) => Object.assign(json.plan!, { shard: { index: 3, count: 2 } }),
      /as many as there are/,
    ],
    ['a run without a place', (json) => delete json.runs[0]!.point, /"point"/],
    ['an unknown baseline', (json) => Object.assign(json.runs[0]!, { baseline: 'most' }), /"baseline"/],
    ['half a page', (json) => Object.assign(json.runs[0]!.ram, { skipped: 0.5 }), /"skipped"/],
    ['a stress report', (json) => Object.assign(json, { kind: 'stress', runs: undefined }), /"runs"/],
  ])('refuses %s', (_what, damage, message) => {
    const json = stored();
    damage(json);
    expect(() => parseBenchReport(json)).toThrow(message);
  });
});
