import { type AllocatorAddresses, BuddyAllocator } from '../../../src/guest/buddy-allocator.js';
import { GuestRam } from '../../../src/guest/guest-ram.js';
import { layOutMetadata } from '../../../src/guest/metadata.js';
import { mapDirtyLog } from '../../../src/guest/runtime.js';
import type { DirtyLog } from '../../../src/memory/dirty-log.js';
import { type GuestMemory, PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../../src/memory/page.js';
import { bitmapWords, PageBitmap, type PageRun } from '../../../src/memory/page-bitmap.js';
import { type RamBlock, RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';

/** RAM of `[first, first + count)` page frames each; a block a pair. */
export function blocksOfPages(...blocks: readonly (readonly [first: number, count: number])[]): RamBlock[] {
  return blocks.map(([first, count]) => ({ startGpa: gpaOf(first), endGpa: gpaOf(first + count) }));
}

export interface TestRam {
  readonly memory: GuestMemory;
  readonly log: DirtyLog;
  readonly ram: GuestRam;
}

export function makeLog(pfnSpan: number): DirtyLog {
  return mapDirtyLog(atomicMapper, new ArrayBuffer(bitmapWords(pfnSpan) * 4), pfnSpan);
}

/** RAM of a few pages from 0, all zero, with an empty dirty log. */
export function makeRam(pageCount: number): TestRam {
  const memory = new PrivateGuestMemory(new RamLayout(blocksOfPages([0, pageCount])));
  const log = makeLog(pageCount);
  return { memory, log, ram: new GuestRam(memory, atomicMapper, log) };
}

/**
 * An allocator of `pfnSpan` page frames whose state begins at `gpa`. The frames that it hands out need no RAM
 * behind them: it touches nothing but its own state.
 */
export function makeAllocator(pfnSpan: number): TestRam & {
  readonly addresses: AllocatorAddresses;
  readonly allocator: BuddyAllocator;
} {
  const metadata = layOutMetadata(0, { pfnSpan, ringSize: 8 });
  const { freeGpa, orderGpa } = metadata.allocator;
  const addresses = { freeGpa: 0, orderGpa: orderGpa.map((gpa) => gpa - freeGpa) };
  const parts = makeRam((metadata.heldGpa - freeGpa) / PAGE_SIZE);
  return { ...parts, addresses, allocator: new BuddyAllocator(parts.ram, addresses, pfnSpan) };
}

export function bitmapOf(free: readonly boolean[]): PageBitmap {
  const bitmap = PageBitmap.allocate(atomicMapper, free.length);
  for (const [pfn, isFree] of free.entries()) {
    if (isFree) {
      bitmap.set(pfn);
    }
  }
  return bitmap;
}

/** All set bits. */
export function pagesIn(bitmap: PageBitmap): number[] {
  const pages: number[] = [];
  for (let pfn = bitmap.nextSet(0); pfn < bitmap.pageCount; pfn = bitmap.nextSet(pfn + 1)) {
    pages.push(pfn);
  }
  return pages;
}

/** The set bits' runs, as [first pfn, pages]. */
export function runsIn(bitmap: PageBitmap): [pfn: number, pageCount: number][] {
  const runs: [number, number][] = [];
  const run: PageRun = { pfn: 0, pageCount: 0 };
  for (let from = 0; bitmap.nextRunInto(run, from); from = run.pfn + run.pageCount) {
    runs.push([run.pfn, run.pageCount]);
  }
  return runs;
}

/** Watches memory for writes that the dirty log does not know of. */
export class UnmarkedWrites {
  readonly #memory: GuestMemory;
  readonly #log: DirtyLog;
  readonly #before: Uint8Array[] = [];

  constructor(memory: GuestMemory, log: DirtyLog) {
    this.#memory = memory;
    this.#log = log;
    this.restart();
  }

  /** Remembers what memory holds, and empties the log. */
  restart(): void {
    this.#log.bitmap.clearAll();
    this.#before.splice(
      0,
      Number.POSITIVE_INFINITY,
      ...this.#memory.segments.map(({ bytes }) => bytes.slice()),
    );
  }

  /** Pages whose bytes have changed since. */
  changed(): number[] {
    return this.#memory.segments.flatMap(({ bytes, firstPfn, pageCount }, i) => {
      const before = this.#before[i]!;
      return Array.from({ length: pageCount }, (_, page) => page)
        .filter((page) => {
          const at = page * PAGE_SIZE;
          return (
            Buffer.compare(before.subarray(at, at + PAGE_SIZE), bytes.subarray(at, at + PAGE_SIZE)) !== 0
          );
        })
        .map((page) => firstPfn + page);
    });
  }

  /** Those of them that have no mark: there must be none. */
  unmarked(): number[] {
    return this.changed().filter((pfn) => !this.#log.bitmap.test(pfn));
  }
}
