import { LacunaError } from '../errors.js';
import type { PageBitmap, PageRun } from '../memory/page-bitmap.js';
import type { GuestRam } from './guest-ram.js';

/** The largest block is 2^10 pages, 4 MiB, as in Linux 6.1. */
export const MAX_ORDER = 10;

/** Where the allocator's state lies in guest RAM. */
export interface AllocatorAddresses {
  /** A bit a page: free or not. What *walk* scans. */
  readonly freeGpa: number;
  /** For each order, a bit a block: this block is on that order's free list. */
  readonly orderGpa: readonly number[];
}

/** Blocks of an order that `pfnSpan` page frames can hold. */
export function blocksOf(pfnSpan: number, order: number): number {
  return Math.ceil(pfnSpan / 2 ** order);
}

/**
 * Cuts a run of pages into the largest naturally aligned blocks (what a buddy allocator holds for it).
 * `visit` gets each block's first pfn and order.
 */
export function cutIntoBlocks(
  pfn: number,
  pageCount: number,
  visit: (pfn: number, order: number) => void,
): void {
  const end = pfn + pageCount;
  while (pfn < end) {
    let order = pfn === 0 ? MAX_ORDER : Math.min(MAX_ORDER, 31 - Math.clz32(pfn & -pfn));
    while (2 ** order > end - pfn) {
      order -= 1;
    }
    visit(pfn, order);
    pfn += 2 ** order;
  }
}

/**
 * A binary buddy allocator whose whole state is bitmaps in guest RAM, so that it is dirtied, logged and migrated
 * like everything else, and goes on at the destination from what arrived there.
 *
 * A block of order *n* is 2^n pages, aligned to its size. Free blocks are always merged with their buddies, up
 * to {@link MAX_ORDER}. Blocks are taken lowest order first, next fit within an order.
 */
export class BuddyAllocator {
  readonly free: PageBitmap;
  readonly #orders: readonly PageBitmap[];
  /** Free blocks of each order: derived from the bitmaps, kept so that an empty order costs nothing. */
  readonly #blocks: number[];
  readonly #cursors: number[];
  #freePages: number;
  readonly pfnSpan: number;

  /**
   * Attaches to the state at `addresses`: all free bits clear, or what an allocator left there. Whoever knows its
   * {@link blocksByOrder} saves the counting, which takes some ms in a large guest.
   */
  constructor(
    ram: GuestRam,
    addresses: AllocatorAddresses,
    pfnSpan: number,
    blocksByOrder?: readonly number[],
  ) {
    this.pfnSpan = pfnSpan;
    this.free = ram.bitmap(addresses.freeGpa, pfnSpan);
    this.#orders = addresses.orderGpa.map((gpa, order) => ram.bitmap(gpa, blocksOf(pfnSpan, order)));
    this.#blocks =
      blocksByOrder === undefined ? this.#orders.map((bitmap) => bitmap.count()) : [...blocksByOrder];
    this.#cursors = this.#orders.map(() => 0);
    this.#freePages = this.#blocks.reduce((sum, blocks, order) => sum + blocks * 2 ** order, 0);
  }

  /** Makes exactly the pages of `free` free, and all others allocated. */
  initialise(free: PageBitmap): void {
    this.free.clearAll();
    for (const [order, bitmap] of this.#orders.entries()) {
      bitmap.clearAll();
      this.#blocks[order] = 0;
    }
    this.#freePages = 0;
    const run: PageRun = { pfn: 0, pageCount: 0 };
    for (let from = 0; free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
      this.free.setRange(run.pfn, run.pageCount);
      this.#freePages += run.pageCount;
      cutIntoBlocks(run.pfn, run.pageCount, (pfn, order) => this.#addBlock(pfn, order));
    }
  }

  get freePages(): number {
    return this.#freePages;
  }

  /** Free blocks by order, 0 … 10: what /proc/buddyinfo shows. */
  blocksByOrder(): number[] {
    return [...this.#blocks];
  }

  /** The largest order of which a block is free; -1: nothing is free. */
  largestOrder(): number {
    for (let order = MAX_ORDER; order >= 0; order -= 1) {
      if (this.#blocks[order]! > 0) {
        return order;
      }
    }
    return -1;
  }

  /** Allocates 2^order pages, aligned to their size; the first pfn, or -1 if there is no such block. */
  allocate(order: number): number {
    let from = order;
    while (from <= MAX_ORDER && this.#blocks[from] === 0) {
      from += 1;
    }
    if (from > MAX_ORDER) {
      return -1;
    }
    const bitmap = this.#orders[from]!;
    let block = bitmap.nextSet(this.#cursors[from]!);
    if (block === bitmap.pageCount) {
      block = bitmap.nextSet(0);
    }
    if (block === bitmap.pageCount) {
      throw new LacunaError(
        'ILLEGAL_STATE',
        `no block of order ${from}, though ${this.#blocks[from]} are counted`,
      );
    }
    this.#cursors[from] = block + 1;
    const pfn = block * 2 ** from;
    this.#removeBlock(pfn, from);
    // The upper halves go back, order by order.
    for (let half = from - 1; half >= order; half -= 1) {
      this.#addBlock(pfn + 2 ** half, half);
    }
    this.free.clearRange(pfn, 2 ** order);
    this.#freePages -= 2 ** order;
    return pfn;
  }

  /** Allocates exactly page `pfn`, out of whichever block it lies in; false, and nothing changes, if it is not free. */
  allocateAt(pfn: number): boolean {
    if (!this.free.test(pfn)) {
      return false;
    }
    let order = 0;
    while (order < MAX_ORDER && !this.#orders[order]!.test(pfn >>> order)) {
      order += 1;
    }
    let start = (pfn >>> order) * 2 ** order;
    this.#removeBlock(start, order);
    // The halves in which it does not lie go back, order by order.
    while (order > 0) {
      order -= 1;
      const middle = start + 2 ** order;
      this.#addBlock(pfn < middle ? middle : start, order);
      start = pfn < middle ? start : middle;
    }
    this.free.clear(pfn);
    this.#freePages -= 1;
    return true;
  }

  /** Gives back a block. Throws ILLEGAL_STATE, and changes nothing, if a page of it is free already. */
  release(pfn: number, order: number): void {
    const pages = 2 ** order;
    if (this.free.nextSet(pfn, pfn + pages) !== pfn + pages) {
      throw new LacunaError('ILLEGAL_STATE', `pages ${pfn}–${pfn + pages - 1} were released twice`);
    }
    this.free.setRange(pfn, pages);
    this.#freePages += pages;
    let block = pfn / pages;
    while (order < MAX_ORDER) {
      const buddy = block % 2 === 0 ? block + 1 : block - 1;
      const bitmap = this.#orders[order]!;
      if (buddy >= bitmap.pageCount || !bitmap.test(buddy)) {
        break;
      }
      this.#removeBlock(buddy * 2 ** order, order);
      block = Math.floor(block / 2);
      order += 1;
    }
    this.#addBlock(block * 2 ** order, order);
  }

  /** Gives back a run of any length and alignment. */
  releaseRun(pfn: number, pageCount: number): void {
    cutIntoBlocks(pfn, pageCount, (start, order) => this.release(start, order));
  }

  /** What is wrong with the state, or undefined: every free page in exactly one block, all buddies merged. */
  inconsistency(): string | undefined {
    let pages = 0;
    for (const [order, bitmap] of this.#orders.entries()) {
      for (let block = bitmap.nextSet(0); block < bitmap.pageCount; block = bitmap.nextSet(block + 1)) {
        const pfn = block * 2 ** order;
        if (this.free.nextClear(pfn, pfn + 2 ** order) !== pfn + 2 ** order) {
          return `the free block of order ${order} at page ${pfn} has a page that is not free`;
        }
        if (order < MAX_ORDER && block % 2 === 0 && bitmap.test(block + 1)) {
          return `the blocks of order ${order} at page ${pfn} are buddies and not merged`;
        }
        for (let larger = order + 1; larger <= MAX_ORDER; larger += 1) {
          if (this.#orders[larger]!.test(block >>> (larger - order))) {
            return `the free block of order ${order} at page ${pfn} lies within one of order ${larger}`;
          }
        }
        pages += 2 ** order;
      }
    }
    const free = this.free.count();
    return pages === free ? undefined : `${free} pages are free, and ${pages} are in free blocks`;
  }

  #addBlock(pfn: number, order: number): void {
    this.#orders[order]!.set(pfn / 2 ** order);
    this.#blocks[order]! += 1;
  }

  #removeBlock(pfn: number, order: number): void {
    this.#orders[order]!.clear(pfn / 2 ** order);
    this.#blocks[order]! -= 1;
  }
}
