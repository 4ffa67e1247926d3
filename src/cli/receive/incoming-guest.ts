import { IncomingObserver } from '../../diagnostics.js';
import { messageOf } from '../../errors.js';
import { isClean, type SelfCheck } from '../../guest/runtime.js';
import { formatMib, formatMs } from '../../report/format.js';
import type {
  ListenerEvent,
  MigrationOffer,
  ReceivedTotals,
} from '../../transport/network/incoming-migration.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';

/** What became of a guest that was to come in, for `--json`. Times in ms since the epoch. */
export interface IncomingReport extends ReceivedTotals {
  readonly migration: string;
  readonly guest: string;
  readonly peer: string;
  readonly memoryBytes: number;
  readonly channels: number;
  readonly offeredAt: number;
  readonly outcome: 'receiving' | 'runs' | 'discarded' | 'died';
  /** Why it was discarded, or died. */
  readonly reason: string | null;
  readonly startedAt: number | null;
  /** Round ends that were applied, over all links. */
  readonly rounds: number;
  readonly linksLost: number;
  /** null: it has not checked itself yet. */
  readonly selfCheck: {
    readonly passed: boolean;
    readonly pages: number;
    readonly badPages: number;
  } | null;
  /** What it does. */
  readonly workload: string;
  /** Pages that it has written here. */
  readonly pagesWritten: number;
}

/** A guest that writes nothing for so long stands still. */
const STILL_MS = 2000;

/** A guest on its way in, and as it runs here afterwards. */
export class IncomingGuest {
  readonly offer: MigrationOffer;
  outcome: IncomingReport['outcome'] = 'receiving';
  /** Once it runs. */
  guest: WorkerGuest | undefined;
  readonly #observer: IncomingObserver;
  readonly #received: () => ReceivedTotals;
  readonly #offeredAt: number = Date.now();
  #rounds = 0;
  #linksLost = 0;
  #isLinked = true;
  #reason: string | null = null;
  #startedAt = Number.NaN;
  #check: SelfCheck | undefined;
  #workload = '';
  // what was seen when it was looked at last
  #lookedAt: number = performance.now();
  #bytesSeen = 0;
  #bytesPerSecond = 0;
  #writtenSeen = 0;
  #writesPerSecond = 0;
  #wroteAt = Number.NEGATIVE_INFINITY;
  #doing = 'it begins';

  constructor(offer: MigrationOffer, received: () => ReceivedTotals) {
    this.offer = offer;
    this.#received = received;
    const { label: name, migrationId: migration, peer, layout, streams } = offer;
    this.#observer = new IncomingObserver({ name, migration, peer }, layout.memoryBytes, streams);
  }

  get name(): string {
    return this.offer.label;
  }

  /** Whether its memory is as it left it; undefined until it was checked. */
  get passed(): boolean | undefined {
    return this.#check === undefined ? undefined : isClean(this.#check);
  }

  /** What the listener says of it. */
  event({ type, text }: ListenerEvent): void {
    switch (type) {
      case 'round':
        this.#rounds += 1;
        return;
      case 'lost':
        this.#linksLost += 1;
        this.#isLinked = false;
        this.#observer.event({ type: 'lost', reason: text });
        return;
      case 'restored':
        this.#isLinked = true;
        this.#observer.event({ type: 'restored', kept: true });
        return;
      case 'ready':
        this.#observer.event({ type: 'ready' });
        return;
      default:
    }
  }

  /** It was started; `workload` is what it does. */
  started(guest: WorkerGuest, startedAt: number, workload: string): void {
    this.guest = guest;
    this.#startedAt = startedAt;
    this.#workload = workload;
    this.outcome = 'runs';
    this.#observer.end('started', this.#received);
  }

  /** It does not run here and never did. */
  discarded(reason: string): void {
    this.outcome = 'discarded';
    this.#reason = reason;
    this.#observer.end('discarded', this.#received, reason);
  }

  /** It ran here, and does no more. */
  died(reason: string): void {
    this.outcome = 'died';
    this.#reason = reason;
  }

  /** Has it look at all of its memory. False if that is not as it left it, or it has died. */
  async selfCheck(): Promise<boolean> {
    try {
      this.#check = await this.guest!.selfCheck();
    } catch (thrown) {
      this.died(messageOf(thrown));
    }
    return this.passed === true;
  }

  /** Called now and then. Returns a line if what it does has changed. */
  look(): string | undefined {
    const now = performance.now();
    const seconds = (now - this.#lookedAt) / 1000;
    this.#lookedAt = now;
    if (this.outcome === 'receiving') {
      const { bytes } = this.#received();
      this.#bytesPerSecond = (bytes - this.#bytesSeen) / seconds;
      this.#bytesSeen = bytes;
      this.#observer.progress(this.#received);
      return undefined;
    }
    const { guest } = this;
    if (this.outcome !== 'runs' || guest === undefined) {
      return undefined;
    }
    if (guest.failure !== undefined) {
      this.died(guest.failure.message);
      return this.line();
    }
    const { pagesWritten } = guest.counters();
    this.#wroteAt = pagesWritten === this.#writtenSeen ? this.#wroteAt : now;
    this.#writesPerSecond = (pagesWritten - this.#writtenSeen) / seconds;
    this.#writtenSeen = pagesWritten;
    const before = this.#doing;
    this.#doing = this.#doingAt(guest, now);
    return before === this.#doing ? undefined : this.line();
  }

  #doingAt(guest: WorkerGuest, now: number): string {
    if (guest.replay()?.ended === true) {
      return 'it has come to the end of its trace, and halts';
    }
    return now - this.#wroteAt < STILL_MS ? 'it writes' : 'it writes nothing';
  }

  /** Where it is, in a line. */
  line(): string {
    switch (this.outcome) {
      case 'receiving': {
        const { bytes } = this.#received();
        return (
          `${this.name}: ${formatMib(bytes)} MiB received (${formatMib(this.#bytesPerSecond)} MiB/s), ` +
          `${this.#rounds} ${this.#rounds === 1 ? 'round' : 'rounds'}${this.#isLinked ? '' : ', the link is broken'}`
        );
      }
      case 'runs':
        return (
          `${this.name} runs for ${formatMs(Date.now() - this.#startedAt)} (${this.#workload}): ${this.#doing}, ` +
          `${Math.round(this.#writesPerSecond)} pages/s, ${this.#writtenSeen} so far`
        );
      case 'discarded':
        return `${this.name} was discarded: ${this.#reason}`;
      case 'died':
        return `${this.name} has died: ${this.#reason}`;
    }
  }

  report(): IncomingReport {
    const { offer } = this;
    const check = this.#check;
    return {
      migration: offer.migrationId,
      guest: offer.label,
      peer: offer.peer,
      memoryBytes: offer.layout.memoryBytes,
      channels: offer.streams,
      offeredAt: this.#offeredAt,
      outcome: this.outcome,
      reason: this.#reason,
      startedAt: Number.isNaN(this.#startedAt) ? null : this.#startedAt,
      ...this.#received(),
      rounds: this.#rounds,
      linksLost: this.#linksLost,
      selfCheck:
        check === undefined ? null : { passed: isClean(check), pages: check.pages, badPages: check.badPages },
      workload: this.#workload,
      pagesWritten: this.guest?.counters().pagesWritten ?? 0,
    };
  }
}
