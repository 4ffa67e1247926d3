import { PAGE_SIZE } from '../memory/page.js';
import { MAX_ORDER } from './buddy-allocator.js';
import { xorshift32 } from './content.js';
import { WORKLOAD_SLOTS } from './metadata.js';

/** What the guest does while it is migrated. Rates are what it asks for; a slowed guest reaches less. */
export type WorkloadSpec = RuleSpec | ReplaySpec;

/** What follows a rule. */
export type RuleSpec =
  /** Nothing at all: the vCPU halts. */
  | { readonly kind: 'halt' }
  /** An idle system's housekeeping: some pages a second out of a small set. */
  | { readonly kind: 'idle'; readonly pagesPerSecond: number }
  /** Rewrites a working set, round and round. */
  | { readonly kind: 'dirty'; readonly bytesPerSecond: number; readonly workingSetBytes: number }
  /** Allocates blocks of 1 to 8 pages, writes them, and frees the oldest. */
  | { readonly kind: 'churn'; readonly pagesPerSecond: number; readonly keepBlocks: number }
  /** Allocates and writes until memory runs short, frees it all, and begins again. */
  | { readonly kind: 'pressure'; readonly pagesPerSecond: number };

/** Does what a real guest did, from a moment of its trace on (`guest/trace-replay.ts`). */
export interface ReplaySpec {
  readonly kind: 'trace';
  /** Of the trace, which is given to the guest's thread wherever it runs. */
  readonly name: string;
  readonly atMs: number;
  /** ms of the trace for each ms of the guest. */
  readonly speed: number;
  /** What the rest of the trace comes to at this speed. */
  readonly pagesPerSecond: number;
}

/** The kinds of {@link RuleSpec}. */
export const WORKLOAD_KINDS = ['halt', 'idle', 'dirty', 'churn', 'pressure'] as const;

/** The housekeeping of an idle Linux guest (measured in the captures' guests: 45–130 dirty pages a second). */
export const IDLE_WORKLOAD: WorkloadSpec = { kind: 'idle', pagesPerSecond: 50 };

/** The guest's services that a workload uses. */
export interface WorkloadHost {
  /** 2^order pages, or -1 if memory is short even after held blocks were taken back. */
  allocate(order: number): number;
  release(pfn: number, order: number): void;
  /** Writes a page's new contents, its mark, its line in the ledger. */
  write(pfn: number, version: number): void;
  /** A used page at or after `pfn` (wrapping around) that the workload may rewrite for ever. */
  usedPage(pfn: number): number;
  /** Words in guest RAM for what the workload owns: {@link WORKLOAD_SLOTS} pairs. */
  readonly slots: Uint32Array;
  wroteSlot(index: number): void;
  largestOrder(): number;
}

/** What of a workload does not lie in guest RAM. */
export interface WorkloadState {
  random: number;
  version: number;
  head: number;
  count: number;
  runs: number;
  cursorRun: number;
  cursorPage: number;
  filling: boolean;
}

/** Slots below this hold owned blocks (pfn, order) as a FIFO; those above hold runs of the working set (pfn, pages). */
const OWNED_SLOTS = WORKLOAD_SLOTS / 2;
const IDLE_SET_PAGES = 64;
/** Work that a slice does at the most, in pages: about 50 µs, so that interrupts are answered promptly. */
export const SLICE_PAGES = 64;
/** A guest that was stopped for a while does not make up for more than this. */
export const MOST_CREDIT_MS = 20;

/** The version of the first page that a workload writes; what was there before has 0 or 1. */
export const FIRST_WRITTEN_VERSION = 2;

/** Runs a {@link RuleSpec}, slice by slice. */
export class Workload {
  readonly #spec: RuleSpec;
  readonly #host: WorkloadHost;
  readonly #state: WorkloadState;
  readonly #pagesPerMs: number;
  #lastNow = Number.NaN;
  #credit = 0;
  /** Pages written since the guest was started. */
  pagesWritten = 0;

  constructor(spec: RuleSpec, host: WorkloadHost, seed: number, restored?: WorkloadState) {
    this.#spec = spec;
    this.#host = host;
    this.#pagesPerMs = pagesPerSecond(spec) / 1000;
    if (restored !== undefined) {
      this.#state = { ...restored };
      return;
    }
    this.#state = {
      random: xorshift32((seed ^ 0x5bd1_e995) >>> 0 || 1),
      version: FIRST_WRITTEN_VERSION,
      head: 0,
      count: 0,
      runs: 0,
      cursorRun: 0,
      cursorPage: 0,
      filling: true,
    };
    if (spec.kind === 'idle') {
      this.#chooseWorkingSet(IDLE_SET_PAGES);
    } else if (spec.kind === 'dirty') {
      this.#chooseWorkingSet(Math.max(1, Math.floor(spec.workingSetBytes / PAGE_SIZE)));
    }
  }

  saveState(): WorkloadState {
    return { ...this.#state };
  }

  /** Does what is due, a slice at the most. Milliseconds until more is due: 0 = at once, Infinity = never. */
  step(now: number): number {
    if (this.#pagesPerMs === 0) {
      return Number.POSITIVE_INFINITY;
    }
    if (Number.isNaN(this.#lastNow)) {
      this.#lastNow = now;
    }
    const mostCredit = Math.max(1, this.#pagesPerMs * MOST_CREDIT_MS);
    this.#credit = Math.min(mostCredit, this.#credit + (now - this.#lastNow) * this.#pagesPerMs);
    this.#lastNow = now;
    let pages = Math.min(SLICE_PAGES, Math.floor(this.#credit));
    this.#credit -= pages;
    while (pages > 0) {
      pages -= this.#work();
    }
    this.#credit += pages; // what the last operation did too much (a block is written whole) is owed
    return this.#credit >= 1 ? 0 : (1 - this.#credit) / this.#pagesPerMs;
  }

  /** One operation; returns how many pages' worth it was. */
  #work(): number {
    switch (this.#spec.kind) {
      case 'halt':
        return 1;
      case 'idle':
      case 'dirty':
        this.#write(this.#nextOfWorkingSet());
        return 1;
      case 'churn':
        return this.#churn(Math.min(this.#spec.keepBlocks, OWNED_SLOTS));
      case 'pressure':
        return this.#press();
    }
  }

  #churn(keepBlocks: number): number {
    if (this.#state.count >= keepBlocks) {
      this.#releaseOldest();
    }
    const order = this.#random() % 4;
    const pages = this.#allocateAndWrite(order);
    return pages === 0 ? this.#releaseOldest() : pages;
  }

  #press(): number {
    const { filling, count } = this.#state;
    if (!filling) {
      this.#state.filling = count === 0;
      return count === 0 ? 1 : this.#releaseOldest();
    }
    const order = Math.min(this.#random() % (MAX_ORDER + 1), Math.max(0, this.#host.largestOrder()));
    const pages = count === OWNED_SLOTS ? 0 : this.#allocateAndWrite(order);
    this.#state.filling = pages > 0;
    return Math.max(1, pages);
  }

  #allocateAndWrite(order: number): number {
    const pfn = this.#host.allocate(order);
    if (pfn === -1) {
      return 0;
    }
    const { slots } = this.#host;
    const slot = (this.#state.head + this.#state.count) % OWNED_SLOTS;
    slots[slot * 2] = pfn;
    slots[slot * 2 + 1] = order;
    this.#host.wroteSlot(slot);
    this.#state.count += 1;
    for (let i = 0; i < 2 ** order; i += 1) {
      this.#write(pfn + i);
    }
    return 2 ** order;
  }

  #releaseOldest(): number {
    const { slots } = this.#host;
    const slot = this.#state.head;
    if (this.#state.count === 0) {
      return 1;
    }
    this.#host.release(slots[slot * 2]!, slots[slot * 2 + 1]!);
    this.#state.head = (slot + 1) % OWNED_SLOTS;
    this.#state.count -= 1;
    return 1;
  }

  #write(pfn: number): void {
    this.#host.write(pfn, this.#state.version);
    this.#state.version = nextVersion(this.#state.version);
    this.pagesWritten += 1;
  }

  #chooseWorkingSet(pages: number): void {
    const { slots } = this.#host;
    let last = this.#host.usedPage(0);
    let chosen = 0;
    let runs = 0;
    const first = last;
    while (chosen < pages && runs < WORKLOAD_SLOTS - OWNED_SLOTS) {
      const at = (OWNED_SLOTS + runs) * 2;
      slots[at] = last;
      let length = 1;
      let next = this.#host.usedPage(last + 1);
      while (next === last + length && chosen + length < pages) {
        length += 1;
        next = this.#host.usedPage(last + length);
      }
      slots[at + 1] = length;
      this.#host.wroteSlot(OWNED_SLOTS + runs);
      runs += 1;
      chosen += length;
      if (next <= first) {
        break; // once around
      }
      last = next;
    }
    this.#state.runs = runs;
  }

  #nextOfWorkingSet(): number {
    const { slots } = this.#host;
    const state = this.#state;
    const at = (OWNED_SLOTS + state.cursorRun) * 2;
    const pfn = slots[at]! + state.cursorPage;
    state.cursorPage += 1;
    if (state.cursorPage >= slots[at + 1]!) {
      state.cursorPage = 0;
      state.cursorRun = (state.cursorRun + 1) % state.runs;
    }
    return pfn;
  }

  #random(): number {
    this.#state.random = xorshift32(this.#state.random);
    return this.#state.random;
  }
}

/** The version of the next page that a workload writes: below those of old data and of the ledger's marks. */
export function nextVersion(version: number): number {
  return version >= 0x00ff_ffff ? FIRST_WRITTEN_VERSION : version + 1;
}

/** Pages a second that the workload is asked to write. */
export function pagesPerSecond(spec: WorkloadSpec): number {
  switch (spec.kind) {
    case 'halt':
      return 0;
    case 'dirty':
      return spec.bytesPerSecond / PAGE_SIZE;
    case 'idle':
    case 'churn':
    case 'pressure':
    case 'trace':
      return spec.pagesPerSecond;
  }
}
