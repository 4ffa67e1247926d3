import type { MigrationEvent, PrecopySource } from './precopy.js';

/** A moment of a migration: ms since its start, bytes of all frames so far, pages left out because of hints so far. */
export type TimelineSample = readonly [ms: number, transferredBytes: number, skippedPages: number];

/**
 * Something that happened, ms since the migration's start; `id` of a hint session, `round` of a round, `share` of the
 * time for which the guest is throttled.
 */
export interface TimelineEvent {
  readonly ms: number;
  readonly type: MigrationEvent['type'];
  readonly id?: number | undefined;
  readonly round?: number | undefined;
  readonly share?: number | undefined;
}

/** Samples that are kept; beyond, every other one goes. */
const MOST_SAMPLES = 512;
/** Where a migration begins to be sampled, in ms. */
const FIRST_INTERVAL_MS = 1;

/**
 * What a migration looked like in time: its events, and samples of the bytes on the link that get further apart the
 * longer it takes, so that any migration has between 256 and 512 of them (or all there were).
 */
export class Timeline {
  readonly events: TimelineEvent[] = [];
  samples: TimelineSample[] = [];
  #intervalMs = FIRST_INTERVAL_MS;
  #next = 0;

  /** Notes an event; `ms` is the time since the migration's start. */
  event(ms: number, event: MigrationEvent): void {
    switch (event.type) {
      case 'session-issued':
      case 'session-started':
      case 'session-done':
      case 'session-expired':
        this.events.push({ ms, type: event.type, id: event.id });
        return;
      case 'round':
        this.events.push({ ms, type: event.type, round: event.round });
        return;
      case 'round-end':
        this.events.push({ ms, type: event.type, round: event.record.round });
        return;
      case 'throttled':
        this.events.push({ ms, type: event.type, share: event.share });
        return;
      case 'started':
      case 'lost':
      case 'restored':
      case 'stopping':
      case 'stopped':
      case 'ready':
      case 'committed':
      case 'unconfirmed':
      case 'unknown-migration':
      case 'completed':
      case 'cancelled':
      case 'failed':
        this.events.push({ ms, type: event.type });
        return;
    }
  }

  /** A look at the migration under way, or at its end. */
  look(source: PrecopySource, now: number): void {
    const ms = now - source.startedAt;
    if (!(ms >= this.#next) && !source.done) {
      return;
    }
    this.#next = ms + this.#intervalMs;
    this.samples.push([ms, source.transferredBytes, source.accounts.hints.applied]);
    if (this.samples.length > MOST_SAMPLES) {
      this.samples = this.samples.filter((_, i) => i % 2 === 0);
      this.#intervalMs *= 2;
    }
  }
}
