import { bitMask, lowestBit, PAGES_PER_WORD } from '../memory/page.js';
import type { PageBitmap, PageRun } from '../memory/page-bitmap.js';
import type { RamLayout } from '../memory/ram-layout.js';

/** Pages of a chunk that is taken from the far end while hints are still coming in: 8 MiB. */
const CHUNK_PAGES = 2048;

/**
 * Finds the next run to send, and claims it: the bits are cleared, a word at a time and atomically, *before*
 * anyone reads the pages (I5). Bits of the last word that are not part of the run stay claimed and come next.
 *
 * While a report is under way the guest's ranges come in ascending order, as far as `frontier`:
 *
 * ```
 *   0 ──────────▶ low            frontier                                        high ◀────────── end
 *     sent         behind: known   no hint has come from here on: may still be     ahead: sent in chunks
 *                  to be in use    free                                            from the top down
 * ```
 */
export class SendCursor {
  readonly #send: PageBitmap;
  readonly #claimed: PageBitmap;
  readonly #layout: RamLayout;
  readonly #maxRunPages: number;
  #low = 0;
  #high: number;
  #chunkAt = 0;
  #chunkLow = -1;
  /** Bits claimed and not returned yet, of word {@link #heldWord}. */
  #held = 0;
  #heldWord = 0;

  /** `claimed` collects what was claimed in this round. */
  constructor(send: PageBitmap, claimed: PageBitmap, layout: RamLayout, maxRunPages: number) {
    this.#send = send;
    this.#claimed = claimed;
    this.#layout = layout;
    this.#maxRunPages = maxRunPages;
    this.#high = send.pageCount;
  }

  /** A new round begins. */
  restart(): void {
    this.#low = 0;
    this.#high = this.#send.pageCount;
    this.#chunkLow = -1;
  }

  /**
   * The next run into `out`: from below `frontier`, or if there is none and `ahead` allows it, from the far end.
   * False: nothing to send there.
   */
  nextInto(out: PageRun, frontier: number, ahead: boolean): boolean {
    if (this.#held !== 0) {
      return this.#run(out, this.#heldWord * PAGES_PER_WORD + PAGES_PER_WORD);
    }
    const limit = Math.min(frontier, this.#high);
    while (this.#low < limit) {
      this.#low = this.#send.nextSet(this.#low, limit);
      if (this.#low < limit) {
        this.#claim(this.#low, limit);
        if (this.#run(out, limit)) {
          return true;
        }
      }
    }
    return ahead && this.#nextAhead(out, Math.max(frontier, this.#low));
  }

  /** Gives back what was claimed and not returned: the round is cut short. */
  giveBack(): void {
    if (this.#held !== 0) {
      this.#send.words.or(this.#heldWord, this.#held);
      this.#claimed.words.and(this.#heldWord, ~this.#held);
      this.#held = 0;
    }
  }

  #nextAhead(out: PageRun, bottom: number): boolean {
    while (this.#high > bottom) {
      if (this.#chunkLow < 0) {
        this.#chunkLow = Math.max(bottom, this.#high - CHUNK_PAGES);
        this.#chunkAt = this.#chunkLow;
      }
      this.#chunkAt = this.#send.nextSet(this.#chunkAt, this.#high);
      if (this.#chunkAt < this.#high) {
        this.#claim(this.#chunkAt, this.#high);
        if (this.#run(out, this.#high)) {
          return true;
        }
      } else {
        this.#high = this.#chunkLow;
        this.#chunkLow = -1;
      }
    }
    return false;
  }

  /** Takes the set bits of the word of `pfn`, those below `limit`. */
  #claim(pfn: number, limit: number): void {
    const word = pfn >>> 5;
    const end = limit - word * PAGES_PER_WORD;
    const mask = end >= PAGES_PER_WORD ? -1 : bitMask(0, end);
    this.#held = this.#send.words.and(word, ~mask) & mask;
    this.#heldWord = word;
    if (this.#held !== 0) {
      this.#claimed.words.or(word, this.#held);
    }
  }

  /** Makes a run of the held bits and of the words that follow, as far as it goes. */
  #run(out: PageRun, limit: number): boolean {
    out.pageCount = 0;
    let runLimit = 0;
    while (this.#held !== 0) {
      const bit = lowestBit(this.#held);
      const pfn = this.#heldWord * PAGES_PER_WORD + bit;
      if (out.pageCount === 0) {
        out.pfn = pfn;
        // A run is a view of one segment.
        const segment = this.#layout.segmentOfPfn(pfn);
        runLimit = Math.min(
          this.#maxRunPages,
          segment === undefined ? 1 : segment.firstPfn + segment.pageCount - pfn,
        );
      } else if (pfn !== out.pfn + out.pageCount) {
        break;
      }
      const rest = this.#held >>> bit;
      const ones = ~rest === 0 ? PAGES_PER_WORD : lowestBit(~rest);
      const take = Math.min(ones, runLimit - out.pageCount);
      if (take === 0) {
        break;
      }
      this.#held &= ~bitMask(bit, take);
      out.pageCount += take;
      if (this.#held !== 0 || bit + take < PAGES_PER_WORD) {
        break;
      }
      const next = (this.#heldWord + 1) * PAGES_PER_WORD;
      if (next < limit && out.pageCount < runLimit && this.#send.test(next)) {
        this.#claim(next, limit);
      }
    }
    return out.pageCount > 0;
  }
}
