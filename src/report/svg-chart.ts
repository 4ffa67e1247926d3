import { LacunaError } from '../errors.js';

/** A line of a chart. */
export interface Series {
  readonly name: string;
  /** In ascending x. */
  readonly points: readonly (readonly [x: number, y: number])[];
  /** A spread around the line, such as least and most of n runs; in ascending x. */
  readonly band?: readonly (readonly [x: number, lo: number, hi: number])[];
}

/** A place on an axis that is labelled: with its number, or with a text. */
export type Tick = number | readonly [at: number, label: string];

/** What a line chart shows. */
export interface LineChartOptions {
  readonly title: string;
  /** What the chart says, in a sentence or two, for those who can't see it. */
  readonly description: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
  /** Chosen by the chart unless given. */
  readonly xTicks?: readonly Tick[];
  readonly yTicks?: readonly Tick[];
  /** A logarithmic axis: every value must be above 0. */
  readonly xLog?: boolean;
  readonly yLog?: boolean;
  /** Whether a linear y axis begins at 0, so that heights can be compared; true by default. */
  readonly yFromZero?: boolean;
  /** In pixels; by default 760 by 440. */
  readonly width?: number;
  readonly height?: number;
}

const WIDTH = 760;
const HEIGHT = 440;
const MARGIN = 24;
const FONT_SIZE = 13;
const TITLE_SIZE = 16;
const LINE_HEIGHT = 20;
/** Widths of text can't be measured here; an average character of a sans-serif font is this much of its size. */
const CHARACTER_WIDTH = 0.56;
/** Ticks that an axis has at about. */
const TICKS = 6;

/** Okabe and Ito's colours, which the colour-blind tell apart; the second of each pair is for a dark background. */
const COLOURS = [
  ['#0072b2', '#56b4e9'],
  ['#c44e00', '#ff9e4a'],
  ['#007a5a', '#2fc79a'],
  ['#a8447f', '#e69fc6'],
  ['#7a6a00', '#f0e442'],
  ['#4d4d4d', '#c8c8c8'],
] as const;

/** Colour alone tells no line from another: each has its own dashes and marks too. */
const DASHES = ['', '7 4', '2 4', '9 3 2 3', '14 4', '4 2'] as const;
const MARKS: readonly ((x: number, y: number) => string)[] = [
  (x, y) => `<circle cx="${round(x)}" cy="${round(y)}" r="4"/>`,
  (x, y) => `<rect x="${round(x - 4)}" y="${round(y - 4)}" width="8" height="8"/>`,
  (x, y) => polygon([x, y - 5], [x + 5, y + 4], [x - 5, y + 4]),
  (x, y) => polygon([x, y - 5], [x + 5, y], [x, y + 5], [x - 5, y]),
  (x, y) => polygon([x, y + 5], [x + 5, y - 4], [x - 5, y - 4]),
  (x, y) => `<rect x="${round(x - 5)}" y="${round(y - 2)}" width="10" height="4"/>`,
];

/** As many lines as can be told apart. */
export const MOST_SERIES: number = COLOURS.length;

/**
 * A line chart as a self-contained SVG: axes, lines with marks, bands, a legend, light and dark. Without
 * scripts, so that it shows the same in a README, an HTML page and an image viewer.
 *
 * Throws INVALID_ARGUMENT for what can't be drawn: no points, more than {@link MOST_SERIES} lines, a value that is
 * not finite, or one of 0 or less on a logarithmic axis.
 */
export function lineChart(options: LineChartOptions): string {
  const { title, description, xLabel, yLabel, series, width = WIDTH, height = HEIGHT } = options;
  check(options);
  const legend = layOutLegend(
    series.map(({ name }) => name),
    width - 2 * MARGIN,
  );
  const top = MARGIN + TITLE_SIZE + 14 + legend.rows * LINE_HEIGHT + LINE_HEIGHT + 8;
  const bottom = height - MARGIN - 2 * LINE_HEIGHT;
  const ys = series.flatMap(({ points, band = [] }) => [
    ...points.map(([, y]) => y),
    ...band.flatMap(([, lo, hi]) => [lo, hi]),
  ]);
  const xs = series.flatMap(({ points, band = [] }) => [...points, ...band].map(([x]) => x));
  const yFromZero = options.yLog !== true && options.yFromZero !== false;
  const yTicks = ticksOf(yFromZero ? [0, ...ys] : ys, options.yTicks, options.yLog);
  const xTicks = ticksOf(xs, options.xTicks, options.xLog, 'inside');
  const left = MARGIN + 8 + Math.max(...yTicks.map(([, label]) => textWidth(label)));
  const right = width - MARGIN - 8;
  const x = scale([...xs, ...xTicks.map(([at]) => at)], left + 12, right, options.xLog);
  const y = scale([...(yFromZero ? [0] : []), ...ys, ...yTicks.map(([at]) => at)], bottom, top, options.yLog);

  const grid = yTicks.map(
    ([at, label]) =>
      `<path class="grid" d="M${round(left)} ${round(y(at))}H${round(right)}"/>` +
      `<text class="tick" x="${round(left - 8)}" y="${round(y(at) + 4)}" text-anchor="end">${escapeXml(label)}</text>`,
  );
  const xAxis = xTicks.map(
    ([at, label]) =>
      `<path class="axis" d="M${round(x(at))} ${round(bottom)}v5"/>` +
      `<text class="tick" x="${round(x(at))}" y="${round(bottom + 20)}" text-anchor="middle">${escapeXml(label)}</text>`,
  );
  const bands = series.map(({ band = [] }, i) =>
    band.length === 0
      ? ''
      : `<path class="band s${i}" d="${path([
          ...band.map(([at, , hi]) => [x(at), y(hi)] as const),
          ...[...band].reverse().map(([at, lo]) => [x(at), y(lo)] as const),
        ])}Z"/>`,
  );
  const lines = series.map(
    ({ name, points }, i) =>
      `<g class="s${i}"><title>${escapeXml(name)}</title>` +
      `<path class="line"${dashes(i)} d="${path(points.map(([px, py]) => [x(px), y(py)] as const))}"/>` +
      `${points.map(([px, py]) => MARKS[i]!(x(px), y(py))).join('')}</g>`,
  );
  const legendTop = MARGIN + TITLE_SIZE + 14;
  const entries = legend.entries.map(({ name, column, row }, i) => {
    const at = MARGIN + column;
    const middle = legendTop + row * LINE_HEIGHT + 4;
    return (
      `<g class="s${i}"><path class="line"${dashes(i)} d="M${round(at)} ${middle}h${KEY_WIDTH}"/>` +
      `${MARKS[i]!(at + KEY_WIDTH / 2, middle)}</g>` +
      `<text class="name" x="${round(at + KEY_WIDTH + 6)}" y="${middle + 4}">${escapeXml(name)}</text>`
    );
  });
  const id = `chart-${title
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" class="lacuna-chart" viewBox="0 0 ${width} ${height}" width="${width}" ` +
      `height="${height}" role="img" aria-labelledby="${id} ${id}-description">`,
    `<title id="${id}">${escapeXml(title)}</title>`,
    `<desc id="${id}-description">${escapeXml(description)}</desc>`,
    `<style>${style(series.length)}</style>`,
    `<rect class="ground" width="${width}" height="${height}"/>`,
    `<text class="title" x="${MARGIN}" y="${MARGIN + TITLE_SIZE - 4}">${escapeXml(title)}</text>`,
    ...entries,
    `<text class="tick" x="${MARGIN}" y="${top - 12}">${escapeXml(yLabel)}</text>`,
    ...grid,
    `<path class="axis" d="M${round(left)} ${round(bottom)}H${round(right)}"/>`,
    ...xAxis,
    `<text class="tick" x="${round((left + right) / 2)}" y="${height - MARGIN + 4}" text-anchor="middle">${escapeXml(xLabel)}</text>`,
    ...bands.filter((band) => band !== ''),
    ...lines,
    '</svg>',
    '',
  ].join('\n');
}

/** Round places that cover `[lo, hi]`, about `count` of them: 0, 2, 4 … or 0, 0.5, 1 … */
export function niceTicks(lo: number, hi: number, count: number = TICKS): number[] {
  if (lo === hi) {
    return lo === 0 ? [0, 1] : niceTicks(Math.min(0, lo), Math.max(0, hi), count);
  }
  const rough = (hi - lo) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) ?? 10);
  // In whole steps, so that 0.1 + 0.2 is no tick.
  const first = Math.floor(lo / step + 1e-9);
  const last = Math.ceil(hi / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => tidy((first + i) * step));
}

/** The same for a logarithmic axis: powers of ten, with 2s and 5s between them where there are few of those. */
export function logTicks(lo: number, hi: number): number[] {
  const first = Math.floor(Math.log10(lo) + 1e-9);
  const last = Math.ceil(Math.log10(hi) - 1e-9);
  const factors = last - first > 2 ? [1] : [1, 2, 5];
  const all: number[] = [];
  for (let power = first; power <= last; power += 1) {
    all.push(...factors.map((factor) => tidy(factor * 10 ** power)));
  }
  const from = Math.max(
    0,
    all.findLastIndex((tick) => tick <= lo * (1 + 1e-9)),
  );
  const to = all.findIndex((tick) => tick >= hi * (1 - 1e-9));
  return all.slice(from, to + 1);
}

type LabelledTick = readonly [at: number, label: string];

/** @param cover `inside`: only those between the values, for an axis that ends where its values do */
function ticksOf(
  values: readonly number[],
  given: readonly Tick[] | undefined,
  log = false,
  cover: 'inside' | 'around' = 'around',
): LabelledTick[] {
  const lo = Math.min(...values);
  const hi = Math.max(...values);
  const chosen = given ?? (log ? logTicks(lo, hi) : niceTicks(lo, hi));
  const kept =
    given === undefined && cover === 'inside' && lo < hi
      ? chosen.filter((tick) => typeof tick !== 'number' || (tick >= lo && tick <= hi))
      : chosen;
  return kept.map((tick) => (typeof tick === 'number' ? [tick, formatNumber(tick)] : tick));
}

/** Maps values to pixels. */
function scale(values: readonly number[], from: number, to: number, log = false): (value: number) => number {
  const of = log ? Math.log10 : (value: number): number => value;
  const lo = of(Math.min(...values));
  const hi = of(Math.max(...values));
  return (value) => (hi === lo ? (from + to) / 2 : from + ((of(value) - lo) / (hi - lo)) * (to - from));
}

const KEY_WIDTH = 30;

interface LegendEntry {
  readonly name: string;
  readonly column: number;
  readonly row: number;
}

/** One after the other, in as many rows as it takes. */
function layOutLegend(
  names: readonly string[],
  width: number,
): { readonly entries: readonly LegendEntry[]; readonly rows: number } {
  const entries: LegendEntry[] = [];
  let column = 0;
  let row = 0;
  for (const name of names) {
    const needed = KEY_WIDTH + 6 + textWidth(name) + 18;
    if (column > 0 && column + needed > width) {
      column = 0;
      row += 1;
    }
    entries.push({ name, column, row });
    column += needed;
  }
  return { entries, rows: row + 1 };
}

function check({ series, xTicks = [], yTicks = [], xLog = false, yLog = false }: LineChartOptions): void {
  const refuse = (what: string): never => {
    throw new LacunaError('INVALID_ARGUMENT', `a chart can't be drawn: ${what}`);
  };
  if (!series.some(({ points }) => points.length > 0)) {
    refuse('it has no points');
  }
  if (series.length > MOST_SERIES) {
    refuse(`${series.length} lines, and only ${MOST_SERIES} can be told apart: draw several charts`);
  }
  const at = (tick: Tick): number => (typeof tick === 'number' ? tick : tick[0]);
  const drawable = (value: number, log: boolean): boolean => Number.isFinite(value) && (!log || value > 0);
  for (const { name, points, band = [] } of series) {
    for (const [x, ...ys] of [...points, ...band]) {
      if (!drawable(x, xLog) || !ys.every((y) => drawable(y, yLog))) {
        refuse(
          `"${name}" has a point (${[x, ...ys].join(', ')}) that is not finite, or not above 0 on a log axis`,
        );
      }
    }
  }
  if (
    !xTicks.every((tick) => drawable(at(tick), xLog)) ||
    !yTicks.every((tick) => drawable(at(tick), yLog))
  ) {
    refuse('a tick is not finite, or not above 0 on a log axis');
  }
}

function style(count: number): string {
  const colours = (column: 0 | 1): string =>
    Array.from({ length: count }, (_, i) => `--s${i}:${COLOURS[i]![column]}`).join(';');
  const rules = Array.from(
    { length: count },
    (_, i) => `.lacuna-chart .s${i}{fill:var(--s${i});stroke:var(--s${i})}`,
  ).join('');
  return (
    `.lacuna-chart{--ground:#fff;--text:#1f2328;--dim:#59636e;--grid:#e3e7eb;--axis:#8c959f;${colours(0)};` +
    `font:${FONT_SIZE}px system-ui,sans-serif}` +
    '@media (prefers-color-scheme:dark){.lacuna-chart{--ground:#0d1117;--text:#e6edf3;--dim:#9da7b3;--grid:#252b33;' +
    `--axis:#6e7681;${colours(1)}}}` +
    '.lacuna-chart .ground{fill:var(--ground)}' +
    `.lacuna-chart .title{fill:var(--text);font-size:${TITLE_SIZE}px;font-weight:600}` +
    '.lacuna-chart .name{fill:var(--text)}.lacuna-chart .tick{fill:var(--dim)}' +
    '.lacuna-chart .grid{fill:none;stroke:var(--grid)}.lacuna-chart .axis{fill:none;stroke:var(--axis)}' +
    `${rules}.lacuna-chart .line{fill:none;stroke-width:2;stroke-linejoin:round}` +
    '.lacuna-chart .band{fill-opacity:.18;stroke:none}'
  );
}

function dashes(series: number): string {
  const pattern = DASHES[series]!;
  return pattern === '' ? '' : ` stroke-dasharray="${pattern}"`;
}

function path(points: readonly (readonly [x: number, y: number])[]): string {
  return points.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${round(x)} ${round(y)}`).join('');
}

function polygon(...points: readonly (readonly [number, number])[]): string {
  return `<polygon points="${points.map(([x, y]) => `${round(x)},${round(y)}`).join(' ')}"/>`;
}

function textWidth(text: string): number {
  return text.length * FONT_SIZE * CHARACTER_WIDTH;
}

/** Hundredths of a pixel are enough, and a file that is the same on every machine. */
function round(pixels: number): string {
  return String(Number(pixels.toFixed(2)));
}

/** 0.30000000000000004 is 0.3. */
function tidy(value: number): number {
  return Number(value.toPrecision(12));
}

/** A tick's number: 1,000,000 and 0.25. */
function formatNumber(value: number): string {
  return value.toLocaleString('en-US', { maximumSignificantDigits: 6 });
}

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** Text as it stands in an element or an attribute. */
export function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => ENTITIES[character]!);
}
