/** The memory balloon device: numbers from VIRTIO 1.3 § 5.5, in the standard's spelling. */

/**
 * § 5.5.3: feature bits, by number. The driver initialises pages that it frees, and reuses, with `poison_val`.
 */
export const VIRTIO_BALLOON_F_PAGE_POISON = 4;

/** § 5.5.2: queue numbers. The hint queue's standard index is 3, after the statistics queue. */
export const VIRTIO_BALLOON_VQ_INFLATE = 0;
export const VIRTIO_BALLOON_VQ_DEFLATE = 1;
export const VIRTIO_BALLOON_VQ_FREE_PAGE = 3;

/**
 * How many pfns one inflate or deflate buffer carries at the most. The standard sets no bound; Linux's driver
 * gathers 256 in its array, and so does the built-in guest.
 */
export const VIRTIO_BALLOON_ARRAY_PFNS_MAX = 256;
