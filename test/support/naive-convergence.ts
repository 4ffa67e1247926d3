import type {
  ConvergenceDecision,
  ConvergenceOptions,
  RoundOutlook,
} from '../../src/migration/convergence.js';

const PAGE_SIZE = 4096;

/** What was decided after one round, and what the throttle is after it. */
export interface NaiveDecision {
  readonly decision: ConvergenceDecision | undefined;
  readonly throttle: number;
}

/**
 * The naive twin of Convergence: it is given the outlook of every round, in order, none of which but the last was a reason to
 * end, and works each decision out from all that was decided before.
 */
export function naiveDecisions(
  options: ConvergenceOptions,
  rounds: readonly RoundOutlook[],
): readonly NaiveDecision[] {
  const made: NaiveDecision[] = [];
  for (const [i, now] of rounds.entries()) {
    const steps = made.filter(({ decision }) => decision === 'throttle').length;
    // The round after which the throttle was raised last is the first of those that count.
    const first = Math.max(
      0,
      made.findLastIndex(({ decision }) => decision === 'throttle'),
    );
    const pending = rounds.slice(first, i + 1).map(({ pendingPages }) => pendingPages);
    const decision = decide(options, now, pending, shareAfter(options, steps));
    const throttle = shareAfter(options, steps + (decision === 'throttle' ? 1 : 0));
    made.push({ decision, throttle });
  }
  return made;
}

/** The throttle after so many steps. */
function shareAfter(options: ConvergenceOptions, steps: number): number {
  const { throttleInitial, throttleIncrement, throttleMax } = options;
  const thousandths =
    steps === 0 ? 0 : Math.round(throttleInitial * 1000) + (steps - 1) * Math.round(throttleIncrement * 1000);
  return Math.min(throttleMax, thousandths / 1000);
}

function decide(
  options: ConvergenceOptions,
  now: RoundOutlook,
  pending: readonly number[],
  share: number,
): ConvergenceDecision | undefined {
  const isInstant = now.bytesPerMs === Number.POSITIVE_INFINITY;
  const bytesThatFit = isInstant ? Number.POSITIVE_INFINITY : options.downtimeLimitMs * now.bytesPerMs;
  if (now.pendingPages * PAGE_SIZE + now.unflushedBytes <= bytesThatFit) {
    return 'downtime-limit';
  }
  if (now.round > options.maxRounds - 1) {
    return options.onStall === 'cancel' ? 'cancel' : 'round-limit';
  }
  const window = pending.slice(-2 * options.stallRounds);
  const before = window.slice(0, Math.max(0, window.length - options.stallRounds));
  const last = window.slice(before.length);
  const isProgress = last.some((pages) => before.every((earlier) => pages < earlier));
  const pairs = window.flatMap((earlier, i) => window.slice(i + 1).map((later) => [earlier, later] as const));
  const down = pairs.filter(([earlier, later]) => later < earlier).length;
  const up = pairs.filter(([earlier, later]) => later > earlier).length;
  if (before.length === 0 || isProgress || (down - up) * 2 > pairs.length) {
    return undefined;
  }
  if (options.onStall === 'cancel') {
    return 'cancel';
  }
  if (options.onStall === 'throttle' && share < options.throttleMax) {
    return 'throttle';
  }
  return now.pendingPages * 10 <= Math.min(...window) * 11 ? 'stalled' : undefined;
}
