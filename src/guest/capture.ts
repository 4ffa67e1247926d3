import { bitmapWords } from '../memory/page-bitmap.js';
import type { WordMapper } from '../memory/shared-words.js';
import { KPF_BUDDY, KPF_NOPAGE, KPF_WORD_BYTES } from '../spec/kpageflags.js';
import { emptyImage, type GuestImage, imageBitmaps } from './image.js';
import { type CaptureMeta, firstOutsideRam, parseCaptureMeta, refuse } from './recording.js';

/** The files of a capture, unpacked. */
export interface CaptureFiles {
  /** meta.json, parsed. */
  readonly meta: unknown;
  /** A u64 for each pfn: the guest's /proc/kpageflags. */
  readonly kpageflags: Uint8Array;
  /** A bit for each pfn, bit 0 of byte 0 first: the page is all zero. Undefined: the capture does not say. */
  readonly zero?: Uint8Array | undefined;
}

/** The counts of free pages must agree. */
export function checkFreePages(meta: CaptureMeta, freePages: number, where: string): void {
  if (freePages !== meta.freePages) {
    refuse(
      where,
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
  if (bytes === undefined) {
    if (meta.zeroPages !== undefined) {
      refuse(where, `zero.bin.gz is missing, and meta.json's counts.zero says ${meta.zeroPages}`);
    }
    return;
  }
  if (meta.zeroPages === undefined) {
    refuse(where, 'meta.json: counts.zero is missing, and there is a zero bitmap (zero.bin.gz)');
  }
  if (bytes.length !== meta.pfns / 8) {
    refuse(
      where,
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
    refuse(
      where,
      `the zero bitmap: ${zeroPages} pages are zero, and meta.json's counts.zero says ${meta.zeroPages}`,
    );
  }
  const outside = firstOutsideRam(zero, meta.layout);
  if (outside !== undefined) {
    refuse(where, `the zero bitmap: pfn ${outside} is zero and no RAM lies behind it`);
  }
}

/**
 * The memory map of a real machine from its capture. The counts in meta.json must agree with the bitmaps.
 * Throws CAPTURE_MALFORMED; `where` names the capture in the message.
 */
export function parseCapture(map: WordMapper, files: CaptureFiles, where: string): GuestImage {
  const meta = parseCaptureMeta(files.meta, where);
  if (files.kpageflags.length !== meta.pfns * KPF_WORD_BYTES) {
    refuse(
      where,
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
        refuse(where, `kpageflags: pfn ${pfn} is free and no RAM lies behind it`);
      }
      free.set(pfn);
      freePages += 1;
    }
  }
  checkFreePages(meta, freePages, where);
  readZeroPages(map, meta, files.zero, image, where);
  return image;
}
