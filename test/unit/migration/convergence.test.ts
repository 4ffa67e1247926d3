import { describe, expect, it } from 'vitest';
import {
  Convergence,
  type ConvergenceDecision,
  type ConvergenceOptions,
} from '../../../src/migration/convergence.js';

const OPTIONS: ConvergenceOptions = {
  downtimeLimitMs: 10,
  maxRounds: 100,
  stallRounds: 3,
  onStall: 'switch',
  throttleInitial: 0.2,
  throttleIncrement: 0.1,
  throttleMax: 0.8,
};

/** Decides round after round on these numbers of pending pages: the first round after which something is to be done. */
function decide(
  pending: readonly number[],
  options: Partial<ConvergenceOptions> = {},
): { round: number; reason: ConvergenceDecision } | undefined {
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
    // At first it looks like a decrease; then most of the rounds that are looked at are alike.
    expect(decide([500, 500, 500, 499, 499, 499, 499])).toBeUndefined();
    expect(decide([500, 500, 500, 499, 499, 499, 499, 499])).toEqual({ round: 8, reason: 'stalled' });
  });

  it('does not stop at a peak of an oscillation', () => {
    // Low at 1, 4, 7, …: three rounds without a minimum are over at a peak first, and the next low is taken.
    expect(decide([200, 900, 1500, 900, 205, 900])).toEqual({ round: 5, reason: 'stalled' });
    expect(decide([200, 900, 1500, 900, 1500, 900, 1500])).toBeUndefined();
  });

  it('is not fooled by an oscillation, and switches at a low point', () => {
    expect(decide([100, 40, 100, 42, 100])).toBeUndefined();
    expect(decide([100, 40, 100, 42, 100, 41])).toEqual({ round: 6, reason: 'stalled' });
    expect(decide([40, 100, 42, 100, 41, 100])).toEqual({ round: 5, reason: 'stalled' });
    // Lows and highs of three rounds each: the low after the next.
    expect(decide([90, 60, 30, 90, 60, 31])).toEqual({ round: 6, reason: 'stalled' });
  });

  it('goes on while an oscillation goes down, by its lows', () => {
    expect(decide([100, 40, 90, 38, 100, 36, 90, 34, 100, 32])).toBeUndefined();
  });

  it('a slow decrease is no stall, though one lucky round has left less than the rounds after it', () => {
    expect(decide([1000, 970, 900, 930, 915, 903, 890])).toBeUndefined();
    expect(decide([1000, 990, 992, 980, 984, 971, 975, 963])).toBeUndefined();
  });

  it('forgets a minimum that was an accident', () => {
    // Nothing after the fifth round comes near to 20 again; a minimum of all rounds would have it go on for ever.
    const pending = [500, 480, 500, 490, 20, 500, 480, 500, 480, 500, 480, 500, 480];
    expect(decide(pending)).toMatchObject({ reason: 'stalled' });
    expect(decide(pending.slice(0, 8))).toBeUndefined();
  });

  it('takes up to a tenth above the minimum for near it', () => {
    expect(decide([200, 900, 900, 220])).toEqual({ round: 4, reason: 'stalled' });
    expect(decide([200, 900, 900, 221])).toBeUndefined();
  });
});

describe('a guest that does not converge', () => {
  it('is given up, at a peak too, where that is asked for', () => {
    const options = { onStall: 'cancel' } as const;
    expect(decide([100, 40, 100, 42, 100], options)).toEqual({ round: 5, reason: 'cancel' });
    expect(decide([900, 800, 700], { ...options, maxRounds: 3 })).toEqual({ round: 3, reason: 'cancel' });
    expect(decide([900, 800, 10], options)).toEqual({ round: 3, reason: 'downtime-limit' });
  });

  /** What is decided, and the throttle after it, round by round. */
  function throttled(
    pending: readonly number[],
    options: Partial<ConvergenceOptions> = {},
  ): (number | string)[] {
    const convergence = new Convergence({ ...OPTIONS, onStall: 'throttle', ...options });
    return pending.map((pendingPages, i) => {
      const outlook = { round: i + 1, pendingPages, unflushedBytes: 0, bytesPerMs: 4096 };
      const decision = convergence.decide(outlook);
      return decision === 'throttle' ? convergence.throttle : (decision ?? '');
    });
  }

  it('is throttled by a step, and by the next when the rounds after it have stalled too', () => {
    expect(throttled(Array<number>(10).fill(500))).toEqual(['', '', '', 0.2, '', '', 0.3, '', '', 0.4]);
    expect(throttled([500, 500, 500, 500, 400, 320, 256, 205])).toEqual(['', '', '', 0.2, '', '', '', '']);
  });

  it('shows progress under a throttle only against rounds under that throttle', () => {
    // The rounds before had left 100 once; what counts is that 450 is less than 500.
    expect(throttled([100, 500, 500, 500, 450, 420, 400])).toEqual(['', '', '', 0.2, '', '', '']);
  });

  it('is throttled at a peak too, and switched over at a low point only', () => {
    const options = { throttleMax: 0.2 };
    expect(throttled([40, 100, 100, 100, 40, 100, 100, 40], options)).toEqual([
      '',
      '',
      '',
      0.2,
      '',
      '',
      '',
      'stalled',
    ]);
  });

  it('is throttled up to the limit, and switched over there', () => {
    const steps = throttled(Array<number>(25).fill(500)).filter((decision) => decision !== '');
    expect(steps).toEqual([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 'stalled']);
    const uneven = { throttleInitial: 0.15, throttleIncrement: 0.5 };
    expect(throttled(Array<number>(13).fill(500), uneven).filter((decision) => decision !== '')).toEqual([
      0.15,
      0.65,
      0.8,
      'stalled',
    ]);
  });

  it('all steps up to the limit fit into the round limit', () => {
    expect(throttled(Array<number>(30).fill(500), { maxRounds: 30 })).toContain('stalled');
  });
});
