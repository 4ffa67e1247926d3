/** All of {@link SwitchoverReason}. */
export const SWITCHOVER_REASONS = ['downtime-limit', 'round-limit', 'stalled'] as const;
/** Why a migration went over to its last round. */
export type SwitchoverReason = (typeof SWITCHOVER_REASONS)[number];

export interface ConvergenceOptions {
  /** The longest downtime that is acceptable, in ms. */
  readonly downtimeLimitMs: number;
  readonly maxRounds: number;
  /** Rounds in a row without a new minimum of pages to send, after which the guest counts as not converging. */
  readonly stallRounds: number;
}

/** What is known at the end of a round. */
export interface RoundOutlook {
  readonly round: number;
  /** Pages that still have to go if the guest were stopped now. */
  readonly pendingPages: number;
  /** Bytes on their way already. */
  readonly unflushedBytes: number;
  readonly bytesPerMs: number;
}

const PAGE_ON_WIRE_BYTES = 4096;

/**
 * Decides when to stop the guest: as soon as what is left can be sent within the downtime limit. A guest that
 * writes faster than the link can carry never gets there; then it is stopped at a local minimum rather than never.
 */
export class Convergence {
  readonly #options: ConvergenceOptions;
  #fewest = Number.POSITIVE_INFINITY;
  #roundsSinceFewest = 0;

  constructor(options: ConvergenceOptions) {
    this.#options = options;
  }

  /** How long the guest would stand still if it were stopped now. */
  static expectedDowntimeMs(outlook: RoundOutlook): number {
    return (outlook.pendingPages * PAGE_ON_WIRE_BYTES + outlook.unflushedBytes) / outlook.bytesPerMs;
  }

  /** The reason to stop the guest now, or undefined to go on. */
  decide(outlook: RoundOutlook): SwitchoverReason | undefined {
    if (Convergence.expectedDowntimeMs(outlook) <= this.#options.downtimeLimitMs) {
      return 'downtime-limit';
    }
    if (outlook.round >= this.#options.maxRounds) {
      return 'round-limit';
    }
    if (outlook.pendingPages < this.#fewest) {
      this.#fewest = outlook.pendingPages;
      this.#roundsSinceFewest = 0;
      return undefined;
    }
    this.#roundsSinceFewest += 1;
    // Not at a peak of an oscillation: no more than a tenth above the fewest seen.
    const nearMinimum = outlook.pendingPages <= this.#fewest * 1.1;
    return this.#roundsSinceFewest >= this.#options.stallRounds && nearMinimum ? 'stalled' : undefined;
  }
}
