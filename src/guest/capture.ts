import { z } from 'zod';
import { LacunaError, messageOf } from '../errors.js';
import { PAGE_SIZE, PAGES_PER_WORD } from '../memory/page.js';
import { bitmapWords } from '../memory/page-bitmap.js';
import { RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { KPF_BUDDY, KPF_NOPAGE, KPF_WORD_BYTES } from '../spec/kpageflags.js';
import { emptyImage, type GuestImage, imageBitmaps } from './image.js';

const range = z.object({
  startGpa: z.int().nonnegative(),
  endGpa: z.int().positive(),
});

/** What lacuna reads of a capture's meta.json; the README beside the captures describes all of it. */
const captureMeta = z.object({
  name: z.string().min(1),
  memoryBytes: z.int().positive().multipleOf(PAGE_SIZE),
  pageSize: z.literal(PAGE_SIZE),
  pfns: z.int().positive().multipleOf(8),
  backing: z.array(range).min(1),
  counts: z.object({ pages: z.int(), free: z.int(), zero: z.int() }),
});

/** The three files of a capture, unpacked. */
export interface CaptureFiles {
  /** meta.json, parsed. */
  readonly meta: unknown;
  /** A u64 for each pfn: the guest's /proc/kpageflags. */
  readonly kpageflags: Uint8Array;
  /** A bit for each pfn, bit 0 of byte 0 first: the page is all zero. */
  readonly zero: Uint8Array;
}

/**
 * The memory map of a real machine from its capture. The counts in meta.json must agree with the bitmaps.
 * Throws CAPTURE_MALFORMED; `where` names the capture in the message.
 */
export function parseCapture(map: WordMapper, files: CaptureFiles, where: string): GuestImage {
  const malformed = (what: string): never => {
    throw new LacunaError('CAPTURE_MALFORMED', `${where}: ${what}`);
  };
  const parsed = captureMeta.safeParse(files.meta);
  if (!parsed.success) {
    return malformed(`meta.json: ${z.prettifyError(parsed.error)}`);
  }
  const meta = parsed.data;
  if (files.kpageflags.length !== meta.pfns * KPF_WORD_BYTES) {
    malformed(
      `kpageflags has ${files.kpageflags.length} bytes, and meta.json's pfns (${meta.pfns}) take ${meta.pfns * KPF_WORD_BYTES}`,
    );
  }
  if (files.zero.length !== meta.pfns / 8) {
    malformed(
      `the zero bitmap has ${files.zero.length} bytes, and meta.json's pfns (${meta.pfns}) take ${meta.pfns / 8}`,
    );
  }
  let layout: RamLayout;
  try {
    layout = new RamLayout(meta.backing);
  } catch (cause) {
    throw new LacunaError('CAPTURE_MALFORMED', `${where}: meta.json: backing: ${messageOf(cause)}`, {
      cause,
    });
  }
  if (layout.memoryBytes !== meta.memoryBytes) {
    malformed(
      `meta.json: backing covers ${layout.memoryBytes} bytes and memoryBytes says ${meta.memoryBytes}`,
    );
  }
  if (layout.pfnSpan > meta.pfns) {
    malformed(`meta.json: backing ends at pfn ${layout.pfnSpan}, and pfns says ${meta.pfns}`);
  }
  if (layout.pageCount !== meta.counts.pages) {
    malformed(`meta.json: backing has ${layout.pageCount} pages and counts.pages says ${meta.counts.pages}`);
  }
  const image = emptyImage(meta.name, layout.blocks);
  const { free, zero } = imageBitmaps(map, image);
  // The files' bit order is that of little-endian words, so the zero bitmap is copied as it is.
  new Uint8Array(image.zero).set(
    files.zero.subarray(0, Math.min(files.zero.length, bitmapWords(layout.pfnSpan) * 4)),
  );
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
  if (freePages !== meta.counts.free) {
    malformed(
      `kpageflags: ${freePages} pages are free, and meta.json's counts.free says ${meta.counts.free}`,
    );
  }
  const zeroPages = zero.count();
  if (zeroPages !== meta.counts.zero) {
    malformed(
      `the zero bitmap: ${zeroPages} pages are zero, and meta.json's counts.zero says ${meta.counts.zero}`,
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
  for (const { firstPfn, pageCount } of layout.segments) {
    refuseZeroIn(gap, firstPfn);
    gap = firstPfn + pageCount;
  }
  refuseZeroIn(gap, zero.wordCount * PAGES_PER_WORD);
  return image;
}
