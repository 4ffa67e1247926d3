import type { OnReadOpts } from 'node:net';
import type { Duplex } from 'node:stream';
import { isLacunaError, LacunaError, messageOf } from '../../errors.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import { gpaOf, KIB, PAGE_SIZE } from '../../memory/page.js';
import type { PageBitmap } from '../../memory/page-bitmap.js';
import type { PageCounts } from '../../wire/channel.js';
import { FrameDecoder, type FrameHandler } from '../../wire/decoder.js';
import { Feature, type FrameHeader, FrameType } from '../../wire/frames.js';
import { PageApplier } from '../../wire/page-applier.js';
import { inflateRun } from './compressed-run.js';

/** Where a socket reads to while the stream is held: never an empty buffer, which Node takes for a lack of them (ENOBUFS). */
const SPARE_BYTES: number = 64 * KIB;

export interface StreamReceiverOptions {
  readonly index: number;
  readonly epoch: number;
  readonly memory: GuestMemory;
  /** Pages of the guest that were written here; all of its streams share it. */
  readonly written: PageBitmap;
  readonly longestRunPages: number;
  /** Bits of `Feature` that were agreed on. */
  readonly features: number;
  /** Something has come, and was handled as far as it goes. */
  received(): void;
  /** The stream has ended a round, and is held until {@link StreamReceiver.release}. */
  ended(round: number): void;
  /** The stream is of no more use, and its socket is destroyed. Called once. */
  failed(error: LacunaError): void;
}

/**
 * The destination's end of a stream, on any thread. Pages are read straight into guest RAM, if the memory is shared and
 * the socket was made with {@link onread}. Whatever a peer sends that isn't as it must be fails the stream.
 */
export class StreamReceiver implements FrameHandler {
  readonly #options: StreamReceiverOptions;
  readonly #applier: PageApplier;
  readonly #decoder: FrameDecoder;
  readonly #spare: Uint8Array = new Uint8Array(SPARE_BYTES);
  /** The socket itself reads to where the bytes belong. */
  #isDirect = false;
  #socket: Duplex | undefined;
  #closed: Promise<void> = Promise.resolve();
  #releasedRound = 0;
  #isOver = false;
  /** Bytes of all that has come, headers included. */
  receivedBytes = 0;

  constructor(options: StreamReceiverOptions) {
    this.#options = options;
    this.#applier = new PageApplier(options.memory, options.written);
    const { memory, longestRunPages, features } = options;
    const isCompressed = (features & Feature.compressedRuns) !== 0;
    this.#decoder = new FrameDecoder(this, {
      // Memory that isn't shared may be replaced by its owner while a socket waits to read into it: a run is kept until
      // all of it is here, and written at once. So is one that is compressed.
      keptPayloadBytes: memory.shared && !isCompressed ? 0 : longestRunPages * PAGE_SIZE,
      epoch: options.epoch,
      firstSequence: 1, // 0 was its join
      connection: 'stream-from-source',
      longestRunPages,
      features,
    });
  }

  /** What was applied; the rounds are those that were ended. */
  get counts(): PageCounts {
    return this.#applier.counts;
  }

  /** For making the socket that is given to {@link receive} then: it reads to where the bytes belong. */
  onread(): OnReadOpts {
    this.#isDirect = true;
    return {
      buffer: () => (this.#isOver || this.#decoder.paused ? this.#spare : this.#decoder.target()),
      callback: (count, bytes) => {
        this.receivedBytes += count;
        this.#take(() => {
          if (bytes === this.#spare) {
            this.#decoder.push(bytes.subarray(0, count));
          } else {
            this.#decoder.advance(count);
          }
        });
        return !this.#decoder.paused; // false: the socket stops reading
      },
    };
  }

  /** Receives from `socket`, whose join was read. One that wasn't made with {@link onread} has its bytes copied. */
  receive(socket: Duplex): void {
    this.#socket = socket;
    this.#closed = new Promise((resolve) => {
      socket.once('close', resolve);
    });
    socket
      .on('error', (cause) => this.#fail(cause))
      .on('close', () => this.#fail('the connection was closed'))
      .on('end', () => this.#fail('the source closed it'));
    if (!this.#isDirect) {
      socket.on('data', (bytes: Uint8Array) => {
        this.receivedBytes += bytes.length;
        this.#take(() => this.#decoder.push(bytes));
        if (this.#decoder.paused) {
          socket.pause();
        }
      });
      socket.resume(); // it may have been paused while it was handed on
    }
    if (this.#isOver) {
      socket.destroy(); // it read as soon as it was made, and what it read was wrong
    }
  }

  /** Frames of the round after `round` may be applied. */
  release(round: number): void {
    this.#releasedRound = round;
    if (!this.#decoder.paused || this.counts.rounds > round) {
      return;
    }
    this.#take(() => this.#decoder.resume());
    if (!this.#decoder.paused) {
      this.#socket?.resume();
    }
  }

  /** Ends the stream. Resolves when the socket is closed, and nothing writes guest RAM any more. */
  async close(): Promise<void> {
    this.#isOver = true;
    this.#socket?.destroy();
    await this.#closed;
  }

  /** Ends the stream for a reason that lies elsewhere. */
  fail(thrown: unknown): void {
    this.#fail(thrown);
  }

  header({ type, pfn, pageCount }: Readonly<FrameHeader>): Uint8Array<ArrayBufferLike> | undefined {
    if (type !== FrameType.pages && type !== FrameType.compressedPages) {
      return undefined;
    }
    if (type === FrameType.pages && this.#options.memory.shared) {
      return this.#applier.target(pfn, pageCount);
    }
    if (this.#options.memory.segmentOf(gpaOf(pfn), pageCount * PAGE_SIZE) === undefined) {
      this.#applier.target(pfn, pageCount); // says what is wrong with it
    }
    return undefined;
  }

  frame({ type, pfn, pageCount, value }: Readonly<FrameHeader>, payload: Uint8Array): void {
    switch (type) {
      case FrameType.pages:
        if (!this.#options.memory.shared) {
          this.#applier.target(pfn, pageCount).set(payload);
        }
        this.#applier.arrived(pageCount);
        return;
      case FrameType.compressedPages:
        inflateRun(payload, this.#applier.target(pfn, pageCount), pageCount);
        this.#applier.arrived(pageCount);
        return;
      case FrameType.zero:
        this.#applier.zeroRun(pfn, pageCount);
        return;
      case FrameType.fill:
        this.#applier.fillRun(pfn, pageCount, value);
        return;
      case FrameType.roundEnd:
        this.#endRound(value);
        return;
      default:
        throw new LacunaError('PROTOCOL_VIOLATION', `a frame of type ${type} on a stream`);
    }
  }

  #endRound(round: number): void {
    if (round !== this.counts.rounds + 1) {
      throw new LacunaError('PROTOCOL_VIOLATION', `round ${round} ended after round ${this.counts.rounds}`);
    }
    this.counts.rounds = round;
    if (round > this.#releasedRound) {
      this.#decoder.pause();
    }
    this.#options.ended(round);
  }

  #take(bytes: () => void): void {
    if (this.#isOver) {
      return;
    }
    try {
      bytes();
      this.#options.received();
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  #fail(why: unknown): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    this.#socket?.destroy();
    const { index } = this.#options;
    this.#options.failed(
      isLacunaError(why)
        ? new LacunaError(why.code, `stream ${index}: ${why.message}`, { cause: why })
        : new LacunaError('LINK_LOST', `stream ${index} broke: ${messageOf(why)}`, { cause: why }),
    );
  }
}
