import fc from 'fast-check';
import { expect, it } from 'vitest';
import { MAX_ORDER } from '../../src/guest/buddy-allocator.js';
import { HoldSource, WalkSource } from '../../src/guest/range-sources.js';
import { PageBitmap, type PageRun } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { effort } from '../support/long.js';
import { NaiveHold, naiveWalk, pagesOfRanges } from '../support/naive-ranges.js';
import { bitmapOf, blocksOfPages, makeAllocator, pagesIn } from '../unit/guest/small-guest.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 700;
const SPAN = 1200;

/** Lengths of alternating runs of used and free pages. */
function runLengths(longest: number): fc.Arbitrary<number[]> {
  return fc.array(fc.integer({ min: 1, max: longest }), { minLength: 1, maxLength: 60, size: 'max' });
}

/** Which pages are free then; there is nothing free in a hole. */
function freePages(lengths: readonly number[], span: number, layout?: RamLayout): boolean[] {
  const flags = lengths.flatMap((length, i) => Array.from({ length }, () => i % 2 === 1));
  return Array.from(
    { length: span },
    (_, pfn) => flags[pfn] === true && (layout === undefined || layout.segmentOfPfn(pfn) !== undefined),
  );
}

/** Where RAM ends, how long the hole there is, and how long its segments are: their ends lie within blocks. */
const shapes = fc.record({
  firstEnd: fc.integer({ min: 1, max: 700 }),
  hole: fc.nat(300),
  segmentPages: fc.integer({ min: 33, max: 800 }),
});

function layoutOf({ firstEnd, hole, segmentPages }: typeof shapes extends fc.Arbitrary<infer T> ? T : never) {
  const second = firstEnd + hole;
  return new RamLayout(blocksOfPages([0, firstEnd], [second, SPAN - second]), segmentPages * 4096);
}

const orders = fc.oneof(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: MAX_ORDER }));

/** Each range as it must be, whatever is free: after the one before, in one segment, aligned, and of whole blocks. */
function expectWellFormed(ranges: readonly PageRun[], layout: RamLayout, minOrder: number): void {
  let end = 0;
  for (const { pfn, pageCount } of ranges) {
    expect(pfn).toBeGreaterThanOrEqual(end);
    expect(pageCount).toBeGreaterThan(0);
    expect(pfn % 2 ** minOrder).toBe(0);
    expect(pageCount % 2 ** minOrder).toBe(0);
    end = pfn + pageCount;
    const segment = layout.segmentOfPfn(pfn);
    expect(segment).toBeDefined();
    expect(end).toBeLessThanOrEqual(segment!.firstPfn + segment!.pageCount);
  }
}

it('walk reports the pages that its naive twin finds block by block, in the fewest ranges', () => {
  fc.assert(
    fc.property(runLengths(200), shapes, orders, (lengths, shape, minOrder) => {
      const layout = layoutOf(shape);
      const flags = freePages(lengths, SPAN, layout);
      const walk = new WalkSource(bitmapOf(flags), layout, minOrder);
      const run: PageRun = { pfn: 0, pageCount: 0 };
      for (let report = 0; report < 2; report += 1) {
        const ranges: PageRun[] = [];
        walk.begin();
        while (ranges.length <= SPAN && walk.nextInto(run)) {
          ranges.push({ ...run });
        }
        expect(run.pageCount).toBe(0);
        expect(pagesOfRanges(ranges)).toEqual(naiveWalk(flags, layout, minOrder));
        expectWellFormed(ranges, layout, minOrder);
        for (const [i, { pfn }] of ranges.entries()) {
          const before = ranges[i - 1];
          const touches = before !== undefined && before.pfn + before.pageCount === pfn;
          expect(touches && layout.segmentOfPfn(pfn) === layout.segmentOfPfn(before.pfn)).toBe(false);
        }
      }
    }),
    effort(300, TIME_LIMIT_MS),
  );
});

it('walk, while the guest goes on: what it reports is free at that moment, and what was free all along is reported', () => {
  const meanwhile = fc.array(
    fc.array(
      fc.record({ pfn: fc.nat(SPAN - 1), pages: fc.integer({ min: 1, max: 100 }), take: fc.boolean() }),
      {
        maxLength: 3,
      },
    ),
    { maxLength: 20, size: 'max' },
  );
  fc.assert(
    fc.property(
      runLengths(200),
      shapes,
      orders,
      meanwhile,
      fc.nat(20),
      (lengths, shape, minOrder, changes, moveAt) => {
        const layout = layoutOf(shape);
        const flags = freePages(lengths, SPAN, layout);
        const free = bitmapOf(flags);
        const always = [...flags];
        let walk = new WalkSource(free, layout, minOrder);
        walk.begin();
        const run: PageRun = { pfn: 0, pageCount: 0 };
        const ranges: PageRun[] = [];
        for (let step = 0; step <= SPAN && walk.nextInto(run); step += 1) {
          expect(free.nextClear(run.pfn, run.pfn + run.pageCount)).toBe(run.pfn + run.pageCount);
          ranges.push({ ...run });
          for (const { pfn, pages, take } of changes[step] ?? []) {
            const count = Math.min(pages, SPAN - pfn);
            if (take) {
              free.clearRange(pfn, count);
              always.fill(false, pfn, pfn + count);
            } else {
              for (let page = pfn; page < pfn + count; page += 1) {
                if (layout.segmentOfPfn(page) !== undefined) {
                  free.set(page);
                }
              }
            }
          }
          if (step === moveAt) {
            // The guest has been migrated: it goes on from the position alone.
            const { position } = walk;
            walk = new WalkSource(free, layout, minOrder);
            walk.position = position;
          }
        }
        expectWellFormed(ranges, layout, minOrder);
        const reported = new Set(pagesOfRanges(ranges));
        expect(naiveWalk(always, layout, minOrder).filter((pfn) => !reported.has(pfn))).toEqual([]);
      },
    ),
    effort(300, TIME_LIMIT_MS),
  );
});

/** What befalls a guest that holds blocks: the report goes on, is full, ends; the guest allocates and gives back. */
const happenings = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constantFrom('next', 'next, dropped') }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('shrink', 'finish') }) },
    fc.record({ kind: fc.constant('release') }),
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('allocate'), order: fc.integer({ min: 0, max: MAX_ORDER }) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('free'), which: fc.nat(50) }) },
  ) as fc.Arbitrary<{ readonly kind: string; readonly order?: number; readonly which?: number }>,
  { maxLength: 40, size: 'max' },
);

it('hold takes, keeps and gives back what its naive twin does, and never a page that the guest has', () => {
  const span = 300;
  // Below 0: all that is free but so many pages, so that a report ends for their sake, and at times exactly there.
  const keeps = fc.oneof(fc.constant(0), fc.nat(200), fc.integer({ min: -40, max: -1 }));
  fc.assert(
    fc.property(runLengths(60), orders, keeps, happenings, (lengths, minOrder, keep, program) => {
      const flags = freePages(lengths, span);
      const keepPages = keep < 0 ? Math.max(0, flags.filter(Boolean).length + keep) : keep;
      const { allocator } = makeAllocator(span);
      allocator.initialise(bitmapOf(flags));
      const held = PageBitmap.allocate(atomicMapper, span);
      const hold = new HoldSource(allocator, held, minOrder, keepPages);
      const twin = new NaiveHold(flags, minOrder, keepPages);
      const own: { readonly pfn: number; readonly order: number }[] = [];
      const run: PageRun = { pfn: 0, pageCount: 0 };
      hold.begin();
      for (const { kind, order = 0, which = 0 } of program) {
        if (kind.startsWith('next')) {
          const range = twin.next();
          expect(hold.nextInto(run)).toBe(range !== undefined);
          expect(range === undefined ? run.pageCount : { ...run }).toEqual(range ?? 0);
          if (kind === 'next, dropped' && range !== undefined) {
            hold.dropped(run);
            run.pageCount = 0; // as the driver does with a range that it has dropped
            twin.dropped(range);
          }
        } else if (kind === 'finish') {
          hold.finish();
          twin.finish();
        } else if (kind === 'release') {
          hold.release();
          twin.release();
        } else if (kind === 'shrink') {
          const before = pagesIn(held);
          expect(hold.shrink()).toBe(before.length > 0);
          const after = new Set(pagesIn(held));
          const given = before.filter((pfn) => !after.has(pfn));
          // One naturally aligned block of what was held.
          expect(given.length > 0).toBe(before.length > 0);
          expect(Number.isInteger(Math.log2(given.length || 1))).toBe(true);
          expect((given[0] ?? 0) % (given.length || 1)).toBe(0);
          expect((given.at(-1) ?? 0) - (given[0] ?? 0)).toBe(Math.max(0, given.length - 1));
          twin.giveBack(given);
        } else if (kind === 'allocate') {
          const pfn = allocator.allocate(order);
          expect(pfn).toBe(twin.buddy.allocate(order));
          if (pfn !== -1) {
            own.push({ pfn, order });
          }
        } else if (own.length > 0) {
          const [block] = own.splice(which % own.length, 1);
          allocator.release(block!.pfn, block!.order);
          twin.buddy.release(block!.pfn, block!.order);
        }
        expect(pagesIn(held)).toEqual([...twin.held].sort((a, b) => a - b));
        expect(pagesIn(allocator.free)).toEqual(twin.buddy.freePages());
        expect(allocator.inconsistency()).toBeUndefined();
      }
      // In the end all of it is the guest's again.
      hold.release();
      for (const { pfn, order } of own) {
        allocator.release(pfn, order);
      }
      expect(held.count()).toBe(0);
      expect(pagesIn(allocator.free)).toEqual(pagesIn(bitmapOf(flags)));
    }),
    effort(300, TIME_LIMIT_MS),
  );
});
