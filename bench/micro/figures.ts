import { cpus, loadavg } from 'node:os';
import Table from 'cli-table3';
import { MIB } from '../../src/memory/page.js';
import { availableMemory } from '../../src/report/machine.js';

/** The middle of the values; the mean of the two middle ones where their number is even. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** "median (min–max)". */
export function spread(values: readonly number[], digits: number): string {
  const format = (value: number): string => value.toFixed(digits);
  return `${format(median(values))} (${format(Math.min(...values))}–${format(Math.max(...values))})`;
}

/** 12.3 M, 456 k, 78. */
export function count(value: number): string {
  if (value >= 1e6) {
    return `${(value / 1e6).toFixed(value >= 1e8 ? 0 : 1)} M`;
  }
  return value >= 1e3 ? `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1)} k` : value.toFixed(0);
}

/** A table on stdout; the first column is text, the others are figures. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const table = new Table({
    head: [...head],
    colAligns: head.map((_, i) => (i === 0 ? 'left' : 'right')),
    style: { head: [], border: [], compact: true },
  });
  table.push(...rows.map((row) => [...row]));
  console.log(table.toString());
}

/** What every figure is to be read with. */
export function printMachine(): void {
  const load = loadavg()[0]!.toFixed(1);
  console.log(
    `${cpus()[0]?.model ?? 'unknown processor'}, ${cpus().length} cores, load ${load}, Node ${process.version}\n`,
  );
}

/** Ends the process with a message unless so much memory can be taken. */
export function needMemory(bytes: number): void {
  const available = availableMemory();
  if (bytes > available) {
    console.error(
      `this benchmark touches ${Math.ceil(bytes / MIB)} MiB and ${Math.floor(available / MIB)} MiB are available: free some memory`,
    );
    process.exit(1);
  }
}
