import { MIB } from '../../memory/page.js';

/**
 * Whether runs are compressed: `off` never; `on` always, even where the link has to wait for it; `auto` while it takes
 * enough off the link to be worth the processor time.
 */
export const COMPRESSION_MODES = ['off', 'auto', 'on'] as const;
/** One of {@link COMPRESSION_MODES}. */
export type CompressionMode = (typeof COMPRESSION_MODES)[number];

/** What compression did. */
export interface CompressionCounts {
  /** Runs that left compressed; bytes of their pages, and of what was sent in their place. */
  runsCompressed: number;
  bytesBefore: number;
  bytesAfter: number;
  /** Runs that left raw because they would not shrink by an eighth. */
  runsIncompressible: number;
  /** Runs that left raw because the link is faster than what compression would take off it. */
  runsLinkFaster: number;
  /** Runs that left raw because the link had nothing to do and the compressor no room. */
  runsLinkIdle: number;
  /** Processor time of the pool, by the clock, summed over its threads. */
  compressMs: number;
}

/** What becomes of the next run; `wait`: neither the compressor nor the link has room for it. */
export type CompressionChoice = 'compress' | 'raw' | 'wait';

/**
 * The link's rate is taken over so long, from one moment at which it was seen to take something to another: a socket tells
 * of what it wrote in lumps of some MiB. After the longer time it is taken without: then the link does not move.
 */
const WINDOW_MS = 100;
const LONGEST_WINDOW_MS = 2000;
/** A window in which less than this share of the time had something waiting says only what the link can do at least. */
const BUSY_SHARE = 0.8;
/** What the last window counts for in the average. */
const WINDOW_WEIGHT = 0.5;
/** Runs of so many bytes count half as much as those that were compressed after them. */
const HALF_LIFE_BYTES: number = 4 * MIB;
/** Compression goes on above the one and off below the other: what it takes off the link, by what the link carries. */
const WORTH_IT = 1 / 4;
const NOT_WORTH_IT = 1 / 8;
/** While it is off, so much is compressed every so often, to see whether it has become worth it. */
const PROBE_EVERY_MS = 500;
const PROBE_BYTES: number = MIB;
/** With less than either before it, in the kernel's buffers too, the link is about to run dry. */
const LINK_LOW_BYTES: number = MIB / 2;
const LINK_LOW_MS = 10;
/** What the kernel holds of a connection, at the most that it is taken for. */
const MOST_KERNEL_BYTES: number = 4 * MIB;
/** A link that had nothing to do at times, while runs were held back, is given so much more than it is known to carry. */
const FASTER = 1.5;

/**
 * Decides run by run. Pure: it is told the time and everything else.
 *
 * A link that carries L bytes a second, beside a pool that takes S bytes a second off what is to be carried, moves L + S
 * of the guest's: the pool takes what it can, the rest goes raw, and the link never waits for the pool. So compression
 * always gains, and S / L says how much; where that is little (a link far faster than the pool, contents that do not
 * shrink) it is not worth the processor time, which the guest and the streams could use.
 *
 * S is what the pool's threads say they saved, per millisecond of their time, times their number. L is what the link
 * took in a window in which something was always waiting for it; in other windows, a lower bound. Both exist in either
 * state: while on, what the pool has no room for keeps the link busy; while off, a probe keeps S up to date.
 *
 * That nothing waits does not mean that the link has nothing to do: the kernel has taken it, some MiB, which a slow link
 * carries for a while. So what the kernel holds is reckoned, by L; and where that holds runs back from a link that has
 * nothing to do, by more than L, until the link shows what it can do.
 */
export class CompressionPolicy {
  readonly counts: CompressionCounts = {
    runsCompressed: 0,
    bytesBefore: 0,
    bytesAfter: 0,
    runsIncompressible: 0,
    runsLinkFaster: 0,
    runsLinkIdle: 0,
    compressMs: 0,
  };
  /** How often it went on or off. */
  switches = 0;
  readonly #always: boolean;
  readonly #threads: number;
  #worthIt = true;
  #savedBytes = 0;
  #busyMs = 0;
  #linkBytesPerMs = Number.NaN;
  #windowFrom = Number.NaN;
  #windowTaken = 0;
  #windowIdleMs = 0;
  /** In the first window the kernel's buffers fill, as fast as memory is copied. */
  #isFirstWindow = true;
  #seenAt = Number.NaN;
  #seenWaiting = 0;
  #seenTaken = 0;
  /** What the kernel holds, by reckoning, at {@link #seenAt}, and what the link is reckoned to carry; NaN: not known yet. */
  #kernelBytes = 0;
  #reckonedBytesPerMs = Number.NaN;
  /** Of the window: a run was held back by what the kernel holds. */
  #heldBack = false;
  #probeAt = Number.NEGATIVE_INFINITY;
  #probeBytes = 0;

  /** `threads` compress at the same time. */
  constructor(mode: Exclude<CompressionMode, 'off'>, threads: number) {
    this.#always = mode === 'on';
    this.#threads = threads;
  }

  /** Whether runs go through the pool, probes aside. */
  get active(): boolean {
    return this.#always || this.#worthIt;
  }

  /** What the pool takes off the link, in bytes a millisecond; NaN: not known yet. */
  get savedBytesPerMs(): number {
    return this.#busyMs > 0 ? (this.#threads * this.#savedBytes) / this.#busyMs : Number.NaN;
  }

  /** What the link carries, in bytes a millisecond; NaN: not known yet. */
  get linkBytesPerMs(): number {
    return this.#linkBytesPerMs;
  }

  /** What to do with a run at `now`, with or without `room` in the compressor and `waitingBytes` in front of the link. */
  choose(now: number, room: boolean, waitingBytes: number): CompressionChoice {
    if (!this.active) {
      return room && (this.#probeBytes > 0 || now >= this.#probeAt) ? 'compress' : 'raw';
    }
    if (room) {
      return 'compress';
    }
    if (this.#always) {
      return 'wait';
    }
    const rate = this.#reckonedBytesPerMs;
    const lowBytes = Number.isNaN(rate) ? LINK_LOW_BYTES : Math.min(LINK_LOW_BYTES, LINK_LOW_MS * rate);
    if (waitingBytes + this.#kernelBytes < lowBytes) {
      return 'raw';
    }
    this.#heldBack ||= waitingBytes < lowBytes;
    return 'wait';
  }

  /** A run of `bytes` was given to the compressor. */
  taken(bytes: number, now: number): void {
    if (this.active) {
      return;
    }
    if (this.#probeBytes <= 0) {
      this.#probeBytes = PROBE_BYTES;
      this.#probeAt = now + PROBE_EVERY_MS;
    }
    this.#probeBytes -= bytes;
  }

  /** A run was sent raw without a try. */
  passed(): void {
    if (this.active) {
      this.counts.runsLinkIdle += 1;
    } else {
      this.counts.runsLinkFaster += 1;
    }
  }

  /** The compressor is through with a run: `bytesAfter` is 0 if it goes raw. */
  compressed(bytesBefore: number, bytesAfter: number): void {
    const { counts } = this;
    const decay = 0.5 ** (bytesBefore / HALF_LIFE_BYTES);
    this.#savedBytes *= decay;
    this.#busyMs *= decay;
    if (bytesAfter === 0) {
      counts.runsIncompressible += 1;
    } else {
      counts.runsCompressed += 1;
      counts.bytesBefore += bytesBefore;
      counts.bytesAfter += bytesAfter;
      this.#savedBytes += bytesBefore - bytesAfter;
    }
  }

  /** One of the pool's threads took so long for the runs that were told since the last call. */
  worked(busyMs: number): void {
    this.counts.compressMs += busyMs;
    this.#busyMs += busyMs;
    this.#weigh();
  }

  /**
   * What the link has taken in all, and what waits for it. To be called before and after it is given something, so that
   * the time in which nothing waited is known.
   */
  link(takenBytes: number, waitingBytes: number, now: number): void {
    if (Number.isNaN(this.#windowFrom)) {
      this.#beginWindow(takenBytes, now);
    } else if (waitingBytes === 0 || this.#seenWaiting === 0) {
      // Had it been empty all the time, or for a moment only? It is not known, and counts as idle.
      this.#windowIdleMs += now - this.#seenAt;
    }
    const hasMoved = takenBytes !== this.#seenTaken;
    if (!Number.isNaN(this.#reckonedBytesPerMs)) {
      const carried = (now - this.#seenAt) * this.#reckonedBytesPerMs;
      const held = Math.max(0, this.#kernelBytes - carried) + takenBytes - this.#seenTaken;
      this.#kernelBytes = Math.min(MOST_KERNEL_BYTES, held);
    }
    this.#seenAt = now;
    this.#seenWaiting = waitingBytes;
    this.#seenTaken = takenBytes;
    const elapsedMs = now - this.#windowFrom;
    if (elapsedMs >= (hasMoved ? WINDOW_MS : LONGEST_WINDOW_MS)) {
      this.#endWindow((takenBytes - this.#windowTaken) / elapsedMs, this.#windowIdleMs / elapsedMs);
      this.#beginWindow(takenBytes, now);
      this.#weigh();
    }
  }

  #beginWindow(takenBytes: number, now: number): void {
    this.#windowFrom = now;
    this.#windowTaken = takenBytes;
    this.#windowIdleMs = 0;
    this.#heldBack = false;
  }

  #endWindow(rate: number, idleShare: number): void {
    const known = this.#linkBytesPerMs;
    if (this.#isFirstWindow) {
      this.#isFirstWindow = false;
      return;
    }
    if (Number.isNaN(known)) {
      this.#linkBytesPerMs = rate;
    } else if (idleShare <= 1 - BUSY_SHARE) {
      this.#linkBytesPerMs = known + WINDOW_WEIGHT * (rate - known);
    } else {
      this.#linkBytesPerMs = Math.max(known, rate);
      if (this.#heldBack) {
        this.#reckonedBytesPerMs = Math.max(this.#reckonedBytesPerMs * FASTER, rate);
        return;
      }
    }
    this.#reckonedBytesPerMs = this.#linkBytesPerMs;
  }

  #weigh(): void {
    if (this.#always) {
      return;
    }
    const saved = this.savedBytesPerMs;
    const gain = saved === 0 ? 0 : saved / this.#linkBytesPerMs; // nothing is nothing, whatever the link is
    const worthIt = this.#worthIt ? !(gain < NOT_WORTH_IT) : gain > WORTH_IT;
    if (worthIt !== this.#worthIt) {
      this.#worthIt = worthIt;
      this.#probeBytes = 0;
      this.#probeAt = this.#seenAt + PROBE_EVERY_MS;
      this.switches += 1;
    }
  }
}
