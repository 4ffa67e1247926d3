import type { GuestMemory } from '../../src/memory/guest-memory.js';
import type { QueueFault } from '../../src/virtqueue/device-queue.js';
import type { QueueAddresses } from '../../src/virtqueue/layout.js';

/* Descriptor flags, § 2.7.5. */

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

type Descriptor = Readonly<Record<'gpa' | 'lengthBytes' | 'flags' | 'next', number>>;

export interface NaiveSegment {
  readonly gpa: number;
  readonly lengthBytes: number;
  readonly writable: boolean;
}

/** A little-endian number of `bytes` bytes at `gpa`, byte by byte. */
function read(memory: GuestMemory, gpa: number, bytes: number): number {
  let value = 0;
  for (let i = 0; i < bytes; i += 1) {
    const { bytes: ram, startGpa } = memory.segmentOf(gpa + i, 1)!;
    value += ram[gpa + i - startGpa]! * 256 ** i;
  }
  return value;
}

/**
 * The naive twin of the device's walk of one descriptor chain, from the rules of VIRTIO 1.3 § 2.7.5 and § 2.7.13: what it
 * gets, or why it must not go on. The whole of a table is read before anything is decided.
 */
export function naiveChain(
  memory: GuestMemory,
  { size, descGpa }: QueueAddresses,
  head: number,
): NaiveSegment[] | QueueFault['code'] {
  const tableAt = (gpa: number, entries: number): Descriptor[] =>
    Array.from({ length: entries }, (_, i) => gpa + i * 16).map((at) => ({
      gpa: read(memory, at, 8),
      lengthBytes: read(memory, at + 8, 4),
      flags: read(memory, at + 12, 2),
      next: read(memory, at + 14, 2),
    }));
  const inRam = (gpa: number, lengthBytes: number): boolean =>
    memory.layout.blocks.some(({ startGpa, endGpa }) => gpa >= startGpa && gpa + lengthBytes <= endGpa);
  const segments: NaiveSegment[] = [];
  const walk = (table: readonly Descriptor[], first: number): QueueFault['code'] | undefined => {
    const { gpa, lengthBytes, flags, next } = table[first]!;
    const has = (flag: number): boolean => (flags & flag) === flag;
    if (has(INDIRECT)) {
      const entries = lengthBytes / 16;
      if (table !== main || has(NEXT)) {
        return 'INDIRECT_BAD_FLAGS';
      }
      if (!(entries >= 1 && entries <= size && entries % 1 === 0)) {
        return 'INDIRECT_BAD_LENGTH';
      }
      return inRam(gpa, lengthBytes) ? walk(tableAt(gpa, entries), 0) : 'OUT_OF_RAM';
    }
    if (segments.length >= size) {
      return 'CHAIN_TOO_LONG';
    }
    if (lengthBytes === 0) {
      return 'ZERO_LENGTH';
    }
    if (!inRam(gpa, lengthBytes)) {
      return 'OUT_OF_RAM';
    }
    if (!has(WRITE) && segments.some(({ writable }) => writable)) {
      return 'READABLE_AFTER_WRITABLE';
    }
    segments.push({ gpa, lengthBytes, writable: has(WRITE) });
    if (!has(NEXT)) {
      return undefined;
    }
    return next < table.length ? walk(table, next) : 'NEXT_OUT_OF_RANGE';
  };
  const main = tableAt(descGpa, size);
  return head < size ? (walk(main, head) ?? segments) : 'HEAD_OUT_OF_RANGE';
}
