import { describe, expect, it } from 'vitest';
import { MOST_STATISTICS_BYTES } from '../../../src/balloon/statistics.js';
import { blocksOf, MAX_ORDER } from '../../../src/guest/buddy-allocator.js';
import {
  type GuestMetadata,
  layOutMetadata,
  type MetadataOptions,
  metadataPages,
  WORKLOAD_SLOTS,
} from '../../../src/guest/metadata.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { bitmapWords } from '../../../src/memory/page-bitmap.js';
import { VIRTIO_BALLOON_ARRAY_PFNS_MAX } from '../../../src/spec/virtio-balloon.js';
import { packedQueueBytes, type QueueAddresses } from '../../../src/virtqueue/layout.js';

interface Area {
  readonly name: string;
  readonly gpa: number;
  readonly lengthBytes: number;
}

/** Every area that the guest writes, with the bytes that it needs. */
function areas(metadata: GuestMetadata, { pfnSpan, ringSize }: MetadataOptions): Area[] {
  const queue = (name: string, { descGpa, size }: QueueAddresses): Area => ({
    name,
    gpa: descGpa,
    lengthBytes: packedQueueBytes(size),
  });
  const bitmap = (name: string, gpa: number, pages: number): Area => ({
    name,
    gpa,
    lengthBytes: bitmapWords(pages) * 4,
  });
  return [
    queue('free page queue', metadata.freePageQueue),
    { name: 'markers', gpa: metadata.markersGpa, lengthBytes: ringSize * 4 },
    queue('inflate queue', metadata.inflateQueue),
    queue('deflate queue', metadata.deflateQueue),
    { name: 'pfns', gpa: metadata.balloonArrayGpa, lengthBytes: VIRTIO_BALLOON_ARRAY_PFNS_MAX * 4 },
    bitmap('free', metadata.allocator.freeGpa, pfnSpan),
    ...metadata.allocator.orderGpa.map((gpa, order) =>
      bitmap(`order ${order}`, gpa, blocksOf(pfnSpan, order)),
    ),
    bitmap('held', metadata.heldGpa, pfnSpan),
    bitmap('ballooned', metadata.balloonedGpa, pfnSpan),
    { name: 'workload', gpa: metadata.workloadGpa, lengthBytes: WORKLOAD_SLOTS * 8 },
    { name: 'ledger', gpa: metadata.ledgerGpa, lengthBytes: pfnSpan * 4 },
  ];
}

describe.each([
  { pfnSpan: 2048, ringSize: 8 },
  { pfnSpan: 2049, ringSize: 128 },
  { pfnSpan: 524_288, ringSize: 1024 },
  { pfnSpan: 2_621_440, ringSize: 32_768 },
])('the metadata of $pfnSpan page frames with a ring of $ringSize', (options) => {
  const gpa = 77 * PAGE_SIZE;
  const metadata = layOutMetadata(gpa, options);
  const inOrder = areas(metadata, options).sort((a, b) => a.gpa - b.gpa);

  it('begins each area on a page of its own', () => {
    expect(inOrder.filter((area) => area.gpa % PAGE_SIZE !== 0)).toEqual([]);
    expect(inOrder).toHaveLength(21);
  });

  it('has room for each area before the next one begins, and for the last before its end', () => {
    const ends = [...inOrder.slice(1).map((area) => area.gpa), gpa + metadata.lengthBytes];
    const cramped = inOrder.filter((area, i) => area.gpa + area.lengthBytes > ends[i]!);
    expect(cramped).toEqual([]);
    expect(inOrder[0]!.gpa).toBe(gpa);
  });

  it('wastes less than a page an area, and says how many pages it takes', () => {
    const needed = inOrder.reduce((sum, area) => sum + area.lengthBytes, 0);
    expect(metadata.lengthBytes).toBeLessThan(needed + inOrder.length * PAGE_SIZE);
    expect(metadata.lengthBytes % PAGE_SIZE).toBe(0);
    expect(metadataPages(options) * PAGE_SIZE).toBe(metadata.lengthBytes);
  });

  it('has the statistics queue and its buffer behind the pfns, in their page', () => {
    const { balloonArrayGpa, statisticsQueue, statisticsGpa } = metadata;
    const ends = [
      balloonArrayGpa + VIRTIO_BALLOON_ARRAY_PFNS_MAX * 4,
      statisticsQueue.descGpa + packedQueueBytes(statisticsQueue.size),
      statisticsGpa + MOST_STATISTICS_BYTES,
    ] as const;
    expect(ends[0]).toBeLessThanOrEqual(statisticsQueue.descGpa);
    expect(ends[1]).toBeLessThanOrEqual(statisticsGpa);
    expect(ends[2]).toBeLessThanOrEqual(balloonArrayGpa + PAGE_SIZE);
  });

  it('has a bitmap for every order', () => {
    expect(metadata.allocator.orderGpa).toHaveLength(MAX_ORDER + 1);
  });
});
