import fc from 'fast-check';
import { expect, it } from 'vitest';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import type { PageBitmap, PageRun } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { PageAccounts } from '../../src/migration/page-accounts.js';
import { SendCursor } from '../../src/migration/send-cursor.js';
import { effort } from '../support/long.js';
import { NaiveAccounts } from '../support/naive-accounts.js';
import { blocksOfPages } from '../unit/guest/small-guest.js';

/** For each of the two layouts. */
const TIME_LIMIT_MS = 900;
/** Pages that are taken from the far end at a time (the cursor's constant), and those that share their first word. */
const CHUNK_PAGES = 2048;
const WORD_PAGES = 32;

/** As `expect`, for what is looked at so often that its price counts. */
function must(holds: boolean, what: string, ...numbers: readonly number[]): void {
  if (!holds) {
    expect.fail(`${what}: ${numbers.join(', ')}`);
  }
}

/** A cursor on its accounts, and the naive twin that is told the same. */
class Play {
  readonly layout: RamLayout;
  readonly accounts: PageAccounts;
  readonly cursor: SendCursor;
  readonly twin: NaiveAccounts;
  /** What is claimed and has not been returned. */
  readonly held: Set<number> = new Set();
  /** To be sent again, although the cursor may have passed it in this round. */
  readonly putBack: Set<number> = new Set();
  readonly #maxRunPages: number;
  readonly #run: PageRun = { pfn: 0, pageCount: 0 };
  #pending = 0;
  #added = 0;
  #returned = 0;

  constructor(layout: RamLayout, maxRunPages: number) {
    this.layout = layout;
    this.accounts = new PageAccounts(layout);
    this.cursor = new SendCursor(this.accounts.send, this.accounts.claimed, layout, maxRunPages);
    this.twin = new NaiveAccounts(layout.pfnSpan);
    this.#maxRunPages = maxRunPages;
    this.accounts.sendAll();
    for (let pfn = 0; pfn < layout.pfnSpan; pfn += 1) {
      if (layout.segmentOfPfn(pfn) !== undefined) {
        this.twin.send.add(pfn);
      }
    }
    this.beginRound();
  }

  beginRound(): void {
    this.#pending = this.accounts.beginRound();
    expect(this.#pending).toBe(this.twin.beginRound());
    this.cursor.restart();
    this.putBack.clear();
    this.#added = 0;
    this.#returned = 0;
  }

  /** Every page of the round is one of these. */
  endRound(): void {
    this.giveBack();
    this.checkPages();
    const { roundSkipped, roundFillsDue, send } = this.accounts;
    expect(this.#returned + roundSkipped + roundFillsDue + send.count()).toBe(this.#pending + this.#added);
    this.beginRound();
  }

  beginSession(poison: number): void {
    this.accounts.beginSession(poison);
    this.twin.beginSession(poison);
  }

  settle(): void {
    this.accounts.settleVain();
    this.twin.settleVain();
  }

  hint(gpa: number, lengthBytes: number): void {
    const before = this.accounts.send.count();
    expect(this.accounts.hint(gpa, lengthBytes)).toBe(this.twin.hint(gpa, lengthBytes));
    expect(this.accounts.send.count()).toBeLessThanOrEqual(before); // a hint adds no page
  }

  dirty(pages: readonly number[]): void {
    const words = new Map<number, number>();
    for (const pfn of pages) {
      words.set(pfn >>> 5, (words.get(pfn >>> 5) ?? 0) | (1 << (pfn & 31)));
    }
    for (const [word, bits] of words) {
      this.accounts.addDirty(word, bits);
    }
    const added = pages.filter((pfn) => !this.twin.send.has(pfn));
    this.#added += added.length;
    for (const pfn of added) {
      this.putBack.add(pfn);
    }
    this.twin.addDirty(pages);
  }

  giveBack(): void {
    this.cursor.giveBack();
    for (const pfn of this.held) {
      this.#added -= this.twin.send.has(pfn) ? 1 : 0; // it was dirtied meanwhile, and counts once
      this.twin.giveBack(pfn);
      this.putBack.add(pfn);
    }
    this.held.clear();
  }

  /** The next run, sent as data or found to be zero; false: there is none. */
  claim(frontier: number, ahead: boolean, zero: boolean): boolean {
    const { twin, accounts, held } = this;
    const run = this.#run;
    const due = this.#due();
    const hadHeld = held.size > 0;
    if (!this.cursor.nextInto(run, frontier, ahead)) {
      must(!hadHeld, 'pages were claimed and not returned', ...held);
      must(due.lowest >= (ahead ? Number.POSITIVE_INFINITY : frontier), 'a page was passed over', due.lowest);
      return false;
    }
    const end = run.pfn + run.pageCount;
    const couldGoOn = twin.send.has(end) || held.has(end);
    this.#noteClaims(run, frontier, ahead);
    for (let pfn = run.pfn; pfn < end; pfn += 1) {
      must(held.delete(pfn), 'a page was returned and not claimed before (I5), or returned twice', pfn);
    }
    // Of the last word of a run what is not part of it, and no more (ADR 7).
    must(held.size < WORD_PAGES, 'pages are claimed that the run has not reached', ...held);
    this.#checkRun(run, couldGoOn && !hadHeld, frontier);
    if (!hadHeld) {
      this.#checkOrder(run.pfn, due, frontier);
    }
    for (let pfn = run.pfn; pfn < end; pfn += 1) {
      if (zero) {
        twin.copied.delete(pfn);
      } else {
        twin.copied.add(pfn);
      }
    }
    if (zero) {
      accounts.copied.clearRange(run.pfn, run.pageCount);
    } else {
      accounts.copied.setRange(run.pfn, run.pageCount);
    }
    this.#returned += run.pageCount;
    return true;
  }

  fill(from: number): boolean {
    const run: PageRun = { pfn: 0, pageCount: 0 };
    const found = this.accounts.takeFillInto(run, from);
    const expected = this.twin.takeFill(from, (pfn) => this.layout.segmentOfPfn(pfn));
    expect(found ? run : undefined).toEqual(expected);
    return found;
  }

  /** Sizes and numbers: cheap, for after each step. */
  check(): void {
    const { accounts, twin } = this;
    expect(accounts.hints).toEqual(twin.hints);
    expect({
      send: accounts.send.count(),
      claimed: accounts.claimed.count(),
      copied: accounts.copied.count(),
      skipped: accounts.skipped.count(),
      fill: accounts.fill.count(),
      fillsLeft: accounts.fillsLeft,
      dirtied: accounts.dirtied,
      frontier: accounts.frontier,
      roundSkipped: accounts.roundSkipped,
      roundFillsDue: accounts.roundFillsDue,
    }).toEqual({
      send: twin.send.size,
      claimed: twin.claimed.size,
      copied: twin.copied.size,
      skipped: twin.skipped.size,
      fill: twin.fill.size,
      fillsLeft: twin.fill.size,
      dirtied: twin.dirtied,
      frontier: twin.frontier,
      roundSkipped: twin.roundSkipped,
      roundFillsDue: twin.roundFillsDue,
    });
  }

  /** Page by page. */
  checkPages(): void {
    this.check();
    const has = (bitmap: PageBitmap, pages: ReadonlySet<number>): number[] =>
      [...pages].filter((pfn) => !bitmap.test(pfn));
    const { accounts, twin } = this;
    expect({
      send: has(accounts.send, twin.send),
      claimed: has(accounts.claimed, twin.claimed),
      copied: has(accounts.copied, twin.copied),
      skipped: has(accounts.skipped, twin.skipped),
      fill: has(accounts.fill, twin.fill),
    }).toEqual({ send: [], claimed: [], copied: [], skipped: [], fill: [] });
  }

  /** Pages of the run's words that are not to be sent any more were claimed: for the run, or to come next. */
  #noteClaims(run: PageRun, frontier: number, ahead: boolean): void {
    const first = (run.pfn >>> 5) * WORD_PAGES;
    const last = ((run.pfn + run.pageCount) >>> 5) * WORD_PAGES + WORD_PAGES;
    for (let pfn = first; pfn < last; pfn += 1) {
      if (this.twin.send.has(pfn) && !this.accounts.send.test(pfn)) {
        must(this.accounts.claimed.test(pfn), 'a page was taken and is not among the claimed', pfn);
        must(ahead || pfn < frontier, 'a page was claimed that hints have not passed by', pfn, frontier);
        this.twin.claim(pfn);
        this.held.add(pfn);
      }
    }
  }

  #checkRun({ pfn, pageCount }: PageRun, couldGoOn: boolean, frontier: number): void {
    const { firstPfn, pageCount: segmentPages } = this.layout.segmentOfPfn(pfn)!;
    const end = pfn + pageCount;
    const segmentEnd = firstPfn + segmentPages;
    must(pageCount > 0 && pageCount <= this.#maxRunPages, 'a run of no pages, or of too many', pageCount);
    must(end <= segmentEnd, 'a run that goes on behind its segment', end, segmentEnd);
    // Neighbours leave as one run, unless something ends it.
    const isEnd = end === segmentEnd || end === frontier || pageCount === this.#maxRunPages;
    must(!couldGoOn || isEnd || this.putBack.has(end), 'a run that could have gone on', pfn, end);
  }

  /** Behind the frontier from the lowest page up; ahead of it from the far end, in chunks. */
  #checkOrder(
    pfn: number,
    due: { readonly lowest: number; readonly highest: number },
    frontier: number,
  ): void {
    must(due.lowest >= Math.min(pfn, frontier), 'a page below should have come first', due.lowest, pfn);
    const isFarEnd = due.highest < pfn + CHUNK_PAGES + WORD_PAGES;
    must(pfn < frontier || isFarEnd, 'a page at the far end should have come first', due.highest, pfn);
  }

  /** The ends of what is to be sent and the cursor can't have passed in this round: it has to come. */
  #due(): { readonly lowest: number; readonly highest: number } {
    let lowest = Number.POSITIVE_INFINITY;
    let highest = -1;
    for (const pfn of this.twin.send) {
      if (!this.putBack.has(pfn)) {
        lowest = Math.min(lowest, pfn);
        highest = Math.max(highest, pfn);
      }
    }
    return { lowest, highest };
  }
}

type Action = readonly [name: string, act: (play: Play) => void];

function actions(layout: RamLayout): fc.Arbitrary<Action> {
  const { pfnSpan } = layout;
  const pages = fc.nat(pfnSpan - 1);
  const lengths = fc.oneof(
    fc.integer({ min: 1, max: 70 }),
    fc.integer({ min: 1, max: Math.ceil(pfnSpan / 4) }),
  );
  // Mostly whole pages; now and then a range with ragged ends, perhaps with no whole page in it.
  const edges = fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.integer({ min: -4096, max: 4096 }));
  const hint = (play: Play, pfn: number, pageCount: number, from: number, to: number): void => {
    const end = gpaOf(pfnSpan);
    const gpa = Math.min(Math.max(gpaOf(pfn) + from, 0), end - 1);
    const endGpa = Math.min(gpaOf(pfn) + pageCount * PAGE_SIZE + to, end);
    play.hint(gpa, Math.max(1, endGpa - gpa));
  };
  const runOfPages = fc
    .tuple(pages, lengths)
    .map(([pfn, length]) => Array.from({ length: Math.min(length, pfnSpan - pfn) }, (_, i) => pfn + i));
  const inRam = (pfn: number): boolean => layout.segmentOfPfn(pfn) !== undefined;
  const claims = fc.record({
    frontier: fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom('of the hints', 'none') },
      fc.nat(pfnSpan + 1),
    ),
    ahead: fc.boolean(),
    zero: fc.boolean(),
    times: fc.integer({ min: 1, max: 20 }),
  });
  return fc.oneof(
    {
      weight: 3,
      arbitrary: fc
        .tuple(pages, lengths, edges, edges)
        .map((args): Action => [`hint ${args.join(', ')}`, (play) => hint(play, ...args)]),
    },
    {
      // In ascending order, as a walk's are.
      weight: 4,
      arbitrary: fc.tuple(fc.nat(100), lengths).map(
        ([gap, length]): Action => [
          `hint ${length} pages ${gap} on`,
          (play) => {
            const pfn = play.accounts.frontier + gap;
            if (pfn + length <= pfnSpan) {
              hint(play, pfn, length, 0, 0);
            }
          },
        ],
      ),
    },
    {
      weight: 2,
      arbitrary: fc
        .oneof(runOfPages, fc.uniqueArray(pages, { maxLength: 20 }))
        .map((list) => list.filter(inRam))
        .map((list): Action => [`dirty ${list.join(', ')}`, (play) => play.dirty(list)]),
    },
    {
      weight: 8,
      arbitrary: claims.map(
        ({ frontier, ahead, zero, times }): Action => [
          `claim ${times} times, frontier ${frontier}${ahead ? ', ahead' : ''}${zero ? ', of zeroes' : ''}`,
          (play) => {
            for (let i = 0; i < times; i += 1) {
              const at = frontier === 'of the hints' ? play.accounts.frontier : Number.POSITIVE_INFINITY;
              if (!play.claim(typeof frontier === 'number' ? frontier : at, ahead, zero)) {
                return;
              }
            }
          },
        ],
      ),
    },
    {
      weight: 2,
      arbitrary: pages.map((from): Action => [`fill from ${from}`, (play) => void play.fill(from)]),
    },
    fc.constant<Action>([
      'all fills',
      (play) => {
        while (play.fill(0)) {}
      },
    ]),
    fc
      .constantFrom(0, 0xaaaa_aaaa)
      .map((poison): Action => [`begin session, poison ${poison}`, (play) => play.beginSession(poison)]),
    fc.constant<Action>(['settle', (play) => play.settle()]),
    fc.constant<Action>(['give back', (play) => play.giveBack()]),
    fc.constant<Action>(['end round', (play) => play.endRound()]),
  );
}

it.each([
  ['small', new RamLayout(blocksOfPages([0, 100], [140, 160]), gpaOf(70)), { numRuns: 250, maxLength: 60 }],
  [
    'of several chunks',
    new RamLayout(blocksOfPages([0, 3000], [3100, 2907]), gpaOf(333)),
    { numRuns: 50, maxLength: 40 },
  ],
] as const)(
  'I3 I5 claims, hints, the log and fills do what they do to plain sets of pages, in memory that is %s',
  (_, layout, { numRuns, maxLength }) => {
    const programs = fc.array(actions(layout), { maxLength, size: 'max' });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), programs, fc.boolean(), (maxRunPages, program, ahead) => {
        const play = new Play(layout, maxRunPages);
        for (const [, act] of program) {
          act(play);
          play.check();
        }
        // Whatever is pending is returned, at the latest in the next round.
        play.endRound();
        while (play.claim(ahead ? 0 : Number.POSITIVE_INFINITY, ahead, false)) {}
        while (play.fill(0)) {}
        play.settle();
        expect(play.accounts.send.count()).toBe(0);
        expect(play.accounts.fill.count()).toBe(0);
        play.endRound();
      }),
      effort(numRuns, TIME_LIMIT_MS),
    );
  },
);
