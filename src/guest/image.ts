import { LacunaError } from '../errors.js';
import { fillWords } from '../memory/byte-ops.js';
import type { SharedGuestMemory } from '../memory/guest-memory.js';
import { GIB, gpaOf, MIB, PAGE_SIZE, popcount32 } from '../memory/page.js';
import { bitmapWords, PageBitmap } from '../memory/page-bitmap.js';
import { q35Blocks, type RamBlock, RamLayout, type RamSegment } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { VIRTQ_MAX_SIZE } from '../spec/virtio-ring.js';
import type { PageContent } from './content.js';
import { metadataPages } from './metadata.js';

/** What free pages hold: as the capture says, zeroes, or what was there before they were freed. */
export const FREE_MEMORY_MODES = ['captured', 'zero', 'data'] as const;
/** What the free pages of a guest hold when it is booted: `captured` as they were, `zero`, or old `data`. */
export type FreeMemoryMode = (typeof FREE_MEMORY_MODES)[number];

/**
 * A machine's memory map: which pages are free and which hold zeroes. It can be posted to a thread.
 * The bitmaps are laid out as {@link PageBitmap}'s, a bit for each pfn below the layout's span.
 */
export interface GuestImage {
  readonly name: string;
  readonly blocks: readonly RamBlock[];
  readonly free: SharedArrayBuffer;
  readonly zero: SharedArrayBuffer;
  /** Most of this machine's memory was never touched: it is given fresh memory, and its zero pages are not written. */
  readonly sparse?: boolean;
  /** It is not known which pages hold zeroes: {@link zero} is clear. */
  readonly zeroUnknown?: true;
}

/** The two bitmaps of an image. */
export function imageBitmaps(map: WordMapper, image: GuestImage): { free: PageBitmap; zero: PageBitmap } {
  const { pfnSpan } = new RamLayout(image.blocks);
  return {
    free: PageBitmap.over(map, image.free, pfnSpan),
    zero: PageBitmap.over(map, image.zero, pfnSpan),
  };
}

/** An image with nothing free and nothing zero, for the caller to fill in. */
export function emptyImage(name: string, blocks: readonly RamBlock[], zeroUnknown = false): GuestImage {
  const bytes = bitmapWords(new RamLayout(blocks).pfnSpan) * 4;
  return {
    name,
    blocks,
    free: new SharedArrayBuffer(bytes),
    zero: new SharedArrayBuffer(bytes),
    ...(zeroUnknown ? { zeroUnknown } : {}),
  };
}

/** A made-up machine. */
export interface SyntheticOptions {
  readonly memoryBytes: number;
  /** Share of memory that is free, 0 … 0.95. */
  readonly freeShare: number;
  /** Pages of each free run, and hence how fragmented the free memory is. */
  readonly freeRunPages: number;
}

/**
 * A made-up machine: free runs of one length, spread evenly over its memory, none of its pages zero. Runs do not
 * touch, so of single pages at most half of memory can be free, of pairs two thirds, and so on.
 */
export function syntheticImage(map: WordMapper, options: SyntheticOptions): GuestImage {
  const { memoryBytes, freeShare, freeRunPages } = options;
  if (!Number.isSafeInteger(memoryBytes) || memoryBytes % PAGE_SIZE !== 0 || memoryBytes < 8 * MIB) {
    throw new LacunaError(
      'GUEST_TOO_SMALL',
      `a guest of ${memoryBytes} bytes: whole pages, and at least 8 MiB`,
    );
  }
  if (!(freeShare >= 0 && freeShare <= 0.95) || !Number.isInteger(freeRunPages) || freeRunPages < 1) {
    throw new LacunaError('INVALID_ARGUMENT', 'the free share is 0 to 0.95, in runs of at least one page');
  }
  const image = emptyImage(
    `synthetic-${memoryBytes >= GIB ? `${memoryBytes / GIB}g` : `${memoryBytes / MIB}m`}`,
    q35Blocks(memoryBytes),
  );
  const layout = new RamLayout(image.blocks);
  const { free } = imageBitmaps(map, image);
  // The first pages stay in use: the guest's own tables go there.
  const first = metadataPages({ pfnSpan: layout.pfnSpan, ringSize: 32768 }) + 64;
  const wanted = Math.floor(layout.pageCount * freeShare);
  const from = (segment: RamSegment): number => Math.max(first, segment.firstPfn);
  const endOf = (segment: RamSegment): number => segment.firstPfn + segment.pageCount;
  const usable = layout.segments.reduce(
    (sum, segment) => sum + Math.max(0, endOf(segment) - from(segment)),
    0,
  );
  const period = Math.max(freeRunPages + 1, (usable * freeRunPages) / Math.max(1, wanted));
  let made = 0;
  for (const segment of layout.segments) {
    for (let at = from(segment); at + freeRunPages <= endOf(segment) && made < wanted; at += period) {
      made += free.setRange(Math.floor(at), freeRunPages);
    }
  }
  return image;
}

/**
 * The same machine with more memory, of which nothing was ever used but what the guest's own tables need. (A kernel's
 * tables grow with the machine too: its page structs take 1/64 of memory, which is more.)
 * Throws INVALID_ARGUMENT if the machine has no less already, or its RAM lies elsewhere than QEMU's q35 would put it.
 */
export function growImage(map: WordMapper, image: GuestImage, memoryBytes: number): GuestImage {
  const before = new RamLayout(image.blocks);
  const blocks = q35Blocks(memoryBytes);
  const layout = new RamLayout(blocks);
  const fits = image.blocks.every(({ startGpa, endGpa }) =>
    layout.containsRange(startGpa, endGpa - startGpa),
  );
  if (!fits || layout.memoryBytes <= before.memoryBytes) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${image.name} has ${before.memoryBytes / MIB} MiB and can't grow to ${memoryBytes / MIB} MiB: name a larger size`,
    );
  }
  const grownFrom = before.pfnSpan;
  const grown = { ...emptyImage(`${image.name}-in-${memoryBytes / GIB}g`, blocks), sparse: true };
  new Uint8Array(grown.free).set(new Uint8Array(image.free));
  new Uint8Array(grown.zero).set(new Uint8Array(image.zero));
  const { free, zero } = imageBitmaps(map, grown);
  for (const { firstPfn, pageCount } of layout.segments) {
    const from = Math.max(firstPfn, grownFrom);
    const pages = firstPfn + pageCount - from;
    if (pages > 0) {
      free.setRange(from, pages);
      zero.setRange(from, pages);
    }
  }
  const { firstPfn, pageCount } = layout.segments.at(-1)!;
  const tables = metadataPages({ pfnSpan: layout.pfnSpan, ringSize: VIRTQ_MAX_SIZE });
  if (tables < pageCount) {
    free.clearRange(Math.max(firstPfn, grownFrom), tables);
  }
  return grown;
}

/** Pages that the kernel never frees lie below this in every capture; metadata goes into the longest used run. */
export function findMetadataPlace(map: WordMapper, image: GuestImage, ringSize: number): number {
  const layout = new RamLayout(image.blocks);
  const pages = metadataPages({ pfnSpan: layout.pfnSpan, ringSize });
  const { free } = imageBitmaps(map, image);
  let best = -1;
  let bestPages = 0;
  for (const segment of layout.segments) {
    const end = segment.firstPfn + segment.pageCount;
    for (let pfn = free.nextClear(segment.firstPfn, end); pfn < end; ) {
      const runEnd = free.nextSet(pfn, end);
      if (runEnd - pfn > bestPages) {
        best = pfn;
        bestPages = runEnd - pfn;
      }
      pfn = free.nextClear(runEnd, end);
    }
  }
  if (bestPages < pages) {
    throw new LacunaError(
      'GUEST_TOO_SMALL',
      `${image.name}: the guest's own tables take ${pages} pages in one piece and its longest run of used pages is ${bestPages}`,
    );
  }
  return gpaOf(best);
}

/** The version of what free pages hold where they hold old data. */
const OLD_DATA_VERSION = 0x0100_0000;
/** The version of what used pages hold at first. */
export const FIRST_VERSION = 1;

/**
 * Puts back what free pages held: those that were free in the image and are `stillFree`, as {@link fillMemory} does it.
 * The host's work, while the guest stands still and before a migration of it begins: nothing of it is marked.
 */
export function refillFreeMemory(
  map: WordMapper,
  memory: SharedGuestMemory,
  image: GuestImage,
  stillFree: PageBitmap,
  content: PageContent,
  mode: FreeMemoryMode,
): void {
  const { free, zero } = imageBitmaps(map, image);
  for (const { bytes, firstPfn, pageCount } of memory.segments) {
    for (let page = 0; page < pageCount; page += 1) {
      const pfn = firstPfn + page;
      if (free.test(pfn) && stillFree.test(pfn)) {
        if (mode === 'data' || (mode === 'captured' && !zero.test(pfn))) {
          content.writeInto(bytes, page * PAGE_SIZE, pfn, OLD_DATA_VERSION);
        } else {
          fillWords(bytes, page * PAGE_SIZE, PAGE_SIZE, 0);
        }
      }
    }
  }
}

/**
 * Fills a machine's memory: used pages with pseudo-random contents or zeroes as the image says, free ones by
 * `mode`. Untimed; the memory need not have been reset, unless the image is sparse: then it has to be fresh.
 */
export function fillMemory(
  map: WordMapper,
  memory: SharedGuestMemory,
  image: GuestImage,
  content: PageContent,
  mode: FreeMemoryMode,
): void {
  const { free, zero } = imageBitmaps(map, image);
  for (const segment of memory.segments) {
    const { bytes, firstPfn, pageCount } = segment;
    const words = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
    const clear = (from: number, to: number): void => {
      if (image.sparse !== true) {
        words.fill(0, (from * PAGE_SIZE) / 8, (to * PAGE_SIZE) / 8);
      }
    };
    let cleared = 0; // pages before this hold what they must
    for (let page = 0; page < pageCount; page += 1) {
      const pfn = firstPfn + page;
      const isFree = free.test(pfn);
      if (isFree && mode !== 'captured' ? mode === 'data' : !zero.test(pfn)) {
        clear(cleared, page);
        cleared = page + 1;
        content.writeInto(bytes, page * PAGE_SIZE, pfn, isFree ? OLD_DATA_VERSION : FIRST_VERSION);
      }
    }
    clear(cleared, pageCount);
  }
}

/** Of 32 pages, a bit each: which are filled with zeroes, by `mode`, of those that the image calls free and zero. */
export function zeroBits(mode: FreeMemoryMode, free: number, zero: number): number {
  switch (mode) {
    case 'captured':
      return zero;
    case 'zero':
      return zero | free;
    case 'data':
      return zero & ~free;
  }
}

/** Pages of a machine that hold something, or its own tables: those that are touched when it is given fresh memory. */
export function pagesHeld(map: WordMapper, image: GuestImage, mode: FreeMemoryMode): number {
  const { pageCount, pfnSpan } = new RamLayout(image.blocks);
  const { free, zero } = imageBitmaps(map, image);
  let held = metadataPages({ pfnSpan, ringSize: VIRTQ_MAX_SIZE });
  for (let word = 0; word < free.wordCount; word += 1) {
    // In a hole nothing is free and nothing zero, so it is the zero pages that are counted, and taken off.
    held -= popcount32(zeroBits(mode, free.words.load(word), zero.words.load(word)));
  }
  return Math.min(pageCount, held + pageCount);
}
