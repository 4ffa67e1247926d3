import { EventWord } from '../../src/memory/control-buffer.js';
import { MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { Doorbell } from '../../src/transport/network/doorbell.js';
import {
  frameBytes,
  type RingFrame,
  STREAM_RING_BYTES,
  StreamRing,
  StreamRingEnd,
} from '../../src/transport/network/stream-ring.js';
import { FrameType } from '../../src/wire/frames.js';
import { type Activity, Gate, noActivity } from './gate.js';
import { Memento } from './memento.js';
import { Violation, type World } from './search.js';
import { type Sleeper, SleepyWords, sleepyMapper } from './sleepers.js';

// What can happen.
const SOURCE_SENDS = 1;
const THREAD_TURNS = 2;
const SOCKET_FLUSHES = 3;

/** Words of the ring's head, and of each frame behind it. */
const HEAD_WORDS = 16;
const FRAME_WORDS = 4;
/** A run after which there is no room until it is flushed. */
const RUN_PAGES = (16 * MIB) / PAGE_SIZE;
const RUN_BYTES = frameBytes(FrameType.pages, RUN_PAGES);

class State {
  readonly ring: StreamRing;
  readonly end: StreamRingEnd;
  readonly source: Activity = noActivity();
  readonly thread: Activity = noActivity();
  /** The source, on its event word. */
  readonly sourceSleeper: Sleeper;
  /** The thread, on its doorbell. */
  readonly threadSleeper: Sleeper;
  readonly frame: RingFrame = { type: 0, pfn: 0, pageCount: 0, value: 0 };
  /** Pages of the frames that were taken. */
  readonly taken: number[] = [];
  sent = 0;
  flushed = 0;

  constructor(ring: StreamRing, end: StreamRingEnd, sourceSleeper: Sleeper, threadSleeper: Sleeper) {
    this.ring = ring;
    this.end = end;
    this.sourceSleeper = sourceSleeper;
    this.threadSleeper = threadSleeper;
  }
}

/**
 * The ring between the source and the thread of a stream, access by access, where every run fills it: the frames are
 * taken in order, and neither sleeps through what the other does for it. The thread's socket goes on while it sleeps.
 */
export class StreamRingWorld implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = ['sent', 'taken', 'flushed', 'asleep', 'head'];
  readonly #gate = new Gate();
  readonly #runs: number;
  readonly #state: State;
  readonly #event: EventWord;
  readonly #sourceOwn: Memento;
  readonly #threadOwn: Memento;
  readonly #head: Int32Array;

  constructor(runs: number) {
    this.#runs = runs;
    const sourceSleeper: Sleeper = { asleep: false };
    const threadSleeper: Sleeper = { asleep: false };
    const buffer = new ArrayBuffer(STREAM_RING_BYTES) as unknown as SharedArrayBuffer;
    const eventBuffer = new ArrayBuffer(4) as unknown as SharedArrayBuffer;
    const map = sleepyMapper(this.#gate, threadSleeper);
    this.#event = new EventWord(sleepyMapper(this.#gate, sourceSleeper), eventBuffer);
    const ring = new StreamRing(map, buffer);
    const end = new StreamRingEnd(map, buffer, this.#event);
    this.#state = new State(ring, end, sourceSleeper, threadSleeper);
    this.#head = new Int32Array(buffer, 0, HEAD_WORDS);
    const constantClasses = [SleepyWords, Gate, EventWord, Doorbell];
    const memory = [
      { words: new Int32Array(buffer, 0, HEAD_WORDS + runs * FRAME_WORDS) },
      { words: new Int32Array(eventBuffer) },
    ];
    const constantFields = ['buffer', 'doorbell', '__buffer', '__event', '__words', '__frames'];
    this.memento = new Memento(this.#state, { constantClasses, constantFields, memory });
    const own = { constantClasses, constantFields, memory: [], foreign: [buffer, eventBuffer] };
    this.#sourceOwn = new Memento(ring, own);
    this.#threadOwn = new Memento(end, own);
  }

  actionsInto(out: number[]): void {
    const { source, thread, sent, taken, flushed, sourceSleeper, threadSleeper } = this.#state;
    if (!sourceSleeper.asleep && (source.what !== -1 || sent < this.#runs)) {
      out.push(SOURCE_SENDS);
    }
    // One thread: it does one thing at a time.
    if (thread.what === THREAD_TURNS || (thread.what === -1 && !threadSleeper.asleep)) {
      out.push(THREAD_TURNS);
    }
    if (thread.what === SOCKET_FLUSHES || (thread.what === -1 && flushed < taken.length)) {
      out.push(SOCKET_FLUSHES);
    }
  }

  perform(action: number): void {
    const state = this.#state;
    if (action === SOURCE_SENDS) {
      state.source.what = action;
      this.#gate.advance({ name: 'source', activity: state.source, own: this.#sourceOwn }, () =>
        this.#send(),
      );
      return;
    }
    state.thread.what = action;
    this.#gate.advance({ name: 'thread', activity: state.thread, own: this.#threadOwn }, () => {
      if (action === THREAD_TURNS) {
        void state.end.doorbell.turn(() => this.#pump());
        return;
      }
      state.end.flushed(RUN_BYTES);
      this.#gate.once(() => {
        state.flushed += 1;
      });
      this.#pump();
    });
  }

  /** Sends a run if there is room, as `SendingStreams.writable` looks for it; else waits to be told. */
  #send(): void {
    const { ring } = this.#state;
    const seen = this.#event.value();
    if (!ring.hasRoom) {
      ring.wantRoom();
      if (!ring.hasRoom) {
        void this.#event.next(seen);
        return;
      }
    }
    const sent = this.#gate.once(() => {
      this.#state.sent += 1;
      return this.#state.sent;
    });
    ring.put(FrameType.pages, sent, RUN_PAGES, 0);
  }

  #pump(): void {
    const { end, frame } = this.#state;
    while (end.take(frame)) {
      const { pfn } = frame;
      this.#gate.once(() => void this.#state.taken.push(pfn));
    }
  }

  check(): void {
    const { taken } = this.#state;
    if (taken.some((pfn, i) => pfn !== i + 1)) {
      throw new Violation('order', `frames were taken as ${taken.join(', ')}`);
    }
  }

  checkEnd(): void {
    const { taken, sent, flushed } = this.#state;
    if (sent !== this.#runs || taken.length !== sent || flushed !== sent) {
      throw new Violation(
        'asleep',
        `of ${this.#runs} runs ${sent} were sent, ${taken.length} taken, ${flushed} flushed, and nobody goes on`,
      );
    }
  }

  describe(action: number): { who: string; what: string } {
    switch (action) {
      case SOURCE_SENDS:
        return { who: 'source', what: 'sends a run, or waits for room' };
      case THREAD_TURNS:
        return { who: 'thread', what: 'takes what there is, and sleeps' };
      default:
        return { who: 'thread', what: 'a run has been flushed' };
    }
  }

  cells(): string[] {
    const { sent, taken, flushed, sourceSleeper, threadSleeper } = this.#state;
    return [
      String(sent),
      taken.join(' '),
      String(flushed),
      `${sourceSleeper.asleep} ${threadSleeper.asleep}`,
      this.#head.slice(0, 10).join(' '),
    ];
  }
}
