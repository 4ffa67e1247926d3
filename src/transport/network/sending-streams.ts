import { asLacunaError, LacunaError } from '../../errors.js';
import type { EventWord } from '../../memory/control-buffer.js';
import { type GuestMemory, SharedGuestMemory } from '../../memory/guest-memory.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { noPages, type PageCounts } from '../../wire/channel.js';
import { FrameType } from '../../wire/frames.js';
import { newThreads, type Thread, type ThreadSource } from '../threads.js';
import type { CompressionMode } from './compression-policy.js';
import type { CompressedRun, CompressionSlots } from './compression-slots.js';
import { connectStream, type Endpoint, type StreamJoin } from './connect-stream.js';
import { threadFailure } from './failure-text.js';
import { type CompressionReport, type Departure, RunCompression, type RunOutput } from './run-compression.js';
import type { SendingThreadData } from './sending-thread.js';
import { frameBytes, STREAM_RING_BYTES, StreamRing, StreamState } from './stream-ring.js';
import { StreamSender } from './stream-sender.js';

export interface SendingStreamsOptions {
  readonly endpoint: Endpoint;
  /** One for each stream, 16 bytes. */
  readonly tickets: readonly Uint8Array[];
  readonly epoch: number;
  /** The guest's. Shared memory is sent by threads; any other by this thread, which then copies what it sends. */
  readonly memory: GuestMemory;
  /** Rung when there is room again, and when a stream has failed. */
  readonly event: EventWord;
  /** Whether runs are compressed; not unless the destination takes them (`Feature.compressedRuns`). `off` if nothing is said. */
  readonly compression?: CompressionMode | undefined;
  readonly threads?: ThreadSource;
  readonly signal?: AbortSignal;
}

/** One stream, as the main thread sees it. */
interface Outgoing {
  readonly counts: PageCounts;
  /** Bytes of all frames that were put here. */
  sentBytes: number;
  readonly hasRoom: boolean;
  readonly unflushedBytes: number;
  /** One of {@link StreamState}. */
  readonly state: number;
  readonly failure: LacunaError | undefined;
  wantRoom(): void;
  put(type: number, pfn: number, pageCount: number, value: number, payload?: Uint8Array): void;
  close(): Promise<void>;
}

/** A stream with a thread of its own. */
class ThreadedStream implements Outgoing {
  readonly counts: PageCounts = noPages();
  sentBytes = 0;
  readonly #ring: StreamRing;
  readonly #thread: Thread;

  constructor(
    options: SendingStreamsOptions,
    memory: SharedGuestMemory,
    join: StreamJoin,
    slots: CompressionSlots | undefined,
  ) {
    const { event, threads = newThreads } = options;
    const ring = new SharedArrayBuffer(STREAM_RING_BYTES);
    const data: SendingThreadData = {
      ...join,
      blocks: memory.layout.segments, // each a block, for a layout's segments may be shorter than they could be
      buffers: memory.buffers,
      ring,
      event: event.buffer,
      slots: slots?.buffer,
    };
    this.#ring = new StreamRing(atomicMapper, ring);
    this.#thread = threads.start('stream-sender', data, () => event.ring());
  }

  get hasRoom(): boolean {
    return this.#ring.hasRoom;
  }

  get unflushedBytes(): number {
    return this.#ring.unflushedBytes;
  }

  get state(): number {
    return this.#thread.failure === undefined ? this.#ring.state : StreamState.failed;
  }

  get failure(): LacunaError | undefined {
    return (
      threadFailure(this.#thread) ??
      (this.#ring.state === StreamState.failed ? this.#ring.failure : undefined)
    );
  }

  wantRoom(): void {
    this.#ring.wantRoom();
  }

  put(type: number, pfn: number, pageCount: number, value: number, payload?: Uint8Array): void {
    this.#ring.put(type, pfn, pageCount, value, type === FrameType.compressedPages ? payload?.length : 0);
  }

  async close(): Promise<void> {
    this.#ring.doorbell.stop();
    await this.#thread.ended;
  }
}

/** A stream of this thread, for memory that others can't be given. */
class LocalStream implements Outgoing {
  readonly counts: PageCounts = noPages();
  sentBytes = 0;
  state: number = StreamState.connecting;
  failure: LacunaError | undefined;
  unflushedBytes = 0;
  readonly #event: EventWord;
  readonly #cancel = new AbortController();
  readonly #connecting: Promise<void>;
  #sender: StreamSender | undefined;
  #isRoomWanted = false;
  #isFlushDue = false;

  constructor(options: SendingStreamsOptions, join: StreamJoin) {
    this.#event = options.event;
    this.#connecting = connectStream(join, this.#cancel.signal).then(
      (socket) => {
        this.#sender = new StreamSender(socket, {
          index: join.index,
          epoch: join.epoch,
          flushed: (bytes) => this.#flushed(bytes),
          failed: (error) => this.#become(StreamState.failed, error),
        });
        this.#become(StreamState.open);
      },
      (thrown: unknown) => {
        const error = asLacunaError(thrown, 'CONNECTION_FAILED');
        this.#become(StreamState.failed, error);
      },
    );
  }

  get hasRoom(): boolean {
    return this.#sender?.hasRoom ?? false;
  }

  wantRoom(): void {
    this.#isRoomWanted = true;
  }

  put(type: number, pfn: number, pageCount: number, value: number, payload?: Uint8Array): void {
    this.unflushedBytes += frameBytes(type, pageCount, payload?.length);
    // A copy of pages: the memory's owner may take its buffers back before the socket has read them. What was compressed is
    // nobody's but the compressor's until it has left.
    const kept = type === FrameType.pages ? new Uint8Array(payload ?? []) : payload;
    this.#sender?.put(type, pfn, pageCount, value, kept);
    if (!this.#isFlushDue) {
      this.#isFlushDue = true; // once for everything that is sent without a pause
      queueMicrotask(() => {
        this.#isFlushDue = false;
        this.#sender?.flush();
      });
    }
  }

  async close(): Promise<void> {
    this.#cancel.abort();
    await this.#connecting;
    await this.#sender?.close();
  }

  #flushed(bytes: number): void {
    this.unflushedBytes -= bytes;
    if (this.#isRoomWanted) {
      this.#isRoomWanted = false;
      this.#event.ring();
    }
  }

  #become(state: number, failure?: LacunaError): void {
    this.state = state;
    this.failure = failure;
    this.#event.ring();
  }
}

/**
 * The streams of one link, as the source's main thread uses them: what it claims goes to the stream that has the least
 * before it. The runs of a round touch different pages, so it doesn't matter which of them arrives first; the end of a
 * round goes by all streams.
 *
 * Where runs are compressed they pass each other, and nothing passes the end of a round: what is sent after it waits until
 * all that was sent before it is on a stream.
 */
export class SendingStreams {
  readonly #event: EventWord;
  readonly #compression: RunCompression | undefined;
  readonly #streams: readonly Outgoing[];
  /** What waits behind the end of a round, beginning with that. */
  #held: (() => void)[] = [];
  #sentBytes = 0;
  #closed: Promise<void> | undefined;

  private constructor(options: SendingStreamsOptions) {
    const { endpoint, tickets, epoch, memory, event, compression = 'off' } = options;
    this.#event = event;
    this.#compression =
      compression === 'off' ? undefined : new RunCompression(this.#runOutput(), compression);
    this.#streams = tickets.map((ticket, index) => {
      const join: StreamJoin = { endpoint, index, ticket, epoch };
      return memory instanceof SharedGuestMemory
        ? new ThreadedStream(options, memory, join, this.#compression?.slots)
        : new LocalStream(options, join);
    });
  }

  /**
   * Connects a stream for each ticket. Rejects with CONNECTION_FAILED, AUTHENTICATION_FAILED, PROTOCOL_VIOLATION, what the
   * destination has said, or CANCELLED; everything is closed then.
   */
  static async open(options: SendingStreamsOptions): Promise<SendingStreams> {
    const { event, signal } = options;
    const opened = new SendingStreams(options);
    const onAbort = (): void => event.ring();
    signal?.addEventListener('abort', onAbort);
    try {
      for (;;) {
        const seen = event.value();
        const { failure } = opened;
        if (failure !== undefined) {
          throw failure;
        }
        if (signal?.aborted === true) {
          throw new LacunaError('CANCELLED', 'the streams were closed while they were being connected');
        }
        if (opened.#streams.every(({ state }) => state === StreamState.open)) {
          return opened;
        }
        await event.next(seen);
      }
    } catch (thrown) {
      await opened.close();
      throw thrown;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Whether another run may be sent; if not, the event word is rung when it may. */
  get writable(): boolean {
    if (this.#hasRoom()) {
      return true;
    }
    for (const stream of this.#streams) {
      stream.wantRoom();
    }
    return this.#hasRoom(); // it may have been made just now, and then nobody rings
  }

  /** Bytes that have not left for the kernel: of frames, and of pages that are being compressed. */
  get unflushedBytes(): number {
    return this.#waitingBytes() + (this.#compression?.pendingBytes ?? 0);
  }

  /** Why a stream is of no more use, and with it the link. The event word was rung. */
  get failure(): LacunaError | undefined {
    for (const { failure } of this.#streams) {
      if (failure !== undefined) {
        return failure;
      }
    }
    return undefined;
  }

  /** `payload` is what the memory that the streams were opened with holds there. */
  pageRun(pfn: number, pageCount: number, payload: Uint8Array<ArrayBufferLike>): void {
    if (this.#held.length > 0) {
      this.#held.push(() => this.pageRun(pfn, pageCount, payload));
    } else if (this.#compression === undefined) {
      this.#sendRaw(pfn, pageCount, payload);
    } else {
      this.#compression.pageRun(pfn, pageCount, payload);
    }
  }

  zeroRun(pfn: number, pageCount: number): void {
    if (this.#held.length > 0) {
      this.#held.push(() => this.zeroRun(pfn, pageCount));
      return;
    }
    const stream = this.#idlest();
    stream.counts.zeroPages += pageCount;
    this.#put(stream, FrameType.zero, pfn, pageCount, 0);
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    if (this.#held.length > 0) {
      this.#held.push(() => this.fillRun(pfn, pageCount, value));
      return;
    }
    const stream = this.#idlest();
    stream.counts.filledPages += pageCount;
    this.#put(stream, FrameType.fill, pfn, pageCount, value);
  }

  /** On every stream. */
  roundEnd(round: number): void {
    if (this.#held.length > 0 || this.#compression?.isEmpty === false) {
      this.#held.push(() => this.roundEnd(round));
      return;
    }
    for (const stream of this.#streams) {
      stream.counts.rounds = round;
      this.#put(stream, FrameType.roundEnd, 0, 0, round);
    }
  }

  /** What compression did; undefined if it is off. */
  compression(): CompressionReport | undefined {
    return this.#compression?.report();
  }

  /** What was sent by each stream. */
  counts(): PageCounts[] {
    return this.#streams.map(({ counts }) => ({ ...counts }));
  }

  /** Bytes of all frames that were sent, headers included. */
  bytesSent(): number {
    return this.#sentBytes;
  }

  /** Closes the connections. Resolves when no thread uses guest RAM or a socket any more. */
  close(): Promise<void> {
    // First those that read the compressor's memory.
    this.#closed ??= Promise.all(this.#streams.map((stream) => stream.close())).then(() =>
      this.#compression?.close(),
    );
    return this.#closed;
  }

  #runOutput(): RunOutput {
    const waitingBytes = (): number => this.#waitingBytes();
    const takenBytes = (): number => this.#sentBytes - this.#waitingBytes();
    return {
      get waitingBytes(): number {
        return waitingBytes();
      },
      get takenBytes(): number {
        return takenBytes();
      },
      sendRaw: (pfn, pageCount, pages) => this.#sendRaw(pfn, pageCount, pages),
      sendBatch: (runs) => this.#sendBatch(runs),
      news: () => this.#takeNews(),
    };
  }

  #sendRaw(pfn: number, pageCount: number, pages: Uint8Array<ArrayBufferLike>): void {
    const stream = this.#idlest();
    stream.counts.pages += pageCount;
    this.#put(stream, FrameType.pages, pfn, pageCount, 0, pages);
  }

  #sendBatch(runs: readonly CompressedRun[]): Departure {
    const stream = this.#idlest();
    for (const { index, pfn, pageCount, pages, payload } of runs) {
      stream.counts.pages += pageCount;
      if (payload === undefined) {
        this.#put(stream, FrameType.pages, pfn, pageCount, 0, pages);
      } else {
        this.#put(stream, FrameType.compressedPages, pfn, pageCount, index, payload);
      }
    }
    const { sentBytes } = stream;
    return {
      get hasLeft(): boolean {
        return stream.sentBytes - stream.unflushedBytes >= sentBytes;
      },
    };
  }

  /** All that was being compressed may have been sent: then so is the end of the round. */
  #takeNews(): void {
    while (this.#held.length > 0 && this.#compression?.isEmpty === true) {
      const held = this.#held;
      this.#held = [];
      for (const send of held) {
        send(); // what follows is held again, if the compressor was given something
      }
    }
    this.#event.ring();
  }

  #hasRoom(): boolean {
    if (this.#held.length > 0) {
      return false;
    }
    const compression = this.#compression;
    return compression === undefined ? this.#linkHasRoom() : compression.hasRoom(() => this.#linkHasRoom());
  }

  #linkHasRoom(): boolean {
    for (const stream of this.#streams) {
      if (stream.hasRoom) {
        return true;
      }
    }
    return false;
  }

  #waitingBytes(): number {
    let sum = 0;
    for (const stream of this.#streams) {
      sum += stream.unflushedBytes;
    }
    return sum;
  }

  /** Of those that have room, the one with the least before it; else of all. */
  #idlest(): Outgoing {
    let best = this.#streams[0]!;
    let bestBytes = Number.POSITIVE_INFINITY;
    for (const stream of this.#streams) {
      const bytes = stream.hasRoom ? stream.unflushedBytes : Number.MAX_SAFE_INTEGER;
      if (bytes < bestBytes) {
        best = stream;
        bestBytes = bytes;
      }
    }
    return best;
  }

  #put(
    stream: Outgoing,
    type: number,
    pfn: number,
    pageCount: number,
    value: number,
    payload?: Uint8Array<ArrayBufferLike>,
  ): void {
    const bytes = frameBytes(type, pageCount, payload?.length);
    this.#sentBytes += bytes;
    stream.sentBytes += bytes;
    stream.put(type, pfn, pageCount, value, payload);
  }
}
