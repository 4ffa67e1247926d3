import type { EventWord } from '../memory/control-buffer.js';
import { PAGE_SIZE } from '../memory/page.js';
import type { DestinationMessage, SourceChannel } from '../wire/channel.js';

/** What can be wrong with a transport; all that are given happen. Frames are counted from 0. */
export interface TransportFaults {
  /** The link breaks at this frame: it and all after it are lost, and the source is told. */
  readonly failAtFrame?: number | undefined;
  /** From this frame on there is no room, for `ms` (Infinity: for ever). */
  readonly stall?: { readonly atFrame: number; readonly ms: number } | undefined;
  /** Runs arrive in up to so many pieces. At most {@link MOST_PIECES}. */
  readonly pieces?: number | undefined;
  /** The destination's message of this type never arrives. */
  readonly loses?: 'ready' | 'started' | undefined;
}

/** What was really done, and how often. */
export interface TransportFaultCounts {
  failed: number;
  stalled: number;
  /** Runs that were cut into pieces. */
  split: number;
  lost: number;
}

/** A run is one frame to the source, and a channel that said it was writable has room for a few more than one. */
export const MOST_PIECES = 8;

/**
 * A transport that fails, stalls, cuts runs into pieces and loses answers: a decorator of the source's end, so that
 * whatever it decorates knows nothing of it.
 */
export class FaultyChannel implements SourceChannel {
  readonly counts: TransportFaultCounts = { failed: 0, stalled: 0, split: 0, lost: 0 };
  readonly #inner: SourceChannel;
  readonly #event: EventWord;
  readonly #faults: TransportFaults;
  readonly #random: () => number;
  #frames = 0;
  #stalled = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The link has broken, and whether the source was told. */
  #broken = false;
  #told = false;

  /** `event` is rung when there is room again; `random` gives numbers from 0 to below 1. */
  constructor(inner: SourceChannel, event: EventWord, faults: TransportFaults, random: () => number) {
    this.#inner = inner;
    this.#event = event;
    this.#faults = faults;
    this.#random = random;
  }

  get writable(): boolean {
    const { stall } = this.#faults;
    if (stall !== undefined && this.counts.stalled === 0 && this.#frames >= stall.atFrame) {
      this.counts.stalled = 1;
      this.#stalled = true;
      if (stall.ms !== Number.POSITIVE_INFINITY) {
        this.#timer = setTimeout(() => {
          this.#stalled = false;
          this.#event.ring();
        }, stall.ms);
      }
    }
    return !this.#stalled && (this.#broken || this.#inner.writable);
  }

  get unflushedBytes(): number {
    return this.#inner.unflushedBytes;
  }

  poll(): DestinationMessage | undefined {
    if (this.#broken) {
      if (this.#told) {
        return undefined;
      }
      this.#told = true;
      return { type: 'error', reason: 'the link broke' };
    }
    const message = this.#inner.poll();
    if (message !== undefined && message.type === this.#faults.loses) {
      this.counts.lost += 1;
      return undefined;
    }
    return message;
  }

  pageRun(pfn: number, pageCount: number, payload: Uint8Array<ArrayBufferLike>): void {
    this.#cut(pfn, pageCount, (first, pages) => {
      const from = (first - pfn) * PAGE_SIZE;
      this.#inner.pageRun(first, pages, payload.subarray(from, from + pages * PAGE_SIZE));
    });
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#cut(pfn, pageCount, (first, pages) => this.#inner.zeroRun(first, pages));
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#cut(pfn, pageCount, (first, pages) => this.#inner.fillRun(first, pages, value));
  }

  roundEnd(round: number): void {
    if (this.#passes()) {
      this.#inner.roundEnd(round);
    }
  }

  deviceState(state: Uint8Array): void {
    if (this.#passes()) {
      this.#inner.deviceState(state);
    }
  }

  finish(): void {
    if (this.#passes()) {
      this.#inner.finish();
    }
  }

  commit(): void {
    if (this.#passes()) {
      this.#inner.commit();
    }
  }

  withdraw(): void {
    if (this.#passes()) {
      this.#inner.withdraw();
    }
  }

  cancel(): void {
    if (this.#passes()) {
      this.#inner.cancel();
    }
  }

  /** Call it when the migration is over: a stall that is still on keeps no timer. */
  end(): void {
    clearTimeout(this.#timer);
  }

  /** Counts a frame; false: the link has broken, and it is lost. */
  #passes(): boolean {
    const { failAtFrame } = this.#faults;
    if (!this.#broken && failAtFrame !== undefined && this.#frames >= failAtFrame) {
      this.#broken = true;
      this.counts.failed = 1;
      this.#event.ring();
    }
    this.#frames += 1;
    return !this.#broken;
  }

  #cut(pfn: number, pageCount: number, send: (pfn: number, pageCount: number) => void): void {
    if (!this.#passes()) {
      return;
    }
    const { pieces = 1 } = this.#faults;
    const end = pfn + pageCount;
    const count = Math.min(1 + Math.floor(this.#random() * Math.min(pieces, MOST_PIECES)), pageCount);
    if (count > 1) {
      this.counts.split += 1;
    }
    for (let left = count; left > 1; left -= 1) {
      // A page at least for this piece, and for each of those that are left.
      const pages = 1 + Math.floor(this.#random() * (end - pfn - left + 1));
      send(pfn, pages);
      pfn += pages;
    }
    send(pfn, end - pfn);
  }
}
