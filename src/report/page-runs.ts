/**
 * The fates of a guest's page frames (`migration/page-fates.ts`), run by run, in bytes.
 *
 * ```
 *   first byte of a run   bits 0–2 fate │ bits 3–6 the lowest 4 bits of the run's page count │ bit 7 more bytes follow
 *   further bytes         bits 0–6 the next 7 bits of the count                              │ bit 7 more bytes follow
 * ```
 */
export function encodePageRuns(fates: Uint8Array): Uint8Array {
  const bytes: number[] = [];
  for (let pfn = 0; pfn < fates.length; ) {
    const fate = fates[pfn]!;
    let end = pfn + 1;
    while (end < fates.length && fates[end] === fate) {
      end += 1;
    }
    let byte = fate | (((end - pfn) & 15) << 3);
    for (let rest = Math.floor((end - pfn) / 16); rest > 0; rest = Math.floor(rest / 128)) {
      bytes.push(byte | 128);
      byte = rest & 127;
    }
    bytes.push(byte);
    pfn = end;
  }
  return Uint8Array.from(bytes);
}

/** The fates out of the bytes of their runs. Throws a RangeError if they are not those of `pfnSpan` page frames. */
export function decodePageRuns(bytes: Uint8Array, pfnSpan: number): Uint8Array {
  const fates = new Uint8Array(pfnSpan);
  let pfn = 0;
  for (let at = 0; at < bytes.length; at += 1) {
    const fate = bytes[at]! & 7;
    let count = (bytes[at]! >> 3) & 15;
    for (let factor = 16; bytes[at]! >= 128 && at + 1 < bytes.length; factor *= 128) {
      at += 1;
      count += (bytes[at]! & 127) * factor;
    }
    fates.fill(fate, pfn, pfn + count);
    pfn += count;
  }
  if (pfn !== pfnSpan) {
    throw new RangeError(`the map is of ${pfn} page frames, and the guest has ${pfnSpan}`);
  }
  return fates;
}
