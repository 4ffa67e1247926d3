import { LacunaError } from '../errors.js';
import type { BackedSegment, GuestMemory } from '../memory/guest-memory.js';
import { alignUp } from '../memory/page.js';
import type { SharedHalfWords, WordMapper } from '../memory/shared-words.js';
import {
  VIRTQ_AVAIL_ALIGN,
  VIRTQ_DESC_ALIGN,
  VIRTQ_DESC_SIZE,
  VIRTQ_MAX_SIZE,
  VIRTQ_USED_ALIGN,
  virtqAvailBytes,
  virtqUsedBytes,
} from '../spec/virtio-ring.js';

/**
 * Where the three areas of a split virtqueue lie in guest-physical memory (VIRTIO 1.3 § 2.7):
 *
 * ```
 * descGpa   ┌──────────────────────────────┐  size × 16 bytes: le64 addr, le32 len, le16 flags, le16 next
 *           │ descriptor table             │  written by the driver
 * availGpa  ├──────────────────────────────┤  le16 flags, le16 idx, le16 ring[size], le16 used_event
 *           │ available ring               │  written by the driver
 * usedGpa   ├──────────────────────────────┤  le16 flags, le16 idx, {le32 id, le32 len}[size], le16 avail_event
 *           │ used ring                    │  written by the device
 *           └──────────────────────────────┘
 * ```
 */
export interface QueueAddresses {
  readonly size: number;
  readonly descGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
}

/** Whether `size` is one that § 2.7 allows. */
export function isQueueSize(size: number): boolean {
  return Number.isInteger(size) && size >= 1 && size <= VIRTQ_MAX_SIZE && (size & (size - 1)) === 0;
}

/** The three areas one after the other from `gpa`, each aligned as it must be. */
export function packQueue(gpa: number, size: number): QueueAddresses {
  if (!isQueueSize(size)) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `queue size ${size}: a power of two from 1 to ${VIRTQ_MAX_SIZE}`,
    );
  }
  const descGpa = alignUp(gpa, VIRTQ_DESC_ALIGN);
  const availGpa = alignUp(descGpa + size * VIRTQ_DESC_SIZE, VIRTQ_AVAIL_ALIGN);
  const usedGpa = alignUp(availGpa + virtqAvailBytes(size), VIRTQ_USED_ALIGN);
  return { size, descGpa, availGpa, usedGpa };
}

/** Bytes that {@link packQueue} lays out from an aligned address. */
export function packedQueueBytes(size: number): number {
  const { usedGpa } = packQueue(0, size);
  return usedGpa + virtqUsedBytes(size);
}

/** Typed views of a queue's areas. Valid for one generation of the memory. */
export interface QueueViews {
  /** Four words a descriptor: address low, address high, length, flags | next << 16. */
  readonly desc: Uint32Array;
  /** flags, idx, ring[size], used_event: plain access for entries only. */
  readonly availEntries: Uint16Array;
  /** The same bytes as shared half words, for flags, idx and used_event. */
  readonly avail: SharedHalfWords;
  /** The used elements: id, len, id, len, … */
  readonly usedEntries: Uint32Array;
  /** flags, idx, …, avail_event as shared half words. */
  readonly used: SharedHalfWords;
}

/** Half-word indices within the available and used rings. */
export const RING_FLAGS = 0;
export const RING_IDX = 1;
export const AVAIL_RING = 2;
export function usedEventIndex(size: number): number {
  return AVAIL_RING + size;
}
export function availEventIndex(size: number): number {
  return 2 + size * 4;
}

/**
 * The views of a queue, or what is wrong with its addresses: each area aligned and in RAM of one segment.
 * The addresses come from the guest.
 */
export function mapQueue(memory: GuestMemory, map: WordMapper, queue: QueueAddresses): QueueViews | string {
  const { size, descGpa, availGpa, usedGpa } = queue;
  if (!isQueueSize(size)) {
    return `queue size ${size} is not a power of two from 1 to ${VIRTQ_MAX_SIZE}`;
  }
  const area = (what: string, gpa: number, bytes: number, alignment: number): BackedSegment | string => {
    if (!Number.isSafeInteger(gpa) || gpa % alignment !== 0) {
      return `the ${what} at ${gpa} is not aligned to ${alignment} bytes`;
    }
    return memory.segmentOf(gpa, bytes) ?? `the ${what} (${bytes} bytes at ${gpa}) does not lie in RAM`;
  };
  const desc = area('descriptor table', descGpa, size * VIRTQ_DESC_SIZE, VIRTQ_DESC_ALIGN);
  const avail = area('available ring', availGpa, virtqAvailBytes(size), VIRTQ_AVAIL_ALIGN);
  const used = area('used ring', usedGpa, virtqUsedBytes(size), VIRTQ_USED_ALIGN);
  if (typeof desc === 'string') {
    return desc;
  }
  if (typeof avail === 'string') {
    return avail;
  }
  if (typeof used === 'string') {
    return used;
  }
  const at = (segment: BackedSegment, gpa: number) => segment.bytes.byteOffset + gpa - segment.startGpa;
  return {
    desc: map.plain32(desc.bytes.buffer, at(desc, descGpa), size * 4),
    availEntries: map.plain16(avail.bytes.buffer, at(avail, availGpa), size + 3),
    avail: map.halfWords(avail.bytes.buffer, at(avail, availGpa), size + 3),
    usedEntries: map.plain32(used.bytes.buffer, at(used, usedGpa) + 4, size * 2),
    used: map.halfWords(used.bytes.buffer, at(used, usedGpa), size * 4 + 3),
  };
}

/**
 * § 2.7.10: whether a notification is due when an index moves from `oldIdx` to `newIdx` and the other side
 * asked to be told at `event`. All 16-bit, so the comparison survives the wrap.
 */
export function needsEvent(event: number, newIdx: number, oldIdx: number): boolean {
  return ((newIdx - event - 1) & 0xffff) < ((newIdx - oldIdx) & 0xffff);
}
