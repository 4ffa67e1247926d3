import { describe, expect, it } from 'vitest';
import { Convergence, type SwitchoverReason } from '../../../src/migration/convergence.js';

const OPTIONS = { downtimeLimitMs: 10, maxRounds: 100, stallRounds: 3 };

/** Decides round after round on these numbers of pending pages: which round says to stop, and why. */
function decide(
  pending: readonly number[],
  options: Partial<typeof OPTIONS> = {},
): { round: number; reason: SwitchoverReason } | undefined {
  const convergence = new Convergence({ ...OPTIONS, ...options });
  for (const [i, pendingPages] of pending.entries()) {
    const reason = convergence.decide({ round: i + 1, pendingPages, unflushedBytes: 0, bytesPerMs: 4096 });
    if (reason !== undefined) {
      return { round: i + 1, reason };
    }
  }
  return undefined;
}

describe('expected downtime', () => {
  it.each([
    [10, 0, 4096, 10],
    [10, 40_960, 4096, 20],
    [0, 0, 4096, 0],
    [1000, 0, Number.POSITIVE_INFINITY, 0],
  ])(
    '%i pages and %i bytes on their way at %d bytes/ms: %d ms',
    (pendingPages, unflushedBytes, bytesPerMs, ms) => {
      expect(Convergence.expectedDowntimeMs({ round: 1, pendingPages, unflushedBytes, bytesPerMs })).toBe(ms);
    },
  );
});

describe('the decision', () => {
  it('stops as soon as what is left fits into the downtime, and not a page before', () => {
    expect(decide([11, 11])).toBeUndefined();
    expect(decide([500, 11, 10])).toEqual({ round: 3, reason: 'downtime-limit' });
    expect(decide([0])).toEqual({ round: 1, reason: 'downtime-limit' });
  });

  it('counts bytes that are on their way', () => {
    const convergence = new Convergence(OPTIONS);
    const outlook = { round: 1, pendingPages: 5, bytesPerMs: 4096 };
    expect(convergence.decide({ ...outlook, unflushedBytes: 5 * 4096 + 1 })).toBeUndefined();
    expect(convergence.decide({ ...outlook, unflushedBytes: 5 * 4096 })).toBe('downtime-limit');
  });

  it('stops at the round limit', () => {
    expect(decide([900, 800, 700, 600], { maxRounds: 3 })).toEqual({ round: 3, reason: 'round-limit' });
  });

  it('goes on as long as each round leaves less', () => {
    expect(decide(Array.from({ length: 90 }, (_, i) => 1000 - i))).toBeUndefined();
  });

  it('a guest that writes as fast as the link carries has stalled', () => {
    expect(decide([500, 500, 500, 500, 500])).toEqual({ round: 4, reason: 'stalled' });
    expect(decide([500, 500, 500, 500, 500], { stallRounds: 1 })).toEqual({ round: 2, reason: 'stalled' });
  });

  it('a new minimum, however small, starts the count again', () => {
    expect(decide([500, 500, 500, 499, 499, 499])).toBeUndefined();
    expect(decide([500, 500, 500, 499, 499, 499, 499])).toEqual({ round: 7, reason: 'stalled' });
  });

  it('does not stop at a peak of an oscillation', () => {
    // Low at 1, 4, 7, …: three rounds without a minimum are over at a peak first, and the next low is taken.
    expect(decide([200, 900, 1500, 900, 205, 900])).toEqual({ round: 5, reason: 'stalled' });
    expect(decide([200, 900, 1500, 900, 1500, 900, 1500])).toBeUndefined();
  });

  it('takes up to a tenth above the minimum for near it', () => {
    expect(decide([200, 900, 900, 220])).toEqual({ round: 4, reason: 'stalled' });
    expect(decide([200, 900, 900, 221])).toBeUndefined();
  });
});
