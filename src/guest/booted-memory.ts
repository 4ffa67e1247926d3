import { PAGE_SIZE, pfnOf } from '../memory/page.js';
import { PageBitmap, type PageRun } from '../memory/page-bitmap.js';
import { RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { blocksOf, cutIntoBlocks } from './buddy-allocator.js';
import { type FreeMemoryMode, findMetadataPlace, type GuestImage, imageBitmaps, zeroBits } from './image.js';
import { type GuestMetadata, layOutMetadata } from './metadata.js';
import { WalkSource } from './range-sources.js';

/** Bits of a page. */
const PAGE_BITS = PAGE_SIZE * 8;
const LEDGER_LINES = PAGE_SIZE / 4;

/** The pages that a guest with this memory map reports as free, and in how many ranges (*walk*). */
export function reportedPages(
  map: WordMapper,
  image: GuestImage,
  minOrder: number,
): { readonly pages: PageBitmap; readonly ranges: number } {
  const layout = new RamLayout(image.blocks);
  const { free } = imageBitmaps(map, image);
  const pages = PageBitmap.allocateOwn(map, layout.pfnSpan);
  const source = new WalkSource(free, layout, minOrder);
  const run: PageRun = { pfn: 0, pageCount: 0 };
  let ranges = 0;
  for (source.begin(); source.nextInto(run); ranges += 1) {
    pages.setRange(run.pfn, run.pageCount);
  }
  return { pages, ranges };
}

/**
 * Which pages read as zeroes in a guest that was booted from this memory map: what `fillMemory` writes, and, with a
 * `ringSize`, the built-in guest's own tables on top of it.
 * Throws GUEST_TOO_SMALL where there is no room for the tables.
 */
export function zeroPages(
  map: WordMapper,
  image: GuestImage,
  mode: FreeMemoryMode,
  ringSize?: number,
): PageBitmap {
  const { pfnSpan } = new RamLayout(image.blocks);
  const { free, zero } = imageBitmaps(map, image);
  const result = PageBitmap.allocateOwn(map, pfnSpan);
  for (let word = 0; word < result.wordCount; word += 1) {
    result.words.store(word, zeroBits(mode, free.words.load(word), zero.words.load(word)));
  }
  if (ringSize !== undefined) {
    const gpa = findMetadataPlace(map, image, ringSize);
    layTables(map, image, layOutMetadata(gpa, { pfnSpan, ringSize }), result);
  }
  return result;
}

/**
 * The tables of a guest that was just booted. Zero are: the allocator's bitmaps where no block is free, the ledger where
 * every page is free or zero, what is held, ballooned, and (but for a page or two) owned by the workload. The queues were
 * used.
 */
function layTables(map: WordMapper, image: GuestImage, tables: GuestMetadata, out: PageBitmap): void {
  const layout = new RamLayout(image.blocks);
  const { free, zero } = imageBitmaps(map, image);
  const first = pfnOf(tables.gpa);
  const pageCount = tables.lengthBytes / PAGE_SIZE;
  out.clearRange(first, pageCount);
  const isData = (gpa: number, unit: number, unitsAPage: number): void =>
    out.clear(pfnOf(gpa) + Math.floor(unit / unitsAPage));
  const bitmapPages = Math.ceil(layout.pfnSpan / PAGE_BITS);
  out.setRange(pfnOf(tables.allocator.freeGpa), bitmapPages);
  for (const [order, gpa] of tables.allocator.orderGpa.entries()) {
    out.setRange(pfnOf(gpa), Math.ceil(blocksOf(layout.pfnSpan, order) / PAGE_BITS));
  }
  out.setRange(pfnOf(tables.heldGpa), bitmapPages);
  out.setRange(pfnOf(tables.balloonedGpa), bitmapPages);
  out.setRange(pfnOf(tables.workloadGpa), pfnOf(tables.ledgerGpa - tables.workloadGpa));
  out.setRange(pfnOf(tables.ledgerGpa), Math.ceil(layout.pfnSpan / LEDGER_LINES));
  const run: PageRun = { pfn: 0, pageCount: 0 };
  for (let from = 0; free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
    cutIntoBlocks(run.pfn, run.pageCount, (pfn, order) => {
      isData(tables.allocator.freeGpa, pfn, PAGE_BITS);
      isData(tables.allocator.orderGpa[order]!, pfn / 2 ** order, PAGE_BITS);
    });
  }
  for (const segment of layout.segments) {
    const end = segment.firstPfn + segment.pageCount;
    for (let pfn = segment.firstPfn; pfn < end; ) {
      // The next page that is in use and not zero, and then the first page of the next page of the ledger.
      const isTable = pfn >= first && pfn < first + pageCount;
      if (isTable || !(free.test(pfn) || zero.test(pfn))) {
        isData(tables.ledgerGpa, pfn, LEDGER_LINES);
        pfn = (Math.floor(pfn / LEDGER_LINES) + 1) * LEDGER_LINES;
      } else {
        pfn += 1;
      }
    }
  }
}
