/**
 * Migrations as Prometheus metrics, by prom-client, which is the embedder's own (an optional peer dependency).
 *
 * @packageDocumentation
 */

import type { Counter, Gauge, Histogram, Registry } from 'prom-client';
import {
  type IncomingCounts,
  type IncomingEvent,
  subscribeToIncoming,
  subscribeToMigrations,
} from './diagnostics.js';
import { PAGE_SIZE } from './memory/page.js';
import type { MigrationEvent } from './migration/precopy.js';
import type { MigrationReport } from './migration/report.js';

/** What of the prom-client module is used: pass the module itself. */
export interface PromClient {
  readonly Counter: typeof Counter;
  readonly Gauge: typeof Gauge;
  readonly Histogram: typeof Histogram;
  readonly register: Registry;
}

/** Where metrics go, and how times are cut up. */
export interface MetricsOptions {
  /** prom-client's own `register` by default. */
  readonly registry?: Registry | undefined;
  /** Upper bounds of the histograms' buckets, in seconds. */
  readonly durationBuckets?: readonly number[] | undefined;
  readonly downtimeBuckets?: readonly number[] | undefined;
}

const DURATION_BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800];
const DOWNTIME_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/**
 * Registers lacuna's metrics and keeps them: every migration that is done by `migrateObserved` counts, and every guest
 * that comes in under an `IncomingObserver`, from now on and in this process. Counters and histograms move when a
 * migration is over, by its report; gauges move meanwhile. Returns what ends it and takes the metrics out of the
 * registry. Throws, as prom-client does, if they are there already.
 *
 * ```js
 * import * as promClient from 'prom-client';
 * import { collectMigrationMetrics } from 'lacuna/metrics';
 * collectMigrationMetrics(promClient);
 * ```
 */
export function collectMigrationMetrics(promClient: PromClient, options: MetricsOptions = {}): () => void {
  const registry = options.registry ?? promClient.register;
  const metrics = defineMetrics(promClient, registry, options);
  const takeBack = [followMigrations(metrics), followIncoming(metrics)];
  return () => {
    for (const unsubscribe of takeBack) {
      unsubscribe();
    }
    for (const name of Object.values(NAMES)) {
      registry.removeSingleMetric(name);
    }
  };
}

/** Says where each of several things is, and counts how many are there: a gauge with a label. */
class Whereabouts<Label extends string> {
  readonly #gauge: Gauge<Label>;
  readonly #label: Label;
  readonly #places = new Map<number, string>();

  constructor(gauge: Gauge<Label>, label: Label) {
    this.#gauge = gauge;
    this.#label = label;
  }

  /** `place` undefined: it is nowhere any more. */
  enter(id: number, place: string | undefined): void {
    const before = this.#places.get(id);
    if (before !== undefined) {
      this.#gauge.dec(this.#at(before));
    }
    if (place === undefined) {
      this.#places.delete(id);
    } else {
      this.#places.set(id, place);
      this.#gauge.inc(this.#at(place));
    }
  }

  #at(place: string): Partial<Record<Label, string>> {
    return { [this.#label]: place } as Partial<Record<Label, string>>;
  }
}

function followMigrations(metrics: Metrics): () => void {
  const phases = new Whereabouts(metrics.running, 'phase');
  return subscribeToMigrations({
    start: ({ id }) => phases.enter(id, 'setup'),
    event: ({ event }) => countLink(metrics, 'source', event),
    progress: ({ id, name, progress }) => {
      phases.enter(id, progress.phase);
      metrics.round.set({ migration: name }, progress.round);
      metrics.pending.set({ migration: name }, progress.pendingPages * PAGE_SIZE);
      metrics.sent.set({ migration: name }, progress.transferredBytes);
    },
    end: ({ id, name, report }) => {
      phases.enter(id, undefined);
      for (const gauge of [metrics.round, metrics.pending, metrics.sent]) {
        gauge.remove({ migration: name });
      }
      if (report === undefined) {
        metrics.migrations.inc({ status: 'rejected' });
      } else {
        countReport(metrics, report);
      }
    },
  });
}

function followIncoming(metrics: Metrics): () => void {
  const states = new Whereabouts(metrics.receiving, 'state');
  return subscribeToIncoming({
    start: ({ id }) => states.enter(id, 'receiving'),
    event: ({ id, event }) => {
      states.enter(id, stateAfter(event));
      countLink(metrics, 'destination', event);
    },
    progress: ({ name, counts }) => metrics.received.set({ migration: name }, counts.bytes),
    end: ({ id, name, outcome, counts }) => {
      states.enter(id, undefined);
      metrics.received.remove({ migration: name });
      metrics.incoming.inc({ outcome });
      countArrived(metrics, counts);
    },
    refused: () => metrics.incoming.inc({ outcome: 'refused' }),
  });
}

/** Where a guest that comes in is after an event. */
function stateAfter({ type }: IncomingEvent): string {
  return type === 'restored' ? 'receiving' : type;
}

/** Links break at both ends, and each sees it for itself. */
function countLink(
  metrics: Metrics,
  end: 'source' | 'destination',
  event: MigrationEvent | IncomingEvent,
): void {
  if (event.type === 'lost') {
    metrics.linkLosses.inc({ end });
  } else if (event.type === 'restored') {
    metrics.linkRecoveries.inc({ end, kept: String(event.kept) });
  }
}

function countArrived(metrics: Metrics, { bytes, pages, zeroPages, filledPages }: IncomingCounts): void {
  metrics.incomingBytes.inc(bytes);
  metrics.incomingPages.inc({ fate: 'sent' }, pages);
  metrics.incomingPages.inc({ fate: 'zero' }, zeroPages);
  metrics.incomingPages.inc({ fate: 'filled' }, filledPages);
}

/** Names of all metrics, by what they are here. */
const NAMES = {
  migrations: 'lacuna_migrations_total',
  errors: 'lacuna_migration_errors_total',
  transferred: 'lacuna_migration_transferred_bytes_total',
  pages: 'lacuna_migration_pages_total',
  dirtied: 'lacuna_migration_dirtied_pages_total',
  rounds: 'lacuna_migration_rounds_total',
  sessions: 'lacuna_hint_sessions_total',
  ranges: 'lacuna_hint_ranges_total',
  hinted: 'lacuna_hint_pages_total',
  reDirtied: 'lacuna_hint_redirtied_pages_total',
  inVain: 'lacuna_hint_sent_in_vain_pages_total',
  exits: 'lacuna_vm_exits_total',
  duration: 'lacuna_migration_duration_seconds',
  downtime: 'lacuna_migration_downtime_seconds',
  running: 'lacuna_migrations_running',
  round: 'lacuna_migration_round',
  pending: 'lacuna_migration_pending_bytes',
  sent: 'lacuna_migration_sent_bytes',
  incoming: 'lacuna_incoming_migrations_total',
  incomingBytes: 'lacuna_incoming_bytes_total',
  incomingPages: 'lacuna_incoming_pages_total',
  receiving: 'lacuna_incoming_migrations_running',
  received: 'lacuna_incoming_received_bytes',
  linkLosses: 'lacuna_link_losses_total',
  linkRecoveries: 'lacuna_link_recoveries_total',
} as const;

/** The metrics, by what they are here. */
interface Metrics {
  readonly migrations: Counter<'status'>;
  readonly errors: Counter<'code'>;
  readonly transferred: Counter;
  readonly pages: Counter<'fate'>;
  readonly dirtied: Counter;
  readonly rounds: Counter;
  readonly sessions: Counter<'outcome'>;
  readonly ranges: Counter<'outcome'>;
  readonly hinted: Counter<'outcome'>;
  readonly reDirtied: Counter;
  readonly inVain: Counter;
  readonly exits: Counter<'kind' | 'feature'>;
  readonly duration: Histogram;
  readonly downtime: Histogram;
  readonly running: Gauge<'phase'>;
  readonly round: Gauge<'migration'>;
  readonly pending: Gauge<'migration'>;
  readonly sent: Gauge<'migration'>;
  readonly incoming: Counter<'outcome'>;
  readonly incomingBytes: Counter;
  readonly incomingPages: Counter<'fate'>;
  readonly receiving: Gauge<'state'>;
  readonly received: Gauge<'migration'>;
  readonly linkLosses: Counter<'end'>;
  readonly linkRecoveries: Counter<'end' | 'kept'>;
}

function defineMetrics(promClient: PromClient, registry: Registry, options: MetricsOptions): Metrics {
  const registers = [registry];
  const counter = <T extends string>(key: keyof typeof NAMES, help: string, ...labelNames: T[]): Counter<T> =>
    new promClient.Counter({ name: NAMES[key], help, labelNames, registers });
  const gauge = <T extends string>(key: keyof typeof NAMES, help: string, ...labelNames: T[]): Gauge<T> =>
    new promClient.Gauge({ name: NAMES[key], help, labelNames, registers });
  const histogram = (key: keyof typeof NAMES, help: string, buckets: readonly number[]): Histogram =>
    new promClient.Histogram({ name: NAMES[key], help, buckets: [...buckets], registers });
  return {
    migrations: counter('migrations', 'Migrations that are over, by how they ended.', 'status'),
    errors: counter('errors', 'Migrations that did not complete, by the code of their error.', 'code'),
    transferred: counter('transferred', 'Bytes of all frames, headers included.'),
    pages: counter(
      'pages',
      'Pages of all rounds: contents sent, sent as zeroes, filled at the destination, skipped because of a hint.',
      'fate',
    ),
    dirtied: counter('dirtied', 'Pages drained from dirty logs after the first round began.'),
    rounds: counter('rounds', 'Rounds, the last ones included.'),
    sessions: counter(
      'sessions',
      'Hint sessions: done with the stop sign, expired at a deadline, or closed before either.',
      'outcome',
    ),
    ranges: counter('ranges', 'Ranges that guests reported free.', 'outcome'),
    hinted: counter(
      'hinted',
      'Pages that guests reported free: left out (applied), sent before, not to be sent anyway, too late (stale), or ' +
        'not reported because the ring was full.',
      'outcome',
    ),
    reDirtied: counter(
      'reDirtied',
      'Of the pages left out: written afterwards, so that they went after all.',
    ),
    inVain: counter(
      'inVain',
      'Of the pages sent before their hint: not written since the report was requested.',
    ),
    exits: counter('exits', 'VM exits to the balloon device during migrations.', 'kind', 'feature'),
    duration: histogram(
      'duration',
      'Completed migrations: from the first step until the guest ran at the destination.',
      options.durationBuckets ?? DURATION_BUCKETS,
    ),
    downtime: histogram(
      'downtime',
      'Completed migrations: how long the guest stood still.',
      options.downtimeBuckets ?? DOWNTIME_BUCKETS,
    ),
    running: gauge('running', 'Migrations under way, by phase.', 'phase'),
    round: gauge('round', 'Round of a migration under way.', 'migration'),
    pending: gauge('pending', 'Guest memory that the round has still to send.', 'migration'),
    sent: gauge('sent', 'What a migration under way has sent so far.', 'migration'),
    incoming: counter(
      'incoming',
      'Guests that were to come in: started here, discarded after a part of them had come, or refused.',
      'outcome',
    ),
    incomingBytes: counter('incomingBytes', 'Bytes of all frames that have come in, headers included.'),
    incomingPages: counter(
      'incomingPages',
      'Pages that have come in: with their contents, as zeroes, or to be filled.',
      'fate',
    ),
    receiving: gauge('receiving', 'Guests that are coming in, by where that is.', 'state'),
    received: gauge('received', 'What of a guest that is coming in has come so far.', 'migration'),
    linkLosses: counter('linkLosses', 'Links that broke in mid-migration, at this end of them.', 'end'),
    linkRecoveries: counter(
      'linkRecoveries',
      'Links that were made again, and whether what had been applied was still there.',
      'end',
      'kept',
    ),
  };
}

/** A migration is over. */
function countReport(metrics: Metrics, report: MigrationReport): void {
  const { ram, hints } = report;
  metrics.migrations.inc({ status: report.status });
  if (report.error !== null) {
    metrics.errors.inc({ code: report.error.code });
  }
  metrics.transferred.inc(ram.transferred);
  metrics.pages.inc({ fate: 'sent' }, ram.normal);
  metrics.pages.inc({ fate: 'zero' }, ram.duplicate);
  metrics.pages.inc({ fate: 'filled' }, ram.filled);
  metrics.pages.inc({ fate: 'skipped' }, ram.skipped);
  metrics.dirtied.inc(ram.dirtied);
  metrics.rounds.inc(report.rounds.length);
  for (const session of hints.sessions) {
    const ended = session['to-stop'] === null ? 'closed' : 'done';
    metrics.sessions.inc({ outcome: session.expired ? 'expired' : ended });
  }
  metrics.ranges.inc({ outcome: 'accepted' }, hints.ranges);
  metrics.ranges.inc({ outcome: 'rejected' }, hints.rejected);
  metrics.hinted.inc({ outcome: 'applied' }, hints.applied);
  metrics.hinted.inc({ outcome: 'already_sent' }, hints.alreadySent);
  metrics.hinted.inc({ outcome: 'not_pending' }, hints.notPending);
  metrics.hinted.inc({ outcome: 'stale' }, hints.stale);
  metrics.hinted.inc({ outcome: 'ring_full' }, hints.ringFull);
  metrics.reDirtied.inc(hints.reDirtied);
  metrics.inVain.inc(hints.sentInVain);
  for (const [feature, { configReads, configWrites, kicks }] of Object.entries(report.exits.byFeature)) {
    metrics.exits.inc({ feature, kind: 'config_read' }, configReads);
    metrics.exits.inc({ feature, kind: 'config_write' }, configWrites);
    metrics.exits.inc({ feature, kind: 'kick' }, kicks);
  }
  if (report.status === 'completed') {
    metrics.duration.observe(report['total-time'] / 1000);
    metrics.downtime.observe((report.downtime ?? 0) / 1000);
  }
}
