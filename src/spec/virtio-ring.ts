/**
 * Split virtqueues: numbers from "Virtual I/O Device (VIRTIO) Version 1.3", § 2.7, in the standard's spelling.
 */

/** § 2.7: the largest queue size; sizes are powers of two. */
export const VIRTQ_MAX_SIZE = 32768;

/** § 2.7.5: bytes of one descriptor: le64 addr, le32 len, le16 flags, le16 next. */
export const VIRTQ_DESC_SIZE = 16;
/** § 2.7.5: the buffer goes on in the descriptor that `next` names. */
export const VIRTQ_DESC_F_NEXT = 1;
/** § 2.7.5: the buffer is device write-only (an *inbuf*); without it, device read-only (an *outbuf*). */
export const VIRTQ_DESC_F_WRITE = 2;
/** § 2.7.5: the buffer holds a table of descriptors. */
export const VIRTQ_DESC_F_INDIRECT = 4;

/** § 2.7: alignment in bytes of the three areas. */
export const VIRTQ_DESC_ALIGN = 16;
export const VIRTQ_AVAIL_ALIGN = 2;
export const VIRTQ_USED_ALIGN = 4;

/** § 2.7.6: the driver asks for no interrupt when a buffer is used (without EVENT_IDX). */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
/** § 2.7.8: the device asks for no notification when a buffer is added (without EVENT_IDX). */
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** § 2.7.8: bytes of one used element: le32 id, le32 len. */
export const VIRTQ_USED_ELEM_SIZE = 8;

/** § 2.7: the available ring is 6 + 2 · size bytes: le16 flags, le16 idx, le16 ring[size], le16 used_event. */
export function virtqAvailBytes(size: number): number {
  return 6 + 2 * size;
}

/** § 2.7: the used ring is 6 + 8 · size bytes: le16 flags, le16 idx, elements, le16 avail_event. */
export function virtqUsedBytes(size: number): number {
  return 6 + VIRTQ_USED_ELEM_SIZE * size;
}

/** § 2.1: the driver is set up and drives the device. */
export const VIRTIO_CONFIG_S_DRIVER_OK = 4;
/** § 2.1: the device has met an error it can't recover from by itself. */
export const VIRTIO_CONFIG_S_NEEDS_RESET = 64;
