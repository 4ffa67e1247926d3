import { expect, it } from 'vitest';
import type { BenchRun } from '../../../src/report/schema.js';
import { spreadOf, withMedianMaps } from '../../../src/report/summary.js';

function run(baseline: string, ms: number, guest = 'a'): BenchRun {
  const pages = { counts: {}, pfnSpan: 1, map: 'map' };
  const point = { series: guest, value: null };
  return { guest, freeMemory: 'data', baseline, 'total-time': ms, pages, point } as unknown as BenchRun;
}

it('keeps the map of the middle one of the runs that are alike, and everything else of all', () => {
  const runs = [
    run('none', 5),
    run('both', 9),
    run('both', 7),
    run('both', 8),
    run('none', 4),
    run('none', 1, 'b'),
  ];
  const kept = withMedianMaps(runs);
  expect(kept.map(({ pages }) => pages.map !== null)).toEqual([false, false, false, true, true, true]);
  expect(kept.map((some) => some['total-time'])).toEqual(runs.map((some) => some['total-time']));
});

it('spreads', () => {
  expect(spreadOf([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3 });
  expect(spreadOf([4, 1, 2, 3])).toEqual({ median: 2.5, min: 1, max: 4 });
  expect(spreadOf([])).toEqual({ median: Number.NaN, min: Number.NaN, max: Number.NaN });
});
