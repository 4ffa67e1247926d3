import Table from 'cli-table3';
import pc from 'picocolors';
import { MIB, PAGE_SIZE } from '../../memory/page.js';
import { formatMib, formatMs } from '../../report/format.js';
import { TABLE_STYLE } from '../../report/table.js';
import type { MoveReport } from './move.js';

/** How long it took and what was sent, in a line. */
export function movedIn(report: MoveReport): string {
  return (
    `moved in ${formatMs(report['total-time'])}, stopped for ${formatMs(report.downtime ?? Number.NaN)}, ` +
    `${formatMib(report.ram.transferred)} MiB sent for ${report.ram.total / MIB} MiB of RAM`
  );
}

/** What a migration came to, for people. */
export function moveTable(report: MoveReport): string {
  const { ram, hints, scans, exits } = report;
  const pages = (count: number): string => `${formatMib(count * PAGE_SIZE)} MiB`;
  const session = hints.sessions[0];
  const rows: [what: string, value: string][] = [
    [
      'sent',
      `${formatMib(ram.transferred)} MiB for ${ram.total / MIB} MiB of RAM, ${ram['dirty-sync-count']} rounds`,
    ],
    ['  pages with contents', pages(ram.normal)],
    ['  zero, found by scanning', pages(ram.duplicate)],
    ['  left out because of hints', pages(ram.skipped)],
    ['time', formatMs(report['total-time'])],
    ['downtime', formatMs(report.downtime ?? Number.NaN)],
    [
      'hints',
      session === undefined
        ? 'not asked for'
        : `${hints.ranges} ranges; id on the queue after ${formatMs(session['to-start'] ?? Number.NaN)}, first range ` +
          `${formatMs(session['to-first-range'] ?? Number.NaN)}, stop sign ${formatMs(session['to-stop'] ?? Number.NaN)}`,
    ],
    [
      'scans for what was written',
      `${scans.passes} of ${ram.total / MIB} MiB, ${formatMs(scans.ms / Math.max(1, scans.passes))} each; ` +
        `${scans.changedPages} pages differed`,
    ],
    [
      'VM exits of the balloon',
      `${exits.kicks} kicks, ${exits.configReads} config reads, ${exits.configWrites} config writes`,
    ],
  ];
  const table = new Table({ style: TABLE_STYLE });
  table.push(...rows.map(([what, value]) => [pc.dim(what), value]));
  return table.toString();
}
