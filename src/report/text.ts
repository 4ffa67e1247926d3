import pc from 'picocolors';
import { notesOf, WORDS } from './notes.js';
import type { BenchReport } from './schema.js';
import { sweepTable } from './sweep.js';
import { summaryTable } from './table.js';

/** A report as it is shown in a terminal: its table, and what one has to know to read it. Empty without runs. */
export function reportText(report: BenchReport): string {
  if (report.summary.length === 0) {
    return '';
  }
  const table = report.sweep === null ? summaryTable(report.summary) : sweepTable(report, report.sweep);
  return `${table}\n${pc.dim([...notesOf(report), WORDS].join('\n'))}`;
}
