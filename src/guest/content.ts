import { equalBytes } from '../memory/byte-ops.js';
import { MIB, PAGE_SIZE } from '../memory/page.js';

const POOL_BYTES = MIB;
const HEADER_BYTES = 8;

/** Marsaglia's xorshift32: small, fast and reproducible; never 0. */
export function xorshift32(state: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
}

let sharedPool: Uint8Array | undefined;

/** The pool, made when it is first needed: the same one for every guest of a thread. */
function pool(): Uint8Array {
  if (sharedPool === undefined) {
    const words = new Uint32Array((POOL_BYTES + PAGE_SIZE) / 4);
    let state = 0x9e37_79b9;
    for (let i = 0; i < words.length; i += 1) {
      state = xorshift32(state);
      words[i] = state;
    }
    sharedPool = new Uint8Array(words.buffer);
  }
  return sharedPool;
}

/** Makes what all contents come from, if it is not made yet; some ms. */
export function prepareContents(): void {
  pool();
}

/**
 * What pages hold. A page's contents follow from its pfn and a version, so that the guest can say at any time
 * what a page must hold without keeping a copy: 4088 bytes out of a pool of pseudo-random ones, at a place that
 * pfn and version choose, behind 8 bytes of pfn and version themselves.
 */
export class PageContent {
  readonly #seed: number;
  readonly #pool: Uint8Array = pool();

  /** The same seed makes the same contents. */
  constructor(seed: number) {
    this.#seed = seed;
  }

  /** Writes the page's contents into `bytes` from `byteOffset`. */
  writeInto(bytes: Uint8Array, byteOffset: number, pfn: number, version: number): void {
    const from = this.#place(pfn, version);
    bytes.set(this.#pool.subarray(from, from + PAGE_SIZE), byteOffset);
    for (let i = 0; i < HEADER_BYTES; i += 1) {
      bytes[byteOffset + i] = this.#headerByte(i, pfn, version);
    }
  }

  /** Whether `page` (4096 bytes) holds what it must. */
  matches(page: Uint8Array, pfn: number, version: number): boolean {
    for (let i = 0; i < HEADER_BYTES; i += 1) {
      if (page[i] !== this.#headerByte(i, pfn, version)) {
        return false;
      }
    }
    const from = this.#place(pfn, version);
    return equalBytes(
      page.subarray(HEADER_BYTES),
      this.#pool.subarray(from + HEADER_BYTES, from + PAGE_SIZE),
    );
  }

  /** Where in the pool the page's bytes come from. */
  #place(pfn: number, version: number): number {
    const hash = Math.imul(Math.imul(pfn, 0x9e37_79b1) ^ version ^ this.#seed, 0x85eb_ca6b) >>> 0;
    return (hash % (POOL_BYTES / 8)) * 8;
  }

  /** pfn and version, le32 each. */
  #headerByte(index: number, pfn: number, version: number): number {
    return ((index < 4 ? pfn : version ^ this.#seed) >>> ((index & 3) * 8)) & 0xff;
  }
}
