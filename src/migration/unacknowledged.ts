import { PageBitmap } from '../memory/page-bitmap.js';
import type { WordMapper } from '../memory/shared-words.js';

/**
 * Pages of which something was sent (contents, zeroes or a fill) that the destination has not said yet to have applied.
 * If the link breaks, what it holds of them is anybody's guess: they go again, and whatever was sent of them may be there.
 *
 * A superset, in two generations, so that an acknowledgement costs a copy of a bitmap and a frame costs its bits:
 *
 * ```
 *   round     1      2      3      4, in hand
 *   sent    ████   ████   ████   ██
 *           └─ older ─┘   └─ newer ─┘
 *                     ▲ olderEnd = 2: "applied 2" or later drops `older`; `newer` takes its place, with olderEnd = 4
 * ```
 *
 * It is exact as long as the end of a round is acknowledged before the next round ends.
 */
export class Unacknowledged {
  readonly #older: PageBitmap;
  readonly #newer: PageBitmap;
  /** The last round of which pages are in {@link #older}. */
  #olderEnd = 1;
  /** The round in hand, from 1 since the link was made or restored. */
  #round = 1;

  constructor(map: WordMapper, pageCount: number) {
    this.#older = PageBitmap.allocateOwn(map, pageCount);
    this.#newer = PageBitmap.allocateOwn(map, pageCount);
  }

  /** Something of these pages is sent, in the round in hand. */
  sent(pfn: number, pageCount: number): void {
    (this.#round <= this.#olderEnd ? this.#older : this.#newer).setRange(pfn, pageCount);
  }

  /** The end of the round in hand was sent. */
  roundEnded(): void {
    this.#round += 1;
  }

  /** All up to the end of `round` was applied. False if that round has not ended: nobody can know that. */
  applied(round: number): boolean {
    if (!(round < this.#round)) {
      return false;
    }
    if (round >= this.#olderEnd) {
      for (let index = 0; index < this.#older.wordCount; index += 1) {
        this.#older.words.store(index, this.#newer.words.load(index));
      }
      this.#newer.clearAll();
      this.#olderEnd = this.#round;
    }
    return true;
  }

  /** The link was restored; rounds are counted anew, and what was unacknowledged is the caller's to account for. */
  restart(): void {
    this.#older.clearAll();
    this.#newer.clearAll();
    this.#olderEnd = 1;
    this.#round = 1;
  }

  /** The pages of word `index`, a bit each. */
  bits(index: number): number {
    return this.#older.words.load(index) | this.#newer.words.load(index);
  }
}
