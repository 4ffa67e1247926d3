import type { Dialect } from '../balloon/dialect.js';
import type { PageFateCounts } from '../migration/page-fates.js';
import type { MigrationReport } from '../migration/report.js';
import type { TimelineEvent, TimelineSample } from '../migration/timeline.js';

/**
 * What is compared: `none` sends everything, `zero` detects zero pages, `hints` skips hinted pages, `both` does both.
 */
export const BASELINES = ['none', 'zero', 'hints', 'both'] as const;
/** A baseline's name: see {@link BenchReport}'s runs. */
export type Baseline = (typeof BASELINES)[number];

/** What a guest travelled by: within a process, or between two over a connection. */
export const TRANSPORTS = ['memory', 'tcp', 'tls'] as const;
export type Transport = (typeof TRANSPORTS)[number];

/**
 * What a guest found when it looked at all of its memory where it runs; `unseen`: it runs in a process that reports on it
 * itself.
 */
export const SELF_CHECKS = ['passed', 'failed', 'unseen'] as const;

/** One migration of a benchmark. Times in ms, sizes in bytes, rates in bytes a second. */
export interface RunReport extends MigrationReport {
  readonly guest: string;
  readonly memoryBytes: number;
  /** Pages that were free when the guest was booted. */
  readonly freePages: number;
  readonly freeMemory: string;
  readonly workload: string;
  readonly baseline: Baseline;
  readonly schedule: string;
  readonly minOrder: number;
  /** How the guest finds its free pages: `walk` or `hold`. */
  readonly reportMode: string;
  /** Size of the free page queue. */
  readonly ringSize: number;
  /** The guest zeroes each page that it allocates. */
  readonly initOnAlloc: boolean;
  /** What it fills pages with that it frees (32 bits, repeated); null: it leaves them as they are. */
  readonly pagePoison: number | null;
  /** Which the guest's balloon driver speaks. */
  readonly dialect: Dialect;
  readonly link: string;
  /** null: unlimited. */
  readonly linkBytesPerSecond: number | null;
  readonly transport: Transport;
  /** Whether the destination's memory had been touched before. */
  readonly destination: 'touched' | 'untouched';
  readonly downtimeLimit: number;
  readonly seed: number;
  /** Processor time of the three threads during the migration; null where the system does not say. */
  readonly cpu: { readonly coordinator: number; readonly guest: number; readonly destination: number };
  /** What the guest's workload wrote while it was being migrated, until it was stopped, and what it was asked to. */
  readonly guestWork: {
    readonly pagesWritten: number;
    readonly pagesPerSecond: number;
    readonly askedPagesPerSecond: number;
  };
  /** Where in its trace the guest was during the migration; null if it replays none. */
  readonly replay: ReplayReport | null;
  /** Delay of the coordinator's event loop, as `perf_hooks` measures it with a resolution of 1 ms. */
  readonly eventLoop: { readonly p50: number; readonly p99: number; readonly max: number };
  /** What happened when, ms since the migration's start. */
  readonly timeline: {
    readonly events: readonly TimelineEvent[];
    readonly samples: readonly TimelineSample[];
  };
  /** What became of the pages. */
  readonly pages: {
    readonly counts: PageFateCounts;
    /** Page frames below the end of RAM. */
    readonly pfnSpan: number;
    /** The fate of each of them (`report/page-map.ts`); null in all runs but the middle one of those that are alike. */
    readonly map: string | null;
  };
  readonly verified: {
    readonly pagesCompared: number;
    readonly pagesDifferent: number;
    /** Pages that were free, were not sent, and are zero (or poison) at the destination and something else at the source. */
    readonly pagesLeftBehind: number;
    readonly guestSelfCheck: (typeof SELF_CHECKS)[number];
  };
}

/** A trace's part in a migration. Times in ms of the trace, whole. */
export interface ReplayReport {
  readonly speed: number;
  readonly beganAt: number;
  /** When the guest was stopped. */
  readonly stoppedAt: number;
  /** Pages that could not be freed, allocated or written as the trace has it, from `beganAt` to `stoppedAt`. */
  readonly skipped: number;
  /** Whether the trace came to its end, and the guest halted, before it was stopped. */
  readonly ended: boolean;
}

/** Where a run stands in the plan of its benchmark. */
export interface RunPoint {
  /** In the whole plan, from 0, whichever shard ran it. */
  readonly position: number;
  /** Runs that are compared with each other: they are made one after another, by one shard. */
  readonly group: number;
  /** The line of a chart that it belongs to: its guest's name, unless the sweep makes a guest for each value. */
  readonly series: string;
  /** A label of the sweep's values; null: no sweep, or a run that its values do not touch. */
  readonly value: string | null;
}

/** A run of a benchmark. */
export interface BenchRun extends RunReport {
  readonly point: RunPoint;
}

/** Median, least and most of n runs. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The runs of one guest and one baseline, and in a sweep of one value. */
export interface SummaryRow {
  readonly guest: string;
  readonly series: string;
  /** As in {@link RunPoint}. */
  readonly value: string | null;
  readonly freeMemory: string;
  readonly baseline: Baseline;
  readonly n: number;
  readonly 'total-time': Spread;
  readonly downtime: Spread;
  readonly transferred: Spread;
  readonly skippedPages: Spread;
  /** Pages sent although they were reported free. */
  readonly sentInVain: Spread;
  /** Free ranges reported. */
  readonly ranges: Spread;
  /** From the request to the stop sign of the first report; null where none was asked for, or none ended. */
  readonly hintTime: Spread | null;
  /** Share of the time of {@link savedAgainst} that was saved, 0 … 1 (negative: lost); null where there is nothing to compare. */
  readonly timeSaved: number | null;
  /** The plainest baseline that was run in the same groups: `none`, or else `zero`. */
  readonly savedAgainst: Baseline | null;
  /** Time over (bytes sent / rate of the link); null on an unlimited link. */
  readonly overLink: number | null;
  readonly deadlinesExpired: number;
  /** Whether nothing was lost in any of them; null: that is for others to see. */
  readonly verified: boolean | null;
}

/** The machine that the figures were measured on. */
export interface MachineReport {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly os: string;
  readonly node: string;
  readonly lacuna: string;
}

/** One I-th of N of a plan, from 1. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

/** What was to be run. */
export interface PlanReport {
  /** Runs and groups of the whole plan. */
  readonly runs: number;
  readonly groups: number;
  /** SHA-256 of all that decides what is run, the guests' memory maps included: the same in all shards of a plan. */
  readonly digest: string;
  /** What was asked for, by option; what a sweep varies is not among them. */
  readonly settings: Readonly<Record<string, string>>;
  /** Group g is run by shard `g % count + 1`; null: all were. */
  readonly shard: Shard | null;
}

/** How a sweep's axis is drawn: `steps` are evenly spaced, whatever their values. */
export const AXIS_SCALES = ['linear', 'log', 'steps'] as const;

export interface SweepAxis {
  readonly label: string;
  /** Empty where the values have none. */
  readonly unit: string;
  readonly scale: (typeof AXIS_SCALES)[number];
}

export interface SweepValue {
  readonly label: string;
  /** In the axis's unit; null where it is no number. */
  readonly x: number | null;
}

/** What a sweep can show of its runs (`measures.ts`). */
export const MEASURE_NAMES = [
  'saved',
  'time',
  'downtime',
  'sent',
  'ranges',
  'hint-time',
  'in-vain',
  'dropped',
  'written',
] as const;
export type MeasureName = (typeof MEASURE_NAMES)[number];

/** What was varied, and what of the result is worth a chart. */
export interface SweepReport {
  readonly name: string;
  readonly axis: SweepAxis;
  readonly values: readonly SweepValue[];
  readonly measures: readonly MeasureName[];
}

/** A report that went into a merged one. */
export interface ReportPart {
  readonly shard: Shard;
  readonly runs: number;
  readonly createdAt: string;
  readonly command: string;
  readonly machine: MachineReport;
}

/** `report.json`. */
export interface BenchReport {
  readonly schema: 1;
  readonly createdAt: string;
  readonly command: string;
  /** Of a merged report: that of its first part. */
  readonly machine: MachineReport;
  readonly plan: PlanReport;
  /** null: nothing was varied. */
  readonly sweep: SweepReport | null;
  /** Of a merged report; empty otherwise. */
  readonly parts: readonly ReportPart[];
  /** In the plan's order. */
  readonly runs: readonly BenchRun[];
  readonly summary: readonly SummaryRow[];
}
