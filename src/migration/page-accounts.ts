import type { HintSink } from '../balloon/hint-session.js';
import type { DirtySink } from '../memory/dirty-log.js';
import { bitMask, MIB, PAGE_SIZE, PAGES_PER_WORD, popcount32 } from '../memory/page.js';
import { PageBitmap, type PageRun } from '../memory/page-bitmap.js';
import type { RamLayout } from '../memory/ram-layout.js';
import { atomicMapper, type WordMapper } from '../memory/shared-words.js';
import type { PageFates } from './page-fates.js';
import { Unacknowledged } from './unacknowledged.js';

/** What hints came to, in pages. */
export interface HintPageCounts {
  /** Pages in ranges that were accepted: applied + already sent + not pending. */
  hinted: number;
  /** Pages that were going to be sent and now are not. */
  applied: number;
  /** Pages that had been claimed for sending in this round when the hint came. */
  alreadySent: number;
  /** Pages that were not to be sent anyway: hinted twice, or not dirty in this round. */
  notPending: number;
  /** Pages that were applied and written afterwards: the log has put them back (I3). */
  reDirtied: number;
  /** Of the pages already sent, those that the guest had not written since the id was issued: sent in vain. */
  sentInVain: number;
}

/** Who is told which pages were just left out because of a hint, and what they read as at the destination: a le32, over and over. */
export type LeaveOut = (wordIndex: number, bits: number, value: number) => void;

/** Where every page of a round went. They add up: `pending` is the sum of the others. */
export interface RoundBalance {
  /** Pages to send when the round began. */
  pending: number;
  sent: number;
  zero: number;
  /** Told the destination to fill: inflated pages, and hinted ones that would not read there as they must (I7). */
  filled: number;
  skipped: number;
  carried: number;
  cancelled: number;
}

/** Pages of one fill: the destination writes them in one go, and other frames wait for it. */
const MOST_FILL_PAGES: number = (4 * MIB) / PAGE_SIZE;

/**
 * What the source knows of every page, and the rules by which hints and the dirty log change it.
 *
 * ```
 *   send      to be sent in this round
 *   claimed   was claimed for sending in this round
 *   copied    the destination holds contents of it, older or current
 *   skipped   a hint was applied and it was not written since
 *   fill      hinted, and a fill run is due (I7): the destination holds an older copy, or zeroes are not what the
 *             guest has in its free pages (P5)
 * ```
 *
 * I3: a hint clears bits of `send` and of nothing else; it can't reach the dirty log. What the guest wrote after
 * the log was drained is in the log, and {@link addDirty} puts it back whatever any hint has said.
 */
export class PageAccounts implements DirtySink, HintSink {
  readonly send: PageBitmap;
  readonly claimed: PageBitmap;
  readonly copied: PageBitmap;
  readonly skipped: PageBitmap;
  readonly fill: PageBitmap;
  /** What was sent and may not have arrived, if the link should break now. */
  readonly unacknowledged: Unacknowledged;
  readonly hints: HintPageCounts = {
    hinted: 0,
    applied: 0,
    alreadySent: 0,
    notPending: 0,
    reDirtied: 0,
    sentInVain: 0,
  };
  /** Pages dirtied, as drained from the log. */
  dirtied = 0;
  /** Where hints have got to, as long as they come in ascending order; 0 once they do not. */
  frontier = 0;
  #ordered = true;
  /** What pages that are skipped read as at the destination: a le32, over and over. */
  #poison = 0;
  /** Claimed when a hint for it came; those that turn out not to be dirty were sent in vain. */
  readonly #vain: PageBitmap;
  readonly #layout: RamLayout;
  readonly #leaveOut: LeaveOut | undefined;
  /** Skips and fills of this round. */
  #roundSkipped = 0;
  #roundFillsDue = 0;
  /** Pages of {@link fill}. */
  #fillsLeft = 0;

  /** All of it belongs to the coordinator's thread, which claims, hints and syncs. */
  constructor(layout: RamLayout, map: WordMapper = atomicMapper, leaveOut?: LeaveOut) {
    const bitmap = (): PageBitmap => PageBitmap.allocateOwn(map, layout.pfnSpan);
    this.send = bitmap();
    this.claimed = bitmap();
    this.copied = bitmap();
    this.skipped = bitmap();
    this.fill = bitmap();
    this.#vain = bitmap();
    this.unacknowledged = new Unacknowledged(map, layout.pfnSpan);
    this.#layout = layout;
    this.#leaveOut = leaveOut;
  }

  /** The first round sends everything. */
  sendAll(): void {
    for (const segment of this.#layout.segments) {
      this.send.setRange(segment.firstPfn, segment.pageCount);
    }
  }

  /**
   * The link was restored, and the destination has what it said was applied. Of everything else that was sent it may hold
   * any part: all of that goes again, fills included, and counts as copied, for it may be a fill of an older copy that was
   * lost (I7). What was skipped and never sent stays left out.
   */
  resend(): void {
    for (let index = 0; index < this.send.wordCount; index += 1) {
      const unacknowledged = this.unacknowledged.bits(index);
      const bits = unacknowledged | this.fill.words.load(index);
      if (bits !== 0) {
        this.send.words.or(index, bits);
        this.copied.words.or(index, unacknowledged);
        this.skipped.words.and(index, ~bits);
      }
    }
    this.#restart();
  }

  /** The link was restored, to a destination that knows nothing of the guest: everything is to be sent. */
  startOver(): void {
    this.sendAll();
    this.copied.clearAll();
    this.skipped.clearAll();
    this.#restart();
  }

  #restart(): void {
    this.fill.clearAll();
    this.#fillsLeft = 0;
    this.unacknowledged.restart();
  }

  /** A round begins; returns how many pages it has to send. */
  beginRound(): number {
    this.claimed.clearAll();
    this.#roundSkipped = 0;
    this.#roundFillsDue = 0;
    return this.send.count();
  }

  /**
   * A hint session begins: hints have got nowhere yet. `poison` is what the guest takes its free pages to hold. All
   * fills of earlier sessions have been taken by now.
   */
  beginSession(poison = 0): void {
    this.frontier = 0;
    this.#ordered = true;
    this.#poison = poison;
  }

  /** What the pages of {@link fill} are to be filled with. */
  get poison(): number {
    return this.#poison;
  }

  get roundSkipped(): number {
    return this.#roundSkipped;
  }

  get roundFillsDue(): number {
    return this.#roundFillsDue;
  }

  /** Pages whose fill is due and was not taken yet. */
  get fillsLeft(): number {
    return this.#fillsLeft;
  }

  /** From the dirty log: these pages were written, so they go (again). */
  addDirty(wordIndex: number, bits: number): void {
    this.dirtied += popcount32(bits);
    this.send.words.or(wordIndex, bits);
    const skipped = this.skipped.words.load(wordIndex) & bits;
    if (skipped !== 0) {
      this.hints.reDirtied += popcount32(skipped);
      this.skipped.words.and(wordIndex, ~bits);
    }
    if ((this.#vain.words.load(wordIndex) & bits) !== 0) {
      this.#vain.words.and(wordIndex, ~bits); // it was not in vain: it had been written
    }
  }

  /** The log was drained after a session: what is left of the pages sent before their hint was sent in vain. */
  settleVain(fates?: PageFates): void {
    fates?.vain(this.#vain);
    this.hints.sentInVain += this.#vain.count();
    this.#vain.clearAll();
  }

  /** A range of the current session. Only whole pages within it count (V11). */
  hint(gpa: number, lengthBytes: number): boolean {
    let pfn = Math.ceil(gpa / PAGE_SIZE);
    const end = Math.floor((gpa + lengthBytes) / PAGE_SIZE);
    if (end <= pfn) {
      return false;
    }
    if (pfn < this.frontier) {
      this.#ordered = false;
    }
    this.frontier = this.#ordered ? end : 0;
    this.hints.hinted += end - pfn;
    while (pfn < end) {
      const bit = pfn & (PAGES_PER_WORD - 1);
      const pages = Math.min(PAGES_PER_WORD - bit, end - pfn);
      this.#hintWord(pfn >>> 5, bitMask(bit, pages), pages);
      pfn += pages;
    }
    return true;
  }

  #hintWord(word: number, mask: number, pages: number): void {
    const hit = this.send.words.and(word, ~mask) & mask; // I3: the send bitmap, and only that
    let applied = 0;
    if (hit !== 0) {
      applied = popcount32(hit);
      this.hints.applied += applied;
      this.skipped.words.or(word, hit);
      const stale = this.copied.words.load(word) & hit;
      // What never arrived is zero there, and the guest expects to find its poison (P5).
      const due = this.#poison === 0 ? stale : hit;
      if (due === 0) {
        this.#roundSkipped += applied;
      } else {
        // The destination holds what the page was: it must not come back to life (I7).
        const before = this.fill.words.or(word, due);
        const fills = popcount32(due);
        this.#roundFillsDue += fills;
        this.#fillsLeft += popcount32(due & ~before);
        this.#roundSkipped += applied - fills;
      }
      this.#leaveOut?.(word, hit, this.#poison);
    }
    if (applied === pages) {
      return;
    }
    const sent = this.claimed.words.load(word) & mask & ~hit;
    if (sent !== 0) {
      const count = popcount32(sent);
      this.hints.alreadySent += count;
      this.#vain.words.or(word, sent);
      applied += count;
    }
    this.hints.notPending += pages - applied;
  }

  /** The next run at or after `from` of pages whose fill is due, 4 MiB at the most; taken out of the set. */
  takeFillInto(out: PageRun, from: number): boolean {
    if (!this.fill.nextRunInto(out, from)) {
      return false;
    }
    const segment = this.#layout.segmentOfPfn(out.pfn);
    if (segment !== undefined) {
      out.pageCount = Math.min(
        out.pageCount,
        segment.firstPfn + segment.pageCount - out.pfn,
        MOST_FILL_PAGES,
      );
    }
    this.fill.clearRange(out.pfn, out.pageCount);
    this.#fillsLeft -= out.pageCount;
    if (this.#poison === 0) {
      this.copied.clearRange(out.pfn, out.pageCount);
    } else {
      this.copied.setRange(out.pfn, out.pageCount);
    }
    return true;
  }
}
