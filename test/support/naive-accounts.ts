import type { PageRun } from '../../src/memory/page-bitmap.js';
import type { HintPageCounts } from '../../src/migration/page-accounts.js';

const PAGE_SIZE = 4096;

/** The naive twin of PageAccounts: a Set of pages for each kind, and one page looked at after the other. */
export class NaiveAccounts {
  readonly send: Set<number> = new Set();
  readonly claimed: Set<number> = new Set();
  readonly copied: Set<number> = new Set();
  readonly skipped: Set<number> = new Set();
  readonly fill: Set<number> = new Set();
  readonly hints: HintPageCounts = {
    hinted: 0,
    applied: 0,
    alreadySent: 0,
    notPending: 0,
    reDirtied: 0,
    sentInVain: 0,
  };
  dirtied = 0;
  roundSkipped = 0;
  roundFillsDue = 0;
  readonly #vain = new Set<number>();
  readonly #pfnSpan: number;
  #poison = 0;
  /** This session's hints. */
  #session: { readonly first: number; readonly end: number }[] = [];

  constructor(pfnSpan: number) {
    this.#pfnSpan = pfnSpan;
  }

  beginRound(): number {
    this.claimed.clear();
    this.roundSkipped = 0;
    this.roundFillsDue = 0;
    return this.send.size;
  }

  beginSession(poison: number): void {
    this.#session = [];
    this.#poison = poison;
  }

  /** The end of the last hint, if none of the session's began before the end of the one before it. */
  get frontier(): number {
    const ascends = this.#session.every(({ first }, i) => first >= (this.#session[i - 1]?.end ?? 0));
    return ascends ? (this.#session.at(-1)?.end ?? 0) : 0;
  }

  addDirty(pages: readonly number[]): void {
    for (const pfn of pages) {
      this.dirtied += 1;
      this.send.add(pfn);
      this.#vain.delete(pfn);
      if (this.skipped.delete(pfn)) {
        this.hints.reDirtied += 1;
      }
    }
  }

  settleVain(): void {
    this.hints.sentInVain += this.#vain.size;
    this.#vain.clear();
  }

  hint(gpa: number, lengthBytes: number): boolean {
    const isWhole = (pfn: number): boolean =>
      pfn * PAGE_SIZE >= gpa && (pfn + 1) * PAGE_SIZE <= gpa + lengthBytes;
    const pages: number[] = [];
    for (let pfn = 0; pfn < this.#pfnSpan; pfn += 1) {
      if (isWhole(pfn)) {
        pages.push(pfn);
        this.#hintPage(pfn);
      }
    }
    if (pages.length > 0) {
      this.#session.push({ first: pages[0]!, end: pages.at(-1)! + 1 });
    }
    return pages.length > 0;
  }

  /** The page was claimed for sending. */
  claim(pfn: number): void {
    this.send.delete(pfn);
    this.claimed.add(pfn);
  }

  /** And was not sent after all. */
  giveBack(pfn: number): void {
    this.send.add(pfn);
    this.claimed.delete(pfn);
  }

  /** The first fills due at or after `from`, as far as they go on and stay in one segment. */
  takeFill(from: number, segmentOf: (pfn: number) => object | undefined): PageRun | undefined {
    const pfn = [...this.fill].filter((page) => page >= from).sort((a, b) => a - b)[0];
    if (pfn === undefined) {
      return undefined;
    }
    const run = { pfn, pageCount: 0 };
    for (let page = pfn; this.fill.has(page) && segmentOf(page) === segmentOf(pfn); page += 1) {
      this.fill.delete(page);
      if (this.#poison === 0) {
        this.copied.delete(page);
      } else {
        this.copied.add(page); // of poison
      }
      run.pageCount += 1;
    }
    return run;
  }

  #hintPage(pfn: number): void {
    this.hints.hinted += 1;
    if (this.send.delete(pfn)) {
      this.hints.applied += 1;
      this.skipped.add(pfn);
      if (this.copied.has(pfn) || this.#poison !== 0) {
        this.fill.add(pfn);
        this.roundFillsDue += 1;
      } else {
        this.roundSkipped += 1;
      }
    } else if (this.claimed.has(pfn)) {
      this.hints.alreadySent += 1;
      this.#vain.add(pfn);
    } else {
      this.hints.notPending += 1;
    }
  }
}
