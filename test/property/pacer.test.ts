import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Pacer } from '../../src/migration/pacer.js';
import { effort } from '../support/long.js';
import { NaiveLink } from '../support/naive-link.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 600;

/** What the pacer promises, in ms: see its constants. */
const QUEUE_MS = 7;
const REFILL_MS = 5;
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
    effort(1000, TIME_LIMIT_MS),
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
    effort(300, TIME_LIMIT_MS),
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
    effort(400, TIME_LIMIT_MS),
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
    effort(200, TIME_LIMIT_MS),
  );
});

/** Rates from half a megabyte to two gigabytes a second: what a cap holds within 2 % for. */
const cappedRates = fc
  .double({ min: Math.log10(0.5e6), max: Math.log10(2e9), noNaN: true })
  .map((exponent) => 10 ** exponent);
/** What a sender has to send: pages of a run, or 0 for a frame without contents that may go beyond a full queue. */
const someRuns = fc.array(
  fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 1, max: 256 }) }, fc.constant(0)),
  {
    minLength: 1,
    maxLength: 20,
  },
);

interface Sent {
  readonly at: number;
  readonly bytes: number;
}

/**
 * A sender with always enough to send, of runs no longer than the pacer has them, for `forMs` of a clock that a frame
 * takes nothing of; it wakes up late. `onFrame` is called before each.
 */
function sendRuns(
  pacer: Pacer,
  runs: readonly number[],
  lateness: readonly number[],
  forMs: number,
  onFrame: (now: number) => void = () => undefined,
): Sent[] {
  const sent: Sent[] = [];
  let sleeps = 0;
  let frames = 0;
  for (let now = 0; now < forMs; ) {
    onFrame(now);
    const wanted = runs[frames % runs.length]!;
    const readyAt = pacer.readyAt(now);
    if (readyAt > now && !(wanted === 0 && pacer.takesHeader(now))) {
      now = readyAt + (lateness[sleeps % lateness.length] ?? 0);
      sleeps += 1;
      continue;
    }
    // Of a fast link no short runs: there would be millions of them.
    const pages = wanted === 0 ? 0 : pacer.longestRun(Math.max(wanted, Math.ceil(pacer.bytesPerMs / 10_000)));
    const bytes = 32 + pages * 4096;
    pacer.charge(bytes, now);
    sent.push({ at: now, bytes });
    frames += 1;
  }
  return sent;
}

/** Bytes of the fullest and the emptiest window of a second that lies within `forMs`. */
function extremes(sent: readonly Sent[], forMs: number): { most: number; least: number } {
  // The fullest begins with a frame and has both its ends; the emptiest begins just after one and ends just before one.
  const moments = [...new Set(sent.map(({ at }) => at))];
  const upTo = (end: number, closed: boolean): number => {
    let low = 0;
    let high = sent.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { at } = sent[middle]!;
      if (at < end || (closed && at === end)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return sums[low]!;
  };
  const sums = [0];
  for (const { bytes } of sent) {
    sums.push(sums.at(-1)! + bytes);
  }
  let most = 0;
  let least = Number.POSITIVE_INFINITY;
  for (const at of moments) {
    most = Math.max(most, upTo(at + 1000, true) - upTo(at, false));
    if (at + 1000 < forMs) {
      least = Math.min(least, upTo(at + 1000, false) - upTo(at, true)); // begins just after what went at that moment
    }
  }
  return { most, least };
}

it('keeps a sender within 2 % of its rate over any second, from below too if its timers are not later than some ms', () => {
  fc.assert(
    fc.property(
      cappedRates,
      someRuns,
      fc.oneof(latenessUpTo(4), latenessUpTo(100)),
      (rate, runs, lateness) => {
        fc.pre(runs.some((pages) => pages > 0));
        const forMs = rate > 50e6 ? 1500 : 3000;
        const { most, least } = extremes(sendRuns(new Pacer(rate), runs, lateness, forMs), forMs);
        expect(most).toBeLessThanOrEqual(rate * 1.02);
        if (lateness.every((ms) => ms <= 4)) {
          expect(least).toBeGreaterThanOrEqual(rate * 0.98);
        }
      },
    ),
    effort(200, TIME_LIMIT_MS),
  );
});

it('keeps within 2 % of what the link carries in any second in which its rate is changed', () => {
  fc.assert(
    fc.property(
      cappedRates,
      cappedRates,
      someRuns,
      latenessUpTo(10),
      fc.integer({ min: 500, max: 1500 }),
      (before, after, runs, lateness, changeAt) => {
        fc.pre(runs.some((pages) => pages > 0));
        const pacer = new Pacer(before);
        const bytesUpTo = (ms: number): number =>
          (Math.min(ms, changeAt) * before + Math.max(0, ms - changeAt) * after) / 1000;
        let changed = false;
        const sent = sendRuns(pacer, runs, lateness, 2000, (now) => {
          if (!changed && now >= changeAt) {
            changed = true;
            pacer.changeRate(after, changeAt);
          }
        });
        const fastest = Math.max(before, after);
        for (let first = 0, last = 0, bytes = 0; first < sent.length; first += 1) {
          const { at } = sent[first]!;
          for (; last < sent.length && sent[last]!.at <= at + 1000; last += 1) {
            bytes += sent[last]!.bytes;
          }
          expect(bytes).toBeLessThanOrEqual(bytesUpTo(at + 1000) - bytesUpTo(at) + fastest * 0.02);
          bytes -= sent[first]!.bytes;
        }
      },
    ),
    effort(100, TIME_LIMIT_MS),
  );
});

it('carries what is in its queue at the new rate when that is changed, and nothing of it is lost', () => {
  const exact = fc.integer({ min: 4, max: 14 }).map((order) => 2 ** order);
  fc.assert(
    fc.property(exact, exact, fc.nat(2 ** 20), fc.nat(200), (before, after, bytes, later) => {
      const pacer = new Pacer(before * 1000);
      pacer.charge(bytes, 1000);
      const drainedAt = pacer.drainedAt();
      const now = 1000 + later / 4;
      pacer.changeRate(after * 1000, now);
      const left = Math.max(0, drainedAt - now) * before;
      expect(pacer.drainedAt()).toBe(left > 0 ? now + left / after : drainedAt);
      pacer.changeRate(Number.POSITIVE_INFINITY, now);
      expect(pacer.drainedAt()).toBeLessThanOrEqual(now);
      expect(pacer.readyAt(now)).toBe(now);
    }),
    effort(300, TIME_LIMIT_MS),
  );
});
