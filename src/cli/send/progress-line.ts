import pc from 'picocolors';
import type { MigrationProgress } from '../../migration/migrate.js';
import type { MigrationEvent } from '../../migration/precopy.js';
import { formatMib, formatMs } from '../../report/format.js';

/** What is shown for an event: `step` where there is no terminal, `log` everywhere. */
export interface EventLines {
  readonly step?: string;
  readonly log?: string;
}

/** The rate that is shown is that of the last half second. */
const RATE_WINDOW_MS = 500;

/** A migration as it is shown while it goes on. */
export class ProgressLine {
  readonly #title: string;
  #now: MigrationProgress | undefined;
  #windowAt = 0;
  #windowBytes = 0;
  #bytesPerSecond = 0;
  #link = '';
  #throttle = '';

  constructor(guest: string, to: string) {
    this.#title = `${guest} → ${to}`;
  }

  /** How far it is. */
  look(now: MigrationProgress): void {
    this.#now = now;
    const ms = now.elapsedMs - this.#windowAt;
    if (ms >= RATE_WINDOW_MS) {
      this.#bytesPerSecond = ((now.transferredBytes - this.#windowBytes) / ms) * 1000;
      this.#windowAt = now.elapsedMs;
      this.#windowBytes = now.transferredBytes;
    }
  }

  /** The block of a terminal; empty before it has begun. */
  block(): string {
    const now = this.#now;
    if (now === undefined) {
      return '';
    }
    return (
      `${this.#title}  ${now.phase}, round ${now.round}, ${formatMs(now.elapsedMs)}\n` +
      `  ${formatMib(now.transferredBytes)} MiB sent (${formatMib(this.#bytesPerSecond)} MiB/s), ` +
      `${now.pendingPages} pages to go, ${now.skippedPages} skipped${this.#throttle}${this.#link}`
    );
  }

  event(event: MigrationEvent): EventLines {
    switch (event.type) {
      case 'round':
        return { step: `round ${event.round}: ${event.pendingPages} pages` };
      case 'lost':
        this.#link = pc.yellow(', the link is broken');
        return { log: `${pc.yellow('the link broke')}: ${event.reason}; it is tried again` };
      case 'restored':
        this.#link = '';
        return {
          log: event.kept
            ? `${pc.green('the link is there again')}, and what had arrived is still there`
            : `${pc.yellow('the link is there again')}, to a destination that knows nothing of the guest: all of it goes again`,
        };
      case 'throttled':
        this.#throttle = event.share === 0 ? '' : pc.yellow(`, throttled to ${percent(1 - event.share)}`);
        return {
          log:
            event.share === 0
              ? 'the guest is not throttled any more'
              : `the guest writes faster than its pages are sent: it is throttled to ${percent(1 - event.share)} of its time`,
        };
      case 'stopping':
        return { step: `stopping the guest (${event.reason})` };
      case 'stopped':
        return { step: 'the guest is stopped' };
      case 'ready':
        return { step: 'all of it has arrived' };
      case 'committed':
        return { step: "committed: the guest is the destination's" };
      case 'unknown-migration':
        return { log: pc.yellow('who answers there knows nothing of this migration: that is no answer') };
      default:
        return {};
    }
  }
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
