import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../../src/errors.js';
import { BuddyAllocator, blocksOf, cutIntoBlocks, MAX_ORDER } from '../../../src/guest/buddy-allocator.js';
import { bitmapOf, makeAllocator, pagesIn, UnmarkedWrites } from './small-guest.js';

const SPAN = 4096;

function allFree(pfnSpan = SPAN): boolean[] {
  return Array.from({ length: pfnSpan }, () => true);
}

function freeExcept(...used: readonly number[]): boolean[] {
  return allFree().map((free, pfn) => free && !used.includes(pfn));
}

function initialised(free: readonly boolean[]): ReturnType<typeof makeAllocator> {
  const parts = makeAllocator(free.length);
  parts.allocator.initialise(bitmapOf(free));
  return parts;
}

function cut(pfn: number, pageCount: number): [pfn: number, order: number][] {
  const blocks: [number, number][] = [];
  cutIntoBlocks(pfn, pageCount, (start, order) => blocks.push([start, order]));
  return blocks;
}

describe('cutting a run into blocks', () => {
  it('takes the largest naturally aligned block at each place', () => {
    expect(cut(3, 14)).toEqual([
      [3, 0],
      [4, 2],
      [8, 3],
      [16, 0],
    ]);
  });

  it('goes no further than the largest order, at page 0 too', () => {
    expect(cut(0, 2500)).toEqual([
      [0, 10],
      [1024, 10],
      [2048, 8],
      [2304, 7],
      [2432, 6],
      [2496, 2],
    ]);
  });

  it('cuts nothing out of nothing', () => {
    expect(cut(17, 0)).toEqual([]);
  });

  it('counts an incomplete block at the end of memory as one', () => {
    expect(blocksOf(1025, 10)).toBe(2);
    expect(blocksOf(1024, 10)).toBe(1);
  });
});

describe('allocating', () => {
  it('splits the smallest block that is large enough and gives the upper halves back', () => {
    const { allocator } = initialised(allFree(1024));
    expect(allocator.allocate(0)).toBe(0);
    expect(allocator.blocksByOrder()).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    expect(allocator.freePages).toBe(1023);
    expect(allocator.inconsistency()).toBeUndefined();
  });

  it('takes the lowest order first, whatever larger blocks lie before it', () => {
    const { allocator } = initialised(freeExcept(1023, 3000, 3003));
    expect(allocator.blocksByOrder().slice(0, 3)).toEqual([3, 1, 2]);
    expect(allocator.allocate(1)).toBe(1020);
    expect(allocator.allocate(0)).toBe(1022);
  });

  it('aligns every block to its size', () => {
    const { allocator } = initialised(freeExcept(0, 5, 77, 1500));
    for (let order = 0; order <= MAX_ORDER; order += 1) {
      const pfn = allocator.allocate(order);
      expect(pfn).toBeGreaterThan(0);
      expect(pfn % 2 ** order).toBe(0);
    }
  });

  it('says -1 when no block is large enough, though enough pages are free', () => {
    const { allocator } = initialised(allFree().map((_, pfn) => pfn % 2 === 0));
    expect(allocator.freePages).toBe(2048);
    expect(allocator.largestOrder()).toBe(0);
    expect(allocator.allocate(1)).toBe(-1);
    expect(allocator.freePages).toBe(2048);
  });

  it('says -1 when nothing is free', () => {
    const { allocator } = initialised(allFree(8));
    expect(allocator.allocate(3)).toBe(0);
    expect(allocator.largestOrder()).toBe(-1);
    expect(allocator.allocate(0)).toBe(-1);
  });

  it('goes on behind the block that it gave last, and around', () => {
    const { allocator } = initialised(allFree(4096));
    const first = [allocator.allocate(MAX_ORDER), allocator.allocate(MAX_ORDER)];
    allocator.release(first[0]!, MAX_ORDER);
    const then = [
      allocator.allocate(MAX_ORDER),
      allocator.allocate(MAX_ORDER),
      allocator.allocate(MAX_ORDER),
    ];
    expect([...first, ...then]).toEqual([0, 1024, 2048, 3072, 0]);
  });
});

describe('allocating a certain page', () => {
  it('splits the block in which it lies and gives the other halves back', () => {
    const { allocator } = initialised(allFree(1024));
    expect(allocator.allocateAt(5)).toBe(true);
    expect(pagesIn(allocator.free)).not.toContain(5);
    // 4; 6–7; 0–3; 8–15; 16–31; …
    expect(allocator.blocksByOrder()).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    expect(allocator.freePages).toBe(1023);
    expect(allocator.inconsistency()).toBeUndefined();
    allocator.release(5, 0);
    expect(allocator.blocksByOrder()).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
  });

  it('takes the last page of memory, which lies in no larger block', () => {
    const { allocator } = initialised(allFree(7));
    expect(allocator.allocateAt(6)).toBe(true);
    expect(allocator.blocksByOrder().slice(0, 3)).toEqual([0, 1, 1]);
  });

  it.each([
    ['is not free', 5],
    ['lies behind the end of memory', 4096],
    ['lies far behind it', 2 ** 30],
  ])('takes nothing when the page %s, and stays as it was', (_, pfn) => {
    const { allocator } = initialised(freeExcept(5));
    const blocks = allocator.blocksByOrder();
    expect(allocator.allocateAt(pfn)).toBe(false);
    expect(allocator.blocksByOrder()).toEqual(blocks);
    expect(allocator.freePages).toBe(SPAN - 1);
    expect(allocator.inconsistency()).toBeUndefined();
  });
});

describe('releasing', () => {
  it('merges buddies up to the largest order and no further', () => {
    const { allocator } = initialised(allFree(2048));
    const pages = Array.from({ length: 2048 }, () => allocator.allocate(0));
    expect(allocator.freePages).toBe(0);
    for (const pfn of pages) {
      allocator.release(pfn, 0);
    }
    expect(allocator.blocksByOrder()).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
  });

  it('does not merge neighbours that are no buddies', () => {
    const { allocator } = initialised(allFree(8).map((_, pfn) => pfn === 1));
    allocator.release(2, 0);
    expect(allocator.blocksByOrder()[0]).toBe(2);
    expect(allocator.blocksByOrder()[1]).toBe(0);
  });

  it('merges at the odd end of memory only with what exists', () => {
    const { allocator } = initialised(allFree(7));
    expect(allocator.blocksByOrder().slice(0, 3)).toEqual([1, 1, 1]);
    expect(allocator.allocate(0)).toBe(6);
    allocator.release(6, 0);
    expect(allocator.blocksByOrder().slice(0, 3)).toEqual([1, 1, 1]);
  });

  it('gives back a run of any length and alignment', () => {
    const { allocator } = initialised(Array.from({ length: SPAN }, () => false));
    allocator.releaseRun(3, 2000);
    expect(pagesIn(allocator.free)).toEqual(Array.from({ length: 2000 }, (_, i) => i + 3));
    expect(allocator.inconsistency()).toBeUndefined();
  });

  it.each([
    ['the same block', 8, 2],
    ['a part of it', 9, 0],
    ['a larger block around it', 8, 3],
  ])('refuses to release %s twice, and stays as it was', (_, pfn, order) => {
    const { allocator } = initialised(Array.from({ length: 64 }, () => false));
    allocator.release(8, 2);
    expect(() => allocator.release(pfn, order)).toThrow(
      expect.toSatisfy((thrown) => isLacunaError(thrown, 'ILLEGAL_STATE')),
    );
    expect(pagesIn(allocator.free)).toEqual([8, 9, 10, 11]);
    expect(allocator.freePages).toBe(4);
    expect(allocator.inconsistency()).toBeUndefined();
  });
});

describe('state in guest RAM', () => {
  it('is found again by whoever attaches to the same RAM', () => {
    const { allocator, ram, addresses } = initialised(freeExcept(0, 1, 2, 999));
    allocator.allocate(3);
    allocator.release(1, 0);
    const again = new BuddyAllocator(ram, addresses, SPAN);
    expect(pagesIn(again.free)).toEqual(pagesIn(allocator.free));
    expect(again.blocksByOrder()).toEqual(allocator.blocksByOrder());
    expect(again.freePages).toBe(allocator.freePages);
    expect(again.inconsistency()).toBeUndefined();
  });

  it('is all replaced by initialise', () => {
    const { allocator } = initialised(allFree());
    allocator.allocate(4);
    allocator.initialise(bitmapOf(freeExcept(10)));
    expect(allocator.freePages).toBe(SPAN - 1);
    expect(pagesIn(allocator.free)).not.toContain(10);
    expect(allocator.inconsistency()).toBeUndefined();
  });

  it('marks each page of it that changes, also where its bitmaps take several pages', () => {
    const pfnSpan = 100_000; // the free bitmap takes 4 pages, that of order 0 too, that of order 1 two
    const { allocator, memory, log } = initialised(allFree(pfnSpan));
    const writes = new UnmarkedWrites(memory, log);
    const pages = Array.from({ length: 40_000 }, () => allocator.allocate(0));
    expect(writes.changed().length).toBeGreaterThan(4);
    expect(writes.unmarked()).toEqual([]);
    writes.restart();
    for (const pfn of pages) {
      allocator.release(pfn, 0);
    }
    expect(writes.changed().length).toBeGreaterThan(4);
    expect(writes.unmarked()).toEqual([]);
    writes.restart();
    allocator.initialise(bitmapOf(Array.from({ length: pfnSpan }, (_, pfn) => pfn % 3 === 0)));
    expect(writes.unmarked()).toEqual([]);
  });
});

describe('inconsistency', () => {
  function damaged(damage: (parts: ReturnType<typeof makeAllocator>, order: (n: number) => number) => void) {
    const parts = initialised(freeExcept(3, 64, 65, 1030));
    expect(parts.allocator.inconsistency()).toBeUndefined();
    damage(parts, (n) => parts.addresses.orderGpa[n]!);
    return parts.allocator.inconsistency();
  }

  it('finds a page of a free block that is not free', () => {
    expect(damaged(({ allocator }) => allocator.free.clear(2000))).toMatch(/order 9 at page 1536/);
  });

  it('finds a free page that is in no block', () => {
    expect(damaged(({ allocator }) => allocator.free.set(3))).toMatch(/4093 pages are free, and 4092/);
  });

  it('finds a block that was lost', () => {
    expect(damaged(({ ram }, order) => ram.bitmap(order(10), 4).clear(2))).toMatch(/and 3068 are in free/);
  });

  it('finds buddies that were not merged', () => {
    expect(
      damaged(({ ram }, order) => {
        ram.bitmap(order(10), 4).clear(2);
        ram.bitmap(order(9), 8).setRange(4, 2);
      }),
    ).toMatch(/order 9 at page 2048 are buddies and not merged/);
  });

  it('finds a block within a larger one, also where the sum of pages is right', () => {
    expect(
      damaged(({ ram }, order) => {
        ram.bitmap(order(0), 4096).clear(2); // page 2 is lost
        ram.bitmap(order(0), 4096).set(3000); // and page 3000 counted twice
      }),
    ).toMatch(/page 3000/);
  });
});
