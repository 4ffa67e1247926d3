/** Pages and page frame numbers. Every size in lacuna is in bytes unless its name says otherwise. */

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;

/** Pages that one 32-bit bitmap word stands for. */
export const PAGES_PER_WORD = 32;

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
export const GIB: number = 1024 * MIB;

/** The pfn that holds guest-physical address `gpa` (a division, because a gpa may exceed 32 bits). */
export function pfnOf(gpa: number): number {
  return Math.floor(gpa / PAGE_SIZE);
}

/** The guest-physical address of a page's first byte. */
export function gpaOf(pfn: number): number {
  return pfn * PAGE_SIZE;
}

/** `value` rounded up to a multiple of `alignment` (a power of two or not; both below 2^53). */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** How many bits of a 32-bit word are set. */
export function popcount32(word: number): number {
  word -= (word >>> 1) & 0x5555_5555;
  word = (word & 0x3333_3333) + ((word >>> 2) & 0x3333_3333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

/** The index of the lowest set bit of a word that is not 0. */
export function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** A word whose bits `first` … `first + count - 1` are set; `count` is 1…32 and the bits lie in one word. */
export function bitMask(first: number, count: number): number {
  return count === 32 ? -1 : ((1 << count) - 1) << first;
}
