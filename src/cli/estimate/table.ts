import Table from 'cli-table3';
import pc from 'picocolors';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import { MIB, PAGE_SIZE } from '../../memory/page.js';
import { MOST_MODELLED_BYTES_PER_SECOND } from '../../migration/estimate.js';
import { formatMib, formatMs } from '../../report/format.js';
import { machineLine, TABLE_STYLE } from '../../report/table.js';
import { labelOf } from './check.js';
import type { CheckReport, EstimateReport, Prediction } from './report.js';

function percent(share: number): string {
  const tenths = Math.round(share * 1000);
  return `${tenths < 0 ? '−' : ''}${(Math.abs(tenths) / 10).toFixed(1)} %`;
}

function signed(error: number | null): string {
  const hundredths = Math.round((error ?? 0) * 10_000);
  return error === null ? '' : `${hundredths < 0 ? '−' : '+'}${(Math.abs(hundredths) / 100).toFixed(2)} %`;
}

/** What the memory is used for. */
function usageTable({ memory }: EstimateReport): string {
  const { use, pageCache } = memory;
  const table = new Table({
    head: ['memory', 'pages', 'MiB', 'share', ''],
    colAligns: ['left', 'right', 'right', 'right', 'left'],
    style: TABLE_STYLE,
  });
  const row = (name: string, pages: number, note = ''): void => {
    table.push([name, String(pages), formatMib(pages * PAGE_SIZE), percent(pages / use.pages), pc.dim(note)]);
  };
  row('RAM', use.pages);
  row('free', use.free, 'left behind with hints');
  row('page cache', use.pageCache);
  row('  droppable', pageCache.droppable, 'in use, but the guest could drop it without a write');
  row('  mapped', pageCache.mapped, 'programs and libraries that run');
  row('  dirty', pageCache.dirty, 'to be written first');
  row('  pinned', pageCache.pinned, 'unevictable or locked');
  row('shmem', use.shmem, 'tmpfs and shared memory: to swap only');
  row('anonymous', use.anon, "processes' own");
  row('slab', use.slab, "the kernel's objects; part of it could be reclaimed, the flags don't say which");
  row('page tables', use.pageTables);
  if (use.hugetlb > 0) {
    row('hugetlb', use.hugetlb, 'set aside as huge pages, in use or not');
  }
  if (use.offline > 0) {
    row('offline', use.offline, 'in a balloon already');
  }
  row('reserved', use.reserved, 'kernel image, page structures, firmware');
  row('other', use.other, 'kernel stacks, vmalloc, per-CPU free lists and the like');
  return table.toString();
}

/** Free memory by smallest order. */
function orderTable({ memory }: EstimateReport): string {
  const table = new Table({
    head: ['smallest order', 'smallest block', 'left behind, MiB', 'of free', 'of RAM', 'ranges'],
    colAligns: ['right', 'right', 'right', 'right', 'right', 'right'],
    style: TABLE_STYLE,
  });
  for (const { order, bytes, ranges, shareOfFree, shareOfMemory } of memory.orders) {
    const kib = (2 ** order * PAGE_SIZE) / 1024;
    table.push([
      order === MAX_ORDER ? `${order} (Linux)` : String(order),
      kib >= 1024 ? `${kib / 1024} MiB` : `${kib} KiB`,
      formatMib(bytes),
      percent(shareOfFree),
      percent(shareOfMemory),
      String(ranges),
    ]);
  }
  return table.toString();
}

function predictionTable({ predictions }: EstimateReport): string {
  const table = new Table({
    head: ['migration', 'time', 'saved', 'sent, MiB', 'zero, MiB', 'skipped, MiB'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right'],
    style: TABLE_STYLE,
  });
  const mib = (pages: number): string => (pages === 0 ? '' : formatMib(pages * PAGE_SIZE));
  for (const prediction of predictions) {
    const { transferred, duplicate, skipped, timeSaved } = prediction;
    table.push([
      labelOf(prediction),
      prediction['total-time'] === null ? '' : formatMs(prediction['total-time']),
      timeSaved === null ? '' : percent(timeSaved),
      formatMib(transferred),
      mib(duplicate),
      mib(skipped),
    ]);
  }
  return table.toString();
}

function checkTable(checks: readonly CheckReport[]): string {
  const table = new Table({
    head: ['migration', 'predicted', 'measured', 'error', 'predicted, MiB', 'measured, MiB', 'error'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: TABLE_STYLE,
  });
  for (const { predicted, timeError, bytesError, ...measured } of checks) {
    table.push([
      labelOf(predicted),
      predicted['total-time'] === null ? '' : formatMs(predicted['total-time']),
      formatMs(measured['total-time']),
      signed(timeError),
      formatMib(predicted.transferred),
      formatMib(measured.transferred),
      signed(bytesError),
    ]);
  }
  return table.toString();
}

/** What one has to know to read the tables. */
function notes({ source, assumed, predictions, machine }: EstimateReport): string {
  const timed = predictions.every((prediction: Prediction) => prediction['total-time'] !== null);
  const ram =
    source.ramFrom === 'flags'
      ? 'RAM: every page frame that the kernel has a record of (its flags do not say NOPAGE), which may be a little too much.'
      : `RAM: as ${source.ramFrom === 'iomem' ? '/proc/iomem' : 'meta.json'} has it.`;
  const zero =
    source.zeroPages === 'unknown' && predictions.some(({ freeMemory }) => freeMemory === 'data')
      ? 'The flags do not say which pages are zero, so zero detection has two rows: all free memory zero, and all of it old ' +
        'data. Pages in use are taken to hold data.'
      : '';
  const link = timed
    ? `Times: link ${assumed.link}, zeroes scanned at ${(assumed.zeroScanBytesPerSecond / 1e9).toFixed(1)} GB/s ` +
      `(${assumed.zeroScan === 'measured' ? 'measured on this machine just now' : 'given'}), a quiet guest.`
    : `No times: a link of ${assumed.link} does not limit a migration (from ${MOST_MODELLED_BYTES_PER_SECOND / 1e9} GB/s on ` +
      'copying does), and how fast a machine copies no memory map says: lacuna bench --link unlimited measures it.';
  return pc.dim(
    [ram, zero, link, `saved: against none. ${machineLine(machine)}`]
      .filter((line) => line !== '')
      .join('\n'),
  );
}

/** The report as one reads it on a terminal. */
export function printed(report: EstimateReport): string {
  const { source, memory, checks } = report;
  return [
    `${pc.bold(source.name)} ${pc.dim(source.where)}: ${(memory.bytes / MIB).toFixed(0)} MiB, ` +
      `${memory.freeRuns} runs of free pages, the longest ${formatMib(memory.longestFreeRunPages * PAGE_SIZE)} MiB`,
    usageTable(report),
    orderTable(report),
    predictionTable(report),
    ...(checks === undefined ? [] : [checkTable(checks)]),
    notes(report),
  ].join('\n');
}
