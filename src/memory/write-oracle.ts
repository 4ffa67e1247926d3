import { bitmapWords, PageBitmap } from './page-bitmap.js';
import type { SharedWords, WordMapper } from './shared-words.js';

const SEQUENCE = 0;
const SLOT_WORDS = 1;
const SLOTS = 8;
const WORDS_PER_SLOT = 2;
const HEADER_WORDS = 32;

/**
 * What the verifier believes instead of the engine: a record, outside guest RAM, of when each page was last
 * written and under which session it was declared free.
 *
 * The guest stamps a page *before* it writes it and notes a range *before* it puts it on the ring; the host notes
 * a session *before* it issues its id. All three draw on one sequence, so that at switchover I7 can be judged
 * page by page: a page that differs is in order only if it was declared free under a session since whose issue
 * it was not written. The engine neither reads nor writes any of this.
 */
export class WriteOracle {
  readonly buffer: ArrayBufferLike;
  readonly pageCount: number;
  readonly #words: SharedWords;
  readonly #lastWrite: Uint32Array;
  /** Sequence number of the issue of the newest session, folded from slots, that declared the page; 0: none. */
  readonly #declaredAt: Uint32Array;
  readonly #slots: readonly PageBitmap[];

  constructor(map: WordMapper, buffer: ArrayBufferLike, pageCount: number) {
    this.buffer = buffer;
    this.pageCount = pageCount;
    this.#words = map.words(buffer, 0, HEADER_WORDS);
    const bitmapBytes = bitmapWords(pageCount) * 4;
    let at = HEADER_WORDS * 4;
    this.#lastWrite = new Uint32Array(buffer, at, pageCount);
    at += pageCount * 4;
    this.#declaredAt = new Uint32Array(buffer, at, pageCount);
    at += pageCount * 4;
    this.#slots = Array.from({ length: SLOTS }, (_, i) =>
      PageBitmap.over(map, buffer, pageCount, at + i * bitmapBytes),
    );
  }

  /** Bytes of the buffer for a guest of `pageCount` page frames. */
  static byteLength(pageCount: number): number {
    return HEADER_WORDS * 4 + pageCount * 8 + SLOTS * bitmapWords(pageCount) * 4;
  }

  /** Forgets everything. No thread may be using it. */
  reset(): void {
    for (let i = 0; i < HEADER_WORDS; i += 1) {
      this.#words.store(i, 0);
    }
    this.#lastWrite.fill(0);
    this.#declaredAt.fill(0);
    for (const slot of this.#slots) {
      slot.clearAll();
    }
  }

  /** Guest: a page is about to be written. */
  stampWrite(pfn: number): void {
    this.#lastWrite[pfn] = this.#words.add(SEQUENCE, 1) + 1;
  }

  /** Guest: a range is about to be declared free under `id`. */
  declared(id: number, pfn: number, pageCount: number): void {
    for (let slot = 0; slot < SLOTS; slot += 1) {
      if (this.#words.load(SLOT_WORDS + slot * WORDS_PER_SLOT) >>> 0 === id) {
        this.#slots[slot]!.setRange(pfn, pageCount);
        return;
      }
    }
  }

  /** Host: a session's id is about to be issued. */
  sessionIssued(id: number): void {
    let slot = 0;
    let oldest = Number.POSITIVE_INFINITY;
    for (let i = 0; i < SLOTS; i += 1) {
      const used = this.#words.load(SLOT_WORDS + i * WORDS_PER_SLOT) !== 0;
      const issuedAt = used ? this.#issuedAt(i) : -1;
      if (issuedAt < oldest) {
        oldest = issuedAt;
        slot = i;
      }
    }
    this.#fold(slot);
    this.#words.store(SLOT_WORDS + slot * WORDS_PER_SLOT + 1, this.#words.add(SEQUENCE, 1) + 1);
    this.#words.store(SLOT_WORDS + slot * WORDS_PER_SLOT, id | 0);
  }

  /** Whether the page may read as zeroes, or as poison, at the destination (I7). */
  mayDiffer(pfn: number): boolean {
    let declaredAt = this.#declaredAt[pfn]!;
    for (let i = 0; i < SLOTS; i += 1) {
      if (this.#words.load(SLOT_WORDS + i * WORDS_PER_SLOT) !== 0 && this.#slots[i]!.test(pfn)) {
        declaredAt = Math.max(declaredAt, this.#issuedAt(i));
      }
    }
    return declaredAt > 0 && this.#lastWrite[pfn]! <= declaredAt;
  }

  #issuedAt(slot: number): number {
    return this.#words.load(SLOT_WORDS + slot * WORDS_PER_SLOT + 1) >>> 0;
  }

  /** Frees a slot: what its session declared is kept by page. */
  #fold(slot: number): void {
    const bitmap = this.#slots[slot]!;
    const at = this.#issuedAt(slot);
    for (let pfn = bitmap.nextSet(0); pfn < this.pageCount; pfn = bitmap.nextSet(pfn + 1)) {
      this.#declaredAt[pfn] = Math.max(this.#declaredAt[pfn]!, at);
    }
    bitmap.clearAll();
    this.#words.store(SLOT_WORDS + slot * WORDS_PER_SLOT, 0);
  }
}
