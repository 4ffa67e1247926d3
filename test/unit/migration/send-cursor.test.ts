import { beforeEach, describe, expect, it } from 'vitest';
import { xorshift32 } from '../../../src/guest/content.js';
import { gpaOf } from '../../../src/memory/page.js';
import { PageBitmap, type PageRun } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { SendCursor } from '../../../src/migration/send-cursor.js';

/** Two blocks with a hole between them, cut into segments of 333 pages: no border lies on a word. */
const LAYOUT = new RamLayout(
  [
    { startGpa: 0, endGpa: gpaOf(3000) },
    { startGpa: gpaOf(3100), endGpa: gpaOf(6007) },
  ],
  gpaOf(333),
);
const END = LAYOUT.pfnSpan;

/** A cursor, and a naive twin that knows which pages are still to come. */
class Twin {
  readonly send: PageBitmap = PageBitmap.allocate(atomicMapper, END);
  readonly claimed: PageBitmap = PageBitmap.allocate(atomicMapper, END);
  readonly left = new Set<number>();
  readonly order: number[] = [];
  readonly cursor: SendCursor;
  readonly #maxRunPages: number;
  readonly #run: PageRun = { pfn: 0, pageCount: 0 };

  constructor(maxRunPages = 256) {
    this.#maxRunPages = maxRunPages;
    this.cursor = new SendCursor(this.send, this.claimed, LAYOUT, maxRunPages);
  }

  want(pfn: number, pageCount = 1): void {
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      if (LAYOUT.segmentOfPfn(page) !== undefined) {
        this.send.set(page);
        this.left.add(page);
      }
    }
  }

  /** A hint clears a page that is not claimed yet. */
  hint(pfn: number): void {
    if (this.send.test(pfn)) {
      this.send.clear(pfn);
      this.left.delete(pfn);
    }
  }

  /** The next run, after all that is true of every run was checked; undefined if there is none. */
  next(frontier: number, ahead: boolean): PageRun | undefined {
    const run = this.#run;
    if (!this.cursor.nextInto(run, frontier, ahead)) {
      const missed = [...this.left].filter((pfn) => ahead || pfn < frontier);
      expect(missed, 'pages that were due and not returned').toEqual([]);
      return undefined;
    }
    expect(run.pageCount).toBeGreaterThan(0);
    expect(run.pageCount).toBeLessThanOrEqual(this.#maxRunPages);
    const segment = LAYOUT.segmentOfPfn(run.pfn);
    expect(segment).toBeDefined();
    expect(run.pfn + run.pageCount).toBeLessThanOrEqual(segment!.firstPfn + segment!.pageCount);
    for (let pfn = run.pfn; pfn < run.pfn + run.pageCount; pfn += 1) {
      if (!this.left.delete(pfn)) {
        expect.fail(`page ${pfn} was returned twice, or was not to be sent`);
      }
      if (this.send.test(pfn) || !this.claimed.test(pfn)) {
        expect.fail(`page ${pfn} was returned without having been claimed (I5)`);
      }
      this.order.push(pfn);
    }
    return run;
  }

  drain(frontier: number, ahead: boolean): void {
    while (this.next(frontier, ahead) !== undefined) {}
  }
}

let twin: Twin;

beforeEach(() => {
  twin = new Twin();
});

describe('runs', () => {
  it('returns all pages of full memory once, in ascending order, none of a hole', () => {
    twin.want(0, END);
    twin.drain(Number.POSITIVE_INFINITY, false);
    expect(twin.left.size).toBe(0);
    expect(twin.order).toHaveLength(LAYOUT.pageCount);
    expect(twin.order).toEqual([...twin.order].sort((a, b) => a - b));
  });

  it('ends a run where the segment ends', () => {
    twin.want(330, 10);
    expect({ ...twin.next(END, false) }).toEqual({ pfn: 330, pageCount: 3 });
    expect({ ...twin.next(END, false) }).toEqual({ pfn: 333, pageCount: 7 });
  });

  it('makes one run of what goes on over words', () => {
    twin.want(5, 150);
    expect({ ...twin.next(END, false) }).toEqual({ pfn: 5, pageCount: 150 });
  });

  it.each([1, 7, 32, 33])('makes no run longer than %i', (maxRunPages) => {
    twin = new Twin(maxRunPages);
    twin.want(3, 300);
    twin.want(700, 90);
    twin.drain(END, false);
    expect(twin.order).toHaveLength(390);
  });

  it('returns nothing of a page that was hinted in time', () => {
    twin.want(10, 100);
    twin.hint(40);
    twin.drain(END, false);
    expect(twin.order).not.toContain(40);
    expect(twin.order).toHaveLength(99);
  });
});

describe('behind and ahead of the frontier', () => {
  it('behind it only, unless it is told to go ahead', () => {
    twin.want(100, 200);
    twin.drain(150, false);
    expect(twin.order).toEqual(Array.from({ length: 50 }, (_, i) => 100 + i));
    twin.drain(180, false);
    expect(twin.order).toHaveLength(80);
  });

  it('ahead: a chunk from the far end, ascending within it, then the chunk below', () => {
    twin.want(0, END);
    twin.next(0, true);
    expect(twin.order[0]).toBe(Math.floor((END - 2048) / 32) * 32); // claims are a word at a time
    twin.drain(0, true);
    expect(twin.left.size).toBe(0);
    const firstOfLast = twin.order.indexOf(0);
    expect(firstOfLast).toBeGreaterThan(2048);
    expect(twin.order.slice(firstOfLast)).toEqual([...twin.order.slice(firstOfLast)].sort((a, b) => a - b));
  });

  it('what is behind comes before what is ahead', () => {
    twin.want(10, 5);
    twin.want(4000, 5);
    twin.next(100, true);
    expect(twin.order).toEqual([10, 11, 12, 13, 14]);
    twin.next(100, true);
    expect(twin.order.at(-1)).toBe(4004);
  });

  it('a frontier that overtakes the chunk, or falls back to 0, loses and repeats nothing', () => {
    twin.want(0, END);
    for (const frontier of [0, 100, 5500, 0, 200, 6007, 50, 0]) {
      for (let i = 0; i < 4; i += 1) {
        twin.next(frontier, true);
      }
    }
    twin.drain(0, true);
    expect(twin.left.size).toBe(0);
  });

  it('nothing ahead is touched as long as it is not told to', () => {
    twin.want(0, END);
    twin.drain(1000, false);
    expect(twin.send.count()).toBe(LAYOUT.pageCount - 1000);
    expect(twin.claimed.count()).toBe(1000);
  });
});

describe('giveBack', () => {
  it('puts back what was claimed and not returned, and nothing else', () => {
    twin.want(64, 4);
    twin.want(70, 4); // the same word: claimed together, returned in two runs
    twin.next(END, false);
    expect(twin.send.count()).toBe(0);
    twin.cursor.giveBack();
    expect([...twin.left].every((pfn) => twin.send.test(pfn))).toBe(true);
    expect(twin.send.count()).toBe(4);
    expect(twin.claimed.count()).toBe(4);
    twin.cursor.giveBack();
    expect(twin.send.count()).toBe(4);
  });

  it('a round that goes on after it returns the rest', () => {
    twin.want(64, 4);
    twin.want(70, 4);
    twin.next(END, false);
    twin.cursor.giveBack();
    twin.cursor.restart();
    twin.drain(END, false);
    expect(twin.left.size).toBe(0);
  });
});

describe('against the naive twin', () => {
  it.each(Array.from({ length: 60 }, (_, i) => i + 1))(
    'any mixture of calls, hints and frontiers returns each page once, seed %i',
    (seed) => {
      let state = seed * 7919;
      const random = (below: number): number => {
        state = xorshift32(state);
        return state % below;
      };
      twin = new Twin(1 + random(300));
      for (let round = 0; round < 2; round += 1) {
        for (let i = random(60); i >= 0; i -= 1) {
          twin.want(random(END - 400), 1 + random(400));
        }
        let frontier = 0;
        for (let calls = random(300); calls > 0; calls -= 1) {
          const what = random(10);
          if (what === 0) {
            twin.hint(random(END));
          } else if (what === 1) {
            frontier = random(8) === 0 ? 0 : Math.min(END, frontier + random(900));
          } else {
            twin.next(frontier, random(3) === 0);
          }
        }
        twin.drain(0, true);
        expect(twin.left.size, `seed ${seed}`).toBe(0);
        twin.cursor.restart();
        twin.claimed.clearAll();
      }
    },
  );
});
