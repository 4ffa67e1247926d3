import type { PageFateCounts } from '../migration/page-fates.js';
import type { MigrationReport } from '../migration/report.js';
import type { TimelineEvent, TimelineSample } from '../migration/timeline.js';

/**
 * What is compared: `none` sends everything, `zero` detects zero pages, `hints` skips hinted pages, `both` does both.
 */
export const BASELINES = ['none', 'zero', 'hints', 'both'] as const;
/** A baseline's name: see {@link BenchReport}'s runs. */
export type Baseline = (typeof BASELINES)[number];

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
  readonly dialect: 'command-register';
  readonly link: string;
  /** null: unlimited. */
  readonly linkBytesPerSecond: number | null;
  readonly transport: 'memory';
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
  /** Where in its trace the guest was during the migration; absent if it replays none. */
  readonly replay?: ReplayReport;
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
    /** Pages that were free, were not sent, and are zero at the destination. */
    readonly pagesLeftBehind: number;
    readonly guestSelfCheck: 'passed' | 'failed';
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

/** Median, least and most of n runs. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The runs of one guest and one baseline. */
export interface SummaryRow {
  readonly guest: string;
  readonly freeMemory: string;
  readonly baseline: Baseline;
  readonly n: number;
  readonly 'total-time': Spread;
  readonly downtime: Spread;
  readonly transferred: Spread;
  readonly skippedPages: Spread;
  /** Pages sent although they were reported free. */
  readonly sentInVain: Spread;
  /** Share of the time of {@link savedAgainst} that was saved, 0 … 1 (negative: lost); null where there is nothing to compare. */
  readonly timeSaved: number | null;
  /** The plainest baseline of this guest that was run: `none`, or else `zero`. */
  readonly savedAgainst: Baseline | null;
  /** Time over (bytes sent / rate of the link); null on an unlimited link. */
  readonly overLink: number | null;
  readonly deadlinesExpired: number;
  readonly verified: boolean;
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

/** `report.json`. */
export interface BenchReport {
  readonly schema: 1;
  readonly createdAt: string;
  readonly command: string;
  readonly machine: MachineReport;
  readonly runs: readonly RunReport[];
  readonly summary: readonly SummaryRow[];
}
