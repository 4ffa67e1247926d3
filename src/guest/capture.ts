import { z } from 'zod';
import { LacunaError, messageOf } from '../errors.js';
import { PAGE_SIZE, PAGES_PER_WORD } from '../memory/page.js';
import { bitmapWords } from '../memory/page-bitmap.js';
import { RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { KPF_BUDDY, KPF_NOPAGE, KPF_WORD_BYTES } from '../spec/kpageflags.js';
import { emptyImage, type GuestImage, imageBitmaps } from './image.js';
import { MOST_PFNS } from './memory-map.js';

const range = z.object({
  startGpa: z.int().nonnegative(),
  endGpa: z.int().positive(),
});

/** RAM in more pieces than this is no machine's; looking a page up takes as long as there are pieces. */
const MOST_BLOCKS = 4096;

/** What lacuna reads of a capture's meta.json; the README beside the captures describes all of it. */
const captureMeta = z.object({
  name: z.string().min(1),
  memoryBytes: z.int().positive().multipleOf(PAGE_SIZE),
  pageSize: z.literal(PAGE_SIZE),
  pfns: z.int().positive().multipleOf(8).max(MOST_PFNS),
  backing: z.array(range).min(1).max(MOST_BLOCKS),
  counts: z.object({ pages: z.int(), free: z.int(), zero: z.int().nullish() }),
});

/** A capture's meta.json, checked as far as it can be without the other files. */
export interface CaptureMeta {
  readonly name: string;
  readonly pfns: number;
  readonly layout: RamLayout;
  readonly freePages: number;
  /** undefined: it is not known which pages are zero. */
  readonly zeroPages: number | undefined;
}

/** The files of a capture, unpacked. */
export interface CaptureFiles {
  /** meta.json, parsed. */
  readonly meta: unknown;
  /** A u64 for each pfn: the guest's /proc/kpageflags. */
  readonly kpageflags: Uint8Array;
  /** A bit for each pfn, bit 0 of byte 0 first: the page is all zero. Undefined: the capture does not say. */
  readonly zero?: Uint8Array | undefined;
}

function refuser(where: string): (what: string, cause?: unknown) => never {
  return (what, cause) => {
    throw new LacunaError('CAPTURE_MALFORMED', `${where}: ${what}`, { cause });
  };
}

/**
 * Checks a meta.json. Everything in it that has a size is compared with something else before anything is made of that
 * size. Throws CAPTURE_MALFORMED; `where` names the capture in the message.
 */
export function parseCaptureMeta(meta: unknown, where: string): CaptureMeta {
  const malformed: (what: string, cause?: unknown) => never = refuser(where);
  const parsed = captureMeta.safeParse(meta);
  if (!parsed.success) {
    return malformed(`meta.json: ${z.prettifyError(parsed.error)}`);
  }
  const { name, memoryBytes, pfns, backing, counts } = parsed.data;
  // A layout has an object for every 4 GiB: not before it is known how far RAM can go.
  const end = backing.reduce((highest, { endGpa }) => Math.max(highest, endGpa), 0);
  if (end > pfns * PAGE_SIZE) {
    malformed(`meta.json: backing ends at pfn ${Math.ceil(end / PAGE_SIZE)}, and pfns says ${pfns}`);
  }
  const covered = backing.reduce((sum, { startGpa, endGpa }) => sum + endGpa - startGpa, 0);
  if (covered !== memoryBytes) {
    malformed(`meta.json: backing covers ${covered} bytes and memoryBytes says ${memoryBytes}`);
  }
  if (memoryBytes !== counts.pages * PAGE_SIZE) {
    malformed(
      `meta.json: backing has ${memoryBytes / PAGE_SIZE} pages and counts.pages says ${counts.pages}`,
    );
  }
  try {
    const layout = new RamLayout(backing);
    return { name, pfns, layout, freePages: counts.free, zeroPages: counts.zero ?? undefined };
  } catch (cause) {
    return malformed(`meta.json: backing: ${messageOf(cause)}`, cause);
  }
}

/** The counts of free pages must agree. */
export function checkFreePages(meta: CaptureMeta, freePages: number, where: string): void {
  if (freePages !== meta.freePages) {
    refuser(where)(
      `kpageflags: ${freePages} pages are free, and meta.json's counts.free says ${meta.freePages}`,
    );
  }
}

/**
 * Takes a capture's zero bitmap into an image's. It must be there if meta.json counts zero pages, and agree with that.
 * Throws CAPTURE_MALFORMED.
 */
export function readZeroPages(
  map: WordMapper,
  meta: CaptureMeta,
  bytes: Uint8Array | undefined,
  image: GuestImage,
  where: string,
): void {
  const malformed: (what: string) => never = refuser(where);
  if (bytes === undefined) {
    if (meta.zeroPages !== undefined) {
      malformed(`zero.bin.gz is missing, and meta.json's counts.zero says ${meta.zeroPages}`);
    }
    return;
  }
  if (meta.zeroPages === undefined) {
    malformed('meta.json: counts.zero is missing, and there is a zero bitmap (zero.bin.gz)');
  }
  if (bytes.length !== meta.pfns / 8) {
    malformed(
      `the zero bitmap has ${bytes.length} bytes, and meta.json's pfns (${meta.pfns}) take ${meta.pfns / 8}`,
    );
  }
  // The files' bit order is that of little-endian words, so the bitmap is copied as it is.
  new Uint8Array(image.zero).set(
    bytes.subarray(0, Math.min(bytes.length, bitmapWords(meta.layout.pfnSpan) * 4)),
  );
  const { zero } = imageBitmaps(map, image);
  const zeroPages = zero.count();
  if (zeroPages !== meta.zeroPages) {
    malformed(
      `the zero bitmap: ${zeroPages} pages are zero, and meta.json's counts.zero says ${meta.zeroPages}`,
    );
  }
  const refuseZeroIn = (from: number, end: number): void => {
    const pfn = zero.nextSet(from, end);
    if (pfn < end) {
      malformed(`the zero bitmap: pfn ${pfn} is zero and no RAM lies behind it`);
    }
  };
  // What lies between segments and in the last word behind them has no memory, so nothing there is zero.
  let gap = 0;
  for (const { firstPfn, pageCount } of meta.layout.segments) {
    refuseZeroIn(gap, firstPfn);
    gap = firstPfn + pageCount;
  }
  refuseZeroIn(gap, zero.wordCount * PAGES_PER_WORD);
}

/**
 * The memory map of a real machine from its capture. The counts in meta.json must agree with the bitmaps.
 * Throws CAPTURE_MALFORMED; `where` names the capture in the message.
 */
export function parseCapture(map: WordMapper, files: CaptureFiles, where: string): GuestImage {
  const malformed: (what: string) => never = refuser(where);
  const meta = parseCaptureMeta(files.meta, where);
  if (files.kpageflags.length !== meta.pfns * KPF_WORD_BYTES) {
    malformed(
      `kpageflags has ${files.kpageflags.length} bytes, and meta.json's pfns (${meta.pfns}) take ${meta.pfns * KPF_WORD_BYTES}`,
    );
  }
  const { layout } = meta;
  const image = emptyImage(meta.name, layout.blocks, files.zero === undefined);
  const { free } = imageBitmaps(map, image);
  const flags = new DataView(files.kpageflags.buffer, files.kpageflags.byteOffset, files.kpageflags.length);
  let freePages = 0;
  for (let pfn = 0; pfn < meta.pfns; pfn += 1) {
    const low = flags.getUint32(pfn * KPF_WORD_BYTES, true);
    if (((low >>> KPF_BUDDY) & 1) === 1) {
      if (layout.segmentOfPfn(pfn) === undefined || ((low >>> KPF_NOPAGE) & 1) === 1) {
        malformed(`kpageflags: pfn ${pfn} is free and no RAM lies behind it`);
      }
      free.set(pfn);
      freePages += 1;
    }
  }
  checkFreePages(meta, freePages, where);
  readZeroPages(map, meta, files.zero, image, where);
  return image;
}
