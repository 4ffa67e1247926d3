import { LacunaError } from '../errors.js';
import { gpaOf, PAGE_SIZE } from './page.js';
import type { RamLayout, RamSegment } from './ram-layout.js';

/** A segment with the buffer that backs it: byte `i` of `bytes` is guest-physical address `startGpa + i`. */
export interface BackedSegment extends RamSegment {
  readonly bytes: Uint8Array<ArrayBufferLike>;
}

/**
 * Guest-physical memory.
 *
 * The built-in guest's is made of SharedArrayBuffers; a VMM's need not be, and its buffers may be replaced when
 * it grows its memory. Whoever keeps a view remembers {@link generation} with it and takes the view anew when
 * the number has changed. Nothing ever waits (`Atomics.wait`) on guest RAM.
 */
export interface GuestMemory {
  readonly layout: RamLayout;
  readonly segments: readonly BackedSegment[];
  /** Changes whenever views taken before may no longer be looked at. */
  readonly generation: number;
  /** Whether other threads can be given this memory. */
  readonly shared: boolean;
  /** The bytes of `pageCount` pages from `pfn`, which must lie in one segment. Throws OUT_OF_RANGE. */
  pages(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike>;
  /** The segment that holds all of `[gpa, gpa + lengthBytes)`, or undefined. */
  segmentOf(gpa: number, lengthBytes: number): BackedSegment | undefined;
}

abstract class SegmentedMemory implements GuestMemory {
  abstract readonly generation: number;
  abstract readonly shared: boolean;
  abstract readonly segments: readonly BackedSegment[];
  readonly layout: RamLayout;

  constructor(layout: RamLayout) {
    this.layout = layout;
  }

  pages(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    const segment = this.segmentOf(gpaOf(pfn), pageCount * PAGE_SIZE);
    if (segment === undefined) {
      throw new LacunaError('OUT_OF_RANGE', `pages ${pfn}–${pfn + pageCount - 1} are not RAM of one segment`);
    }
    const offset = (pfn - segment.firstPfn) * PAGE_SIZE;
    return segment.bytes.subarray(offset, offset + pageCount * PAGE_SIZE);
  }

  segmentOf(gpa: number, lengthBytes: number): BackedSegment | undefined {
    for (const segment of this.segments) {
      if (gpa >= segment.startGpa && gpa + lengthBytes <= segment.endGpa && lengthBytes > 0) {
        return segment;
      }
    }
    return undefined;
  }
}

function back(layout: RamLayout, buffers: readonly ArrayBufferLike[]): BackedSegment[] {
  return layout.segments.map((segment, i) => {
    const buffer = buffers[i];
    if (buffer === undefined || buffer.byteLength < segment.lengthBytes) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `segment ${i} needs a buffer of ${segment.lengthBytes} bytes`,
      );
    }
    return { ...segment, bytes: new Uint8Array(buffer, 0, segment.lengthBytes) };
  });
}

/** Memory that threads share: one SharedArrayBuffer a segment (at least as long as it). */
export class SharedGuestMemory extends SegmentedMemory {
  readonly generation = 0;
  readonly shared = true;
  readonly segments: readonly BackedSegment[];
  readonly buffers: readonly SharedArrayBuffer[];

  constructor(layout: RamLayout, buffers: readonly SharedArrayBuffer[]) {
    super(layout);
    this.buffers = buffers;
    this.segments = back(layout, buffers);
  }

  /** Memory of its own, all zero and not resident until touched. */
  static allocate(layout: RamLayout): SharedGuestMemory {
    return new SharedGuestMemory(
      layout,
      layout.segments.map((segment) => new SharedArrayBuffer(segment.lengthBytes)),
    );
  }
}

/** Memory of one thread, whose buffers its owner may replace (as a WebAssembly memory that grows does). */
export class PrivateGuestMemory extends SegmentedMemory {
  readonly shared = false;
  #generation = 0;
  #segments: readonly BackedSegment[];

  constructor(layout: RamLayout, buffers?: readonly ArrayBuffer[]) {
    super(layout);
    this.#segments = back(
      layout,
      buffers ?? layout.segments.map((segment) => new ArrayBuffer(segment.lengthBytes)),
    );
  }

  get generation(): number {
    return this.#generation;
  }

  get segments(): readonly BackedSegment[] {
    return this.#segments;
  }

  /** New buffers with the same contents at the same addresses: every view taken before is stale. */
  replaceBuffers(buffers: readonly ArrayBuffer[]): void {
    this.#segments = back(this.layout, buffers);
    this.#generation += 1;
  }
}

/**
 * Memory of one block that its owner hands out a view of, and may replace at any time without saying so: a WebAssembly
 * memory, whose buffer is another one after it has grown.
 */
export class BorrowedGuestMemory extends SegmentedMemory {
  readonly shared = false;
  readonly #buffer: () => ArrayBuffer;
  readonly #byteOffset: number;
  #seen: ArrayBuffer | undefined;
  #generation = 0;
  #segments: readonly BackedSegment[] = [];

  /** `buffer` says what it is now; the memory begins at `byteOffset` in it, a multiple of 8. Throws INVALID_ARGUMENT. */
  constructor(layout: RamLayout, buffer: () => ArrayBuffer, byteOffset: number) {
    super(layout);
    if (layout.segments.length !== 1 || byteOffset % 8 !== 0) {
      throw new LacunaError('INVALID_ARGUMENT', 'borrowed memory is one segment, at a multiple of 8 bytes');
    }
    this.#buffer = buffer;
    this.#byteOffset = byteOffset;
  }

  get generation(): number {
    this.#look();
    return this.#generation;
  }

  get segments(): readonly BackedSegment[] {
    this.#look();
    return this.#segments;
  }

  #look(): void {
    const buffer = this.#buffer();
    if (buffer !== this.#seen) {
      this.#seen = buffer;
      this.#generation += 1;
      const segment = this.layout.segments[0]!;
      this.#segments = [{ ...segment, bytes: new Uint8Array(buffer, this.#byteOffset, segment.lengthBytes) }];
    }
  }
}
