import { LacunaError } from '../errors.js';
import { SharedGuestMemory } from './guest-memory.js';
import { MIB } from './page.js';
import type { RamLayout } from './ram-layout.js';

/**
 * SharedArrayBuffers for guests, kept and handed out again: a dropped one stays resident for many seconds, so a
 * benchmark that allocated for each run would soon be killed.
 *
 * Memory is checked before it is taken. Sparse over-commit would succeed, and the process be killed when the
 * guest touches what is not there.
 */
export class MemoryPool {
  readonly #free: SharedArrayBuffer[] = [];
  readonly #availableBytes: () => number;
  #heldBytes = 0;

  /** `availableBytes` says how much memory the machine can still give (Infinity: not known here). */
  constructor(availableBytes: () => number = () => Number.POSITIVE_INFINITY) {
    this.#availableBytes = availableBytes;
  }

  /** Bytes of all buffers that this pool ever made and still holds or has lent. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /**
   * Memory for a guest, its contents undefined (reset what must be zero). A buffer may be longer than its segment:
   * guests of many sizes, the largest first, take no more than the largest does.
   *
   * `residentBytes` is what will be touched of it; a sparse guest says less than the layout's size.
   * Throws OUT_OF_MEMORY, and then has taken nothing.
   */
  take(layout: RamLayout, residentBytes: number = layout.memoryBytes): SharedGuestMemory {
    const reused = layout.segments.map((segment) => this.#smallestFree(segment.lengthBytes));
    const freshBytes = layout.segments.reduce(
      (sum, segment, i) => sum + (reused[i] === undefined ? segment.lengthBytes : 0),
      0,
    );
    try {
      this.#check(Math.min(freshBytes, residentBytes));
    } catch (thrown) {
      this.#free.push(...reused.filter((buffer) => buffer !== undefined));
      throw thrown;
    }
    this.#heldBytes += freshBytes;
    return new SharedGuestMemory(
      layout,
      layout.segments.map((segment, i) => reused[i] ?? new SharedArrayBuffer(segment.lengthBytes)),
    );
  }

  /**
   * Memory that was never touched, all zero, and not for giving back. `residentBytes` of it will be touched.
   * Throws OUT_OF_MEMORY.
   */
  takeFresh(layout: RamLayout, residentBytes: number = layout.memoryBytes): SharedGuestMemory {
    this.#check(residentBytes);
    return SharedGuestMemory.allocate(layout);
  }

  /**
   * Makes buffers for `count` guests, so that too little memory shows before anything is run. `otherBytes` are
   * needed beside them. Throws OUT_OF_MEMORY, and then has made none.
   */
  reserve(layout: RamLayout, count: number, otherBytes = 0): void {
    // At once: what is made but not touched yet still counts as available.
    this.#check(count * layout.memoryBytes + otherBytes, 'the largest guest and its destination need');
    for (const memory of Array.from({ length: count }, () => this.take(layout))) {
      this.giveBack(memory);
    }
  }

  /** The shortest buffer that is long enough, no longer free; undefined if there is none. */
  #smallestFree(lengthBytes: number): SharedArrayBuffer | undefined {
    let best = -1;
    for (const [at, { byteLength }] of this.#free.entries()) {
      if (byteLength >= lengthBytes && (best === -1 || byteLength < this.#free[best]!.byteLength)) {
        best = at;
      }
    }
    return best === -1 ? undefined : this.#free.splice(best, 1)[0];
  }

  #check(neededBytes: number, who = 'the guest needs'): void {
    const available = this.#availableBytes();
    if (neededBytes > available) {
      throw new LacunaError(
        'OUT_OF_MEMORY',
        `${who} ${Math.ceil(neededBytes / MIB)} MiB of memory and ${Math.floor(available / MIB)} MiB are available: ` +
          'take a smaller guest, or free memory on this machine',
      );
    }
  }

  /** Takes memory back. No thread may touch it afterwards. Throws ILLEGAL_STATE if it is here already. */
  giveBack(memory: SharedGuestMemory): void {
    if (memory.buffers.some((buffer) => this.#free.includes(buffer))) {
      throw new LacunaError('ILLEGAL_STATE', 'memory was given back twice: two guests would share it');
    }
    this.#free.push(...memory.buffers);
  }
}

/**
 * Fills memory with zeroes. Untimed by whoever measures. (`Uint8Array.fill` on shared memory is seven times
 * slower than `Float64Array.fill`.)
 */
export function zeroMemory(memory: SharedGuestMemory): void {
  for (const { bytes } of memory.segments) {
    new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8).fill(0);
  }
}
