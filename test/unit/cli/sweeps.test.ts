import { describe, expect, it } from 'vitest';
import {
  largestLayout,
  planLine,
  planOf,
  planTable,
  shardOf,
  VALUES_PER_REFERENCE,
} from '../../../src/cli/bench/plan.js';
import { pointsOf, SWEEP_NAMES, SWEEPS, type SweepName } from '../../../src/cli/bench/sweeps.js';
import { captureNames, loadGuest, traceNames } from '../../../src/cli/captures.js';
import { parsePercent, parseShard } from '../../../src/cli/units.js';
import { findMetadataPlace, imageBitmaps } from '../../../src/guest/image.js';
import { GIB, MIB } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { resolveOptions } from '../../../src/migration/options.js';
import { planRequest } from '../../support/reports.js';

const MADE_UP = { memoryBytes: 512 * MIB, freeShare: 0.5 };

describe.each(SWEEP_NAMES.map((name) => ({ name })))('the sweep $name', ({ name }) => {
  const sweep = SWEEPS[name];
  const points = pointsOf(name, sweep.values, MADE_UP);

  it('has values that are different and can be run', () => {
    expect(points).toHaveLength(sweep.values.length);
    const { runs } = planOf(planRequest({ sweep: name, values: sweep.values }));
    const settings = new Set<string>();
    for (const { spec, point } of runs) {
      resolveOptions({ schedule: spec.schedule, bytesPerSecond: spec.link.bytesPerSecond });
      expect(spec.minOrder).toBeLessThanOrEqual(10);
      const images = point.value === null ? 'any' : imageBitmaps(atomicMapper, spec.image).free.count();
      settings.add(JSON.stringify([images, spec, String(spec.link.bytesPerSecond)]));
      // The guest's tables have room even where little is in use.
      findMetadataPlace(atomicMapper, spec.image, spec.ringSize);
    }
    const { hintsOnly, baselines } = sweep;
    expect(settings.size).toBe(
      points.length * (hintsOnly ? baselines.length - 1 : baselines.length) + (hintsOnly ? 1 : 0),
    );
  });

  it('fits a machine of 8 GiB as it is', () => {
    const captured = (sweep.guests ?? []).map(loadGuest);
    for (const { change } of points) {
      const images = change.image === undefined ? captured : [change.image];
      for (const { blocks } of images) {
        expect(new RamLayout(blocks).memoryBytes).toBeLessThanOrEqual(2 * GIB);
      }
    }
  });

  it('compares hints with what has none, and shows what the values change', () => {
    expect(sweep.baselines).toEqual(expect.arrayContaining(['none', 'hints']));
    expect(sweep.measures).toContain('saved');
    expect(sweep.varies.length).toBeGreaterThan(0);
    for (const { change } of points) {
      expect(Object.keys(change)).toHaveLength(1);
    }
  });

  it('has its captures', () => {
    expect([...captureNames(), ...traceNames()]).toEqual(expect.arrayContaining([...(sweep.guests ?? [])]));
  });

  it('knows where each of its values is on its axis', () => {
    const { scale } = sweep.axis;
    const xs = points.map(({ x }) => x);
    if (scale !== 'steps') {
      expect(xs).not.toContain(null);
      expect(xs).toEqual([...xs].sort((a, b) => a! - b!));
    }
    if (scale === 'log') {
      expect(Math.min(...xs.map((x) => x!))).toBeGreaterThan(0);
    }
  });
});

it('free-share frees what it says', () => {
  for (const { label, change } of pointsOf('free-share', SWEEPS['free-share'].values, MADE_UP)) {
    const { free } = imageBitmaps(atomicMapper, change.image!);
    const share = free.count() / (MADE_UP.memoryBytes / 4096);
    expect(Math.abs(share - parsePercent(label)), label).toBeLessThan(0.005);
  }
});

it('guest-size keeps the share that is free', () => {
  for (const { change } of pointsOf('guest-size', SWEEPS['guest-size'].values, {
    ...MADE_UP,
    freeShare: 0.3,
  })) {
    const { free } = imageBitmaps(atomicMapper, change.image!);
    const pages = new RamLayout(change.image!.blocks).pageCount;
    expect(Math.abs(free.count() / pages - 0.3)).toBeLessThan(0.005);
  }
});

it('values are the user’s, each once, however they are written', () => {
  const labels = (name: SweepName, values: string[]): string[] =>
    pointsOf(name, values, MADE_UP).map(({ label }) => label);
  expect(labels('min-order', ['4', ' 0', '4'])).toEqual(['4', '0']);
  expect(labels('guest-size', ['1GiB', '1024MiB', '3GiB'])).toEqual(['1GiB', '3GiB']);
  expect(labels('dirty-rate', ['0', '100MB/s:64MiB', '100MB/s'])).toEqual(['0', '100MB/s:64MiB', '100MB/s']);
  expect(labels('link', ['unlimited', '1gbit'])).toEqual(['unlimited', '1gbit']);
  expect(pointsOf('link', ['unlimited', '2.5gbit'], MADE_UP).map(({ x }) => x)).toEqual([null, 2.5]);
});

it.each<[SweepName, string, RegExp]>([
  ['min-order', '11', /"11" is no min-order.*from 0 to 10/],
  ['min-order', '', /"" is no min-order/],
  ['guest-size', '4KiB', /at least 8MiB/],
  ['free-share', '96%', /from 0% to 95%/],
  ['free-share', '', /from 0% to 95%/],
  ['dirty-rate', 'unlimited', /A rate as in 200MB\/s/],
  ['dirty-rate', '10MB/s:much', /A size is/],
  ['link', 'fast', /A rate is/],
  ['ring-size', '100', /A power of two/],
  ['schedule', 'never', /One of wait, overlap, adaptive/],
])('%s refuses %j', (name, value, message) => {
  expect(() => pointsOf(name, [value], MADE_UP)).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(message) }),
  );
});

it('a sweep of what only hints see is refused without hints', () => {
  expect(() =>
    planOf(planRequest({ sweep: 'ring-size', values: ['64'], baselines: ['none', 'zero'] })),
  ).toThrow(/changes nothing without hints/);
});

it('what the values do not touch is run once for some of them, in the midst of these', () => {
  const { runs } = planOf(planRequest({ sweep: 'min-order', values: SWEEPS['min-order'].values, runs: 2 }));
  const first = runs
    .filter(({ point }) => point.group === 0)
    .map(({ point, spec }) => `${spec.baseline} ${point.value}`);
  const once = ['none null', 'hints 0', 'hints 1', 'hints 2', 'hints 3'];
  expect(first).toEqual([...once, ...once]);
  expect(runs.filter(({ spec }) => spec.baseline === 'none')).toHaveLength(
    2 * Math.ceil(SWEEPS['min-order'].values.length / VALUES_PER_REFERENCE),
  );
});

it('a plan’s digest and settings tell plans apart', () => {
  const base = planOf(planRequest()).report;
  expect(planOf(planRequest()).report).toEqual(base);
  expect(base.digest).toMatch(/^[0-9a-f]{64}$/);
  const others = [
    planRequest({ seed: 2 }),
    planRequest({ runs: 3 }),
    planRequest({ guestCount: 2 }),
    planRequest({ baselines: ['hints'] }),
    planRequest({ sweep: 'min-order', values: ['0'] }),
    planRequest({ sweep: 'min-order', values: ['1'] }),
    planRequest({ sweep: 'link', values: ['1gbit'] }),
    planRequest({ sweep: 'link', values: ['unlimited'] }),
  ].map((request) => planOf(request).report);
  expect(new Set([base, ...others].map(({ digest }) => digest)).size).toBe(9);
  expect(new Set([base, ...others].map(({ settings }) => JSON.stringify(settings))).size).toBe(9);
  // The same words, another memory map.
  const request = planRequest();
  const [image] = request.guests;
  const { free } = imageBitmaps(atomicMapper, image!);
  free.setRange(free.nextClear(3000, 4000), 1);
  const changed = planOf(request).report;
  expect(changed.settings).toEqual(base.settings);
  expect(changed.digest).not.toBe(base.digest);
});

it('a sweep’s setting is not among the fixed ones', () => {
  expect(planOf(planRequest({ sweep: 'link', values: ['1gbit'] })).report.settings).toMatchObject({
    sweep: 'link',
    values: '1gbit',
    'min-order': '0',
  });
  expect(planOf(planRequest({ sweep: 'link', values: ['1gbit'] })).report.settings).not.toHaveProperty(
    'link',
  );
  expect(planOf(planRequest()).report.settings).toMatchObject({ link: '10gbit', guest: 'synthetic-16m' });
});

it('says what a plan is before it is run', () => {
  const plan = planOf(planRequest({ sweep: 'guest-size', values: ['64MiB', '1GiB', '512MiB'] }));
  expect(largestLayout(plan)?.memoryBytes).toBe(GIB);
  expect(planLine(plan)).toBe(
    'plan: 12 runs in 3 groups; guest-size at 64MiB, 1GiB, 512MiB; 2.0 GiB of memory for the largest guest and its destination',
  );
  const shard = shardOf(plan, { index: 3, count: 3 });
  expect(planLine(shard)).toMatch(/^plan: 4 runs in 1 group; .*; shard 3\/3 of 12 runs; 1.0 GiB/);
  expect(planTable(shard)).toMatch(/2 │ made-up │ 512MiB +│ none, hints │ +4/);
  const empty = shardOf(plan, { index: 4, count: 4 });
  expect(largestLayout(empty)).toBeUndefined();
  expect(planLine(empty)).toMatch(/^plan: 0 runs in 0 groups/);
});

it.each(['1/4', '4/4', ' 2/3 ', '10000/10000'])('the shard %j', (text) => {
  expect(parseShard(text)).toEqual({
    index: Number(text.trim().split('/')[0]),
    count: Number(text.trim().split('/')[1]),
  });
});

it.each(['0/4', '5/4', '1', '1/', '/2', '1/0', 'a/b', '-1/2', '1.5/2', '1/2/3', '1/10001', ''])(
  'no shard: %j',
  (text) => {
    expect(() => parseShard(text)).toThrow(/from 1: 1\/4/);
  },
);
