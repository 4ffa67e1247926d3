import fc from 'fast-check';
import { expect, it } from 'vitest';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import type { PageBitmap, PageRun } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { PageAccounts } from '../../src/migration/page-accounts.js';
import { effort } from '../support/long.js';

const TIME_LIMIT_MS = 10_000;
const PAGES = 96;
const LAYOUT = new RamLayout([{ startGpa: 0, endGpa: gpaOf(PAGES) }], gpaOf(41));

/** What was sent: the end of a round, or what a page is to hold from then on. */
type Frame = { readonly round: number } & (
  | { readonly end: true }
  | { readonly pfn: number; readonly holds: number }
);

/**
 * PageAccounts over a link that breaks, beside its naive twin: plain arrays of what each page holds at both ends (0: zeroes),
 * and every frame since the link was made. What must go again is what frames of rounds that were not acknowledged were
 * about.
 */
class Play {
  readonly accounts: PageAccounts = new PageAccounts(LAYOUT);
  readonly here: number[] = Array.from({ length: PAGES }, (_, pfn) => (pfn % 7 === 0 ? 0 : 1));
  there: number[] = Array.from({ length: PAGES }, () => 0);
  /** Written since the log was drained. */
  readonly log: Set<number> = new Set();
  /** Hinted and not written since: may read as zeroes there. */
  readonly free: Set<number> = new Set();
  frames: Frame[] = [];
  delivered = 0;
  round = 1;
  acknowledged = 0;
  /** Every end of a round was acknowledged before the next round ended: then the accounts are exact. */
  isPrompt = true;
  #version = 1;

  constructor() {
    this.accounts.sendAll();
    this.accounts.beginRound();
    this.accounts.beginSession();
  }

  write(pfn: number, zero: boolean): void {
    this.#version += 1;
    this.here[pfn] = zero ? 0 : this.#version;
    this.log.add(pfn);
    this.free.delete(pfn);
  }

  hint(pfn: number, pageCount: number): void {
    const count = Math.min(pageCount, PAGES - pfn);
    for (let page = pfn; page < pfn + count; page += 1) {
      if (!this.log.has(page)) {
        this.free.add(page); // what was written since the drain is not free since the id was issued
      }
    }
    this.accounts.hint(gpaOf(pfn), count * PAGE_SIZE);
  }

  /** Claims the next pages at or after `from` and sends them. */
  send(from: number, most: number): void {
    const run: PageRun = { pfn: 0, pageCount: 0 };
    if (!this.accounts.send.nextRunInto(run, from)) {
      return;
    }
    for (let pfn = run.pfn; pfn < run.pfn + Math.min(run.pageCount, most); pfn += 1) {
      this.accounts.send.clear(pfn);
      this.accounts.claimed.set(pfn);
      const holds = this.here[pfn]!;
      if (holds === 0) {
        this.accounts.copied.clear(pfn);
      } else {
        this.accounts.copied.set(pfn);
      }
      this.#emit(pfn, holds);
    }
  }

  fill(): boolean {
    const run: PageRun = { pfn: 0, pageCount: 0 };
    const found = this.accounts.takeFillInto(run, 0);
    for (let pfn = run.pfn; found && pfn < run.pfn + run.pageCount; pfn += 1) {
      this.#emit(pfn, 0);
    }
    return found;
  }

  #emit(pfn: number, holds: number): void {
    this.frames.push({ round: this.round, pfn, holds });
    this.accounts.unacknowledged.sent(pfn, 1);
  }

  /** All fills, the end of the round, a drain; what is left is carried over. */
  endRound(): void {
    while (this.fill()) {}
    this.frames.push({ round: this.round, end: true });
    this.accounts.unacknowledged.roundEnded();
    this.isPrompt &&= this.acknowledged >= this.round - 1;
    this.round += 1;
    this.#drain();
  }

  #drain(): void {
    for (const pfn of this.log) {
      this.accounts.addDirty(pfn >>> 5, 1 << (pfn & 31));
    }
    this.log.clear();
    this.accounts.settleVain();
    this.accounts.beginRound();
    this.accounts.beginSession();
  }

  deliver(count: number): void {
    for (const frame of this.frames.slice(this.delivered, this.delivered + count)) {
      this.delivered += 1;
      if ('pfn' in frame) {
        this.there[frame.pfn] = frame.holds;
      }
    }
  }

  /** The destination says how far it has got, and is heard. */
  acknowledge(): void {
    const ended = this.frames.slice(0, this.delivered).filter((frame) => 'end' in frame);
    const last = ended.at(-1)?.round ?? 0;
    expect(this.accounts.unacknowledged.applied(last)).toBe(true);
    expect(this.accounts.unacknowledged.applied(this.round)).toBe(false);
    this.acknowledged = last;
  }

  break(kept: boolean): void {
    const { accounts } = this;
    const before = [accounts.send, accounts.fill].flatMap(pagesOf);
    const lost = this.frames.filter((frame) => 'pfn' in frame && frame.round > this.acknowledged);
    const due = new Set([...before, ...lost.map((frame) => ('pfn' in frame ? frame.pfn : 0))]);
    const skipped = pagesOf(accounts.skipped);
    if (kept) {
      accounts.resend();
      const again = pagesOf(accounts.send);
      expect(again).toEqual(expect.arrayContaining([...due]));
      if (this.isPrompt) {
        expect(again).toEqual([...due].toSorted((a, b) => a - b));
      }
      const sentAgain = new Set(again);
      expect(pagesOf(accounts.skipped)).toEqual(skipped.filter((pfn) => !sentAgain.has(pfn)));
    } else {
      accounts.startOver();
      this.there = this.there.map(() => 0);
      expect(accounts.send.count()).toBe(PAGES);
      expect([accounts.copied.count(), accounts.skipped.count()]).toEqual([0, 0]);
    }
    expect([accounts.fill.count(), accounts.fillsLeft]).toEqual([0, 0]);
    this.frames = [];
    this.delivered = 0;
    this.round = 1;
    this.acknowledged = 0;
    this.isPrompt = true;
    this.#checkCovered();
    this.#drain();
  }

  /** Nothing is on its way: what differs there will be sent, or may differ; and of what it holds a copy is known. */
  #checkCovered(): void {
    for (let pfn = 0; pfn < PAGES; pfn += 1) {
      const differs = this.there[pfn] !== this.here[pfn] && !(this.free.has(pfn) && this.there[pfn] === 0);
      if (differs && !this.log.has(pfn) && !this.accounts.send.test(pfn)) {
        expect.fail(`page ${pfn} is lost: ${this.there[pfn]} there, ${this.here[pfn]} here`);
      }
      if (this.there[pfn] !== 0 && !this.accounts.copied.test(pfn)) {
        expect.fail(`page ${pfn} is a copy there, and nobody knows`);
      }
    }
  }

  /** Sends all that is left; the last round's hints are over. */
  finish(): void {
    this.endRound();
    this.send(0, PAGES);
    while (this.accounts.send.count() > 0) {
      this.send(0, PAGES);
    }
    this.endRound();
    this.deliver(this.frames.length);
    this.#checkCovered();
  }
}

function pagesOf(bitmap: PageBitmap): number[] {
  return Array.from({ length: PAGES }, (_, pfn) => pfn).filter((pfn) => bitmap.test(pfn));
}

type Action = readonly [name: string, act: (play: Play) => void];

const page = fc.nat(PAGES - 1);
const some = fc.integer({ min: 1, max: 40 });
const actions: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc
      .tuple(page, fc.boolean())
      .map(
        ([pfn, zero]): Action => [`write ${pfn}${zero ? ', zeroes' : ''}`, (play) => play.write(pfn, zero)],
      ),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(page, some)
      .map(([pfn, count]): Action => [`hint ${count} from ${pfn}`, (play) => play.hint(pfn, count)]),
  },
  {
    weight: 5,
    arbitrary: fc
      .tuple(page, some)
      .map(([from, most]): Action => [`send ${most} from ${from}`, (play) => play.send(from, most)]),
  },
  fc.constant<Action>(['fill', (play) => void play.fill()]),
  { weight: 3, arbitrary: fc.constant<Action>(['end round', (play) => play.endRound()]) },
  {
    weight: 4,
    arbitrary: fc
      .integer({ min: 1, max: 120 })
      .map((count): Action => [`deliver ${count}`, (play) => play.deliver(count)]),
  },
  { weight: 2, arbitrary: fc.constant<Action>(['acknowledge', (play) => play.acknowledge()]) },
  fc
    .constantFrom(true, true, false)
    .map((kept): Action => [kept ? 'break' : 'break, another', (play) => play.break(kept)]),
);

it('I7 after any number of breaks what may be missing there is sent again, and what may be there is known', () => {
  fc.assert(
    fc.property(fc.array(actions, { maxLength: 60, size: 'max' }), (program) => {
      const play = new Play();
      for (const [, act] of program) {
        act(play);
      }
      play.finish();
    }),
    effort(400, TIME_LIMIT_MS),
  );
});
