import fc from 'fast-check';
import { expect, it } from 'vitest';
import { PageBitmap, type PageRun } from '../../src/memory/page-bitmap.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { effort } from '../support/long.js';
import { NaiveBitmap } from '../support/naive-bitmap.js';

/** For each property: both together stay below 5 s. */
const TIME_LIMIT_MS = 800;

/** One call, on the bitmap or on its twin; what it answers. */
type Call = (bitmap: PageBitmap | NaiveBitmap) => unknown;

function nextRun(bitmap: PageBitmap | NaiveBitmap, from: number, limit: number): PageRun | undefined {
  if (bitmap instanceof NaiveBitmap) {
    return bitmap.nextRun(from, limit);
  }
  const run = { pfn: -1, pageCount: -1 };
  return bitmap.nextRunInto(run, from, limit) ? run : undefined;
}

/** A call with its arguments in its name, so that a failure can be read. */
function named(name: string, args: readonly number[], call: Call): Call {
  return Object.assign(call, { [fc.toStringMethod]: () => `${name}(${args.join(', ')})` });
}

function calls(pageCount: number): fc.Arbitrary<Call> {
  const words = Math.ceil(pageCount / 32);
  const page = fc.nat(pageCount - 1);
  // `from` and `limit` in either order, both up to the end; often there, or where a word ends.
  const wordEnd = fc.nat(words).map((word) => Math.min(word * 32, pageCount));
  const bound = fc.oneof(fc.nat(pageCount), wordEnd, fc.constant(pageCount));
  const bounds = fc.tuple(bound, bound);
  const run = page.chain((pfn) => fc.tuple(fc.constant(pfn), fc.nat(pageCount - pfn)));
  return fc.oneof(
    page.map((pfn) => named('set', [pfn], (b) => b.set(pfn))),
    page.map((pfn) => named('clear', [pfn], (b) => b.clear(pfn))),
    page.map((pfn) => named('test', [pfn], (b) => b.test(pfn))),
    { weight: 3, arbitrary: run.map((r) => named('setRange', r, (b) => b.setRange(...r))) },
    { weight: 2, arbitrary: run.map((r) => named('clearRange', r, (b) => b.clearRange(...r))) },
    bounds.map((b) => named('nextSet', b, (bitmap) => bitmap.nextSet(...ordered(b)))),
    bounds.map((b) => named('nextClear', b, (bitmap) => bitmap.nextClear(...ordered(b)))),
    bounds.map((b) => named('nextRun', b, (bitmap) => nextRun(bitmap, ...ordered(b)))),
    fc.tuple(fc.nat(words), fc.nat(words)).map((w) => named('count', w, (bitmap) => bitmap.count(...w))),
    { weight: 1, arbitrary: fc.constant(named('clearAll', [], (b) => b.clearAll())) },
  );
}

function ordered([a, b]: readonly [number, number]): [number, number] {
  return a <= b ? [a, b] : [b, a];
}

const programs = fc
  .oneof(
    fc.integer({ min: 1, max: 200 }),
    fc.integer({ min: 1, max: 6 }).map((words) => words * 32),
  )
  .chain((pageCount) =>
    fc.tuple(fc.constant(pageCount), fc.array(calls(pageCount), { maxLength: 60, size: 'max' })),
  );

it('answers like its naive twin, whatever is asked of it', () => {
  fc.assert(
    fc.property(programs, fc.boolean(), ([pageCount, program], own) => {
      const bitmap = own
        ? PageBitmap.allocateOwn(atomicMapper, pageCount)
        : PageBitmap.allocate(atomicMapper, pageCount);
      const twin = new NaiveBitmap(pageCount);
      for (const call of program) {
        expect(call(bitmap)).toEqual(call(twin));
      }
      const pages = Array.from({ length: pageCount }, (_, pfn) => pfn).filter((pfn) => bitmap.test(pfn));
      expect(pages).toEqual([...twin.pages].sort((a, b) => a - b));
      expect(bitmap.count()).toBe(twin.count());
    }),
    effort(1500, TIME_LIMIT_MS),
  );
});

it('walks its runs so that each page is visited once, and no two runs touch', () => {
  const bitmaps = fc.tuple(
    fc.integer({ min: 1, max: 300 }),
    fc.array(fc.nat(299), { maxLength: 200, size: 'max' }),
  );
  fc.assert(
    fc.property(bitmaps, fc.nat(300), ([pageCount, set], from) => {
      const bitmap = PageBitmap.allocate(atomicMapper, pageCount);
      const pages = new Set(set.filter((pfn) => pfn < pageCount));
      for (const pfn of pages) {
        bitmap.set(pfn);
      }
      const run = { pfn: 0, pageCount: 0 };
      const visited: number[] = [];
      let end = -1;
      for (let at = from; bitmap.nextRunInto(run, at); at = run.pfn + run.pageCount) {
        expect(run.pfn).toBeGreaterThan(end);
        end = run.pfn + run.pageCount;
        visited.push(...Array.from({ length: run.pageCount }, (_, i) => run.pfn + i));
      }
      expect(visited).toEqual([...pages].filter((pfn) => pfn >= from).sort((a, b) => a - b));
    }),
    effort(500, TIME_LIMIT_MS),
  );
});
