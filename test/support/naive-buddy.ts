/** The largest block is 2^10 pages. */
const MAX_ORDER = 10;

/** A block of the naive allocator. */
export interface NaiveBlock {
  readonly pfn: number;
  readonly order: number;
}

/**
 * The buddy allocator's naive twin: one flag a page and nothing else. Which blocks are free is found out anew for
 * every question, by trying at each free page the largest block first. It chooses as the real one does (smallest
 * order that will do, next fit within it), so the two can be compared page by page and answer by answer.
 */
export class NaiveBuddy {
  readonly free: boolean[];
  readonly #cursors: number[] = Array.from({ length: MAX_ORDER + 1 }, () => 0);

  constructor(free: readonly boolean[]) {
    this.free = [...free];
  }

  /** Free blocks, in ascending order. */
  blocks(): NaiveBlock[] {
    const blocks: NaiveBlock[] = [];
    for (let pfn = 0; pfn < this.free.length; ) {
      if (this.free[pfn] !== true) {
        pfn += 1;
        continue;
      }
      let order = MAX_ORDER;
      while (pfn % 2 ** order !== 0 || !this.#isFree(pfn, order)) {
        order -= 1;
      }
      blocks.push({ pfn, order });
      pfn += 2 ** order;
    }
    return blocks;
  }

  blocksByOrder(): number[] {
    const counts = Array.from({ length: MAX_ORDER + 1 }, () => 0);
    for (const { order } of this.blocks()) {
      counts[order] = counts[order]! + 1;
    }
    return counts;
  }

  freePages(): number[] {
    return this.free.flatMap((free, pfn) => (free ? [pfn] : []));
  }

  /** The first pfn of a block of 2^order pages, or -1. */
  allocate(order: number): number {
    const blocks = this.blocks();
    for (let from = order; from <= MAX_ORDER; from += 1) {
      const candidates = blocks.filter((block) => block.order === from);
      const chosen =
        candidates.find(({ pfn }) => pfn / 2 ** from >= this.#cursors[from]!) ?? candidates.at(0);
      if (chosen !== undefined) {
        this.#cursors[from] = chosen.pfn / 2 ** from + 1;
        this.#set(chosen.pfn, order, false);
        return chosen.pfn;
      }
    }
    return -1;
  }

  allocateAt(pfn: number): boolean {
    const wasFree = this.free[pfn] === true;
    this.free[pfn] = false;
    return wasFree;
  }

  release(pfn: number, order: number): void {
    this.#set(pfn, order, true);
  }

  #isFree(pfn: number, order: number): boolean {
    for (let i = pfn; i < pfn + 2 ** order; i += 1) {
      if (this.free[i] !== true) {
        return false;
      }
    }
    return true;
  }

  #set(pfn: number, order: number, free: boolean): void {
    for (let i = pfn; i < pfn + 2 ** order; i += 1) {
      this.free[i] = free;
    }
  }
}
