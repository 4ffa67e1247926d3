import { describe, expect, it } from 'vitest';
import { PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import {
  availEventIndex,
  isQueueSize,
  mapQueue,
  needsEvent,
  packedQueueBytes,
  packQueue,
  usedEventIndex,
} from '../../../src/virtqueue/layout.js';
import { HOLED_LAYOUT } from '../../support/ring-pair.js';

describe('isQueueSize', () => {
  it('takes the powers of two from 1 to 32768', () => {
    const sizes = Array.from({ length: 70_000 }, (_, size) => size).filter(isQueueSize);
    expect(sizes).toEqual(Array.from({ length: 16 }, (_, i) => 2 ** i));
  });

  it.each([-1, -8, 0.5, 2.5, 2 ** 31, 2 ** 32, Number.NaN, Number.POSITIVE_INFINITY])(
    'refuses %d',
    (size) => {
      expect(isQueueSize(size)).toBe(false);
    },
  );
});

describe('packQueue', () => {
  it('lays the areas out one after the other, each at its alignment', () => {
    expect(packQueue(0x1000, 1)).toEqual({ size: 1, descGpa: 0x1000, availGpa: 0x1010, usedGpa: 0x1018 });
    expect(packQueue(0x1001, 8)).toEqual({ size: 8, descGpa: 0x1010, availGpa: 0x1090, usedGpa: 0x10a8 });
  });

  it('works above 4 GiB', () => {
    expect(packQueue(5 * 2 ** 32 + 1, 1).descGpa).toBe(5 * 2 ** 32 + 16);
  });

  it('says how many bytes it takes', () => {
    // 16 for the descriptor, 8 for the available ring, 14 for the used ring.
    expect(packedQueueBytes(1)).toBe(38);
    expect(packedQueueBytes(256)).toBe(4096 + 520 + 2054);
  });
});

describe('mapQueue', () => {
  const memory = new PrivateGuestMemory(HOLED_LAYOUT);

  it('maps a queue of every size', () => {
    for (let size = 1; size <= 32_768; size *= 2) {
      const views = mapQueue(memory, atomicMapper, packQueue(PAGE_SIZE, size));
      expect(views).toMatchObject({ desc: { length: size * 4 }, usedEntries: { length: size * 2 } });
    }
  });

  it('maps areas that lie apart, in any order, to the ends of RAM', () => {
    const size = 4;
    const addresses = { size, descGpa: 3 * MIB - 64, availGpa: 2 * MIB, usedGpa: MIB - 40 };
    expect(mapQueue(memory, atomicMapper, addresses)).toBeTypeOf('object');
    // The used ring takes 38 bytes, the next aligned place for it is 2 bytes short.
    expect(mapQueue(memory, atomicMapper, { ...addresses, usedGpa: MIB - 36 })).toMatch(/used ring.*RAM/);
    expect(mapQueue(memory, atomicMapper, { ...addresses, descGpa: 3 * MIB - 48 })).toMatch(/table.*RAM/);
  });

  it('gives event words that do not overlap the entries', () => {
    const size = 4;
    const views = mapQueue(memory, atomicMapper, packQueue(PAGE_SIZE, size));
    if (typeof views === 'string') {
      throw new Error(views);
    }
    views.avail.store(usedEventIndex(size), 0xabcd);
    views.used.store(availEventIndex(size), 0xfedc);
    expect(views.availEntries[2 + size]).toBe(0xabcd);
    expect([...views.availEntries].filter((half) => half !== 0)).toEqual([0xabcd]);
    expect([...views.usedEntries].every((word) => word === 0)).toBe(true);
    expect(views.used.load(availEventIndex(size))).toBe(0xfedc);
  });

  it('refuses an area that two segments share', () => {
    const twoSegments = new RamLayout([{ startGpa: 0, endGpa: 2 * PAGE_SIZE }], PAGE_SIZE);
    const addresses = { size: 4, descGpa: PAGE_SIZE - 16, availGpa: 0, usedGpa: 0x100 };
    expect(mapQueue(new PrivateGuestMemory(twoSegments), atomicMapper, addresses)).toMatch(/table.*RAM/);
  });

  it.each([-16, 8.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60])('refuses an area at %d', (gpa) => {
    const addresses = packQueue(PAGE_SIZE, 4);
    expect(mapQueue(memory, atomicMapper, { ...addresses, descGpa: gpa })).toBeTypeOf('string');
    expect(mapQueue(memory, atomicMapper, { ...addresses, availGpa: gpa })).toBeTypeOf('string');
    expect(mapQueue(memory, atomicMapper, { ...addresses, usedGpa: gpa })).toBeTypeOf('string');
  });
});

describe('needsEvent', () => {
  it.each([0, 1, 0x7fff, 0x8000, 0xfffd, 0xffff])(
    'is true just where the index passes the event, from %d',
    (old) => {
      for (let step = 0; step <= 4; step += 1) {
        for (let ahead = -4; ahead <= 8; ahead += 1) {
          const newIdx = (old + step) & 0xffff;
          const event = (old + ahead) & 0xffff;
          // Indices old … newIdx - 1 were added: a notification is due if the event is among them.
          expect(needsEvent(event, newIdx, old), `event ${ahead} ahead, ${step} added`).toBe(
            ahead >= 0 && ahead < step,
          );
        }
      }
    },
  );
});
