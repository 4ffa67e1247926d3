import {
  VIRTIO_BALLOON_S_AVAIL,
  VIRTIO_BALLOON_S_CACHES,
  VIRTIO_BALLOON_S_HTLB_PGALLOC,
  VIRTIO_BALLOON_S_HTLB_PGFAIL,
  VIRTIO_BALLOON_S_MAJFLT,
  VIRTIO_BALLOON_S_MEMFREE,
  VIRTIO_BALLOON_S_MEMTOT,
  VIRTIO_BALLOON_S_MINFLT,
  VIRTIO_BALLOON_S_SWAP_IN,
  VIRTIO_BALLOON_S_SWAP_OUT,
  VIRTIO_BALLOON_STAT_BYTES,
} from '../spec/virtio-balloon.js';

/** What a guest says of its memory, as far as it says anything (§ 5.5.6.4). Nothing here is checked, nor can it be. */
export interface GuestStatistics {
  swappedInBytes?: number;
  swappedOutBytes?: number;
  majorFaults?: number;
  minorFaults?: number;
  freeBytes?: number;
  totalBytes?: number;
  /** What programs can have without swapping. */
  availableBytes?: number;
  /** What dropping caches would free. */
  cachesBytes?: number;
  hugePageAllocations?: number;
  hugePageFailures?: number;
}

const NAMES: ReadonlyMap<number, keyof GuestStatistics> = new Map([
  [VIRTIO_BALLOON_S_SWAP_IN, 'swappedInBytes'],
  [VIRTIO_BALLOON_S_SWAP_OUT, 'swappedOutBytes'],
  [VIRTIO_BALLOON_S_MAJFLT, 'majorFaults'],
  [VIRTIO_BALLOON_S_MINFLT, 'minorFaults'],
  [VIRTIO_BALLOON_S_MEMFREE, 'freeBytes'],
  [VIRTIO_BALLOON_S_MEMTOT, 'totalBytes'],
  [VIRTIO_BALLOON_S_AVAIL, 'availableBytes'],
  [VIRTIO_BALLOON_S_CACHES, 'cachesBytes'],
  [VIRTIO_BALLOON_S_HTLB_PGALLOC, 'hugePageAllocations'],
  [VIRTIO_BALLOON_S_HTLB_PGFAIL, 'hugePageFailures'],
]);

/** Bytes of a statistics buffer that are looked at: the standard has 10 tags, and Linux 16. */
export const MOST_STATISTICS_BYTES: number = 64 * VIRTIO_BALLOON_STAT_BYTES;

/** Writes `statistics` to `out` at `offset`, as § 5.5.6.3 has it; returns how many bytes that were. */
export function encodeStatistics(statistics: GuestStatistics, out: DataView, offset: number): number {
  let at = offset;
  for (const [tag, name] of NAMES) {
    const value = statistics[name];
    if (value !== undefined) {
      const high = Math.floor(value / 0x1_0000_0000);
      out.setUint16(at, tag, true);
      out.setUint32(at + 2, value - high * 0x1_0000_0000, true);
      out.setUint32(at + 6, high, true);
      at += VIRTIO_BALLOON_STAT_BYTES;
    }
  }
  return at - offset;
}

/**
 * Reads a guest's buffer, which is anything that it likes. Tags that are not known are passed over, and so is what is
 * left behind the last whole statistic. Of a tag that comes twice the last counts. A value that is no safe integer (from
 * 2^53 on) counts nothing that a guest has: it is passed over too; all ones is how some say "not known".
 */
export function parseStatistics(bytes: Uint8Array): GuestStatistics {
  const statistics: GuestStatistics = {};
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + VIRTIO_BALLOON_STAT_BYTES <= bytes.length; at += VIRTIO_BALLOON_STAT_BYTES) {
    const name = NAMES.get(view.getUint16(at, true));
    const value = view.getUint32(at + 2, true) + view.getUint32(at + 6, true) * 0x1_0000_0000;
    if (name !== undefined && Number.isSafeInteger(value)) {
      statistics[name] = value;
    }
  }
  return statistics;
}
