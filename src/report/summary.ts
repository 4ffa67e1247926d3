import { BASELINES, type BenchRun, type RunReport, type Spread, type SummaryRow } from './schema.js';

/** Median, least and most; of no values, NaN. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const low = sorted[Math.ceil(middle) - 1] ?? Number.NaN;
  const high = sorted[Math.floor(middle)] ?? Number.NaN;
  return {
    median: sorted.length % 2 === 1 ? high : (low + high) / 2,
    min: sorted[0] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
  };
}

/** Whether a run lost nothing: every page accounted for and the guest sound where it runs. */
export function isVerified(run: RunReport): boolean {
  return run.verified.pagesDifferent === 0 && run.verified.guestSelfCheck === 'passed';
}

/** From the request to the stop sign of a run's first report, ms; NaN where there was none, or it did not end. */
export function hintTimeOf(run: RunReport): number {
  return run.hints.sessions[0]?.['to-stop'] ?? Number.NaN;
}

/** The runs' median time without hints and zero detection, of those groups in which `runs` were made; NaN: none was. */
export function plainTimeOf(runs: readonly BenchRun[], all: readonly BenchRun[]): number {
  const groups = new Set(runs.map(({ point }) => point.group));
  const plain = all.filter(
    ({ baseline, status, point }) => baseline === 'none' && status === 'completed' && groups.has(point.group),
  );
  return spreadOf(plain.map((run) => run['total-time'])).median;
}

/**
 * One row for each guest, value and baseline, in the order of the runs and of {@link BASELINES}; what does not
 * depend on a sweep's values comes before them.
 */
export function summarise(runs: readonly BenchRun[]): SummaryRow[] {
  const completed = runs.filter((run) => run.status === 'completed');
  const rows: SummaryRow[] = [];
  for (const series of new Set(completed.map(({ point }) => point.series))) {
    const ofSeries = completed.filter(({ point }) => point.series === series);
    for (const value of new Set(ofSeries.map(({ point }) => point.value))) {
      for (const baseline of BASELINES) {
        const group = ofSeries.filter((run) => run.point.value === value && run.baseline === baseline);
        if (group.length > 0) {
          rows.push(rowOf(group, completed));
        }
      }
    }
  }
  return rows;
}

/** The row of some runs that differ in nothing. */
function rowOf(group: readonly BenchRun[], all: readonly BenchRun[]): SummaryRow {
  const first = group[0]!;
  const time = spreadOf(group.map((run) => run['total-time']));
  const plain = plainTimeOf(group, all);
  const hintTimes = group.map(hintTimeOf).filter((ms) => !Number.isNaN(ms));
  const rate = first.linkBytesPerSecond;
  return {
    guest: first.guest,
    series: first.point.series,
    value: first.point.value,
    freeMemory: first.freeMemory,
    baseline: first.baseline,
    n: group.length,
    'total-time': time,
    downtime: spreadOf(group.map((run) => run.downtime ?? Number.NaN)),
    transferred: spreadOf(group.map((run) => run.ram.transferred)),
    skippedPages: spreadOf(group.map((run) => run.ram.skipped)),
    sentInVain: spreadOf(group.map((run) => run.hints.sentInVain)),
    ranges: spreadOf(group.map((run) => run.hints.ranges)),
    hintTime: hintTimes.length === 0 ? null : spreadOf(hintTimes),
    timeSaved: Number.isNaN(plain) ? null : 1 - time.median / plain,
    overLink:
      rate === null
        ? null
        : spreadOf(group.map((run) => run['total-time'] / ((run.ram.transferred / rate) * 1000))).median,
    deadlinesExpired: group.reduce((sum, run) => sum + run.hints.deadlinesExpired, 0),
    verified: group.every(isVerified),
  };
}
