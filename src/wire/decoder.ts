import { LacunaError } from '../errors.js';
import { FRAME_HEADER_BYTES } from './channel.js';
import {
  type ConnectionKind,
  checkFrame,
  checkType,
  decodeHeader,
  emptyHeader,
  type FrameHeader,
  type FrameLimits,
  FrameType,
  frameName,
  isSkipped,
  MOST_DEVICE_STATE_BYTES,
  MOST_RUN_PAGES,
} from './frames.js';

/** What frames are handed to. */
export interface FrameHandler {
  /**
   * A header has come, and is right as far as it can be told by itself. Returns where its payload goes: a view of exactly
   * `payloadLength` bytes, or undefined if the decoder is to keep it (`keptPayloadBytes` at the most). Throws to refuse it.
   */
  header(header: Readonly<FrameHeader>): Uint8Array<ArrayBufferLike> | undefined;
  /** The frame is complete. `payload` is what {@link header} returned, or the kept bytes; these, and `header`, hold during the call only. */
  frame(header: Readonly<FrameHeader>, payload: Uint8Array<ArrayBufferLike>): void;
}

export interface DecoderOptions extends Partial<FrameLimits> {
  /** The longest payload for which {@link FrameHandler.header} may give no place. */
  readonly keptPayloadBytes: number;
  /** What is read at once, at the most, of small frames. */
  readonly stagingBytes?: number;
  /** What every frame must be of; else what the first one is of. */
  readonly epoch?: number;
  /** What may arrive; else everything that is known. */
  readonly connection?: ConnectionKind;
  /** Of the next frame, where another decoder has read those before. */
  readonly firstSequence?: number;
}

const STAGING_BYTES: number = 64 * 1024;
/** What is read at once after a payload was read to its place: enough for the next header. */
const SHORT_READ_BYTES = 4096;
const NO_BYTES: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/**
 * Takes a stream of bytes apart, however it is split, and hands on the frames. It is fed by {@link target} and {@link advance},
 * or by {@link push}.
 *
 * ```
 *             32 bytes, checked          a place, or none: kept
 *   header ─────────────────────▶ payload ─────────────────────▶ frame() ──▶ header
 *                                    │ a type that is skipped ─────────────────▲
 * ```
 *
 * Headers and small frames come by way of a staging buffer, many at a read. A payload of which more is missing than
 * would fit there is read to its place itself, and not a byte further. Nothing is allocated for a peer but the staging
 * buffer and one for the longest kept payload. Whatever it or its handler has thrown, it throws again from then on.
 */
export class FrameDecoder {
  /** What may arrive from the next frame on; undefined: everything that is known. */
  connection: ConnectionKind | undefined;
  readonly #handler: FrameHandler;
  readonly #limits: FrameLimits;
  readonly #keptPayloadBytes: number;
  readonly #staging: Uint8Array<ArrayBuffer>;
  readonly #stagingView: DataView;
  /** What has come and was not handled yet: staging from `#begin` to `#end`. */
  #begin = 0;
  #end = 0;
  /** Of the frame in hand. */
  readonly #header: FrameHeader = emptyHeader();
  #inPayload = false;
  /** Where its payload goes; undefined if it is left in the staging buffer until it is complete, or skipped. */
  #place: Uint8Array<ArrayBufferLike> | undefined;
  #isSkipping = false;
  /** Bytes of the payload that are to come, and were not copied to its place or skipped yet. */
  #missing = 0;
  /** For kept payloads that are longer than the staging buffer; made when the first one comes. */
  #kept: Uint8Array<ArrayBuffer> | undefined;
  /** How much was offered by {@link target}, and whether that was the payload's place. */
  #offered = 0;
  #isDirect = false;
  /** What was pushed and found the decoder paused. */
  #backlog: Uint8Array<ArrayBuffer>[] = [];
  #isPaused = false;
  #isHandling = false;
  #isFirst: boolean;
  #sequence: number;
  /** 0 before the first frame, unless it was given. */
  #epoch: number;
  #failed: { readonly thrown: unknown } | undefined;

  /** Throws INVALID_ARGUMENT if not even a header fits the staging buffer. */
  constructor(handler: FrameHandler, options: DecoderOptions) {
    const { stagingBytes = STAGING_BYTES } = options;
    if (!(stagingBytes >= FRAME_HEADER_BYTES)) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `stagingBytes is ${stagingBytes}: at least ${FRAME_HEADER_BYTES}`,
      );
    }
    this.#handler = handler;
    this.#limits = {
      longestRunPages: options.longestRunPages ?? MOST_RUN_PAGES,
      longestDeviceStateBytes: options.longestDeviceStateBytes ?? MOST_DEVICE_STATE_BYTES,
      features: options.features ?? 0,
    };
    this.#keptPayloadBytes = options.keptPayloadBytes;
    this.#staging = new Uint8Array(stagingBytes);
    this.#stagingView = new DataView(this.#staging.buffer);
    this.connection = options.connection;
    this.#epoch = options.epoch ?? 0;
    this.#sequence = options.firstSequence ?? 0;
    this.#isFirst = this.#sequence === 0;
  }

  /**
   * Where the next bytes are to be read to. Never empty. What it gave stays right until the next call of it or of
   * {@link push}, also if the decoder is paused or resumed meanwhile.
   */
  target(): Uint8Array<ArrayBufferLike> {
    this.#expectUsable();
    if (this.#backlog.length > 0) {
      throw new LacunaError('ILLEGAL_STATE', 'bytes that were pushed wait for resume()');
    }
    const target = this.#space(this.#staging.length);
    if (target.length === 0) {
      throw new LacunaError('ILLEGAL_STATE', 'the decoder is paused and full: stop reading until resume()');
    }
    return target;
  }

  /** `count` bytes were read into what {@link target} gave: calls the handler for all frames that are complete by it. */
  advance(count: number): void {
    this.#expectUsable();
    if (!(count >= 0 && count <= this.#offered)) {
      throw new LacunaError(
        'OUT_OF_RANGE',
        `${count} bytes were read into ${this.#offered}: advance() follows target()`,
      );
    }
    this.#offered = 0;
    if (this.#isDirect) {
      this.#missing -= count;
    } else {
      this.#end += count;
    }
    this.#handle();
  }

  /** Takes a copy of bytes that came in another way, all of them: while it is paused, they are kept. */
  push(bytes: Uint8Array): void {
    this.#expectUsable();
    for (let at = 0; at < bytes.length; ) {
      if (this.#isPaused && !this.#inPayload) {
        this.#backlog.push(new Uint8Array(bytes.subarray(at)));
        return;
      }
      // A copy goes to its place at once, however short it is.
      const space = this.#space(1);
      const count = Math.min(space.length, bytes.length - at);
      space.set(bytes.subarray(at, at + count));
      this.advance(count);
      at += count;
    }
  }

  /** Nothing is handled after the frame in hand, until {@link resume}. The caller stops reading. */
  pause(): void {
    this.#isPaused = true;
  }

  /** Handles what has come meanwhile. */
  resume(): void {
    this.#expectUsable(true);
    this.#isPaused = false;
    if (this.#isHandling) {
      return; // called by the handler: the loop that called it goes on
    }
    this.#handle();
    while (!this.#isPaused && this.#backlog.length > 0) {
      const backlog = this.#backlog;
      this.#backlog = [];
      for (const bytes of backlog) {
        this.push(bytes);
      }
    }
  }

  get paused(): boolean {
    return this.#isPaused;
  }

  /** The frame that would come next, by number: for the decoder that takes over. */
  get nextSequence(): number {
    return this.#sequence;
  }

  /** Whether there is nothing of a frame that isn't complete, and nothing that has come and was not handled. */
  get isBetweenFrames(): boolean {
    return !this.#inPayload && this.#begin === this.#end && this.#backlog.length === 0;
  }

  /** The payload's place, if at least `direct` bytes are missing there; else what is free of the staging buffer. */
  #space(direct: number): Uint8Array<ArrayBufferLike> {
    if (this.#begin === this.#end) {
      this.#begin = 0;
      this.#end = 0;
      if (this.#place !== undefined && this.#missing >= direct) {
        this.#isDirect = true;
        this.#offered = this.#missing;
        return this.#place.subarray(this.#place.length - this.#missing);
      }
    } else if (this.#begin > 0) {
      // Part of a header or of a kept payload, unless it is paused.
      this.#staging.copyWithin(0, this.#begin, this.#end);
      this.#end -= this.#begin;
      this.#begin = 0;
    }
    // After a long run comes a long run, and what of it is read to here has to be copied (8 µs for 64 KiB).
    const end = this.#isDirect ? this.#end + SHORT_READ_BYTES : this.#staging.length;
    const space = this.#staging.subarray(this.#end, end);
    this.#isDirect = false;
    this.#offered = space.length;
    return space;
  }

  #handle(): void {
    this.#isHandling = true;
    try {
      while (this.#inPayload || (!this.#isPaused && this.#takeHeader())) {
        if (!this.#takePayload()) {
          break;
        }
      }
    } catch (thrown) {
      this.#failed = { thrown };
      throw thrown;
    } finally {
      this.#isHandling = false;
    }
  }

  /** The next header, if it is there. */
  #takeHeader(): boolean {
    if (this.#end - this.#begin < FRAME_HEADER_BYTES) {
      return false;
    }
    const header = this.#header;
    decodeHeader(this.#stagingView, this.#begin, header);
    this.#begin += FRAME_HEADER_BYTES;
    this.#checkOrder(header);
    checkType(header.type, this.connection, this.#isFirst);
    checkFrame(header, this.#limits);
    this.#isFirst &&= header.type === FrameType.pong;
    this.#missing = header.payloadLength;
    this.#isSkipping = isSkipped(header.type);
    this.#place = this.#isSkipping ? undefined : this.#placeFor(header);
    this.#inPayload = true;
    return true;
  }

  #checkOrder({ type, sequence, epoch }: FrameHeader): void {
    if (sequence !== this.#sequence) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `${frameName(type)} is number ${sequence} of its connection, where ${this.#sequence} should come`,
      );
    }
    this.#sequence = (sequence + 1) >>> 0;
    if (this.#isFirst && type === FrameType.error) {
      return; // whoever refuses a connection may not have learned its epoch
    }
    if (this.#epoch === 0) {
      this.#epoch = epoch;
    }
    if (epoch !== this.#epoch || epoch === 0) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `${frameName(type)} of epoch ${epoch} on a connection of epoch ${this.#epoch}`,
      );
    }
  }

  #placeFor(header: FrameHeader): Uint8Array<ArrayBufferLike> | undefined {
    const { type, payloadLength } = header;
    const place = this.#handler.header(header);
    if (place !== undefined) {
      if (place.length !== payloadLength) {
        throw new LacunaError('ILLEGAL_STATE', `a place of ${place.length} bytes for ${payloadLength}`);
      }
      return place;
    }
    if (payloadLength > this.#keptPayloadBytes) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `${frameName(type)} with ${payloadLength} bytes of payload: at most ${this.#keptPayloadBytes} are taken here`,
      );
    }
    if (payloadLength <= this.#staging.length) {
      return undefined;
    }
    this.#kept ??= new Uint8Array(this.#keptPayloadBytes);
    return this.#kept.subarray(0, payloadLength);
  }

  /** Whether the payload was complete, so that the frame was handed on. */
  #takePayload(): boolean {
    const staged = this.#end - this.#begin;
    let payload = this.#place;
    if (payload !== undefined || this.#isSkipping) {
      const count = Math.min(staged, this.#missing);
      if (payload !== undefined && count > 0) {
        const from = this.#staging.subarray(this.#begin, this.#begin + count);
        payload.set(from, payload.length - this.#missing);
      }
      this.#begin += count;
      this.#missing -= count;
      if (this.#missing > 0) {
        return false;
      }
    } else if (staged < this.#missing) {
      return false;
    } else {
      payload =
        this.#missing === 0 ? NO_BYTES : this.#staging.subarray(this.#begin, this.#begin + this.#missing);
      this.#begin += this.#missing;
      this.#missing = 0;
    }
    this.#place = undefined;
    this.#inPayload = false;
    if (payload !== undefined) {
      this.#handler.frame(this.#header, payload);
    }
    return true;
  }

  #expectUsable(isHandlingAllowed = false): void {
    if (this.#failed !== undefined) {
      throw this.#failed.thrown;
    }
    if (this.#isHandling && !isHandlingAllowed) {
      throw new LacunaError('ILLEGAL_STATE', 'a handler can not read on its own');
    }
  }
}
