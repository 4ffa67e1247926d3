import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../../src/errors.js';
import { PageContent } from '../../../src/guest/content.js';
import {
  emptyImage,
  FIRST_VERSION,
  FREE_MEMORY_MODES,
  type FreeMemoryMode,
  fillMemory,
  findMetadataPlace,
  type GuestImage,
  growImage,
  imageBitmaps,
  pagesHeld,
  syntheticImage,
} from '../../../src/guest/image.js';
import { metadataPages } from '../../../src/guest/metadata.js';
import { SharedGuestMemory } from '../../../src/memory/guest-memory.js';
import { GIB, MIB, PAGE_SIZE, pfnOf } from '../../../src/memory/page.js';
import { q35Blocks, RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { naiveIsZeroPage } from '../../support/naive-zero-scan.js';
import { blocksOfPages, runsIn } from './small-guest.js';

function imageOf(
  blocks: GuestImage['blocks'],
  free: readonly number[],
  zero: readonly number[] = [],
): GuestImage {
  const image = emptyImage('a test', blocks);
  const bitmaps = imageBitmaps(atomicMapper, image);
  for (const pfn of free) {
    bitmaps.free.set(pfn);
  }
  for (const pfn of zero) {
    bitmaps.zero.set(pfn);
  }
  return image;
}

describe('filling memory', () => {
  // Pages 0–7, a hole, 16–23, in segments of 4 pages, so that runs end at segments too.
  const layout = new RamLayout(blocksOfPages([0, 8], [16, 8]), 4 * PAGE_SIZE);
  const free = [2, 3, 4, 5, 18, 23];
  const zero = [1, 3, 5, 7, 17, 18, 20];
  const image = imageOf(layout.blocks, free, zero);
  const ram = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];

  function filled(mode: FreeMemoryMode, before: number): SharedGuestMemory {
    const memory = SharedGuestMemory.allocate(layout);
    for (const { bytes } of memory.segments) {
      bytes.fill(before);
    }
    fillMemory(atomicMapper, memory, image, new PageContent(3), mode);
    return memory;
  }

  function zeroPages(memory: SharedGuestMemory): number[] {
    return ram.filter((pfn) => naiveIsZeroPage(memory.pages(pfn, 1), 0));
  }

  it.each<[FreeMemoryMode, number[]]>([
    ['captured', [1, 3, 5, 7, 17, 18, 20]],
    ['zero', [1, 2, 3, 4, 5, 7, 17, 18, 20, 23]],
    ['data', [1, 7, 17, 20]],
  ])('has just the pages that %s says hold zeroes, whatever was there before', (mode, expected) => {
    expect(zeroPages(filled(mode, 0))).toEqual(expected);
    expect(zeroPages(filled(mode, 0xee))).toEqual(expected);
  });

  it.each(FREE_MEMORY_MODES)('gives used pages their first contents with %s', (mode) => {
    const memory = filled(mode, 0xee);
    const content = new PageContent(3);
    const wrong = ram
      .filter((pfn) => !free.includes(pfn) && !zero.includes(pfn))
      .filter((pfn) => !content.matches(memory.pages(pfn, 1), pfn, FIRST_VERSION));
    expect(wrong).toEqual([]);
  });

  it('gives free pages contents that no used page has', () => {
    const memory = filled('data', 0);
    const content = new PageContent(3);
    const wrong = free.filter((pfn) => content.matches(memory.pages(pfn, 1), pfn, FIRST_VERSION));
    expect(wrong).toEqual([]);
    expect(filled('captured', 0).pages(2, 1)).toEqual(memory.pages(2, 1));
  });
});

describe('a synthetic image', () => {
  function freeRuns(memoryBytes: number, freeShare: number, freeRunPages: number) {
    const image = syntheticImage(atomicMapper, { memoryBytes, freeShare, freeRunPages });
    const { free, zero } = imageBitmaps(atomicMapper, image);
    const layout = new RamLayout(image.blocks);
    return { image, layout, zero, runs: runsIn(free), share: free.count() / layout.pageCount };
  }

  it.each([
    [0.1, 1],
    [0.3, 8],
    [0.4, 1],
    [0.5, 3],
    [0.7, 3],
    [0.9, 512],
    [0.95, 4096],
  ])('has a free share of %d in runs of %i pages', (freeShare, freeRunPages) => {
    const { runs, share, layout } = freeRuns(GIB, freeShare, freeRunPages);
    expect(Math.abs(share - freeShare) * layout.pageCount).toBeLessThanOrEqual(freeRunPages);
    expect(runs.filter(([, pageCount]) => pageCount !== freeRunPages)).toEqual([]);
  });

  it('spreads its free memory evenly: each eighth of memory has its share', () => {
    for (const [freeShare, freeRunPages] of [
      [0.3, 8],
      [0.4, 1],
      [0.7, 3],
    ] as const) {
      const { runs, layout } = freeRuns(GIB, freeShare, freeRunPages);
      const eighths = Array.from({ length: 8 }, () => 0);
      for (const [pfn, pageCount] of runs) {
        const eighth = Math.floor((pfn * 8) / layout.pageCount);
        eighths[eighth] = eighths[eighth]! + (pageCount * 8) / layout.pageCount;
      }
      const off = eighths.filter((share) => Math.abs(share - freeShare) > 0.02);
      expect(off).toEqual([]);
    }
  });

  it('has every second page free where more single pages are asked for', () => {
    const { runs, share } = freeRuns(64 * MIB, 0.9, 1);
    expect(share).toBeGreaterThan(0.47);
    expect(share).toBeLessThanOrEqual(0.5);
    expect(runs.slice(1).every(([pfn], i) => pfn === runs[i]![0] + 2)).toBe(true);
  });

  it('has nothing free and nothing zero where none is asked for', () => {
    const { runs, zero } = freeRuns(8 * MIB, 0, 1);
    expect(runs).toEqual([]);
    expect(zero.count()).toBe(0);
  });

  it('lies where q35 puts it, its free runs all in RAM', () => {
    const { image, layout, runs } = freeRuns(4 * GIB, 0.5, 64);
    expect(image.name).toBe('synthetic-4g');
    expect(layout.blocks).toEqual([
      { startGpa: 0, endGpa: 2 * GIB },
      { startGpa: 4 * GIB, endGpa: 6 * GIB },
    ]);
    const outside = runs.filter(([pfn, n]) => !layout.containsRange(pfn * PAGE_SIZE, n * PAGE_SIZE));
    expect(outside).toEqual([]);
  });

  it.each([8 * MIB, 64 * MIB, 4 * GIB])(
    "of %i bytes leaves room for the guest's tables, with the largest ring too",
    (memoryBytes) => {
      const { image } = freeRuns(memoryBytes, 0.95, 4);
      expect(() => findMetadataPlace(atomicMapper, image, 32_768)).not.toThrow();
    },
  );

  it.each([
    [4 * MIB, 0.5, 1, 'GUEST_TOO_SMALL'],
    [8 * MIB + 1, 0.5, 1, 'GUEST_TOO_SMALL'],
    [8 * MIB, 0.96, 1, 'INVALID_ARGUMENT'],
    [8 * MIB, -0.1, 1, 'INVALID_ARGUMENT'],
    [8 * MIB, Number.NaN, 1, 'INVALID_ARGUMENT'],
    [8 * MIB, 0.5, 0, 'INVALID_ARGUMENT'],
    [8 * MIB, 0.5, 1.5, 'INVALID_ARGUMENT'],
  ] as const)(
    'of %d bytes, %d free in runs of %d, is refused: %s',
    (memoryBytes, freeShare, freeRunPages, code) => {
      expect(() => syntheticImage(atomicMapper, { memoryBytes, freeShare, freeRunPages })).toThrow(
        expect.toSatisfy((thrown) => isLacunaError(thrown, code)),
      );
    },
  );
});

describe("the place for the guest's tables", () => {
  const RING = 8;
  const pages = metadataPages({ pfnSpan: 1024, ringSize: RING });

  /** All of 1024 pages free except these runs. */
  function usedOnly(...runs: readonly (readonly [first: number, count: number])[]): GuestImage {
    const used = runs.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
    return imageOf(
      blocksOfPages([0, 1024]),
      Array.from({ length: 1024 }, (_, pfn) => pfn).filter((pfn) => !used.includes(pfn)),
    );
  }

  it('is the longest run of used pages', () => {
    const image = usedOnly([0, 3], [100, pages], [500, pages + 7], [900, pages + 6]);
    expect(pfnOf(findMetadataPlace(atomicMapper, image, RING))).toBe(500);
  });

  it('may fit exactly, at the end of memory too', () => {
    const image = usedOnly([0, 3], [1024 - pages, pages]);
    expect(pfnOf(findMetadataPlace(atomicMapper, image, RING))).toBe(1024 - pages);
  });

  it('is not found where the longest run is a page too short', () => {
    const image = usedOnly([100, pages - 1], [500, pages - 1]);
    expect(() => findMetadataPlace(atomicMapper, image, RING)).toThrow(
      expect.toSatisfy((thrown) => isLacunaError(thrown, 'GUEST_TOO_SMALL')),
    );
  });

  it('does not reach across a hole', () => {
    const half = Math.ceil(pages / 2) + 1;
    const image = imageOf(blocksOfPages([0, half], [1024 - half, half]), []);
    expect(() => findMetadataPlace(atomicMapper, image, RING)).toThrow(
      expect.toSatisfy((thrown) => isLacunaError(thrown, 'GUEST_TOO_SMALL')),
    );
  });
});

describe('a machine that is given more memory', () => {
  const small = emptyImage('small', q35Blocks(64 * MIB));
  const { free, zero } = imageBitmaps(atomicMapper, small);
  free.setRange(3000, 100);
  zero.setRange(3050, 100);
  const grown = growImage(atomicMapper, small, 256 * MIB);
  const bitmaps = imageBitmaps(atomicMapper, grown);
  const pages = (256 * MIB) / PAGE_SIZE;
  const before = (64 * MIB) / PAGE_SIZE;

  it('is what it was, and free and zero beyond, but for its own tables', () => {
    for (let pfn = 0; pfn < before; pfn += 1) {
      expect(bitmaps.free.test(pfn)).toBe(free.test(pfn));
      expect(bitmaps.zero.test(pfn)).toBe(zero.test(pfn));
    }
    const firstFree = bitmaps.free.nextSet(before);
    expect(firstFree).toBeGreaterThan(before);
    expect(bitmaps.free.nextClear(firstFree)).toBe(pages);
    expect(bitmaps.zero.nextClear(before)).toBe(pages);
    expect(() => findMetadataPlace(atomicMapper, grown, 32768)).not.toThrow();
  });

  it('has no more of its memory written than what it holds', () => {
    const written = new Set<number>();
    const layout = new RamLayout(grown.blocks);
    const memory = SharedGuestMemory.allocate(layout);
    fillMemory(atomicMapper, memory, grown, new PageContent(1), 'captured');
    for (let pfn = 0; pfn < pages; pfn += 1) {
      if (!naiveIsZeroPage(memory.pages(pfn, 1), 0)) {
        written.add(pfn);
      }
    }
    expect(written.size).toBe(before - 100);
    // Were zero pages written as zeroes, memory that is not fresh would be so too.
    memory.pages(before + 7, 1).fill(1);
    fillMemory(atomicMapper, memory, grown, new PageContent(1), 'captured');
    expect(memory.pages(before + 7, 1)[0]).toBe(1);
    const held = (mode: FreeMemoryMode): number => pagesHeld(atomicMapper, grown, mode);
    expect(held('captured') - held('zero')).toBe(50); // free, and not zero
    expect(held('captured')).toBeGreaterThan(written.size);
    expect(held('data')).toBe(pages - 50); // used, and zero
  });

  it('can only grow, and only where a q35 machine would have the memory', () => {
    expect(() => growImage(atomicMapper, small, 64 * MIB)).toThrow("can't grow to 64 MiB");
    const elsewhere = emptyImage('elsewhere', [{ startGpa: 3 * GIB, endGpa: 3 * GIB + 64 * MIB }]);
    expect(() => growImage(atomicMapper, elsewhere, 8 * GIB)).toThrow("can't grow");
  });
});
