import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { MIB } from '../memory/page.js';

/**
 * A file's contents in pieces, until there are no more (a file of /proc has a size of 0); "-" is standard input. What is
 * packed with gzip is unpacked. Throws what the system throws.
 */
export async function* chunksOf(path: string): AsyncGenerator<Uint8Array> {
  const source: Readable = path === '-' ? process.stdin : createReadStream(path, { highWaterMark: MIB });
  const chunks = source[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
  const first = await chunks.next();
  if (first.done === true) {
    return;
  }
  const rest = async function* (): AsyncGenerator<Uint8Array> {
    yield first.value;
    for (;;) {
      const next = await chunks.next();
      if (next.done === true) {
        return;
      }
      yield next.value;
    }
  };
  const isGzip = first.value[0] === 0x1f && first.value[1] === 0x8b;
  yield* isGzip ? unpacked(rest()) : rest();
}

/** Unpacks a gzip stream, a chunk of it at a time. */
async function* unpacked(packed: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip({ chunkSize: MIB });
  // What goes wrong before the unpacking destroys it with the same error, and so comes out of the loop below.
  pipeline(Readable.from(packed, { objectMode: false }), gunzip).catch(() => {});
  yield* gunzip as AsyncIterable<Uint8Array>;
}
