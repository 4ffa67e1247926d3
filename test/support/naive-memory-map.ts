/** What a page frame is used for, by the rules of MemoryMapReader one after the other. */
export interface NaiveMemoryMap {
  readonly use: Record<string, number>;
  readonly pageCache: Record<string, number>;
  readonly freeOutsideRam: number;
  readonly free: readonly number[];
  /** By order: blocks, pages in blocks of at least that order, runs of such blocks. */
  readonly blocks: readonly number[];
  readonly pagesFrom: readonly number[];
  readonly rangesFrom: readonly number[];
}

/** The naive twin of MemoryMapReader: BigInt words, sets of pages, and a buddy allocator's blocks found one by one. */
export function naiveMemoryMap(bytes: Uint8Array, isRam?: (pfn: number) => boolean): NaiveMemoryMap {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const words = Array.from({ length: bytes.length / 8 }, (_, pfn) => view.getBigUint64(pfn * 8, true));
  const has = (word: bigint, ...bits: number[]): boolean =>
    bits.some((bit) => ((word >> BigInt(bit)) & 1n) === 1n);
  const ramAt = (pfn: number): boolean => (isRam === undefined ? !has(words[pfn]!, 20) : isRam(pfn));
  const use: Record<string, number> = {};
  const pageCache: Record<string, number> = {};
  const add = (into: Record<string, number>, name: string): void => {
    into[name] = (into[name] ?? 0) + 1;
  };
  const free: number[] = [];
  let freeOutsideRam = 0;
  let head = 0n;
  for (const [pfn, own] of words.entries()) {
    if (!ramAt(pfn)) {
      freeOutsideRam += has(own, 10) ? 1 : 0;
      continue;
    }
    let word = own;
    if (!has(own, 16)) {
      head = has(own, 15) ? own : 0n;
    } else if (!has(own, 5, 7, 10, 12, 14, 17)) {
      for (const bit of [4, 5, 7, 8, 12, 14, 17, 18]) {
        word |= head & (1n << BigInt(bit));
      }
    }
    add(use, 'pages');
    const kinds: [string, boolean][] = [
      ['free', has(word, 10)],
      ['slab', has(word, 7)],
      ['hugetlb', has(word, 17)],
      ['anon', has(word, 12)],
      ['shmem', has(word, 14)],
      ['pageCache', has(word, 5)],
      ['pageTables', has(word, 26)],
      ['offline', has(word, 23)],
      ['reserved', has(word, 32)],
      ['other', true],
    ];
    const [kind] = kinds.find(([, is]) => is)!;
    add(use, kind);
    if (kind === 'free') {
      free.push(pfn);
    } else if (kind === 'pageCache') {
      const ways: [string, boolean][] = [
        ['mapped', has(word, 11)],
        ['dirty', has(word, 4, 8)],
        ['pinned', has(word, 18, 33)],
        ['droppable', true],
      ];
      add(pageCache, ways.find(([, is]) => is)![0]);
    }
  }
  return { use, pageCache, freeOutsideRam, free, ...naiveOrders(free) };
}

/** Blocks: a page's is the largest aligned one around it that is wholly free. */
export function naiveOrders(
  free: readonly number[],
): Pick<NaiveMemoryMap, 'blocks' | 'pagesFrom' | 'rangesFrom'> {
  const isFree = new Set(free);
  const wholly = (order: number, pfn: number): boolean => {
    const first = pfn - (pfn % 2 ** order);
    return Array.from({ length: 2 ** order }, (_, i) => first + i).every((page) => isFree.has(page));
  };
  const orderOf = new Map(
    free.map((pfn) => {
      let order = 0;
      while (order < 10 && wholly(order + 1, pfn)) {
        order += 1;
      }
      return [pfn, order];
    }),
  );
  const orders = Array.from({ length: 11 }, (_, order) => order);
  const from = orders.map((least) => free.filter((pfn) => orderOf.get(pfn)! >= least));
  return {
    blocks: orders.map((order) => free.filter((pfn) => orderOf.get(pfn) === order).length / 2 ** order),
    pagesFrom: from.map((pages) => pages.length),
    rangesFrom: from.map((pages) => {
      const set = new Set(pages);
      return pages.filter((pfn) => !set.has(pfn - 1)).length;
    }),
  };
}
