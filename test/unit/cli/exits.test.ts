import { describe, expect, it } from 'vitest';
import { countExit, ExitFeature, ExitKind, readExits } from '../../../src/balloon/exits.js';
import { parseFeatures } from '../../../src/cli/exits/command.js';
import { breakEven, expectedExits } from '../../../src/cli/exits/cost.js';
import {
  featuresOf,
  type Interrupt,
  leastFeatures,
  MIXES,
  MOST_FEATURES,
  planOf,
  type RequestKind,
} from '../../../src/cli/exits/mixes.js';
import { describeBreakEven } from '../../../src/cli/exits/present.js';
import { breakEvens, costsOf, type ExitsRun, runOf } from '../../../src/cli/exits/report.js';
import { CONTROL_BYTES, ControlBuffer, EventWord } from '../../../src/memory/control-buffer.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';

const kindsOf = (plan: readonly Interrupt[]): RequestKind[] => plan.flat().map(({ kind }) => kind);

describe('mixes', () => {
  it.each(MIXES)(
    '%s: as many requests as are asked for, of features that are offered, the same for a seed',
    (mix) => {
      for (let count = leastFeatures(mix); count <= MOST_FEATURES; count += 1) {
        const plan = planOf(mix, count, 90, 7);
        expect(plan.flat().length).toBeGreaterThanOrEqual(90);
        expect(planOf(mix, count, 90, 7)).toEqual(plan);
        const offered = featuresOf(mix, count);
        for (const { kind, feature } of plan.flat()) {
          const isReport = kind === 'report-start' || kind === 'report-stop';
          expect(kind === 'balloon' ? offered.ballooning : !isReport || offered.reporting).toBe(true);
          expect(feature).toBeLessThan(kind === 'future' ? offered.futureFeatures : 1);
        }
      }
    },
  );

  it.each(MIXES)(
    '%s: reports start and stop in turn, and an interrupt asks a feature for one thing',
    (mix) => {
      const plan = planOf(mix, MOST_FEATURES, 200, 1);
      let open = false;
      for (const kind of kindsOf(plan).filter((kind) => kind.startsWith('report'))) {
        open = !open;
        expect(kind).toBe(open ? 'report-start' : 'report-stop');
      }
      for (const interrupt of plan) {
        const asked = interrupt.map(({ kind, feature }) => `${kind.replace(/-.*/, '')} ${feature}`);
        expect(new Set(asked).size).toBe(interrupt.length);
      }
    },
  );

  it('the random ones follow from their seed', () => {
    for (const mix of ['random', 'pairs'] as const) {
      expect(planOf(mix, 5, 50, 1)).not.toEqual(planOf(mix, 5, 50, 2));
    }
  });

  it('are what they are called', () => {
    const of = (mix: (typeof MIXES)[number], count: number): RequestKind[] =>
      kindsOf(planOf(mix, count, 1, 1));
    expect(of('balloon', 3)).toEqual(['balloon']);
    expect(of('reports', 1)).toEqual(['report-start', 'report-stop']);
    expect(of('reports', 3)).toEqual(['report-start', 'report-stop']);
    expect(of('round-robin', 3)).toEqual([
      'balloon',
      'report-start',
      'future',
      'balloon',
      'report-stop',
      'future',
    ]);
    const mail = of('mail', 2);
    expect(mail.filter((kind) => kind === 'balloon')).toHaveLength(100);
    expect(mail.filter((kind) => kind !== 'balloon')).toEqual(['report-start', 'report-stop']);
    expect(planOf('all-at-once', 8, 16, 1).map((interrupt) => interrupt.length)).toEqual([8, 8]);
    expect(planOf('pairs', 2, 4, 1).every((interrupt) => interrupt.length === 2)).toBe(true);
  });

  it('one feature is ballooning, or reporting where the mix is of nothing else', () => {
    expect(featuresOf('random', 1)).toEqual({ ballooning: true, reporting: false, futureFeatures: 0 });
    expect(featuresOf('reports', 1)).toEqual({ ballooning: false, reporting: true, futureFeatures: 0 });
    expect(featuresOf('mail', 2)).toEqual({ ballooning: true, reporting: true, futureFeatures: 0 });
    expect(featuresOf('mail', 8)).toEqual({ ballooning: true, reporting: true, futureFeatures: 6 });
  });
});

describe('the formula', () => {
  const BALLOON = { kind: 'balloon', feature: 0 } as const;
  const STOP = { kind: 'report-stop', feature: 0 } as const;
  const features = featuresOf('random', 5);

  it.each([
    ['command-register', [BALLOON], 2, 1],
    ['command-register', [STOP], 1, 1],
    ['command-register', [BALLOON, STOP], 2, 1],
    ['read-to-clear', [BALLOON], 2, 0],
    ['read-to-clear', [STOP], 1, 0],
    ['polling', [BALLOON], 5, 0],
    ['polling', [BALLOON, STOP], 5, 0],
    ['register-and-polling', [BALLOON], 6, 1],
    ['register-and-polling', [STOP], 5, 0],
  ] as const)('%s, %j: %i reads, %i acknowledgements', (design, interrupt, reads, acknowledgements) => {
    expect(expectedExits(design, features, interrupt)).toEqual({ reads, acknowledgements });
  });
});

describe('break-even', () => {
  const flat = new Map([1, 2, 3, 4, 5].map((count) => [count, 3]));
  const rising = new Map([1, 2, 3, 4, 5].map((count) => [count, count]));

  it.each([
    ['where the lines cross', flat, rising, { ties: [3], cheaperFrom: 4 }],
    ['never, for the other', rising, flat, { ties: [3], cheaperFrom: null }],
    ['never, for the same', flat, flat, { ties: [1, 2, 3, 4, 5], cheaperFrom: null }],
    [
      'from the first that both have',
      new Map([[1, 0], ...[3, 4].map((n) => [n, 1] as const)]),
      new Map([
        [3, 2],
        [4, 2],
      ]),
      { ties: [], cheaperFrom: 3 },
    ],
    [
      'not before the last that is not cheaper',
      new Map([
        [1, 1],
        [2, 5],
        [3, 1],
      ]),
      new Map([
        [1, 2],
        [2, 2],
        [3, 2],
      ]),
      { ties: [], cheaperFrom: 3 },
    ],
  ] as const)('%s', (_what, cost, other, expected) => {
    expect(breakEven(cost, other)).toEqual(expected);
  });

  it('reads as people say it', () => {
    expect(describeBreakEven({ ties: [3], cheaperFrom: 4 })).toBe('from 4 on, as many at 3');
    expect(describeBreakEven({ ties: [], cheaperFrom: null })).toBe('never');
    expect(describeBreakEven({ ties: [1, 3, 4, 5], cheaperFrom: null })).toBe('never, as many at 1, 3–5');
  });
});

describe('counting a run', () => {
  const plan: Interrupt[] = [
    [{ kind: 'balloon', feature: 0 }],
    [{ kind: 'report-start', feature: 0 }],
    [
      { kind: 'balloon', feature: 0 },
      { kind: 'report-stop', feature: 0 },
    ],
  ];
  const { words } = new ControlBuffer(
    atomicMapper,
    new ArrayBuffer(CONTROL_BYTES),
    new EventWord(atomicMapper),
  );

  /** A table with these exits. */
  function exitsOf(...counted: [keyof typeof ExitFeature, keyof typeof ExitKind, number][]) {
    for (let word = 0; word < words.length; word += 1) {
      words.store(word, 0);
    }
    for (const [feature, kind, times] of counted) {
      for (let i = 0; i < times; i += 1) {
        countExit(words, ExitFeature[feature], ExitKind[kind]);
      }
    }
    return readExits(words);
  }

  const balloon = exitsOf(
    ['shared', 'configRead', 1],
    ['shared', 'configWrite', 1],
    ['ballooning', 'configRead', 1],
    ['ballooning', 'configWrite', 1],
    ['ballooning', 'kick', 1],
  );
  const start = exitsOf(
    ['shared', 'configRead', 1],
    ['shared', 'configWrite', 1],
    ['reporting', 'configRead', 1],
    ['reporting', 'kick', 4],
  );
  const answers = [
    { exits: balloon, ranges: 0 },
    { exits: start, ranges: 30 },
    { exits: balloon, ranges: 0 },
  ];
  const what = { mix: 'random', design: 'command-register', offered: featuresOf('random', 2) } as const;

  it('keeps the way to the parameters apart from the work', () => {
    const run = runOf(what, plan, answers);
    expect(run).toMatchObject({
      features: 2,
      interrupts: 3,
      requests: 4,
      requestsByKind: { balloon: 2, 'report-start': 1, 'report-stop': 1, future: 0 },
      path: { reads: 6, acknowledgements: 3 },
      expected: { reads: 6, acknowledgements: 3 },
      agrees: true,
      perRequest: 9 / 4,
      actualWrites: 2,
      kicks: { aReport: { median: 4, min: 4, max: 4 }, aResize: { median: 1, min: 1, max: 1 } },
      rangesPerReport: { median: 30, min: 30, max: 30 },
    });
    expect(run.byKind).toEqual({
      balloon: { median: 3, min: 3, max: 3 },
      'report-start': { median: 3, min: 3, max: 3 },
    });
    expect(run.exits.reporting).toEqual({ configReads: 1, configWrites: 0, kicks: 4 });
    expect(run.exits.shared).toEqual({ configReads: 3, configWrites: 3, kicks: 0 });
  });

  it('says so when one interrupt cost more than it must, even where another cost less', () => {
    const more = exitsOf(
      ['shared', 'configRead', 2],
      ['shared', 'configWrite', 1],
      ['reporting', 'configRead', 1],
    );
    const less = exitsOf(['shared', 'configRead', 1], ['shared', 'configWrite', 1]);
    const run = runOf(what, plan, [
      { exits: less, ranges: 0 },
      { exits: more, ranges: 0 },
      { exits: balloon, ranges: 0 },
    ]);
    expect(run.path).toEqual(run.expected);
    expect(run.agrees).toBe(false);
  });

  it('compares designs mix by mix, over the numbers of features that both were measured with', () => {
    const at = (design: ExitsRun['design'], features: number, perRequest: number): ExitsRun => ({
      ...runOf(what, plan, answers),
      design,
      features,
      perRequest,
    });
    const runs = [
      at('polling', 4, 4),
      at('polling', 2, 2),
      at('command-register', 2, 3),
      at('command-register', 4, 3),
    ];
    expect([...costsOf(runs, 'random', 'polling')]).toEqual([
      [2, 2],
      [4, 4],
    ]);
    expect(breakEvens(runs)).toEqual([
      { mix: 'random', design: 'command-register', against: 'polling', ties: [], cheaperFrom: 4 },
    ]);
  });
});

describe('--features', () => {
  it.each([
    ['4', [4]],
    ['1-3', [1, 2, 3]],
    ['8,2,4', [2, 4, 8]],
    ['1-2,2-4', [1, 2, 3, 4]],
  ])('%s', (text, counts) => {
    expect(parseFeatures(text)).toEqual(counts);
  });

  it.each(['0', '9', '1-9', '4-2', '1-2-3', '', 'two', '1,', '-1', '1.5'])('refuses "%s"', (text) => {
    expect(() => parseFeatures(text)).toThrow(/[Nn]umber/);
  });
});
