import { PAGE_SIZE } from '../../memory/page.js';
import { type CompressionCounts, type CompressionMode, CompressionPolicy } from './compression-policy.js';
import { type CompressedRun, type CompressionSlots, SLOT_PAGES } from './compression-slots.js';
import { type CompressedBatch, Compressor } from './compressor.js';

/** Where runs go from here. */
export interface RunOutput {
  /** Bytes that the link has taken in all, and that wait for it. */
  readonly takenBytes: number;
  readonly waitingBytes: number;
  /** Sends a run as it is. */
  sendRaw(pfn: number, pageCount: number, pages: Uint8Array<ArrayBufferLike>): void;
  /** Sends compressed and raw runs, all that are in hand beyond what there is room for, if need be. The answer says when they have left. */
  sendBatch(runs: readonly CompressedRun[]): Departure;
  /** There is less in hand. */
  news(): void;
}

/** Something on its way to the kernel. */
export interface Departure {
  readonly hasLeft: boolean;
}

/** What compression did, and what it knows of the two rates that it goes by, in bytes a second; NaN: nothing yet. */
export interface CompressionReport extends CompressionCounts {
  readonly savedBytesPerSecond: number;
  readonly linkBytesPerSecond: number;
  readonly active: boolean;
}

/** A slot whose runs are on their way. */
interface SentSlot {
  readonly slot: number;
  readonly departure: Departure;
}

/**
 * Stands before the streams of a link: a run is compressed on its way there, or not, as {@link CompressionPolicy} has it.
 * Runs of a round may pass each other. The end of a round may not leave before {@link isEmpty}.
 */
export class RunCompression {
  readonly #output: RunOutput;
  readonly #clock: () => number;
  readonly #policy: CompressionPolicy;
  readonly #compressor: Compressor;
  #sent: SentSlot[] = [];

  constructor(
    output: RunOutput,
    mode: Exclude<CompressionMode, 'off'>,
    threads?: number,
    clock: () => number = () => performance.now(),
  ) {
    this.#output = output;
    this.#clock = clock;
    this.#compressor = new Compressor((batch) => this.#done(batch), threads);
    this.#policy = new CompressionPolicy(mode, this.#compressor.threads);
  }

  /** What the threads that send are given. */
  get slots(): CompressionSlots {
    return this.#compressor.slots;
  }

  /** Nothing is in hand that was not passed on. */
  get isEmpty(): boolean {
    return this.#compressor.pendingPages === 0;
  }

  /** Bytes of the pages that are in hand. */
  get pendingBytes(): number {
    return this.#compressor.pendingPages * PAGE_SIZE;
  }

  /** Whether a run may be given to {@link pageRun}; `linkHasRoom`: the streams would take one. */
  hasRoom(linkHasRoom: () => boolean): boolean {
    const choice = this.#choose(this.#clock());
    return choice === 'compress' || (choice === 'raw' && linkHasRoom());
  }

  /** Takes a run; `pages` are read before this returns, or passed on. */
  pageRun(pfn: number, pageCount: number, pages: Uint8Array<ArrayBufferLike>): void {
    for (let page = 0; page < pageCount; page += SLOT_PAGES) {
      const count = Math.min(SLOT_PAGES, pageCount - page);
      this.#take(pfn + page, count, pages.subarray(page * PAGE_SIZE, (page + count) * PAGE_SIZE));
    }
  }

  report(): CompressionReport {
    const { counts, savedBytesPerMs, linkBytesPerMs, active } = this.#policy;
    return {
      ...counts,
      savedBytesPerSecond: savedBytesPerMs * 1000,
      linkBytesPerSecond: linkBytesPerMs * 1000,
      active,
    };
  }

  /** Ends the threads. What is in hand is dropped; the output has stopped reading the slots. */
  async close(): Promise<void> {
    await this.#compressor.close();
  }

  #take(pfn: number, pageCount: number, pages: Uint8Array<ArrayBufferLike>): void {
    const now = this.#clock();
    // Who did not ask for room is served all the same: raw.
    if (this.#choose(now) === 'compress') {
      this.#policy.taken(pages.length, now);
      this.#compressor.add(pfn, pageCount, pages);
      return;
    }
    this.#policy.passed();
    this.#output.sendRaw(pfn, pageCount, pages);
    this.#look(now);
  }

  #choose(now: number): 'compress' | 'raw' | 'wait' {
    this.#releaseSlots();
    this.#look(now);
    if (this.#compressor.failure !== undefined) {
      return 'raw';
    }
    return this.#policy.choose(now, this.#compressor.hasRoom, this.#output.waitingBytes);
  }

  #look(now: number): void {
    this.#policy.link(this.#output.takenBytes, this.#output.waitingBytes, now);
  }

  #done({ slot, runs, busyMs }: CompressedBatch): void {
    for (const { pages, payload } of runs) {
      this.#policy.compressed(pages.length, payload?.length ?? 0);
    }
    this.#policy.worked(busyMs);
    const now = this.#clock();
    this.#look(now);
    const departure = this.#output.sendBatch(runs);
    this.#look(now);
    this.#sent.push({ slot, departure });
    this.#output.news();
  }

  #releaseSlots(): void {
    let kept = 0;
    for (const sent of this.#sent) {
      if (sent.departure.hasLeft) {
        this.#compressor.release(sent.slot);
      } else {
        this.#sent[kept] = sent;
        kept += 1;
      }
    }
    this.#sent.length = kept;
  }
}
