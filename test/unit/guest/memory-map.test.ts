import { describe, expect, it } from 'vitest';
import { isLacunaError, messageOf } from '../../../src/errors.js';
import { type MemoryMap, MemoryMapReader, MOST_PFNS } from '../../../src/guest/memory-map.js';
import type { RamBlock } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { CAPTURES, readCapture } from './captures.js';

function read(bytes: Uint8Array, ram?: readonly RamBlock[]): MemoryMap {
  const reader = new MemoryMapReader('some flags', ram);
  reader.push(bytes);
  return reader.finish(atomicMapper);
}

function flags(...words: bigint[]): Uint8Array {
  return new Uint8Array(new BigUint64Array(words).buffer);
}

const FREE = 1n << 10n;
const NOPAGE = 1n << 20n;
const FILE = (1n << 3n) | (1n << 5n);

describe.each(CAPTURES)('the capture %s', (name) => {
  const { meta, kpageflags } = readCapture(name);
  const { counts } = meta as unknown as { counts: Record<string, number | readonly number[]> };

  it('has the counts that its meta.json says, whether RAM is told or taken from the flags', () => {
    const told = read(kpageflags, meta.backing);
    const found = read(kpageflags);
    expect(found).toEqual(told);
    expect(told.blocks).toEqual(meta.backing.map(({ startGpa, endGpa }) => ({ startGpa, endGpa })));
    const { hugetlb, offline, ...use } = told.use;
    expect({ hugetlb, offline }).toEqual({ hugetlb: 0, offline: 0 });
    expect(counts).toMatchObject({
      ...use,
      freeByOrder: told.freeByOrder.blocks,
      freeInOrder10Pages: told.freeByOrder.pagesFrom[10],
      freeRuns: told.freeRuns,
      longestFreeRunPages: told.longestFreeRunPages,
      mappedFile: told.pageCache.mapped,
      dirtyPageCache: 0,
    });
    // What is dirty there is under writeback at the most, for none of it was dirty.
    const { mapped, dirty, pinned, droppable } = told.pageCache;
    expect(mapped + dirty + pinned + droppable).toBe(counts['pageCache']);
    expect(droppable).toBeGreaterThan(0.5 * (counts['pageCache'] as number));
  });
});

describe('page cache', () => {
  it.each([
    ["clean and in nobody's tables", 0n, 'droppable'],
    ['mapped', 1n << 11n, 'mapped'],
    ['mapped and dirty', (1n << 11n) | (1n << 4n), 'mapped'],
    ['dirty', 1n << 4n, 'dirty'],
    ['under writeback', 1n << 8n, 'dirty'],
    ['unevictable', 1n << 18n, 'pinned'],
    ['locked by a process', 1n << 33n, 'pinned'],
  ] as const)('that is %s', (_, more, as) => {
    const { use, pageCache } = read(flags(FILE | more, FREE));
    expect(use.pageCache).toBe(1);
    expect(pageCache).toEqual({ mapped: 0, dirty: 0, pinned: 0, droppable: 0, [as]: 1 });
  });

  it('is neither anonymous nor of shmem', () => {
    const { use } = read(flags(FILE | (1n << 12n) | (1n << 14n), FILE | (1n << 14n), FREE));
    expect(use).toMatchObject({ anon: 1, shmem: 1, pageCache: 0 });
  });
});

it('counts further pages of a compound page as its first, where the kernel flags only that', () => {
  const head = 1n << 15n;
  const tail = 1n << 16n;
  const map = read(flags(head | (1n << 7n), tail, tail, head | FILE | (1n << 4n), tail, head, tail, tail));
  expect(map.use).toMatchObject({ slab: 3, pageCache: 2, other: 3 });
  expect(map.pageCache.dirty).toBe(2);
});

it('takes RAM from the flags: where frames exist', () => {
  const map = read(flags(NOPAGE, 0n, FREE, NOPAGE, NOPAGE, FREE));
  expect(map.blocks).toEqual([
    { startGpa: 4096, endGpa: 3 * 4096 },
    { startGpa: 5 * 4096, endGpa: 6 * 4096 },
  ]);
  expect(map.use).toMatchObject({ pages: 3, free: 2, other: 1 });
});

it('counts free frames outside RAM apart', () => {
  const map = read(flags(FREE, 0n, FREE, FREE), [{ startGpa: 4096, endGpa: 3 * 4096 }]);
  expect(map.use).toMatchObject({ pages: 2, free: 1 });
  expect(map.freeOutsideRam).toBe(2);
});

it('says what reporting leaves behind for every smallest order', () => {
  // Pages 1–8: 1, 2–3, 4–7, 8; and the aligned 16–31.
  const words = Array.from({ length: 40 }, (_, pfn) =>
    (pfn >= 1 && pfn <= 8) || (pfn >= 16 && pfn < 32) ? FREE : 0n,
  );
  const { freeByOrder } = read(flags(...words));
  expect(freeByOrder.blocks).toEqual([2, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
  expect(freeByOrder.pagesFrom).toEqual([24, 22, 20, 16, 16, 0, 0, 0, 0, 0, 0]);
  expect(freeByOrder.rangesFrom).toEqual([2, 2, 2, 1, 1, 0, 0, 0, 0, 0, 0]);
});

describe('flags are refused', () => {
  it.each<[string, Uint8Array, RamBlock[] | undefined, RegExp]>([
    ['that are empty', flags(), undefined, /empty/],
    [
      'that were cut off within a word',
      flags(FREE, FREE).subarray(0, 13),
      undefined,
      /13 bytes.*8-byte words/,
    ],
    ['in which nothing is set', flags(0n, 0n, 0n), undefined, /not one flag is set/],
    ['of no RAM', flags(NOPAGE, NOPAGE), undefined, /no frame has RAM/],
    [
      'that are something else',
      new TextEncoder().encode('not flags of a kernel, but text.'),
      undefined,
      /no kernel has/,
    ],
    ['that end before RAM does', flags(FREE, FREE), [{ startGpa: 0, endGpa: 3 * 4096 }], /RAM at pfn 3/],
    [
      'with a frame that is free and does not exist',
      flags(FREE | NOPAGE),
      [{ startGpa: 0, endGpa: 4096 }],
      /pfn 0 is free/,
    ],
    [
      'with RAM in thousands of pieces',
      flags(...Array.from({ length: 10_000 }, (_, i) => (i % 2 === 0 ? FREE : NOPAGE))),
      undefined,
      /more than 4096 pieces/,
    ],
  ])('%s', (_, bytes, ram, message) => {
    let thrown: unknown;
    try {
      read(bytes, ram);
    } catch (error) {
      thrown = error;
    }
    expect(isLacunaError(thrown, 'CAPTURE_MALFORMED')).toBe(true);
    expect(messageOf(thrown)).toMatch(/^some flags: /);
    expect(messageOf(thrown)).toMatch(message);
  });

  it('of more frames than any machine that lacuna knows, before there is a bitmap for them', () => {
    const reader = new MemoryMapReader('some flags');
    // A view of nothing that says it is long: the length is looked at before the bytes.
    const endless = { length: (MOST_PFNS + 1) * 8, subarray: () => endless } as unknown as Uint8Array;
    expect(() => reader.push(endless)).toThrow(/no larger machine/);
  });
});
