import { equalBytes, isFilledPage } from '../memory/byte-ops.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { PAGE_SIZE } from '../memory/page.js';
import type { WriteOracle } from '../memory/write-oracle.js';

/** What a comparison of source and destination found, in pages. */
export interface Comparison {
  compared: number;
  /** Differ as they may: declared free, not written since that id was issued, and zero (or poison) at the destination (I7). */
  leftBehind: number;
  /** Differ and may not: lost. */
  different: number;
  /** The first of those; -1: none. */
  firstDifferentPfn: number;
}

/** Pages that are compared in one go before a difference is looked for page by page. */
const CHUNK_PAGES = 256;

/**
 * Compares `pageCount` pages from `pfn`, which lie in one segment, while both guests stand still. Whether a page
 * may differ is the oracle's word, not the engine's; without an oracle none may. One that differs must read as zeroes,
 * or as `poison` (a le32, over and over) and as nothing else where the guest's driver has negotiated page poisoning.
 */
export function comparePages(
  source: GuestMemory,
  destination: GuestMemory,
  oracle: WriteOracle | undefined,
  pfn: number,
  pageCount: number,
  poison = 0,
): Comparison {
  const result: Comparison = { compared: pageCount, leftBehind: 0, different: 0, firstDifferentPfn: -1 };
  for (let chunk = pfn; chunk < pfn + pageCount; chunk += CHUNK_PAGES) {
    const pages = Math.min(CHUNK_PAGES, pfn + pageCount - chunk);
    const here = source.pages(chunk, pages);
    const there = destination.pages(chunk, pages);
    if (equalBytes(here, there)) {
      continue;
    }
    for (let page = 0; page < pages; page += 1) {
      const from = page * PAGE_SIZE;
      if (equalBytes(here.subarray(from, from + PAGE_SIZE), there.subarray(from, from + PAGE_SIZE))) {
        continue;
      }
      if (oracle?.mayDiffer(chunk + page) === true && isFilledPage(there, from, poison)) {
        result.leftBehind += 1;
      } else {
        result.different += 1;
        if (result.firstDifferentPfn === -1) {
          result.firstDifferentPfn = chunk + page;
        }
      }
    }
  }
  return result;
}
