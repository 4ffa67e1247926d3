import { PAGE_SIZE } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { deflateRunInto, longestCompressed } from './compressed-run.js';

/** Pages that a slot holds, and in how many runs. */
export const SLOT_PAGES = 256;
export const SLOT_RUNS = 32;
/** Slots that there are at the most. */
export const MOST_SLOTS = 12;
const ENTRY_WORDS = 4;
const TABLE_BYTES: number = SLOT_RUNS * ENTRY_WORDS * 4;
const PAGES_AT: number = TABLE_BYTES;
const PAYLOAD_AT: number = PAGES_AT + SLOT_PAGES * PAGE_SIZE;
const SLOT_BYTES: number = PAYLOAD_AT + longestCompressed(SLOT_PAGES * PAGE_SIZE);

/** A run of a slot that was compressed. */
export interface CompressedRun {
  /** Which of all slots' runs it is: see {@link CompressionSlots.payload}. */
  readonly index: number;
  readonly pfn: number;
  readonly pageCount: number;
  /** The copy of its pages. */
  readonly pages: Uint8Array<SharedArrayBuffer>;
  /** What they became; undefined if they do not shrink: the run goes raw. */
  readonly payload: Uint8Array<SharedArrayBuffer> | undefined;
}

/**
 * Memory for runs that are being compressed, shared by the thread that copies them, those that compress them and those
 * that send them, so that nothing is cloned for a run. A slot's runs are compressed by one thread in one go.
 *
 * ```
 *   slot:  0  table    32 × 4 words, a run each: pfn, pages, where its payload is in the buffer, bytes of that
 *        512  pages    1 MiB: copies of the runs' pages, one behind the other
 *             payload  7/8 MiB: what they became; a run that does not shrink by an eighth has none
 * ```
 *
 * Plain accesses only: a slot has one owner, and is handed on by a message (to the pool, and back) or by a ring's index
 * (to the streams), which order them.
 */
export class CompressionSlots {
  readonly buffer: SharedArrayBuffer;
  readonly count: number;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.count = Math.floor(buffer.byteLength / SLOT_BYTES);
    this.#bytes = new Uint8Array(buffer);
  }

  /** Memory for so many; it is not resident until touched. */
  static allocate(count: number): CompressionSlots {
    return new CompressionSlots(new SharedArrayBuffer(count * SLOT_BYTES));
  }

  /** Copies a run into a slot that holds `runCount` runs of `pageCount` pages in all, and has room for it. */
  add(
    slot: number,
    runCount: number,
    pageCount: number,
    pfn: number,
    pages: Uint8Array<ArrayBufferLike>,
  ): void {
    const table = this.#table(slot);
    table[runCount * ENTRY_WORDS] = pfn;
    table[runCount * ENTRY_WORDS + 1] = pages.length / PAGE_SIZE;
    this.#bytes.set(pages, slot * SLOT_BYTES + PAGES_AT + pageCount * PAGE_SIZE);
  }

  /** Compresses the slot's runs. */
  compress(slot: number, runCount: number): void {
    const table = this.#table(slot);
    let from = slot * SLOT_BYTES + PAGES_AT;
    let to = slot * SLOT_BYTES + PAYLOAD_AT;
    for (let at = 0; at < runCount * ENTRY_WORDS; at += ENTRY_WORDS) {
      const pagesEnd = from + table[at + 1]! * PAGE_SIZE;
      const length = deflateRunInto(this.#bytes.subarray(from, pagesEnd), this.#bytes.subarray(to));
      table[at + 2] = to;
      table[at + 3] = length;
      from = pagesEnd;
      to += length;
    }
  }

  /** What became of them. */
  runs(slot: number, runCount: number): CompressedRun[] {
    const table = this.#table(slot);
    let from = slot * SLOT_BYTES + PAGES_AT;
    return Array.from({ length: runCount }, (_, run) => {
      const pageCount = table[run * ENTRY_WORDS + 1]!;
      const pages = this.#bytes.subarray(from, from + pageCount * PAGE_SIZE);
      from += pages.length;
      const index = slot * SLOT_RUNS + run;
      const payload = this.payload(index);
      return {
        index,
        pfn: table[run * ENTRY_WORDS]!,
        pageCount,
        pages,
        payload: payload.length > 0 ? payload : undefined,
      };
    });
  }

  /** What a run became, for whoever sends it. */
  payload(index: number): Uint8Array<SharedArrayBuffer> {
    const table = this.#table(Math.floor(index / SLOT_RUNS));
    const at = (index % SLOT_RUNS) * ENTRY_WORDS;
    return this.#bytes.subarray(table[at + 2]!, table[at + 2]! + table[at + 3]!);
  }

  #table(slot: number): Uint32Array {
    return atomicMapper.plain32(this.buffer, slot * SLOT_BYTES, TABLE_BYTES / 4);
  }
}
