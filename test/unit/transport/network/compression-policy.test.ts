import { describe, expect, it } from 'vitest';
import { MIB } from '../../../../src/memory/page.js';
import { CompressionPolicy } from '../../../../src/transport/network/compression-policy.js';
import { ModelledSender } from '../../../support/modelled-compression.js';

/** Contents and a thread as measured: 65 MB/s, and 45 % is left. It takes 36 kB a ms off the link. */
const POOL = { threadBytesPerMs: 65_000, ratio: 0.45 };
const MBIT_100 = { linkBytesPerMs: 12_500, ...POOL };
const LOOPBACK = { linkBytesPerMs: 3_000_000, ...POOL };

describe('auto', () => {
  it('compresses on a slow link, and moves more than twice of what it could raw', () => {
    const sender = new ModelledSender('auto');
    sender.run(20_000, MBIT_100);
    expect(sender.policy.active).toBe(true);
    expect(sender.policy.switches).toBe(0);
    expect(sender.movedBytes / 20_000).toBeGreaterThan(2 * 12_500);
    expect(sender.policy.linkBytesPerMs).toBeCloseTo(12_500, -3);
    expect(sender.policy.savedBytesPerMs).toBeCloseTo(65_000 * 0.55, -3);
  });

  it.each([0.1, 0.24, 0.45, 0.7])(
    'does as well as "on" where the pool alone keeps the link busy: to %d',
    (ratio) => {
      // The pool makes a tenth more than the link carries.
      const conditions = { linkBytesPerMs: 12_500, threadBytesPerMs: (1.1 * 12_500) / ratio, ratio };
      const auto = new ModelledSender('auto');
      const on = new ModelledSender('on');
      auto.run(30_000, conditions);
      on.run(30_000, conditions);
      expect(auto.movedBytes).toBeGreaterThan(0.9 * on.movedBytes);
    },
  );

  it('is off within half a second where the link is far faster than the pool, and costs nothing', () => {
    const sender = new ModelledSender('auto');
    sender.run(500, LOOPBACK);
    expect(sender.policy.active).toBe(false);
    const { runsCompressed } = sender.policy.counts;
    sender.run(20_000, LOOPBACK);
    expect(sender.policy.switches).toBe(1);
    expect(sender.movedBytes / 20_000).toBeGreaterThan(0.97 * 2_000_000); // as fast as a source of 2 runs a step is
    // A probe of a run, every half second.
    const probes = sender.policy.counts.runsCompressed - runsCompressed;
    expect(probes).toBeGreaterThan(30);
    expect(probes).toBeLessThan(42);
    expect(sender.policy.counts.runsLinkFaster).toBeGreaterThan(30_000);
  });

  it('never goes on for contents that do not shrink, and sends them as fast as the link takes them', () => {
    const sender = new ModelledSender('auto');
    sender.run(20_000, { ...MBIT_100, ratio: 1 });
    expect(sender.policy.active).toBe(false);
    expect(sender.policy.switches).toBe(1);
    expect(sender.policy.counts.runsCompressed).toBe(0);
    expect(sender.policy.counts.runsIncompressible).toBeLessThan(100);
    expect(sender.movedBytes / 20_000).toBeGreaterThan(0.95 * 12_500);
  });

  it('keeps the link busy with raw runs where the pool alone could not', () => {
    const sender = new ModelledSender('auto');
    sender.run(20_000, { linkBytesPerMs: 60_000, ...POOL });
    expect(sender.policy.active).toBe(true);
    expect(sender.policy.counts.runsLinkIdle).toBeGreaterThan(100);
    expect(sender.movedBytes / 20_000).toBeGreaterThan(0.95 * (60_000 + 65_000 * 0.55));
  });

  it('follows a link that gets slow, and one that gets fast again', () => {
    const sender = new ModelledSender('auto');
    sender.run(3000, LOOPBACK);
    expect(sender.policy.active).toBe(false);
    sender.run(6000, MBIT_100);
    expect(sender.policy.active).toBe(true);
    sender.run(8000, LOOPBACK);
    expect(sender.policy.active).toBe(false);
    expect(sender.policy.switches).toBe(3);
  });

  it('follows contents', () => {
    const sender = new ModelledSender('auto');
    sender.run(3000, { ...MBIT_100, ratio: 1 });
    expect(sender.policy.active).toBe(false);
    sender.run(6000, MBIT_100);
    expect(sender.policy.active).toBe(true);
    sender.run(16_000, { ...MBIT_100, ratio: 1 });
    expect(sender.policy.active).toBe(false);
    expect(sender.policy.switches).toBe(3);
  });

  it('does not flap, wherever the link stands and however unsteady all rates are', () => {
    for (let linkBytesPerMs = 20_000; linkBytesPerMs < 1_000_000; linkBytesPerMs *= 1.17) {
      const sender = new ModelledSender('auto');
      let state = 1;
      const noise = (): number => {
        state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
        return 0.7 + (0.6 * state) / 0x7fff_ffff;
      };
      sender.run(30_000, { linkBytesPerMs, ...POOL }, noise);
      expect(sender.policy.switches, `at ${linkBytesPerMs} bytes/ms`).toBeLessThanOrEqual(1);
    }
  });

  it('takes a link for idle, not for slow, when nothing was there to send', () => {
    const sender = new ModelledSender('auto');
    sender.run(2000, LOOPBACK);
    // 10 MB/s of data come along, as in a round of few pages: nothing about the link.
    sender.run(6000, { ...LOOPBACK, sourceBytesPerMs: 10_000 });
    expect(sender.policy.active).toBe(false);
    expect(sender.policy.linkBytesPerMs).toBeGreaterThan(1_000_000);
  });

  it('takes a pause of the source for a pause', () => {
    const policy = new CompressionPolicy('auto', 1);
    let taken = 0;
    for (let now = 0; now < 1000; now += 1) {
      policy.link(taken, 0, now);
      policy.link(taken, MIB, now);
      taken += MIB;
    }
    const before = policy.linkBytesPerMs;
    expect(before).toBeGreaterThan(0.95 * MIB);
    policy.link(taken, 0, 10_000); // nine seconds of waiting for hints
    policy.link(taken, MIB, 10_000);
    expect(policy.linkBytesPerMs).toBe(before);
  });
});

describe('on', () => {
  it('compresses whatever the link does', () => {
    const sender = new ModelledSender('on');
    sender.run(5000, LOOPBACK);
    const { counts, switches } = sender.policy;
    expect(counts.runsLinkFaster + counts.runsLinkIdle).toBe(0);
    expect(switches).toBe(0);
    expect(counts.bytesAfter / counts.bytesBefore).toBeCloseTo(0.45, 3);
    expect(sender.movedBytes / 5000).toBeCloseTo(65_000, -4);
  });

  it('waits for room', () => {
    const policy = new CompressionPolicy('on', 1);
    expect(policy.choose(0, true, 0)).toBe('compress');
    expect(policy.choose(0, false, 0)).toBe('wait');
  });
});

it('counts what it did', () => {
  const policy = new CompressionPolicy('auto', 2);
  expect(policy.choose(0, false, 0)).toBe('raw');
  policy.passed();
  expect(policy.choose(0, false, 64 * MIB)).toBe('wait');
  policy.compressed(MIB, 0);
  policy.compressed(MIB, 1000);
  policy.worked(7);
  expect(policy.counts).toEqual({
    runsCompressed: 1,
    bytesBefore: MIB,
    bytesAfter: 1000,
    runsIncompressible: 1,
    runsLinkFaster: 0,
    runsLinkIdle: 1,
    compressMs: 7,
  });
});
