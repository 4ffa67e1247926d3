import { LacunaError } from '../errors.js';
import { GIB, gpaOf, PAGE_SIZE, PAGES_PER_WORD } from '../memory/page.js';
import { bitmapWords, PageBitmap, type PageRun } from '../memory/page-bitmap.js';
import { type RamBlock, RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import {
  KPF_ANON,
  KPF_BITS,
  KPF_BUDDY,
  KPF_COMPOUND_HEAD,
  KPF_COMPOUND_TAIL,
  KPF_DIRTY,
  KPF_HUGE,
  KPF_LRU,
  KPF_MLOCKED,
  KPF_MMAP,
  KPF_NOPAGE,
  KPF_OFFLINE,
  KPF_PGTABLE,
  KPF_RESERVED,
  KPF_SLAB,
  KPF_SWAPBACKED,
  KPF_UNEVICTABLE,
  KPF_WORD_BYTES,
  KPF_WRITEBACK,
} from '../spec/kpageflags.js';
import { cutIntoBlocks, MAX_ORDER } from './buddy-allocator.js';

/**
 * What page frames are used for, in pages; the names are those of the captures' `counts`. A frame is counted under the
 * first of these that fits, so that they add up to `pages`:
 * `free`, `slab`, `hugetlb`, `anon`, `shmem`, `pageCache`, `pageTables`, `offline`, `reserved`, `other`.
 */
export interface FrameUse {
  /** Frames with RAM behind them. */
  pages: number;
  /** On the buddy allocator's lists. */
  free: number;
  slab: number;
  /** Of hugetlbfs, in use or set aside for it. */
  hugetlb: number;
  anon: number;
  shmem: number;
  /** On an LRU list, neither anonymous nor of shmem: contents of files. */
  pageCache: number;
  pageTables: number;
  /** In a balloon of the machine's own. */
  offline: number;
  reserved: number;
  /** Kernel stacks, vmalloc, per-CPU free lists and the like. */
  other: number;
}

/** The page cache by what it would take to drop it; a frame is counted under the first that fits, and they add up. */
export interface PageCacheUse {
  /** In some process's page tables: programs and libraries that run. */
  mapped: number;
  /** To be written to storage first, or being written. */
  dirty: number;
  /** Unevictable or locked by a process. */
  pinned: number;
  /** None of these: the kernel may drop it at any time without a write, and reads it again when it is wanted. */
  droppable: number;
}

/** Free memory by block size. Index: order, 0 … 10. */
export interface FreeByOrder {
  /** Blocks, when free runs are cut into the largest naturally aligned blocks: what the buddy allocator holds. */
  readonly blocks: readonly number[];
  /** Pages in blocks of this order and above: what a guest reports whose smallest order is this one. */
  readonly pagesFrom: readonly number[];
  /** The ranges that it reports them in (*walk*: neighbouring blocks are one range). */
  readonly rangesFrom: readonly number[];
}

/** A machine's memory, as its kernel's flags describe it. */
export interface MemoryMap {
  /** Words that were read. */
  readonly pfns: number;
  readonly blocks: readonly RamBlock[];
  readonly use: FrameUse;
  readonly pageCache: PageCacheUse;
  /** Frames that the kernel calls free where no RAM is. */
  readonly freeOutsideRam: number;
  readonly freeByOrder: FreeByOrder;
  readonly freeRuns: number;
  readonly longestFreeRunPages: number;
  /** A bit a pfn below the end of RAM; laid out as {@link PageBitmap}'s. */
  readonly free: SharedArrayBuffer;
}

/** Flags of more frames than this are not read (4 TiB of addresses, 8 GiB of flags): bitmaps grow with it. */
export const MOST_PFNS: number = 2 ** 30;
/** RAM in more pieces than this is no machine's; looking a page up takes as long as there are pieces. */
export const MOST_BLOCKS = 4096;

const bit = (flag: number): number => 1 << flag;
/** Flags in the high word. */
const highBit = (flag: number): number => 1 << (flag - 32);

/** Of a compound page's first page, what its further pages are as well, where the kernel flags only the first. */
const OF_ALL_ITS_PAGES: number =
  bit(KPF_SLAB) |
  bit(KPF_ANON) |
  bit(KPF_LRU) |
  bit(KPF_SWAPBACKED) |
  bit(KPF_DIRTY) |
  bit(KPF_WRITEBACK) |
  bit(KPF_HUGE) |
  bit(KPF_UNEVICTABLE);
const KINDS: number =
  bit(KPF_SLAB) | bit(KPF_ANON) | bit(KPF_LRU) | bit(KPF_SWAPBACKED) | bit(KPF_HUGE) | bit(KPF_BUDDY);

/**
 * Reads /proc/kpageflags: fed in pieces of any length, it keeps one bit for each frame and the counts, so that the
 * flags of a large machine (2 GiB for 1 TiB of RAM) never have to be in memory.
 *
 * Throws CAPTURE_MALFORMED, with what was wrong with the flags; `where` names them in the message.
 */
export class MemoryMapReader {
  readonly #where: string;
  readonly #ram: readonly RamBlock[] | undefined;
  readonly #use: FrameUse = {
    pages: 0,
    free: 0,
    slab: 0,
    anon: 0,
    shmem: 0,
    pageCache: 0,
    pageTables: 0,
    hugetlb: 0,
    offline: 0,
    reserved: 0,
    other: 0,
  };
  readonly #cache: PageCacheUse = { mapped: 0, dirty: 0, pinned: 0, droppable: 0 };
  /** A bit a frame, grown by doubling. */
  #free: Uint32Array = new Uint32Array(32_768);
  /** RAM found so far, where the flags have to say it: first pfn, end pfn, and so on. */
  readonly #found: number[] = [];
  /** The piece of a word at the end of the last chunk. */
  readonly #carry: Uint8Array = new Uint8Array(KPF_WORD_BYTES);
  #carried = 0;
  #pfn = 0;
  #block = 0;
  #head = 0;
  #anyFlag = false;
  #freeOutside = 0;

  /** `ram`: where the machine's RAM lies; without it every frame that has a `struct page` (is not NOPAGE) counts as RAM. */
  constructor(where: string, ram?: readonly RamBlock[]) {
    this.#where = where;
    this.#ram = ram === undefined ? undefined : new RamLayout(ram).blocks;
  }

  push(chunk: Uint8Array): void {
    let at = 0;
    if (this.#carried > 0) {
      at = Math.min(chunk.length, KPF_WORD_BYTES - this.#carried);
      this.#carry.set(chunk.subarray(0, at), this.#carried);
      this.#carried += at;
      if (this.#carried < KPF_WORD_BYTES) {
        return;
      }
      this.#carried = 0;
      this.#words(this.#carry);
    }
    const whole = chunk.length - ((chunk.length - at) % KPF_WORD_BYTES);
    this.#words(chunk.subarray(at, whole));
    this.#carry.set(chunk.subarray(whole));
    this.#carried = chunk.length - whole;
  }

  /** All was read. `map` maps the words of the result's bitmap. */
  finish(map: WordMapper): MemoryMap {
    const bytes = this.#pfn * KPF_WORD_BYTES + this.#carried;
    if (this.#carried > 0) {
      this.#refuse(
        `${bytes} bytes are no whole number of 8-byte words: it was cut off, or is no copy of /proc/kpageflags`,
      );
    }
    if (this.#pfn === 0) {
      this.#refuse('it is empty; copy with `cat /proc/kpageflags > FILE`, as root (cp takes its size for 0)');
    }
    if (!this.#anyFlag) {
      this.#refuse('not one flag is set: this kernel, or the container around it, hides them');
    }
    const blocks = this.#ram ?? this.#foundBlocks();
    if (this.#use.pages === 0) {
      this.#refuse(
        blocks.length === 0
          ? 'no frame has RAM behind it'
          : 'the flags end before RAM begins; they are of another machine',
      );
    }
    const end = (blocks.at(-1)?.endGpa ?? 0) / PAGE_SIZE;
    if (this.#ram !== undefined && end > this.#pfn) {
      this.#refuse(
        `the flags end at pfn ${this.#pfn} and RAM at pfn ${end}: they were cut off, or are of another machine`,
      );
    }
    const words = bitmapWords(end);
    const free = new SharedArrayBuffer(words * 4);
    new Uint32Array(free).set(this.#free.subarray(0, words));
    const bitmap = PageBitmap.over(map, free, end);
    return {
      pfns: this.#pfn,
      blocks,
      use: this.#use,
      pageCache: this.#cache,
      freeOutsideRam: this.#freeOutside,
      ...countFreeRuns(bitmap),
      free,
    };
  }

  #words(bytes: Uint8Array): void {
    const count = bytes.length / KPF_WORD_BYTES;
    if (this.#pfn + count > MOST_PFNS) {
      this.#refuse(
        `it goes on beyond pfn ${MOST_PFNS} (${gpaOf(MOST_PFNS) / GIB} GiB): lacuna reads no larger machine`,
      );
    }
    if (this.#pfn + count > this.#free.length * PAGES_PER_WORD) {
      const grown = new Uint32Array(
        Math.max(this.#free.length * 2, Math.ceil((this.#pfn + count) / PAGES_PER_WORD)),
      );
      grown.set(this.#free);
      this.#free = grown;
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let i = 0; i < count; i += 1) {
      this.#frame(
        view.getUint32(i * KPF_WORD_BYTES, true),
        view.getUint32(i * KPF_WORD_BYTES + 4, true),
        this.#pfn + i,
      );
    }
    this.#pfn += count;
  }

  #frame(own: number, high: number, pfn: number): void {
    if (high >>> (KPF_BITS - 32) !== 0) {
      this.#refuse(`pfn ${pfn} has flags that no kernel has: it is no copy of /proc/kpageflags`);
    }
    this.#anyFlag ||= (own | high) !== 0;
    const isPage = (own & bit(KPF_NOPAGE)) === 0;
    if (!(this.#ram === undefined ? isPage : this.#inRam(pfn, this.#ram))) {
      this.#freeOutside += (own >>> KPF_BUDDY) & 1;
      return;
    }
    if (this.#ram === undefined) {
      this.#find(pfn);
    }
    const use = this.#use;
    use.pages += 1;
    let low = own;
    if ((low & bit(KPF_COMPOUND_TAIL)) === 0) {
      this.#head = (low & bit(KPF_COMPOUND_HEAD)) === 0 ? 0 : low;
    } else if ((low & KINDS) === 0) {
      low |= this.#head & OF_ALL_ITS_PAGES;
    }
    if ((low & bit(KPF_BUDDY)) !== 0) {
      if (!isPage) {
        this.#refuse(`pfn ${pfn} is free and does not exist`);
      }
      use.free += 1;
      this.#free[pfn >>> 5] = this.#free[pfn >>> 5]! | bit(pfn & 31);
    } else if ((low & bit(KPF_SLAB)) !== 0) {
      use.slab += 1;
    } else if ((low & bit(KPF_HUGE)) !== 0) {
      use.hugetlb += 1;
    } else if ((low & bit(KPF_ANON)) !== 0) {
      use.anon += 1;
    } else if ((low & bit(KPF_SWAPBACKED)) !== 0) {
      use.shmem += 1;
    } else if ((low & bit(KPF_LRU)) !== 0) {
      use.pageCache += 1;
      this.#cached(low, high);
    } else if ((low & bit(KPF_PGTABLE)) !== 0) {
      use.pageTables += 1;
    } else if ((low & bit(KPF_OFFLINE)) !== 0) {
      use.offline += 1;
    } else if ((high & highBit(KPF_RESERVED)) !== 0) {
      use.reserved += 1;
    } else {
      use.other += 1;
    }
  }

  #cached(low: number, high: number): void {
    if ((low & bit(KPF_MMAP)) !== 0) {
      this.#cache.mapped += 1;
    } else if ((low & (bit(KPF_DIRTY) | bit(KPF_WRITEBACK))) !== 0) {
      this.#cache.dirty += 1;
    } else if ((low & bit(KPF_UNEVICTABLE)) !== 0 || (high & highBit(KPF_MLOCKED)) !== 0) {
      this.#cache.pinned += 1;
    } else {
      this.#cache.droppable += 1;
    }
  }

  /** Frames come in ascending order, so the block in hand only ever moves on. */
  #inRam(pfn: number, ram: readonly RamBlock[]): boolean {
    let block = ram[this.#block];
    while (block !== undefined && gpaOf(pfn) >= block.endGpa) {
      this.#block += 1;
      block = ram[this.#block];
    }
    return block !== undefined && gpaOf(pfn) >= block.startGpa;
  }

  #find(pfn: number): void {
    const found = this.#found;
    if (found.at(-1) === pfn) {
      found[found.length - 1] = pfn + 1;
      return;
    }
    found.push(pfn, pfn + 1);
    if (found.length > 2 * MOST_BLOCKS) {
      this.#refuse(`RAM in more than ${MOST_BLOCKS} pieces: it is no copy of /proc/kpageflags`);
    }
  }

  #foundBlocks(): RamBlock[] {
    return Array.from({ length: this.#found.length / 2 }, (_, i) => ({
      startGpa: gpaOf(this.#found[i * 2]!),
      endGpa: gpaOf(this.#found[i * 2 + 1]!),
    }));
  }

  #refuse(what: string): never {
    throw new LacunaError('CAPTURE_MALFORMED', `${this.#where}: ${what}`);
  }
}

/** Free memory by block size, and how it is cut up. */
export function countFreeRuns(
  free: PageBitmap,
): Pick<MemoryMap, 'freeByOrder' | 'freeRuns' | 'longestFreeRunPages'> {
  const orders = Array.from({ length: MAX_ORDER + 1 }, (_, order) => order);
  const blocks = orders.map(() => 0);
  const rangesFrom = orders.map(() => 0);
  const run: PageRun = { pfn: 0, pageCount: 0 };
  let freeRuns = 0;
  let longestFreeRunPages = 0;
  const count = (_: number, order: number): void => {
    blocks[order] = blocks[order]! + 1;
  };
  for (let from = 0; free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
    freeRuns += 1;
    longestFreeRunPages = Math.max(longestFreeRunPages, run.pageCount);
    cutIntoBlocks(run.pfn, run.pageCount, count);
    for (let order = 0; order <= MAX_ORDER; order += 1) {
      const size = 2 ** order;
      const first = Math.ceil(run.pfn / size);
      if (Math.floor((run.pfn + run.pageCount) / size) <= first) {
        break; // nor is there a larger block in it
      }
      rangesFrom[order] = rangesFrom[order]! + 1;
    }
  }
  const pagesFrom = orders.map((least) =>
    blocks.reduce((sum, of, order) => sum + (order < least ? 0 : of * 2 ** order), 0),
  );
  return { freeByOrder: { blocks, pagesFrom, rangesFrom }, freeRuns, longestFreeRunPages };
}
