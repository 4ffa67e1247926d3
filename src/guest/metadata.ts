import { MOST_STATISTICS_BYTES } from '../balloon/statistics.js';
import { alignUp, PAGE_SIZE } from '../memory/page.js';
import { bitmapWords } from '../memory/page-bitmap.js';
import { COMMAND_ID_BYTES } from '../spec/command-register.js';
import { VIRTIO_BALLOON_ARRAY_PFNS_MAX } from '../spec/virtio-balloon.js';
import { packedQueueBytes, packQueue, type QueueAddresses } from '../virtqueue/layout.js';
import { type AllocatorAddresses, blocksOf, MAX_ORDER } from './buddy-allocator.js';

/** Pages that a workload can own, with what it must remember of them: two words each, in guest RAM. */
export const WORKLOAD_SLOTS = 16_384;

/** Sizes that a guest is built with; with the start address they determine {@link GuestMetadata}. */
export interface MetadataOptions {
  readonly pfnSpan: number;
  /** Size of the free page queue. */
  readonly ringSize: number;
}

/** Size of the inflate, the deflate and the statistics queue: one buffer is in flight at a time. */
const BALLOON_RING_SIZE = 8;

/**
 * What the built-in guest keeps in its own RAM, and where: one area after the other, each from a page boundary.
 *
 * ```
 *   free page queue   descriptors, available ring, used ring      ringSize × 26 bytes
 *   markers           4 bytes a descriptor: ids and stop signs    ringSize × 4
 *   inflate queue, deflate queue, array of pfns                   a page each; behind the array, in its page:
 *     statistics queue, its buffer                                VIRTIO's dialect only
 *   allocator         free bitmap, then a bitmap for each order   3 bits a page
 *   held, ballooned   what the driver took from the allocator     1 bit a page each
 *   workload          pages that the workload owns                128 KiB
 *   ledger            what each page must hold                    4 bytes a page
 * ```
 */
export interface GuestMetadata {
  readonly gpa: number;
  readonly lengthBytes: number;
  readonly freePageQueue: QueueAddresses;
  readonly markersGpa: number;
  readonly inflateQueue: QueueAddresses;
  readonly deflateQueue: QueueAddresses;
  readonly balloonArrayGpa: number;
  readonly statisticsQueue: QueueAddresses;
  readonly statisticsGpa: number;
  readonly allocator: AllocatorAddresses;
  readonly heldGpa: number;
  readonly balloonedGpa: number;
  readonly workloadGpa: number;
  readonly ledgerGpa: number;
}

/** Lays the areas out from `gpa`, which is page-aligned. */
export function layOutMetadata(gpa: number, options: MetadataOptions): GuestMetadata {
  let at = gpa;
  const area = (bytes: number): number => {
    const start = at;
    at = alignUp(at + bytes, PAGE_SIZE);
    return start;
  };
  const { pfnSpan, ringSize } = options;
  const freePageQueue = packQueue(area(packedQueueBytes(ringSize)), ringSize);
  const markersGpa = area(ringSize * COMMAND_ID_BYTES);
  const inflateQueue = packQueue(area(packedQueueBytes(BALLOON_RING_SIZE)), BALLOON_RING_SIZE);
  const deflateQueue = packQueue(area(packedQueueBytes(BALLOON_RING_SIZE)), BALLOON_RING_SIZE);
  const statisticsOffset = VIRTIO_BALLOON_ARRAY_PFNS_MAX * 4 + packedQueueBytes(BALLOON_RING_SIZE);
  const balloonArrayGpa = area(statisticsOffset + MOST_STATISTICS_BYTES);
  const statisticsQueue = packQueue(balloonArrayGpa + VIRTIO_BALLOON_ARRAY_PFNS_MAX * 4, BALLOON_RING_SIZE);
  const freeGpa = area(bitmapWords(pfnSpan) * 4);
  const orderGpa = Array.from({ length: MAX_ORDER + 1 }, (_, order) =>
    area(bitmapWords(blocksOf(pfnSpan, order)) * 4),
  );
  const heldGpa = area(bitmapWords(pfnSpan) * 4);
  const balloonedGpa = area(bitmapWords(pfnSpan) * 4);
  const workloadGpa = area(WORKLOAD_SLOTS * 8);
  const ledgerGpa = area(pfnSpan * 4);
  return {
    gpa,
    lengthBytes: at - gpa,
    freePageQueue,
    markersGpa,
    inflateQueue,
    deflateQueue,
    balloonArrayGpa,
    statisticsQueue,
    statisticsGpa: balloonArrayGpa + statisticsOffset,
    allocator: { freeGpa, orderGpa },
    heldGpa,
    balloonedGpa,
    workloadGpa,
    ledgerGpa,
  };
}

/** Pages that the metadata of a guest takes. */
export function metadataPages(options: MetadataOptions): number {
  return layOutMetadata(0, options).lengthBytes / PAGE_SIZE;
}
