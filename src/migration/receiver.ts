import { LacunaError, messageOf } from '../errors.js';
import { PAGE_SIZE } from '../memory/page.js';
import { type DestinationMessage, type FrameSink, noPages, type PageCounts } from '../wire/channel.js';
import { PageApplier } from '../wire/page-applier.js';
import type { DestinationVm } from './vm.js';

/**
 * The destination's side: applies what arrives, in order, and starts the guest on the commit and on nothing else.
 *
 * ```
 *                                  finish             commit
 *   receiving ──runs, rounds──▶ … ────────▶ ready ─────────────▶ started
 *     │   ▲     device state                │   │  guest fails ──▶ discarded
 *     │   └──────── the link was restored ──┘   │
 *     └──────── cancel, withdraw, or an error ──┴───────────────▶ discarded
 * ```
 *
 * `started` and `discarded` are for ever: what was answered once is answered again, and nothing starts the guest (I10).
 */
export type ReceiverState = 'receiving' | 'ready' | 'started' | 'discarded';

/** Applies the frames of one migration. Anything out of order or out of range is a typed error (a peer is untrusted). */
export class Receiver implements FrameSink {
  state: ReceiverState = 'receiving';
  readonly #vm: DestinationVm;
  readonly #reply: (message: DestinationMessage) => void;
  readonly #pages: PageApplier;
  /** Where streams apply the pages: what they came to. */
  readonly #applied: (() => PageCounts) | undefined;
  #rounds = 0;
  #stateLoaded = false;
  /** It was *ready* once: only then can a commit have been meant for it. */
  #wasReady = false;
  #startedAt: number = Number.NaN;
  #discardedBecause = '';

  /** `applied`, where the pages go their own way to the guest's memory: what of them was applied since the link was made. */
  constructor(vm: DestinationVm, reply: (message: DestinationMessage) => void, applied?: () => PageCounts) {
    this.#vm = vm;
    this.#reply = reply;
    this.#pages = new PageApplier(vm.memory);
    this.#applied = applied;
  }

  /** What was applied since the link was made or restored. */
  get counts(): PageCounts {
    return { ...(this.#applied?.() ?? this.#pages.counts), rounds: this.#rounds };
  }

  get discarded(): boolean {
    return this.state === 'discarded';
  }

  /** Pages with contents. `payload` is read before the call returns. */
  pageRun(pfn: number, pageCount: number, payload: Uint8Array): void {
    this.#expect('receiving', 'a page run');
    if (payload.length !== pageCount * PAGE_SIZE) {
      throw new LacunaError('PROTOCOL_VIOLATION', `${pageCount} pages came with ${payload.length} bytes`);
    }
    this.#pages.target(pfn, pageCount).set(payload);
    this.#pages.arrived(pageCount);
  }

  /** Pages that read as zeroes from here on. */
  zeroRun(pfn: number, pageCount: number): void {
    this.#expect('receiving', 'a run of zero pages');
    this.#pages.zeroRun(pfn, pageCount);
  }

  /** Pages that the guest gave up: they read as `value`, repeated as le32, from here on (I7, P5). */
  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#expect('receiving', 'a run of filled pages');
    this.#pages.fillRun(pfn, pageCount, value);
  }

  /** The end of a round; they are numbered from 1, without gaps. */
  roundEnd(round: number): void {
    this.#expect('receiving', 'the end of a round');
    if (round !== this.#rounds + 1) {
      throw new LacunaError('PROTOCOL_VIOLATION', `round ${round} ended after round ${this.#rounds}`);
    }
    this.#rounds = round;
  }

  /** All state apart from RAM: the VM loads it. */
  deviceState(state: Uint8Array): void {
    this.#expect('receiving', 'the device state');
    this.#vm.loadDeviceState(state);
    this.#stateLoaded = true;
  }

  /** Everything has arrived: says so, and waits for the commit. */
  finish(): void {
    this.#expect('receiving', 'the end of the data');
    if (!this.#stateLoaded) {
      throw new LacunaError('PROTOCOL_VIOLATION', 'the data ended without a device state');
    }
    this.#wasReady = true;
    this.state = 'ready';
    this.#reply({ type: 'ready', counts: this.counts });
  }

  /** I10: the only thing that starts the guest here. One that comes again is answered again. */
  commit(): void {
    if (this.state === 'ready') {
      this.#start();
    }
    this.#answer('a commit');
  }

  /** The source takes its commit back: from here on the guest is not started by it, if it was not already (I10). */
  withdraw(): void {
    if (this.#wasReady) {
      this.#discard('the commit was withdrawn');
    }
    this.#answer('the withdrawal of a commit');
  }

  /**
   * The link was restored: rounds and pages are counted anew, and a guest that was all here is not any more. Not to be called
   * if the commit has left: then it is *ready* for the commit that comes again.
   */
  restart(): void {
    if (this.state === 'started' || this.state === 'discarded') {
      return;
    }
    this.state = 'receiving';
    this.#rounds = 0;
    Object.assign(this.#pages.counts, noPages());
    this.#stateLoaded = false;
  }

  /** The source has called it off: what arrived is worthless. */
  cancel(): void {
    this.#discard('the migration was cancelled');
  }

  /** Something arrived that can't be right: says so and applies nothing more. */
  fail(thrown: unknown): void {
    if (this.state !== 'started') {
      this.#discard(messageOf(thrown));
      this.#reply({ type: 'error', reason: messageOf(thrown) });
    }
  }

  #start(): void {
    try {
      this.#startedAt = this.#vm.start();
      this.state = 'started';
    } catch (thrown) {
      this.#discard(messageOf(thrown));
    }
  }

  #discard(because: string): void {
    if (this.state !== 'started' && this.state !== 'discarded') {
      this.state = 'discarded';
      this.#discardedBecause = because;
    }
  }

  /**
   * What became of the commit. One that was never *ready* does not say "not started": the commit was another's, of whom it
   * knows nothing (I10).
   */
  #answer(to: string): void {
    if (this.state === 'started') {
      this.#reply({ type: 'started', startedAt: this.#startedAt });
    } else if (this.state === 'discarded' && this.#wasReady) {
      this.#reply({ type: 'not-started', reason: this.#discardedBecause });
    } else {
      this.#expect('ready', to);
    }
  }

  #expect(state: ReceiverState, what: string): void {
    if (this.state !== state) {
      throw new LacunaError('PROTOCOL_VIOLATION', `${what} came while the destination is ${this.state}`);
    }
  }
}
