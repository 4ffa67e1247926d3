import type { RamBlock } from '../memory/ram-layout.js';

/** How many pages changed on the way to a sample. */
export interface SampleChanges {
  readonly freed: number;
  readonly allocated: number;
  /** In use before and after, and written in between. */
  readonly written: number;
}

/**
 * A guest in time: what was free and zero at each sample, and what was written since the one before. It can be posted
 * to a thread. Nothing writes it once it is read: it is what the outside world does, and no part of the guest.
 */
export interface GuestTrace {
  readonly name: string;
  readonly blocks: readonly RamBlock[];
  /** When the samples were taken: ms since the first, ascending. */
  readonly timesMs: readonly number[];
  /** By sample; of the first, no changes. */
  readonly changes: readonly SampleChanges[];
  /** By sample three bitmaps of {@link PageBitmap}'s layout: free, dirty, zero, each as it was. */
  readonly bitmaps: SharedArrayBuffer;
}

/** Places of a sample's bitmaps, in a record and in {@link GuestTrace.bitmaps} alike. */
export const TraceBitmap = { free: 0, dirty: 1, zero: 2 } as const;
export type TraceBitmapValue = (typeof TraceBitmap)[keyof typeof TraceBitmap];
/** How many bitmaps a sample has. */
export const TRACE_BITMAPS = 3;

/** One bitmap of a sample, 32 pages a word. */
export function traceWords(trace: GuestTrace, sample: number, bitmap: TraceBitmapValue): Uint32Array {
  const words = trace.bitmaps.byteLength / (trace.timesMs.length * TRACE_BITMAPS * 4);
  return new Uint32Array(trace.bitmaps, (sample * TRACE_BITMAPS + bitmap) * words * 4, words);
}

/** When a trace ends, in ms since its first sample. */
export function traceEndMs(trace: GuestTrace): number {
  return trace.timesMs.at(-1)!;
}
