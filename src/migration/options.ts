import { LacunaError } from '../errors.js';
import { STALL_ACTIONS, type StallAction } from './convergence.js';

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
  /**
   * There is no postcopy, and what asks for it is refused with UNSUPPORTED rather than done in another way (V16). Hints could
   * not be had with it in any case: of a page that did not come nobody could say whether it was left out or is on its way.
   */
  readonly postcopy: boolean;
  /** Scan pages and send zero ones without contents. */
  readonly zeroDetection: boolean;
  readonly schedule: Schedule;
  readonly downtimeLimitMs: number;
  /** Rounds before the last one, at the most. */
  readonly maxRounds: number;
  /** Rounds in a row without progress, after which a migration counts as not converging. */
  readonly stallRounds: number;
  /** What is done then, and (`cancel`) at the round limit. */
  readonly onStall: StallAction;
  /** `throttle`: the share of the time for which the guest is kept from running at first, above 0. */
  readonly throttleInitial: number;
  /** By how much it is raised each time that this has not helped. */
  readonly throttleIncrement: number;
  /** The most, at most {@link MOST_THROTTLE}. */
  readonly throttleMax: number;
  /** A cap on bandwidth, or a modelled link; Infinity: none. Kept within 2 % over any second, from 0.5 MB/s on. */
  readonly bytesPerSecond: number;
  /**
   * The cap from the moment at which the guest is asked to stop; undefined: as before. What is left is sent at that
   * rate, and so the expected downtime is worked out with it. (QEMU has no cap then, and `avail-switchover-bandwidth`
   * is only what it takes for the rate when it works the downtime out. This is both. A cap that is lifted, Infinity,
   * says nothing about the rate: then it is taken to be what the rounds before came to.)
   */
  readonly switchoverBytesPerSecond: number | undefined;
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
  /** Pages of the longest run; under a cap on bandwidth runs are no longer than 4 ms of the link, or a page. */
  readonly maxRunPages: number;
}

/** QEMU's: beyond it the guest does not run enough to be called running. */
export const MOST_THROTTLE = 0.99;

/** Steps are counted in thousandths, and each is to make a difference. */
const LEAST_STEP = 0.01;

/** What holds where a request says nothing. */
export const DEFAULT_OPTIONS: MigrationOptions = {
  hints: true,
  postcopy: false,
  zeroDetection: true,
  schedule: 'adaptive',
  downtimeLimitMs: 300,
  maxRounds: 30,
  stallRounds: 3,
  onStall: 'switch',
  throttleInitial: 0.2,
  throttleIncrement: 0.1,
  // A guest that has a fifth of its time stands still for 40 ms at a time, which is below the downtime limit and every
  // deadline of a report; all steps up to it fit into the round limit. (QEMU goes up to 0.99, 10 ms in every second: to
  // be stopped once, for as long as what is left takes, is better than that.)
  throttleMax: 0.8,
  bytesPerSecond: Number.POSITIVE_INFINITY,
  switchoverBytesPerSecond: undefined,
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
  if (options.postcopy) {
    throw new LacunaError(
      'UNSUPPORTED',
      'postcopy: the guest is started at the destination only when all of its memory is there; leave the option out',
    );
  }
  if (!SCHEDULES.includes(options.schedule)) {
    refuse(`schedule "${options.schedule}": one of ${SCHEDULES.join(', ')}`);
  }
  if (!STALL_ACTIONS.includes(options.onStall)) {
    refuse(`onStall "${options.onStall}": one of ${STALL_ACTIONS.join(', ')}`);
  }
  const { throttleInitial, throttleIncrement, throttleMax } = options;
  if (!(throttleMax > 0 && throttleMax <= MOST_THROTTLE)) {
    refuse(`throttleMax ${throttleMax}: a share of the time above 0, up to ${MOST_THROTTLE}`);
  }
  if (!(throttleInitial >= LEAST_STEP && throttleInitial <= throttleMax)) {
    refuse(`throttleInitial ${throttleInitial}: a share of the time from ${LEAST_STEP} to throttleMax`);
  }
  if (!(throttleIncrement >= LEAST_STEP && throttleIncrement <= 1)) {
    refuse(`throttleIncrement ${throttleIncrement}: a share of the time from ${LEAST_STEP} to 1`);
  }
  const { bytesPerSecond, switchoverBytesPerSecond = bytesPerSecond } = options;
  for (const [name, rate] of Object.entries({ bytesPerSecond, switchoverBytesPerSecond })) {
    if (!(rate > 0)) {
      refuse(`${name} ${rate}: more than 0, or Infinity for no limit`);
    }
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
