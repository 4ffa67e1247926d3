import { describe, expect, it } from 'vitest';
import { bitmapWords, PageBitmap, type PageRun } from '../../../src/memory/page-bitmap.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';

function bitmapOf(pageCount: number, ...pages: number[]): PageBitmap {
  const bitmap = PageBitmap.allocate(atomicMapper, pageCount);
  for (const pfn of pages) {
    bitmap.set(pfn);
  }
  return bitmap;
}

function setPages(bitmap: PageBitmap): number[] {
  return Array.from({ length: bitmap.pageCount }, (_, pfn) => pfn).filter((pfn) => bitmap.test(pfn));
}

function runs(bitmap: PageBitmap, from = 0, limit?: number): string[] {
  const run: PageRun = { pfn: 0, pageCount: 0 };
  const found: string[] = [];
  for (let at = from; bitmap.nextRunInto(run, at, limit); at = run.pfn + run.pageCount) {
    found.push(`${run.pfn}+${run.pageCount}`);
  }
  return found;
}

function span(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

describe('PageBitmap', () => {
  it.each([
    [0, 0],
    [1, 1],
    [32, 1],
    [33, 2],
    [2 ** 20, 2 ** 15],
  ])('takes for %d pages %d words', (pageCount, words) => {
    expect(bitmapWords(pageCount)).toBe(words);
  });

  it('starts with all bits clear', () => {
    expect(bitmapOf(100).count()).toBe(0);
  });

  it('keeps a page at the bit that the diagram says', () => {
    const buffer = new ArrayBuffer(12);
    const bitmap = new PageBitmap(atomicMapper.words(buffer, 0, 3), 96);
    bitmap.set(0);
    bitmap.set(31);
    bitmap.set(33);
    expect([...new Uint32Array(buffer)]).toEqual([0x8000_0001, 2, 0]);
    bitmap.clear(31);
    expect([...new Uint32Array(buffer)]).toEqual([1, 2, 0]);
  });

  it('refuses words that are too few', () => {
    const words = atomicMapper.words(new ArrayBuffer(8), 0, 2);
    expect(() => new PageBitmap(words, 65)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    expect(new PageBitmap(words, 64).wordCount).toBe(2);
  });

  it('lies in shared memory if it is asked to, else in private memory', () => {
    const kinds: ArrayBufferLike[] = [];
    const spy = {
      ...atomicMapper,
      words: (buffer: ArrayBufferLike, byteOffset: number, length: number) => {
        kinds.push(buffer);
        return atomicMapper.words(buffer, byteOffset, length);
      },
    };
    PageBitmap.allocate(spy, 10, true);
    PageBitmap.allocate(spy, 10);
    expect(kinds.map((buffer) => buffer instanceof SharedArrayBuffer)).toEqual([true, false]);
  });

  it('sets and clears one page without its neighbours', () => {
    for (const pfn of [0, 1, 31, 32, 63, 64, 99]) {
      const bitmap = bitmapOf(100, pfn);
      expect(setPages(bitmap)).toEqual([pfn]);
      bitmap.setRange(0, 100);
      bitmap.clear(pfn);
      expect(setPages(bitmap)).toEqual(span(0, 100).filter((other) => other !== pfn));
    }
  });

  it.each([
    [0, 1],
    [5, 7],
    [31, 1],
    [31, 2],
    [0, 32],
    [32, 32],
    [30, 40],
    [1, 98],
    [0, 100],
    [99, 1],
  ])('sets and clears the run from %d of %d, and counts what changed', (pfn, pageCount) => {
    const bitmap = bitmapOf(100, 3, 40, 99);
    const before = setPages(bitmap);
    const inside = before.filter((page) => page >= pfn && page < pfn + pageCount);
    expect(bitmap.setRange(pfn, pageCount)).toBe(pageCount - inside.length);
    expect(setPages(bitmap)).toEqual(
      [...new Set([...before, ...span(pfn, pageCount)])].sort((a, b) => a - b),
    );
    expect(bitmap.setRange(pfn, pageCount)).toBe(0);
    expect(bitmap.clearRange(pfn, pageCount)).toBe(pageCount);
    expect(setPages(bitmap)).toEqual(before.filter((page) => !inside.includes(page)));
    expect(bitmap.clearRange(pfn, pageCount)).toBe(0);
  });

  it('changes nothing for an empty run', () => {
    const bitmap = bitmapOf(64, 10);
    expect([bitmap.setRange(9, 0), bitmap.clearRange(10, 0), bitmap.setRange(64, 0)]).toEqual([0, 0, 0]);
    expect(setPages(bitmap)).toEqual([10]);
  });

  it('finds set and clear pages from any page on', () => {
    const bitmap = bitmapOf(128, 0, 31, 32, 100, 127);
    expect([0, 1, 31, 32, 33, 100, 101, 127].map((from) => bitmap.nextSet(from))).toEqual([
      0, 31, 31, 32, 100, 100, 127, 127,
    ]);
    expect([0, 1, 31, 32, 33, 100, 127].map((from) => bitmap.nextClear(from))).toEqual([
      1, 1, 33, 33, 33, 101, 128,
    ]);
  });

  it('gives the limit where there is nothing below it, in mid-word too', () => {
    const bitmap = bitmapOf(100, 50);
    expect([40, 50, 51, 64, 100].map((limit) => bitmap.nextSet(33, limit))).toEqual([40, 50, 50, 50, 50]);
    expect(bitmap.nextSet(51)).toBe(100);
    bitmap.setRange(0, 100);
    expect([1, 31, 32, 33, 99].map((limit) => bitmap.nextClear(0, limit))).toEqual([1, 31, 32, 33, 99]);
    expect(bitmap.nextClear(0)).toBe(100);
  });

  it('gives the limit where the range is empty or upside down', () => {
    const bitmap = bitmapOf(64, 3);
    expect(bitmap.nextSet(3, 3)).toBe(3);
    expect(bitmap.nextSet(5, 3)).toBe(3);
    expect(bitmap.nextClear(0, 0)).toBe(0);
    expect(bitmap.nextSet(64)).toBe(64);
    expect(bitmap.nextClear(64)).toBe(64);
  });

  it('finds the runs, cut at both ends of what was asked for', () => {
    const bitmap = bitmapOf(100, ...span(0, 3), ...span(30, 40), 99);
    expect(runs(bitmap)).toEqual(['0+3', '30+40', '99+1']);
    expect(runs(bitmap, 2, 50)).toEqual(['2+1', '30+20']);
    expect(runs(bitmap, 31, 32)).toEqual(['31+1']);
    expect(runs(bitmap, 3, 30)).toEqual([]);
    expect(runs(bitmap, 50, 50)).toEqual([]);
  });

  it('leaves the run of the caller alone when there is none', () => {
    const run = { pfn: 7, pageCount: 8 };
    expect(bitmapOf(64).nextRunInto(run, 0)).toBe(false);
    expect(run).toEqual({ pfn: 7, pageCount: 8 });
  });

  it('counts words from one to before another', () => {
    const bitmap = bitmapOf(100, 0, 31, 32, 33, 99);
    expect([
      bitmap.count(),
      bitmap.count(1),
      bitmap.count(0, 1),
      bitmap.count(1, 3),
      bitmap.count(2, 2),
    ]).toEqual([5, 3, 2, 2, 0]);
  });

  it('clears everything', () => {
    const bitmap = bitmapOf(100, ...span(0, 100));
    bitmap.clearAll();
    expect(bitmap.count()).toBe(0);
  });
});
