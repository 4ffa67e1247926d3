/** All of {@link SwitchoverReason}. */
export const SWITCHOVER_REASONS = ['downtime-limit', 'round-limit', 'stalled'] as const;
/** Why a migration went over to its last round. */
export type SwitchoverReason = (typeof SWITCHOVER_REASONS)[number];

/** All of {@link StallAction}. */
export const STALL_ACTIONS = ['switch', 'throttle', 'cancel'] as const;
/**
 * What is done about a guest that writes as fast as the link carries:
 *
 * - `switch`: it is stopped at a local minimum, however long its downtime will be.
 * - `throttle`: its vCPU is kept from running for a share of the time, which is raised a step whenever that does not
 *   help; at the limit it is stopped as with `switch`. (QEMU's `auto-converge`.)
 * - `cancel`: the migration fails (NOT_CONVERGING), and the guest goes on at the source.
 */
export type StallAction = (typeof STALL_ACTIONS)[number];

export interface ConvergenceOptions {
  /** The longest downtime that is acceptable, in ms. */
  readonly downtimeLimitMs: number;
  readonly maxRounds: number;
  /** Rounds in a row without progress, after which the guest counts as not converging. */
  readonly stallRounds: number;
  readonly onStall: StallAction;
  /** Shares of the time: the first step of `throttle`, each further one, and the most. */
  readonly throttleInitial: number;
  readonly throttleIncrement: number;
  readonly throttleMax: number;
}

/** What is known at the end of a round. */
export interface RoundOutlook {
  readonly round: number;
  /** Pages that still have to go if the guest were stopped now. */
  readonly pendingPages: number;
  /** Bytes on their way already. */
  readonly unflushedBytes: number;
  /** The rate at which they will go. */
  readonly bytesPerMs: number;
}

/** {@link Convergence.decide}: stop the guest, throttle it, or give up. */
export type ConvergenceDecision = SwitchoverReason | 'throttle' | 'cancel';

const PAGE_ON_WIRE_BYTES = 4096;
/** How much above the fewest pages still counts as a local minimum. */
const NEAR_MINIMUM = 1.1;

/**
 * Decides when to stop the guest: as soon as what is left can be sent within the downtime limit. A guest that writes
 * faster than the link can carry never gets there. That it has stalled is said of the last `stallRounds` rounds when
 *
 * - the best of them left no fewer pages than the best of as many before them, and
 * - the pages do not fall over both: of all pairs of those rounds, the later one has not fewer pages more often than
 *   not by more than half of them (Kendall's rank correlation; an oscillation comes to about none, and one lucky round
 *   does not hide that all others go down).
 *
 * Only so many rounds are looked back: a minimum that was an accident is forgotten.
 */
export class Convergence {
  readonly #options: ConvergenceOptions;
  /** What was left after each of the last rounds under the same conditions. */
  readonly #recent: number[] = [];
  /** The share of the time for which the guest is to be kept from running. */
  throttle = 0;

  constructor(options: ConvergenceOptions) {
    this.#options = options;
  }

  /** How long the guest would stand still if it were stopped now. */
  static expectedDowntimeMs(outlook: RoundOutlook): number {
    return (outlook.pendingPages * PAGE_ON_WIRE_BYTES + outlook.unflushedBytes) / outlook.bytesPerMs;
  }

  /**
   * What to do now; undefined: another round. After `throttle`, {@link throttle} is the next step, and what counts as
   * progress starts anew.
   */
  decide(outlook: RoundOutlook): ConvergenceDecision | undefined {
    const { downtimeLimitMs, maxRounds, onStall, throttleMax } = this.#options;
    if (Convergence.expectedDowntimeMs(outlook) <= downtimeLimitMs) {
      return 'downtime-limit';
    }
    if (outlook.round >= maxRounds) {
      return onStall === 'cancel' ? 'cancel' : 'round-limit';
    }
    const { pendingPages } = outlook;
    this.#note(pendingPages);
    if (!this.#stalled()) {
      return undefined;
    }
    if (onStall === 'cancel') {
      return 'cancel';
    }
    if (onStall === 'throttle' && this.throttle < throttleMax) {
      this.throttle = this.#nextStep();
      this.startAnew();
      this.#note(pendingPages); // what the first round under the new throttle is compared with
      return 'throttle';
    }
    // Not at a peak of an oscillation.
    return pendingPages <= Math.min(...this.#recent) * NEAR_MINIMUM ? 'stalled' : undefined;
  }

  /** The rounds before say nothing about those to come: the conditions have changed. */
  startAnew(): void {
    this.#recent.length = 0;
  }

  #note(pendingPages: number): void {
    this.#recent.push(pendingPages);
    if (this.#recent.length > 2 * this.#options.stallRounds) {
      this.#recent.shift();
    }
  }

  #stalled(): boolean {
    const { stallRounds } = this.#options;
    if (this.#recent.length <= stallRounds) {
      return false;
    }
    const fewestBefore = Math.min(...this.#recent.slice(0, -stallRounds));
    return Math.min(...this.#recent.slice(-stallRounds)) >= fewestBefore && !this.#falls();
  }

  #falls(): boolean {
    const rounds = this.#recent;
    let balance = 0;
    for (let later = 1; later < rounds.length; later += 1) {
      for (let earlier = 0; earlier < later; earlier += 1) {
        balance += Math.sign(rounds[earlier]! - rounds[later]!);
      }
    }
    const pairs = (rounds.length * (rounds.length - 1)) / 2;
    return balance > pairs / 2;
  }

  /** In thousandths, so that 0.1 + 0.2 is 0.3. */
  #nextStep(): number {
    const { throttleInitial, throttleIncrement, throttleMax } = this.#options;
    const next = this.throttle === 0 ? throttleInitial : this.throttle + throttleIncrement;
    return Math.min(throttleMax, Math.round(next * 1000) / 1000);
  }
}
