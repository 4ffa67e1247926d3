import { PAGE_SIZE } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { deflateRunInto, longestCompressed } from './compressed-run.js';

/** Pages that a slot holds, in as many runs as there are. */
export const SLOT_PAGES = 256;
const ENTRY_WORDS = 4;
const TABLE_BYTES: number = SLOT_PAGES * ENTRY_WORDS * 4;
const PAGES_AT: number = TABLE_BYTES;
const PAYLOAD_AT: number = PAGES_AT + SLOT_PAGES * PAGE_SIZE;
const SLOT_BYTES: number = PAYLOAD_AT + longestCompressed(SLOT_PAGES * PAGE_SIZE);

/** A run of a slot that was compressed. */
export interface CompressedRun {
  readonly pfn: number;
  readonly pageCount: number;
  /** Where its payload lies in {@link CompressionSlots.buffer}, and how long it is; 0: the run goes raw. */
  readonly payloadAt: number;
  readonly payloadLength: number;
}

/**
 * Memory for runs that are being compressed, shared by the thread that copies them, those that compress them and those
 * that send them, so that nothing is cloned for a run. A slot's runs are compressed by one thread in one go.
 *
 * ```
 *   slot:  0  table    256 × 4 words, a run each: pfn, pages, where its payload is in the buffer, bytes of that
 *       4096  pages    1 MiB: copies of the runs' pages, one behind the other
 *             payload  7/8 MiB: what they became; a run that does not shrink by an eighth has none
 * ```
 *
 * Plain accesses only: a slot has one owner, and is handed on by a message (to the pool, and back) or by a ring's index
 * (to the streams), which order them.
 */
export class CompressionSlots {
  readonly buffer: SharedArrayBuffer;
  readonly count: number;
  readonly #bytes: Uint8Array;

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
    return Array.from({ length: runCount }, (_, run) => {
      const at = run * ENTRY_WORDS;
      return {
        pfn: table[at]!,
        pageCount: table[at + 1]!,
        payloadAt: table[at + 2]!,
        payloadLength: table[at + 3]!,
      };
    });
  }

  #table(slot: number): Uint32Array {
    return atomicMapper.plain32(this.buffer, slot * SLOT_BYTES, TABLE_BYTES / 4);
  }
}
