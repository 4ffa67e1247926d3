import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FreeRangeSource } from '../../../src/balloon/report-driver.js';
import { cutIntoBlocks, MAX_ORDER } from '../../../src/guest/buddy-allocator.js';
import { HoldSource, WalkSource } from '../../../src/guest/range-sources.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { PageBitmap, type PageRun } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { bitmapOf, blocksOfPages, makeAllocator, pagesIn } from './small-guest.js';

const SPAN = 4096;
const everyOrder = fc.integer({ min: 0, max: MAX_ORDER });

/** Alternating runs of used and free pages, {@link SPAN} pages in all. */
const someFreePages = fc
  .array(fc.integer({ min: 1, max: 700 }), { minLength: 4, maxLength: 40 })
  .map((lengths) => {
    const flags = lengths.flatMap((length, i) => Array.from({ length }, () => i % 2 === 1)).slice(0, SPAN);
    return [...flags, ...Array.from({ length: SPAN - flags.length }, () => false)];
  });

/** One report's ranges. */
function report(source: FreeRangeSource): [pfn: number, pageCount: number][] {
  const ranges: [number, number][] = [];
  const run: PageRun = { pfn: 0, pageCount: 0 };
  source.begin();
  while (source.nextInto(run)) {
    ranges.push([run.pfn, run.pageCount]);
  }
  return ranges;
}

function pagesOf(ranges: readonly (readonly [pfn: number, pageCount: number])[]): number[] {
  return ranges.flatMap(([pfn, pageCount]) => Array.from({ length: pageCount }, (_, i) => pfn + i));
}

/** The pages of all free blocks of an order and more, by cutting up each run of free pages. */
function pagesInBlocksFrom(minOrder: number, free: PageBitmap): number[] {
  const pages: number[] = [];
  const run: PageRun = { pfn: 0, pageCount: 0 };
  for (let from = 0; free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
    cutIntoBlocks(run.pfn, run.pageCount, (pfn, order) => {
      if (order >= minOrder) {
        pages.push(...pagesOf([[pfn, 2 ** order]]));
      }
    });
  }
  return pages;
}

function flatLayout(): RamLayout {
  return new RamLayout(blocksOfPages([0, SPAN]));
}

describe('walk', () => {
  it('reports the pages of all free blocks from the smallest order on, each once and in ascending order', () => {
    fc.assert(
      fc.property(someFreePages, everyOrder, (flags, minOrder) => {
        const free = bitmapOf(flags);
        const ranges = report(new WalkSource(free, flatLayout(), minOrder));
        expect(pagesOf(ranges)).toEqual(pagesInBlocksFrom(minOrder, free));
      }),
    );
  });

  it('reports a long run as one range', () => {
    const free = bitmapOf(Array.from({ length: SPAN }, (_, pfn) => pfn >= 3 && pfn < 4000));
    expect(report(new WalkSource(free, flatLayout(), 0))).toEqual([[3, 3997]]);
    expect(report(new WalkSource(free, flatLayout(), 10))).toEqual([[1024, 2048]]);
  });

  it('splits ranges where segments end and reports nothing in a hole', () => {
    const layout = new RamLayout(blocksOfPages([0, 1000], [2000, 1000]), 300 * PAGE_SIZE);
    const free = bitmapOf(
      Array.from({ length: 3000 }, (_, pfn) => (pfn >= 250 && pfn < 1000) || (pfn >= 2000 && pfn < 2350)),
    );
    expect(report(new WalkSource(free, layout, 0))).toEqual([
      [250, 50],
      [300, 300],
      [600, 300],
      [900, 100],
      [2000, 300],
      [2300, 50],
    ]);
  });

  it('keeps a smallest order also where a segment ends within a block', () => {
    const layout = new RamLayout(blocksOfPages([0, 128]), 36 * PAGE_SIZE);
    const free = bitmapOf(Array.from({ length: 128 }, () => true));
    expect(report(new WalkSource(free, layout, 3))).toEqual([
      [0, 32],
      [40, 32],
      [72, 32],
      [112, 16],
    ]);
  });

  it('goes on from a position that was saved, and begins anew with each report', () => {
    const free = bitmapOf(Array.from({ length: SPAN }, (_, pfn) => pfn % 100 < 50));
    const walk = new WalkSource(free, flatLayout(), 0);
    const all = report(walk);
    expect(report(walk)).toEqual(all);
    const run: PageRun = { pfn: 0, pageCount: 0 };
    walk.begin();
    walk.nextInto(run);
    walk.nextInto(run);
    const other = new WalkSource(free, flatLayout(), 0);
    other.position = walk.position;
    const rest: [number, number][] = [];
    while (other.nextInto(run)) {
      rest.push([run.pfn, run.pageCount]);
    }
    expect(rest).toEqual(all.slice(2));
  });

  it('takes nothing from the guest', () => {
    const free = bitmapOf(Array.from({ length: SPAN }, () => true));
    const walk = new WalkSource(free, flatLayout(), 0);
    report(walk);
    walk.dropped();
    walk.release();
    expect(free.count()).toBe(SPAN);
    expect(walk.waitsForRing).toBe(true);
  });
});

describe('hold', () => {
  function makeHold(flags: readonly boolean[], minOrder = 0, keepPages = 0) {
    const { allocator } = makeAllocator(flags.length);
    allocator.initialise(bitmapOf(flags));
    const held = PageBitmap.allocate(atomicMapper, flags.length);
    return { allocator, held, hold: new HoldSource(allocator, held, minOrder, keepPages) };
  }

  function allFree(): boolean[] {
    return Array.from({ length: SPAN }, () => true);
  }

  it('reports the pages of all free blocks from the smallest order on, each once, and holds just these', () => {
    fc.assert(
      fc.property(someFreePages, everyOrder, (flags, minOrder) => {
        const { allocator, held, hold } = makeHold(flags, minOrder);
        const expected = pagesInBlocksFrom(minOrder, bitmapOf(flags));
        const pages = pagesOf(report(hold)).sort((a, b) => a - b);
        expect(pages).toEqual(expected);
        expect(pagesIn(held)).toEqual(expected);
        expect(pagesIn(allocator.free)).toEqual(
          flags.flatMap((free, pfn) => (free && !held.test(pfn) ? [pfn] : [])),
        );
        expect(allocator.inconsistency()).toBeUndefined();
      }),
    );
  });

  it('reports the largest blocks first', () => {
    const { hold } = makeHold(allFree().map((_, pfn) => pfn !== 2048));
    const sizes = report(hold).map(([, pageCount]) => pageCount);
    expect(sizes).toEqual([...sizes].sort((a, b) => b - a));
    expect(sizes.at(0)).toBe(1024);
    expect(sizes.at(-1)).toBe(1);
  });

  it('reports nothing twice while it holds it', () => {
    const { hold } = makeHold(allFree(), 4);
    expect(pagesOf(report(hold))).toHaveLength(SPAN);
    expect(report(hold)).toEqual([]);
  });

  it('leaves the guest what it is to keep', () => {
    const { allocator, hold } = makeHold(allFree(), 0, 1500);
    report(hold);
    expect(allocator.freePages).toBeGreaterThanOrEqual(1500);
    expect(allocator.freePages).toBeLessThan(1500 + 1024);
  });

  it('gives everything back, however it was taken: dropped, shrunk and released', () => {
    const ways = fc.array(
      fc.constantFrom('drop', 'shrink', 'give back at', 'allocate', 'finish', 'release'),
      {
        maxLength: 30,
      },
    );
    fc.assert(
      fc.property(someFreePages, everyOrder, ways, fc.nat(SPAN - 1), (flags, minOrder, how, where) => {
        const { allocator, held, hold } = makeHold(flags, minOrder);
        const own: number[] = [];
        const run: PageRun = { pfn: 0, pageCount: 0 };
        hold.begin();
        for (const way of how) {
          const more = hold.nextInto(run);
          if (way === 'drop' && more) {
            hold.dropped(run);
          } else if (way === 'shrink') {
            const before = held.count();
            expect(hold.shrink()).toBe(before > 0);
            expect(held.count() < before).toBe(before > 0);
          } else if (way === 'give back at') {
            // What the guest takes of it at once is lost to it if the hold believes that it still holds it.
            const pfn = (where + own.length * 977) % SPAN;
            const wasHeld = held.test(pfn);
            const wasFree = allocator.free.test(pfn);
            expect(hold.giveBackAt(pfn)).toBe(wasHeld);
            expect(held.test(pfn)).toBe(false);
            expect(allocator.allocateAt(pfn)).toBe(wasHeld || wasFree);
            own.push(...(wasHeld || wasFree ? [pfn] : []));
          } else if (way === 'finish') {
            hold.finish();
          } else if (way === 'allocate') {
            const pfn = allocator.allocate(0);
            expect(pfn === -1 || !held.test(pfn)).toBe(true);
            own.push(...(pfn === -1 ? [] : [pfn]));
          } else if (way === 'release') {
            hold.release();
            expect(held.count()).toBe(0);
          }
          expect(allocator.freePages + held.count() + own.length).toBe(flags.filter(Boolean).length);
          expect(allocator.inconsistency()).toBeUndefined();
        }
        hold.release();
        for (const pfn of own) {
          allocator.release(pfn, 0);
        }
        expect(held.count()).toBe(0);
        expect(pagesIn(allocator.free)).toEqual(pagesIn(bitmapOf(flags)));
      }),
    );
  });

  it('gives back a block at a time when memory runs short, until none is held', () => {
    const { allocator, held, hold } = makeHold(allFree());
    report(hold);
    expect(allocator.allocate(0)).toBe(-1);
    expect(hold.shrink()).toBe(true);
    expect(held.count()).toBe(SPAN - 1024);
    expect(allocator.allocate(10)).toBe(0);
    let blocks = 1;
    while (hold.shrink()) {
      blocks += 1;
    }
    expect(blocks).toBe(4);
    expect(held.count()).toBe(0);
  });

  it('gives back the largest block around a page, and no more', () => {
    const { allocator, held, hold } = makeHold(allFree().map((_, pfn) => pfn !== 2050));
    report(hold);
    expect(hold.giveBackAt(2050)).toBe(false);
    expect(hold.giveBackAt(3000)).toBe(true);
    expect(SPAN - 1 - held.count()).toBe(512); // 2560–3071: its buddy of order 9 is not held whole
    expect(pagesIn(allocator.free).at(0)).toBe(2560);
    expect(hold.giveBackAt(3000)).toBe(false);
    expect(hold.giveBackAt(1023)).toBe(true);
    expect(allocator.blocksByOrder()[10]).toBe(1);
  });

  it('looks for no block beyond the end of memory, which no large block reaches', () => {
    const { allocator, held, hold } = makeHold(allFree().slice(0, 992));
    report(hold);
    expect(held.count()).toBe(992);
    expect(hold.giveBackAt(991)).toBe(true);
    expect(pagesIn(allocator.free)).toEqual(Array.from({ length: 32 }, (_, i) => 960 + i));
  });

  it('gives a dropped block back once when a page of it is wanted', () => {
    const { allocator, held, hold } = makeHold(allFree());
    const run: PageRun = { pfn: 0, pageCount: 0 };
    hold.begin();
    hold.nextInto(run);
    hold.dropped(run);
    expect(hold.giveBackAt(run.pfn + 7)).toBe(true);
    expect(allocator.allocateAt(run.pfn + 7)).toBe(true);
    hold.finish();
    expect(held.count()).toBe(0);
    expect(allocator.free.test(run.pfn + 7)).toBe(false);
    expect(allocator.freePages).toBe(SPAN - 1);
  });

  it('drops at once when the ring is full, as Linux does', () => {
    expect(makeHold(allFree()).hold.waitsForRing).toBe(false);
  });
});
