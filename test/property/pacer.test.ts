import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Pacer } from '../../src/migration/pacer.js';
import { NaiveLink } from '../support/naive-link.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 1200;

/** What the pacer promises, in ms: see its constants. */
const QUEUE_MS = 4;
const REFILL_MS = 2;
const SLACK_MS = 4;

/** Rates from a kilobyte to ten gigabytes a second, each order of magnitude as likely as the others. */
const rates = fc.double({ min: 3, max: 10, noNaN: true }).map((exponent) => 10 ** exponent);
const frames = fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 2 ** 20 }));
const times = fc.double({ min: 0, max: 1e6, noNaN: true });

/** A sum of a few hundred doubles of this size is not exact. */
function roundingOf(...values: readonly number[]): number {
  return Math.max(...values.map(Math.abs)) * 1e-9;
}

/** What happens next: the clock goes on, perhaps to a moment at which an answer changes, and perhaps something is sent. */
const happenings = fc.array(
  fc.record({
    clock: fc.oneof(
      // In 1/64 ms.
      { weight: 3, arbitrary: fc.integer({ min: 0, max: 64 * 8 }) },
      fc.integer({ min: 0, max: 64 * 1000 }),
      { weight: 3, arbitrary: fc.constantFrom('ready', 'queue full', 'drained', 'slack over') },
    ),
    bytes: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 2 ** 17 })),
  }),
  { minLength: 1, maxLength: 40, size: 'max' },
);

it('answers like its naive twin, which remembers all that was ever sent', () => {
  // Powers of two: every time and every sum is exact, so the answers must be equal, at the edges too.
  const exactRates = fc.integer({ min: 4, max: 14 }).map((order) => 2 ** order);
  fc.assert(
    fc.property(exactRates, happenings, (bytesPerMs, program) => {
      const pacer = new Pacer(bytesPerMs * 1000);
      const twin = new NaiveLink(bytesPerMs);
      let now = 1000;
      for (const { clock, bytes } of program) {
        const drainedAt = twin.drainedAt();
        const moments = {
          ready: twin.readyAt(now),
          'queue full': drainedAt - QUEUE_MS,
          drained: drainedAt,
          'slack over': drainedAt + SLACK_MS,
        };
        now = Math.max(
          now,
          typeof clock === 'number' ? now + clock / 64 : moments[clock as keyof typeof moments],
        );
        expect(pacer.readyAt(now)).toBe(twin.readyAt(now));
        if (bytes > 0) {
          pacer.charge(bytes, now);
          twin.charge(bytes, now);
        }
        expect(pacer.drainedAt()).toBe(twin.drainedAt());
        expect(pacer.drainedAt()).toBeGreaterThanOrEqual(drainedAt); // it never goes back
        expect(pacer.readyAt(now)).toBe(twin.readyAt(now));
      }
    }),
    { numRuns: 1000, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});

/** Sends a frame whenever it may, and wakes up so much later than it was told to; what went when. */
function sendGreedily(
  pacer: Pacer,
  sizes: readonly number[],
  lateness: readonly number[],
  from: number,
  onWake: (now: number) => void = () => undefined,
): { readonly at: number; readonly bytes: number }[] {
  const sent: { at: number; bytes: number }[] = [];
  let now = from;
  let sleeps = 0;
  for (const bytes of sizes) {
    const readyAt = pacer.readyAt(now);
    expect(readyAt).toBeGreaterThanOrEqual(now);
    if (readyAt > now) {
      now = readyAt + (lateness[sleeps % lateness.length] ?? 0);
      sleeps += 1;
      onWake(now);
      expect(pacer.readyAt(now), 'who has slept as long as he was told may send').toBe(now);
    }
    pacer.charge(bytes, now);
    sent.push({ at: now, bytes });
  }
  return sent;
}

const sizes = fc.oneof(
  fc.array(frames, { minLength: 1, maxLength: 120, size: 'max' }),
  // Frames of one size, as those of a long run are.
  fc.tuple(frames, fc.integer({ min: 1, max: 120 })).map(([bytes, count]) => Array(count).fill(bytes)),
);
const latenessUpTo = (max: number) => fc.array(fc.double({ min: 0, max, noNaN: true }), { maxLength: 10 });

it('lets no more than the rate through in any window, beyond its queue, its slack and the frame on its way', () => {
  fc.assert(
    fc.property(rates, sizes, latenessUpTo(50), times, (rate, bytes, lateness, from) => {
      const sent = sendGreedily(new Pacer(rate), bytes, lateness, from);
      const bytesPerMs = rate / 1000;
      for (let first = 0; first < sent.length; first += 1) {
        let before = 0; // bytes of the window without its last frame
        for (let last = first; last < sent.length; last += 1) {
          const windowMs = sent[last]!.at - sent[first]!.at;
          const allowed = bytesPerMs * (windowMs + QUEUE_MS + SLACK_MS);
          if (before > allowed + roundingOf(allowed, bytesPerMs * sent[last]!.at)) {
            expect.fail(`${before} bytes in ${windowMs} ms of a link of ${bytesPerMs} bytes/ms`);
          }
          before += sent[last]!.bytes;
        }
      }
    }),
    { numRuns: 300, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});

it('is used to the full by a sender that always sends when it may, and whose timers are late by less than it allows for', () => {
  fc.assert(
    fc.property(
      rates,
      sizes,
      latenessUpTo(REFILL_MS + SLACK_MS - 0.01),
      times,
      (rate, bytes, lateness, from) => {
        const pacer = new Pacer(rate);
        const onTime = lateness.every((ms) => ms <= REFILL_MS);
        const sent = sendGreedily(pacer, bytes, lateness, from, (now) => {
          if (onTime) {
            // The link has never run dry.
            expect(now).toBeLessThanOrEqual(pacer.drainedAt() + roundingOf(now));
          }
        });
        const total = sent.reduce((sum, frame) => sum + frame.bytes, 0);
        const elapsedMs = sent.at(-1)!.at - from;
        const due = elapsedMs * (rate / 1000);
        expect(total).toBeGreaterThanOrEqual(due - roundingOf(total, (from * rate) / 1000));
        // All of it has passed the link a slack's length before it would have, had the link begun with the first frame.
        const drainedAt = from - SLACK_MS + total / (rate / 1000);
        expect(Math.abs(pacer.drainedAt() - drainedAt)).toBeLessThanOrEqual(roundingOf(drainedAt, from));
      },
    ),
    { numRuns: 400, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});

it('never makes a sender wait where there is no limit', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.double({ min: 0, max: 100, noNaN: true }), fc.nat(2 ** 30))),
      (program) => {
        const pacer = new Pacer(Number.POSITIVE_INFINITY);
        let now = 0;
        for (const [gap, bytes] of program) {
          now += gap;
          pacer.charge(bytes, now);
          expect(pacer.readyAt(now)).toBe(now);
          expect(pacer.drainedAt()).toBeLessThanOrEqual(now);
        }
      },
    ),
    { numRuns: 200, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});
