import { availableParallelism } from 'node:os';
import { Piscina } from 'piscina';
import { LacunaError, messageOf } from '../../errors.js';
import { PAGE_SIZE } from '../../memory/page.js';
import { endPool } from '../end-pool.js';
import { CompressionGate } from './compression-gate.js';
import {
  type CompressedRun,
  CompressionSlots,
  MOST_SLOTS,
  SLOT_PAGES,
  SLOT_RUNS,
} from './compression-slots.js';

/** What a thread of the pool is started with (`workers/compress.ts`). */
export interface CompressorThreadData {
  readonly slots: SharedArrayBuffer;
  readonly gate: SharedArrayBuffer;
}

/** A piece of work for it; it answers with the ms that it took. */
export interface CompressTask {
  readonly slot: number;
  readonly runCount: number;
}

/** All runs of a slot, done. The slot stays as it is until it is released. */
export interface CompressedBatch {
  readonly slot: number;
  readonly runs: readonly CompressedRun[];
  /** What it took the thread. */
  readonly busyMs: number;
}

const NO_SLOT = -1;
/** More threads than this are of no use to a link that compression is worth anything for. */
const MOST_THREADS = 4;

/** For each thread a slot that is being compressed and one that is next; the others are being filled, or sent. */
function slotsFor(threads: number): number {
  return 2 * threads + 4;
}

/** How many threads compress: one core is left to everything else. */
export function compressorThreads(): number {
  return Math.min(MOST_THREADS, Math.max(1, availableParallelism() - 1));
}

/**
 * Compresses runs in a pool of threads. A run's pages are copied when it is added: the guest writes on meanwhile, and
 * what is compressed must not change under zlib's feet.
 *
 * Runs are gathered in a slot while all threads are busy, so that the short runs of a fragmented guest don't cost a
 * message each; a thread that is idle is given what there is.
 */
export class Compressor {
  readonly slots: CompressionSlots;
  readonly threads: number;
  readonly #pool: Piscina<CompressTask | undefined, number>;
  readonly #gate = new CompressionGate();
  readonly #onDone: (batch: CompressedBatch) => void;
  readonly #free: number[];
  readonly #filling = { slot: NO_SLOT, runCount: 0, pageCount: 0 };
  #tasks = 0;
  #pendingPages = 0;
  #failure: string | undefined;
  #closed = false;

  /** `onDone` is called for each batch, in any order, and not any more once {@link close} was called. */
  constructor(
    onDone: (batch: CompressedBatch) => void,
    threads: number = compressorThreads(),
    slots: number = slotsFor(threads),
  ) {
    if (!(threads >= 1 && slots >= 1 && slots <= MOST_SLOTS)) {
      throw new LacunaError('INVALID_ARGUMENT', `${threads} threads that compress, ${slots} slots`);
    }
    this.threads = threads;
    this.slots = CompressionSlots.allocate(slots);
    this.#free = Array.from({ length: slots }, (_, slot) => slot);
    this.#onDone = onDone;
    const workerData: CompressorThreadData = { slots: this.slots.buffer, gate: this.#gate.buffer };
    this.#pool = new Piscina<CompressTask | undefined, number>({
      filename: new URL('../../../workers/compress.js', import.meta.url).href,
      minThreads: threads,
      maxThreads: threads,
      workerData,
    });
    // Of a thread that had nothing to do. Whatever is wrong with it shows with its next task, if it matters.
    this.#pool.on('error', () => undefined);
  }

  /** Pages that were added and are not done. */
  get pendingPages(): number {
    return this.#pendingPages;
  }

  /** A thread has died: what it had in hand goes raw, and nothing more can be added. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Whether a run of up to {@link SLOT_PAGES} pages can be added. */
  get hasRoom(): boolean {
    return this.#free.length > 0 && this.#failure === undefined;
  }

  /** Copies a run's pages and has them compressed. Throws ILLEGAL_STATE unless there is room, OUT_OF_RANGE if it is too long. */
  add(pfn: number, pageCount: number, pages: Uint8Array<ArrayBufferLike>): void {
    if (pageCount > SLOT_PAGES || pages.length !== pageCount * PAGE_SIZE) {
      throw new LacunaError('OUT_OF_RANGE', `a run of ${pageCount} pages in ${pages.length} bytes`);
    }
    const filling = this.#filling;
    if (filling.slot !== NO_SLOT && filling.pageCount + pageCount > SLOT_PAGES) {
      this.#post();
    }
    if (filling.slot === NO_SLOT) {
      const slot = this.#free.pop();
      if (slot === undefined) {
        throw new LacunaError('ILLEGAL_STATE', 'the compressor has no room: ask it before a run is added');
      }
      filling.slot = slot;
    }
    this.slots.add(filling.slot, filling.runCount, filling.pageCount, pfn, pages);
    filling.runCount += 1;
    filling.pageCount += pageCount;
    this.#pendingPages += pageCount;
    this.#postIfDue();
  }

  /** The payloads of a batch were sent, or will not be. */
  release(slot: number): void {
    this.#free.push(slot);
  }

  /** Whether a thread is compressing. */
  get isBusy(): boolean {
    return this.#gate.isBusy;
  }

  /** Ends the threads, once each is through with the slot that it is at, which nobody is told of. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#gate.close();
    await endPool(this.#pool);
  }

  #postIfDue(): void {
    const { runCount, pageCount } = this.#filling;
    if (pageCount === SLOT_PAGES || runCount === SLOT_RUNS || (runCount > 0 && this.#tasks < this.threads)) {
      this.#post();
    }
  }

  #post(): void {
    const { slot, runCount, pageCount } = this.#filling;
    this.#filling.slot = NO_SLOT;
    this.#filling.runCount = 0;
    this.#filling.pageCount = 0;
    this.#tasks += 1;
    const done = (busyMs: number, asRaw: boolean): void => {
      if (this.#closed) {
        return;
      }
      this.#tasks -= 1;
      this.#pendingPages -= pageCount;
      const runs = this.slots.runs(slot, runCount);
      this.#postIfDue();
      this.#onDone({
        slot,
        runs: asRaw ? runs.map((run) => ({ ...run, payload: undefined })) : runs,
        busyMs,
      });
    };
    this.#pool.run({ slot, runCount }).then(
      (busyMs) => done(busyMs, false),
      (cause: unknown) => {
        this.#failure ??= `a thread that compresses has failed: ${messageOf(cause)}`;
        done(0, true);
      },
    );
  }
}
