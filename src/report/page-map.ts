import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { LacunaError } from '../errors.js';

/**
 * A map of guest memory as text, for JSON: the fates of all page frames (`migration/page-fates.ts`), run by run, then
 * deflated (RFC 1951) and in base64.
 *
 * ```
 *   a run:   fate × 1 bit field of 3 | page count, as a LEB128: 7 bits a byte, the lowest first, bit 7 = more follow
 *            first byte: bits 0–2 fate, bits 3–6 the count's lowest 4 bits, bit 7 = more follow
 * ```
 */
export function encodePageMap(fates: Uint8Array): string {
  const bytes: number[] = [];
  for (let pfn = 0; pfn < fates.length; ) {
    const fate = fates[pfn]!;
    let end = pfn + 1;
    while (end < fates.length && fates[end] === fate) {
      end += 1;
    }
    let count = end - pfn;
    let byte = fate | ((count & 15) << 3);
    count = Math.floor(count / 16);
    while (count > 0) {
      bytes.push(byte | 128);
      byte = count & 127;
      count = Math.floor(count / 128);
    }
    bytes.push(byte);
    pfn = end;
  }
  return deflateRawSync(Uint8Array.from(bytes), { level: 9 }).toString('base64');
}

/** The fates out of a map's text. Throws INVALID_ARGUMENT if they are not those of `pfnSpan` page frames. */
export function decodePageMap(text: string, pfnSpan: number): Uint8Array {
  const fates = new Uint8Array(pfnSpan);
  const bytes = inflateRawSync(Buffer.from(text, 'base64'), { maxOutputLength: pfnSpan * 2 + 16 });
  let pfn = 0;
  for (let at = 0; at < bytes.length; ) {
    let byte = bytes[at]!;
    at += 1;
    const fate = byte & 7;
    let count = (byte >> 3) & 15;
    for (let factor = 16; byte >= 128 && at < bytes.length; factor *= 128) {
      byte = bytes[at]!;
      at += 1;
      count += (byte & 127) * factor;
    }
    fates.fill(fate, pfn, pfn + count);
    pfn += count;
  }
  if (pfn !== pfnSpan) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the page map is of ${pfn} page frames and the guest has ${pfnSpan}`,
    );
  }
  return fates;
}
