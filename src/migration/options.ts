import { LacunaError } from '../errors.js';

/** When the host sends while a report is under way. */
export const SCHEDULES = ['wait', 'overlap', 'adaptive'] as const;
/**
 * - `wait` (the mail's): nothing is sent before the stop sign arrives, or a deadline passes.
 * - `overlap`: pages are sent while hints come in, those first that hints have passed by, then from the far end.
 * - `adaptive`: sends what hints have passed by, and goes to the far end only once it has waited longer than the
 *   hints have saved so far; so it never loses more by waiting than it has won.
 */
export type Schedule = (typeof SCHEDULES)[number];

/** How a migration is done. Times in ms, rates in bytes a second. */
export interface MigrationOptions {
  /** Ask the guest for its free pages. */
  readonly hints: boolean;
  /** Scan pages and send zero ones without contents. */
  readonly zeroDetection: boolean;
  readonly schedule: Schedule;
  readonly downtimeLimitMs: number;
  /** Rounds before the last one, at the most. */
  readonly maxRounds: number;
  /** Rounds in a row without a new minimum, after which a migration counts as not converging. */
  readonly stallRounds: number;
  /** A cap on bandwidth, or a modelled link; Infinity: none. */
  readonly bytesPerSecond: number;
  /** A report that makes no progress for so long is not waited for any more (I6). */
  readonly hintTimeoutMs: number;
  /** No report is waited for longer than this (I6). */
  readonly hintDeadlineMs: number;
  /** `adaptive`: how long it waits for a guest that has saved nothing yet. */
  readonly adaptiveGraceMs: number;
  /** A vCPU that has not reached a safe point by then can't be stopped: VCPU_STUCK. */
  readonly pauseTimeoutMs: number;
  /** A destination that takes nothing for so long, though there is more to send, is given up. */
  readonly sendTimeoutMs: number;
  /** A destination that has not answered by then is given up. */
  readonly readyTimeoutMs: number;
  /**
   * A commit that is not answered by then leaves the migration `unknown`, with the guest stopped here; Infinity: the answer
   * is waited for as long as it takes.
   */
  readonly startTimeoutMs: number;
  /** A commit that is not answered by then is told of (`unconfirmed`), and waited for. */
  readonly confirmAfterMs: number;
  /**
   * A link that breaks before the commit and is not restored by then is given up, with the guest running here; 0: a link that
   * breaks is given up at once.
   */
  readonly recoveryTimeoutMs: number;
  /** Pages of the longest run. */
  readonly maxRunPages: number;
}

/** What holds where a request says nothing. */
export const DEFAULT_OPTIONS: MigrationOptions = {
  hints: true,
  zeroDetection: true,
  schedule: 'adaptive',
  downtimeLimitMs: 300,
  maxRounds: 30,
  stallRounds: 3,
  bytesPerSecond: Number.POSITIVE_INFINITY,
  hintTimeoutMs: 500,
  hintDeadlineMs: 5000,
  adaptiveGraceMs: 25,
  pauseTimeoutMs: 5000,
  sendTimeoutMs: 30_000,
  readyTimeoutMs: 30_000,
  startTimeoutMs: 30_000,
  confirmAfterMs: 5000,
  recoveryTimeoutMs: 60_000,
  maxRunPages: 256,
};

/** The defaults with `given` on top. Throws INVALID_ARGUMENT with the first thing that makes no sense. */
export function resolveOptions(given: Partial<MigrationOptions>): MigrationOptions {
  const options = { ...DEFAULT_OPTIONS, ...given };
  const refuse = (what: string): never => {
    throw new LacunaError('INVALID_ARGUMENT', what);
  };
  if (!SCHEDULES.includes(options.schedule)) {
    refuse(`schedule "${options.schedule}": one of ${SCHEDULES.join(', ')}`);
  }
  if (!(options.bytesPerSecond > 0)) {
    refuse(`bytesPerSecond ${options.bytesPerSecond}: more than 0, or Infinity for no limit`);
  }
  const whole = ['maxRounds', 'stallRounds', 'maxRunPages'] as const;
  for (const name of whole) {
    if (!Number.isInteger(options[name]) || options[name] < 1) {
      refuse(`${name} ${options[name]}: a whole number from 1`);
    }
  }
  const times = [
    'downtimeLimitMs',
    'hintTimeoutMs',
    'hintDeadlineMs',
    'adaptiveGraceMs',
    'pauseTimeoutMs',
    'sendTimeoutMs',
    'readyTimeoutMs',
    'startTimeoutMs',
    'confirmAfterMs',
    'recoveryTimeoutMs',
  ] as const;
  for (const name of times) {
    if (!(options[name] >= 0)) {
      refuse(`${name} ${options[name]}: 0 or more milliseconds`);
    }
  }
  return options;
}
