import { afterEach, describe, expect, it, vi } from 'vitest';
import { PAGE_SIZE } from '../../../src/memory/page.js';

type ByteOps = typeof import('../../../src/memory/byte-ops.js');

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

async function load(withBuffer: boolean): Promise<ByteOps> {
  vi.resetModules();
  if (!withBuffer) {
    vi.stubGlobal('Buffer', undefined);
  }
  return await import('../../../src/memory/byte-ops.js');
}

function fourPages(shared: boolean): Uint8Array {
  const bytes = 5 * PAGE_SIZE;
  // A view that does not begin where its buffer does.
  return new Uint8Array(shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes), PAGE_SIZE);
}

const SETTINGS = [
  ['Node, private memory', true, false],
  ['Node, shared memory', true, true],
  ['no Buffer, private memory', false, false],
  ['no Buffer, shared memory', false, true],
] as const;

describe.each(SETTINGS)('byte operations (%s)', (_, withBuffer, shared) => {
  it('finds a byte of any value at any place of a page', async () => {
    const { isZeroPage, isZeroPageByWords } = await load(withBuffer);
    const bytes = fourPages(shared);
    const places = [0, 1, 3, 4, 7, 1023, 2047, 2048, 2049, 4091, 4092, 4095];
    for (const place of places) {
      for (const value of [1, 0x80, 0xff]) {
        bytes[PAGE_SIZE + place] = value;
        const found = [0, 1, 2].map((page) => isZeroPage(bytes, page * PAGE_SIZE));
        expect(found, `${value} at ${place}`).toEqual([true, false, true]);
        expect(isZeroPageByWords(bytes, PAGE_SIZE)).toBe(false);
        bytes[PAGE_SIZE + place] = 0;
      }
    }
    expect(isZeroPage(bytes, PAGE_SIZE)).toBe(true);
    expect(isZeroPageByWords(bytes, PAGE_SIZE)).toBe(true);
  });

  it('looks at no byte outside the page', async () => {
    const { isZeroPage } = await load(withBuffer);
    const bytes = fourPages(shared);
    bytes.fill(0xff);
    bytes.fill(0, 2 * PAGE_SIZE, 3 * PAGE_SIZE);
    expect([0, 1, 2, 3].map((page) => isZeroPage(bytes, page * PAGE_SIZE))).toEqual([
      false,
      false,
      true,
      false,
    ]);
  });

  it.each([0, 1, 0xaaaa_aaaa, 0x1234_5678, 0xffff_ffff])(
    'fills pages with %i as le32, no byte besides, and finds them filled with that alone',
    async (word) => {
      const { fillWords, isFilledPage } = await load(withBuffer);
      const bytes = fourPages(shared);
      bytes.fill(0x77);
      fillWords(bytes, PAGE_SIZE, 2 * PAGE_SIZE, word);
      const le = [0, 8, 16, 24].map((shift) => (word >>> shift) & 0xff);
      const filled = bytes.subarray(PAGE_SIZE, 3 * PAGE_SIZE);
      expect(filled.every((byte, i) => byte === le[i & 3])).toBe(true);
      expect([bytes[PAGE_SIZE - 1], bytes[3 * PAGE_SIZE]]).toEqual([0x77, 0x77]);
      const found = (other: number) =>
        [0, 1, 2, 3].map((page) => isFilledPage(bytes, page * PAGE_SIZE, other));
      expect(found(word)).toEqual([false, true, true, false]);
      expect(found((word ^ 0x0100) >>> 0)).toEqual([false, false, false, false]);
      expect(found(0x7777_7777)).toEqual([true, false, false, true]); // the page that is kept is of the right word
      for (const place of [0, 5, 2048, 4095]) {
        bytes[PAGE_SIZE + place]! ^= 1;
        expect(found(word), `a difference at ${place}`).toEqual([false, false, true, false]);
        bytes[PAGE_SIZE + place]! ^= 1;
      }
    },
  );

  it('compares ranges byte by byte', async () => {
    const { equalBytes } = await load(withBuffer);
    const a = fourPages(shared).subarray(5, 5 + 1000);
    const b = fourPages(shared).subarray(0, 1000);
    expect(equalBytes(a, b)).toBe(true);
    for (const place of [0, 500, 999]) {
      b[place] = 1;
      expect(equalBytes(a, b), `a difference at ${place}`).toBe(false);
      a[place] = 1;
      expect(equalBytes(a, b)).toBe(true);
    }
  });

  it('finds ranges of different lengths different, and empty ones equal', async () => {
    const { equalBytes } = await load(withBuffer);
    expect(equalBytes(new Uint8Array(4), new Uint8Array(5))).toBe(false);
    expect(equalBytes(new Uint8Array(0), new Uint8Array(0))).toBe(true);
  });
});
