import { lowestBit, PAGES_PER_WORD } from '../memory/page.js';
import type { PageBitmap } from '../memory/page-bitmap.js';
import type { RamLayout } from '../memory/ram-layout.js';

/** What became of a page by the end of a migration. `absent`: no RAM, or the migration ended before it came to it. */
export const PAGE_FATES = ['absent', 'sent', 'zero', 'skipped', 'filled', 'resent', 'vain'] as const;
/** One of {@link PAGE_FATES}. */
export type PageFate = (typeof PAGE_FATES)[number];

/** How many pages had each fate, {@link PAGE_FATES.absent} apart. */
export type PageFateCounts = Record<Exclude<PageFate, 'absent'>, number>;

const SENT = 1;
const ZERO = 2;
const FILLED = 4;
const AGAIN = 8;
const VAIN = 16;

/**
 * A record of what happened to each page, for whoever wants a picture of it: a byte a page, written as frames leave.
 * The engine never reads it.
 *
 * Of several things that happened to a page the fate is the most telling one: sent although it was reported free and
 * not written since (`vain`), sent more than once (`resent`), sent, told to be filled, sent as a zero page, and last
 * left out because of a hint (`skipped`).
 */
export class PageFates {
  readonly #events: Uint8Array;
  readonly #layout: RamLayout;

  constructor(layout: RamLayout) {
    this.#layout = layout;
    this.#events = new Uint8Array(layout.pfnSpan);
  }

  sent(pfn: number, pageCount: number): void {
    this.#went(pfn, pageCount, SENT);
  }

  zero(pfn: number, pageCount: number): void {
    this.#went(pfn, pageCount, ZERO);
  }

  filled(pfn: number, pageCount: number): void {
    const events = this.#events;
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      events[page]! |= FILLED;
    }
  }

  /** All pages in `pages` were sent in vain. */
  vain(pages: PageBitmap): void {
    for (let word = 0; word < pages.wordCount; word += 1) {
      for (let bits = pages.words.load(word); bits !== 0; bits &= bits - 1) {
        this.#events[word * PAGES_PER_WORD + lowestBit(bits)]! |= VAIN;
      }
    }
  }

  #went(pfn: number, pageCount: number, event: number): void {
    const events = this.#events;
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      const before = events[page]!;
      events[page] = before | event | ((before & (SENT | ZERO)) === 0 ? 0 : AGAIN);
    }
  }

  /**
   * The fate of each page frame below the layout's span, as an index into {@link PAGE_FATES}. `skipped` holds the pages
   * that were left out and not written since.
   */
  fates(skipped: PageBitmap): Uint8Array {
    const fates = new Uint8Array(this.#events.length);
    for (const { firstPfn, pageCount } of this.#layout.segments) {
      for (let pfn = firstPfn; pfn < firstPfn + pageCount; pfn += 1) {
        fates[pfn] = fateOf(this.#events[pfn]!, skipped, pfn);
      }
    }
    return fates;
  }
}

function fateOf(events: number, skipped: PageBitmap, pfn: number): number {
  if ((events & VAIN) !== 0) {
    return PAGE_FATES.indexOf('vain');
  }
  if ((events & AGAIN) !== 0) {
    return PAGE_FATES.indexOf('resent');
  }
  if ((events & SENT) !== 0) {
    return PAGE_FATES.indexOf('sent');
  }
  if ((events & FILLED) !== 0) {
    return PAGE_FATES.indexOf('filled');
  }
  if ((events & ZERO) !== 0) {
    return PAGE_FATES.indexOf('zero');
  }
  return PAGE_FATES.indexOf(skipped.test(pfn) ? 'skipped' : 'absent');
}

/** How many pages had each fate. */
export function countFates(fates: Uint8Array): PageFateCounts {
  const counts = new Float64Array(PAGE_FATES.length);
  for (const fate of fates) {
    counts[fate]! += 1;
  }
  const of = (fate: PageFate): number => counts[PAGE_FATES.indexOf(fate)]!;
  return {
    sent: of('sent'),
    zero: of('zero'),
    skipped: of('skipped'),
    filled: of('filled'),
    resent: of('resent'),
    vain: of('vain'),
  };
}
