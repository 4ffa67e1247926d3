import type { CaptureFiles } from '../../src/guest/capture.js';

/** The pages that a capture calls free, and those that it calls zero. */
export interface NaiveImage {
  readonly free: readonly number[];
  readonly zero: readonly number[];
}

/**
 * The naive twin of parseCapture: the rules of bench/guests/README.md one after the other, with a list of the pages
 * that are RAM instead of a layout. Undefined: to be refused.
 */
export function naiveCapture({ meta, kpageflags, zero: zeroBits }: CaptureFiles): NaiveImage | undefined {
  if (!isMeta(meta)) {
    return undefined;
  }
  const { memoryBytes, pfns, backing, counts } = meta;
  if (kpageflags.length !== pfns * 8 || (zeroBits !== undefined && zeroBits.length !== pfns / 8)) {
    return undefined;
  }
  // Zero pages are counted exactly if there is a bitmap of them.
  if ((zeroBits !== undefined) !== isWhole(counts.zero)) {
    return undefined;
  }
  const ram: number[] = [];
  let behind = 0;
  for (const { startGpa, endGpa } of backing) {
    const isInOrder = startGpa >= behind && startGpa < endGpa && endGpa <= pfns * 4096;
    if (startGpa % 4096 !== 0 || endGpa % 4096 !== 0 || !isInOrder) {
      return undefined;
    }
    for (let gpa = startGpa; gpa < endGpa; gpa += 4096) {
      ram.push(gpa / 4096);
    }
    behind = endGpa;
  }
  const isRam = new Set(ram);
  const free: number[] = [];
  const zero: number[] = [];
  for (let pfn = 0; pfn < pfns; pfn += 1) {
    const bit = (bytes: Uint8Array, index: number): boolean =>
      Math.floor(bytes[Math.floor(index / 8)]! / 2 ** (index % 8)) % 2 === 1;
    if (bit(kpageflags, pfn * 64 + 10)) {
      if (!isRam.has(pfn) || bit(kpageflags, pfn * 64 + 20)) {
        return undefined;
      }
      free.push(pfn);
    }
    // Behind the last word of RAM nobody looks.
    if (zeroBits !== undefined && bit(zeroBits, pfn) && pfn < Math.ceil(behind / 4096 / 32) * 32) {
      if (!isRam.has(pfn)) {
        return undefined;
      }
      zero.push(pfn);
    }
  }
  const agrees =
    memoryBytes === ram.length * 4096 &&
    counts.pages === ram.length &&
    counts.free === free.length &&
    (counts.zero ?? 0) === zero.length;
  return agrees ? { free, zero } : undefined;
}

interface Meta {
  readonly memoryBytes: number;
  readonly pfns: number;
  readonly backing: readonly { readonly startGpa: number; readonly endGpa: number }[];
  readonly counts: { readonly pages: number; readonly free: number; readonly zero?: number | null };
}

type Fields = Readonly<Record<string, unknown>>;

function isRecord(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isWhole(value: unknown, least = Number.MIN_SAFE_INTEGER): value is number {
  return Number.isSafeInteger(value) && (value as number) >= least;
}

function isMeta(value: unknown): value is Meta {
  if (!isRecord(value)) {
    return false;
  }
  const { name, memoryBytes, pageSize, pfns, backing, counts } = value as Fields &
    Record<keyof Meta, unknown> & {
      readonly name?: unknown;
      readonly pageSize?: unknown;
    };
  return (
    typeof name === 'string' &&
    name !== '' &&
    isWhole(memoryBytes, 1) &&
    memoryBytes % 4096 === 0 &&
    pageSize === 4096 &&
    isWhole(pfns, 1) &&
    pfns % 8 === 0 &&
    Array.isArray(backing) &&
    backing.length > 0 &&
    backing.every((block: unknown) => isBlock(block)) &&
    isRecord(counts) &&
    ['pages', 'free'].every((count) => isWhole(counts[count])) &&
    (counts['zero'] === undefined || counts['zero'] === null || isWhole(counts['zero']))
  );
}

function isBlock(value: unknown): boolean {
  if (!isRecord(value)) {
    return false;
  }
  const { startGpa, endGpa } = value;
  return isWhole(startGpa, 0) && isWhole(endGpa, 1);
}
