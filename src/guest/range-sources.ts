import type { FreeRangeSource } from '../balloon/report-driver.js';
import type { PageBitmap, PageRun } from '../memory/page-bitmap.js';
import type { RamLayout } from '../memory/ram-layout.js';
import { cutIntoBlocks, MAX_ORDER } from './buddy-allocator.js';

/**
 * *walk*: scans the allocator's free bitmap, as the mail's series walked the free lists under the allocator's
 * lock. (One vCPU runs the guest here, so a step of the driver has the allocator to itself.) Nothing is
 * allocated and nothing written; a page may be taken and written the moment after, and the host's dirty log
 * says so (I3).
 *
 * With a smallest order above 0 only naturally aligned blocks of that size and more are reported: each run of
 * free pages without its unaligned ends, which is what the buddy allocator holds of it at that order and above.
 */
export class WalkSource implements FreeRangeSource {
  readonly waitsForRing = true;
  position = 0;
  readonly #free: PageBitmap;
  readonly #layout: RamLayout;
  readonly #blockPages: number;
  /** The segment of the last range. */
  #segmentFirst = 0;
  #segmentEnd = 0;

  constructor(free: PageBitmap, layout: RamLayout, minOrder: number) {
    this.#free = free;
    this.#layout = layout;
    this.#blockPages = 2 ** minOrder;
  }

  begin(): void {
    this.position = 0;
  }

  nextInto(out: PageRun): boolean {
    while (this.#free.nextRunInto(out, this.position)) {
      // A range stays within one segment of RAM.
      if (out.pfn < this.#segmentFirst || out.pfn >= this.#segmentEnd) {
        const segment = this.#layout.segmentOfPfn(out.pfn);
        if (segment === undefined) {
          this.position = out.pfn + out.pageCount;
          continue;
        }
        this.#segmentFirst = segment.firstPfn;
        this.#segmentEnd = segment.firstPfn + segment.pageCount;
      }
      const end = Math.min(out.pfn + out.pageCount, this.#segmentEnd);
      this.position = end;
      const mask = -this.#blockPages;
      const from = (out.pfn + this.#blockPages - 1) & mask;
      const to = end & mask;
      if (to > from) {
        out.pfn = from;
        out.pageCount = to - from;
        return true;
      }
    }
    out.pageCount = 0;
    return false;
  }

  dropped(): void {}

  finish(): void {}

  release(): void {}
}

/** Of an allocator, what *hold* takes blocks with. */
export interface BlockSource {
  readonly freePages: number;
  largestOrder(): number;
  allocate(order: number): number;
  releaseRun(pfn: number, pageCount: number): void;
  /** The same of pages whose contents the host may still alter: who expects something of them writes it first (D9). */
  releaseEarly?(pfn: number, pageCount: number): void;
}

/**
 * *hold*: allocates blocks, largest first, and keeps them until the host says stop or memory runs short, as
 * Linux's virtio_balloon does. Held pages are not used meanwhile, so a hint stays true.
 */
export class HoldSource implements FreeRangeSource {
  readonly waitsForRing = false;
  /** Unused: a hold goes on from what the allocator has left. */
  position = 0;
  readonly #allocator: BlockSource;
  readonly #held: PageBitmap;
  readonly #minOrder: number;
  readonly #keepPages: number;
  readonly #run: PageRun = { pfn: 0, pageCount: 0 };
  /** Blocks of this report that did not fit into the ring. */
  #dropped: PageRun[] = [];

  /** `keepPages` are left to the guest: it must be able to run while its memory is held. */
  constructor(allocator: BlockSource, held: PageBitmap, minOrder: number, keepPages: number) {
    this.#allocator = allocator;
    this.#held = held;
    this.#minOrder = minOrder;
    this.#keepPages = keepPages;
  }

  begin(): void {}

  nextInto(out: PageRun): boolean {
    const order = this.#allocator.largestOrder();
    if (order < this.#minOrder || this.#allocator.freePages - 2 ** order < this.#keepPages) {
      out.pageCount = 0;
      return false;
    }
    out.pfn = this.#allocator.allocate(order);
    out.pageCount = 2 ** order;
    this.#held.setRange(out.pfn, out.pageCount);
    return true;
  }

  /** Given back only when the report ends, or it would be the next block that the allocator has to give. */
  dropped(range: PageRun): void {
    this.#dropped.push({ ...range });
  }

  finish(): void {
    for (const { pfn, pageCount } of this.#dropped) {
      this.#giveBack(pfn, pageCount);
    }
    this.#dropped = [];
  }

  release(): void {
    this.#dropped = [];
    for (let from = 0; this.#held.nextRunInto(this.#run, from); from = this.#run.pfn + this.#run.pageCount) {
      this.#giveBack(this.#run.pfn, this.#run.pageCount);
    }
  }

  /** Memory runs short: gives back one block. False if none is held. (D7: any time.) */
  shrink(): boolean {
    if (!this.#held.nextRunInto(this.#run, 0)) {
      return false;
    }
    let done = false;
    cutIntoBlocks(this.#run.pfn, Math.min(this.#run.pageCount, 2 ** MAX_ORDER), (pfn, order) => {
      if (!done) {
        this.#giveBackBlock(pfn, order);
        done = true;
      }
    });
    return true;
  }

  /**
   * The guest wants page `pfn` itself: gives back the largest block that holds it, all of which is held. False if the
   * page is not. (D7: any time.)
   */
  giveBackAt(pfn: number): boolean {
    if (!this.#held.test(pfn)) {
      return false;
    }
    let order = MAX_ORDER;
    let start = blockStart(pfn, order);
    while (!this.#holdsAll(start, 2 ** order)) {
      order -= 1;
      start = blockStart(pfn, order);
    }
    this.#giveBackBlock(start, order);
    return true;
  }

  /** No block reaches beyond the allocator's last page, where no bit is ever set. */
  #holdsAll(pfn: number, pageCount: number): boolean {
    const end = pfn + pageCount;
    return end <= this.#held.pageCount && this.#held.nextClear(pfn, end) === end;
  }

  /** An aligned block, all of which is held: a dropped one that overlaps it lies in it. */
  #giveBackBlock(pfn: number, order: number): void {
    // Dropped blocks within it are the guest's from here on: what is taken of them later is held anew.
    this.#dropped = this.#dropped.filter((block) => block.pfn < pfn || block.pfn >= pfn + 2 ** order);
    this.#held.clearRange(pfn, 2 ** order);
    if (this.#allocator.releaseEarly === undefined) {
      this.#allocator.releaseRun(pfn, 2 ** order);
    } else {
      this.#allocator.releaseEarly(pfn, 2 ** order);
    }
  }

  #giveBack(pfn: number, pageCount: number): void {
    this.#held.clearRange(pfn, pageCount);
    this.#allocator.releaseRun(pfn, pageCount);
  }
}

/** The first page of the block of an order in which `pfn` lies. */
function blockStart(pfn: number, order: number): number {
  return (pfn >>> order) * 2 ** order;
}
