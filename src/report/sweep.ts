import Table from 'cli-table3';
import pc from 'picocolors';
import { chartStack } from './chart-stack.js';
import { formatMs } from './format.js';
import { MEASURES, type Measure } from './measures.js';
import { notesOf } from './notes.js';
import { BASELINES, type BenchReport, type BenchRun, type Spread, type SweepReport } from './schema.js';
import { isVerified, plainTimeOf, spreadOf } from './summary.js';
import { type LineChartOptions, MOST_SERIES, type Series, type Tick } from './svg-chart.js';
import { formatSpread, TABLE_STYLE } from './table.js';

/** The completed runs of one line at one value. */
interface Cell {
  readonly series: string;
  readonly value: string | null;
  readonly runs: readonly BenchRun[];
  /** The median time of `none` in the same groups; NaN: none. */
  readonly plainMs: number;
}

/** Cells in the order of the table: by series, by value as the sweep has them, by baseline. */
function cellsOf({ runs }: BenchReport, sweep: SweepReport): Cell[] {
  const completed = runs.filter(({ status }) => status === 'completed');
  const cells: Cell[] = [];
  for (const series of new Set(completed.map(({ point }) => point.series))) {
    for (const value of [null, ...sweep.values.map(({ label }) => label)]) {
      for (const baseline of BASELINES) {
        const of = completed.filter(
          (run) => run.point.series === series && run.point.value === value && run.baseline === baseline,
        );
        if (of.length > 0) {
          cells.push({ series, value, runs: of, plainMs: plainTimeOf(of, completed).ms });
        }
      }
    }
  }
  return cells;
}

/** What a cell has of a measure; undefined if it has none. */
function spreadIn({ runs, plainMs }: Cell, measure: Measure): Spread | undefined {
  const baseline = runs[0]!.baseline;
  const hinted = baseline === 'hints' || baseline === 'both';
  if ((measure.of === 'hinted' && !hinted) || (measure.of === 'compared' && baseline === 'none')) {
    return undefined;
  }
  const values = runs.map((run) => measure.value(run, plainMs)).filter((value) => !Number.isNaN(value));
  return values.length === 0 ? undefined : spreadOf(values);
}

/** A row for each guest, value and baseline, a column for each of the sweep's measures. */
export function sweepTable(report: BenchReport, sweep: SweepReport): string {
  const measures = sweep.measures.filter((name) => name !== 'time').map((name) => MEASURES[name]);
  const table = new Table({
    head: ['guest', sweep.axis.label, 'baseline', 'time', ...measures.map(({ head }) => head), 'verified'],
    colAligns: ['left', 'right', 'left', 'right', ...measures.map(() => 'right' as const), 'left'],
    style: TABLE_STYLE,
  });
  let last = '';
  for (const cell of cellsOf(report, sweep)) {
    const { series, value, runs } = cell;
    table.push([
      series === last ? '' : series,
      value ?? 'any',
      runs[0]!.baseline,
      formatSpread(spreadOf(runs.map((run) => run['total-time'])), runs.length, formatMs),
      ...measures.map((measure) => {
        const spread = spreadIn(cell, measure);
        return spread === undefined ? '' : measure.format(spread.median);
      }),
      runs.every(isVerified) ? pc.green('yes') : pc.red('NO'),
    ]);
    last = series;
  }
  return table.toString();
}

/**
 * A chart of each of the sweep's measures, as one SVG: a line for each guest (and baseline, where there are
 * several), medians, with a band from least to most. undefined if no run gives a point.
 */
export function sweepCharts(report: BenchReport, sweep: SweepReport): string | undefined {
  const cells = cellsOf(report, sweep).filter(({ value }) => value !== null);
  const charts = sweep.measures.flatMap((name) => chartsOf(MEASURES[name], cells, sweep));
  return charts.length === 0 ? undefined : chartStack(charts, [report.command, ...notesOf(report)]);
}

function chartsOf(measure: Measure, cells: readonly Cell[], sweep: SweepReport): LineChartOptions[] {
  const lines = linesOf(measure, cells, sweep);
  const { axis } = sweep;
  const title = capitalised(measure.title);
  const withUnit = (label: string, unit: string): string => (unit === '' ? label : `${label}, ${unit}`);
  const yLog =
    measure.scale === 'log' && lines.every(({ band = [] }) => band.every(([, least]) => least > 0));
  const pages = Math.ceil(lines.length / MOST_SERIES);
  return Array.from({ length: pages }, (_, page) => ({
    title: pages === 1 ? title : `${title} (${page + 1} of ${pages})`,
    description:
      `${title} against ${axis.label}: the median of the runs at each value, ` +
      'and a band from the least to the most of them.',
    // Labels of values bring their units along.
    xLabel: axis.scale === 'linear' ? withUnit(axis.label, axis.unit) : axis.label,
    yLabel: withUnit(measure.title, measure.unit),
    series: lines.slice(page * MOST_SERIES, (page + 1) * MOST_SERIES),
    ...(axis.scale === 'linear' ? {} : { xTicks: ticksOf(sweep) }),
    xLog: axis.scale === 'log',
    yLog,
  }));
}

/** The lines of a measure that have points. */
function linesOf(measure: Measure, cells: readonly Cell[], sweep: SweepReport): Series[] {
  const points = cells.flatMap((cell) => {
    const spread = spreadIn(cell, measure);
    const x = xOf(sweep, cell.value);
    return spread === undefined || x === undefined ? [] : [{ cell, spread, x }];
  });
  const nameOf = ({ series, runs }: Cell): string => `${series}, ${runs[0]!.baseline}`;
  const names = [...new Set(points.map(({ cell }) => nameOf(cell)))];
  const manyBaselines = new Set(points.map(({ cell }) => cell.runs[0]!.baseline)).size > 1;
  return names.map((name) => {
    const own = points.filter(({ cell }) => nameOf(cell) === name).sort((a, b) => a.x - b.x);
    return {
      name: manyBaselines ? name : own[0]!.cell.series,
      points: own.map(({ x, spread }) => [x, spread.median] as const),
      band: own.map(({ x, spread }) => [x, spread.min, spread.max] as const),
    };
  });
}

/** Where a value is drawn; undefined: it has no place on this axis. */
function xOf({ axis, values }: SweepReport, label: string | null): number | undefined {
  const index = values.findIndex((value) => value.label === label);
  if (axis.scale === 'steps') {
    return index === -1 ? undefined : index;
  }
  return values[index]?.x ?? undefined;
}

function ticksOf(sweep: SweepReport): Tick[] {
  return sweep.values.flatMap(({ label }) => {
    const x = xOf(sweep, label);
    return x === undefined ? [] : [[x, label] as const];
  });
}

function capitalised(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}`;
}
