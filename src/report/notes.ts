import type { BenchReport, BenchRun, PlanReport } from './schema.js';
import { machineLine } from './table.js';

/** How settings read in the notes; a sweep varies one of them, which then is not there. */
const NOTED = [
  ['link', 'link'],
  ['schedule', 'schedule'],
  ['min-order', 'smallest order'],
  ['downtime-limit', 'downtime limit'],
] as const;

/** Words of the tables. */
export const WORDS =
  'saved: against the plainest baseline beside it. in vain: pages sent although reported free';

/** What one has to know to read a report's figures, a line each: how they were measured, and on which machines. */
export function notesOf({ plan, parts, machine, summary, runs }: BenchReport): string[] {
  const { settings, shard } = plan;
  const { runs: n } = settings;
  const destination = runs[0]?.destination ?? settings['destination'];
  const noted = NOTED.flatMap(([option, words]) => {
    const setting = settings[option];
    return setting === undefined ? [] : [`${words} ${setting}`];
  });
  const expired = summary.reduce((sum, row) => sum + row.deadlinesExpired, 0);
  const machines = parts.length === 0 ? [machine] : parts.map((part) => part.machine);
  return [
    `median${n === '1' ? '' : ' (min–max)'} of n = ${n}` +
      `${shard === null ? '' : `, shard ${shard.index}/${shard.count}`}; ${noted.join(', ')}, ` +
      `${settings['transport'] === undefined ? '' : `over ${settings['transport']} to another process, `}destination memory ${destination} beforehand; hint deadlines expired: ${expired}`,
    ...guestNotes(settings),
    ...throttleNote(runs),
    ...(settings['zero-pages'] === undefined
      ? []
      : [`${settings['zero-pages']}: which pages are zero was not captured, so all of them hold data`]),
    ...new Set(machines.map(machineLine)),
  ];
}

function throttleNote(runs: readonly BenchRun[]): string[] {
  const shares = runs.map((run) => run['cpu-throttle-percentage']).filter((percent) => percent > 0);
  return shares.length === 0
    ? []
    : [
        `guests throttled in ${shares.length} of ${runs.length} runs, up to ${Math.max(...shares)} % of the time`,
      ];
}

/** How the guest differs from the one that is measured if nothing is said. */
function guestNotes(settings: PlanReport['settings']): string[] {
  const mode = settings['report-mode'];
  const poison = settings['page-poison'];
  const dialect = settings['dialect'];
  return [
    ...(dialect === undefined ? [] : [`the guest's balloon driver speaks the dialect ${dialect}`]),
    ...(mode === undefined || mode === 'walk' ? [] : [`the guest reports by ${mode}`]),
    ...(settings['init-on-alloc'] === 'true' ? ['the guest zeroes every page that it allocates'] : []),
    ...(poison === undefined
      ? []
      : [
          `the guest fills every page that it frees with ${poison}` +
            (Number(poison) === 0
              ? ''
              : ': pages that hints leave out are filled with it and count as that, not as skipped'),
        ]),
  ];
}
