import Table from 'cli-table3';
import { z } from 'zod';
import { PAGE_SIZE } from '../../memory/page.js';
import { formatMib, formatMs } from '../../report/format.js';
import type { MachineReport, Spread } from '../../report/schema.js';
import { spreadOf } from '../../report/summary.js';
import { machineLine, TABLE_STYLE } from '../../report/table.js';
import { FAULT_KINDS, type FaultKind, type StressTransport, TRANSPORTS } from './plan.js';
import type { Tally } from './tally.js';

const count = z.int().nonnegative();
const ms = z.number().nonnegative();

/** What `--json` writes. Pages unless a name says otherwise, times in ms. */
export interface StressReport {
  readonly schema: 1;
  readonly kind: 'stress';
  readonly createdAt: string;
  readonly command: string;
  readonly machine: MachineReport;
  readonly seed: number;
  readonly transport: StressTransport;
  /** Kinds of faults that could be injected. */
  readonly faults: readonly FaultKind[];
  readonly durationMs: number;
  readonly interrupted: boolean;
  readonly cases: number;
  readonly skippedCases: number;
  readonly migrations: number;
  /** How migrations ended, and how many did. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** Faults that were really injected. */
  readonly injected: Readonly<Record<string, number>>;
  readonly pages: {
    readonly sent: number;
    readonly zero: number;
    readonly filled: number;
    readonly compared: number;
    readonly leftBehind: number;
  };
  readonly hints: { readonly sessions: number; readonly applied: number; readonly reDirtied: number };
  readonly rounds: number;
  /** Of migrations over a network: links that broke, those that were there again, and all that there were. */
  readonly links: {
    readonly lost: number;
    readonly restored: number;
    /** Of those restored, the ones to another destination. */
    readonly startedOver: number;
    readonly epochs: number;
  };
  readonly downtime: Spread | null;
  readonly failures: readonly StressFailure[];
}

export interface StressFailure {
  readonly case: number;
  /** The migration within the case, from 1; 0: before the first. */
  readonly hop: number;
  /** What went wrong. */
  readonly error: string;
  readonly stack: string;
  /** What was being done. */
  readonly plan: readonly string[];
  /** Fails again, as far as the threads' timing lets it. */
  readonly command: string;
}

const reportSchema: z.ZodType<StressReport> = z.strictObject({
  schema: z.literal(1),
  kind: z.literal('stress'),
  createdAt: z.iso.datetime(),
  command: z.string(),
  machine: z.strictObject({
    cpu: z.string(),
    cores: count,
    memoryBytes: count,
    os: z.string(),
    node: z.string(),
    lacuna: z.string(),
  }),
  seed: z.int().min(0).max(0xffff_ffff),
  transport: z.enum(TRANSPORTS),
  faults: z.array(z.enum(FAULT_KINDS)),
  durationMs: ms,
  interrupted: z.boolean(),
  cases: count,
  skippedCases: count,
  migrations: count,
  outcomes: z.record(z.string(), count),
  injected: z.record(z.enum(FAULT_KINDS), count),
  pages: z.strictObject({ sent: count, zero: count, filled: count, compared: count, leftBehind: count }),
  hints: z.strictObject({ sessions: count, applied: count, reDirtied: count }),
  rounds: count,
  links: z.strictObject({ lost: count, restored: count, startedOver: count, epochs: count }),
  downtime: z.strictObject({ median: ms, min: ms, max: ms }).nullable(),
  failures: z.array(
    z.strictObject({
      case: count,
      hop: count,
      error: z.string().min(1),
      stack: z.string(),
      plan: z.array(z.string()),
      command: z.string(),
    }),
  ),
});

/** A report that was read from a file. Throws a ZodError that says what is wrong with it. */
export function parseStressReport(json: unknown): StressReport {
  return reportSchema.parse(json);
}

/** What a report says that the tally does not know. */
export type ReportParts = Pick<
  StressReport,
  | 'createdAt'
  | 'command'
  | 'machine'
  | 'seed'
  | 'transport'
  | 'faults'
  | 'durationMs'
  | 'interrupted'
  | 'failures'
>;

/** The report of a run. Throws if it is not what the schema says: then lacuna is wrong. */
export function reportOf(tally: Tally, parts: ReportParts): StressReport {
  return parseStressReport({
    schema: 1,
    kind: 'stress',
    ...parts,
    cases: tally.cases,
    skippedCases: tally.skippedCases,
    migrations: tally.migrations,
    outcomes: Object.fromEntries(tally.outcomes),
    injected: Object.fromEntries(tally.faults),
    pages: {
      sent: tally.sent,
      zero: tally.zero,
      filled: tally.filled,
      compared: tally.pagesCompared,
      leftBehind: tally.pagesLeftBehind,
    },
    hints: { sessions: tally.sessions, applied: tally.hintsApplied, reDirtied: tally.hintsReDirtied },
    rounds: tally.rounds,
    links: tally.links,
    downtime: tally.downtimes.length === 0 ? null : spreadOf(tally.downtimes),
  });
}

/** Outcomes beside faults, a row each. */
export function resultTable(report: StressReport): string {
  const table = new Table({
    head: ['migrations ended', '', 'faults injected', ''],
    colAligns: ['left', 'right', 'left', 'right'],
    style: TABLE_STYLE,
  });
  const outcomes = Object.entries(report.outcomes);
  const faults = Object.entries(report.injected).filter(([kind]) =>
    report.faults.includes(kind as FaultKind),
  );
  for (let row = 0; row < Math.max(outcomes.length, faults.length); row += 1) {
    const [outcome = '', ended = ''] = outcomes[row] ?? [];
    const [fault = '', injected = ''] = faults[row] ?? [];
    table.push([outcome, String(ended), fault, String(injected)]);
  }
  return table.toString();
}

/** The rest of a run in words, a line each. */
export function resultLines(report: StressReport): string[] {
  const { migrations, cases, skippedCases, durationMs, pages, hints, rounds, links, downtime, machine } =
    report;
  const { completed = 0 } = report.outcomes;
  const mib = (pageCount: number): string => `${formatMib(pageCount * PAGE_SIZE)} MiB`;
  const perSecond = durationMs > 0 ? (migrations / durationMs) * 1000 : 0;
  return [
    `${migrations} migrations of ${cases} guests in ${formatMs(durationMs)} (${perSecond.toFixed(1)} a second), ${rounds} rounds` +
      (skippedCases > 0 ? `; ${skippedCases} guests skipped for want of memory` : ''),
    `sent ${mib(pages.sent)}, and ${pages.zero} pages as zeroes; ${hints.applied} pages skipped by hints of ${hints.sessions} reports ` +
      `(${hints.reDirtied} of them written again and sent), ${pages.filled} filled`,
    `compared ${mib(pages.compared)} after ${completed} arrivals: ${pages.leftBehind} free pages left behind` +
      (downtime === null
        ? ''
        : `; downtime ${formatMs(downtime.median)} (${formatMs(downtime.min)}–${formatMs(downtime.max)})`),
    ...(report.transport === 'memory'
      ? []
      : [
          `links: ${links.epochs}, of which ${links.lost} broke; ${links.restored} were restored, ${links.startedOver} of them with ` +
            'another destination',
        ]),
    machineLine(machine),
  ];
}
