import type { DirtyLog } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { PAGE_SHIFT, pfnOf } from '../memory/page.js';
import { bitmapWords, PageBitmap } from '../memory/page-bitmap.js';
import type { SharedWords, WordMapper } from '../memory/shared-words.js';

/**
 * Guest RAM as the guest's own programs see it: every write is followed by its mark in the dirty log (I1).
 * A real machine's processor does both at once; here each writer does it through this.
 */
export class GuestRam {
  readonly memory: GuestMemory;
  readonly map: WordMapper;
  readonly log: DirtyLog;

  constructor(memory: GuestMemory, map: WordMapper, log: DirtyLog) {
    this.memory = memory;
    this.map = map;
    this.log = log;
  }

  /** Bytes `[gpa, gpa + lengthBytes)` were written. Call it after the write, before the next safe point. */
  wrote(gpa: number, lengthBytes: number): void {
    this.log.markBytes(gpa, lengthBytes);
  }

  /** A view of 32-bit words in RAM; the area lies in one segment. */
  uint32(gpa: number, length: number): Uint32Array {
    const segment = this.memory.segmentOf(gpa, length * 4);
    if (segment === undefined) {
      throw new RangeError(`${length} words at ${gpa} do not lie in RAM of one segment`);
    }
    return new Uint32Array(segment.bytes.buffer, segment.bytes.byteOffset + gpa - segment.startGpa, length);
  }

  /**
   * A page bitmap that lives in RAM and marks the page of each word it changes. Only the vCPU changes it; whoever
   * sends the page may read it torn, and it goes again, because the mark follows the change (I1, I5).
   */
  bitmap(gpa: number, pageCount: number): PageBitmap {
    const segment = this.memory.segmentOf(gpa, bitmapWords(pageCount) * 4);
    if (segment === undefined) {
      throw new RangeError(`a bitmap at ${gpa} does not lie in RAM of one segment`);
    }
    const words = this.map.ownWords(
      segment.bytes.buffer,
      segment.bytes.byteOffset + gpa - segment.startGpa,
      bitmapWords(pageCount),
    );
    return new PageBitmap(new LoggedWords(words, this.log, pfnOf(gpa)), pageCount);
  }
}

const WORDS_PER_PAGE_SHIFT = PAGE_SHIFT - 2;

/** Words of guest RAM whose every change is followed by its mark in the dirty log. */
class LoggedWords implements SharedWords {
  readonly length: number;
  readonly #words: SharedWords;
  readonly #log: DirtyLog;
  readonly #firstPfn: number;

  constructor(words: SharedWords, log: DirtyLog, firstPfn: number) {
    this.#words = words;
    this.length = words.length;
    this.#log = log;
    this.#firstPfn = firstPfn;
  }

  #mark(index: number): void {
    this.#log.mark(this.#firstPfn + (index >>> WORDS_PER_PAGE_SHIFT));
  }

  load(index: number): number {
    return this.#words.load(index);
  }

  store(index: number, value: number): void {
    this.#words.store(index, value);
    this.#mark(index);
  }

  exchange(index: number, value: number): number {
    const old = this.#words.exchange(index, value);
    this.#mark(index);
    return old;
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    const old = this.#words.compareExchange(index, expected, replacement);
    this.#mark(index);
    return old;
  }

  or(index: number, bits: number): number {
    const old = this.#words.or(index, bits);
    this.#mark(index);
    return old;
  }

  and(index: number, bits: number): number {
    const old = this.#words.and(index, bits);
    this.#mark(index);
    return old;
  }

  add(index: number, value: number): number {
    const old = this.#words.add(index, value);
    this.#mark(index);
    return old;
  }

  notify(): void {}

  wait(): void {
    throw new Error('nothing ever waits on guest RAM');
  }

  waitAsync(): undefined {
    throw new Error('nothing ever waits on guest RAM');
  }
}
