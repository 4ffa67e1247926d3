import type { MigrationReport } from '../migration/report.js';

/**
 * What is compared: `none` sends everything, `zero` detects zero pages, `hints` skips hinted pages, `both` does both.
 */
export const BASELINES = ['none', 'zero', 'hints', 'both'] as const;
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
  /** The guest zeroes each page that it allocates. */
  readonly initOnAlloc: boolean;
  /** What it fills pages with that it frees (32 bits, repeated); null: it leaves them as they are. */
  readonly pagePoison: number | null;
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
  /** Delay of the coordinator's event loop, as `perf_hooks` measures it with a resolution of 1 ms. */
  readonly eventLoop: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly verified: {
    readonly pagesCompared: number;
    readonly pagesDifferent: number;
    /** Pages that were free, were not sent, and are zero (or poison) at the destination and something else at the source. */
    readonly pagesLeftBehind: number;
    readonly guestSelfCheck: 'passed' | 'failed';
  };
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
  /** Share of the time of `none` of the same guest that was saved, 0 … 1; null without that baseline. */
  readonly timeSaved: number | null;
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
