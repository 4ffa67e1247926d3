import { BASELINES, type RunReport, type Spread, type SummaryRow } from './schema.js';

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

/** One row for each guest and baseline, in the order of the runs and of {@link BASELINES}. */
export function summarise(runs: readonly RunReport[]): SummaryRow[] {
  const completed = runs.filter((run) => run.status === 'completed');
  const guests = [...new Set(completed.map((run) => `${run.guest}\n${run.freeMemory}`))];
  const rows: SummaryRow[] = [];
  for (const key of guests) {
    const ofGuest = completed.filter((run) => `${run.guest}\n${run.freeMemory}` === key);
    // What one would do without hints: send everything, or if that was not run detect zero pages.
    const plainest = (['none', 'zero'] as const).find((name) =>
      ofGuest.some(({ baseline }) => baseline === name),
    );
    const plain = spreadOf(
      ofGuest.filter(({ baseline }) => baseline === plainest).map((run) => run['total-time']),
    ).median;
    for (const baseline of BASELINES) {
      const group = ofGuest.filter((run) => run.baseline === baseline);
      const first = group[0];
      if (first === undefined) {
        continue;
      }
      const time = spreadOf(group.map((run) => run['total-time']));
      rows.push({
        guest: first.guest,
        freeMemory: first.freeMemory,
        baseline,
        n: group.length,
        'total-time': time,
        downtime: spreadOf(group.map((run) => run.downtime ?? Number.NaN)),
        transferred: spreadOf(group.map((run) => run.ram.transferred)),
        skippedPages: spreadOf(group.map((run) => run.ram.skipped)),
        sentInVain: spreadOf(group.map((run) => run.hints.sentInVain)),
        timeSaved: baseline === plainest || Number.isNaN(plain) ? null : 1 - time.median / plain,
        savedAgainst: plainest ?? null,
        overLink:
          first.linkBytesPerSecond === null
            ? null
            : spreadOf(
                group.map(
                  (run) => run['total-time'] / ((run.ram.transferred / first.linkBytesPerSecond!) * 1000),
                ),
              ).median,
        deadlinesExpired: group.reduce((sum, run) => sum + run.hints.deadlinesExpired, 0),
        verified: group.every(isVerified),
      });
    }
  }
  return rows;
}

/** Runs with a map of memory only where it is the middle one, by time, of those of the same guest and baseline. */
export function withMedianMaps(runs: readonly RunReport[]): RunReport[] {
  const key = ({ guest, freeMemory, baseline }: RunReport): string =>
    [guest, freeMemory, baseline].join('\n');
  const kept = new Set<RunReport>();
  for (const group of new Set(runs.map(key))) {
    const byTime = runs.filter((run) => key(run) === group).sort((a, b) => a['total-time'] - b['total-time']);
    kept.add(byTime[Math.floor((byTime.length - 1) / 2)]!);
  }
  return runs.map((run) => (kept.has(run) ? run : { ...run, pages: { ...run.pages, map: null } }));
}
