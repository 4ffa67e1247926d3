import fc from 'fast-check';
import { expect, it } from 'vitest';
import { planOf, shardOf } from '../../src/cli/bench/plan.js';
import { SWEEP_NAMES, SWEEPS } from '../../src/cli/bench/sweeps.js';
import { mergeReports } from '../../src/report/merge.js';
import { BASELINES } from '../../src/report/schema.js';
import { planRequest, reportFor } from '../support/reports.js';

/** Any benchmark, plain or a sweep over some of its values; small guests, since only their maps are made. */
const someRequest = fc
  .record({
    guestCount: fc.integer({ min: 1, max: 3 }),
    runs: fc.integer({ min: 1, max: 4 }),
    seed: fc.nat(1000),
    // With hints in it: a sweep of what only hints see is refused without.
    baselines: fc.subarray([...BASELINES], { minLength: 1 }).map((names) => ['hints' as const, ...names]),
    sweep: fc.option(fc.constantFrom(...SWEEP_NAMES.filter((name) => name !== 'guest-size')), {
      nil: undefined,
    }),
  })
  .chain(({ sweep, ...rest }) =>
    sweep === undefined
      ? fc.constant(rest)
      : fc
          .subarray([...SWEEPS[sweep].values], { minLength: 1 })
          .map((values) => ({ ...rest, sweep, values })),
  );
const someCount = fc.integer({ min: 1, max: 20 });

it('every run of a plan is in exactly one shard, in the plan’s order, and what is compared in one', () => {
  fc.assert(
    fc.property(someRequest, someCount, (request, count) => {
      const plan = planOf(planRequest(request));
      expect(plan.runs.map(({ point }) => point.position)).toEqual([...plan.runs.keys()]);
      const shards = Array.from({ length: count }, (_, i) => shardOf(plan, { index: i + 1, count }));
      const union = shards.flatMap(({ runs }) => runs);
      expect(union).toHaveLength(plan.runs.length);
      expect(new Set(union)).toEqual(new Set(plan.runs));
      for (const { runs } of shards) {
        const positions = runs.map(({ point }) => point.position);
        expect(positions).toEqual([...positions].sort((a, b) => a - b));
      }
      const shardOfGroup = new Map<number, number>();
      for (const [index, { runs }] of shards.entries()) {
        for (const { point } of runs) {
          expect(shardOfGroup.get(point.group) ?? index).toBe(index);
          shardOfGroup.set(point.group, index);
        }
      }
      // Groups are dealt out evenly.
      const groups = shards.map(({ runs }) => new Set(runs.map(({ point }) => point.group)).size);
      expect(Math.max(...groups) - Math.min(...groups)).toBeLessThanOrEqual(1);
    }),
  );
});

it('a plan follows from what was asked for alone', () => {
  fc.assert(
    fc.property(someRequest, (request) => {
      expect(planOf(planRequest(request))).toEqual(planOf(planRequest(request)));
    }),
    { numRuns: 30 },
  );
});

it('every guest, value and baseline is run as often as was asked, beside what it is compared with', () => {
  fc.assert(
    fc.property(someRequest, (request) => {
      const asked = planRequest(request);
      const { runs } = planOf(asked);
      const { sweep } = asked;
      const wanted = new Set(asked.baselines);
      const values = sweep?.points.map(({ label }) => label) ?? [null];
      const untouched = sweep !== undefined && SWEEPS[sweep.name].hintsOnly ? ['none', 'zero'] : [];
      const groups = new Map<number, typeof runs>();
      for (const run of runs) {
        groups.set(run.point.group, [...(groups.get(run.point.group) ?? []), run]);
      }
      for (const [at, image] of asked.guests.entries()) {
        for (const value of values) {
          const here = [...groups.values()].filter((own) =>
            own.some(
              ({ spec, point }) =>
                point.value === value &&
                // A guest that the sweep makes is none of those that were named; it makes one for each of them.
                (sweep?.name === 'free-share' || spec.image === image),
            ),
          );
          expect(here).toHaveLength(sweep?.name === 'free-share' ? asked.guests.length : 1);
          const own = here[sweep?.name === 'free-share' ? at : 0]!;
          for (const baseline of wanted) {
            const like = own.filter(
              ({ spec, point }) =>
                spec.baseline === baseline && point.value === (untouched.includes(baseline) ? null : value),
            );
            expect(like, `${value} ${baseline}`).toHaveLength(request.runs);
          }
        }
      }
    }),
    { numRuns: 50 },
  );
});

it('shards in any order, merged at once or bit by bit, are the whole', () => {
  fc.assert(
    fc.property(
      someRequest,
      fc.integer({ min: 1, max: 8 }),
      fc.infiniteStream(fc.nat()),
      (request, count, random) => {
        const asked = planRequest(request);
        const whole = reportFor(asked);
        const order = Array.from({ length: count }, (_, i) => ({ i, key: random.next().value! })).sort(
          (a, b) => a.key - b.key,
        );
        const files = order.map(({ i }) => ({
          file: `part-${i + 1}.json`,
          report: reportFor(asked, { index: i + 1, count }),
        }));
        const { report, missing } = mergeReports(files);
        expect(missing).toEqual([]);
        expect({ ...report, createdAt: whole.createdAt, parts: [] }).toEqual(whole);
        expect(report.parts.map(({ shard }) => shard.index)).toEqual(
          Array.from({ length: count }, (_, i) => i + 1),
        );
        if (count > 1) {
          const half = mergeReports(files.slice(0, 1)).report;
          const again = mergeReports([{ file: 'half.json', report: half }, ...files.slice(1)]);
          expect({ ...again.report, createdAt: '' }).toEqual({ ...report, createdAt: '' });
        }
      },
    ),
    { numRuns: 50 },
  );
});
