import type { LacunaError } from '../../errors.js';
import type { EventWord } from '../../memory/control-buffer.js';
import { MIB, PAGE_SIZE } from '../../memory/page.js';
import type { SharedWords, WordMapper } from '../../memory/shared-words.js';
import { FRAME_HEADER_BYTES } from '../../wire/channel.js';
import { FrameType } from '../../wire/frames.js';
import { MOST_SLOTS, SLOT_RUNS } from './compression-slots.js';
import { Doorbell } from './doorbell.js';
import { FAILURE_BYTES, readFailure, writeFailure } from './failure-text.js';

/**
 * A ring between the source's main thread, which claims pages, and the thread of one stream, which sends them. It holds
 * headers only: both threads have the guest's memory. One writer, one reader, no locks.
 *
 * ```
 *  word  name              written by       pairs with
 *     0  DOORBELL          main (add)       the thread's wait; the main thread rings it
 *     1  WRITE_INDEX       main             the thread's load in take(), before it waits and after it has said so
 *     2  READ_INDEX        thread           the main thread's load in hasRoom
 *     3  FLUSHED_BYTES     thread           the main thread's load in unflushedBytes (wraps)
 *     4  SOURCE_WAITING    both             set by a source that found no room; taken by the thread that makes some
 *     5  THREAD_WAITING    thread           set before it waits for a frame; the main thread's load after it has written one
 *     6  STATE             thread           the main thread's load after a ring of its event word; FAILURE was written before
 *     7  STOP              main             the thread's load after a ring of its doorbell
 *     8  FAILURE_LENGTH    thread
 *     9  PUT_BYTES         main             the thread's load in flushed(): how much is left (wraps)
 *    16  frames            main             2048 × 4 words: type, pfn, pageCount, value; published by WRITE_INDEX
 *        failure           thread           2 KiB
 * ```
 */
const DOORBELL = 0;
const WRITE_INDEX = 1;
const READ_INDEX = 2;
const FLUSHED_BYTES = 3;
const SOURCE_WAITING = 4;
const THREAD_WAITING = 5;
const STATE = 6;
const STOP = 7;
const FAILURE_LENGTH = 8;
const PUT_BYTES = 9;
const FRAMES = 16;
const FRAME_SLOTS = 2048;
const FRAME_WORDS = 4;
const FAILURE_AT = (FRAMES + FRAME_SLOTS * FRAME_WORDS) * 4;

/** Slots for what is sent without asking for room: ends of rounds, a run that was cut into pieces, all that is being compressed. */
const SPARE_SLOTS: number = 16 + MOST_SLOTS * SLOT_RUNS;

/** Bytes of frames that may wait in the ring and the socket: more would only delay what comes after. */
const MOST_UNFLUSHED_BYTES: number = 16 * MIB;
/** A source that found no room is woken when half of it has been made, and not for every frame. */
const WAKE_BELOW_BYTES: number = MOST_UNFLUSHED_BYTES / 2;
const WAKE_BELOW_SLOTS: number = FRAME_SLOTS / 2;

/** Where a stream is, as far as its thread knows. */
export const StreamState = { connecting: 0, open: 1, failed: 2 } as const;

/** Bytes of the buffer that both ends are given. */
export const STREAM_RING_BYTES: number = FAILURE_AT + FAILURE_BYTES;

/** A frame on a ring; filled in place. */
export interface RingFrame {
  type: number;
  pfn: number;
  pageCount: number;
  value: number;
}

/** What a frame comes to on the wire. */
export function frameBytes(type: number, pageCount: number, compressedBytes = 0): number {
  return FRAME_HEADER_BYTES + (type === FrameType.pages ? pageCount * PAGE_SIZE : compressedBytes);
}

/** The main thread's end. */
export class StreamRing {
  readonly doorbell: Doorbell;
  readonly #buffer: SharedArrayBuffer;
  readonly #words: SharedWords;
  readonly #frames: Uint32Array;
  #writeIndex = 0;
  /** Bytes of all frames that were put here (wraps). */
  #putBytes = 0;

  constructor(map: WordMapper, buffer: SharedArrayBuffer) {
    this.#buffer = buffer;
    this.#words = map.words(buffer, 0, FRAMES);
    this.doorbell = new Doorbell(this.#words, DOORBELL, STOP);
    this.#frames = map.plain32(buffer, FRAMES * 4, FRAME_SLOTS * FRAME_WORDS);
  }

  get unflushedBytes(): number {
    return (this.#putBytes - this.#words.load(FLUSHED_BYTES)) | 0;
  }

  /** Whether a run may be put here. If not, and {@link wantRoom} was called before, the event word is rung when it may. */
  get hasRoom(): boolean {
    const used = (this.#writeIndex - this.#words.load(READ_INDEX)) | 0;
    return used < FRAME_SLOTS - SPARE_SLOTS && this.unflushedBytes < MOST_UNFLUSHED_BYTES;
  }

  /** Room is waited for. Look for it again after this: what was made before the thread could see it is not told. */
  wantRoom(): void {
    this.#words.store(SOURCE_WAITING, 1);
  }

  /** `compressedBytes`: of a compressed run's payload, and `value` says which run of the slots it is. */
  put(type: number, pfn: number, pageCount: number, value: number, compressedBytes = 0): void {
    const at = (this.#writeIndex & (FRAME_SLOTS - 1)) * FRAME_WORDS;
    this.#frames[at] = type;
    this.#frames[at + 1] = pfn;
    this.#frames[at + 2] = pageCount;
    this.#frames[at + 3] = value;
    this.#putBytes = (this.#putBytes + frameBytes(type, pageCount, compressedBytes)) | 0;
    this.#writeIndex = (this.#writeIndex + 1) | 0;
    this.#words.store(PUT_BYTES, this.#putBytes);
    this.#words.store(WRITE_INDEX, this.#writeIndex); // publishes the frame; pairs with the load in take()
    if (this.#words.load(THREAD_WAITING) !== 0) {
      this.doorbell.ring();
    }
  }

  /** One of {@link StreamState}. */
  get state(): number {
    return this.#words.load(STATE);
  }

  /** Why the state is `failed`. */
  get failure(): LacunaError {
    return readFailure(new Uint8Array(this.#buffer, FAILURE_AT, this.#words.load(FAILURE_LENGTH)));
  }
}

/** The end of the stream's thread. */
export class StreamRingEnd {
  readonly doorbell: Doorbell;
  readonly #buffer: SharedArrayBuffer;
  readonly #words: SharedWords;
  readonly #frames: Uint32Array;
  readonly #event: EventWord;
  #readIndex = 0;
  #flushedBytes = 0;
  #isWaiting = false;

  /** `event` is the word that the main thread waits on. */
  constructor(map: WordMapper, buffer: SharedArrayBuffer, event: EventWord) {
    this.#buffer = buffer;
    this.#event = event;
    this.#words = map.words(buffer, 0, FRAMES);
    this.doorbell = new Doorbell(this.#words, DOORBELL, STOP);
    this.#frames = map.plain32(buffer, FRAMES * 4, FRAME_SLOTS * FRAME_WORDS);
  }

  /** The next frame, into `out`. False: there is none, and the doorbell is rung when there is. */
  take(out: RingFrame): boolean {
    const words = this.#words;
    if (words.load(WRITE_INDEX) === this.#readIndex) {
      if (this.#isWaiting) {
        return false;
      }
      this.#isWaiting = true;
      words.store(THREAD_WAITING, 1);
      // What was put there before the main thread could see it is not rung for.
      if (words.load(WRITE_INDEX) === this.#readIndex) {
        return false;
      }
    }
    if (this.#isWaiting) {
      this.#isWaiting = false;
      words.store(THREAD_WAITING, 0);
    }
    const at = (this.#readIndex & (FRAME_SLOTS - 1)) * FRAME_WORDS;
    out.type = this.#frames[at]!;
    out.pfn = this.#frames[at + 1]!;
    out.pageCount = this.#frames[at + 2]!;
    out.value = this.#frames[at + 3]!;
    this.#readIndex = (this.#readIndex + 1) | 0;
    words.store(READ_INDEX, this.#readIndex); // the slot may be written again
    return true;
  }

  /** So many bytes of frames that were taken have left for the kernel. */
  flushed(bytes: number): void {
    const words = this.#words;
    this.#flushedBytes = (this.#flushedBytes + bytes) | 0;
    words.store(FLUSHED_BYTES, this.#flushedBytes);
    // Every frame that is taken is flushed later, so a source that waits is woken by the last of them at the latest.
    if (
      words.load(SOURCE_WAITING) !== 0 &&
      ((words.load(PUT_BYTES) - this.#flushedBytes) | 0) < WAKE_BELOW_BYTES &&
      ((words.load(WRITE_INDEX) - this.#readIndex) | 0) < WAKE_BELOW_SLOTS
    ) {
      words.store(SOURCE_WAITING, 0);
      this.#event.ring();
    }
  }

  /** The main thread is told: one of {@link StreamState}, and why it has failed. */
  become(state: number, failure?: LacunaError): void {
    if (failure !== undefined) {
      const length = writeFailure(new Uint8Array(this.#buffer, FAILURE_AT, FAILURE_BYTES), failure);
      this.#words.store(FAILURE_LENGTH, length);
    }
    this.#words.store(STATE, state);
    this.#event.ring();
  }
}
