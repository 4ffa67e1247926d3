import { BuddyAllocator, cutIntoBlocks } from './buddy-allocator.js';
import type { Ledger } from './ledger.js';
import type { BlockSource } from './range-sources.js';

/** How a guest initialises its pages: Linux's `init_on_alloc=1`, `page_poison=1` and `init_on_free=1`. */
export interface PageInitialisation {
  /** Every page that the allocator hands out is zeroed first. Without effect where pages are poisoned, as in Linux. */
  readonly initOnAlloc: boolean;
  /**
   * Every page that is freed is filled with this le32, and must still hold it when it is handed out; what is done with
   * it then is up to who gets it. 0 is a value (`init_on_free=1`). Undefined: pages are freed as they are.
   */
  readonly pagePoison?: number | undefined;
}

/** What pages that did not hold their poison came to. Part of the vCPU's state: a migration must not wash it off. */
export interface PoisonFailures {
  pages: number;
  /** The first of them; -1: none. */
  firstPfn: number;
}

/**
 * The buddy allocator of a guest that initialises its pages, when they are handed out or when they are freed. All of
 * it is written as any program of the guest writes: with a stamp for the oracle, and a mark in the dirty log (I1).
 */
export class InitialisingAllocator extends BuddyAllocator {
  readonly failures: PoisonFailures;
  readonly #ledger: Ledger;
  readonly #poison: number | undefined;

  constructor(
    of: ConstructorParameters<typeof BuddyAllocator>,
    ledger: Ledger,
    { pagePoison }: PageInitialisation,
    failures: PoisonFailures = { pages: 0, firstPfn: -1 },
  ) {
    super(...of);
    this.#ledger = ledger;
    this.#poison = pagePoison;
    this.failures = { ...failures };
  }

  /** The free pages of a guest that boots are poisoned, whatever the machine had in them. */
  poisonFree(): void {
    const poison = this.#poison;
    if (poison === undefined) {
      return;
    }
    const run = { pfn: 0, pageCount: 0 };
    for (let from = 0; this.free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
      this.#ledger.fill(run.pfn, run.pageCount, poison);
    }
  }

  override allocate(order: number): number {
    const pfn = super.allocate(order);
    if (pfn !== -1) {
      this.#handOut(pfn, 2 ** order);
    }
    return pfn;
  }

  override allocateAt(pfn: number): boolean {
    const done = super.allocateAt(pfn);
    if (done) {
      this.#handOut(pfn, 1);
    }
    return done;
  }

  #handOut(pfn: number, pages: number): void {
    if (this.#poison === undefined) {
      this.#ledger.fill(pfn, pages, 0);
      return;
    }
    for (let page = pfn; page < pfn + pages; page += 1) {
      if (!this.#ledger.isFilled(page, this.#poison)) {
        this.failures.firstPfn = this.failures.pages === 0 ? page : this.failures.firstPfn;
        this.failures.pages += 1;
      }
    }
  }

  override release(pfn: number, order: number): void {
    super.release(pfn, order); // throws, and changes nothing, if it is free already
    if (this.#poison !== undefined) {
      this.#ledger.fill(pfn, 2 ** order, this.#poison);
    }
  }

  /**
   * The same for a report that holds blocks. They are initialised as they are taken; nobody writes them while they are
   * held, so what is given back holds its poison already and is not written again; but in VIRTIO's dialect (`untilDone`)
   * the host may alter them until it is done with them, and what is given back before then is written like any other (D9).
   */
  forHolding(untilDone: boolean): BlockSource {
    const freePages = (): number => this.freePages;
    const release = (pfn: number, order: number): void => super.release(pfn, order);
    return {
      get freePages(): number {
        return freePages();
      },
      largestOrder: () => this.largestOrder(),
      allocate: (order) => this.allocate(order),
      releaseRun: (pfn, pageCount) => cutIntoBlocks(pfn, pageCount, release),
      ...(untilDone
        ? {
            releaseEarly: (pfn, pageCount) =>
              cutIntoBlocks(pfn, pageCount, (start, order) => this.release(start, order)),
          }
        : {}),
    };
  }
}
