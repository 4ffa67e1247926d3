import { deflateRawSync, inflateRawSync, type ZlibOptions } from 'node:zlib';
import { LacunaError, messageOf } from '../../errors.js';
import { KIB, PAGE_SIZE } from '../../memory/page.js';

/** A run is sent compressed only if that makes it so much shorter. */
const LEAST_GAIN = 1 / 8;
/**
 * Of runs from this length on a sample is compressed first, for contents that do not shrink cost as much as others: pages
 * from two places, and some neighbours at each, for pages may resemble each other more than they do themselves.
 */
const SAMPLED_PAGES = 32;
const SAMPLE_BYTES: number = 4 * PAGE_SIZE;
const SAMPLES: Uint8Array = new Uint8Array(2 * SAMPLE_BYTES);
const OUTPUT_CHUNK_BYTES: number = 64 * KIB;

/** The most that a compressed run of so many bytes may take. */
export function longestCompressed(bytes: number): number {
  return Math.floor(bytes * (1 - LEAST_GAIN));
}

/**
 * Compresses a run (raw deflate, level 1) into `out`, of at least {@link longestCompressed} bytes. Returns how many it
 * takes; 0: it does not shrink, or not enough. Nobody may be writing `pages` meanwhile.
 */
export function deflateRunInto(pages: Uint8Array<ArrayBufferLike>, out: Uint8Array<ArrayBufferLike>): number {
  const pageCount = pages.length / PAGE_SIZE;
  if (pageCount >= SAMPLED_PAGES) {
    const middle = Math.floor(pageCount / 2) * PAGE_SIZE;
    SAMPLES.set(pages.subarray(0, SAMPLE_BYTES));
    SAMPLES.set(pages.subarray(middle, middle + SAMPLE_BYTES), SAMPLE_BYTES);
    if (deflate(SAMPLES, longestCompressed(SAMPLES.length)) === undefined) {
      return 0;
    }
  }
  const compressed = deflate(pages, longestCompressed(pages.length));
  if (compressed === undefined) {
    return 0;
  }
  out.set(compressed);
  return compressed.length;
}

/** Undefined: it takes more than `mostBytes`. */
function deflate(bytes: Uint8Array<ArrayBufferLike>, mostBytes: number): Uint8Array | undefined {
  try {
    return deflateRawSync(bytes, {
      level: 1,
      chunkSize: Math.min(mostBytes, OUTPUT_CHUNK_BYTES),
      maxOutputLength: mostBytes,
    });
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') {
      return undefined;
    }
    throw thrown;
  }
}

/** {@link ZlibOptions.info}: what the `…Sync` functions return then; the types of Node do not know. */
interface WithInfo {
  readonly buffer: Uint8Array;
  /** `bytesWritten` to the engine: what it has read. */
  readonly engine: { readonly bytesWritten: number };
}

/**
 * Decompresses a run that a peer sent into the guest's memory, `into`, of exactly `pageCount` pages. It allocates no more
 * than that and a little, whatever `payload` says. Throws PROTOCOL_VIOLATION, and then has written nothing, unless
 * `payload` is one complete raw deflate stream of just so many bytes with nothing behind it.
 */
export function inflateRun(
  payload: Uint8Array<ArrayBufferLike>,
  into: Uint8Array<ArrayBufferLike>,
  pageCount: number,
): void {
  const bytes = pageCount * PAGE_SIZE;
  if (into.length !== bytes) {
    throw new LacunaError('OUT_OF_RANGE', `${into.length} bytes for a run of ${pageCount} pages`);
  }
  // Zlib is asked for one byte more than that, so that it is one piece and what is too much is seen.
  const options: ZlibOptions = { info: true, chunkSize: bytes + 1, maxOutputLength: bytes };
  let result: WithInfo;
  try {
    result = inflateRawSync(payload, options) as unknown as WithInfo;
  } catch (cause) {
    throw new LacunaError(
      'PROTOCOL_VIOLATION',
      `a compressed run of ${pageCount} pages can't be decompressed: ${messageOf(cause)}`,
      { cause },
    );
  }
  const { buffer, engine } = result;
  if (buffer.length !== bytes || engine.bytesWritten !== payload.length) {
    throw new LacunaError(
      'PROTOCOL_VIOLATION',
      `a compressed run of ${pageCount} pages has ${buffer.length} bytes, and ${payload.length - engine.bytesWritten} more behind it`,
    );
  }
  into.set(buffer);
}
