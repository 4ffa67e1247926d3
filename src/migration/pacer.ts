import { PAGE_SIZE } from '../memory/page.js';
import { FRAME_HEADER_BYTES } from '../wire/channel.js';

/**
 * A link of a given rate: a token bucket, kept as the time at which the link will be free (the generic cell rate
 * algorithm of ITU-T I.371, which is the same thing with one number instead of two).
 *
 * It caps the bandwidth of a migration, and it models a link in a benchmark. A sender that asks {@link readyAt} before
 * each frame, and sends no longer ones than {@link longestRun} allows, sends in any time no more than the link carries
 * in that time and 16 ms more (of a link slower than 1 MB/s, 11 ms and what a page takes). In any second, that is within 2 %
 * from 0.5 MB/s on.
 */
export class Pacer {
  #bytesPerMs: number;
  #freeAt = Number.NEGATIVE_INFINITY;

  /** `bytesPerSecond` of the link, Infinity for none. */
  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  /** Bytes a millisecond; Infinity: no limit. */
  get bytesPerMs(): number {
    return this.#bytesPerMs;
  }

  /** The rate from `now` on, for what the link has not carried yet, too. */
  changeRate(bytesPerSecond: number, now: number): void {
    const bytesPerMs = bytesPerSecond / 1000;
    if (this.#freeAt > now) {
      this.#freeAt = now + ((this.#freeAt - now) * this.#bytesPerMs) / bytesPerMs;
    }
    this.#bytesPerMs = bytesPerMs;
  }

  /** What is sent at `now` takes the link for its length. */
  charge(bytes: number, now: number): void {
    if (this.#bytesPerMs !== Number.POSITIVE_INFINITY) {
      this.#freeAt = Math.max(this.#freeAt, now - SLACK_MS) + bytes / this.#bytesPerMs;
    }
  }

  /**
   * When the next run may be sent: `now`, unless the link's queue is full; then when it has drained far enough for a
   * sleep to be worth it (timers have a resolution of 1 ms).
   */
  readyAt(now: number): number {
    return this.#freeAt - now > QUEUE_MS ? this.#freeAt - REFILL_MS : now;
  }

  /** Whether a frame without contents may go even now: there is a little room for them beyond a full queue. */
  takesHeader(now: number): boolean {
    return this.#freeAt - now <= QUEUE_MS + RUN_MS + HEADERS_MS;
  }

  /** Pages of the longest run that does not hold the link for too long: 1 at the least, `most` without a limit. */
  longestRun(most: number): number {
    const pages = Math.floor((this.#bytesPerMs * RUN_MS - FRAME_HEADER_BYTES) / PAGE_SIZE);
    return Math.max(1, Math.min(most, pages));
  }

  /** When all that was sent has passed the link. */
  drainedAt(): number {
    return this.#freeAt;
  }
}

// Together, with what a page takes instead of RUN_MS where that is longer, no more than 2 % of a second.

/**
 * How much the sender may be ahead of the link, so that a timer that comes late leaves no gap: with the slack, one that
 * is late by 9 ms, which on an event loop with other work one in a hundred is.
 */
const QUEUE_MS = 7;
/** What is left in the link's queue when it is filled again. */
const REFILL_MS = 5;
/** How much a sender that was late may make up for. */
const SLACK_MS = 4;
/** How long a run may take: it is let into the queue as a whole. */
const RUN_MS = 4;
/** For frames without contents, beyond a queue that a run has just filled. */
const HEADERS_MS = 1;
