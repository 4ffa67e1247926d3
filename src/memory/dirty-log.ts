import { pfnOf } from './page.js';
import type { PageBitmap } from './page-bitmap.js';

/** Where drained bits go: `bits` of word `wordIndex` were set and are now the caller's to account for. */
export interface DirtySink {
  /** Bit `i` of `bits` is page `wordIndex * 32 + i`. */
  addDirty(wordIndex: number, bits: number): void;
}

/** Who is told of what the host itself writes into guest RAM, after it has written it (I1). */
export interface WriteLog {
  mark(pfn: number): void;
  /** The pages of `lengthBytes` bytes (1 or more) from `gpa`. */
  markBytes(gpa: number, lengthBytes: number): void;
}

/** Words that one slice of a drain looks at: 1 GiB of guest memory. */
export const DRAIN_SLICE_WORDS = 8192;

/**
 * Which pages were written since the log was last drained.
 *
 * It is always on (I2): a built-in guest marks from its first write, so there is no moment of arming to get
 * wrong. Writers store first and mark afterwards (I1), whoever drains takes the bit first and reads the page
 * afterwards; so a write that a reader of the page misses has its mark still to come, and goes out again.
 *
 * A mark is unconditional. "Skip if already set" would be unsound even on x86: the store may still sit in the
 * writer's store buffer when another processor clears the bit, and nothing would set it again.
 */
export class DirtyLog implements WriteLog {
  readonly bitmap: PageBitmap;
  #drainWord = 0;

  constructor(bitmap: PageBitmap) {
    this.bitmap = bitmap;
  }

  /** Call after the bytes are written. Pairs with the exchange in {@link drainSlice}. */
  mark(pfn: number): void {
    this.bitmap.set(pfn);
  }

  /** Marks a run of pages. Call after the bytes are written. */
  markRange(pfn: number, pageCount: number): void {
    this.bitmap.setRange(pfn, pageCount);
  }

  /** Marks the pages of `lengthBytes` bytes (1 or more) from `gpa`. */
  markBytes(gpa: number, lengthBytes: number): void {
    const first = pfnOf(gpa);
    this.bitmap.setRange(first, pfnOf(gpa + lengthBytes - 1) - first + 1);
  }

  /**
   * Takes the bits of some words and hands them to `sink`; true when the pass over the log is complete.
   * The exchange is atomic: a mark lands before it (and is taken) or after it (and stays for the next pass).
   */
  drainSlice(sink: DirtySink, sliceWords: number = DRAIN_SLICE_WORDS): boolean {
    const { words, wordCount } = this.bitmap;
    const end = Math.min(wordCount, this.#drainWord + sliceWords);
    for (let index = this.#drainWord; index < end; index += 1) {
      if (words.load(index) !== 0) {
        sink.addDirty(index, words.exchange(index, 0));
      }
    }
    this.#drainWord = end === wordCount ? 0 : end;
    return end === wordCount;
  }

  /** A drain that was cut short (by a cancel) is forgotten; what it took is with its sink. */
  restartDrain(): void {
    this.#drainWord = 0;
  }
}
