import fc from 'fast-check';
import { expect, it } from 'vitest';
import { BuddyAllocator, cutIntoBlocks, MAX_ORDER } from '../../src/guest/buddy-allocator.js';
import { effort } from '../support/long.js';
import { NaiveBuddy } from '../support/naive-buddy.js';
import { bitmapOf, makeAllocator, pagesIn, UnmarkedWrites } from '../unit/guest/small-guest.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 600;

/** Memory of up to 2.5 of the largest blocks, in alternating runs of used and free pages. */
const someFreePages = fc
  .array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 24 })
  .map((lengths) => lengths.flatMap((length, i) => Array.from({ length }, () => i % 2 === 1)).slice(0, 2560));

/** Allocate a block of some order, or one page of a certain place, or release one of those that are owned. */
const someOperations = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('allocate' as const), order: fc.integer({ min: 0, max: MAX_ORDER }) }),
    fc.record({ kind: fc.constant('allocate' as const), order: fc.integer({ min: 0, max: 3 }) }),
    fc.record({ kind: fc.constant('allocateAt' as const), where: fc.nat(2559) }),
    fc.record({ kind: fc.constant('release' as const), which: fc.nat() }),
    // The one that was allocated last: what was cut from a block goes back to it.
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('release' as const), which: fc.constant(-1) }) },
  ),
  { maxLength: 60, size: 'max' },
);

interface Block {
  readonly pfn: number;
  readonly order: number;
}

/** Used pages, as the blocks that a guest would own them as. */
function usedBlocks(free: readonly boolean[]): Block[] {
  const blocks: Block[] = [];
  for (const [pfn, isFree] of free.entries()) {
    if (!isFree) {
      cutIntoBlocks(pfn, 1, (start, order) => blocks.push({ pfn: start, order }));
    }
  }
  return blocks;
}

it('answers as its naive twin and has the same pages free, after any sequence of operations', () => {
  fc.assert(
    fc.property(someFreePages, someOperations, (free, operations) => {
      const { allocator, ram, addresses, memory, log } = makeAllocator(free.length);
      const writes = new UnmarkedWrites(memory, log);
      const twin = new NaiveBuddy(free);
      const owned = usedBlocks(free);
      allocator.initialise(bitmapOf(free));
      for (const operation of operations) {
        if (operation.kind === 'allocate') {
          const { order } = operation;
          const pfn = allocator.allocate(order);
          expect(pfn).toBe(twin.allocate(order));
          if (pfn !== -1) {
            expect(pfn % 2 ** order).toBe(0);
            owned.push({ pfn, order });
          }
        } else if (operation.kind === 'allocateAt') {
          const pfn = operation.where % free.length;
          const wasTaken = allocator.allocateAt(pfn);
          expect(wasTaken).toBe(twin.allocateAt(pfn));
          if (wasTaken) {
            owned.push({ pfn, order: 0 });
          }
        } else if (owned.length > 0) {
          const [{ pfn, order }] = owned.splice(
            operation.which === -1 ? -1 : operation.which % owned.length,
            1,
          ) as [Block];
          allocator.release(pfn, order);
          twin.release(pfn, order);
        }
      }
      // The derived numbers, the bitmaps, and what someone else would read from the same RAM.
      const check = (): void => {
        for (const view of [allocator, new BuddyAllocator(ram, addresses, free.length)]) {
          expect(pagesIn(view.free)).toEqual(twin.freePages());
          expect(view.blocksByOrder()).toEqual(twin.blocksByOrder());
          expect(view.freePages).toBe(twin.freePages().length);
          expect(view.largestOrder()).toBe(Math.max(-1, ...twin.blocks().map(({ order }) => order)));
          expect(view.inconsistency()).toBeUndefined();
        }
      };
      check();
      // All of it back, in any order: it merges into the largest blocks that there can be.
      owned.sort((a, b) => ((a.pfn * 7919) % 1021) - ((b.pfn * 7919) % 1021));
      for (const { pfn, order } of owned) {
        allocator.release(pfn, order);
        twin.release(pfn, order);
      }
      check();
      expect(writes.unmarked()).toEqual([]);
    }),
    effort(300, TIME_LIMIT_MS),
  );
});

it('marks every page of its state that an operation changes', () => {
  // A span whose bitmaps take several pages; few pages are free, so that each operation reaches far.
  const pfnSpan = 140_000;
  const far = fc.array(fc.integer({ min: 0, max: pfnSpan - 1 }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(far, fc.array(fc.integer({ min: 0, max: MAX_ORDER }), { maxLength: 12 }), (pages, orders) => {
      const { allocator, memory, log } = makeAllocator(pfnSpan);
      const writes = new UnmarkedWrites(memory, log);
      for (const pfn of new Set(pages)) {
        allocator.release(pfn, 0);
      }
      expect(writes.changed()).not.toEqual([]);
      expect(writes.unmarked()).toEqual([]);
      for (const order of orders) {
        writes.restart();
        const pfn = allocator.allocate(order);
        expect(writes.unmarked()).toEqual([]);
        expect(writes.changed().length > 0).toBe(pfn !== -1);
      }
      writes.restart();
      const wasTaken = allocator.allocateAt(pages[0]!);
      expect(writes.unmarked()).toEqual([]);
      expect(writes.changed().length > 0).toBe(wasTaken);
    }),
    effort(50, TIME_LIMIT_MS),
  );
});

it('finds any single bit of its state that is damaged', () => {
  fc.assert(
    fc.property(someFreePages, fc.integer({ min: -1, max: MAX_ORDER }), fc.nat(), (free, order, where) => {
      const { allocator, ram, addresses } = makeAllocator(free.length);
      allocator.initialise(bitmapOf(free));
      expect(allocator.inconsistency()).toBeUndefined();
      const blocks = order === -1 ? free.length : Math.ceil(free.length / 2 ** order);
      const bitmap = ram.bitmap(order === -1 ? addresses.freeGpa : addresses.orderGpa[order]!, blocks);
      const bit = where % blocks;
      if (bitmap.test(bit)) {
        bitmap.clear(bit);
      } else {
        bitmap.set(bit);
      }
      expect(allocator.inconsistency()).toBeTypeOf('string');
    }),
    effort(100, TIME_LIMIT_MS),
  );
});

it('finds any free block that was cut in two and not merged', () => {
  fc.assert(
    fc.property(someFreePages, fc.nat(), (free, which) => {
      const { allocator, ram, addresses } = makeAllocator(free.length);
      allocator.initialise(bitmapOf(free));
      const larger = new NaiveBuddy(free).blocks().filter(({ order }) => order > 0);
      const block = larger[which % larger.length];
      fc.pre(block !== undefined);
      const { pfn, order } = block;
      const half = order - 1;
      const blocksOf = (of: number) => ram.bitmap(addresses.orderGpa[of]!, Math.ceil(free.length / 2 ** of));
      blocksOf(order).clear(pfn / 2 ** order);
      blocksOf(half).setRange(pfn / 2 ** half, 2);
      // Every page is in one block still, and an allocator that counts anew has the same pages.
      expect(new BuddyAllocator(ram, addresses, free.length).inconsistency()).toContain('buddies');
    }),
    effort(100, TIME_LIMIT_MS),
  );
});
