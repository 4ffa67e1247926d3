/**
 * A link of a given rate: a token bucket, kept as the time at which the link will be free (the generic cell rate
 * algorithm of ITU-T I.371, which is the same thing with one number instead of two).
 *
 * It caps the bandwidth of a migration, and it models a link in a benchmark.
 */
export class Pacer {
  /** Bytes a millisecond; Infinity: no limit. */
  readonly bytesPerMs: number;
  #freeAt = Number.NEGATIVE_INFINITY;

  /** `bytesPerSecond` of the link, Infinity for none. */
  constructor(bytesPerSecond: number) {
    this.bytesPerMs = bytesPerSecond / 1000;
  }

  /** What is sent at `now` takes the link for its length. */
  charge(bytes: number, now: number): void {
    if (this.bytesPerMs !== Number.POSITIVE_INFINITY) {
      this.#freeAt = Math.max(this.#freeAt, now - SLACK_MS) + bytes / this.bytesPerMs;
    }
  }

  /**
   * When the next run may be sent: `now`, unless the link's queue is full; then when it has drained far enough for a
   * sleep to be worth it (timers have a resolution of 1 ms).
   */
  readyAt(now: number): number {
    return this.#freeAt - now > QUEUE_MS ? this.#freeAt - REFILL_MS : now;
  }

  /** When all that was sent has passed the link. */
  drainedAt(): number {
    return this.#freeAt;
  }
}

/** How much the sender may be ahead of the link, so that a timer that comes late leaves no gap. */
const QUEUE_MS = 4;
/** What is left in the link's queue when it is filled again. */
const REFILL_MS = 2;
/** How much a sender that was late may make up for. Averaged over more than this, the rate is never exceeded. */
const SLACK_MS = 4;
