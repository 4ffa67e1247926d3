import type { PageRun } from '../../src/memory/page-bitmap.js';

/** The naive twin of PageBitmap: a Set of page frame numbers, and loops that look at one page at a time. */
export class NaiveBitmap {
  readonly pages: Set<number> = new Set();
  readonly pageCount: number;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
  }

  test(pfn: number): boolean {
    return this.pages.has(pfn);
  }

  set(pfn: number): void {
    this.pages.add(pfn);
  }

  clear(pfn: number): void {
    this.pages.delete(pfn);
  }

  setRange(pfn: number, pageCount: number): number {
    const before = this.pages.size;
    for (let i = 0; i < pageCount; i += 1) {
      this.pages.add(pfn + i);
    }
    return this.pages.size - before;
  }

  clearRange(pfn: number, pageCount: number): number {
    const before = this.pages.size;
    for (let i = 0; i < pageCount; i += 1) {
      this.pages.delete(pfn + i);
    }
    return before - this.pages.size;
  }

  nextSet(from: number, limit: number = this.pageCount): number {
    let pfn = from;
    while (pfn < limit && !this.pages.has(pfn)) {
      pfn += 1;
    }
    return Math.min(pfn, limit);
  }

  nextClear(from: number, limit: number = this.pageCount): number {
    let pfn = from;
    while (pfn < limit && this.pages.has(pfn)) {
      pfn += 1;
    }
    return Math.min(pfn, limit);
  }

  nextRun(from: number, limit: number = this.pageCount): PageRun | undefined {
    const pfn = this.nextSet(from, limit);
    return pfn >= limit ? undefined : { pfn, pageCount: this.nextClear(pfn, limit) - pfn };
  }

  /** Pages of the 32-page words from `firstWord` to before `endWord`. */
  count(firstWord = 0, endWord: number = Math.ceil(this.pageCount / 32)): number {
    let total = 0;
    for (const pfn of this.pages) {
      total += pfn >= firstWord * 32 && pfn < endWord * 32 ? 1 : 0;
    }
    return total;
  }

  clearAll(): void {
    this.pages.clear();
  }
}
