/** The naive twins of `memory/byte-ops`: byte by byte, from the first to the last. */

const PAGE_SIZE = 4096;

/** Whether the 4096 bytes of `bytes` from `byteOffset` are all zero. */
export function naiveIsZeroPage(bytes: Uint8Array, byteOffset: number): boolean {
  for (let i = byteOffset; i < byteOffset + PAGE_SIZE; i += 1) {
    if (bytes[i] !== 0) {
      return false;
    }
  }
  return true;
}

/** Whether two ranges hold the same bytes. */
export function naiveEqualBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) {
    return false;
  }
  for (let i = 0; i < a.length; i += 1) {
    if (a[i] !== b[i]) {
      return false;
    }
  }
  return true;
}
