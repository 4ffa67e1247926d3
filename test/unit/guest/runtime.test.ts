import { describe, expect, it } from 'vitest';
import { saveGuestDevice } from '../../../src/balloon/guest-device.js';
import { HintState } from '../../../src/balloon/hint-session.js';
import { layOutMetadata } from '../../../src/guest/metadata.js';
import { REPORT_MODES } from '../../../src/guest/runtime.js';
import type { RuleSpec } from '../../../src/guest/workload.js';
import { FREE_PAGES, PAGES_WRITTEN, RANGES_REPORTED } from '../../../src/memory/control-buffer.js';
import { PAGE_SIZE, pfnOf } from '../../../src/memory/page.js';
import { type BootedGuest, bootGuest, deviceOf, HintedPages, moveGuest, smallImage } from './booted.js';
import { pagesIn, UnmarkedWrites } from './small-guest.js';

const CLEAN = { badPages: 0, badPfn: -1 };
const KIND_SPECS: Record<RuleSpec['kind'], RuleSpec> = {
  halt: { kind: 'halt' },
  idle: { kind: 'idle', pagesPerSecond: 5000 },
  dirty: { kind: 'dirty', bytesPerSecond: 20_000 * PAGE_SIZE, workingSetBytes: 100 * PAGE_SIZE },
  churn: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 50 },
  pressure: { kind: 'pressure', pagesPerSecond: 20_000 },
};
const BUSY = Object.values(KIND_SPECS).filter(({ kind }) => kind !== 'halt');

function run({ runtime }: BootedGuest, slices: number, from = 0): void {
  for (let i = 0; i < slices; i += 1) {
    runtime.step(from + i);
  }
}

/** Opens a session and lets guest and host take turns until the stop sign has come; pages that were hinted. */
function report(guest: BootedGuest, device = deviceOf(guest), from = 0): HintedPages {
  const sink = new HintedPages();
  device.openSession(sink, from);
  for (let now = from; device.session.state !== HintState.done; now += 1) {
    if (now > from + 10_000) {
      throw new Error(`no stop sign: ${device.session.state}`);
    }
    guest.runtime.step(now);
    device.poll(now, 100);
  }
  return sink;
}

function metadataPfns({ config, memory }: BootedGuest): number[] {
  const { pfnSpan } = memory.layout;
  const { gpa, lengthBytes } = layOutMetadata(config.metadataGpa, { pfnSpan, ringSize: config.ringSize });
  return Array.from({ length: lengthBytes / PAGE_SIZE }, (_, i) => pfnOf(gpa) + i);
}

describe('a guest that boots', () => {
  it('has its free pages free, and every used page holds what it must', () => {
    const guest = bootGuest();
    const free = pagesIn(guest.runtime.allocator.free);
    expect(free).toHaveLength(guest.runtime.allocator.freePages);
    expect(guest.runtime.selfCheck()).toEqual({ pages: 2048 - free.length, ...CLEAN });
    expect(guest.control.words.load(FREE_PAGES)).toBe(free.length);
  });

  it('has marked all of its tables, whatever it wrote in them', () => {
    const guest = bootGuest();
    const unmarked = metadataPfns(guest).filter((pfn) => !guest.log.bitmap.test(pfn));
    expect(unmarked).toEqual([]);
  });

  it('keeps its tables out of free memory', () => {
    const guest = bootGuest();
    expect(metadataPfns(guest).filter((pfn) => guest.runtime.allocator.free.test(pfn))).toEqual([]);
  });
});

describe.each(BUSY.map((workload) => ({ kind: workload.kind, workload })))(
  'a guest with $kind',
  ({ workload }) => {
    it('marks every page that it writes, slice by slice', () => {
      const guest = bootGuest({ workload });
      const writes = new UnmarkedWrites(guest.memory, guest.log);
      let changed = 0;
      for (let i = 0; i < 8; i += 1) {
        run(guest, 4, i * 4);
        changed += writes.changed().length;
        expect(writes.unmarked()).toEqual([]);
        writes.restart();
      }
      expect(changed).toBeGreaterThan(8);
    });

    it.each(REPORT_MODES)(
      'goes on from copied memory and saved registers, and checks clean (%s)',
      (reportMode) => {
        const guest = bootGuest({ workload, reportMode });
        report(guest);
        run(guest, 50, 20_000);
        const moved = moveGuest(guest);
        expect(moved.runtime.selfCheck()).toEqual({ pages: expect.any(Number) as number, ...CLEAN });
        expect(pagesIn(moved.runtime.held)).toEqual(pagesIn(guest.runtime.held));
        run(moved, 50, 70_000);
        expect(moved.control.words.load(PAGES_WRITTEN)).toBeGreaterThan(50);
        expect(moved.runtime.selfCheck()).toMatchObject(CLEAN);
        expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
      },
    );
  },
);

describe('a report', () => {
  it.each(REPORT_MODES)('by %s calls free what is free, each page once', (reportMode) => {
    const guest = bootGuest({ reportMode, ringSize: 1024 }); // room for all, or hold would drop
    const freeBefore = pagesIn(guest.runtime.allocator.free);
    const hinted = report(guest);
    expect(Math.max(...hinted.times.values())).toBe(1);
    // Hold leaves the guest 256 pages to live from.
    expect(freeBefore.length - hinted.pages.length).toBe(reportMode === 'hold' ? 256 : 0);
    expect(hinted.pages.filter((pfn) => !freeBefore.includes(pfn))).toEqual([]);
    expect(pagesIn(guest.runtime.held)).toEqual(reportMode === 'hold' ? hinted.pages : []);
    expect(guest.control.words.load(RANGES_REPORTED)).toBeGreaterThan(0);
  });

  it('by hold ends with everything given back when the host stops', () => {
    const guest = bootGuest({ reportMode: 'hold' });
    const freeBefore = pagesIn(guest.runtime.allocator.free);
    const device = deviceOf(guest);
    report(guest, device);
    expect(guest.runtime.held.count()).toBeGreaterThan(0);
    device.closeSession(100);
    run(guest, 3, 100);
    expect(guest.runtime.held.count()).toBe(0);
    expect(pagesIn(guest.runtime.allocator.free)).toEqual(freeBefore);
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
  });

  it('by hold leaves memory to a workload under pressure, which takes held pages back', () => {
    const guest = bootGuest({ reportMode: 'hold', workload: KIND_SPECS.pressure });
    report(guest);
    const heldAtFirst = guest.runtime.held.count();
    expect(heldAtFirst).toBeGreaterThan(500);
    let least = heldAtFirst;
    for (let now = 20_000; now < 20_400; now += 1) {
      guest.runtime.step(now);
      least = Math.min(least, guest.runtime.held.count());
    }
    expect(least).toBe(0);
    expect(guest.runtime.allocator.inconsistency()).toBeUndefined();
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
  });

  it('goes on at the destination where it was at the source, with no page lost or hinted twice', () => {
    // Single pages on a small ring: the report takes many slices.
    const guest = bootGuest({ image: smallImage(0.4, 1), ringSize: 16 });
    const free = pagesIn(guest.runtime.allocator.free);
    const device = deviceOf(guest);
    const first = new HintedPages();
    device.openSession(first, 0);
    for (let now = 0; first.times.size < 100; now += 1) {
      guest.runtime.step(now);
      device.poll(now, 5);
    }
    device.poll(50, Number.MAX_SAFE_INTEGER);
    const moved = moveGuest(guest);
    const hintedHere = first.times.size;
    const there = deviceOf(moved, saveGuestDevice(device));
    there.session.open(device.session.id, first, 60);
    there.session.marker(4, device.session.id, 60);
    for (let now = 60; there.session.state !== HintState.done; now += 1) {
      moved.runtime.step(now);
      there.poll(now, 5);
    }
    expect(hintedHere).toBeLessThan(free.length);
    expect(first.pages).toEqual(free);
    expect(Math.max(...first.times.values())).toBe(1);
    expect(moved.runtime.selfCheck()).toMatchObject(CLEAN);
  });
});

describe('a self-check', () => {
  const workload = KIND_SPECS.churn;

  it('finds a damaged page that is in use', () => {
    const guest = bootGuest({ workload });
    run(guest, 50);
    const used = guest.runtime.allocator.free.nextClear(1000);
    const bytes = guest.memory.pages(used, 1);
    bytes[4095] = bytes[4095]! ^ 1;
    expect(guest.runtime.selfCheck()).toMatchObject({ badPages: 1, badPfn: used });
  });

  it('names the first of several, and counts them all', () => {
    const guest = bootGuest();
    const free = guest.runtime.allocator.free;
    const used = Array.from({ length: 2048 }, (_, pfn) => pfn).filter((pfn) => pfn > 600 && !free.test(pfn));
    for (const pfn of [used[30]!, used[10]!, used[20]!]) {
      guest.memory.pages(pfn, 1).fill(0);
    }
    expect(guest.runtime.selfCheck()).toMatchObject({ badPages: 3, badPfn: used[10] });
  });

  it('does not mind what free, held and ballooned pages hold', () => {
    const guest = bootGuest({ reportMode: 'hold' });
    const device = deviceOf(guest);
    device.setBalloonTarget(100);
    for (let now = 0; device.registers.actual !== 100; now += 1) {
      run(guest, 1, now);
      device.poll(now, 10);
    }
    report(guest, device, 1000);
    const { allocator, held, ballooned } = guest.runtime;
    expect(ballooned.count()).toBe(100);
    expect(held.count()).toBeGreaterThan(0);
    for (const bitmap of [allocator.free, held, ballooned]) {
      for (const pfn of pagesIn(bitmap)) {
        guest.memory.pages(pfn, 1).fill(0x5a);
      }
    }
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
  });

  it.each(['free', 'order 0', 'order 3'])(
    "finds a bit of the allocator's %s bitmap that was damaged",
    (which) => {
      const guest = bootGuest({ workload });
      run(guest, 50);
      const { pfnSpan } = guest.memory.layout;
      const { allocator } = layOutMetadata(guest.config.metadataGpa, {
        pfnSpan,
        ringSize: guest.config.ringSize,
      });
      const gpa = which === 'free' ? allocator.freeGpa : allocator.orderGpa[Number(which.slice(6))]!;
      const bytes = guest.memory.pages(pfnOf(gpa), 1);
      bytes[20] = bytes[20]! ^ 4;
      expect(guest.runtime.selfCheck().badPfn).toBe(-2);
      expect(moveGuest(guest).runtime.selfCheck().badPfn).toBe(-2);
    },
  );

  it('finds a page that did not arrive', () => {
    const guest = bootGuest({ workload });
    run(guest, 50);
    const moved = moveGuest(guest);
    const used = guest.runtime.allocator.free.nextClear(1000);
    moved.memory.pages(used, 1).fill(0);
    expect(moved.runtime.selfCheck()).toMatchObject({ badPages: 1, badPfn: used });
    expect(guest.runtime.selfCheck()).toMatchObject(CLEAN);
  });

  it('finds a page of the ledger that did not arrive', () => {
    const guest = bootGuest({ workload });
    const { ledgerGpa } = layOutMetadata(guest.config.metadataGpa, {
      pfnSpan: guest.memory.layout.pfnSpan,
      ringSize: guest.config.ringSize,
    });
    const moved = moveGuest(guest);
    moved.memory.pages(pfnOf(ledgerGpa) + 1, 1).fill(0);
    expect(moved.runtime.selfCheck().badPages).toBeGreaterThan(100);
  });
});
