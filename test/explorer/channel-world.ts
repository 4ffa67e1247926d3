import type { EventWord } from '../../src/memory/control-buffer.js';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { MEMORY_CHANNEL_BYTES, MemoryChannel, MemoryChannelEnd } from '../../src/transport/memory.js';
import type { FrameSink } from '../../src/wire/channel.js';
import { type Activity, Gate, noActivity } from './gate.js';
import { Memento } from './memento.js';
import { Violation, type World } from './search.js';
import { type Sleeper, SleepyWords, sleepyMapper } from './sleepers.js';

const SOURCE_SENDS = 1;
const DESTINATION_STEPS = 2;
/** Words of the channel's head, and of each frame behind it. */
const HEAD_WORDS = 16;
const FRAME_WORDS = 8;

class State {
  readonly channel: MemoryChannel;
  readonly end: MemoryChannelEnd;
  readonly source: Activity = noActivity();
  readonly destination: Activity = noActivity();
  readonly sleeper: Sleeper;
  /** Pages of the frames that were applied. */
  readonly applied: number[] = [];
  sent = 0;

  constructor(channel: MemoryChannel, end: MemoryChannelEnd, sleeper: Sleeper) {
    this.channel = channel;
    this.end = end;
    this.sleeper = sleeper;
  }
}

/** The two ends of the memory channel, access by access: every frame is applied, in order; nobody sleeps through one. */
export class ChannelWorld implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = ['sent', 'applied', 'asleep', 'head'];
  readonly #gate = new Gate();
  readonly #frames: number;
  readonly #state: State;
  readonly #memory = new PrivateGuestMemory(new RamLayout([{ startGpa: 0, endGpa: PAGE_SIZE }]));
  readonly #sink: FrameSink;
  readonly #sourceOwn: Memento;
  readonly #destinationOwn: Memento;
  readonly #head: Int32Array;

  constructor(frames: number) {
    this.#frames = frames;
    const sleeper: Sleeper = { asleep: false };
    const map = sleepyMapper(this.#gate, sleeper);
    const buffer = new ArrayBuffer(MEMORY_CHANNEL_BYTES) as unknown as SharedArrayBuffer;
    const event = { ring: () => {} } as unknown as EventWord;
    const channel = new MemoryChannel(map, buffer);
    const end = new MemoryChannelEnd(map, buffer, event);
    this.#state = new State(channel, end, sleeper);
    this.#head = new Int32Array(buffer, 0, HEAD_WORDS);
    this.#sink = {
      discarded: false,
      zeroRun: (pfn: number) => this.#gate.once(() => void this.#state.applied.push(pfn)),
      fail: (thrown: unknown) => {
        throw thrown;
      },
    } as unknown as FrameSink;
    const constantClasses = [SleepyWords, Gate];
    const memory = [{ words: new Int32Array(buffer, 0, HEAD_WORDS + frames * FRAME_WORDS) }];
    const constantFields = ['buffer', '__buffer', '__event', '__words'];
    this.memento = new Memento(this.#state, { constantClasses, constantFields, memory });
    const own = { constantClasses, constantFields, memory: [], foreign: [buffer] };
    this.#sourceOwn = new Memento(channel, own);
    this.#destinationOwn = new Memento(end, own);
  }

  actionsInto(out: number[]): void {
    const { source, sent, sleeper } = this.#state;
    if (source.what !== -1 || sent < this.#frames) {
      out.push(SOURCE_SENDS);
    }
    if (!sleeper.asleep) {
      out.push(DESTINATION_STEPS);
    }
  }

  perform(action: number): void {
    const state = this.#state;
    if (action === SOURCE_SENDS) {
      if (state.source.what === -1) {
        state.source.what = SOURCE_SENDS;
        state.sent += 1;
      }
      const parts = { name: 'source', activity: state.source, own: this.#sourceOwn };
      this.#gate.advance(parts, () => state.channel.zeroRun(state.sent, 1));
      return;
    }
    state.destination.what = DESTINATION_STEPS;
    this.#gate.advance({ name: 'destination', activity: state.destination, own: this.#destinationOwn }, () =>
      state.end.step(this.#sink, this.#memory),
    );
  }

  check(): void {
    const { applied } = this.#state;
    if (applied.some((pfn, i) => pfn !== i + 1)) {
      throw new Violation('order', `frames were applied as ${applied.join(', ')}`);
    }
  }

  checkEnd(): void {
    const { applied, sent } = this.#state;
    if (applied.length !== sent) {
      throw new Violation(
        'Q7',
        `the destination sleeps, and ${sent - applied.length} of ${sent} frames are waiting`,
      );
    }
  }

  describe(action: number): { who: string; what: string } {
    return action === SOURCE_SENDS
      ? { who: 'source', what: 'sends a frame' }
      : { who: 'destination', what: 'goes on' };
  }

  cells(): string[] {
    const { sent, applied, sleeper } = this.#state;
    return [String(sent), applied.join(' '), String(sleeper.asleep), this.#head.slice(0, 14).join(' ')];
  }
}
