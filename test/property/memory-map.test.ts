import fc from 'fast-check';
import { expect, it } from 'vitest';
import { countFreeRuns, MemoryMapReader } from '../../src/guest/memory-map.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { effort } from '../support/long.js';
import { naiveMemoryMap, naiveOrders } from '../support/naive-memory-map.js';
import { pagesIn } from '../unit/guest/small-guest.js';

const TIME_LIMIT_MS = 600;

/** Words of any of the flags that matter, most of them plausible; frames that do not exist come in runs. */
const someWord = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(1n << 10n, 0x68n, 1n << 32n, 0n, 1n << 20n) },
  { weight: 2, arbitrary: fc.constantFrom((1n << 15n) | 0x80n, (1n << 15n) | 0x20n, 1n << 16n) },
  {
    weight: 3,
    arbitrary: fc
      .subarray([0, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 22, 23, 26, 32, 33, 40])
      .map((bits) => bits.reduce((word, bit) => word | (1n << BigInt(bit)), 0n)),
  },
);
const someFlags = fc
  .array(fc.record({ word: someWord, times: fc.integer({ min: 1, max: 12 }) }), {
    minLength: 1,
    maxLength: 40,
  })
  .map((runs) => {
    const words = runs.flatMap(({ word, times }) => Array.from({ length: times }, () => word));
    return new Uint8Array(new BigUint64Array([...words, 0x68n]).buffer); // a page at least
  });

function bitmapOf(free: SharedArrayBuffer, pageCount: number): PageBitmap {
  return new PageBitmap(atomicMapper.words(free, 0, free.byteLength / 4), pageCount);
}

/** Only what is not 0. */
function nonZero(counts: object): object {
  return Object.fromEntries(Object.entries(counts).filter(([, count]) => count !== 0));
}

it('counts what the naive twin counts, fed in pieces of any length', () => {
  fc.assert(
    fc.property(
      someFlags,
      fc.array(fc.nat(), { maxLength: 12 }),
      fc.option(fc.uniqueArray(fc.nat(60), { minLength: 2, maxLength: 6 })),
      (bytes, cuts, ends) => {
        const pfns = bytes.length / 8;
        // RAM from a few pairs of pfns, if it is given; the frames in it exist.
        const sorted = ends?.map((end) => end % pfns).sort((a, b) => a - b);
        const blocks = sorted
          ?.slice(0, sorted.length & ~1)
          .flatMap((end, i) => (i % 2 === 0 && end < sorted[i + 1]! ? [[end, sorted[i + 1]!] as const] : []))
          .filter((block, i, all) => i === 0 || block[0] > all[i - 1]![1]);
        const ram = blocks === undefined || blocks.length === 0 ? undefined : blocks;
        const expected = naiveMemoryMap(
          bytes,
          ram === undefined ? undefined : (pfn) => ram.some(([first, end]) => pfn >= first && pfn < end),
        );
        const reader = new MemoryMapReader(
          'flags',
          ram?.map(([first, end]) => ({ startGpa: first * 4096, endGpa: end * 4096 })),
        );
        const at = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
        for (const [i, start] of at.slice(0, -1).entries()) {
          reader.push(bytes.subarray(start, at[i + 1]));
        }
        const map = reader.finish(atomicMapper);
        const end = map.blocks.at(-1)!.endGpa / 4096;
        expect(nonZero(map.use)).toEqual(expected.use);
        expect(nonZero(map.pageCache)).toEqual(expected.pageCache);
        expect(map.freeOutsideRam).toBe(expected.freeOutsideRam);
        expect(pagesIn(bitmapOf(map.free, end))).toEqual(expected.free);
        const { blocks: of, pagesFrom, rangesFrom } = map.freeByOrder;
        expect({ blocks: of, pagesFrom, rangesFrom }).toEqual({
          blocks: expected.blocks,
          pagesFrom: expected.pagesFrom,
          rangesFrom: expected.rangesFrom,
        });
        // Every page is counted once.
        const { pages, ...kinds } = map.use;
        expect(Object.values(kinds).reduce((sum, count) => sum + count, 0)).toBe(pages);
        const cached = Object.values(map.pageCache).reduce((sum, count) => sum + count, 0);
        expect(cached).toBe(map.use.pageCache);
      },
    ),
    effort(500, TIME_LIMIT_MS),
  );
});

it('cuts free runs into blocks of every order as the naive twin does', () => {
  const run = fc.record({
    gap: fc.integer({ min: 1, max: 1500 }),
    length: fc.integer({ min: 1, max: 3000 }),
  });
  fc.assert(
    fc.property(fc.array(run, { minLength: 1, maxLength: 3 }), (runs) => {
      const bitmap = PageBitmap.allocateOwn(atomicMapper, 16_384);
      let at = 0;
      for (const { gap, length } of runs) {
        bitmap.setRange(at + gap, length);
        at += gap + length;
      }
      const { freeByOrder, freeRuns, longestFreeRunPages } = countFreeRuns(bitmap);
      expect(freeByOrder).toEqual(naiveOrders(pagesIn(bitmap)));
      expect(freeRuns).toBe(runs.length);
      expect(longestFreeRunPages).toBe(Math.max(...runs.map(({ length }) => length)));
    }),
    effort(60, TIME_LIMIT_MS),
  );
});
