/** The memory balloon device: numbers from VIRTIO 1.3 § 5.5, in the standard's spelling. */

/** § 5.5.2: queue numbers. A queue whose feature was not negotiated does not exist; the others keep their numbers. */
export const VIRTIO_BALLOON_VQ_INFLATE = 0;
export const VIRTIO_BALLOON_VQ_DEFLATE = 1;
export const VIRTIO_BALLOON_VQ_STATS = 2;
export const VIRTIO_BALLOON_VQ_FREE_PAGE = 3;

/*
 * § 5.5.3: feature bits, by number. Nobody offers 2, DEFLATE_ON_OOM, or 5, REPORTING, with its queue 4: free page
 * *reporting*, which in VIRTIO is another feature than hinting.
 */
/** The guest uses a page of its balloon again only when the host has been told of it, and has said so. */
export const VIRTIO_BALLOON_F_MUST_TELL_HOST = 0;
/** There is a queue of memory statistics. */
export const VIRTIO_BALLOON_F_STATS_VQ = 1;
/** Free page hinting: what the mail calls free page report. */
export const VIRTIO_BALLOON_F_FREE_PAGE_HINT = 3;
/** The driver initialises pages that it frees, and reuses, with `poison_val`. */
export const VIRTIO_BALLOON_F_PAGE_POISON = 4;

/** § 5.5.4: offsets in the config space, a le32 each. */
export const VIRTIO_BALLOON_CONFIG_NUM_PAGES = 0;
export const VIRTIO_BALLOON_CONFIG_ACTUAL = 4;
export const VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID = 8;
export const VIRTIO_BALLOON_CONFIG_POISON_VAL = 12;

/** § 5.5.6.5: no hints are wanted; in a buffer of the driver's: that was the last of them. */
export const VIRTIO_BALLOON_CMD_ID_STOP = 0;
/** § 5.5.6.5: hints are of no use any more, and pages that were lent for them may be used again. */
export const VIRTIO_BALLOON_CMD_ID_DONE = 1;

/** § 5.5.6.3: a statistic is a le16 tag and a le64 value, packed. */
export const VIRTIO_BALLOON_STAT_BYTES = 10;

/** § 5.5.6.4: tags of statistics. Sizes in bytes. */
/** Memory that was swapped in, and out. */
export const VIRTIO_BALLOON_S_SWAP_IN = 0;
export const VIRTIO_BALLOON_S_SWAP_OUT = 1;
/** Page faults with and without input or output. */
export const VIRTIO_BALLOON_S_MAJFLT = 2;
export const VIRTIO_BALLOON_S_MINFLT = 3;
/** Memory that is not used for anything, and all that there is. */
export const VIRTIO_BALLOON_S_MEMFREE = 4;
export const VIRTIO_BALLOON_S_MEMTOT = 5;
/** What programs can have without swapping. */
export const VIRTIO_BALLOON_S_AVAIL = 6;
/** What could be had by dropping caches. */
export const VIRTIO_BALLOON_S_CACHES = 7;
/** Huge pages that were allocated, and that could not be. */
export const VIRTIO_BALLOON_S_HTLB_PGALLOC = 8;
export const VIRTIO_BALLOON_S_HTLB_PGFAIL = 9;

/**
 * How many pfns one inflate or deflate buffer carries at the most. The standard sets no bound; Linux's driver
 * gathers 256 in its array, and so does the built-in guest.
 */
export const VIRTIO_BALLOON_ARRAY_PFNS_MAX = 256;
