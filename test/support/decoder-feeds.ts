import { type DecoderOptions, FrameDecoder, type FrameHandler } from '../../src/wire/decoder.js';
import { type FrameHeader, FrameType } from '../../src/wire/frames.js';
import type { DecodedFrame } from './naive-decoder.js';

const GUARD_BYTES = 8;
const GUARD = 0xee;

/** Whether a run's contents go to a place of their own. */
export function hasPlace(type: number): boolean {
  return type === FrameType.pages || type === FrameType.compressedPages;
}

/** Remembers frames, gives places to the contents of runs, with guards around them, and pauses after some frames. */
export class Collector implements FrameHandler {
  readonly frames: DecodedFrame[] = [];
  /** Of these frames, by number. */
  readonly #pauses: ReadonlySet<number>;
  readonly #arenas: Uint8Array[] = [];
  decoder!: FrameDecoder;

  constructor(pauses: Iterable<number> = []) {
    this.#pauses = new Set(pauses);
  }

  header({ type, payloadLength }: Readonly<FrameHeader>): Uint8Array<ArrayBufferLike> | undefined {
    this.#expectRunning();
    if (!hasPlace(type)) {
      return undefined;
    }
    const arena = new Uint8Array(payloadLength + 2 * GUARD_BYTES).fill(GUARD);
    this.#arenas.push(arena);
    return arena.subarray(GUARD_BYTES, GUARD_BYTES + payloadLength);
  }

  frame(header: Readonly<FrameHeader>, payload: Uint8Array<ArrayBufferLike>): void {
    this.#expectRunning();
    if (this.#pauses.has(this.frames.length)) {
      this.decoder.pause();
    }
    this.frames.push({ header: { ...header }, payload: payload.slice() });
  }

  #expectRunning(): void {
    if (this.decoder.paused) {
      throw new Error('a frame was handed on while the decoder is paused');
    }
  }

  /** Whether nothing was written beside the places that were given. */
  get isGuarded(): boolean {
    return this.#arenas.every(
      (arena) =>
        arena.subarray(0, GUARD_BYTES).every((byte) => byte === GUARD) &&
        arena.subarray(arena.length - GUARD_BYTES).every((byte) => byte === GUARD),
    );
  }
}

/** How bytes are fed: like a socket that reads into `target()`, one that asks for the next target at once (as Node does), or by `push`. */
export type Feed = 'target' | 'target-ahead' | 'push';
export const FEEDS: readonly Feed[] = ['target', 'target-ahead', 'push'];

/**
 * Feeds `bytes` in pieces that end at `splits` (ascending). While the decoder is paused nothing is read: it is
 * resumed after the piece, or before the next read, in which it has paused.
 */
export function feedAll(
  bytes: Uint8Array,
  splits: readonly number[],
  feed: Feed,
  collector: Collector,
  options: DecoderOptions,
): FrameDecoder {
  const decoder = new FrameDecoder(collector, options);
  collector.decoder = decoder;
  let from = 0;
  for (const to of [...splits, bytes.length]) {
    if (feed === 'push') {
      // A buffer that is used for something else right away.
      const piece = bytes.slice(from, to);
      decoder.push(piece);
      piece.fill(0x99);
      resumeUntilRunning(decoder);
    } else {
      readInto(decoder, bytes.subarray(from, to), feed === 'target-ahead');
    }
    from = to;
  }
  return decoder;
}

/** A socket that has `bytes` to be read. */
function readInto(decoder: FrameDecoder, bytes: Uint8Array, isAhead: boolean): void {
  let target = decoder.target();
  for (let at = 0; at < bytes.length; ) {
    if (target.length === 0) {
      throw new Error('an empty target');
    }
    const count = Math.min(target.length, bytes.length - at);
    target.set(bytes.subarray(at, at + count));
    decoder.advance(count);
    at += count;
    if (isAhead) {
      target = decoder.target();
      resumeUntilRunning(decoder);
    } else {
      resumeUntilRunning(decoder);
      target = decoder.target();
    }
  }
}

function resumeUntilRunning(decoder: FrameDecoder): void {
  while (decoder.paused) {
    decoder.resume();
  }
}
