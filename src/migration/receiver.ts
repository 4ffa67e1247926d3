import { LacunaError, messageOf } from '../errors.js';
import { fillWords } from '../memory/byte-ops.js';
import { gpaOf, PAGE_SIZE } from '../memory/page.js';
import { PageBitmap } from '../memory/page-bitmap.js';
import { atomicMapper } from '../memory/shared-words.js';
import { type DestinationMessage, type FrameSink, noPages, type PageCounts } from '../wire/channel.js';
import type { DestinationVm } from './vm.js';

/**
 * The destination's side: applies what arrives, in order, and starts the guest on the commit and on nothing else.
 *
 * ```
 *                                  finish             commit
 *   receiving ──runs, rounds──▶ … ────────▶ ready ─────────────▶ started
 *       │       device state                  │  guest fails ──▶ discarded
 *       └────── cancel, or an error ──────────┴─────────────────▶ discarded
 * ```
 */
export type ReceiverState = 'receiving' | 'ready' | 'started' | 'discarded';

/** Applies the frames of one migration. Anything out of order or out of range is a typed error (a peer is untrusted). */
export class Receiver implements FrameSink {
  state: ReceiverState = 'receiving';
  readonly counts: PageCounts = noPages();
  readonly #vm: DestinationVm;
  readonly #reply: (message: DestinationMessage) => void;
  /** Pages that were written here. Memory begins as zeroes, so a zero page that was never written is as it must be. */
  readonly #written: PageBitmap;
  #stateLoaded = false;

  constructor(vm: DestinationVm, reply: (message: DestinationMessage) => void) {
    this.#vm = vm;
    this.#reply = reply;
    this.#written = PageBitmap.allocateOwn(atomicMapper, vm.memory.layout.pfnSpan);
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
    this.#target(pfn, pageCount).set(payload);
    this.#written.setRange(pfn, pageCount);
    this.counts.pages += pageCount;
  }

  /** Pages that read as zeroes from here on. */
  zeroRun(pfn: number, pageCount: number): void {
    this.#fill(pfn, pageCount, 0);
    this.counts.zeroPages += pageCount;
  }

  /** Pages that the guest gave up: they read as `value`, repeated as le32, from here on (I7, P5). */
  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#fill(pfn, pageCount, value);
    this.counts.filledPages += pageCount;
  }

  /** The end of a round; they are numbered from 1, without gaps. */
  roundEnd(round: number): void {
    this.#expect('receiving', 'the end of a round');
    if (round !== this.counts.rounds + 1) {
      throw new LacunaError('PROTOCOL_VIOLATION', `round ${round} ended after round ${this.counts.rounds}`);
    }
    this.counts.rounds = round;
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
    this.state = 'ready';
    this.#reply({ type: 'ready', counts: { ...this.counts } });
  }

  /** I10: the only thing that starts the guest here. */
  commit(): void {
    this.#expect('ready', 'a commit');
    try {
      const startedAt = this.#vm.start();
      this.state = 'started';
      this.#reply({ type: 'started', startedAt });
    } catch (thrown) {
      this.state = 'discarded';
      this.#reply({ type: 'not-started', reason: messageOf(thrown) });
    }
  }

  /** The source takes its commit back: from here on the guest is not started by it, if it was not already (I10). */
  withdraw(): void {
    if (this.state !== 'started') {
      this.state = 'discarded';
      this.#reply({ type: 'not-started', reason: 'the commit was withdrawn' });
    }
  }

  /** The source has called it off: what arrived is worthless. */
  cancel(): void {
    if (this.state !== 'started') {
      this.state = 'discarded';
    }
  }

  /** Something arrived that can't be right: says so and applies nothing more. */
  fail(thrown: unknown): void {
    if (this.state !== 'started') {
      this.state = 'discarded';
      this.#reply({ type: 'error', reason: messageOf(thrown) });
    }
  }

  #fill(pfn: number, pageCount: number, value: number): void {
    this.#expect('receiving', 'a run of filled pages');
    const bytes = this.#target(pfn, pageCount);
    if (value !== 0) {
      fillWords(bytes, 0, bytes.length, value);
      this.#written.setRange(pfn, pageCount);
      return;
    }
    const { memory } = this.#vm;
    const end = pfn + pageCount;
    for (
      let page = this.#written.nextSet(pfn, end);
      page < end;
      page = this.#written.nextSet(page + 1, end)
    ) {
      memory.pages(page, 1).fill(0);
    }
    this.#written.clearRange(pfn, pageCount);
  }

  #target(pfn: number, pageCount: number): Uint8Array {
    const segment = this.#vm.memory.segmentOf(gpaOf(pfn), pageCount * PAGE_SIZE);
    if (segment === undefined) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `pages ${pfn}–${pfn + pageCount - 1} are not RAM of this guest`,
      );
    }
    const offset = (pfn - segment.firstPfn) * PAGE_SIZE;
    return segment.bytes.subarray(offset, offset + pageCount * PAGE_SIZE);
  }

  #expect(state: ReceiverState, what: string): void {
    if (this.state !== state) {
      throw new LacunaError('PROTOCOL_VIOLATION', `${what} came while the destination is ${this.state}`);
    }
  }
}
