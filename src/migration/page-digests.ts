import { fillWords } from '../memory/byte-ops.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { PAGE_SIZE } from '../memory/page.js';
import type { WriteOracle } from '../memory/write-oracle.js';
import type { Comparison } from './verify.js';

/*
 * What pages hold, in few enough bytes to be carried to another process and compared there: the verifier's eyes where it
 * can't see both memories. A page's digest is the CRC-32 of each of its quarters. A bit that is flipped, or up to 32 in a
 * row, always changes it; of pages that differ otherwise it misses one in 2^32 for each quarter in which they differ. It is
 * there for mistakes of the engine, and no protection from somebody who means to deceive.
 */

/** Words, of 32 bits, of a page's digest. */
export const DIGEST_WORDS = 4;
/** Bytes of a page's digest. */
export const DIGEST_BYTES: number = DIGEST_WORDS * 4;
const QUARTER = PAGE_SIZE / DIGEST_WORDS;

/** CRC-32 (`node:zlib` has one): passed in, because the engine imports nothing of Node. */
export type Checksum = (bytes: Uint8Array) => number;

/** Pages of one segment that are looked at, and where their digests are: page `pfn + i` has words `4 i` to `4 i + 3`. */
export interface DigestedPages {
  readonly memory: GuestMemory;
  readonly pfn: number;
  readonly pageCount: number;
  readonly digests: Uint32Array;
}

/** Writes the pages' digests. Nobody may be writing the pages. */
export function digestPages({ memory, pfn, pageCount, digests }: DigestedPages, checksum: Checksum): void {
  const bytes = memory.pages(pfn, pageCount);
  for (let quarter = 0; quarter < pageCount * DIGEST_WORDS; quarter += 1) {
    digests[quarter] = checksum(bytes.subarray(quarter * QUARTER, (quarter + 1) * QUARTER));
  }
}

/**
 * `comparePages` with a destination of which there are the digests only: a page that differs must have the digest of one
 * that reads as `poison`, a le32 over and over, and may differ by the oracle's word. Without an oracle none may.
 */
export function compareDigests(
  { memory, pfn, pageCount, digests: there }: DigestedPages,
  oracle: WriteOracle | undefined,
  checksum: Checksum,
  poison = 0,
): Comparison {
  const here = new Uint32Array(pageCount * DIGEST_WORDS);
  digestPages({ memory, pfn, pageCount, digests: here }, checksum);
  const quarter = new Uint8Array(QUARTER);
  fillWords(quarter, 0, QUARTER, poison);
  const filled = checksum(quarter);
  const result: Comparison = { compared: pageCount, leftBehind: 0, different: 0, firstDifferentPfn: -1 };
  for (let page = 0; page < pageCount; page += 1) {
    const from = page * DIGEST_WORDS;
    const quarters = there.subarray(from, from + DIGEST_WORDS);
    if (quarters.every((word, i) => word === here[from + i])) {
      continue;
    }
    if (oracle?.mayDiffer(pfn + page) === true && quarters.every((word) => word === filled)) {
      result.leftBehind += 1;
    } else {
      result.different += 1;
      result.firstDifferentPfn = result.firstDifferentPfn === -1 ? pfn + page : result.firstDifferentPfn;
    }
  }
  return result;
}
