import type { RamLayout } from '../../src/memory/ram-layout.js';
import { NaiveBuddy } from './naive-buddy.js';

/** Pages of ranges, one by one. */
export function pagesOfRanges(
  ranges: readonly { readonly pfn: number; readonly pageCount: number }[],
): number[] {
  return ranges.flatMap(({ pfn, pageCount }) => Array.from({ length: pageCount }, (_, i) => pfn + i));
}

/**
 * What *walk* is to report, page by page: those of every naturally aligned block of 2^minOrder pages that is all
 * free and lies in one segment of RAM.
 */
export function naiveWalk(free: readonly boolean[], layout: RamLayout, minOrder: number): number[] {
  const pages: number[] = [];
  const blockPages = 2 ** minOrder;
  for (let pfn = 0; pfn + blockPages <= free.length; pfn += blockPages) {
    const block = Array.from({ length: blockPages }, (_, i) => pfn + i);
    const segment = layout.segmentOfPfn(pfn);
    const isWhole = block.every((page) => free[page] === true && layout.segmentOfPfn(page) === segment);
    if (segment !== undefined && isWhole) {
      pages.push(...block);
    }
  }
  return pages;
}

/**
 * The naive twin of *hold*, on the naive twin of its allocator: who has a page is written down for each page. What
 * was dropped is remembered page by page too, and forgotten as soon as the page is not held any more.
 */
export class NaiveHold {
  readonly buddy: NaiveBuddy;
  readonly held: Set<number> = new Set();
  readonly #dropped = new Set<number>();
  readonly #minOrder: number;
  readonly #keepPages: number;

  constructor(free: readonly boolean[], minOrder: number, keepPages: number) {
    this.buddy = new NaiveBuddy(free);
    this.#minOrder = minOrder;
    this.#keepPages = keepPages;
  }

  /** The next block that is taken: one of the largest, if it is large enough and enough is left. */
  next(): { pfn: number; pageCount: number } | undefined {
    const order = Math.max(-1, ...this.buddy.blocks().map((block) => block.order));
    const left = this.buddy.freePages().length - 2 ** order;
    if (order < this.#minOrder || left < this.#keepPages) {
      return undefined;
    }
    const range = { pfn: this.buddy.allocate(order), pageCount: 2 ** order };
    for (const page of pagesOfRanges([range])) {
      this.held.add(page);
    }
    return range;
  }

  dropped(range: { readonly pfn: number; readonly pageCount: number }): void {
    for (const page of pagesOfRanges([range])) {
      this.#dropped.add(page);
    }
  }

  finish(): void {
    this.giveBack([...this.#dropped]);
  }

  release(): void {
    this.giveBack([...this.held]);
  }

  giveBack(pages: readonly number[]): void {
    for (const page of pages) {
      this.buddy.release(page, 0);
      this.held.delete(page);
      this.#dropped.delete(page);
    }
  }
}
