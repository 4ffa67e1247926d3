import type { PrecopySource } from '../../migration/precopy.js';
import type { Verification } from '../../vmm/verifier.js';
import { FAULT_KINDS, type FaultKind } from './plan.js';

/** How migrations end, by where that leaves the guest. */
export const OUTCOMES = [
  'completed',
  'cancelled',
  'VCPU_STUCK',
  'DESTINATION_FAILED',
  'DESTINATION_SILENT',
  'LINK_LOST',
  'NOT_CONVERGING',
  'COMMIT_UNCONFIRMED, guest at the destination',
  'COMMIT_UNCONFIRMED, guest at neither',
] as const;

/** What a run has come to so far. Pages unless a name says otherwise. */
export class Tally {
  migrations = 0;
  /** Fresh guests that were moved. */
  cases = 0;
  /** Cases that need more memory than the machine can give. */
  skippedCases = 0;
  readonly outcomes: Map<string, number> = new Map(OUTCOMES.map((outcome) => [outcome, 0]));
  readonly faults: Map<FaultKind, number> = new Map(FAULT_KINDS.map((kind) => [kind, 0]));
  sent = 0;
  zero = 0;
  filled = 0;
  rounds = 0;
  sessions = 0;
  hintsApplied = 0;
  hintsReDirtied = 0;
  pagesCompared = 0;
  pagesLeftBehind = 0;
  /** Of migrations over a network. `startedOver`: of those restored, the ones with another destination. */
  readonly links = { lost: 0, restored: 0, startedOver: 0, epochs: 0 };
  /** Of completed migrations, in ms. */
  readonly downtimes: number[] = [];

  migrated(source: PrecopySource, whereabouts: 'source' | 'destination' | 'lost'): void {
    this.migrations += 1;
    const outcome = outcomeOf(source, whereabouts);
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1);
    this.sent += source.sent.pages;
    this.zero += source.sent.zeroPages;
    this.filled += source.sent.filledPages;
    this.rounds += source.rounds.length;
    this.sessions += source.sessions.length;
    this.hintsApplied += source.accounts.hints.applied;
    this.hintsReDirtied += source.accounts.hints.reDirtied;
    if (source.phase === 'completed') {
      this.downtimes.push(source.guestStartedAt - source.guestStoppedAt);
    }
  }

  compared(pages: Verification): void {
    this.pagesCompared += pages.pagesCompared;
    this.pagesLeftBehind += pages.pagesLeftBehind;
  }

  injected(kinds: Iterable<FaultKind>): void {
    for (const kind of kinds) {
      this.faults.set(kind, this.faults.get(kind)! + 1);
    }
  }

  get faultsInjected(): number {
    return [...this.faults.values()].reduce((sum, count) => sum + count, 0);
  }
}

function outcomeOf(source: PrecopySource, whereabouts: 'source' | 'destination' | 'lost'): string {
  if (source.phase === 'completed' || source.phase === 'cancelled') {
    return source.phase;
  }
  if (source.phase === 'unknown') {
    return whereabouts === 'destination'
      ? 'COMMIT_UNCONFIRMED, guest at the destination'
      : 'COMMIT_UNCONFIRMED, guest at neither';
  }
  return source.error?.code ?? source.phase;
}
