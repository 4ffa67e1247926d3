import { describe, expect, it } from 'vitest';
import { ENGINE_RULES, type MarkRules, MarkWorld } from './mark-world.js';
import { explore } from './search.js';
import { traceTable } from './trace.js';
import { MEMORY_MODELS, type MemoryModel } from './weak-memory.js';

/** A mark that looks first: no change of a word, so nothing pushes the page's bytes out of the store buffer. */
const SKIP_IF_SET: MarkRules = {
  ...ENGINE_RULES,
  write: (page, version, log, pfn) => {
    page[0] = version;
    page[1] = version;
    if (!log.bitmap.test(pfn)) {
      log.mark(pfn);
    }
  },
};

const MARK_FIRST: MarkRules = {
  ...ENGINE_RULES,
  write: (page, version, log, pfn) => {
    log.mark(pfn);
    page[0] = version;
    page[1] = version;
  },
};

const READ_FIRST: MarkRules = {
  ...ENGINE_RULES,
  drain: (log, sink, read) => {
    sink.addDirty(0, log.bitmap.words.load(0));
    read();
    log.drainSlice({ addDirty: () => {} });
  },
};

/** Everything, or the shortest way to a write that is lost. */
function search(rules: MarkRules, model: MemoryModel, pages: number, writes: number) {
  const world = new MarkWorld({ model, pages, writes, rules });
  const start = world.memento.save();
  const { counterexample, ...counts } = explore(world);
  world.memento.restore(start);
  const trace = counterexample === undefined ? undefined : traceTable(world, counterexample);
  return { trace, counterexample, ...counts };
}

/** The rows of a trace: who, and what they do. */
function steps(trace: string | undefined): string[] {
  const rows = trace?.split('\n').filter((line) => /^│ *[1-9]/.test(line)) ?? [];
  return rows.map((row) => row.split('│').slice(2, 4).join(' ').replace(/ +/g, ' ').trim());
}

describe('I1 the dirty log, access by access', () => {
  it.each([
    // model, pages, writes: states, transitions, depth
    ['SC', 1, 3, 193, 307, 16],
    ['TSO', 1, 3, 296, 605, 18],
    ['PSO', 1, 3, 340, 756, 18],
    ['ARM', 1, 3, 340, 756, 18],
    ['SC', 2, 4, 916, 1436, 23],
    ['TSO', 2, 4, 1354, 2736, 26],
    ['PSO', 2, 4, 1509, 3324, 26],
    ['ARM', 2, 4, 1509, 3324, 26],
    ['SC', 2, 6, 8832, 15_603, 33],
    ['TSO', 2, 6, 14_493, 32_564, 38],
    ['PSO', 2, 6, 16_581, 40_378, 37],
    ['ARM', 2, 6, 16_581, 40_378, 37],
  ] as const)(
    'I1 loses no write (%s, pages: %i, writes: %i)',
    (model, pages, writes, states, transitions, depth) => {
      const { trace, ...found } = search(ENGINE_RULES, model, pages, writes);
      expect(trace, `after ${found.states} states`).toBeUndefined();
      expect(found).toEqual({
        states,
        transitions,
        depth,
        ends: 1,
        exhausted: true,
        counterexample: undefined,
      });
    },
  );

  it.each([
    [1, 3, 228, 368],
    [2, 4, 1178, 1941],
  ] as const)(
    'I1 would hold for a mark that skips set bits if stores came at once (SC, pages: %i, writes: %i)',
    (...row) => {
      const [pages, writes, states, transitions] = row;
      const found = search(SKIP_IF_SET, 'SC', pages, writes);
      expect(found).toMatchObject({ states, transitions, exhausted: true, counterexample: undefined });
    },
  );

  it.each(['TSO', 'PSO', 'ARM'] as const)('I1 needs a mark without conditions (%s)', (model) => {
    const { trace, counterexample } = search(SKIP_IF_SET, model, 1, 2);
    expect(counterexample?.invariant).toBe('I1');
    expect(steps(trace)).toEqual([
      'writer stores page 0[0] = 1',
      'writer stores page 0[1] = 1',
      'writer loads the log → 0',
      'writer marks page 0',
      'writer stores page 0[0] = 2',
      'writer stores page 0[1] = 2',
      'writer loads the log → 1', // and skips the mark, with both stores still in its buffer
      'drainer loads the log → 1',
      'drainer takes the bits',
      'drainer loads page 0[0] → 1',
      'drainer loads page 0[1] → 1',
      'a store of the writer lands: page 0[0] = 2',
      'a store of the writer lands: page 0[1] = 2',
    ]);
  });

  it.each(MEMORY_MODELS)('I1 needs the mark after the write, and I5 the read after the bit (%s)', (model) => {
    expect(search(MARK_FIRST, model, 1, 2).counterexample?.invariant).toBe('I1');
    expect(search(READ_FIRST, model, 1, 2).counterexample?.invariant).toBe('I1');
  });
});
