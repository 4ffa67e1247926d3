import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../../src/errors.js';
import {
  type LineChartOptions,
  lineChart,
  logTicks,
  MOST_SERIES,
  niceTicks,
} from '../../../src/report/svg-chart.js';

const PLAIN: LineChartOptions = {
  title: 'Exits a request',
  description: 'Two lines that cross.',
  xLabel: 'features',
  yLabel: 'exits',
  series: [
    {
      name: 'flat',
      points: [
        [1, 3],
        [8, 3],
      ],
    },
    {
      name: 'rising',
      points: [
        [1, 1],
        [8, 8],
      ],
    },
  ],
};

/** Pixels of the points of a line, out of its path. */
function pixels(svg: string, series: number): number[][] {
  const group = new RegExp(`<g class="s${series}"><title>.*?</g>`).exec(svg)![0];
  const d = /class="line"[^>]* d="([^"]+)"/.exec(group)![1]!;
  return d
    .slice(1)
    .split('L')
    .map((pair) => pair.split(' ').map(Number));
}

/** The height at which a label of the y axis has its line. */
function gridLine(svg: string, label: string): number {
  return Number(new RegExp(`class="grid" d="M\\S+ (\\S+)H[^>]*/><text[^>]*>${label}<`).exec(svg)![1]);
}

/** Where a label of the x axis stands. */
function xOf(svg: string, label: string): number {
  return Number(new RegExp(`class="axis" d="M(\\S+) \\S+v5"/><text[^>]*>${label}<`).exec(svg)![1]);
}

function labels(svg: string): string[] {
  return [...svg.matchAll(/<text class="tick"[^>]*>([^<]*)</g)].map(([, label]) => label!);
}

/** Every element is closed, in order. */
function expectWellFormed(svg: string): void {
  const open: string[] = [];
  for (const [, close, name, rest] of svg.matchAll(/<(\/?)([a-z]+)([^>]*)>/g)) {
    if (close === '/') {
      expect(open.pop()).toBe(name);
    } else if (!rest!.endsWith('/')) {
      open.push(name!);
    }
  }
  expect(open).toEqual([]);
}

describe('ticks', () => {
  it.each([
    [0, 8, [0, 2, 4, 6, 8]],
    [0, 10, [0, 2, 4, 6, 8, 10]],
    [0, 0.3, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]],
    [0, 103, [0, 20, 40, 60, 80, 100, 120]],
    [-3, 4, [-4, -2, 0, 2, 4]],
    [1000, 1012, [1000, 1002, 1004, 1006, 1008, 1010, 1012]],
    [0, 0, [0, 1]],
    [5, 5, [0, 1, 2, 3, 4, 5]],
  ])('of %d to %d are round and cover it', (lo, hi, ticks) => {
    expect(niceTicks(lo, hi)).toEqual(ticks);
  });

  it.each([
    [1, 1000, [1, 10, 100, 1000]],
    [1, 100, [1, 2, 5, 10, 20, 50, 100]],
    [3, 40, [2, 5, 10, 20, 50]],
    [0.02, 0.3, [0.02, 0.05, 0.1, 0.2, 0.5]],
  ])(
    'of %d to %d on a logarithmic axis are powers of ten, with 2 and 5 where there are few',
    (lo, hi, ticks) => {
      expect(logTicks(lo, hi)).toEqual(ticks);
    },
  );
});

describe('a chart', () => {
  it('puts a value where the axis says it is', () => {
    const svg = lineChart({ ...PLAIN, xTicks: [1, 8] });
    expectWellFormed(svg);
    const [[x1, y1], [x8, y8]] = pixels(svg, 1) as [[number, number], [number, number]];
    expect(x1).toBe(xOf(svg, '1'));
    expect(x8).toBe(xOf(svg, '8'));
    expect(y8).toBe(gridLine(svg, '8'));
    expect(y1).toBeCloseTo(gridLine(svg, '0') + (gridLine(svg, '8') - gridLine(svg, '0')) / 8, 1);
    expect(pixels(svg, 0).map(([, y]) => y)).toEqual([pixels(svg, 0)[0]![1], pixels(svg, 0)[0]![1]]);
  });

  it('begins at 0 unless it is told not to', () => {
    const high = {
      ...PLAIN,
      series: [
        {
          name: 'high',
          points: [
            [0, 100],
            [1, 110],
          ] as const,
        },
      ],
    };
    expect(labels(lineChart(high))).toContain('0');
    const zoomed = labels(lineChart({ ...high, yFromZero: false, xTicks: [[0, 'a']] }));
    expect(zoomed).toContain('100');
    expect(zoomed).not.toContain('0');
  });

  it('has equal steps for equal factors on a logarithmic axis', () => {
    const svg = lineChart({
      ...PLAIN,
      xLog: true,
      yLog: true,
      series: [
        {
          name: 'powers',
          points: [
            [1, 1],
            [10, 10],
            [100, 100],
          ],
        },
      ],
    });
    const [first, second, third] = pixels(svg, 0) as [number[], number[], number[]];
    expect(second[0]! - first[0]!).toBeCloseTo(third[0]! - second[0]!, 1);
    expect(second[1]! - first[1]!).toBeCloseTo(third[1]! - second[1]!, 1);
    expect(first[1]).toBe(gridLine(svg, '1'));
  });

  it('labels the ticks that it is given', () => {
    const svg = lineChart({ ...PLAIN, xTicks: [[1, 'one'], 4, [8, 'eight']], yTicks: [0, [10, 'ten']] });
    expect(labels(svg)).toEqual(['exits', '0', 'ten', 'one', '4', 'eight', 'features']);
  });

  it('draws a band from its least to its most, and makes room for it', () => {
    const [series] = PLAIN.series;
    const svg = lineChart({
      ...PLAIN,
      series: [
        {
          ...series!,
          band: [
            [1, 2, 20],
            [8, 1, 40],
          ],
        },
      ],
    });
    expectWellFormed(svg);
    const band = /class="band s0" d="M([^"]+)Z"/
      .exec(svg)![1]!
      .split('L')
      .map((pair) => pair.split(' ').map(Number));
    expect(band).toHaveLength(4);
    expect(band[1]![1]).toBe(gridLine(svg, '40'));
    expect(band[0]![1]).toBe(gridLine(svg, '20'));
    expect(band[3]![0]).toBe(band[0]![0]);
  });

  it('tells what it shows to those who do not see it, and escapes what it is told', () => {
    const svg = lineChart({
      ...PLAIN,
      title: 'Zero & <both>',
      series: [{ name: 'a "b" < c', points: [[0, 1]] }],
    });
    expectWellFormed(svg);
    const [, title, description] = /aria-labelledby="(\S+) (\S+)"/.exec(svg)!;
    expect(svg).toContain(`<title id="${title}">Zero &amp; &lt;both&gt;</title>`);
    expect(svg).toContain(`<desc id="${description}">Two lines that cross.</desc>`);
    expect(svg).toContain('a &quot;b&quot; &lt; c');
    expect(svg).not.toContain('NaN');
  });

  it('has a colour for the dark, dashes and a mark of its own for every line', () => {
    const series = Array.from({ length: MOST_SERIES }, (_, i) => ({
      name: `line ${i}`,
      points: [[0, i] as const, [1, i + 1] as const],
    }));
    const svg = lineChart({ ...PLAIN, series });
    const [light, dark] = svg.split('@media (prefers-color-scheme:dark)');
    const marks = new Set<string>();
    const patterns = new Set<string | undefined>();
    for (let i = 0; i < MOST_SERIES; i += 1) {
      const colour = new RegExp(`--s${i}:(#[0-9a-f]+)`);
      expect(colour.exec(light!)![1]).not.toBe(colour.exec(dark!)![1]);
      const group = new RegExp(`<g class="s${i}"><title>.*?</g>`).exec(svg)![0];
      patterns.add(/stroke-dasharray="([^"]+)"/.exec(group)?.[1]);
      const mark = /(<(?:circle|rect|polygon)[^>]*>)<\/g>/.exec(group)![1]!;
      const at = pixels(svg, i)[1]!;
      marks.add(
        mark.replace(/(points|x|y|cx|cy)="([^"]+)"/g, (_, name: string, list: string) => {
          const relative = list
            .split(/[ ,]/)
            .map((value, k) => Math.round(Number(value) - at[(name.endsWith('y') ? 1 : k) % 2]!));
          return `${name}="${relative.join(' ')}"`;
        }),
      );
    }
    expect(marks.size).toBe(MOST_SERIES);
    expect(patterns.size).toBe(MOST_SERIES);
    expect(() => lineChart({ ...PLAIN, series: [...series, series[0]!] })).toThrow(/several charts/);
  });

  it('breaks its legend into rows that fit', () => {
    const named = (count: number): LineChartOptions => ({
      ...PLAIN,
      width: 500,
      series: Array.from({ length: count }, (_, i) => ({
        name: 'a line with a long name',
        points: [[i, i]],
      })),
    });
    const rows = (svg: string): number =>
      new Set([...svg.matchAll(/class="name" x="[^"]+" y="([^"]+)"/g)].map(([, y]) => y)).size;
    expect(rows(lineChart(named(2)))).toBe(1);
    expect(rows(lineChart(named(3)))).toBe(2);
    for (const [, x] of lineChart(named(6)).matchAll(/class="name" x="([^"]+)"/g)) {
      expect(Number(x)).toBeLessThan(400);
    }
  });

  it.each([
    ['no line', { series: [] }],
    ['no point', { series: [{ name: 'a', points: [] }] }],
    ['a value that is no number', { series: [{ name: 'a', points: [[0, Number.NaN]] }] }],
    ['infinity', { series: [{ name: 'a', points: [[Number.POSITIVE_INFINITY, 1]] }] }],
    ['a band that is not finite', { series: [{ name: 'a', points: [[1, 1]], band: [[1, 0, Number.NaN]] }] }],
    ['0 on a logarithmic axis', { yLog: true, series: [{ name: 'a', points: [[1, 0]] }] }],
    ['a tick at 0 there', { xLog: true, xTicks: [0] }],
  ] as [string, Partial<LineChartOptions>][])('refuses %s', (_what, changes) => {
    let thrown: unknown;
    try {
      lineChart({ ...PLAIN, ...changes });
    } catch (error) {
      thrown = error;
    }
    expect(isLacunaError(thrown, 'INVALID_ARGUMENT')).toBe(true);
  });

  it('draws one point alone in the middle', () => {
    const svg = lineChart({ ...PLAIN, series: [{ name: 'one', points: [[5, 0]] }] });
    expectWellFormed(svg);
    expect(svg).not.toContain('NaN');
  });
});
