/**
 * Bits of a /proc/kpageflags word (Linux, Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/kernel-page-flags.h
 * and, from 32 on, include/linux/kernel-page-flags.h). Only those that lacuna reads.
 */

/** Bytes of one word: a little-endian u64 for each page frame. */
export const KPF_WORD_BYTES = 8;
/** Its contents are newer than what the file's storage has. */
export const KPF_DIRTY = 4;
/** The page is on one of the lists that reclaim looks through. */
export const KPF_LRU = 5;
/** The page belongs to the slab allocator: the kernel's own objects. */
export const KPF_SLAB = 7;
/** It is being written to its file's storage. */
export const KPF_WRITEBACK = 8;
/** The page is the first or a further page of a block on the buddy allocator's lists: it is free. */
export const KPF_BUDDY = 10;
/** Some process has it in its page tables. */
export const KPF_MMAP = 11;
/** It belongs to a process and to no file. */
export const KPF_ANON = 12;
/** It can go to swap only: anonymous, or of shmem. */
export const KPF_SWAPBACKED = 14;
/** The first, and a further page of a compound page (a huge page, a folio, a slab of several pages). */
export const KPF_COMPOUND_HEAD = 15;
export const KPF_COMPOUND_TAIL = 16;
/** A page of hugetlbfs. */
export const KPF_HUGE = 17;
/** Reclaim leaves it alone. */
export const KPF_UNEVICTABLE = 18;
/** No page frame exists at that address. */
export const KPF_NOPAGE = 20;
/** The page is logically offline: a balloon has it, or the hypervisor. */
export const KPF_OFFLINE = 23;
/** It holds a page table. */
export const KPF_PGTABLE = 26;
/** The kernel gave it away at boot: its own image, struct pages, firmware. */
export const KPF_RESERVED = 32;
/** A process has locked it. */
export const KPF_MLOCKED = 33;
/** The kernel uses fewer bits than this, so a word with one from here on was not its. */
export const KPF_BITS = 48;
