import Table from 'cli-table3';
import pc from 'picocolors';
import { PAGE_SIZE } from '../memory/page.js';
import { formatMib, formatMs, formatShare } from './format.js';
import type { MachineReport, Spread, SummaryRow } from './schema.js';

/** How all tables look: colours only where the terminal has some. */
export const TABLE_STYLE: { head: string[]; border: string[]; compact: boolean } = {
  head: pc.isColorSupported ? ['bold'] : [],
  border: pc.isColorSupported ? ['gray'] : [],
  compact: true,
};

/** The machine that figures were measured on, as the line under a table. */
export function machineLine({ cpu, cores, os, node }: MachineReport): string {
  return `${cpu}, ${cores} cores, ${os}, Node ${node.slice(1)}`;
}

/** "1.72 s (1.70 s–1.75 s)"; a single value alone. */
export function formatSpread(spread: Spread, n: number, format: (value: number) => string): string {
  const median = format(spread.median);
  return n === 1 ? median : `${median} ${pc.dim(`(${format(spread.min)}–${format(spread.max)})`)}`;
}

/** "there": it is for the process to which the guest has gone to say. */
function verdictCell(verified: boolean | null): string {
  return verified === null ? pc.dim('there') : verified ? pc.green('yes') : pc.red('NO');
}

/** The table at the end of a benchmark: a row for each guest and baseline. */
export function summaryTable(rows: readonly SummaryRow[]): string {
  const table = new Table({
    head: [
      'guest',
      'free memory',
      'baseline',
      'time',
      'saved',
      'downtime',
      'sent, MiB',
      'skipped, MiB',
      'in vain',
      'verified',
    ],
    colAligns: ['left', 'left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'left'],
    style: TABLE_STYLE,
  });
  let last = '';
  for (const row of rows) {
    const hinted = row.baseline === 'hints' || row.baseline === 'both';
    table.push([
      row.guest === last ? '' : row.guest,
      row.guest === last ? '' : row.freeMemory,
      row.baseline,
      formatSpread(row['total-time'], row.n, formatMs),
      row.timeSaved === null ? '' : formatShare(row.timeSaved),
      formatMs(row.downtime.median),
      formatMib(row.transferred.median),
      hinted ? formatMib(row.skippedPages.median * PAGE_SIZE) : '',
      hinted ? String(row.sentInVain.median) : '',
      verdictCell(row.verified),
    ]);
    last = row.guest;
  }
  return table.toString();
}
