import { describe, expect, it } from 'vitest';
import { reportedPages, zeroPages } from '../../../src/guest/booted-memory.js';
import { FREE_MEMORY_MODES, imageBitmaps } from '../../../src/guest/image.js';
import { layOutMetadata } from '../../../src/guest/metadata.js';
import { isZeroPage } from '../../../src/memory/byte-ops.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { bootGuest, SMALL_RING, smallImage } from './booted.js';
import { pagesIn } from './small-guest.js';

describe.each(FREE_MEMORY_MODES)('a guest whose free memory is %s', (freeMemory) => {
  it('has zero pages exactly where they are expected, its own tables but for the queues included', () => {
    const image = smallImage(0.4, 24);
    const { free, zero } = imageBitmaps(atomicMapper, image);
    // Zero pages in use and free ones, and a ledger's page (1024 lines) whose pages are all zero or free.
    for (let pfn = 1024; pfn < 2048; pfn += 1) {
      if (!free.test(pfn) || pfn % 3 === 0) {
        zero.set(pfn);
      }
    }
    const guest = bootGuest({ image, freeMemory });
    const { pfnSpan } = guest.memory.layout;
    const tables = layOutMetadata(guest.config.metadataGpa, { pfnSpan, ringSize: SMALL_RING });
    const expected = zeroPages(atomicMapper, image, freeMemory, SMALL_RING);
    const isQueue = (pfn: number): boolean =>
      pfn * 4096 >= tables.gpa && pfn * 4096 < tables.allocator.freeGpa;
    const wrong: number[] = [];
    let zeroes = 0;
    for (let pfn = 0; pfn < pfnSpan; pfn += 1) {
      const isZero = isZeroPage(guest.memory.pages(pfn, 1), 0);
      zeroes += isZero ? 1 : 0;
      if (isZero !== expected.test(pfn) && !isQueue(pfn)) {
        wrong.push(pfn);
      }
    }
    expect(wrong).toEqual([]);
    expect(zeroes).toBeGreaterThan(100);
    // Queues are in use by the time a guest is migrated.
    expect(expected.nextSet(tables.gpa / 4096, tables.allocator.freeGpa / 4096)).toBe(
      tables.allocator.freeGpa / 4096,
    );
  });
});

it('says which pages are reported from a smallest order on, and in how many ranges', () => {
  const image = smallImage(0.5, 24);
  const { free } = imageBitmaps(atomicMapper, image);
  const all = reportedPages(atomicMapper, image, 0);
  expect(pagesIn(all.pages)).toEqual(pagesIn(free));
  for (const minOrder of [1, 3, 4, 5]) {
    const block = 2 ** minOrder;
    // Of an aligned block either all pages are reported or none.
    const expected = pagesIn(free).filter((pfn) => {
      const first = pfn - (pfn % block);
      return free.nextClear(first, first + block) === first + block;
    });
    const { pages, ranges } = reportedPages(atomicMapper, image, minOrder);
    expect(pagesIn(pages)).toEqual(expected);
    expect(ranges).toBe(expected.filter((pfn) => !expected.includes(pfn - 1)).length);
  }
});
