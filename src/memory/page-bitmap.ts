import { LacunaError } from '../errors.js';
import { bitMask, lowestBit, PAGES_PER_WORD, popcount32 } from './page.js';
import type { SharedWords, WordMapper } from './shared-words.js';

/** A run of pages; filled in place by the `next…` functions so that no object is made for each run. */
export interface PageRun {
  pfn: number;
  pageCount: number;
}

/** 32-bit words that a bitmap of `pageCount` pages takes. */
export function bitmapWords(pageCount: number): number {
  return Math.ceil(pageCount / PAGES_PER_WORD);
}

/**
 * One bit for each page frame, in words that threads share; every change is one atomic operation on a word.
 *
 * ```
 * word   0                                1
 * bit    31 … 2 1 0                       31 … 1 0
 * pfn    31 … 2 1 0                       63 … 33 32
 * ```
 */
export class PageBitmap {
  readonly words: SharedWords;
  /** How many pages the bitmap covers; bits beyond stay 0. */
  readonly pageCount: number;
  readonly wordCount: number;

  constructor(words: SharedWords, pageCount: number) {
    this.words = words;
    this.pageCount = pageCount;
    this.wordCount = bitmapWords(pageCount);
    if (words.length < this.wordCount) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `a bitmap of ${pageCount} pages needs ${this.wordCount} words`,
      );
    }
  }

  /** The bitmap that lies at a place in a buffer. */
  static over(map: WordMapper, buffer: ArrayBufferLike, pageCount: number, byteOffset = 0): PageBitmap {
    return new PageBitmap(map.words(buffer, byteOffset, bitmapWords(pageCount)), pageCount);
  }

  /** A bitmap of its own (shared between threads if `shared`), all clear. */
  static allocate(map: WordMapper, pageCount: number, shared = false): PageBitmap {
    const bytes = bitmapWords(pageCount) * 4;
    const buffer = shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes);
    return PageBitmap.over(map, buffer, pageCount);
  }

  /** A bitmap that one thread has to itself, all clear. */
  static allocateOwn(map: WordMapper, pageCount: number): PageBitmap {
    const words = bitmapWords(pageCount);
    return new PageBitmap(map.ownWords(new ArrayBuffer(words * 4), 0, words), pageCount);
  }

  /** Whether a page's bit is set. */
  test(pfn: number): boolean {
    return ((this.words.load(pfn >>> 5) >>> (pfn & 31)) & 1) === 1;
  }

  /** Sets a page's bit. Unconditional: never "only if it is not set yet" (I1). */
  set(pfn: number): void {
    this.words.or(pfn >>> 5, 1 << (pfn & 31));
  }

  /** Clears a page's bit. */
  clear(pfn: number): void {
    this.words.and(pfn >>> 5, ~(1 << (pfn & 31)));
  }

  /** Sets the bits of a run; returns how many were clear. */
  setRange(pfn: number, pageCount: number): number {
    let changed = 0;
    while (pageCount > 0) {
      const bit = pfn & 31;
      const bits = Math.min(PAGES_PER_WORD - bit, pageCount);
      const mask = bitMask(bit, bits);
      changed += popcount32(mask & ~this.words.or(pfn >>> 5, mask));
      pfn += bits;
      pageCount -= bits;
    }
    return changed;
  }

  /** Sets the bits of runs as {@link runs} has them. */
  setRuns(runs: readonly number[]): void {
    for (let i = 0; i + 1 < runs.length; i += 2) {
      this.setRange(runs[i]!, runs[i + 1]!);
    }
  }

  /** All runs of set bits, for a saved state: pfn, count, pfn, count, … */
  runs(): number[] {
    const runs: number[] = [];
    const run: PageRun = { pfn: 0, pageCount: 0 };
    for (let from = 0; this.nextRunInto(run, from); from = run.pfn + run.pageCount) {
      runs.push(run.pfn, run.pageCount);
    }
    return runs;
  }

  /** Clears the bits of a run; returns how many were set. */
  clearRange(pfn: number, pageCount: number): number {
    let changed = 0;
    while (pageCount > 0) {
      const bit = pfn & 31;
      const bits = Math.min(PAGES_PER_WORD - bit, pageCount);
      const mask = bitMask(bit, bits);
      changed += popcount32(mask & this.words.and(pfn >>> 5, ~mask));
      pfn += bits;
      pageCount -= bits;
    }
    return changed;
  }

  /** The first page at or after `from` whose bit is set, or `limit` if there is none below it. */
  nextSet(from: number, limit: number = this.pageCount): number {
    if (from >= limit) {
      return limit;
    }
    const lastWord = (limit - 1) >>> 5;
    let index = from >>> 5;
    let word = this.words.load(index) & (-1 << (from & 31));
    while (word === 0) {
      index += 1;
      if (index > lastWord) {
        return limit;
      }
      word = this.words.load(index);
    }
    return Math.min(limit, index * PAGES_PER_WORD + lowestBit(word));
  }

  /** The first page at or after `from` whose bit is clear, or `limit` if there is none below it. */
  nextClear(from: number, limit: number = this.pageCount): number {
    if (from >= limit) {
      return limit;
    }
    const lastWord = (limit - 1) >>> 5;
    let index = from >>> 5;
    let word = ~this.words.load(index) & (-1 << (from & 31));
    while (word === 0) {
      index += 1;
      if (index > lastWord) {
        return limit;
      }
      word = ~this.words.load(index);
    }
    return Math.min(limit, index * PAGES_PER_WORD + lowestBit(word));
  }

  /**
   * The first run of set pages at or after `from` and below `limit`, into `out`; false if there is none.
   * What other threads change meanwhile may or may not be seen.
   */
  nextRunInto(out: PageRun, from: number, limit: number = this.pageCount): boolean {
    const start = this.nextSet(from, limit);
    if (start === limit) {
      return false;
    }
    out.pfn = start;
    out.pageCount = this.nextClear(start, limit) - start;
    return true;
  }

  /** How many bits of the words from `firstWord` to before `endWord` are set. */
  count(firstWord = 0, endWord: number = this.wordCount): number {
    let total = 0;
    for (let index = firstWord; index < endWord; index += 1) {
      const word = this.words.load(index);
      if (word !== 0) {
        total += popcount32(word);
      }
    }
    return total;
  }

  /** Clears every bit, a word at a time. */
  clearAll(): void {
    for (let index = 0; index < this.wordCount; index += 1) {
      this.words.store(index, 0);
    }
  }
}
