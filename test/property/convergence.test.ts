import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Convergence, type RoundOutlook, type SwitchoverReason } from '../../src/migration/convergence.js';
import { naiveDecision } from '../support/naive-convergence.js';

const TIME_LIMIT_MS = 2000;

/** Powers of two and whole numbers: a downtime is exact, and so is whether it is within the limit. */
const someOptions = fc.record({
  downtimeLimitMs: fc.nat(64),
  maxRounds: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 20, max: 60 })),
  stallRounds: fc.integer({ min: 1, max: 5 }),
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
  const seen = new Set<SwitchoverReason | 'never'>();
  let runs = 0;
  fc.assert(
    fc.property(someOptions, someRounds, (options, rounds) => {
      const convergence = new Convergence(options);
      let reason: SwitchoverReason | undefined;
      for (const [i, outlook] of rounds.entries()) {
        reason = convergence.decide(outlook);
        expect(reason, `round ${outlook.round}`).toBe(naiveDecision(options, rounds.slice(0, i + 1)));
        if (reason !== undefined) {
          break; // the guest is stopped, and nobody asks again
        }
      }
      seen.add(reason ?? 'never');
      runs += 1;
    }),
    { numRuns: 4000, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
  // The histories were of every kind (unless the time was up at once).
  if (runs > 500) {
    expect([...seen].sort()).toEqual(['downtime-limit', 'never', 'round-limit', 'stalled']);
  }
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
    { numRuns: 300, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});

it('stops every guest in the end: at the round limit if not before', () => {
  fc.assert(
    fc.property(
      someOptions,
      fc.array(fc.nat(5000), { minLength: 1, maxLength: 80, size: 'max' }),
      (options, pending) => {
        const convergence = new Convergence(options);
        let round = 0;
        let reason: SwitchoverReason | undefined;
        while (reason === undefined && round < 100) {
          round += 1;
          const pendingPages = pending[round % pending.length]!;
          reason = convergence.decide({ round, pendingPages, unflushedBytes: 0, bytesPerMs: 1 });
        }
        expect(round).toBeLessThanOrEqual(options.maxRounds);
      },
    ),
    { numRuns: 300, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});
