import type { LacunaError } from '../../errors.js';
import type { EventWord } from '../../memory/control-buffer.js';
import type { SharedWords, WordMapper } from '../../memory/shared-words.js';
import type { PageCounts } from '../../wire/channel.js';
import { Doorbell } from './doorbell.js';
import { FAILURE_BYTES, readFailure, writeFailure } from './failure-text.js';
import { StreamState } from './stream-ring.js';

/**
 * What the destination's main thread and the thread of one stream tell each other.
 *
 * ```
 *  word  name              written by       pairs with
 *     0  DOORBELL          main (add)       the thread's wait; the main thread rings it
 *     1  STOP              main             the thread's load after a ring of its doorbell
 *     2  DESCRIPTOR        both (exchange)  of the accepted socket, from the main thread; whoever takes it out closes it
 *     3  RELEASED_ROUND    main             the thread's load after a ring of its doorbell
 *     4  ENDED_ROUND       thread           the main thread's load after a ring of its event word; the counts before
 *     5  STATE             thread           the same; FAILURE before
 *     6  FAILURE_LENGTH    thread
 *     8  counts            thread           float64: pages, zero pages, filled pages, bytes received
 *    16  failure           thread           2 KiB
 * ```
 */
const DOORBELL = 0;
const STOP = 1;
const DESCRIPTOR = 2;
const RELEASED_ROUND = 3;
const ENDED_ROUND = 4;
const STATE = 5;
const FAILURE_LENGTH = 6;
const COUNTS = 8;
const COUNT_FIELDS = 4;
const FAILURE_AT = 16 * 4;

/** Nothing is in the word, or no more. No socket's descriptor is 0. */
const NO_DESCRIPTOR = 0;

/** Bytes of the buffer that both ends are given. */
export const STREAM_BOARD_BYTES: number = FAILURE_AT + FAILURE_BYTES;

/** The main thread's end. */
export class StreamBoard {
  readonly doorbell: Doorbell;
  readonly #buffer: SharedArrayBuffer;
  readonly #words: SharedWords;
  readonly #counts: Float64Array;

  constructor(map: WordMapper, buffer: SharedArrayBuffer) {
    this.#buffer = buffer;
    this.#words = map.words(buffer, 0, COUNTS);
    this.doorbell = new Doorbell(this.#words, DOORBELL, STOP);
    this.#counts = new Float64Array(buffer, COUNTS * 4, COUNT_FIELDS);
  }

  get endedRound(): number {
    return this.#words.load(ENDED_ROUND);
  }

  /** Exact up to the end of the round that {@link endedRound} gave before; what came since may be in it. */
  get counts(): PageCounts {
    const rounds = this.endedRound;
    const [pages = 0, zeroPages = 0, filledPages = 0] = this.#counts;
    return { pages, zeroPages, filledPages, rounds };
  }

  get receivedBytes(): number {
    return this.#counts[COUNT_FIELDS - 1]!;
  }

  get failure(): LacunaError | undefined {
    return this.#words.load(STATE) === StreamState.failed
      ? readFailure(new Uint8Array(this.#buffer, FAILURE_AT, this.#words.load(FAILURE_LENGTH)))
      : undefined;
  }

  /** Lends the thread a descriptor. */
  lend(descriptor: number): void {
    this.#words.store(DESCRIPTOR, descriptor);
    this.doorbell.ring();
  }

  /** Whether the thread has not taken the descriptor. It won't any more. */
  takeBack(): boolean {
    return this.#words.exchange(DESCRIPTOR, NO_DESCRIPTOR) !== NO_DESCRIPTOR;
  }

  release(round: number): void {
    this.#words.store(RELEASED_ROUND, round);
    this.doorbell.ring();
  }
}

/** The end of the stream's thread. */
export class StreamBoardEnd {
  readonly doorbell: Doorbell;
  readonly #buffer: SharedArrayBuffer;
  readonly #words: SharedWords;
  readonly #counts: Float64Array;
  readonly #event: EventWord;

  /** `event` is the word that the main thread waits on. */
  constructor(map: WordMapper, buffer: SharedArrayBuffer, event: EventWord) {
    this.#buffer = buffer;
    this.#event = event;
    this.#words = map.words(buffer, 0, COUNTS);
    this.doorbell = new Doorbell(this.#words, DOORBELL, STOP);
    this.#counts = new Float64Array(buffer, COUNTS * 4, COUNT_FIELDS);
  }

  /** The descriptor that was lent, which is this thread's to close from here on; undefined: none, or no more. */
  takeDescriptor(): number | undefined {
    const descriptor = this.#words.exchange(DESCRIPTOR, NO_DESCRIPTOR);
    return descriptor === NO_DESCRIPTOR ? undefined : descriptor;
  }

  get releasedRound(): number {
    return this.#words.load(RELEASED_ROUND);
  }

  /** Shows what has come so far. */
  show(counts: PageCounts, receivedBytes: number): void {
    this.#counts[0] = counts.pages;
    this.#counts[1] = counts.zeroPages;
    this.#counts[2] = counts.filledPages;
    this.#counts[3] = receivedBytes;
  }

  /** A round has ended; {@link show} was called before. */
  ended(round: number): void {
    this.#words.store(ENDED_ROUND, round); // publishes the counts; pairs with the load in StreamBoard.counts
    this.#event.ring();
  }

  failed(failure: LacunaError): void {
    const length = writeFailure(new Uint8Array(this.#buffer, FAILURE_AT, FAILURE_BYTES), failure);
    this.#words.store(FAILURE_LENGTH, length);
    this.#words.store(STATE, StreamState.failed);
    this.#event.ring();
  }
}
