import type { Duplex } from 'node:stream';
import { asLacunaError, LacunaError } from '../../errors.js';
import { MIB } from '../../memory/page.js';
import { FRAME_HEADER_BYTES } from '../../wire/channel.js';
import { Compression, emptyHeader, encodeHeader, FrameType } from '../../wire/frames.js';

/** What a socket is given before it has written what it has: enough that it never runs dry. */
const MOST_IN_FLIGHT_BYTES: number = 8 * MIB;

/** Headers are made in pieces of so many; each piece is used once, for a socket reads it when it likes. */
const HEADERS_AT_ONCE = 64;

const NOTHING = new Uint8Array(0);

export interface StreamSenderOptions {
  readonly index: number;
  readonly epoch: number;
  /** Bytes of frames have left for the kernel. */
  flushed(bytes: number): void;
  /** The stream is of no more use, and its socket is destroyed. Called once. */
  failed(error: LacunaError): void;
}

/**
 * The source's end of a stream, on any thread: frames go out as headers and views of guest RAM, without a copy in
 * JavaScript. What was sent since the last {@link flush} leaves in one write.
 */
export class StreamSender {
  readonly #socket: Duplex;
  readonly #options: StreamSenderOptions;
  readonly #header = emptyHeader();
  /** For the next write, in order. */
  #chunks: Uint8Array[] = [];
  #chunkBytes = 0;
  /** Headers that are not yet among the chunks: from `#headersFrom` to `#headersTo`. */
  #headers = new DataView(new ArrayBuffer(0));
  #headersFrom = 0;
  #headersTo = 0;
  #inFlightBytes = 0;
  #isOver = false;
  readonly #closed: Promise<void>;

  /** `socket` has joined: nothing else is written to it, and nothing more is to come from it. */
  constructor(socket: Duplex, options: StreamSenderOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#header.epoch = options.epoch;
    this.#header.sequence = 1; // 0 was its join
    this.#closed = new Promise((resolve) => {
      socket.once('close', resolve);
    });
    socket
      .on('error', (cause) => this.#fail(cause))
      .on('close', () => this.#fail('the connection was closed'))
      .on('end', () => this.#fail('the destination closed it'))
      .on('data', () =>
        this.#fail(
          new LacunaError('PROTOCOL_VIOLATION', `the destination sent something on stream ${options.index}`),
        ),
      )
      .resume();
  }

  /** Whether frames may be sent; when not, some are on their way, and `flushed` will be called. */
  get hasRoom(): boolean {
    return !this.#isOver && this.#inFlightBytes < MOST_IN_FLIGHT_BYTES;
  }

  /** `payload` is read until it is flushed. */
  pageRun(pfn: number, pageCount: number, payload: Uint8Array<ArrayBufferLike>): void {
    this.#add(FrameType.pages, pfn, pageCount, 0, payload.length);
    this.#addPayload(payload);
  }

  /** The same of a run that was compressed (raw deflate). */
  compressedRun(pfn: number, pageCount: number, payload: Uint8Array<ArrayBufferLike>): void {
    this.#add(FrameType.compressedPages, pfn, pageCount, Compression.deflateRaw, payload.length);
    this.#addPayload(payload);
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#add(FrameType.zero, pfn, pageCount, 0, 0);
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#add(FrameType.fill, pfn, pageCount, value, 0);
  }

  roundEnd(round: number): void {
    this.#add(FrameType.roundEnd, 0, 0, round, 0);
  }

  /** The frame of any of these types. `payload` is that of a run with contents, and `value` nothing of such a run's. */
  put(
    type: number,
    pfn: number,
    pageCount: number,
    value: number,
    payload: Uint8Array<ArrayBufferLike> = NOTHING,
  ): void {
    switch (type) {
      case FrameType.pages:
        this.pageRun(pfn, pageCount, payload);
        break;
      case FrameType.compressedPages:
        this.compressedRun(pfn, pageCount, payload);
        break;
      case FrameType.zero:
        this.zeroRun(pfn, pageCount);
        break;
      case FrameType.fill:
        this.fillRun(pfn, pageCount, value);
        break;
      default:
        this.roundEnd(value);
    }
  }

  /** Hands what was sent to the socket. */
  flush(): void {
    this.#endHeaders();
    const chunks = this.#chunks;
    const bytes = this.#chunkBytes;
    if (chunks.length === 0 || this.#isOver) {
      return;
    }
    this.#chunks = [];
    this.#chunkBytes = 0;
    this.#socket.cork();
    const last = chunks.length - 1;
    for (const [i, chunk] of chunks.entries()) {
      if (i < last) {
        this.#socket.write(chunk);
      } else {
        this.#socket.write(chunk, (error) => this.#written(bytes, error));
      }
    }
    this.#socket.uncork();
  }

  /** Ends the stream. Resolves when the socket is closed, and nothing reads guest RAM any more. */
  async close(): Promise<void> {
    this.#isOver = true;
    this.#socket.destroy();
    await this.#closed;
  }

  #add(type: number, pfn: number, pageCount: number, value: number, payloadLength: number): void {
    if (this.#headersTo === this.#headers.byteLength) {
      this.#endHeaders();
      this.#headers = new DataView(new ArrayBuffer(HEADERS_AT_ONCE * FRAME_HEADER_BYTES));
      this.#headersFrom = 0;
      this.#headersTo = 0;
    }
    const header = this.#header;
    header.type = type;
    header.pfn = pfn;
    header.pageCount = pageCount;
    header.value = value;
    header.payloadLength = payloadLength;
    encodeHeader(this.#headers, this.#headersTo, header);
    header.sequence = (header.sequence + 1) >>> 0;
    this.#headersTo += FRAME_HEADER_BYTES;
    this.#inFlightBytes += FRAME_HEADER_BYTES;
  }

  #addPayload(payload: Uint8Array<ArrayBufferLike>): void {
    this.#endHeaders();
    this.#chunks.push(payload);
    this.#chunkBytes += payload.length;
    this.#inFlightBytes += payload.length;
  }

  #endHeaders(): void {
    const length = this.#headersTo - this.#headersFrom;
    if (length > 0) {
      this.#chunks.push(new Uint8Array(this.#headers.buffer, this.#headersFrom, length));
      this.#chunkBytes += length;
      this.#headersFrom = this.#headersTo;
    }
  }

  #written(bytes: number, error: Error | null | undefined): void {
    if (error !== null && error !== undefined) {
      this.#fail(error);
      return;
    }
    this.#inFlightBytes -= bytes;
    this.#options.flushed(bytes);
  }

  #fail(why: unknown): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    this.#socket.destroy();
    this.#options.failed(asLacunaError(why, 'LINK_LOST', `stream ${this.#options.index} broke: `));
  }
}
