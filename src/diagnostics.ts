/**
 * Migrations on `node:diagnostics_channel`: for whoever watches a program without changing it.
 *
 * | channel | message | when |
 * | --- | --- | --- |
 * | `lacuna:migration:start` | {@link MigrationStarted} | before the first step |
 * | `lacuna:migration:event` | {@link MigrationHappened} | at each {@link MigrationEvent} |
 * | `lacuna:migration:progress` | {@link MigrationProgressed} | every 50 ms |
 * | `lacuna:migration:end` | {@link MigrationEnded} | when it is over, however it ended |
 * | `lacuna:incoming:start` | {@link IncomingStarted} | at the destination: before the first page is received |
 * | `lacuna:incoming:event` | {@link IncomingHappened} | at each {@link IncomingEvent} |
 * | `lacuna:incoming:progress` | {@link IncomingProgressed} | now and then |
 * | `lacuna:incoming:end` | {@link IncomingEnded} | when the guest was started here, or was given up |
 * | `lacuna:incoming:refused` | {@link IncomingRefused} | instead of all these, when it was not let in |
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
  return subscribe(MIGRATION_CHANNELS, { start, event, progress, end });
}

/** What is published on each channel is the message that its handler takes. */
function subscribe<Key extends string>(
  names: Readonly<Record<Key, string>>,
  handlers: Readonly<Record<Key, ((message: never) => void) | undefined>>,
): () => void {
  const taken: (() => void)[] = [];
  for (const key of Object.keys(names) as Key[]) {
    const handler = handlers[key] as ((message: unknown) => void) | undefined;
    if (handler !== undefined) {
      const listener = (message: unknown): void => handler(message);
      diagnostics.subscribe(names[key], listener);
      taken.push(() => diagnostics.unsubscribe(names[key], listener));
    }
  }
  return () => {
    for (const takeBack of taken.splice(0)) {
      takeBack();
    }
  };
}

// ── the destination's side ───────────────────────────────────────────────────────────────────────────────────

/** The channels of guests that come in. Part of the public API as those of migrations are. */
export const INCOMING_CHANNELS = {
  start: 'lacuna:incoming:start',
  event: 'lacuna:incoming:event',
  progress: 'lacuna:incoming:progress',
  end: 'lacuna:incoming:end',
  refused: 'lacuna:incoming:refused',
} as const;

/** Who wants to send a guest, as he says. */
export interface IncomingOrigin {
  /** What the source calls the migration: the peer's own words. */
  readonly name: string;
  /** The migration's id on the wire, the same at both ends. */
  readonly migration: string;
  /** The address that it comes from. */
  readonly peer: string;
}

/** Which guest that comes in a message is about. */
export interface IncomingIdentity extends IncomingOrigin {
  /** Counts the guests that were let in by this process, from 1. */
  readonly id: number;
}

/** `lacuna:incoming:start` */
export interface IncomingStarted extends IncomingIdentity {
  readonly memoryBytes: number;
  /** Data streams that its pages come by. */
  readonly streams: number;
}

/** What happens to a guest on its way in. */
export type IncomingEvent =
  /** The link broke. What has arrived is kept for a while. */
  | { readonly type: 'lost'; readonly reason: string }
  /** The source has come back. `kept`: what had arrived counts; otherwise all of it is sent again. */
  | { readonly type: 'restored'; readonly kept: boolean }
  /** All of the guest is here; it waits for the commit. */
  | { readonly type: 'ready' };

/** `lacuna:incoming:event` */
export interface IncomingHappened extends IncomingIdentity {
  readonly event: IncomingEvent;
}

/** What has arrived so far, over all links of the migration. */
export interface IncomingCounts {
  /** Bytes of all frames, headers included. */
  readonly bytes: number;
  /** Pages whose contents came. */
  readonly pages: number;
  readonly zeroPages: number;
  readonly filledPages: number;
}

/** `lacuna:incoming:progress` */
export interface IncomingProgressed extends IncomingIdentity {
  readonly counts: IncomingCounts;
}

/** `started`: the guest runs here. `discarded`: it does not, and what had arrived is gone. */
export type IncomingOutcome = 'started' | 'discarded';

/** `lacuna:incoming:end`; every start has one. */
export interface IncomingEnded extends IncomingIdentity {
  readonly outcome: IncomingOutcome;
  readonly counts: IncomingCounts;
  /** Why it was discarded; undefined for one that was started. */
  readonly reason: string | undefined;
}

/** `lacuna:incoming:refused`: nothing of it was received. */
export interface IncomingRefused {
  readonly peer: string;
  readonly reason: string;
}

/** Who wants to know what of guests that come in. Handlers must not throw: see {@link migrateObserved}. */
export interface IncomingSubscriber {
  /** Before the first page. */
  readonly start?: ((message: IncomingStarted) => void) | undefined;
  /** As things happen. */
  readonly event?: ((message: IncomingHappened) => void) | undefined;
  /** Now and then. */
  readonly progress?: ((message: IncomingProgressed) => void) | undefined;
  /** It is over. */
  readonly end?: ((message: IncomingEnded) => void) | undefined;
  /** Somebody was not let in. */
  readonly refused?: ((message: IncomingRefused) => void) | undefined;
}

/** Subscribes to the channels for which there is a handler. Returns what takes the subscriptions back. */
export function subscribeToIncoming(subscriber: IncomingSubscriber): () => void {
  const { start, event, progress, end, refused } = subscriber;
  return subscribe(INCOMING_CHANNELS, { start, event, progress, end, refused });
}

const incoming = {
  start: diagnostics.channel(INCOMING_CHANNELS.start),
  event: diagnostics.channel(INCOMING_CHANNELS.event),
  progress: diagnostics.channel(INCOMING_CHANNELS.progress),
  end: diagnostics.channel(INCOMING_CHANNELS.end),
  refused: diagnostics.channel(INCOMING_CHANNELS.refused),
};
let lastIncomingId = 0;

/**
 * Publishes what becomes of one guest that comes in: made when it is let in, which is its start; whoever receives it says
 * the rest. After its end nothing more is published. Without subscribers nothing is worked out for them.
 */
export class IncomingObserver {
  readonly identity: IncomingIdentity;
  #ended = false;

  constructor({ name, migration, peer }: IncomingOrigin, memoryBytes: number, streams: number) {
    lastIncomingId += 1;
    this.identity = { id: lastIncomingId, name, migration, peer };
    if (incoming.start.hasSubscribers) {
      incoming.start.publish({ ...this.identity, memoryBytes, streams } satisfies IncomingStarted);
    }
  }

  event(event: IncomingEvent): void {
    if (!this.#ended && incoming.event.hasSubscribers) {
      incoming.event.publish({ ...this.identity, event } satisfies IncomingHappened);
    }
  }

  /** `counts` is called if somebody listens. */
  progress(counts: () => IncomingCounts): void {
    if (!this.#ended && incoming.progress.hasSubscribers) {
      incoming.progress.publish({ ...this.identity, counts: counts() } satisfies IncomingProgressed);
    }
  }

  /** The first call counts: a guest that was started is not discarded by what happens to its link afterwards. */
  end(outcome: IncomingOutcome, counts: () => IncomingCounts, reason?: string): void {
    if (!this.#ended && incoming.end.hasSubscribers) {
      const message: IncomingEnded = { ...this.identity, outcome, counts: counts(), reason };
      incoming.end.publish(message);
    }
    this.#ended = true;
  }
}

/** Publishes that somebody was not let in. */
export function publishRefusal(peer: string, reason: string): void {
  if (incoming.refused.hasSubscribers) {
    incoming.refused.publish({ peer, reason } satisfies IncomingRefused);
  }
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
