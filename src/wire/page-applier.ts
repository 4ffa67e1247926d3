import { LacunaError } from '../errors.js';
import { fillWords } from '../memory/byte-ops.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../memory/page.js';
import { PageBitmap } from '../memory/page-bitmap.js';
import { atomicMapper } from '../memory/shared-words.js';
import { noPages, type PageCounts } from './channel.js';

/**
 * Writes what arrives into the guest's memory, and counts it. One for each thread that receives; they share the memory,
 * and the bitmap of what was written there.
 */
export class PageApplier {
  readonly counts: PageCounts = noPages();
  readonly #memory: GuestMemory;
  /** Pages that were written here. Memory begins as zeroes, so a zero page that was never written is as it must be. */
  readonly #written: PageBitmap;

  /** `memory` must be zero but for what is marked in `written`, which only receivers of this guest change. */
  constructor(
    memory: GuestMemory,
    written: PageBitmap = PageBitmap.allocateOwn(atomicMapper, memory.layout.pfnSpan),
  ) {
    this.#memory = memory;
    this.#written = written;
  }

  /**
   * Where the contents of a run go. They may begin to be written at once, so the pages count as written from here on.
   * Throws PROTOCOL_VIOLATION if that is not memory of the guest.
   */
  target(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    const bytes = this.#bytes(pfn, pageCount);
    this.#written.setRange(pfn, pageCount);
    return bytes;
  }

  /** The contents of a run are there. */
  arrived(pageCount: number): void {
    this.counts.pages += pageCount;
  }

  /** Pages that read as zeroes from here on. Throws PROTOCOL_VIOLATION. */
  zeroRun(pfn: number, pageCount: number): void {
    this.#fill(pfn, pageCount, 0);
    this.counts.zeroPages += pageCount;
  }

  /** Pages that the guest gave up: they read as `value`, repeated as le32, from here on (I7, P5). Throws PROTOCOL_VIOLATION. */
  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#fill(pfn, pageCount, value);
    this.counts.filledPages += pageCount;
  }

  #fill(pfn: number, pageCount: number, value: number): void {
    const bytes = this.#bytes(pfn, pageCount);
    if (value !== 0) {
      this.#written.setRange(pfn, pageCount);
      fillWords(bytes, 0, bytes.length, value);
      return;
    }
    const end = pfn + pageCount;
    for (
      let page = this.#written.nextSet(pfn, end);
      page < end;
      page = this.#written.nextSet(page + 1, end)
    ) {
      this.#memory.pages(page, 1).fill(0);
    }
    this.#written.clearRange(pfn, pageCount);
  }

  #bytes(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    const segment = this.#memory.segmentOf(gpaOf(pfn), pageCount * PAGE_SIZE);
    if (segment === undefined) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `pages ${pfn}–${pfn + pageCount - 1} are not RAM of this guest`,
      );
    }
    const offset = (pfn - segment.firstPfn) * PAGE_SIZE;
    return segment.bytes.subarray(offset, offset + pageCount * PAGE_SIZE);
  }
}
