import { LacunaError } from '../errors.js';
import { GIB, PAGE_SIZE, pfnOf } from './page.js';

/** One contiguous range of guest-physical addresses with memory behind it, in bytes, the end exclusive. */
export interface RamBlock {
  readonly startGpa: number;
  readonly endGpa: number;
}

/** A piece of a block that one buffer backs. */
export interface RamSegment extends RamBlock {
  readonly index: number;
  readonly lengthBytes: number;
  readonly firstPfn: number;
  readonly pageCount: number;
}

/** A byte view can't be longer than 4 GiB on Node 20, so a longer block is backed by several segments. */
export const MAX_SEGMENT_BYTES: number = 4 * GIB;

/**
 * Where a machine's RAM lies. The layout is data: a PC's hole below 4 GiB moves with the machine type.
 *
 * Bitmaps are indexed by pfn, from 0 to {@link pfnSpan}; frames in a hole have a bit that is never set. (A hole
 * costs 32 KiB of bitmap a GiB, and in exchange no code anywhere translates between two numberings.)
 */
export class RamLayout {
  readonly blocks: readonly RamBlock[];
  readonly segments: readonly RamSegment[];
  /** Bytes of memory, holes not counted. */
  readonly memoryBytes: number;
  /** Pages of memory, holes not counted. */
  readonly pageCount: number;
  /** The pfn after the highest page: how many bits a page bitmap needs. */
  readonly pfnSpan: number;

  constructor(blocks: readonly RamBlock[], maxSegmentBytes: number = MAX_SEGMENT_BYTES) {
    if (blocks.length === 0) {
      throw new LacunaError('INVALID_ARGUMENT', 'a RAM layout needs at least one block');
    }
    let end = 0;
    for (const block of blocks) {
      const ok =
        Number.isSafeInteger(block.startGpa) &&
        Number.isSafeInteger(block.endGpa) &&
        block.startGpa % PAGE_SIZE === 0 &&
        block.endGpa % PAGE_SIZE === 0 &&
        block.startGpa >= end &&
        block.endGpa > block.startGpa;
      if (!ok) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          `RAM block ${block.startGpa}–${block.endGpa}: blocks must be page-aligned, ascending, disjoint and not empty`,
        );
      }
      end = block.endGpa;
    }
    if (maxSegmentBytes % PAGE_SIZE !== 0 || maxSegmentBytes <= 0 || maxSegmentBytes > MAX_SEGMENT_BYTES) {
      throw new LacunaError('INVALID_ARGUMENT', 'segments are whole pages, and 4 GiB at the most');
    }
    this.blocks = blocks.map(({ startGpa, endGpa }) => ({ startGpa, endGpa }));
    const segments: RamSegment[] = [];
    for (const { startGpa, endGpa } of this.blocks) {
      for (let gpa = startGpa; gpa < endGpa; gpa += maxSegmentBytes) {
        const segmentEnd = Math.min(endGpa, gpa + maxSegmentBytes);
        segments.push({
          index: segments.length,
          startGpa: gpa,
          endGpa: segmentEnd,
          lengthBytes: segmentEnd - gpa,
          firstPfn: pfnOf(gpa),
          pageCount: pfnOf(segmentEnd - gpa),
        });
      }
    }
    this.segments = segments;
    this.memoryBytes = this.blocks.reduce((sum, block) => sum + block.endGpa - block.startGpa, 0);
    this.pageCount = pfnOf(this.memoryBytes);
    this.pfnSpan = pfnOf(end);
  }

  /** Whether all of `[gpa, gpa + lengthBytes)` is RAM of one block. An empty range is not. */
  containsRange(gpa: number, lengthBytes: number): boolean {
    for (const block of this.blocks) {
      if (gpa >= block.startGpa && gpa < block.endGpa) {
        return lengthBytes > 0 && lengthBytes <= block.endGpa - gpa;
      }
    }
    return false;
  }

  /** The segment that holds `pfn`, or undefined where there is no RAM. */
  segmentOfPfn(pfn: number): RamSegment | undefined {
    for (const segment of this.segments) {
      if (pfn >= segment.firstPfn && pfn < segment.firstPfn + segment.pageCount) {
        return segment;
      }
    }
    return undefined;
  }

  /** Whether two machines' RAM lies at the same addresses. */
  equals(other: RamLayout): boolean {
    return (
      this.blocks.length === other.blocks.length &&
      this.blocks.every((block, i) => {
        const twin = other.blocks[i];
        return twin !== undefined && twin.startGpa === block.startGpa && twin.endGpa === block.endGpa;
      })
    );
  }
}

/** QEMU's q35 puts all of a machine below 2.75 GiB at 0; of a larger one 2 GiB there and the rest from 4 GiB. */
const Q35_SPLIT_FROM = 2.75 * GIB;

/** The layout that QEMU's q35 machine gives `memoryBytes` of RAM (as in the captures' meta.json). */
export function q35Blocks(memoryBytes: number): RamBlock[] {
  if (memoryBytes < Q35_SPLIT_FROM) {
    return [{ startGpa: 0, endGpa: memoryBytes }];
  }
  return [
    { startGpa: 0, endGpa: 2 * GIB },
    { startGpa: 4 * GIB, endGpa: 2 * GIB + memoryBytes },
  ];
}
