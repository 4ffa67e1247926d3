import { constants, deflateRawSync, deflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '../../../../src/memory/page.js';
import {
  deflateRunInto,
  inflateRun,
  longestCompressed,
} from '../../../../src/transport/network/compressed-run.js';

const PAGES = 24;
const BYTES = PAGES * PAGE_SIZE;
/** What `into` holds before, to see that nothing was written. */
const BEFORE = 0xa5;

function words(bytes: number): Uint8Array {
  return Buffer.from('the quick brown page jumps over the lazy frame; '.repeat(bytes / 40)).subarray(
    0,
    bytes,
  );
}

function noise(bytes: number): Uint8Array {
  let state = 7;
  return Uint8Array.from({ length: bytes }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return state >>> 24;
  });
}

describe('a run that shrinks', () => {
  it.each([
    ['ordinary', new Uint8Array(BYTES)],
    ['shared', new Uint8Array(new SharedArrayBuffer(BYTES))],
  ])('comes out of %s memory as it went in', (_, into) => {
    const pages = words(BYTES);
    const out = new Uint8Array(new SharedArrayBuffer(longestCompressed(BYTES)));
    const length = deflateRunInto(pages, out);
    expect(length).toBeGreaterThan(0);
    expect(length).toBeLessThan(BYTES / 8);
    inflateRun(out.subarray(0, length), into, PAGES);
    expect(Buffer.compare(into, pages)).toBe(0);
  });

  it('is a stream that any deflate reads', () => {
    const out = new Uint8Array(longestCompressed(BYTES));
    const length = deflateRunInto(words(BYTES), out);
    // Raw: neither zlib's header (RFC 1950) nor gzip's.
    expect(deflateRawSync(words(BYTES), { level: 1 }).equals(out.subarray(0, length))).toBe(true);
  });
});

describe('a run that does not', () => {
  it.each([1, 2, 31, 32, 256])('of %i pages is told so', (pages) => {
    const bytes = noise(pages * PAGE_SIZE);
    const out = new Uint8Array(longestCompressed(bytes.length)).fill(BEFORE);
    expect(deflateRunInto(bytes, out)).toBe(0);
    expect(out.every((byte) => byte === BEFORE)).toBe(true);
  });

  it('has to become shorter by an eighth', () => {
    // A page of noise, and so many zeroes that it is just enough, or just not.
    const page = new Uint8Array(PAGE_SIZE);
    const lengthWith = (noisy: number): number => {
      page.fill(0);
      page.set(noise(noisy));
      return deflateRunInto(page, new Uint8Array(longestCompressed(PAGE_SIZE)));
    };
    let noisy = 3000;
    while (lengthWith(noisy) > 0) {
      noisy += 1;
    }
    expect(lengthWith(noisy - 1)).toBeLessThanOrEqual((PAGE_SIZE * 7) / 8);
    expect(lengthWith(noisy - 1)).toBeGreaterThan((PAGE_SIZE * 7) / 8 - 32);
  });

  it('is compressed all the same if only some of its pages are noise', () => {
    const bytes = words(BYTES).slice();
    bytes.set(noise(PAGE_SIZE), PAGE_SIZE);
    const out = new Uint8Array(longestCompressed(BYTES));
    const length = deflateRunInto(bytes, out);
    expect(length).toBeGreaterThan(PAGE_SIZE);
    expect(length).toBeLessThan(2 * PAGE_SIZE + BYTES / 8);
  });
});

describe('what a peer may send as a compressed run', () => {
  const whole = deflateRawSync(words(BYTES), { level: 1 });
  const refused: readonly (readonly [string, Uint8Array])[] = [
    ['nothing', new Uint8Array(0)],
    ['a stream that is cut off', whole.subarray(0, -1)],
    ['a stream that never ends', deflateRawSync(words(BYTES), { finishFlush: constants.Z_SYNC_FLUSH })],
    ['a page too few', deflateRawSync(words(BYTES - PAGE_SIZE))],
    ['a byte too few', deflateRawSync(words(BYTES - 1))],
    ['a byte too many', deflateRawSync(words(BYTES + 1))],
    ['64 MiB of zeroes in 64 KiB', deflateRawSync(new Uint8Array(2 ** 26))],
    ['garbage behind it', Buffer.concat([whole, Uint8Array.of(0)])],
    ['a second stream behind it', Buffer.concat([whole, whole])],
    ['no stream at all', noise(5000)],
    ['zlib, not raw', deflateSync(words(BYTES))],
    ['a block of a type that there is not', Uint8Array.of(0x07)],
    ['a distance from before its beginning', Uint8Array.of(0x03 | 0x60, 0x00, 0x7f)],
  ];

  it.each(refused)('%s is refused, and nothing is written', (_, payload) => {
    const into = new Uint8Array(BYTES).fill(BEFORE);
    expect(() => inflateRun(payload, into, PAGES)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
    );
    expect(into.every((byte) => byte === BEFORE)).toBe(true);
  });

  it('a bomb takes no more memory than the run', () => {
    const bomb = deflateRawSync(new Uint8Array(2 ** 26));
    const into = new Uint8Array(PAGE_SIZE);
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 50; i += 1) {
      expect(() => inflateRun(bomb, into, 1)).toThrow();
    }
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 24);
  });

  it('is read into exactly the run', () => {
    expect(() => inflateRun(whole, new Uint8Array(BYTES + PAGE_SIZE), PAGES)).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
  });
});
