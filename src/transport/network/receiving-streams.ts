import type { Socket } from 'node:net';
import { LacunaError } from '../../errors.js';
import { EventWord } from '../../memory/control-buffer.js';
import { type GuestMemory, SharedGuestMemory } from '../../memory/guest-memory.js';
import { PageBitmap } from '../../memory/page-bitmap.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { PageCounts } from '../../wire/channel.js';
import { newThreads, type Thread, type ThreadSource } from '../threads.js';
import { canLend, type DetachedSocket, detach, removeListeners } from './accepted-socket.js';
import { threadFailure } from './failure-text.js';
import type { ReceivingThreadData } from './receiving-thread.js';
import { STREAM_BOARD_BYTES, StreamBoard } from './stream-board.js';
import { StreamReceiver } from './stream-receiver.js';
import { secureServer, type TlsSettings } from './tls.js';

/** How an accepted socket is read. */
export type ReceivingWay =
  /** By a thread of its own, straight into guest RAM. */
  | 'threads'
  /** By this thread, straight into guest RAM where that is shared. */
  | 'this-thread'
  /** By this thread, with documented API only: what has come is copied. */
  | 'copying';

export interface ReceivingStreamsOptions {
  /** How many streams there are. */
  readonly count: number;
  readonly epoch: number;
  readonly memory: GuestMemory;
  /**
   * Which pages of the guest were written: `bitmapWords(pfnSpan)` words, all 0 while the memory is new. The streams of a
   * later epoch are given the same.
   */
  readonly written: SharedArrayBuffer;
  readonly longestRunPages: number;
  /** Bits of `Feature` that were agreed on. */
  readonly features: number;
  readonly tls?: TlsSettings | undefined;
  /** A stream has ended a round, or failed. Called later, never from within a call. */
  readonly onChange: () => void;
  readonly threads?: ThreadSource;
  /** The fastest there is, if it isn't given. */
  readonly way?: ReceivingWay;
}

/** One stream, as the main thread sees it. */
interface Incoming {
  readonly endedRound: number;
  readonly counts: PageCounts;
  readonly receivedBytes: number;
  readonly failure: LacunaError | undefined;
  release(round: number): void;
  close(): Promise<void>;
}

/** A stream that is received by a thread of its own. */
class ThreadedStream implements Incoming {
  readonly #board: StreamBoard;
  readonly #thread: Thread;
  /** What was lent to the thread. */
  #lent: DetachedSocket | undefined;

  constructor(options: ReceivingStreamsOptions, memory: SharedGuestMemory, index: number, news: EventWord) {
    const { epoch, written, longestRunPages, features, tls, threads = newThreads } = options;
    const board = new SharedArrayBuffer(STREAM_BOARD_BYTES);
    const data: ReceivingThreadData = {
      index,
      epoch,
      blocks: memory.layout.segments, // each a block, for a layout's segments may be shorter than they could be
      buffers: memory.buffers,
      written,
      longestRunPages,
      features,
      tls,
      board,
      event: news.buffer,
    };
    this.#board = new StreamBoard(atomicMapper, board);
    this.#thread = threads.start('stream-receiver', data, () => news.ring());
  }

  get endedRound(): number {
    return this.#board.endedRound;
  }

  get counts(): PageCounts {
    return this.#board.counts;
  }

  get receivedBytes(): number {
    return this.#board.receivedBytes;
  }

  get failure(): LacunaError | undefined {
    return threadFailure(this.#thread) ?? this.#board.failure;
  }

  lend(socket: DetachedSocket): void {
    this.#lent = socket;
    this.#board.lend(socket.lend());
  }

  release(round: number): void {
    this.#board.release(round);
  }

  async close(): Promise<void> {
    this.#board.doorbell.stop();
    await this.#thread.ended;
    if (this.#board.takeBack()) {
      this.#lent?.close();
    }
  }
}

/** A stream that is received by this thread. */
class LocalStream implements Incoming {
  endedRound = 0;
  failure: LacunaError | undefined;
  readonly #receiver: StreamReceiver;
  readonly #options: ReceivingStreamsOptions;
  #socket: Socket | undefined;

  constructor(options: ReceivingStreamsOptions, written: PageBitmap, index: number, news: EventWord) {
    this.#options = options;
    this.#receiver = new StreamReceiver({
      index,
      epoch: options.epoch,
      memory: options.memory,
      written,
      longestRunPages: options.longestRunPages,
      features: options.features,
      received: () => undefined,
      ended: (round) => {
        this.endedRound = round;
        news.ring();
      },
      failed: (error) => {
        this.failure = error;
        news.ring();
      },
    });
  }

  get counts(): PageCounts {
    return this.#receiver.counts;
  }

  get receivedBytes(): number {
    return this.#receiver.receivedBytes;
  }

  adopt(socket: Socket): void {
    const { tls, way } = this.#options;
    if (tls !== undefined) {
      this.#socket = socket;
      secureServer(socket, tls).then(
        (secured) => this.#receiver.receive(secured),
        (thrown: unknown) => this.#receiver.fail(thrown),
      );
      return;
    }
    const detached = way === 'copying' ? undefined : detach(socket);
    this.#receiver.receive(detached?.rewrap(this.#receiver.onread()) ?? socket);
  }

  fail(error: LacunaError): void {
    this.#receiver.fail(error);
  }

  release(round: number): void {
    this.#receiver.release(round);
  }

  async close(): Promise<void> {
    await this.#receiver.close();
    this.#socket?.destroy();
  }
}

/**
 * The streams of one link, as the destination's main thread uses them. A stream that has ended a round waits until all
 * have, and {@link release} is called.
 */
export class ReceivingStreams {
  readonly #options: ReceivingStreamsOptions;
  readonly #streams: Incoming[];
  readonly #written: PageBitmap;
  /** Rung by whatever thread has something to say. */
  readonly #news = new EventWord(atomicMapper);
  readonly #retired: Incoming[] = [];
  /** Sockets that are still to be given to their streams. */
  readonly #arriving = new Set<Socket>();
  readonly #adopted = new Set<number>();
  #failure: LacunaError | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: ReceivingStreamsOptions) {
    this.#options = options;
    const { count, memory, written } = options;
    const { pfnSpan } = memory.layout;
    this.#written = PageBitmap.over(atomicMapper, written, pfnSpan);
    const way = options.way ?? (canLend() ? 'threads' : 'this-thread');
    this.#streams = Array.from({ length: count }, (_, index) =>
      way === 'threads' && memory instanceof SharedGuestMemory
        ? new ThreadedStream(options, memory, index, this.#news)
        : this.#local(index),
    );
    void this.#listen();
  }

  /** Every stream has ended this round. */
  get endedRound(): number {
    let least = Number.POSITIVE_INFINITY;
    for (const { endedRound } of this.#streams) {
      least = Math.min(least, endedRound);
    }
    return least;
  }

  /** Why a stream is of no more use, and with it the link. */
  get failure(): LacunaError | undefined {
    for (const { failure } of this.#streams) {
      if (failure !== undefined) {
        return failure;
      }
    }
    return this.#failure;
  }

  /**
   * Receives from an accepted socket. Its *join* was read, and *go* was written to it, in the same turn of the event loop:
   * what its source sends now must not be read by anybody else. The socket is of no more use to the caller.
   */
  adopt(index: number, socket: Socket): void {
    if (this.#adopted.has(index) || this.#streams[index] === undefined) {
      throw new LacunaError(
        'ILLEGAL_STATE',
        `stream ${index} of ${this.#streams.length} can't be adopted now`,
      );
    }
    this.#adopted.add(index);
    removeListeners(socket);
    if (this.#closed !== undefined) {
      socket.destroy();
    } else if (socket.readableLength > 0) {
      socket.destroy();
      this.#fail(
        new LacunaError('PROTOCOL_VIOLATION', `stream ${index}: its source sent something before "go"`),
      );
    } else if (socket.writableLength === 0) {
      this.#give(index, socket);
    } else {
      // Rarely: its "go" has not left yet, and has to before anybody else gets the socket.
      socket.pause();
      this.#arriving.add(socket);
      const given = (): void => {
        this.#arriving.delete(socket);
        removeListeners(socket);
        this.#give(index, socket);
      };
      socket.once('error', given).once('close', given).write(new Uint8Array(0), given);
    }
  }

  /** Streams may apply what follows the end of `round`, which all have ended and for which the receiver is ready. */
  release(round: number): void {
    for (const stream of this.#streams) {
      stream.release(round);
    }
  }

  /** What was applied by each stream. */
  counts(): PageCounts[] {
    return this.#streams.map(({ counts }) => ({ ...counts }));
  }

  /** Bytes of all that has come, headers included. */
  bytesReceived(): number {
    let sum = 0;
    for (const { receivedBytes } of this.#streams) {
      sum += receivedBytes;
    }
    return sum;
  }

  /** Closes the connections. Resolves when no thread writes guest RAM, or uses a socket, any more. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    for (const socket of this.#arriving) {
      socket.destroy();
    }
    await Promise.all([...this.#streams, ...this.#retired].map((stream) => stream.close()));
    this.#news.ring(); // nobody is told any more
  }

  #local(index: number): LocalStream {
    return new LocalStream(this.#options, this.#written, index, this.#news);
  }

  #give(index: number, socket: Socket): void {
    if (socket.destroyed) {
      this.#fail(new LacunaError('LINK_LOST', `stream ${index} broke before it was received from`));
      return;
    }
    let stream = this.#streams[index];
    if (stream instanceof ThreadedStream) {
      const detached = detach(socket);
      if (detached !== undefined) {
        stream.lend(detached);
        return;
      }
      // Another Node than those that this was made for, or it has read on while its "go" was waiting: slower, but it goes.
      this.#retired.push(stream);
      void stream.close();
      stream = this.#local(index);
      this.#streams[index] = stream;
    }
    (stream as LocalStream).adopt(socket);
  }

  #fail(failure: LacunaError): void {
    this.#failure ??= failure;
    this.#news.ring();
  }

  async #listen(): Promise<void> {
    for (let seen = this.#news.value(); ; ) {
      await this.#news.next(seen);
      seen = this.#news.value();
      if (this.#closed !== undefined) {
        return;
      }
      this.#options.onChange();
    }
  }
}
