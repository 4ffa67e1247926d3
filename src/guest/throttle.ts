/** How long a throttled vCPU runs between two pauses; QEMU's time slice. */
export const THROTTLE_SLICE_MS = 10;

/**
 * Cuts a vCPU's time into slices of 10 ms and pauses between them, so that it is kept from running for a share of the
 * time:
 *
 * ```
 *   share 0.5   ▐██████████▌          ▐██████████▌          ▐██████████▌
 *   share 0.8   ▐██████████▌                                        ▐██████████▌
 *                  10 ms       10 ms × share / (1 − share)
 * ```
 *
 * A slice ends 10 ms after it began, whether the vCPU has halted in between or not: a guest that does what it has to in
 * a part of its time is slowed like one that is never done.
 */
export class Throttle {
  readonly #clock: () => number;
  #sliceEnd = Number.NaN;

  /** `clock` in ms; it may not go back. */
  constructor(clock: () => number) {
    this.#clock = clock;
  }

  /** Milliseconds until the slice is over, of a vCPU that runs with this share taken from it; Infinity for a share of 0. */
  sliceLeftMs(share: number): number {
    if (share === 0) {
      this.#sliceEnd = Number.NaN;
      return Number.POSITIVE_INFINITY;
    }
    const now = this.#clock();
    if (Number.isNaN(this.#sliceEnd)) {
      this.#sliceEnd = now + THROTTLE_SLICE_MS;
    }
    return Math.max(0, this.#sliceEnd - now);
  }

  /**
   * Once the slice is over: pauses, by calling `wait` with the milliseconds that are left of the pause until none are or
   * `wait` returns false; then the next slice begins. Returns how long that took.
   */
  pause(share: number, wait: (ms: number) => boolean): number {
    const begin = this.#clock();
    const end = begin + (THROTTLE_SLICE_MS * share) / (1 - share);
    let now = begin;
    while (now < end && wait(end - now)) {
      now = this.#clock();
    }
    now = this.#clock();
    this.#sliceEnd = now + THROTTLE_SLICE_MS;
    return now - begin;
  }
}
