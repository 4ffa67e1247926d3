import { fillWords, isFilledPage, isZeroPage } from '../memory/byte-ops.js';
import { gpaOf, PAGE_SIZE } from '../memory/page.js';
import type { WriteOracle } from '../memory/write-oracle.js';
import type { PageContent } from './content.js';
import type { GuestRam } from './guest-ram.js';

/** The page is metadata of the guest: the ledger does not say what it holds. */
export const LEDGER_METADATA = 0xffff_ffff;
/** The page holds zeroes. */
export const LEDGER_ZERO = 0;

/**
 * The guest's record, in its own RAM, of what each allocated page must hold: a version for {@link PageContent},
 * or one of the two marks above. Through it the guest checks itself, at the source and at the destination.
 */
export class Ledger {
  readonly #ram: GuestRam;
  readonly #content: PageContent;
  readonly #versions: Uint32Array;
  readonly #gpa: number;
  readonly #oracle: WriteOracle | undefined;

  constructor(
    ram: GuestRam,
    content: PageContent,
    gpa: number,
    pfnSpan: number,
    oracle: WriteOracle | undefined,
  ) {
    this.#ram = ram;
    this.#content = content;
    this.#gpa = gpa;
    this.#versions = ram.uint32(gpa, pfnSpan);
    this.#oracle = oracle;
  }

  version(pfn: number): number {
    return this.#versions[pfn]!;
  }

  /** Writes a page: the bytes, then the mark (I1); then its line in the ledger. */
  write(pfn: number, version: number): void {
    this.#oracle?.stampWrite(pfn);
    const segment = this.#ram.memory.segmentOf(gpaOf(pfn), PAGE_SIZE);
    if (segment === undefined) {
      throw new RangeError(`page ${pfn} is not RAM`);
    }
    const offset = gpaOf(pfn) - segment.startGpa;
    if (version === LEDGER_ZERO) {
      segment.bytes.fill(0, offset, offset + PAGE_SIZE);
    } else {
      this.#content.writeInto(segment.bytes, offset, pfn, version);
    }
    this.#ram.log.mark(pfn);
    this.note(pfn, version);
  }

  /**
   * Fills pages with a le32, over and over: all of their bytes, then the marks (I1). Their lines in the ledger say
   * zeroes; of a page that is free nobody reads its line.
   */
  fill(pfn: number, pageCount: number, word: number): void {
    const end = pfn + pageCount;
    for (let page = pfn; page < end && this.#oracle !== undefined; page += 1) {
      this.#oracle.stampWrite(page);
    }
    for (const { bytes, firstPfn, pageCount: segmentPages } of this.#ram.memory.segments) {
      const from = Math.max(pfn, firstPfn);
      const pages = Math.min(end, firstPfn + segmentPages) - from;
      if (pages > 0) {
        fillWords(bytes, (from - firstPfn) * PAGE_SIZE, pages * PAGE_SIZE, word);
      }
    }
    this.#ram.log.markRange(pfn, pageCount);
    this.#versions.fill(LEDGER_ZERO, pfn, end);
    this.#ram.wrote(this.#gpa + pfn * 4, pageCount * 4);
  }

  /** Whether the page holds a le32, over and over. */
  isFilled(pfn: number, word: number): boolean {
    const segment = this.#ram.memory.segmentOf(gpaOf(pfn), PAGE_SIZE);
    return segment !== undefined && isFilledPage(segment.bytes, gpaOf(pfn) - segment.startGpa, word);
  }

  /** Writes the ledger's line of a guest that is being built; the builder marks the whole ledger afterwards. */
  begin(pfn: number, version: number): void {
    this.#versions[pfn] = version;
  }

  /** Writes only the ledger's line. */
  note(pfn: number, version: number): void {
    this.#versions[pfn] = version;
    this.#ram.wrote(this.#gpa + pfn * 4, 4);
  }

  /** Whether the page holds what its line says. Metadata always does. */
  holds(pfn: number): boolean {
    const version = this.#versions[pfn]!;
    if (version === LEDGER_METADATA) {
      return true;
    }
    const segment = this.#ram.memory.segmentOf(gpaOf(pfn), PAGE_SIZE);
    if (segment === undefined) {
      return false;
    }
    const offset = gpaOf(pfn) - segment.startGpa;
    return version === LEDGER_ZERO
      ? isZeroPage(segment.bytes, offset)
      : this.#content.matches(segment.bytes.subarray(offset, offset + PAGE_SIZE), pfn, version);
  }
}
