import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  Convergence,
  type ConvergenceDecision,
  type RoundOutlook,
  STALL_ACTIONS,
} from '../../src/migration/convergence.js';
import { effort } from '../support/long.js';
import { naiveDecisions } from '../support/naive-convergence.js';

const TIME_LIMIT_MS = 1000;

/** Powers of two and whole numbers: a downtime is exact, and so is whether it is within the limit. */
const someOptions = fc.record({
  downtimeLimitMs: fc.nat(64),
  maxRounds: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 20, max: 60 })),
  stallRounds: fc.integer({ min: 1, max: 5 }),
  onStall: fc.constantFrom(...STALL_ACTIONS),
  throttleInitial: fc.constantFrom(0.01, 0.1, 0.2, 0.3),
  throttleIncrement: fc.constantFrom(0.01, 0.1, 0.125, 0.5),
  throttleMax: fc.constantFrom(0.3, 0.8, 0.99),
});

/** Pages that are left after each round, of guests of several kinds. */
const somePending = fc.integer({ min: 10, max: 4000 }).chain((base) => {
  // Around one number, often equal, often just a tenth above it.
  const near = fc.constantFrom(-1, 0, 0, 1, base, -base / 2).map((offset) => Math.floor(base + offset));
  const tenth = fc.constantFrom(-1, 0, 1).map((offset) => Math.floor((base * 11) / 10) + offset);
  const list = (arbitrary: fc.Arbitrary<number>) =>
    fc.array(arbitrary, { minLength: 1, maxLength: 30, size: 'max' });
  return fc.oneof(
    list(fc.oneof(near, near, tenth)),
    list(fc.nat(5000)),
    // Ever fewer, until it stalls.
    fc
      .tuple(list(fc.integer({ min: 0, max: base })), fc.nat(10))
      .map(([drops, tail]) => [...drops.sort((a, b) => b - a), ...Array<number>(tail).fill(base)]),
  );
});

const someRounds = somePending.chain((pending) =>
  fc.tuple(
    ...pending.map((pendingPages, i) =>
      fc
        .record({
          unflushedBytes: fc.oneof(
            { weight: 3, arbitrary: fc.constant(0) },
            fc.constantFrom(1, 4095, 4096),
            fc.nat(100_000),
          ),
          // Down to 4096: a page a millisecond, so that a downtime limit cuts through the middle of the pages above.
          bytesPerMs: fc.oneof(
            { weight: 8, arbitrary: fc.integer({ min: 6, max: 15 }).map((order) => 2 ** order) },
            fc.constant(Number.POSITIVE_INFINITY),
          ),
        })
        .map(
          ({ unflushedBytes, bytesPerMs }): RoundOutlook => ({
            round: i + 1,
            pendingPages,
            unflushedBytes,
            bytesPerMs,
          }),
        ),
    ),
  ),
);

it('decides like its naive twin, which looks at the whole history each time', () => {
  const seen = new Set<ConvergenceDecision | 'never'>();
  let runs = 0;
  fc.assert(
    fc.property(someOptions, someRounds, (options, rounds) => {
      const convergence = new Convergence(options);
      const expected = naiveDecisions(options, rounds);
      for (const [i, outlook] of rounds.entries()) {
        const decision = convergence.decide(outlook);
        expect({ decision, throttle: convergence.throttle }, `round ${outlook.round}`).toEqual(expected[i]);
        seen.add(decision ?? 'never');
        if (decision !== undefined && decision !== 'throttle') {
          break; // the guest is stopped, and nobody asks again
        }
      }
      runs += 1;
    }),
    effort(4000, TIME_LIMIT_MS),
  );
  // The histories were of every kind (unless the time was up at once).
  if (runs > 500) {
    expect([...seen].sort()).toEqual([
      'cancel',
      'downtime-limit',
      'never',
      'round-limit',
      'stalled',
      'throttle',
    ]);
  }
});

/** What is decided on these numbers of pages, none of which fits into the downtime, up to the first decision. */
function firstDecision(
  stallRounds: number,
  pending: readonly number[],
): { readonly round: number; readonly decision: ConvergenceDecision | undefined } {
  const convergence = new Convergence({
    downtimeLimitMs: 0,
    maxRounds: 1000,
    stallRounds,
    onStall: 'switch',
    throttleInitial: 0.2,
    throttleIncrement: 0.1,
    throttleMax: 0.8,
  });
  for (const [i, pendingPages] of pending.entries()) {
    const round = i + 1;
    const decision = convergence.decide({ round, pendingPages, unflushedBytes: 0, bytesPerMs: 1 });
    if (decision !== undefined) {
      return { round, decision };
    }
  }
  return { round: pending.length, decision: undefined };
}

it('never takes a decrease for a stall, though single rounds go up by as much as they go down in half of stallRounds', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 10, max: 1000 }),
      fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 5, maxLength: 60 }),
      (stallRounds, slope, noise) => {
        const amplitude = (stallRounds * slope) / 2 - 1;
        const pending = noise.map((share, i) => 100_000 - i * slope + Math.round(share * amplitude));
        expect(firstDecision(stallRounds, pending).decision).toBeUndefined();
      },
    ),
    effort(1000, TIME_LIMIT_MS),
  );
});

it('finds that an oscillation has stalled, whatever its form, and switches within a tenth of its lowest point', () => {
  fc.assert(
    fc.property(
      fc
        .integer({ min: 1, max: 6 })
        .chain((stallRounds) =>
          fc.tuple(
            fc.constant(stallRounds),
            fc.array(fc.integer({ min: 1, max: 10_000 }), { minLength: 1, maxLength: stallRounds }),
          ),
        ),
      // What it did before: it comes from anywhere. (Twice the same would have been a stall already.)
      fc.uniqueArray(fc.integer({ min: 10_000, max: 1_000_000 }), { maxLength: 4 }),
      ([stallRounds, period], beginning) => {
        const begun = beginning.toSorted((a, b) => b - a);
        const rounds = Array.from({ length: 60 }, (_, i) => period[i % period.length]!);
        const pending = [...begun, ...rounds];
        const { round, decision } = firstDecision(stallRounds, pending);
        expect(decision).toBe('stalled');
        expect(pending[round - 1]).toBeLessThanOrEqual(Math.min(...period) * 1.1);
        expect(round).toBeLessThanOrEqual(begun.length + 3 * stallRounds);
      },
    ),
    effort(2000, TIME_LIMIT_MS),
  );
});

it('the expected downtime is what a link of that rate takes for all that is left', () => {
  fc.assert(
    fc.property(
      fc.nat(1 << 20),
      fc.nat(1 << 30),
      fc.integer({ min: 1, max: 10_000_000 }),
      (pendingPages, unflushedBytes, bytesPerMs) => {
        const ms = Convergence.expectedDowntimeMs({ round: 1, pendingPages, unflushedBytes, bytesPerMs });
        const bytes = pendingPages * 4096 + unflushedBytes;
        expect(Math.abs(ms * bytesPerMs - bytes)).toBeLessThanOrEqual(bytes * 1e-12);
      },
    ),
    effort(300, TIME_LIMIT_MS),
  );
});

it('comes to an end with every guest: at the round limit if not before', () => {
  fc.assert(
    fc.property(
      someOptions,
      fc.array(fc.nat(5000), { minLength: 1, maxLength: 80, size: 'max' }),
      (options, pending) => {
        const convergence = new Convergence(options);
        let round = 0;
        let decision: ConvergenceDecision | undefined;
        while ((decision === undefined || decision === 'throttle') && round < 100) {
          round += 1;
          const pendingPages = pending[round % pending.length]!;
          decision = convergence.decide({ round, pendingPages, unflushedBytes: 0, bytesPerMs: 1 });
        }
        expect(round).toBeLessThanOrEqual(options.maxRounds);
        expect(decision === 'round-limit' || decision === 'stalled' ? options.onStall : 'switch').not.toBe(
          'cancel',
        );
      },
    ),
    effort(300, TIME_LIMIT_MS),
  );
});
