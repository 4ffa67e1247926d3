/**
 * Migrations on `node:diagnostics_channel`: for whoever watches a program without changing it.
 *
 * | channel | message | when |
 * | --- | --- | --- |
 * | `lacuna:migration:start` | {@link MigrationStarted} | before the first step |
 * | `lacuna:migration:event` | {@link MigrationHappened} | at each {@link MigrationEvent} |
 * | `lacuna:migration:progress` | {@link MigrationProgressed} | every 50 ms |
 * | `lacuna:migration:end` | {@link MigrationEnded} | when it is over, however it ended |
 *
 * @packageDocumentation
 */

import diagnostics from 'node:diagnostics_channel';
import { ExitFeature, type ExitTable, exitsBetween } from './balloon/exits.js';
import { type MigrateRequest, type MigrationProgress, migrate } from './migration/migrate.js';
import type { MigrationOptions } from './migration/options.js';
import type { MigrationEvent, PrecopySource } from './migration/precopy.js';
import { type MigrationReport, reportOf } from './migration/report.js';

/** The channels' names. They are part of the public API, and so are their messages' fields. */
export const MIGRATION_CHANNELS = {
  start: 'lacuna:migration:start',
  event: 'lacuna:migration:event',
  progress: 'lacuna:migration:progress',
  end: 'lacuna:migration:end',
} as const;

/** Which migration a message is about. */
export interface MigrationIdentity {
  /** Counts the migrations of this process, from 1. */
  readonly id: number;
  /** What the program calls it; its `id` in digits if it does not say. */
  readonly name: string;
}

/** `lacuna:migration:start` */
export interface MigrationStarted extends MigrationIdentity {
  readonly memoryBytes: number;
  /** As they were given: what is not here has its default. */
  readonly options: Partial<MigrationOptions>;
}

/** `lacuna:migration:event` */
export interface MigrationHappened extends MigrationIdentity {
  readonly event: MigrationEvent;
}

/** `lacuna:migration:progress` */
export interface MigrationProgressed extends MigrationIdentity {
  readonly progress: MigrationProgress;
}

/** `lacuna:migration:end`; every start has one. */
export interface MigrationEnded extends MigrationIdentity {
  /** undefined if there was no migration: the promise was rejected with `error`. */
  readonly report: MigrationReport | undefined;
  /** Why it did not complete, if so. */
  readonly error: unknown;
}

/** A migration, and what may be said about it for those who watch it. */
export interface ObservedRequest extends MigrateRequest {
  /** Of the migration, in messages and as a label of metrics: one that no other has that runs at the same time. */
  readonly name?: string | undefined;
  /** VM exits of the guest so far, by feature, if its VMM counts them. */
  readonly exits?: (() => ExitTable) | undefined;
  /** Pages that the guest's driver has dropped so far because its ring was full, if anybody counts them. */
  readonly droppedPages?: (() => number) | undefined;
}

const channels = {
  start: diagnostics.channel(MIGRATION_CHANNELS.start),
  event: diagnostics.channel(MIGRATION_CHANNELS.event),
  progress: diagnostics.channel(MIGRATION_CHANNELS.progress),
  end: diagnostics.channel(MIGRATION_CHANNELS.end),
};
let lastId = 0;

/**
 * `migrate`, with what happens published on {@link MIGRATION_CHANNELS}. Resolves, rejects and calls the request's own
 * handlers as `migrate` does. Without subscribers nothing is worked out for them. An exception of a subscriber never
 * gets here: Node raises it as an uncaught exception of the process, as for every channel.
 */
export async function migrateObserved(request: ObservedRequest): Promise<PrecopySource> {
  lastId += 1;
  const identity: MigrationIdentity = { id: lastId, name: request.name ?? String(lastId) };
  const before = readCounters(request);
  if (channels.start.hasSubscribers) {
    const { memoryBytes } = request.vm.memory.layout;
    const options = { ...request.options };
    channels.start.publish({ ...identity, memoryBytes, options } satisfies MigrationStarted);
  }
  let source: PrecopySource;
  try {
    source = await migrate(published(request, identity));
  } catch (error) {
    channels.end.publish({ ...identity, report: undefined, error } satisfies MigrationEnded);
    throw error;
  }
  if (channels.end.hasSubscribers) {
    const report = reportSince(before, source, request);
    channels.end.publish({ ...identity, report, error: source.error } satisfies MigrationEnded);
  }
  return source;
}

/** The request with handlers that publish first. */
function published(request: ObservedRequest, identity: MigrationIdentity): MigrateRequest {
  return {
    ...request,
    onEvent: (event) => {
      if (channels.event.hasSubscribers) {
        channels.event.publish({ ...identity, event } satisfies MigrationHappened);
      }
      request.onEvent?.(event);
    },
    /** Looked at whenever progress is due: it is not worked out while nobody wants it. */
    get onProgress(): MigrateRequest['onProgress'] {
      return channels.progress.hasSubscribers
        ? (progress): void => {
            channels.progress.publish({ ...identity, progress } satisfies MigrationProgressed);
            request.onProgress?.(progress);
          }
        : request.onProgress;
    },
  };
}

/** Who wants to know what. Handlers must not throw: see {@link migrateObserved}. */
export interface MigrationSubscriber {
  /** Before the first step. */
  readonly start?: ((message: MigrationStarted) => void) | undefined;
  /** As things happen, within a step: return soon. */
  readonly event?: ((message: MigrationHappened) => void) | undefined;
  /** Every 50 ms. */
  readonly progress?: ((message: MigrationProgressed) => void) | undefined;
  /** It is over. */
  readonly end?: ((message: MigrationEnded) => void) | undefined;
}

/** Subscribes to the channels for which there is a handler. Returns what takes the subscriptions back. */
export function subscribeToMigrations(subscriber: MigrationSubscriber): () => void {
  const { start, event, progress, end } = subscriber;
  const handlers = { start, event, progress, end };
  const taken: (() => void)[] = [];
  for (const key of ['start', 'event', 'progress', 'end'] as const) {
    // What is published on each channel is the message that its handler takes: see above.
    const handler = handlers[key] as ((message: unknown) => void) | undefined;
    if (handler !== undefined) {
      const listener = (message: unknown): void => handler(message);
      diagnostics.subscribe(MIGRATION_CHANNELS[key], listener);
      taken.push(() => diagnostics.unsubscribe(MIGRATION_CHANNELS[key], listener));
    }
  }
  return () => {
    for (const takeBack of taken.splice(0)) {
      takeBack();
    }
  };
}

/** Counters that outlive a migration, so that what it added has to be worked out. */
interface Counters {
  readonly exits: ExitTable;
  readonly stale: number;
  readonly rejected: number;
  readonly dropped: number;
}

/** Of a VMM that does not count them. */
const NO_EXITS = Object.fromEntries(
  Object.keys(ExitFeature).map((name) => [name, { configReads: 0, configWrites: 0, kicks: 0 }]),
) as ExitTable;

function readCounters({ vm, exits, droppedPages }: ObservedRequest): Counters {
  const counts = vm.device?.session.counts;
  return {
    exits: exits?.() ?? NO_EXITS,
    stale: counts?.stale ?? 0,
    rejected: counts?.rejected ?? 0,
    dropped: droppedPages?.() ?? 0,
  };
}

function reportSince(before: Counters, source: PrecopySource, request: ObservedRequest): MigrationReport {
  const after = readCounters(request);
  return reportOf(source, {
    memoryBytes: request.vm.memory.layout.memoryBytes,
    exits: exitsBetween(before.exits, after.exits),
    stalePages: after.stale - before.stale,
    rejectedRanges: after.rejected - before.rejected,
    droppedPages: after.dropped - before.dropped,
  });
}
