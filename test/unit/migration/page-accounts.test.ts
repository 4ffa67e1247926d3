import { beforeEach, describe, expect, it } from 'vitest';
import { xorshift32 } from '../../../src/guest/content.js';
import { DirtyLog } from '../../../src/memory/dirty-log.js';
import { gpaOf, PAGE_SIZE } from '../../../src/memory/page.js';
import { PageBitmap, type PageRun } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { PageAccounts } from '../../../src/migration/page-accounts.js';

const LAYOUT = new RamLayout(
  [
    { startGpa: 0, endGpa: gpaOf(100) },
    { startGpa: gpaOf(140), endGpa: gpaOf(300) },
  ],
  gpaOf(70),
);

let accounts: PageAccounts;
let log: DirtyLog;

beforeEach(() => {
  accounts = new PageAccounts(LAYOUT);
  log = new DirtyLog(PageBitmap.allocate(atomicMapper, LAYOUT.pfnSpan));
});

/** Hints whole pages. */
function hint(pfn: number, pageCount: number): boolean {
  return accounts.hint(gpaOf(pfn), pageCount * PAGE_SIZE);
}

/** Claims a page as the cursor does, and notes that the destination has it. */
function sendPage(pfn: number): void {
  accounts.send.clear(pfn);
  accounts.claimed.set(pfn);
  accounts.copied.set(pfn);
}

function pagesOf(bitmap: PageBitmap): number[] {
  const pages: number[] = [];
  for (let pfn = bitmap.nextSet(0); pfn < bitmap.pageCount; pfn = bitmap.nextSet(pfn + 1)) {
    pages.push(pfn);
  }
  return pages;
}

function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

describe('the first round', () => {
  it('sends every page of RAM and none of a hole', () => {
    accounts.sendAll();
    expect(accounts.beginRound()).toBe(LAYOUT.pageCount);
    expect(pagesOf(accounts.send)).toEqual([...range(0, 100), ...range(140, 160)]);
  });
});

describe('I3 a hint', () => {
  it('I3 clears the send bitmap and nothing else: not the log, not what was claimed or copied', () => {
    accounts.sendAll();
    accounts.beginRound();
    sendPage(20);
    accounts.copied.setRange(30, 5);
    log.markRange(10, 40);
    hint(10, 40);
    expect(pagesOf(log.bitmap)).toEqual(range(10, 40));
    expect(pagesOf(accounts.claimed)).toEqual([20]);
    expect(pagesOf(accounts.copied)).toEqual([20, ...range(30, 5)]);
    expect(pagesOf(accounts.send)).toEqual([...range(0, 10), ...range(50, 50), ...range(140, 160)]);
    expect(pagesOf(accounts.skipped)).toEqual([...range(10, 10), ...range(21, 29)]);
  });

  it('I3 what the log holds is put back, whatever any hint has said', () => {
    accounts.sendAll();
    accounts.beginRound();
    log.mark(15);
    hint(10, 10);
    expect(accounts.send.test(15)).toBe(false);
    log.drainSlice(accounts);
    expect(accounts.send.test(15)).toBe(true);
    expect(accounts.skipped.test(15)).toBe(false);
    expect(accounts.send.test(14)).toBe(false);
    expect(accounts.hints.reDirtied).toBe(1);
    expect(accounts.dirtied).toBe(1);
  });

  it('I3 and may be hinted again in the next session', () => {
    accounts.sendAll();
    accounts.beginRound();
    hint(10, 10);
    log.mark(15);
    log.drainSlice(accounts);
    accounts.beginSession();
    accounts.beginRound();
    hint(15, 1);
    expect(accounts.send.test(15)).toBe(false);
    expect(accounts.hints).toMatchObject({ applied: 11, reDirtied: 1 });
  });

  it('is refused if no whole page lies in it', () => {
    accounts.sendAll();
    expect(accounts.hint(100, PAGE_SIZE)).toBe(false);
    expect(accounts.hint(0, PAGE_SIZE - 1)).toBe(false);
    expect(accounts.send.count()).toBe(LAYOUT.pageCount);
    expect(accounts.hints.hinted).toBe(0);
  });

  it('covers the whole pages within it', () => {
    accounts.sendAll();
    expect(accounts.hint(gpaOf(30) + 1, gpaOf(66) - 2)).toBe(true);
    expect(pagesOf(accounts.skipped)).toEqual(range(31, 64));
  });
});

describe('a hinted page of which the destination has a copy', () => {
  beforeEach(() => {
    accounts.sendAll();
    accounts.beginRound();
    accounts.copied.setRange(60, 20); // over the end of a segment, at 70
    hint(50, 40);
  });

  it('is due for a fill, the others are skipped', () => {
    expect(pagesOf(accounts.fill)).toEqual(range(60, 20));
    expect(accounts.roundFillsDue).toBe(20);
    expect(accounts.roundSkipped).toBe(20);
  });

  it('is filled once, in runs that end where segments do, and is a copy no more', () => {
    const run: PageRun = { pfn: 0, pageCount: 0 };
    const runs: PageRun[] = [];
    for (let from = 0; accounts.takeFillInto(run, from); from = run.pfn + run.pageCount) {
      runs.push({ ...run });
    }
    expect(runs).toEqual([
      { pfn: 60, pageCount: 10 },
      { pfn: 70, pageCount: 10 },
    ]);
    expect(accounts.fill.count()).toBe(0);
    expect(accounts.copied.count()).toBe(0);
    expect(accounts.takeFillInto(run, 0)).toBe(false);
  });
});

describe('P5 hinted pages of a guest that poisons what it frees', () => {
  const taken = (): PageRun[] => {
    const run: PageRun = { pfn: 0, pageCount: 0 };
    const runs: PageRun[] = [];
    for (let from = 0; accounts.takeFillInto(run, from); from = run.pfn + run.pageCount) {
      runs.push({ ...run });
    }
    return runs;
  };

  it('are all due for a fill, copied or not, and the destination holds something of them afterwards', () => {
    accounts.sendAll();
    accounts.beginRound();
    accounts.beginSession(0xaaaa_aaaa);
    sendPage(55);
    hint(50, 10);
    hint(52, 2); // twice: once is enough
    expect(accounts.hints).toMatchObject({ applied: 9, alreadySent: 1, notPending: 2 });
    expect({ due: accounts.roundFillsDue, skipped: accounts.roundSkipped, left: accounts.fillsLeft }).toEqual(
      {
        due: 9,
        skipped: 0,
        left: 9,
      },
    );
    expect(taken()).toEqual([
      { pfn: 50, pageCount: 5 },
      { pfn: 56, pageCount: 4 },
    ]);
    expect(accounts.fillsLeft).toBe(0);
    expect(pagesOf(accounts.copied)).toEqual(range(50, 10));
    // Without poison in the next session, what was filled must not stay so.
    accounts.beginSession();
    log.markRange(50, 2);
    log.drainSlice(accounts);
    hint(50, 2);
    expect(taken()).toEqual([{ pfn: 50, pageCount: 2 }]);
    expect(accounts.copied.test(50)).toBe(false);
  });

  it('are filled 4 MiB at a time', () => {
    accounts = new PageAccounts(new RamLayout([{ startGpa: 0, endGpa: gpaOf(5000) }]));
    accounts.sendAll();
    accounts.beginRound();
    accounts.beginSession(1);
    hint(100, 2500);
    expect(taken().map(({ pageCount }) => pageCount)).toEqual([1024, 1024, 452]);
  });
});

describe('what was sent in vain', () => {
  beforeEach(() => {
    accounts.sendAll();
    accounts.beginRound();
    sendPage(10);
    sendPage(11);
    hint(9, 3);
  });

  it('a page that was sent, hinted, and not written since the id was issued', () => {
    accounts.settleVain();
    expect(accounts.hints).toMatchObject({ hinted: 3, applied: 1, alreadySent: 2, sentInVain: 2 });
    accounts.settleVain();
    expect(accounts.hints.sentInVain).toBe(2);
  });

  it('not one that was written: it had to go', () => {
    log.mark(11);
    log.drainSlice(accounts);
    accounts.settleVain();
    expect(accounts.hints.sentInVain).toBe(1);
  });

  it('claims of an earlier round do not count', () => {
    accounts.beginRound();
    hint(10, 2);
    expect(accounts.hints).toMatchObject({ alreadySent: 2, notPending: 2 });
  });
});

describe('the frontier', () => {
  it('follows hints that come in ascending order', () => {
    accounts.beginSession();
    hint(10, 5);
    expect(accounts.frontier).toBe(15);
    hint(20, 1);
    expect(accounts.frontier).toBe(21);
  });

  it('is given up for good once they do not, and is there again in the next session', () => {
    accounts.beginSession();
    hint(50, 5);
    hint(10, 5);
    expect(accounts.frontier).toBe(0);
    hint(90, 5);
    expect(accounts.frontier).toBe(0);
    accounts.beginSession();
    hint(10, 5);
    expect(accounts.frontier).toBe(15);
  });
});

describe('the books', () => {
  it.each(Array.from({ length: 30 }, (_, i) => i + 1))(
    'hints add up and rounds balance, whatever happens in them, seed %i',
    (seed) => {
      let state = seed * 104_729;
      const random = (below: number): number => {
        state = xorshift32(state);
        return state % below;
      };
      accounts.sendAll();
      const pfns = pagesOf(accounts.send);
      for (let round = 0; round < 4; round += 1) {
        const pending = accounts.beginRound();
        accounts.beginSession();
        let sent = 0;
        for (let i = 0; i < 60; i += 1) {
          const pfn = pfns[random(pfns.length)]!;
          const what = random(3);
          if (what === 0) {
            hint(pfn, 1 + random(Math.min(40, LAYOUT.pfnSpan - pfn)));
          } else if (what === 1 && accounts.send.test(pfn)) {
            sendPage(pfn);
            sent += 1;
          } else {
            log.mark(pfn);
          }
        }
        const due = accounts.fill.count();
        expect(accounts.roundFillsDue, `seed ${seed}`).toBe(due);
        expect(sent + accounts.roundSkipped + due + accounts.send.count(), `seed ${seed}`).toBe(pending);
        const run: PageRun = { pfn: 0, pageCount: 0 };
        while (accounts.takeFillInto(run, 0)) {}
        const { hinted, applied, alreadySent, notPending } = accounts.hints;
        expect(applied + alreadySent + notPending, `seed ${seed}`).toBe(hinted);
        log.drainSlice(accounts);
        accounts.settleVain();
      }
    },
  );
});
