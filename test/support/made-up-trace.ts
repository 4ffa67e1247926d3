import type { TraceFiles } from '../../src/guest/trace-file.js';

export interface MadeUpSample {
  readonly tMs: number;
  readonly free: readonly number[];
  readonly dirty: readonly number[];
  readonly zero: readonly number[];
}

/** `[first, end)` pfns. */
export type Ram = readonly (readonly [first: number, end: number])[];

export interface MadeUpTrace extends TraceFiles {
  readonly meta: Record<string, unknown> & {
    readonly pfns: number;
    readonly counts: { pages: number; samples: number };
    readonly samples: Record<'tMs' | 'free' | 'dirty' | 'zero' | 'allocated' | 'freed', number>[];
  };
  readonly records: Uint8Array;
}

/** The files of a trace with these samples, by the format's description. All of them are new, for the caller to spoil. */
export function madeUpTrace(pfns: number, ram: Ram, samples: readonly MadeUpSample[]): MadeUpTrace {
  const bitmapBytes = pfns / 8;
  const recordBytes = 16 + 3 * bitmapBytes;
  const records = new Uint8Array(64 + samples.length * recordBytes);
  records.set(Buffer.from('KPFTRACE', 'latin1'));
  const view = new DataView(records.buffer);
  for (const [i, value] of [1, 64, 4096, samples.length, pfns, 0, bitmapBytes, recordBytes, 3].entries()) {
    view.setUint32(8 + i * 4, value, true);
  }
  const toggle = (at: number, pages: readonly number[]): void => {
    for (const pfn of pages) {
      records[at + (pfn >> 3)] = records[at + (pfn >> 3)]! ^ (1 << (pfn & 7));
    }
  };
  for (const [i, { tMs, free, dirty, zero }] of samples.entries()) {
    const at = 64 + i * recordBytes;
    view.setUint32(at, tMs, true);
    view.setUint32(at + 4, 86_000, true);
    for (const [place, now, before] of [
      [0, free, samples[i - 1]?.free ?? []],
      [1, dirty, []],
      [2, zero, samples[i - 1]?.zero ?? []],
    ] as const) {
      toggle(at + 16 + place * bitmapBytes, now);
      toggle(at + 16 + place * bitmapBytes, before);
    }
  }
  const pages = ram.reduce((sum, [first, end]) => sum + end - first, 0);
  return {
    meta: {
      name: 'made-up',
      memoryBytes: pages * 4096,
      pageSize: 4096,
      pfns,
      backing: ram.map(([first, end]) => ({ startGpa: first * 4096, endGpa: end * 4096 })),
      counts: { pages, samples: samples.length },
      samples: samples.map(({ tMs, free, dirty, zero }, i) => {
        const before = samples[i - 1]?.free ?? free;
        return {
          tMs,
          free: free.length,
          dirty: dirty.length,
          zero: zero.length,
          allocated: before.filter((pfn) => !free.includes(pfn)).length,
          freed: free.filter((pfn) => !before.includes(pfn)).length,
        };
      }),
    },
    records,
  };
}

/** Marsaglia's xorshift32, for pages that are the same with every run. */
function makeRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export interface BusyOptions {
  readonly pages: number;
  readonly samples: number;
  readonly intervalMs: number;
  /** Pages that are freed on the way to a sample, as many as are allocated; twice as many are written. */
  readonly changes: number;
  readonly seed?: number;
}

/**
 * A trace of a guest that is busy everywhere: of each 64 pages in a row about half are free at first, and what is freed,
 * allocated and written is strewn over all of memory but its first quarter. Free pages are written too, now and then.
 */
export function busyTrace(options: BusyOptions): MadeUpTrace {
  const { pages, samples, intervalMs, changes } = options;
  const random = makeRandom(options.seed ?? 7);
  const first = pages / 4;
  const free = new Set(
    Array.from({ length: pages - first }, (_, i) => first + i).filter((pfn) => pfn % 64 < 33),
  );
  const zero = [...free].filter((pfn) => pfn % 5 === 0);
  const made: MadeUpSample[] = [{ tMs: 0, free: [...free], dirty: [], zero }];
  while (made.length < samples) {
    const used = Array.from({ length: pages }, (_, pfn) => pfn).filter((pfn) => !free.has(pfn));
    const wasFree = [...free];
    const some = (from: readonly number[], count: number): number[] =>
      Array.from({ length: count }, () => from[random(from.length)]!);
    const dirty = new Set([...some(used, 2 * changes), ...some(wasFree, 5)]);
    for (const pfn of some(
      used.filter((page) => page >= first),
      changes,
    )) {
      free.add(pfn);
    }
    for (const pfn of some(wasFree, changes)) {
      free.delete(pfn);
      dirty.add(pfn);
    }
    made.push({
      tMs: made.length * intervalMs + random(3),
      free: [...free],
      dirty: [...dirty],
      zero: zero.filter((pfn) => !dirty.has(pfn)),
    });
  }
  return madeUpTrace(pages, [[0, pages]], made);
}
