import { describe, expect, it } from 'vitest';
import { THROTTLE_SLICE_MS, Throttle } from '../../../src/guest/throttle.js';

/** A busy vCPU, a step after the other, whose sleeps end late; how much of its time it was kept from running. */
function shareTaken(share: number, stepMs: number, lateMs: number): number {
  let now = 1000;
  const throttle = new Throttle(() => now);
  let stolenMs = 0;
  while (now < 61_000) {
    now += stepMs;
    if (throttle.sliceLeftMs(share) === 0) {
      stolenMs += throttle.pause(share, (ms) => {
        now += ms + lateMs;
        return true;
      });
    }
  }
  return stolenMs / (now - 1000);
}

describe('a throttle', () => {
  it.each([0.01, 0.2, 0.5, 0.8, 0.99])('of %d takes that share of the time', (share) => {
    expect(shareTaken(share, 0.05, 0)).toBeCloseTo(share, 2);
  });

  it('takes less, by as much as a step is longer than what is left of the slice', () => {
    expect(shareTaken(0.5, 4, 0)).toBeCloseTo(10 / 22, 2); // slices of 12 ms
  });

  it('of 0 takes nothing, and forgets the slice', () => {
    let now = 0;
    const throttle = new Throttle(() => now);
    expect(throttle.sliceLeftMs(0.5)).toBe(THROTTLE_SLICE_MS);
    now = 8;
    expect(throttle.sliceLeftMs(0.5)).toBe(2);
    expect(throttle.sliceLeftMs(0)).toBe(Number.POSITIVE_INFINITY);
    now = 50;
    expect(throttle.sliceLeftMs(0.5)).toBe(THROTTLE_SLICE_MS);
  });

  it('pauses for what is left of the pause, as often as it is woken, until it is told not to', () => {
    let now = 0;
    const throttle = new Throttle(() => now);
    const waits: number[] = [];
    const taken = throttle.pause(0.75, (ms) => {
      waits.push(ms);
      now += 7;
      return now < 21;
    });
    expect(waits).toEqual([30, 23, 16]);
    expect(taken).toBe(21);
    expect(throttle.sliceLeftMs(0.75)).toBe(THROTTLE_SLICE_MS);
  });
});
