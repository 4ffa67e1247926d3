/**
 * Bits of a /proc/kpageflags word (Linux, Documentation/admin-guide/mm/pagemap.rst and
 * include/uapi/linux/kernel-page-flags.h). Only those that lacuna reads.
 */

/** Bytes of one word: a little-endian u64 for each page frame. */
export const KPF_WORD_BYTES = 8;
/** The page is the first or a further page of a block on the buddy allocator's lists: it is free. */
export const KPF_BUDDY = 10;
/** No page frame exists at that address. */
export const KPF_NOPAGE = 20;
