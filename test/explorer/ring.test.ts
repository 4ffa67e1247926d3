import { describe, expect, it } from 'vitest';
import { LONG } from '../support/long.js';
import { type RingBounds, RingWorld } from './ring-world.js';
import { explore } from './search.js';
import { traceTable } from './trace.js';

/** `npm run test:long` only: larger bounds, minutes instead of seconds. */
const LONG_TIMEOUT_MS = 1_800_000;

/** Model, mode, ring size, first index, buffers, batch of the driver, of the device: states, transitions, depth, ends. */
type Row = readonly [
  model: RingBounds['model'],
  mode: 'flags' | 'EVENT_IDX',
  ringSize: number,
  startIndex: number,
  buffers: number,
  batch: number,
  returnBatch: number,
  states: number,
  transitions: number,
  depth: number,
  ends: number,
];

/**
 * What one model allows, the ones below it in this list allow too: SC, TSO, PSO, ARM. So the weakest has the smallest
 * bounds. All but the last two long rows send more buffers than the ring holds, over the wrap of both indices at 2^16.
 */
const ROWS: readonly Row[] = [
  ['ARM', 'flags', 1, 65_535, 2, 1, 1, 7439, 21_750, 78, 4],
  ['ARM', 'EVENT_IDX', 1, 65_535, 2, 1, 1, 7407, 21_665, 80, 6],
  ['ARM', 'flags', 2, 65_535, 3, 1, 1, 56_649, 195_428, 106, 4],
  ['ARM', 'EVENT_IDX', 2, 65_535, 3, 1, 1, 45_079, 149_080, 107, 8],
  ['ARM', 'flags', 2, 65_535, 3, 2, 2, 10_544, 35_987, 95, 4],
  ['ARM', 'EVENT_IDX', 2, 65_535, 3, 2, 2, 10_903, 36_758, 97, 7],
  ['TSO', 'flags', 4, 65_534, 5, 2, 2, 54_653, 141_705, 136, 4],
  ['TSO', 'EVENT_IDX', 4, 65_534, 5, 2, 2, 48_495, 123_051, 139, 11],
];

const LONG_ROWS: readonly Row[] = [
  ['ARM', 'flags', 2, 65_535, 4, 1, 1, 174_597, 645_828, 133, 4],
  ['ARM', 'EVENT_IDX', 2, 65_535, 4, 1, 1, 185_991, 658_878, 137, 10],
  ['ARM', 'flags', 2, 65_534, 4, 2, 2, 92_192, 556_811, 108, 4],
  ['ARM', 'EVENT_IDX', 2, 65_534, 4, 2, 2, 92_628, 557_474, 111, 7],
  ['ARM', 'flags', 4, 65_535, 3, 3, 3, 69_485, 541_390, 77, 3],
  ['ARM', 'EVENT_IDX', 4, 65_535, 3, 3, 3, 69_485, 541_390, 77, 3],
  ['ARM', 'flags', 4, 65_534, 5, 2, 2, 342_423, 2_127_411, 136, 4],
  ['ARM', 'EVENT_IDX', 4, 65_534, 5, 2, 2, 315_098, 1_991_700, 140, 11],
  ['TSO', 'flags', 4, 65_535, 5, 1, 2, 227_934, 592_886, 154, 4],
  ['TSO', 'EVENT_IDX', 4, 65_535, 5, 1, 2, 270_716, 690_973, 162, 12],
  ['SC', 'flags', 2, 65_533, 6, 2, 1, 81_691, 161_265, 171, 4],
  ['SC', 'EVENT_IDX', 2, 65_533, 6, 2, 1, 148_231, 292_087, 182, 14],
  ['SC', 'flags', 4, 65_530, 9, 3, 2, 264_229, 523_949, 225, 4],
  ['SC', 'EVENT_IDX', 4, 65_530, 9, 3, 2, 447_283, 885_109, 233, 19],
  ['TSO', 'flags', 2, 65_534, 4, 2, 1, 41_652, 97_393, 131, 4],
  ['TSO', 'EVENT_IDX', 2, 65_534, 4, 2, 1, 41_521, 95_282, 133, 10],
  ['SC', 'flags', 4, 65_533, 6, 3, 2, 49_339, 97_040, 154, 4],
  ['SC', 'EVENT_IDX', 4, 65_533, 6, 3, 2, 47_978, 93_804, 162, 13],
  ['SC', 'flags', 4, 0, 4, 1, 1, 53_006, 104_401, 133, 4],
  ['SC', 'EVENT_IDX', 4, 0, 4, 1, 1, 53_361, 104_590, 142, 10],
];

const SMALL: RingBounds = {
  ringSize: 2,
  eventIdx: false,
  model: 'SC',
  startIndex: 65_535,
  buffers: 3,
  batch: 1,
  returnBatch: 1,
};

/** Everything, or the shortest way to what must not be. */
function search(bounds: RingBounds) {
  const world = new RingWorld(bounds);
  const start = world.memento.save();
  const { counterexample, ...counts } = explore(world);
  world.memento.restore(start);
  const trace = counterexample === undefined ? undefined : traceTable(world, counterexample);
  return { trace, counterexample, ...counts };
}

function searchRow([model, mode, ringSize, startIndex, buffers, batch, returnBatch, ...expected]: Row): void {
  const eventIdx = mode === 'EVENT_IDX';
  const found = search({ model, eventIdx, ringSize, startIndex, buffers, batch, returnBatch });
  expect(found.trace, `after ${found.states} states`).toBeUndefined();
  const [states, transitions, depth, ends] = expected;
  expect(found).toMatchObject({ states, transitions, depth, ends, exhausted: true });
}

function title([model, mode, ringSize, startIndex, buffers, batch, returnBatch]: Row): string {
  const bounds = `size ${ringSize}, from index ${startIndex}, ${buffers} buffers, batches of ${batch} and ${returnBatch}`;
  return `Q7 loses, doubles and reorders nothing (${model}, ${mode}, ${bounds})`;
}

describe('Q7 the split ring, access by access', () => {
  for (const row of ROWS) {
    it(title(row), () => searchRow(row));
  }

  for (const row of LONG_ROWS) {
    it.runIf(LONG)(title(row), () => searchRow(row), LONG_TIMEOUT_MS);
  }
});

describe('Q7 what the explorer finds', () => {
  it.each([
    ['driver', 'flags', 4075, 62, 'both sleep: 2 of 3 buffers were sent, 2 taken, 0 given back'],
    ['driver', 'EVENT_IDX', 2821, 61, 'both sleep: 2 of 3 buffers were sent, 2 taken, 0 given back'],
    ['device', 'flags', 5000, 64, 'both sleep: 3 of 3 buffers were sent, 1 taken, 1 given back'],
    ['device', 'EVENT_IDX', 3509, 64, 'both sleep: 3 of 3 buffers were sent, 1 taken, 1 given back'],
  ] as const)('Q7 needs the second look of the %s (%s)', (noSecondLook, mode, states, steps, message) => {
    const found = search({ ...SMALL, eventIdx: mode === 'EVENT_IDX', noSecondLook });
    expect(found.counterexample?.message).toBe(`Q7: ${message}`);
    expect([found.states, found.counterexample?.actions.length]).toEqual([states, steps]);
  });

  // Plain stores come in order on x86, and the marks that follow each of them push them out before anything is loaded.
  it.each([
    ['SC', 'flags', 18_361],
    ['SC', 'EVENT_IDX', 16_261],
    ['TSO', 'flags', 34_487],
    ['TSO', 'EVENT_IDX', 29_545],
  ] as const)('Q7 would hold with plain indices (%s, %s)', (model, mode, states) => {
    const found = search({ ...SMALL, model, eventIdx: mode === 'EVENT_IDX', plainHalfWords: true });
    expect(found).toMatchObject({ states, exhausted: true, counterexample: undefined });
  });

  it.each([
    ['PSO', 'flags', 8392, 53],
    ['PSO', 'EVENT_IDX', 6682, 52],
    ['ARM', 'flags', 8392, 53],
    ['ARM', 'EVENT_IDX', 6682, 52],
  ] as const)('Q7 needs the publishing store to be atomic (%s, %s)', (model, mode, states, steps) => {
    const found = search({ ...SMALL, model, eventIdx: mode === 'EVENT_IDX', plainHalfWords: true });
    // The index has overtaken the entry: the driver takes back what lay in the entry before.
    expect(found.counterexample?.message).toBe('free list: 0,0 (to 0) are free; 0,1 are');
    expect([found.states, found.counterexample?.actions.length]).toEqual([states, steps]);
  });
});
