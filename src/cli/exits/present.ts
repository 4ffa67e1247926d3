import Table from 'cli-table3';
import pc from 'picocolors';
import type { RequestDesign } from '../../balloon/request-interface.js';
import type { Spread } from '../../report/schema.js';
import { type LineChartOptions, lineChart, MOST_SERIES, type Series } from '../../report/svg-chart.js';
import { machineLine, TABLE_STYLE } from '../../report/table.js';
import type { BreakEven } from './cost.js';
import { MIX_DESCRIPTIONS, type Mix, REQUEST_KINDS, type RequestKind } from './mixes.js';
import { costsOf, type ExitsReport, type ExitsRun, OPPONENTS } from './report.js';

const DESIGN_NAMES: Record<RequestDesign, string> = {
  'command-register': 'command register',
  'read-to-clear': 'read to clear',
  polling: 'polling',
  'register-and-polling': 'register and polling',
};

const KIND_NAMES: Record<RequestKind, string> = {
  balloon: 'balloon resize',
  'report-start': 'report start',
  'report-stop': 'report stop',
  future: 'another feature',
};

/** Everything that is printed: exits by mix and number of features, by kind of request, and kicks. */
export function tables(report: ExitsReport): string {
  return [costTable(report), kindTable(report.runs), kickTable(report.runs), notes(report)].join('\n');
}

/** A row for each mix and design, a column for each number of features. */
function costTable({ runs, breakEven }: ExitsReport): string {
  const counts = countsOf(runs);
  const designs = designsOf(runs);
  const opponents = OPPONENTS.filter((design) => designs.includes(design));
  const table = new Table({
    head: [
      'exits a request, by features',
      '',
      ...counts.map(String),
      ...opponents.map((design) => `fewer than ${DESIGN_NAMES[design]}`),
    ],
    colAligns: [
      'left',
      'left',
      ...counts.map(() => 'right' as const),
      ...opponents.map(() => 'left' as const),
    ],
    style: TABLE_STYLE,
  });
  for (const mix of mixesOf(runs)) {
    for (const design of designs) {
      const costs = costsOf(runs, mix, design);
      table.push([
        design === designs[0] ? mix : '',
        DESIGN_NAMES[design],
        ...counts.map((count) => formatCost(costs.get(count))),
        ...opponents.map((against) => {
          const compared = breakEven.find(
            (entry) => entry.mix === mix && entry.design === design && entry.against === against,
          );
          return compared === undefined ? '' : describeBreakEven(compared);
        }),
      ]);
    }
  }
  return table.toString();
}

/** "from 4 on, as many at 3". */
export function describeBreakEven({ ties, cheaperFrom }: BreakEven): string {
  const from = cheaperFrom === null ? 'never' : `from ${cheaperFrom} on`;
  return ties.length === 0 ? from : `${from}, as many at ${formatCounts(ties)}`;
}

/** "2", "2–8", "1, 3–4": ascending numbers, runs of them together. */
function formatCounts(counts: readonly number[]): string {
  const runs: [first: number, last: number][] = [];
  for (const count of counts) {
    const run = runs.at(-1);
    if (run?.[1] === count - 1) {
      run[1] = count;
    } else {
      runs.push([count, count]);
    }
  }
  return runs.map(([first, last]) => (first === last ? String(first) : `${first}–${last}`)).join(', ');
}

/** What one request alone costs, where that is the same however many features there are, and where it is not. */
function kindTable(runs: readonly ExitsRun[]): string {
  const designs = designsOf(runs);
  const table = new Table({
    head: ['exits of one request alone', ...designs.map((design) => DESIGN_NAMES[design])],
    colAligns: ['left', ...designs.map(() => 'right' as const)],
    style: TABLE_STYLE,
  });
  for (const kind of REQUEST_KINDS) {
    const cells = designs.map((design) => {
      const spreads = runs.flatMap((run) => (run.design === design ? (run.byKind[kind] ?? []) : []));
      return formatRange(
        spreads.map(({ min }) => min),
        spreads.map(({ max }) => max),
      );
    });
    if (cells.some((cell) => cell !== '')) {
      table.push([KIND_NAMES[kind], ...cells]);
    }
  }
  return table.toString();
}

/** Kicks depend on when the host looks, so they are shown with their spread, of the run that has most of them. */
function kickTable(runs: readonly ExitsRun[]): string {
  const designs = designsOf(runs);
  const table = new Table({
    head: ['kicks: median (min–max)', ...designs.map((design) => DESIGN_NAMES[design])],
    colAligns: ['left', ...designs.map(() => 'right' as const)],
    style: TABLE_STYLE,
  });
  const row = (name: string, kind: RequestKind, of: (run: ExitsRun) => Spread | null): void => {
    const cells = designs.map((design) => {
      const best = runs
        .filter((run) => run.design === design)
        .reduce((most, run) => (run.requestsByKind[kind] >= most.requestsByKind[kind] ? run : most));
      const spread = of(best);
      return spread === null
        ? ''
        : `${spread.median} (${spread.min}–${spread.max}), n = ${best.requestsByKind[kind]}`;
    });
    if (cells.some((cell) => cell !== '')) {
      table.push([name, ...cells]);
    }
  };
  row('a report', 'report-start', ({ kicks }) => kicks.aReport);
  row('ranges in it', 'report-start', ({ rangesPerReport }) => rangesPerReport);
  row('a balloon resize', 'balloon', ({ kicks }) => kicks.aResize);
  return table.toString();
}

function notes({ runs, machine }: ExitsReport): string {
  const requests = runs.reduce((sum, run) => sum + run.requests, 0);
  const wrong = runs.filter(({ agrees }) => !agrees);
  return [
    ...verdict(runs),
    pc.dim(
      [
        ...mixesOf(runs).map((mix) => `${mix}: ${MIX_DESCRIPTIONS[mix]}`),
        'exits: config reads and acknowledgements, until the guest knows what is wanted. Kicks, and the write of actual that',
        'ends a resize, are the same work in every design and come on top.',
        `${requests} requests to guests that ran; each interrupt's count was compared with the formula`,
        machineLine(machine),
      ].join('\n'),
    ),
    ...wrong.map(({ mix, design, features, path, expected }) =>
      pc.red(
        `${mix}, ${DESIGN_NAMES[design]}, ${features} features: ${path.reads} reads and ${path.acknowledgements} acknowledgements, ` +
          `and the formula says ${expected.reads} and ${expected.acknowledgements}`,
      ),
    ),
  ].join('\n');
}

/** The mail's own case in words: its two features, its mix. */
function verdict(runs: readonly ExitsRun[]): string[] {
  const costs = designsOf(runs).flatMap((design) => {
    const cost = costsOf(runs, 'mail', design).get(MAIL_FEATURES);
    return cost === undefined ? [] : [`${formatCost(cost)} (${DESIGN_NAMES[design]})`];
  });
  return costs.length < 2
    ? []
    : [`The mail's case with the mail's two features takes ${costs.join(', ')} exits a request.`];
}

/** Ballooning and reporting. */
const MAIL_FEATURES = 2;

/** The mixes that say most, and how many of them one chart can show. */
const CHARTED: readonly Mix[] = ['balloon', 'all-at-once'];

/** Exits a request against the number of features: a request at a time, and all at once, where those were measured. */
export function chart({ runs }: ExitsReport): string {
  const measured = mixesOf(runs);
  const charted = CHARTED.every((mix) => measured.includes(mix)) ? CHARTED : measured;
  const designs = designsOf(runs);
  const series: Series[] = charted
    .flatMap((mix) =>
      designs
        .filter((design) => design !== 'register-and-polling' || charted.length === 1)
        .map((design) => ({
          name: `${DESIGN_NAMES[design]}, ${mix}`,
          points: [...costsOf(runs, mix, design)],
        })),
    )
    .filter(({ points }) => points.length > 0)
    .slice(0, MOST_SERIES);
  const options: LineChartOptions = {
    title: 'VM exits a request takes until the guest knows what is wanted',
    description: `Exits a request against the number of features of the device, measured. ${series
      .map(({ name, points }) => `${name}: ${points.map(([, cost]) => formatCost(cost)).join(', ')}.`)
      .join(' ')}`,
    xLabel: 'features of the device',
    yLabel: 'exits a request',
    xTicks: countsOf(runs),
    series,
  };
  return lineChart(options);
}

function countsOf(runs: readonly ExitsRun[]): number[] {
  return [...new Set(runs.map(({ features }) => features))].sort((a, b) => a - b);
}

function mixesOf(runs: readonly ExitsRun[]): Mix[] {
  return [...new Set(runs.map(({ mix }) => mix))];
}

function designsOf(runs: readonly ExitsRun[]): RequestDesign[] {
  return [...new Set(runs.map(({ design }) => design))];
}

/** 3, 2.5, 2.99; nothing where it was not measured. */
function formatCost(cost: number | undefined): string {
  return cost === undefined ? '' : String(Number(cost.toFixed(2)));
}

/** "3", or "1–8". */
function formatRange(least: readonly number[], most: readonly number[]): string {
  if (least.length === 0) {
    return '';
  }
  const min = Math.min(...least);
  const max = Math.max(...most);
  return min === max ? String(min) : `${min}–${max}`;
}
