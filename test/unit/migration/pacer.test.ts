import { describe, expect, it } from 'vitest';
import { Pacer } from '../../../src/migration/pacer.js';

/** Sends `frameBytes` whenever the pacer allows it; returns bytes by the time each went. */
function sendGreedily(
  pacer: Pacer,
  frameBytes: number,
  untilMs: number,
): { readonly at: number; readonly bytes: number }[] {
  const sent: { at: number; bytes: number }[] = [];
  for (let now = 0; now < untilMs; ) {
    const readyAt = pacer.readyAt(now);
    if (readyAt > now) {
      now = readyAt;
      continue;
    }
    pacer.charge(frameBytes, now);
    sent.push({ at: now, bytes: frameBytes });
  }
  return sent;
}

describe('a link without a limit', () => {
  it('is always ready', () => {
    const pacer = new Pacer(Number.POSITIVE_INFINITY);
    pacer.charge(1e12, 5);
    expect(pacer.readyAt(5)).toBe(5);
    expect(pacer.drainedAt()).toBeLessThan(5);
  });
});

describe('a link of 1 MB/s', () => {
  it('has drained when the bytes have passed at its rate', () => {
    const pacer = new Pacer(1e6);
    pacer.charge(100_000, 1000);
    // 100 ms, of which it may have had a slack of 4 before.
    expect(pacer.drainedAt()).toBeGreaterThanOrEqual(1000 + 100 - 4);
    expect(pacer.drainedAt()).toBeLessThanOrEqual(1000 + 100);
    pacer.charge(50_000, 1000);
    expect(pacer.drainedAt()).toBeCloseTo(1000 + 150 - 4, 6);
  });

  it('takes the next run a little before the link is free, so that it never runs dry', () => {
    const pacer = new Pacer(1e6);
    pacer.charge(100_000, 0);
    expect(pacer.readyAt(0)).toBeCloseTo(pacer.drainedAt() - 5, 6);
    // Once it may send again it fills the queue before it is asked to wait again.
    expect(pacer.readyAt(pacer.drainedAt() - 7)).toBe(pacer.drainedAt() - 7);
    expect(pacer.readyAt(pacer.drainedAt() - 8.1)).toBeGreaterThan(pacer.drainedAt() - 7);
  });

  it.each([32, 4128, 100_000])(
    'never carries more than its rate in any window, in frames of %i bytes',
    (bytes) => {
      const sent = sendGreedily(new Pacer(1e6), bytes, 1000);
      let most = 0;
      for (let from = 0; from < sent.length; from += Math.max(1, Math.floor(sent.length / 50))) {
        let total = 0;
        for (let to = from; to < sent.length; to += 1) {
          total += sent[to]!.bytes;
          most = Math.max(most, total - (sent[to]!.at - sent[from]!.at) * 1000);
        }
      }
      // Above the rate: a queue of 7 ms and a slack of 4, and the frame that is on its way.
      expect(most).toBeLessThanOrEqual(11 * 1000 + bytes + 0.001);
    },
  );

  it.each([32, 4128, 100_000])(
    'is used to the full by a sender that is always ready, in frames of %i',
    (bytes) => {
      const sent = sendGreedily(new Pacer(1e6), bytes, 1000);
      expect(sent.length * bytes).toBeGreaterThanOrEqual(1000 * 1000 * 0.99);
    },
  );

  it('a sender that was idle for long makes up for no more than the slack', () => {
    const pacer = new Pacer(1e6);
    pacer.charge(1000, 0);
    pacer.charge(10_000, 10_000);
    expect(pacer.drainedAt()).toBeCloseTo(10_000 + 10 - 4, 6);
  });
});
