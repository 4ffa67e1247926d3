import { describe, expect, it } from 'vitest';
import { HintState } from '../../../src/balloon/hint-session.js';
import { PageContent } from '../../../src/guest/content.js';
import { syntheticImage } from '../../../src/guest/image.js';
import { InitialisingAllocator } from '../../../src/guest/initialising-allocator.js';
import { LEDGER_ZERO, Ledger } from '../../../src/guest/ledger.js';
import { layOutMetadata } from '../../../src/guest/metadata.js';
import { HoldSource } from '../../../src/guest/range-sources.js';
import { REPORT_MODES } from '../../../src/guest/runtime.js';
import type { WorkloadSpec } from '../../../src/guest/workload.js';
import { MIB, pfnOf } from '../../../src/memory/page.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { WriteOracle } from '../../../src/memory/write-oracle.js';
import { bootGuest, deviceOf, HintedPages, moveGuest } from './booted.js';
import { bitmapOf, makeRam, pagesIn, UnmarkedWrites } from './small-guest.js';

const PAGES = 512;
/** The first page behind the tables. */
const FIRST_FREE = 256;
const POISON = 0xaaaa_aaaa;
const JUNK = 0x5a;

interface Init {
  readonly initOnAlloc: boolean;
  readonly pagePoison?: number;
}

/** An allocator of pages that are all free and hold junk. */
function allocatorWith(init: Init) {
  const { memory, log, ram } = makeRam(PAGES);
  const metadata = layOutMetadata(0, { pfnSpan: PAGES, ringSize: 8 });
  const oracle = new WriteOracle(atomicMapper, new ArrayBuffer(WriteOracle.byteLength(PAGES)), PAGES);
  const ledger = new Ledger(ram, new PageContent(1), metadata.ledgerGpa, PAGES, oracle);
  const allocator = new InitialisingAllocator([ram, metadata.allocator, PAGES], ledger, init);
  allocator.initialise(bitmapOf(Array.from({ length: PAGES }, (_, pfn) => pfn >= FIRST_FREE)));
  memory.pages(FIRST_FREE, PAGES - FIRST_FREE).fill(JUNK);
  for (let pfn = FIRST_FREE; pfn < PAGES; pfn += 1) {
    ledger.begin(pfn, 7); // of what they were before
  }
  allocator.poisonFree();
  log.bitmap.clearAll();
  const held = ram.bitmap(metadata.heldGpa, PAGES);
  return { memory, log, ledger, allocator, held, oracle, ledgerGpa: metadata.ledgerGpa };
}

type Parts = ReturnType<typeof allocatorWith>;

/** Of the pages behind the tables, those that hold this word from end to end. */
function filledWith({ ledger }: Parts, word: number): number[] {
  return Array.from({ length: PAGES - FIRST_FREE }, (_, i) => FIRST_FREE + i).filter((pfn) =>
    ledger.isFilled(pfn, word),
  );
}

function marked({ log }: Parts): number[] {
  return pagesIn(log.bitmap).filter((pfn) => pfn >= FIRST_FREE);
}

function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

describe('init_on_alloc', () => {
  it.each([0, 3, 8])(
    'zeroes exactly the 2^%i pages that it hands out, marks them and stamps them',
    (order) => {
      const parts = allocatorWith({ initOnAlloc: true });
      const { allocator, ledger, oracle } = parts;
      oracle.sessionIssued(2);
      oracle.declared(2, FIRST_FREE, PAGES - FIRST_FREE);
      const pages = range(allocator.allocate(order), 2 ** order);
      expect(filledWith(parts, 0)).toEqual(pages);
      expect(marked(parts)).toEqual(pages); // I1
      expect(pages.map((pfn) => ledger.version(pfn))).toEqual(pages.map(() => LEDGER_ZERO));
      expect(pages.every((pfn) => ledger.holds(pfn))).toBe(true);
      expect(parts.log.bitmap.test(pfnOf(parts.ledgerGpa + pages[0]! * 4))).toBe(true);
      const written = range(FIRST_FREE, PAGES - FIRST_FREE).filter((pfn) => !oracle.mayDiffer(pfn));
      expect(written).toEqual(pages);
    },
  );

  it('zeroes a page that is asked for by its number', () => {
    const parts = allocatorWith({ initOnAlloc: true });
    expect(parts.allocator.allocateAt(FIRST_FREE + 5)).toBe(true);
    expect(filledWith(parts, 0)).toEqual([FIRST_FREE + 5]);
    expect(marked(parts)).toEqual([FIRST_FREE + 5]);
    expect(parts.allocator.allocateAt(FIRST_FREE + 5)).toBe(false);
  });

  it('writes nothing when there is no such block, and nothing when pages are freed', () => {
    const parts = allocatorWith({ initOnAlloc: true });
    expect(parts.allocator.allocate(9)).toBe(-1);
    expect(marked(parts)).toEqual([]);
    const pfn = parts.allocator.allocate(4);
    parts.memory.pages(pfn, 16).fill(JUNK);
    parts.log.bitmap.clearAll();
    parts.allocator.release(pfn, 4);
    expect(marked(parts)).toEqual([]);
    expect(filledWith(parts, 0)).toEqual([]);
  });

  it('zeroes what hold takes, before it is reported', () => {
    const parts = allocatorWith({ initOnAlloc: true });
    const hold = new HoldSource(parts.allocator.forHolding(false), parts.held, 0, 0);
    const run = { pfn: 0, pageCount: 0 };
    hold.begin();
    expect(hold.nextInto(run)).toBe(true);
    const pages = range(run.pfn, run.pageCount);
    expect(marked(parts)).toEqual(pages);
    expect(filledWith(parts, 0)).toEqual(pages);
    parts.log.bitmap.clearAll();
    hold.release();
    expect(parts.allocator.freePages).toBe(PAGES - FIRST_FREE);
    expect(marked(parts)).toEqual([]);
  });
});

describe.each([POISON, 0x1234_5678, 0])('page poison of %i', (pagePoison) => {
  it('is in every free page from the start, and in every page that is freed, with its mark', () => {
    const parts = allocatorWith({ initOnAlloc: false, pagePoison });
    expect(filledWith(parts, pagePoison)).toHaveLength(PAGES - FIRST_FREE);
    const pfn = parts.allocator.allocate(3);
    expect(marked(parts)).toEqual([]); // looked at, and not written
    parts.memory.pages(pfn, 8).fill(JUNK);
    parts.log.bitmap.clearAll();
    parts.allocator.release(pfn, 3);
    expect(filledWith(parts, pagePoison)).toHaveLength(PAGES - FIRST_FREE);
    expect(marked(parts)).toEqual(range(pfn, 8));
    expect(parts.allocator.failures).toEqual({ pages: 0, firstPfn: -1 });
  });

  it('takes precedence over init_on_alloc', () => {
    const parts = allocatorWith({ initOnAlloc: true, pagePoison });
    const pfn = parts.allocator.allocate(2);
    expect(filledWith(parts, pagePoison)).toContain(pfn);
    expect(marked(parts)).toEqual([]);
  });

  it.each([0, 1, 2048, 4095])('is missed if byte %i of a page is another, when it is handed out', (byte) => {
    const parts = allocatorWith({ initOnAlloc: false, pagePoison });
    parts.memory.pages(FIRST_FREE + 5, 1)[byte]! ^= 0x10;
    parts.memory.pages(FIRST_FREE + 9, 1)[byte]! ^= 0x10;
    for (let i = FIRST_FREE; i < PAGES; i += 1) {
      parts.allocator.allocate(0);
    }
    expect(parts.allocator.failures).toEqual({ pages: 2, firstPfn: FIRST_FREE + 5 });
  });

  it('is not written again into blocks that were only held', () => {
    const parts = allocatorWith({ initOnAlloc: false, pagePoison });
    const hold = new HoldSource(parts.allocator.forHolding(false), parts.held, 0, 0);
    const run = { pfn: 0, pageCount: 0 };
    while (hold.nextInto(run)) {}
    expect(parts.allocator.freePages).toBe(0);
    expect(hold.shrink()).toBe(true);
    hold.release();
    expect(parts.allocator.freePages).toBe(PAGES - FIRST_FREE);
    expect(parts.allocator.inconsistency()).toBeUndefined();
    expect(marked(parts)).toEqual([]);
    expect(filledWith(parts, pagePoison)).toHaveLength(PAGES - FIRST_FREE);
  });

  it('is not written by a release of what is free already', () => {
    const parts = allocatorWith({ initOnAlloc: false, pagePoison });
    parts.memory.pages(FIRST_FREE, 1).fill(JUNK);
    expect(() => parts.allocator.release(FIRST_FREE, 0)).toThrow(/released twice/);
    expect(parts.memory.pages(FIRST_FREE, 1).every((byte) => byte === JUNK)).toBe(true);
  });
});

const INITS: readonly (readonly [string, Init])[] = [
  ['init_on_alloc', { initOnAlloc: true }],
  ['page poison', { initOnAlloc: false, pagePoison: POISON }],
  ['init_on_free', { initOnAlloc: false, pagePoison: 0 }],
];
const BUSY: readonly WorkloadSpec[] = [
  { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 50 },
  { kind: 'pressure', pagesPerSecond: 20_000 },
];

describe.each(INITS)('a guest with %s', (_, init) => {
  it.each(
    REPORT_MODES.flatMap((reportMode) =>
      BUSY.map((workload) => [reportMode, workload.kind, workload] as const),
    ),
  )(
    'that reports by %s under %s marks all that it writes, and checks itself',
    (reportMode, _kind, workload) => {
      const guest = bootGuest({ ...init, reportMode, workload });
      const device = deviceOf(guest);
      const writes = new UnmarkedWrites(guest.memory, guest.log);
      device.openSession(new HintedPages(), 0);
      for (let now = 0; now < 60; now += 1) {
        guest.runtime.step(now);
        device.poll(now, 16);
      }
      expect(writes.changed().length).toBeGreaterThan(50);
      expect(writes.unmarked()).toEqual([]);
      device.closeSession(60);
      for (let now = 60; now < 120; now += 1) {
        guest.runtime.step(now);
        device.poll(now, 16);
      }
      expect(guest.runtime.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
      const moved = moveGuest(guest);
      for (let now = 120; now < 180; now += 1) {
        moved.runtime.step(now);
      }
      expect(moved.config).toMatchObject(init);
      expect(moved.runtime.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
    },
  );
});

it.each([{ initOnAlloc: true }, { initOnAlloc: false, pagePoison: POISON }])(
  'a slice of a report by hold writes, or looks at, a block or so (%o)',
  (init) => {
    const image = syntheticImage(atomicMapper, { memoryBytes: 32 * MIB, freeShare: 0.7, freeRunPages: 512 });
    const guest = bootGuest({ ...init, image, reportMode: 'hold' });
    const device = deviceOf(guest);
    device.openSession(new HintedPages(), 0);
    let slices = 0;
    for (let now = 0; device.session.state !== HintState.done; now += 1) {
      const before = guest.runtime.held.count();
      guest.runtime.step(now);
      const held = guest.runtime.held.count() - before;
      expect(held).toBeLessThan(2 * 1024);
      slices += held > 0 ? 1 : 0;
      device.poll(now, 1000);
    }
    expect(slices).toBeGreaterThanOrEqual(4);
  },
);
