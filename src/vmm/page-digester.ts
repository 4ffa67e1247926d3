import { Piscina } from 'piscina';
import { LacunaError } from '../errors.js';
import type { SharedGuestMemory } from '../memory/guest-memory.js';
import type { RamBlock } from '../memory/ram-layout.js';
import { DIGEST_BYTES } from '../migration/page-digests.js';
import type { Comparison } from '../migration/verify.js';
import { endPool } from '../transport/end-pool.js';
import { TASK_PAGES, type Verification, verificationOf } from './verifier.js';
import type { WorkerGuest } from './worker-guest.js';

/** Some pages of a memory, for a thread of the pool (`workers/digest.ts`). */
export interface DigestTask {
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  /** Of all pages of RAM, in their order; holes have none. */
  readonly digests: SharedArrayBuffer;
  /** The place of page {@link pfn} among them. */
  readonly firstPage: number;
  readonly pfn: number;
  readonly pageCount: number;
  /** Undefined: digests are made, and not compared. */
  readonly compare: { readonly oracle: ArrayBufferLike | undefined; readonly poison: number } | undefined;
}

/**
 * The `Verifier` of two guests in two processes: where the guest has arrived, digests of all pages are made; where it came
 * from they are compared. In a pool of threads, as there.
 */
export class PageDigester {
  readonly #pool: Piscina<DigestTask | undefined, Comparison | undefined>;

  constructor() {
    this.#pool = new Piscina<DigestTask | undefined, Comparison | undefined>({
      filename: new URL('../../workers/digest.js', import.meta.url).href,
      minThreads: 1,
      maxThreads: 2,
      idleTimeout: 30_000,
    });
  }

  /** Digests of all pages of RAM, in their order, {@link DIGEST_BYTES} each. The guest must stand still. */
  async digest(memory: SharedGuestMemory): Promise<Uint8Array<SharedArrayBuffer>> {
    const digests = new SharedArrayBuffer(memory.layout.pageCount * DIGEST_BYTES);
    await this.#run(memory, digests, undefined);
    return new Uint8Array(digests);
  }

  /**
   * Compares a guest, which stands still, with the digests of what arrived of it. Throws INVALID_ARGUMENT if they are not
   * of as many pages.
   */
  async compare(
    source: Pick<WorkerGuest, 'memory' | 'oracle' | 'device'>,
    digests: Uint8Array,
  ): Promise<Verification> {
    const { layout } = source.memory;
    if (digests.length !== layout.pageCount * DIGEST_BYTES) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `${digests.length} bytes of digests, where ${layout.pageCount} pages have ${layout.pageCount * DIGEST_BYTES}`,
      );
    }
    const there = new SharedArrayBuffer(digests.length);
    new Uint8Array(there).set(digests);
    const oracle = source.oracle?.buffer;
    const results = await this.#run(source.memory, there, { oracle, poison: source.device?.poison ?? 0 });
    return verificationOf(results.filter((result) => result !== undefined));
  }

  /** Ends its threads. */
  async close(): Promise<void> {
    await endPool(this.#pool);
  }

  #run(
    { layout, buffers }: SharedGuestMemory,
    digests: SharedArrayBuffer,
    compare: DigestTask['compare'],
  ): Promise<(Comparison | undefined)[]> {
    const { blocks } = layout;
    const tasks: Promise<Comparison | undefined>[] = [];
    let firstPage = 0;
    for (const segment of layout.segments) {
      for (let page = 0; page < segment.pageCount; page += TASK_PAGES) {
        const pageCount = Math.min(TASK_PAGES, segment.pageCount - page);
        const pfn = segment.firstPfn + page;
        tasks.push(this.#pool.run({ blocks, buffers, digests, firstPage, pfn, pageCount, compare }));
        firstPage += pageCount;
      }
    }
    return Promise.all(tasks);
  }
}
