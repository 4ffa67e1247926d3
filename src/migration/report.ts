import { type ExitCounts, type ExitTable, totalExits } from '../balloon/exits.js';
import type { LacunaErrorCode } from '../errors.js';
import { PAGE_SIZE } from '../memory/page.js';
import type { SwitchoverReason } from './convergence.js';
import type { PrecopySource, RoundRecord, SourcePhase } from './precopy.js';

/** Times within a hint session in ms from its request; null where it did not come to that. */
export interface SessionReport {
  readonly id: number;
  readonly round: number;
  readonly ranges: number;
  /** The request, in ms since the migration's start. */
  readonly requested: number;
  /** Request → the id is on the queue, → the first range, → the stop sign, → closed by the host. */
  readonly 'to-start': number | null;
  readonly 'to-first-range': number | null;
  readonly 'to-stop': number | null;
  readonly 'to-close': number | null;
  /** The host went on without waiting for the stop sign. */
  readonly expired: boolean;
}

/** One round of a {@link MigrationReport}. */
export interface RoundReport extends Omit<RoundRecord, 'startedAt' | 'endedAt'> {
  /** ms since the migration's start. */
  readonly start: number;
  readonly ms: number;
}

/**
 * A migration in numbers. Fields that mean what QEMU's `query-migrate` means have its names; times are in ms,
 * `ram` is in bytes and pages as there, `hints` in pages unless it says ranges.
 */
export interface MigrationReport {
  readonly status: SourcePhase;
  readonly error: { readonly code: LacunaErrorCode; readonly message: string } | null;
  readonly 'total-time': number;
  /** The guest stopped at the source → the guest runs at the destination, by the guest's own stamps. */
  readonly downtime: number | null;
  readonly 'setup-time': number;
  readonly switchover: SwitchoverReason | null;
  /** The most that the guest was throttled, in percent of the time; 0: it was not. */
  readonly 'cpu-throttle-percentage': number;
  readonly ram: {
    /** Bytes of all frames, headers included. */
    readonly transferred: number;
    readonly remaining: number;
    readonly total: number;
    /** Zero pages, sent without contents. */
    readonly duplicate: number;
    /** Pages left out because of a hint. (In QEMU this is always 0.) */
    readonly skipped: number;
    /** Pages told to be filled at the destination. */
    readonly filled: number;
    readonly normal: number;
    readonly 'normal-bytes': number;
    readonly 'dirty-sync-count': number;
    /** Pages drained from the dirty log after the first round began. */
    readonly dirtied: number;
    /** Megabits a second over the whole migration. */
    readonly mbps: number;
    readonly 'page-size': number;
  };
  readonly hints: {
    readonly ranges: number;
    readonly hinted: number;
    readonly applied: number;
    readonly stale: number;
    readonly alreadySent: number;
    /** Of those, pages that the guest had not written since the id was issued. */
    readonly sentInVain: number;
    readonly notPending: number;
    readonly reDirtied: number;
    /** Ranges refused. */
    readonly rejected: number;
    /** Pages that the driver dropped because the ring stayed full. */
    readonly ringFull: number;
    /** Sessions whose deadline passed before the stop sign. */
    readonly deadlinesExpired: number;
    readonly sessions: readonly SessionReport[];
  };
  readonly exits: ExitCounts & { readonly byFeature: ExitTable };
  readonly rounds: readonly RoundReport[];
}

/** What the engine can't know by itself. */
export interface ReportContext {
  readonly memoryBytes: number;
  /** Exits of the guest during the migration. */
  readonly exits: ExitTable;
  readonly stalePages: number;
  readonly rejectedRanges: number;
  readonly droppedPages: number;
}

/** NaN has no place in JSON. */
function orNull(value: number): number | null {
  return Number.isNaN(value) ? null : value;
}

/** The report of a migration that is over. */
export function reportOf(source: PrecopySource, context: ReportContext): MigrationReport {
  const { sent, accounts, rounds, sessions } = source;
  const totalMs = source.endedAt - source.startedAt;
  return {
    status: source.phase,
    error: source.error === undefined ? null : { code: source.error.code, message: source.error.message },
    'total-time': totalMs,
    downtime: orNull(source.guestStartedAt - source.guestStoppedAt),
    'setup-time': orNull(source.setupDoneAt - source.startedAt) ?? totalMs,
    switchover: source.switchover ?? null,
    'cpu-throttle-percentage': Math.round(source.highestThrottle * 100),
    ram: {
      transferred: source.transferredBytes,
      remaining: source.phase === 'completed' ? 0 : source.pendingPages * PAGE_SIZE,
      total: context.memoryBytes,
      duplicate: sent.zeroPages,
      skipped: rounds.reduce((sum, round) => sum + round.skipped, 0),
      filled: sent.filledPages,
      normal: sent.pages,
      'normal-bytes': sent.pages * PAGE_SIZE,
      'dirty-sync-count': rounds.length,
      dirtied: accounts.dirtied,
      mbps: totalMs > 0 ? (source.transferredBytes * 8) / (totalMs * 1000) : 0,
      'page-size': PAGE_SIZE,
    },
    hints: {
      ranges: sessions.reduce((sum, session) => sum + session.ranges, 0),
      ...accounts.hints,
      stale: context.stalePages,
      rejected: context.rejectedRanges,
      ringFull: context.droppedPages,
      deadlinesExpired: sessions.filter(({ expired }) => expired).length,
      sessions: sessions.map((session) => ({
        id: session.id,
        round: session.round,
        ranges: session.ranges,
        requested: session.requestedAt - source.startedAt,
        'to-start': orNull(session.startedAt - session.requestedAt),
        'to-first-range': orNull(session.firstRangeAt - session.requestedAt),
        'to-stop': orNull(session.doneAt - session.requestedAt),
        'to-close': orNull(session.closedAt - session.requestedAt),
        expired: session.expired,
      })),
    },
    exits: { ...totalExits(context.exits), byFeature: context.exits },
    rounds: rounds.map(({ startedAt, endedAt, ...round }) => ({
      ...round,
      start: startedAt - source.startedAt,
      ms: endedAt - startedAt,
    })),
  };
}
