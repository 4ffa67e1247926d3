import { LacunaError } from '../errors.js';
import type { EventWord } from '../memory/control-buffer.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { MIB, PAGE_SIZE } from '../memory/page.js';
import type { SharedWords, WordMapper } from '../memory/shared-words.js';
import {
  type DestinationMessage,
  FRAME_HEADER_BYTES,
  type FrameSink,
  type SourceChannel,
} from '../wire/channel.js';

/**
 * A transport between two threads of one process that share the source's memory: a ring of frame headers. A run's
 * payload is not copied into it; the destination's thread copies the pages from guest RAM to guest RAM.
 *
 * ```
 *  word  name              written by     pairs with
 *     0  WRITE_INDEX       source         the destination's load and wait
 *     1  READ_INDEX        destination    the source's load: how much room there is
 *     2  SOURCE_WAITING    both           set by a source that found no room; taken by whoever makes room
 *     3  APPLIED_PAGES     destination    the source's load: how much is not flushed (wraps)
 *     4  REPLY_SEQUENCE    destination    the source's load; what is below was written before
 *     5  REPLY_TYPE        destination
 *     6… REPLY_COUNTS      destination    pages, zero pages, filled pages, rounds
 *    10  STARTED_AT        destination    float64
 *    12  TEXT_LENGTH       destination
 *    13  READER_WAITING    destination    set while it waits for a frame; the source's load after it has written one
 *    16  frames            source         1024 × 8 words: type, pfn, pageCount, value
 *        reply text        destination    4 KiB
 *        device state      source         up to 4 MiB
 * ```
 */
const WRITE_INDEX = 0;
const READ_INDEX = 1;
const SOURCE_WAITING = 2;
const APPLIED_PAGES = 3;
const REPLY_SEQUENCE = 4;
const REPLY_TYPE = 5;
const REPLY_COUNTS = 6;
const STARTED_AT = 10;
const TEXT_LENGTH = 12;
const READER_WAITING = 13;
const FRAMES = 16;
const FRAME_SLOTS = 1024;
const FRAME_WORDS = FRAME_HEADER_BYTES / 4;
const TEXT_AT = (FRAMES + FRAME_SLOTS * FRAME_WORDS) * 4;
const TEXT_BYTES = 4096;
const STATE_AT: number = TEXT_AT + TEXT_BYTES;
const STATE_BYTES: number = 4 * MIB;

/** Pages that may be on their way: more would only delay what comes after. */
const MOST_UNFLUSHED_PAGES: number = (64 * MIB) / PAGE_SIZE;

const FrameType = {
  pages: 1,
  zero: 2,
  fill: 3,
  roundEnd: 4,
  deviceState: 5,
  finish: 6,
  commit: 7,
  cancel: 8,
  close: 9,
  withdraw: 10,
} as const;
const ReplyType = { ready: 1, started: 2, notStarted: 3, error: 4 } as const;

/** Bytes of the buffer that both ends are given. */
export const MEMORY_CHANNEL_BYTES: number = STATE_AT + STATE_BYTES;

/** The source's end. `event` is rung when there is room again and when the destination has said something. */
export class MemoryChannel implements SourceChannel {
  readonly buffer: SharedArrayBuffer;
  readonly #words: SharedWords;
  readonly #frames: Int32Array;
  readonly #stamps: Float64Array;
  #writeIndex = 0;
  #sentPages = 0;
  #repliesSeen = 0;
  #stateBytes = 0;
  #failure: string | undefined;

  constructor(map: WordMapper, buffer: SharedArrayBuffer = new SharedArrayBuffer(MEMORY_CHANNEL_BYTES)) {
    this.buffer = buffer;
    this.#words = map.words(buffer, 0, FRAMES);
    this.#frames = new Int32Array(buffer, 0, TEXT_AT / 4);
    this.#stamps = new Float64Array(buffer, 0, FRAMES / 2);
  }

  get unflushedBytes(): number {
    return ((this.#sentPages - this.#words.load(APPLIED_PAGES)) | 0) * PAGE_SIZE;
  }

  get writable(): boolean {
    if (this.#hasRoom()) {
      return true;
    }
    // Say so, then look again: room that was made before the destination could see this would be missed.
    this.#words.store(SOURCE_WAITING, 1);
    return this.#hasRoom();
  }

  #hasRoom(): boolean {
    // A few slots stay free for the frames that end a migration, which wait for nobody.
    const used = (this.#writeIndex - this.#words.load(READ_INDEX)) | 0;
    return used < FRAME_SLOTS - 16 && this.unflushedBytes < MOST_UNFLUSHED_PAGES * PAGE_SIZE;
  }

  /** `payload` stays unread here: the destination's thread reads the same pages of the shared memory. */
  pageRun(pfn: number, pageCount: number, _payload: Uint8Array): void {
    this.#sentPages = (this.#sentPages + pageCount) | 0;
    this.#push(FrameType.pages, pfn, pageCount, 0);
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#push(FrameType.zero, pfn, pageCount, 0);
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    if (value !== 0) {
      this.#sentPages = (this.#sentPages + pageCount) | 0; // the destination writes each of them
    }
    this.#push(FrameType.fill, pfn, pageCount, value);
  }

  roundEnd(round: number): void {
    this.#push(FrameType.roundEnd, 0, 0, round);
  }

  deviceState(state: Uint8Array): void {
    if (state.length > STATE_BYTES) {
      throw new LacunaError(
        'DEVICE_STATE_INVALID',
        `a device state of ${state.length} bytes; this transport takes ${STATE_BYTES}`,
      );
    }
    new Uint8Array(this.buffer, STATE_AT, state.length).set(state);
    this.#stateBytes = state.length;
    this.#push(FrameType.deviceState, 0, 0, state.length);
  }

  finish(): void {
    this.#push(FrameType.finish, 0, 0, 0);
  }

  commit(): void {
    this.#push(FrameType.commit, 0, 0, 0);
  }

  withdraw(): void {
    this.#push(FrameType.withdraw, 0, 0, 0);
  }

  cancel(): void {
    this.#push(FrameType.cancel, 0, 0, 0);
  }

  /** The destination's thread may end. */
  close(): void {
    this.#push(FrameType.close, 0, 0, 0);
  }

  /** The thread at the other end died: {@link poll} says so. */
  fail(reason: string): void {
    this.#failure = reason;
  }

  /** The device state that was sent, for the host of the guest at the destination. */
  sentDeviceState(): Uint8Array {
    return new Uint8Array(this.buffer, STATE_AT, this.#stateBytes).slice();
  }

  poll(): DestinationMessage | undefined {
    if (this.#failure !== undefined) {
      const reason = this.#failure;
      this.#failure = undefined;
      return { type: 'error', reason };
    }
    const sequence = this.#words.load(REPLY_SEQUENCE); // pairs with the add in MemoryChannelEnd.reply
    if (sequence === this.#repliesSeen) {
      return undefined;
    }
    this.#repliesSeen = sequence;
    const word = (index: number): number => this.#words.load(index);
    const text = (): string =>
      new TextDecoder().decode(new Uint8Array(this.buffer, TEXT_AT, word(TEXT_LENGTH)).slice());
    switch (word(REPLY_TYPE)) {
      case ReplyType.ready:
        return {
          type: 'ready',
          counts: {
            pages: word(REPLY_COUNTS),
            zeroPages: word(REPLY_COUNTS + 1),
            filledPages: word(REPLY_COUNTS + 2),
            rounds: word(REPLY_COUNTS + 3),
          },
        };
      case ReplyType.started:
        return { type: 'started', startedAt: this.#stamps[STARTED_AT / 2]! };
      case ReplyType.notStarted:
        return { type: 'not-started', reason: text() };
      default:
        return { type: 'error', reason: text() };
    }
  }

  #push(type: number, pfn: number, pageCount: number, value: number): void {
    const at = FRAMES + (this.#writeIndex & (FRAME_SLOTS - 1)) * FRAME_WORDS;
    this.#frames[at] = type;
    this.#frames[at + 1] = pfn;
    this.#frames[at + 2] = pageCount;
    this.#frames[at + 3] = value;
    this.#writeIndex = (this.#writeIndex + 1) | 0;
    this.#words.store(WRITE_INDEX, this.#writeIndex); // publishes the frame; pairs with the load in receive()
    // A system call a frame would cost more than the frame: only a reader that has said so is woken. What it says only
    // itself takes back: whoever took it for the reader might take what it says of the *next* frame, and then it sleeps
    // for good (the explorer has found both ways to do that).
    if (this.#words.load(READER_WAITING) !== 0) {
      this.#words.notify(WRITE_INDEX);
    }
  }
}

/** The destination's end, on a thread of its own. */
export class MemoryChannelEnd {
  readonly #words: SharedWords;
  readonly #frames: Int32Array;
  readonly #stamps: Float64Array;
  readonly #buffer: SharedArrayBuffer;
  readonly #event: EventWord;
  #readIndex = 0;
  #appliedPages = 0;

  constructor(map: WordMapper, buffer: SharedArrayBuffer, event: EventWord) {
    this.#buffer = buffer;
    this.#event = event;
    this.#words = map.words(buffer, 0, FRAMES);
    this.#frames = new Int32Array(buffer, 0, TEXT_AT / 4);
    this.#stamps = new Float64Array(buffer, 0, FRAMES / 2);
  }

  /** Tells the source. The fields first, then the sequence number. */
  reply(message: DestinationMessage): void {
    const words = this.#words;
    const text = (reason: string): void => {
      const bytes = new TextEncoder().encode(reason).subarray(0, TEXT_BYTES);
      new Uint8Array(this.#buffer, TEXT_AT, TEXT_BYTES).set(bytes);
      words.store(TEXT_LENGTH, bytes.length);
    };
    switch (message.type) {
      case 'ready':
        words.store(REPLY_COUNTS, message.counts.pages);
        words.store(REPLY_COUNTS + 1, message.counts.zeroPages);
        words.store(REPLY_COUNTS + 2, message.counts.filledPages);
        words.store(REPLY_COUNTS + 3, message.counts.rounds);
        words.store(REPLY_TYPE, ReplyType.ready);
        break;
      case 'started':
        this.#stamps[STARTED_AT / 2] = message.startedAt;
        words.store(REPLY_TYPE, ReplyType.started);
        break;
      case 'not-started':
        text(message.reason);
        words.store(REPLY_TYPE, ReplyType.notStarted);
        break;
      case 'error':
        text(message.reason);
        words.store(REPLY_TYPE, ReplyType.error);
        break;
      default:
        return; // of links that break, and this one can't
    }
    words.add(REPLY_SEQUENCE, 1);
    this.#event.ring();
  }

  /** Applies frames until the source closes the channel. Blocks the thread. */
  receive(receiver: FrameSink, source: GuestMemory): void {
    while (this.step(receiver, source)) {
      // all of it is in the step
    }
  }

  /** Applies what is there, or waits until something is. False: the source has closed the channel. */
  step(receiver: FrameSink, source: GuestMemory): boolean {
    const words = this.#words;
    const writeIndex = words.load(WRITE_INDEX);
    if (writeIndex === this.#readIndex) {
      // Says so first; if a frame was written meanwhile the index has moved on and the wait ends at once.
      words.store(READER_WAITING, 1);
      words.wait(WRITE_INDEX, writeIndex, Number.POSITIVE_INFINITY);
      words.store(READER_WAITING, 0);
      return true;
    }
    while (this.#readIndex !== writeIndex) {
      const at = FRAMES + (this.#readIndex & (FRAME_SLOTS - 1)) * FRAME_WORDS;
      const type = this.#frames[at]!;
      if (type === FrameType.close) {
        return false;
      }
      this.#apply(
        receiver,
        source,
        type,
        this.#frames[at + 1]!,
        this.#frames[at + 2]!,
        this.#frames[at + 3]!,
      );
      this.#readIndex = (this.#readIndex + 1) | 0;
      words.store(APPLIED_PAGES, this.#appliedPages);
      words.store(READ_INDEX, this.#readIndex); // room; pairs with the load in MemoryChannel.#hasRoom
      if (words.load(SOURCE_WAITING) !== 0) {
        words.store(SOURCE_WAITING, 0);
        this.#event.ring();
      }
    }
    return true;
  }

  #apply(
    receiver: FrameSink,
    source: GuestMemory,
    type: number,
    pfn: number,
    pageCount: number,
    value: number,
  ): void {
    if (type === FrameType.pages || (type === FrameType.fill && value !== 0)) {
      this.#appliedPages = (this.#appliedPages + pageCount) | 0;
    }
    if (receiver.discarded) {
      return; // the source is told, or has said so itself; the rest is read and dropped
    }
    try {
      switch (type) {
        case FrameType.pages:
          receiver.pageRun(pfn, pageCount, source.pages(pfn, pageCount));
          break;
        case FrameType.zero:
          receiver.zeroRun(pfn, pageCount);
          break;
        case FrameType.fill:
          receiver.fillRun(pfn, pageCount, value);
          break;
        case FrameType.roundEnd:
          receiver.roundEnd(value);
          break;
        case FrameType.deviceState:
          receiver.deviceState(new Uint8Array(this.#buffer, STATE_AT, value).slice());
          break;
        case FrameType.finish:
          receiver.finish();
          break;
        case FrameType.commit:
          receiver.commit();
          break;
        case FrameType.withdraw:
          receiver.withdraw();
          break;
        case FrameType.cancel:
          receiver.cancel();
          break;
        default:
          throw new LacunaError('PROTOCOL_VIOLATION', `a frame of type ${type}`);
      }
    } catch (thrown) {
      receiver.fail(thrown);
    }
  }
}
