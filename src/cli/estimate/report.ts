import type { FreeMemoryMode } from '../../guest/image.js';
import type { FrameUse, PageCacheUse } from '../../guest/memory-map.js';
import type { Baseline, MachineReport, RunReport } from '../../report/schema.js';
import type { MachineMap } from './memory.js';

/** Free memory that is reported with one smallest order. */
export interface OrderReport {
  readonly order: number;
  /** Free blocks of exactly this order. */
  readonly blocks: number;
  /** What reporting with this smallest order leaves behind. */
  readonly bytes: number;
  readonly ranges: number;
  readonly shareOfFree: number;
  readonly shareOfMemory: number;
}

/** What free pages are taken to hold in a prediction. `any`: it makes no difference to it. */
export type AssumedFreeMemory = FreeMemoryMode | 'any';

/** One migration as it is expected. Times in ms, sizes in bytes. */
export interface Prediction {
  readonly baseline: Baseline;
  readonly freeMemory: AssumedFreeMemory;
  /** Smallest order that the guest reports; null without hints. */
  readonly minOrder: number | null;
  /** null: the link gives no time. */
  readonly 'total-time': number | null;
  readonly transferred: number;
  /** Pages sent with contents, as zeroes, and left out by hints. */
  readonly normal: number;
  readonly duplicate: number;
  readonly skipped: number;
  /** Against `none`, 0 … 1. */
  readonly timeSaved: number | null;
  readonly bytesSaved: number;
}

/** A prediction beside a migration that was really done. Errors: predicted / measured - 1. */
export interface CheckReport {
  readonly predicted: Prediction;
  readonly runs: readonly RunReport[];
  /** Medians of the runs. */
  readonly 'total-time': number;
  readonly transferred: number;
  readonly timeError: number | null;
  readonly bytesError: number;
}

/** What `lacuna estimate --json` writes. */
export interface EstimateReport {
  readonly schema: 1;
  readonly createdAt: string;
  readonly command: string;
  readonly machine: MachineReport;
  readonly source: {
    readonly name: string;
    readonly kind: MachineMap['kind'];
    readonly where: string;
    readonly ramFrom: MachineMap['ramFrom'];
    /** Whether it is known which pages are zero. */
    readonly zeroPages: 'captured' | 'unknown';
  };
  readonly memory: {
    readonly pfns: number;
    readonly bytes: number;
    readonly blocks: MachineMap['map']['blocks'];
    /** Pages by use, and the page cache by what it takes to drop it. */
    readonly use: FrameUse;
    readonly pageCache: PageCacheUse;
    readonly freeRuns: number;
    readonly longestFreeRunPages: number;
    readonly orders: readonly OrderReport[];
  };
  readonly assumed: {
    readonly link: string;
    readonly linkBytesPerSecond: number | null;
    readonly minOrder: number;
    readonly zeroScanBytesPerSecond: number;
    readonly zeroScan: 'measured' | 'given';
    /** What the guest writes while it is migrated. */
    readonly dirty: { readonly pagesPerSecond: number; readonly setPages: number };
  };
  readonly predictions: readonly Prediction[];
  /** With --check. */
  readonly checks?: readonly CheckReport[];
}
