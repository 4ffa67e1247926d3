import type { TraceFiles } from '../../src/guest/trace-file.js';

/** What a sample says, page by page. */
export interface NaiveSample {
  readonly tMs: number;
  readonly free: ReadonlySet<number>;
  readonly dirty: ReadonlySet<number>;
  readonly zero: ReadonlySet<number>;
}

/** A change on the way to a sample, as TracePlayer gives it out: 0 freed, 1 allocated, 2 written. */
export type NaiveChange = readonly [change: number, pfn: number];

/**
 * The naive twin of parseTrace: the rules of bench/guests/README.md one after the other, with sets of pages instead of
 * bitmaps. It takes meta.json for one that is well-formed. Undefined: to be refused.
 */
export function naiveTrace({ meta: unknownMeta, records }: TraceFiles): NaiveSample[] | undefined {
  const meta = unknownMeta as {
    readonly pfns: number;
    readonly backing: readonly { readonly startGpa: number; readonly endGpa: number }[];
    readonly samples: readonly Readonly<
      Record<'tMs' | 'free' | 'dirty' | 'zero' | 'allocated' | 'freed', number>
    >[];
  };
  const bitmapBytes = meta.pfns / 8;
  const recordBytes = 16 + 3 * bitmapBytes;
  const u32 = (at: number): number => [0, 1, 2, 3].reduce((sum, i) => sum + records[at + i]! * 256 ** i, 0);
  if (records.length !== 64 + meta.samples.length * recordBytes) {
    return undefined;
  }
  const header = [1, 64, 4096, meta.samples.length, meta.pfns, 0, bitmapBytes, recordBytes, 3, 0, 0, 0, 0, 0];
  if (
    Buffer.from(records.subarray(0, 8)).toString('latin1') !== 'KPFTRACE' ||
    header.some((value, i) => u32(8 + i * 4) !== value)
  ) {
    return undefined;
  }
  const isRam = (pfn: number): boolean =>
    meta.backing.some(({ startGpa, endGpa }) => pfn * 4096 >= startGpa && pfn * 4096 < endGpa);
  const set = (at: number): Set<number> => {
    const pages = new Set<number>();
    for (let pfn = 0; pfn < meta.pfns; pfn += 1) {
      if (Math.floor(records[at + Math.floor(pfn / 8)]! / 2 ** (pfn % 8)) % 2 === 1) {
        pages.add(pfn);
      }
    }
    return pages;
  };
  const samples: NaiveSample[] = [];
  for (const [i, expected] of meta.samples.entries()) {
    const at = 64 + i * recordBytes;
    const before = samples.at(-1);
    const sample = {
      tMs: u32(at),
      free: symmetricDifference(before?.free, set(at + 16)),
      dirty: set(at + 16 + bitmapBytes),
      zero: symmetricDifference(before?.zero, set(at + 16 + 2 * bitmapBytes)),
    };
    const wasFree = before?.free ?? sample.free;
    const isConsistent =
      sample.tMs === expected.tMs &&
      (before === undefined ? sample.tMs === 0 && sample.dirty.size === 0 : sample.tMs > before.tMs) &&
      sample.free.size === expected.free &&
      sample.dirty.size === expected.dirty &&
      sample.zero.size === expected.zero &&
      without(sample.free, wasFree).length === expected.freed &&
      without(wasFree, sample.free).length === expected.allocated &&
      [...sample.free, ...sample.dirty, ...sample.zero].every(isRam);
    if (!isConsistent) {
      return undefined;
    }
    samples.push(sample);
  }
  return samples;
}

/** What happens between two samples, in order. */
export function naiveChanges(before: NaiveSample, after: NaiveSample): NaiveChange[] {
  const ascending = (pages: readonly number[]): number[] => [...pages].sort((a, b) => a - b);
  const written = [...after.dirty].filter((pfn) => !before.free.has(pfn) && !after.free.has(pfn));
  return [
    ...ascending(without(after.free, before.free)).map((pfn) => [0, pfn] as const),
    ...ascending(without(before.free, after.free)).map((pfn) => [1, pfn] as const),
    ...ascending(written).map((pfn) => [2, pfn] as const),
  ];
}

function without(pages: ReadonlySet<number>, others: ReadonlySet<number>): number[] {
  return [...pages].filter((pfn) => !others.has(pfn));
}

function symmetricDifference(a: ReadonlySet<number> = new Set(), b: ReadonlySet<number>): Set<number> {
  return new Set([...without(a, b), ...without(b, a)]);
}
