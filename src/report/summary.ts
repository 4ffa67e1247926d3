import {
  BASELINES,
  type Baseline,
  type BenchRun,
  type RunReport,
  type Spread,
  type SummaryRow,
} from './schema.js';

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

/** Whether a run completed, and is not known to have lost anything: the guest may be checked where it runs now. */
export function isGood(run: RunReport): boolean {
  return run.status === 'completed' && (isVerified(run) || isUnseen(run));
}

/** Whether it is for the process to which the guest has gone to say how it arrived. */
function isUnseen(run: RunReport): boolean {
  return run.verified.pagesDifferent === 0 && run.verified.guestSelfCheck === 'unseen';
}

function verdictOf(runs: readonly RunReport[]): boolean | null {
  const seen = runs.filter((run) => !isUnseen(run));
  return seen.length < runs.length && seen.every(isVerified) ? null : seen.every(isVerified);
}

/** From the request to the stop sign of a run's first report, ms; NaN where there was none, or it did not end. */
export function hintTimeOf(run: RunReport): number {
  return run.hints.sessions[0]?.['to-stop'] ?? Number.NaN;
}

/** What one would do without hints, the plainest first: send everything, or if that was not run detect zero pages. */
const WITHOUT_HINTS = ['none', 'zero'] as const;

/** The median time of the plainest baseline without hints, in those groups in which `runs` were made; NaN: none was. */
export function plainTimeOf(
  runs: readonly BenchRun[],
  all: readonly BenchRun[],
): { readonly baseline: Baseline | null; readonly ms: number } {
  const groups = new Set(runs.map(({ point }) => point.group));
  const beside = all.filter(({ status, point }) => status === 'completed' && groups.has(point.group));
  const plainest = WITHOUT_HINTS.find((name) => beside.some(({ baseline }) => baseline === name)) ?? null;
  const plain = beside.filter(({ baseline }) => baseline === plainest);
  return { baseline: plainest, ms: spreadOf(plain.map((run) => run['total-time'])).median };
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
    timeSaved:
      plain.baseline === null || plain.baseline === first.baseline ? null : 1 - time.median / plain.ms,
    savedAgainst: plain.baseline,
    overLink:
      rate === null
        ? null
        : spreadOf(group.map((run) => run['total-time'] / ((run.ram.transferred / rate) * 1000))).median,
    deadlinesExpired: group.reduce((sum, run) => sum + run.hints.deadlinesExpired, 0),
    verified: verdictOf(group),
  };
}

/** Runs with a map of memory only where it is the middle one, by time, of those that differ in nothing. */
export function withMedianMaps(runs: readonly BenchRun[]): BenchRun[] {
  const key = ({ point, freeMemory, baseline }: BenchRun): string =>
    [point.series, point.value, freeMemory, baseline].join('\n');
  const kept = new Set<BenchRun>();
  for (const group of new Set(runs.map(key))) {
    const byTime = runs.filter((run) => key(run) === group).sort((a, b) => a['total-time'] - b['total-time']);
    kept.add(byTime[Math.floor((byTime.length - 1) / 2)]!);
  }
  return runs.map((run) => (kept.has(run) ? run : withoutMap(run)));
}

/** A run without its map of memory: a sweep's many would make a report of megabytes. */
export function withoutMap(run: BenchRun): BenchRun {
  return { ...run, pages: { ...run.pages, map: null } };
}
