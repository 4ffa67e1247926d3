import { Piscina } from 'piscina';
import type { RamBlock } from '../memory/ram-layout.js';
import type { Comparison } from '../migration/verify.js';
import { endPool } from '../transport/end-pool.js';
import type { WorkerGuest } from './worker-guest.js';

/** What a verification found. */
export interface Verification {
  readonly pagesCompared: number;
  /** Pages that differ although they may not (I7): lost. */
  readonly pagesDifferent: number;
  /** The first of those; -1: none. */
  readonly firstDifferentPfn: number;
  /**
   * Pages that were free and are zero (or poison) at the destination, and were something else: what was saved. Pages
   * that a guest has poisoned hold the same on both sides, sent or not, and are not among them.
   */
  readonly pagesLeftBehind: number;
}

/** A share of a verification, done by a thread of the pool (`workers/compare.ts`). */
export interface CompareTask {
  readonly blocks: readonly RamBlock[];
  readonly source: readonly SharedArrayBuffer[];
  readonly destination: readonly SharedArrayBuffer[];
  readonly oracle: ArrayBufferLike | undefined;
  readonly pfn: number;
  readonly pageCount: number;
  /** What pages that were left out must read as. */
  readonly poison: number;
}

/** Pages that one task compares: 64 MiB. */
export const TASK_PAGES = 16_384;

/**
 * Compares every page of two guests in a pool of threads: short, independent pieces of work, which is what a pool
 * is for. (The guest and the destination are single long-lived threads instead.)
 */
export class Verifier {
  readonly #pool: Piscina<CompareTask | undefined, Comparison>;

  constructor() {
    this.#pool = new Piscina<CompareTask | undefined, Comparison>({
      filename: new URL('../../workers/compare.js', import.meta.url).href,
      minThreads: 1,
      maxThreads: 2,
      idleTimeout: 30_000,
    });
  }

  /** Both guests must stand still. */
  async compare(source: WorkerGuest, destination: WorkerGuest): Promise<Verification> {
    const { layout } = source.memory;
    const tasks: Promise<Comparison>[] = [];
    for (const segment of layout.segments) {
      for (let page = 0; page < segment.pageCount; page += TASK_PAGES) {
        tasks.push(
          this.#pool.run({
            blocks: layout.blocks,
            source: source.memory.buffers,
            destination: destination.memory.buffers,
            oracle: source.oracle?.buffer,
            pfn: segment.firstPfn + page,
            pageCount: Math.min(TASK_PAGES, segment.pageCount - page),
            poison: source.device?.poison ?? 0,
          }),
        );
      }
    }
    return verificationOf(await Promise.all(tasks));
  }

  /** Ends its threads. */
  async close(): Promise<void> {
    await endPool(this.#pool);
  }
}

/** What the shares of a verification come to; they are in the order of their pages. */
export function verificationOf(results: readonly Comparison[]): Verification {
  return {
    pagesCompared: sum(results, ({ compared }) => compared),
    pagesDifferent: sum(results, ({ different }) => different),
    firstDifferentPfn: results.find(({ different }) => different > 0)?.firstDifferentPfn ?? -1,
    pagesLeftBehind: sum(results, ({ leftBehind }) => leftBehind),
  };
}

function sum(results: readonly Comparison[], of: (result: Comparison) => number): number {
  return results.reduce((total, result) => total + of(result), 0);
}
