import { describe, expect, it } from 'vitest';
import { HintState } from '../../../src/balloon/hint-session.js';
import { isLacunaError } from '../../../src/errors.js';
import { imageBitmaps } from '../../../src/guest/image.js';
import { LEDGER_METADATA } from '../../../src/guest/ledger.js';
import { REPORT_MODES } from '../../../src/guest/runtime.js';
import { type GuestTrace, traceEndMs } from '../../../src/guest/trace.js';
import { parseTrace } from '../../../src/guest/trace-file.js';
import { traceImage } from '../../../src/guest/trace-player.js';
import { traceWorkload } from '../../../src/guest/trace-replay.js';
import {
  PAGES_WRITTEN,
  REPLAY_MS,
  REPLAY_SAMPLE,
  REPLAY_SKIPPED,
} from '../../../src/memory/control-buffer.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { busyTrace } from '../../support/made-up-trace.js';
import { naiveChanges, naiveTrace } from '../../support/naive-trace.js';
import { type BootedGuest, bootGuest, deviceOf, HintedPages, moveGuest, replaying } from './booted.js';
import { pagesIn, UnmarkedWrites } from './small-guest.js';

const CLEAN = { badPages: 0, badPfn: -1 };

/** 8 MiB that change everywhere, the guest's own tables included: 4 samples, 100 ms apart, 800 changes each. */
const FILES = busyTrace({ pages: 2048, samples: 4, intervalMs: 100, changes: 200 });
const TRACE = parseTrace(atomicMapper, FILES, 'busy');
const NAIVE = naiveTrace(FILES)!;

/** Lets the guest run until its clock has come to `untilMs` ms after it began; a slice every 0.25 ms. */
function run({ runtime }: BootedGuest, fromMs: number, untilMs: number): void {
  for (let now = fromMs; now <= untilMs; now += 0.25) {
    runtime.step(now);
  }
}

function isMetadata({ runtime }: BootedGuest): (pfn: number) => boolean {
  return (pfn) => runtime.ledger.version(pfn) === LEDGER_METADATA;
}

/** Free for the guest or for its driver: what the trace calls free, but for the guest's own tables. */
function freeIn({ runtime }: BootedGuest): number[] {
  return [...pagesIn(runtime.allocator.free), ...pagesIn(runtime.held)].sort((a, b) => a - b);
}

/** What the trace calls free at moment `atMs`, but for the guest's own tables. */
function freeAt(guest: BootedGuest, atMs: number, trace: GuestTrace = TRACE): number[] {
  const metadata = isMetadata(guest);
  return pagesIn(imageBitmaps(atomicMapper, traceImage(atomicMapper, trace, atMs)).free).filter(
    (pfn) => !metadata(pfn),
  );
}

/** Changes on the way to samples `from` … `to` that concern the guest's tables, and those that write other pages. */
function changesIn(guest: BootedGuest, from: number, to: number): { metadata: number; written: number } {
  const metadata = isMetadata(guest);
  const all = NAIVE.slice(from, to + 1).flatMap((sample, i) => naiveChanges(NAIVE[from + i - 1]!, sample));
  return {
    metadata: all.filter(([, pfn]) => metadata(pfn)).length,
    written: all.filter(([change, pfn]) => change !== 0 && !metadata(pfn)).length,
  };
}

function counters({
  control: { words },
}: BootedGuest): Record<'written' | 'sample' | 'ms' | 'skipped', number> {
  return {
    written: words.load(PAGES_WRITTEN),
    sample: words.load(REPLAY_SAMPLE),
    ms: words.load(REPLAY_MS),
    skipped: words.load(REPLAY_SKIPPED),
  };
}

describe.each(REPORT_MODES)('a guest that replays a trace and reports by %s', (reportMode) => {
  it('has free at every sample what the trace has, has written what it has, and checks clean', () => {
    const guest = bootGuest({ ...replaying(TRACE), reportMode });
    expect(freeIn(guest)).toEqual(freeAt(guest, 0));
    for (const sample of [1, 2, 3]) {
      run(guest, TRACE.timesMs[sample - 1]!, TRACE.timesMs[sample]!);
      expect(freeIn(guest)).toEqual(freeAt(guest, TRACE.timesMs[sample]!));
      const { metadata, written } = changesIn(guest, 1, sample);
      expect(metadata).toBeGreaterThan(0); // or nothing would be shown about the tables
      expect(counters(guest)).toEqual({ written, sample, ms: TRACE.timesMs[sample], skipped: metadata });
      expect(guest.runtime.selfCheck()).toEqual({ pages: 2048 - freeIn(guest).length, ...CLEAN });
    }
  });

  it('marks every page that it writes, its own tables included', () => {
    const guest = bootGuest({ ...replaying(TRACE), reportMode });
    const writes = new UnmarkedWrites(guest.memory, guest.log);
    let changed = 0;
    for (let from = 0; from < 100; from += 10) {
      run(guest, from, from + 10);
      changed += writes.changed().length;
      expect(writes.unmarked()).toEqual([]);
      writes.restart();
    }
    expect(changed).toBeGreaterThan(400);
  });

  it.each([0, 1, 37.5, 99, 100, 150, 250, 299])(
    'goes on where it was when it is moved at %s ms, and has made every change once',
    (atMs) => {
      const guest = bootGuest({ ...replaying(TRACE), reportMode });
      run(guest, 0, atMs);
      const moved = moveGuest(guest);
      expect(moved.runtime.selfCheck()).toMatchObject(CLEAN);
      expect(counters(moved)).toEqual({ ...counters(guest), written: 0 });
      // Its clock stands still while it is on its way, and is another one there.
      run(moved, 1e9 + atMs, 1e9 + traceEndMs(TRACE) + 1);
      expect(freeIn(moved)).toEqual(freeAt(moved, traceEndMs(TRACE)));
      const { metadata, written } = changesIn(guest, 1, 3);
      expect(counters(guest).written + counters(moved).written).toBe(written);
      expect(counters(moved)).toMatchObject({ sample: 3, skipped: metadata });
      expect(moved.runtime.selfCheck()).toMatchObject(CLEAN);
      expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
    },
  );

  it('replays under a report and a stop at any moment, and has free in the end what the trace has', () => {
    for (let begin = 5; begin < 200; begin += 13) {
      for (const stopAfter of [0, 1, 20, 90]) {
        const guest = bootGuest({ ...replaying(TRACE), reportMode, ringSize: 1024 });
        const device = deviceOf(guest);
        run(guest, 0, begin);
        const hinted = new HintedPages();
        device.openSession(hinted, begin);
        for (let now = begin; now <= begin + stopAfter; now += 0.25) {
          guest.runtime.step(now);
          device.poll(now, 3);
        }
        device.closeSession(begin + stopAfter);
        for (let now = begin + stopAfter; now <= traceEndMs(TRACE) + 1; now += 0.25) {
          guest.runtime.step(now);
          device.poll(now, 100);
        }
        expect(guest.runtime.held.count()).toBe(0);
        expect(freeIn(guest)).toEqual(freeAt(guest, traceEndMs(TRACE)));
        expect(counters(guest).skipped).toBe(changesIn(guest, 1, 3).metadata);
        expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
        expect(stopAfter < 20 || hinted.times.size > 0).toBe(true);
      }
    }
  });

  it('does not take from the balloon, counts what it skips, and is sound when the balloon is empty again', () => {
    const guest = bootGuest({ ...replaying(TRACE), reportMode });
    const device = deviceOf(guest);
    const pump = (from: number, to: number): void => {
      for (let now = from; now <= to; now += 0.25) {
        guest.runtime.step(now);
        device.poll(now, 100);
      }
    };
    device.setBalloonTarget(300);
    pump(0, 150);
    const ballooned = pagesIn(guest.runtime.ballooned);
    expect(ballooned).toHaveLength(300);
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
    expect(counters(guest).skipped).toBeGreaterThan(changesIn(guest, 1, 1).metadata + 10);
    device.setBalloonTarget(0);
    pump(150, traceEndMs(TRACE) + 1);
    expect(device.registers.actual).toBe(0);
    expect(guest.runtime.ballooned.count()).toBe(0);
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
    // Pages that the trace took while they were in the balloon are free: no more of them than it held.
    const expected = new Set(freeAt(guest, traceEndMs(TRACE)));
    const extra = freeIn(guest).filter((pfn) => !expected.has(pfn));
    expect(freeIn(guest)).toHaveLength(expected.size + extra.length);
    expect(extra.filter((pfn) => !ballooned.includes(pfn))).toEqual([]);
  });
});

describe('a report under way', () => {
  it('by hold gives back just the block in which a page is taken, and the page is not held any more', () => {
    const guest = bootGuest({ ...replaying(TRACE), reportMode: 'hold', ringSize: 1024 });
    const device = deviceOf(guest);
    device.openSession(new HintedPages(), 0);
    for (let now = 0; device.session.state !== HintState.done; now += 0.01) {
      guest.runtime.step(now);
      device.poll(now, 1000);
    }
    const before = guest.runtime.held.count();
    expect(before).toBeGreaterThan(500);
    const metadata = isMetadata(guest);
    const [, firstTaken] = naiveChanges(NAIVE[0]!, NAIVE[1]!).find(
      ([change, pfn]) => change === 1 && guest.runtime.held.test(pfn),
    )!;
    expect(metadata(firstTaken)).toBe(false);
    for (let now = 10; guest.runtime.held.count() === before; now += 0.25) {
      guest.runtime.step(now);
    }
    expect(guest.runtime.held.test(firstTaken)).toBe(false);
    expect(guest.runtime.allocator.free.test(firstTaken)).toBe(false);
    // Of 64 pages in a row 33 are free at first: no block is of more than 32, and a slice takes a page or two.
    expect(before - guest.runtime.held.count()).toBeLessThanOrEqual(64);
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
  });
});

describe('the replay’s time', () => {
  it('is the guest’s: half of it, half of the changes; twice as fast, all of them', () => {
    for (const [speed, ms] of [
      [1, 50],
      [2, 25],
      [0.5, 100],
    ] as const) {
      const guest = bootGuest(replaying(TRACE, 0, speed));
      run(guest, 0, ms);
      expect(counters(guest)).toMatchObject({ sample: 0, ms: 50 });
      expect(freeIn(guest)).toEqual(freeAt(guest, 50));
    }
  });

  it('begins anywhere in the trace', () => {
    const guest = bootGuest(replaying(TRACE, 133));
    expect(counters(guest)).toEqual({ written: 0, sample: 1, ms: 133, skipped: 0 });
    expect(freeIn(guest)).toEqual(freeAt(guest, 133));
    run(guest, 500, 600);
    expect(counters(guest)).toMatchObject({ sample: 2, ms: 233 });
    expect(freeIn(guest)).toEqual(freeAt(guest, 233));
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
  });

  it('does no more than 64 pages in a slice, and makes up for 20 ms after a stop', () => {
    const guest = bootGuest(replaying(TRACE, 0));
    guest.runtime.step(0);
    const changes = 20 * (naiveChanges(NAIVE[0]!, NAIVE[1]!).length / TRACE.timesMs[1]!);
    let slices = 0;
    for (let more = guest.runtime.step(1000); more === 0; more = guest.runtime.step(1000)) {
      slices += 1;
    }
    expect(counters(guest).ms).toBe(20);
    expect(slices).toBe(Math.floor(changes / 64));
    // 64 of the changes are one page each at the most.
    const fast = bootGuest(replaying(TRACE, 50, 1000));
    fast.runtime.step(0);
    for (let now = 0.01; counters(fast).sample < 3; now += 0.01) {
      const { written } = counters(fast);
      fast.runtime.step(now);
      expect(counters(fast).written - written).toBeLessThanOrEqual(64);
    }
    expect(freeIn(fast)).toEqual(freeAt(fast, traceEndMs(TRACE)));
  });

  it('says how long nothing is due, and halts for ever at the end', () => {
    const guest = bootGuest(replaying(TRACE, 0));
    guest.runtime.step(0);
    const perChange = TRACE.timesMs[1]! / naiveChanges(NAIVE[0]!, NAIVE[1]!).length;
    expect(guest.runtime.step(0)).toBeCloseTo(perChange, 6);
    const last = bootGuest(replaying(TRACE, traceEndMs(TRACE)));
    expect(last.runtime.step(0)).toBe(Number.POSITIVE_INFINITY);
    run(guest, 0, traceEndMs(TRACE) + 1);
    expect(guest.runtime.step(1000)).toBe(Number.POSITIVE_INFINITY);
    const before = counters(guest);
    run(guest, 1000, 1100);
    expect(counters(guest)).toEqual(before);
    expect(moveGuest(guest).runtime.step(0)).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('a guest that replays one trace and is given another', () => {
  const other: GuestTrace = { ...TRACE, name: 'other' };

  it.each([
    ['another', other],
    ['none', undefined],
  ])('is refused with %s', (_, trace) => {
    const boot = () =>
      bootGuest({
        image: traceImage(atomicMapper, TRACE, 0),
        workload: traceWorkload(TRACE, 0),
        ...(trace === undefined ? {} : { trace }),
      });
    expect(boot).toThrow(expect.toSatisfy((thrown) => isLacunaError(thrown, 'INVALID_ARGUMENT')));
    expect(boot).toThrow('replays made-up');
  });
});
