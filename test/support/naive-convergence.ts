import type { ConvergenceOptions, RoundOutlook, SwitchoverReason } from '../../src/migration/convergence.js';

const PAGE_SIZE = 4096;

/**
 * The naive twin of Convergence: it is given the outlook of every round up to now, in order, none of which was a reason to stop,
 * and looks for the best of them each time anew.
 */
export function naiveDecision(
  options: ConvergenceOptions,
  rounds: readonly RoundOutlook[],
): SwitchoverReason | undefined {
  const now = rounds.at(-1)!;
  const isInstant = now.bytesPerMs === Number.POSITIVE_INFINITY;
  const bytesThatFit = isInstant ? Number.POSITIVE_INFINITY : options.downtimeLimitMs * now.bytesPerMs;
  if (now.pendingPages * PAGE_SIZE + now.unflushedBytes <= bytesThatFit) {
    return 'downtime-limit';
  }
  if (now.round > options.maxRounds - 1) {
    return 'round-limit';
  }
  const pending = rounds.map(({ pendingPages }) => pendingPages);
  const fewest = Math.min(...pending);
  // Rounds since the first that was as good as it gets; whichever equals it later is nothing new.
  const since = pending.length - 1 - pending.indexOf(fewest);
  const isLow = now.pendingPages * 10 <= fewest * 11;
  return since > 0 && since >= options.stallRounds && isLow ? 'stalled' : undefined;
}
