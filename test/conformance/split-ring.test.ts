import { describe, expect, it } from 'vitest';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE, pfnOf } from '../../src/memory/page.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import {
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_MAX_SIZE,
} from '../../src/spec/virtio-ring.js';
import { DeviceQueue, NextElement, type QueueFault } from '../../src/virtqueue/device-queue.js';
import { packQueue, type QueueAddresses } from '../../src/virtqueue/layout.js';
import {
  dirtyPages,
  emptyLog,
  everySchedule,
  HOLED_LAYOUT,
  hookedMapper,
  RawPair,
  type RawRing,
  RING_GPA,
  RingPair,
  TINY_LAYOUT,
  WitnessedLog,
} from '../support/ring-pair.js';

const NEXT = VIRTQ_DESC_F_NEXT;
const WRITE = VIRTQ_DESC_F_WRITE;
const INDIRECT = VIRTQ_DESC_F_INDIRECT;

/** Where the tests' buffers and indirect tables lie: RAM that no ring covers. */
const BUFFER_GPA = 2 * MIB;
const TABLE_GPA = 2 * MIB + 0x8000;
const HOLE_GPA = MIB;
const END_OF_RAM = 3 * MIB;

const BOTH_MODES = [
  ['flags', false],
  ['EVENT_IDX', true],
] as const;

function deviceAt(addresses: QueueAddresses): DeviceQueue {
  const memory = new PrivateGuestMemory(HOLED_LAYOUT);
  return new DeviceQueue(memory, atomicMapper, emptyLog(memory), addresses, false);
}

/** The ring is dead: with this fault, for ever, and without a throw. */
function expectBroken(pair: RawPair, result: number, code: QueueFault['code']): void {
  expect(result).toBe(NextElement.broken);
  expect(pair.device.fault?.code).toBe(code);
  expect(pair.device.fault?.message).toMatch(/\w/);
  const { lastAvailIdx } = pair.device.saveState();
  // A driver that goes on as if nothing had been gets no further, and does not change the verdict.
  pair.raw.descriptor(0, { gpa: BUFFER_GPA, flags: WRITE });
  pair.raw.offer(0);
  expect(pair.takeNext()).toBe(NextElement.broken);
  expect(pair.takeNext()).toBe(NextElement.broken);
  // Nor does a device that polls until there is nothing left poll for ever.
  expect(pair.device.refresh()).toBe(false);
  expect(pair.device.enableNotifications()).toBe(false);
  expect(pair.device.fault?.code).toBe(code);
  expect(pair.device.saveState().lastAvailIdx).toBe(lastAvailIdx);
}

describe('Q1 layout', () => {
  it('Q1 lays the areas out aligned, in order and without overlap, for every size of the standard', () => {
    for (let size = 1; size <= VIRTQ_MAX_SIZE; size *= 2) {
      for (const gpa of [0, 1, 0x1234, 5 * MIB + 2]) {
        const { descGpa, availGpa, usedGpa } = packQueue(gpa, size);
        expect(descGpa % 16).toBe(0);
        expect(availGpa % 2).toBe(0);
        expect(usedGpa % 4).toBe(0);
        expect(descGpa).toBeGreaterThanOrEqual(gpa);
        expect(availGpa).toBeGreaterThanOrEqual(descGpa + 16 * size);
        expect(usedGpa).toBeGreaterThanOrEqual(availGpa + 6 + 2 * size);
      }
    }
  });

  it('Q1 puts every field where the standard has it, little-endian', () => {
    const pair = new RingPair({ size: 4, eventIdx: true });
    const gpa = 0x1_2345_6000;
    pair.driver.tryAddInbuf(gpa, 0x0a0b_0c0d);
    pair.driver.tryAddOutbuf(BUFFER_GPA, 4);
    pair.driver.publish();
    pair.driver.enableInterrupts();
    const { raw } = pair;
    expect(raw.readDescriptor(0)).toEqual({
      gpa: 0x2345_6000,
      gpaHigh: 1,
      lengthBytes: 0x0a0b_0c0d,
      flags: WRITE,
      next: 0,
    });
    expect(raw.readDescriptor(1)).toMatchObject({ gpa: BUFFER_GPA, lengthBytes: 4, flags: 0 });
    expect([raw.readAvailEntry(0), raw.readAvailEntry(1), raw.availIdx]).toEqual([0, 1, 2]);
    const bytes = pair.memory.pages(pfnOf(pair.addresses.descGpa), 1);
    const at = pair.addresses.descGpa % PAGE_SIZE;
    expect([...bytes.subarray(at, at + 12)]).toEqual([
      0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a,
    ]);
  });

  it('Q1 puts the used elements and both event words where the standard has them', () => {
    const pair = new RingPair({ size: 4, eventIdx: true, startIndex: 6 });
    pair.addPages(600, 601, 602);
    expect(pair.takeAll()).toEqual([600, 601, 602]);
    pair.device.enableNotifications();
    pair.driver.reclaim();
    pair.driver.enableInterrupts();
    expect(pair.raw.usedIdx).toBe(9);
    expect([2, 3, 0].map((slot) => pair.raw.usedElement(slot).id)).toEqual([0, 1, 2]);
    expect(pair.raw.availEvent).toBe(9);
    expect(pair.raw.usedEvent).toBe(9);
  });

  it.each([0, 3, 6, 100, 65_536, -4, 2.5, Number.NaN])('Q1 refuses a queue of %d entries', (size) => {
    expect(() => packQueue(0, size)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    const device = deviceAt({ size, descGpa: 0, availGpa: 0x1000, usedGpa: 0x2000 });
    expect(device.fault?.code).toBe('BAD_ADDRESSES');
  });

  it.each([
    ['descriptor table', { descGpa: RING_GPA + 8 }],
    ['available ring', { availGpa: RING_GPA + 0x1001 }],
    ['used ring', { usedGpa: RING_GPA + 0x2002 }],
  ])('Q1 refuses a misaligned %s', (area, misplaced) => {
    const good = { size: 8, descGpa: RING_GPA, availGpa: RING_GPA + 0x1000, usedGpa: RING_GPA + 0x2000 };
    expect(deviceAt(good).fault).toBeUndefined();
    const { fault } = deviceAt({ ...good, ...misplaced });
    expect(fault?.code).toBe('BAD_ADDRESSES');
    expect(fault?.message).toContain(area);
  });

  it.each([
    ['beyond the end of RAM', END_OF_RAM],
    ['in a hole', HOLE_GPA + 0x1000],
    ['half in a hole', HOLE_GPA - 16],
    ['at an address of 64 bits', 0xffff_ffff * 0x1_0000_0000],
    ['at no address', Number.NaN],
  ])('Q1 refuses areas %s, and the dead queue throws nowhere', (_, gpa) => {
    const good = { size: 8, descGpa: RING_GPA, availGpa: RING_GPA + 0x1000, usedGpa: RING_GPA + 0x2000 };
    for (const area of ['descGpa', 'availGpa', 'usedGpa']) {
      const device = deviceAt({ ...good, [area]: gpa });
      expect(device.fault?.code).toBe('BAD_ADDRESSES');
      expect(device.refresh()).toBe(false);
      expect(device.enableNotifications()).toBe(false);
      device.disableNotifications();
      device.publishUsed();
      expect(device.needsInterrupt()).toBe(false);
      expect(device.next(new RawPair().element)).toBe(NextElement.broken);
    }
  });
});

describe('Q2 index wrap', () => {
  const SIZES = [1, 2, 4, 256];
  const cases = SIZES.flatMap((size) => BOTH_MODES.map((mode) => [size, ...mode] as const));

  it.each(cases)(
    'Q2 carries 70 000 elements through a queue of %d across the wrap (%s)',
    (size, _, eventIdx) => {
      const pair = new RingPair({ size, eventIdx });
      let added = 0;
      let taken = 0;
      while (taken < 70_000) {
        // Batches of every length up to the queue's, so that the wrap falls into the middle of some.
        const batch = 1 + (added % size);
        for (let i = 0; i < batch; i += 1) {
          pair.driver.tryAddInbuf(BUFFER_GPA + added, 1);
          added += 1;
        }
        pair.driver.publish();
        pair.device.refresh();
        while (pair.device.next(pair.element) === NextElement.element) {
          if (pair.element.gpa[0] !== BUFFER_GPA + taken) {
            throw new Error(`element ${taken} came out of order`);
          }
          pair.device.pushUsed(pair.element.head, 0);
          taken += 1;
        }
        pair.device.publishUsed();
        pair.device.needsInterrupt();
        pair.driver.needsNotification();
        if (pair.driver.reclaim() !== batch) {
          throw new Error(`a batch of ${batch} did not come back whole after ${taken}`);
        }
      }
      expect(taken).toBe(added);
      expect(pair.device.fault).toBeUndefined();
      expect(pair.driver.idle).toBe(true);
      expect(pair.raw.availIdx).toBe(added & 0xffff);
      expect(pair.raw.usedIdx).toBe(added & 0xffff);
      expect(added).toBeGreaterThan(65_536);
    },
  );
});

describe('Q3 available index', () => {
  it.each([1, 8, VIRTQ_MAX_SIZE])('Q3 takes an available index a whole queue of %d ahead', (size) => {
    const pair = new RawPair({ size });
    pair.raw.availIdx = size;
    expect(pair.device.refresh()).toBe(true);
    expect(pair.device.batch).toBe(size);
    expect(pair.device.fault).toBeUndefined();
  });

  it.each([
    [8, 9],
    [8, 0xffff],
    [1, 2],
    [VIRTQ_MAX_SIZE, VIRTQ_MAX_SIZE + 1],
  ])('Q3 refuses an available index more than the queue size of %d ahead: %d', (size, availIdx) => {
    const pair = new RawPair({ size });
    pair.raw.availIdx = availIdx;
    expect(pair.device.refresh()).toBe(false);
    expectBroken(pair, pair.device.next(pair.element), 'INDEX_TOO_FAR_AHEAD');
  });

  it('Q3 refuses an available index that goes back', () => {
    const pair = new RawPair({ size: 8 });
    pair.raw.descriptor(0, { gpa: BUFFER_GPA });
    expect(pair.takeChain(0)).toBe(NextElement.element);
    pair.raw.availIdx = 0;
    expectBroken(pair, pair.takeNext(), 'INDEX_TOO_FAR_AHEAD');
  });

  it('Q3 finds it when it arms notifications too', () => {
    const pair = new RawPair({ size: 8 });
    pair.raw.availIdx = 200;
    expect(pair.device.enableNotifications()).toBe(false);
    expectBroken(pair, pair.device.next(pair.element), 'INDEX_TOO_FAR_AHEAD');
  });
});

/** What is wrong, its fault, and what writes it; the chain's head is descriptor 0, unless another is returned. */
type BadChain = readonly [string, QueueFault['code'], (raw: RawRing) => number | undefined];

/** For cases in a list of several kinds, whose type would be lost. */
function badChain(...chain: BadChain): BadChain {
  return chain;
}

/** A chain of `count` good descriptors, 0 → 1 → …; the last goes on in `last`, if that is given. */
function writeChain(raw: RawRing, count: number, last?: number): undefined {
  for (let i = 0; i < count; i += 1) {
    const goesOn = i + 1 < count || last !== undefined;
    const next = i + 1 < count ? i + 1 : (last ?? 0);
    raw.descriptor(i, { gpa: BUFFER_GPA + i * PAGE_SIZE, flags: goesOn ? NEXT : 0, next });
  }
}

/** Descriptor 0 names an indirect table of `lengthBytes`, whose entries are written in order. */
function writeIndirect(
  raw: RawRing,
  lengthBytes: number,
  entries: Parameters<RawRing['descriptor']>[1][] = [{ gpa: BUFFER_GPA }],
): undefined {
  raw.descriptor(0, { gpa: TABLE_GPA, lengthBytes, flags: INDIRECT });
  entries.forEach((entry, i) => {
    raw.descriptorAt(TABLE_GPA + i * 16, entry);
  });
}

/** Cases of a buffer that is not RAM, for a descriptor in the ring and one in an indirect table alike. */
const OUTSIDE_RAM = [
  ['begins beyond the end of RAM', { gpa: END_OF_RAM }],
  ['begins in a hole', { gpa: HOLE_GPA }],
  ['runs into a hole', { gpa: HOLE_GPA - 8, lengthBytes: 9 }],
  ['runs over a hole into RAM', { gpa: HOLE_GPA - 8, lengthBytes: MIB + 16 }],
  ['runs beyond the end of RAM', { gpa: END_OF_RAM - PAGE_SIZE, lengthBytes: PAGE_SIZE + 1 }],
  ['is 4 GiB long', { gpa: BUFFER_GPA, lengthBytes: 0xffff_ffff }],
  ['has a high bit set', { gpa: BUFFER_GPA, gpaHigh: 1 }],
  ['has the highest bit set', { gpa: BUFFER_GPA, gpaHigh: 0x8000_0000 }],
  ['ends at 2^64', { gpa: 0xffff_f000, gpaHigh: 0xffff_ffff, lengthBytes: PAGE_SIZE }],
  ['wraps at 2^64', { gpa: 0xffff_ffff, gpaHigh: 0xffff_ffff, lengthBytes: 0xffff_ffff }],
] as const;

const QUEUE_SIZE = 8;

const BAD_CHAINS: readonly BadChain[] = [
  badChain('a head out of range', 'HEAD_OUT_OF_RANGE', () => QUEUE_SIZE),
  badChain('a head of 65535', 'HEAD_OUT_OF_RANGE', () => 0xffff),
  badChain('a next out of range', 'NEXT_OUT_OF_RANGE', (raw) => writeChain(raw, 2, QUEUE_SIZE)),
  badChain('a next of 65535', 'NEXT_OUT_OF_RANGE', (raw) => writeChain(raw, 1, 0xffff)),
  badChain('a descriptor that is its own next', 'CHAIN_TOO_LONG', (raw) => writeChain(raw, 1, 0)),
  badChain('a loop over three descriptors', 'CHAIN_TOO_LONG', (raw) => writeChain(raw, 3, 0)),
  badChain('a loop that the head is no part of', 'CHAIN_TOO_LONG', (raw) => writeChain(raw, 4, 2)),
  badChain('a loop over all descriptors', 'CHAIN_TOO_LONG', (raw) => writeChain(raw, QUEUE_SIZE, 0)),
  badChain('a chain longer than the queue by an indirect table', 'CHAIN_TOO_LONG', (raw) => {
    writeChain(raw, QUEUE_SIZE - 1, QUEUE_SIZE - 1);
    raw.descriptor(QUEUE_SIZE - 1, { gpa: TABLE_GPA, lengthBytes: 32, flags: INDIRECT });
    raw.descriptorAt(TABLE_GPA, { gpa: BUFFER_GPA, flags: NEXT, next: 1 });
    raw.descriptorAt(TABLE_GPA + 16, { gpa: BUFFER_GPA });
    return undefined;
  }),
  badChain('an indirect table of no bytes', 'INDIRECT_BAD_LENGTH', (raw) => writeIndirect(raw, 0)),
  badChain('an indirect table of 8 bytes', 'INDIRECT_BAD_LENGTH', (raw) => writeIndirect(raw, 8)),
  badChain('an indirect table of 17 bytes', 'INDIRECT_BAD_LENGTH', (raw) => writeIndirect(raw, 17)),
  badChain('an indirect table with more entries than the queue', 'INDIRECT_BAD_LENGTH', (raw) =>
    writeIndirect(raw, (QUEUE_SIZE + 1) * 16),
  ),
  badChain('an indirect table of 4 GiB', 'INDIRECT_BAD_LENGTH', (raw) => writeIndirect(raw, 0xffff_fff0)),
  badChain('an indirect table within another', 'INDIRECT_BAD_FLAGS', (raw) =>
    writeIndirect(raw, 16, [{ gpa: TABLE_GPA, lengthBytes: 16, flags: INDIRECT }]),
  ),
  badChain('an indirect table that goes on', 'INDIRECT_BAD_FLAGS', (raw) => {
    writeIndirect(raw, 16);
    raw.descriptor(0, { gpa: TABLE_GPA, lengthBytes: 16, flags: INDIRECT | NEXT, next: 1 });
    raw.descriptor(1, { gpa: BUFFER_GPA });
    return undefined;
  }),
  badChain('a next beyond its indirect table', 'NEXT_OUT_OF_RANGE', (raw) =>
    // In range of the queue, but not of a table of two.
    writeIndirect(raw, 32, [{ gpa: BUFFER_GPA, flags: NEXT, next: 2 }, { gpa: BUFFER_GPA }]),
  ),
  badChain('a loop within an indirect table', 'CHAIN_TOO_LONG', (raw) =>
    writeIndirect(raw, 32, [
      { gpa: BUFFER_GPA, flags: NEXT, next: 1 },
      { gpa: BUFFER_GPA, flags: NEXT, next: 0 },
    ]),
  ),
  badChain('a zero-length buffer', 'ZERO_LENGTH', (raw) => {
    raw.descriptor(0, { gpa: BUFFER_GPA, lengthBytes: 0 });
    return undefined;
  }),
  badChain('a zero-length buffer outside RAM', 'ZERO_LENGTH', (raw) => {
    raw.descriptor(0, { gpa: END_OF_RAM, lengthBytes: 0, flags: WRITE });
    return undefined;
  }),
  badChain('a zero-length buffer in the middle of a chain', 'ZERO_LENGTH', (raw) => {
    writeChain(raw, 3);
    raw.descriptor(1, { gpa: BUFFER_GPA, lengthBytes: 0, flags: NEXT, next: 2 });
    return undefined;
  }),
  badChain('a zero-length buffer in an indirect table', 'ZERO_LENGTH', (raw) =>
    writeIndirect(raw, 16, [{ gpa: BUFFER_GPA, lengthBytes: 0 }]),
  ),
  ...OUTSIDE_RAM.flatMap(([what, descriptor]) => [
    badChain(`a buffer that ${what}`, 'OUT_OF_RAM', (raw) => {
      raw.descriptor(0, { ...descriptor, flags: WRITE });
      return undefined;
    }),
    badChain(`a second buffer that ${what}`, 'OUT_OF_RAM', (raw) => {
      writeChain(raw, 1, 1);
      raw.descriptor(1, descriptor);
      return undefined;
    }),
    badChain(`an indirect table with a buffer that ${what}`, 'OUT_OF_RAM', (raw) =>
      writeIndirect(raw, 16, [descriptor]),
    ),
  ]),
  ...[
    { gpa: END_OF_RAM },
    { gpa: END_OF_RAM - 16 },
    { gpa: HOLE_GPA - 16 },
    { gpa: TABLE_GPA, gpaHigh: 0x10 },
    { gpa: TABLE_GPA, gpaHigh: 0xffff_ffff },
  ].map((place) =>
    badChain(`an indirect table at ${JSON.stringify(place)}`, 'OUT_OF_RAM', (raw) => {
      raw.descriptor(0, { ...place, lengthBytes: 32, flags: INDIRECT });
      return undefined;
    }),
  ),
];

describe('Q4 malformed chains', () => {
  it.each(BAD_CHAINS)('Q4 breaks the queue on %s: %s', (_, code, write) => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    const head = write(pair.raw) ?? 0;
    expectBroken(pair, pair.takeChain(head), code);
  });

  it('Q4 breaks a queue of one entry on the only loop that it can hold', () => {
    const pair = new RawPair({ size: 1 });
    writeChain(pair.raw, 1, 0);
    expectBroken(pair, pair.takeChain(0), 'CHAIN_TOO_LONG');
  });

  it('Q4 hands out the good elements before the bad one, and leaves the bad one in the ring', () => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    pair.raw.descriptor(0, { gpa: BUFFER_GPA, flags: WRITE });
    pair.raw.descriptor(1, { gpa: BUFFER_GPA + PAGE_SIZE, flags: WRITE });
    for (const head of [0, 1, 77]) {
      pair.raw.offer(head);
    }
    expect(pair.takeNext()).toBe(NextElement.element);
    expect(pair.device.next(pair.element)).toBe(NextElement.element);
    expectBroken(pair, pair.device.next(pair.element), 'HEAD_OUT_OF_RANGE');
    expect(pair.device.saveState().lastAvailIdx).toBe(2);
  });

  it('Q4 takes a chain as long as the queue, in its own order', () => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    const order = [3, 0, 7, 1, 6, 2, 5, 4];
    order.forEach((index, i) => {
      const next = order[i + 1];
      pair.raw.descriptor(index, {
        gpa: BUFFER_GPA + i * PAGE_SIZE,
        lengthBytes: i + 1,
        flags: (next === undefined ? 0 : NEXT) | (i < 3 ? 0 : WRITE),
        next: next ?? 0,
      });
    });
    expect(pair.takeChain(3)).toBe(NextElement.element);
    expect(pair.element.head).toBe(3);
    expect(pair.segments).toEqual(
      order.map((_, i) => ({ gpa: BUFFER_GPA + i * PAGE_SIZE, lengthBytes: i + 1, writable: i >= 3 })),
    );
    expect(pair.device.fault).toBeUndefined();
  });

  it('Q4 takes an indirect table of as many entries as the queue, unaligned, its write flag ignored', () => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    const tableGpa = TABLE_GPA + 5;
    pair.raw.descriptor(2, {
      gpa: tableGpa,
      lengthBytes: QUEUE_SIZE * 16,
      flags: INDIRECT | WRITE,
      next: 0xffff, // means nothing without NEXT
    });
    for (let i = 0; i < QUEUE_SIZE; i += 1) {
      pair.raw.descriptorAt(tableGpa + i * 16, {
        gpa: BUFFER_GPA + i * PAGE_SIZE,
        flags: (i + 1 < QUEUE_SIZE ? NEXT : 0) | (i === 0 ? 0 : WRITE),
        next: i + 1,
      });
    }
    expect(pair.takeChain(2)).toBe(NextElement.element);
    expect(pair.element.head).toBe(2);
    expect(pair.segments).toEqual(
      Array.from({ length: QUEUE_SIZE }, (_, i) => ({
        gpa: BUFFER_GPA + i * PAGE_SIZE,
        lengthBytes: PAGE_SIZE,
        writable: i > 0,
      })),
    );
  });

  it('Q4 takes a chain whose last descriptor is an indirect table', () => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    writeChain(pair.raw, 2, 2);
    pair.raw.descriptor(2, { gpa: TABLE_GPA, lengthBytes: 32, flags: INDIRECT });
    pair.raw.descriptorAt(TABLE_GPA, { gpa: BUFFER_GPA + 2 * PAGE_SIZE, flags: NEXT | WRITE, next: 1 });
    pair.raw.descriptorAt(TABLE_GPA + 16, { gpa: BUFFER_GPA + 3 * PAGE_SIZE, flags: WRITE });
    expect(pair.takeChain(0)).toBe(NextElement.element);
    expect(pair.segments.map(({ gpa }) => gpa)).toEqual([0, 1, 2, 3].map((i) => BUFFER_GPA + i * PAGE_SIZE));
  });

  it('Q4 takes buffers that fill RAM to its last byte', () => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    pair.raw.descriptor(0, { gpa: HOLE_GPA - 1, lengthBytes: 1, flags: NEXT, next: 1 });
    pair.raw.descriptor(1, { gpa: 2 * MIB, lengthBytes: MIB, flags: WRITE });
    expect(pair.takeChain(0)).toBe(NextElement.element);
    expect(pair.element.segmentCount).toBe(2);
  });

  it('Q4 forgets the segments of the element before', () => {
    const pair = new RawPair({ size: QUEUE_SIZE });
    writeChain(pair.raw, 4);
    pair.raw.descriptor(5, { gpa: BUFFER_GPA + 9 * PAGE_SIZE, flags: WRITE });
    expect(pair.takeChain(0)).toBe(NextElement.element);
    expect(pair.takeChain(5)).toBe(NextElement.element);
    expect(pair.segments).toEqual([
      { gpa: BUFFER_GPA + 9 * PAGE_SIZE, lengthBytes: PAGE_SIZE, writable: true },
    ]);
  });
});

describe('Q5 order of buffers', () => {
  it('Q5 refuses a readable descriptor after a writable one', () => {
    const pair = new RawPair();
    pair.raw.descriptor(0, { gpa: BUFFER_GPA, flags: NEXT | WRITE, next: 1 });
    pair.raw.descriptor(1, { gpa: BUFFER_GPA });
    expectBroken(pair, pair.takeChain(0), 'READABLE_AFTER_WRITABLE');
  });

  it('Q5 refuses it within an indirect table', () => {
    const pair = new RawPair();
    writeIndirect(pair.raw, 48, [
      { gpa: BUFFER_GPA, flags: NEXT, next: 1 },
      { gpa: BUFFER_GPA, flags: NEXT | WRITE, next: 2 },
      { gpa: BUFFER_GPA },
    ]);
    expectBroken(pair, pair.takeChain(0), 'READABLE_AFTER_WRITABLE');
  });

  it('Q5 refuses it where a chain goes on in an indirect table', () => {
    const pair = new RawPair();
    pair.raw.descriptor(0, { gpa: BUFFER_GPA, flags: NEXT | WRITE, next: 1 });
    pair.raw.descriptor(1, { gpa: TABLE_GPA, lengthBytes: 16, flags: INDIRECT | WRITE });
    pair.raw.descriptorAt(TABLE_GPA, { gpa: BUFFER_GPA });
    expectBroken(pair, pair.takeChain(0), 'READABLE_AFTER_WRITABLE');
  });

  it('Q5 takes readable before writable, and a readable element after a writable one', () => {
    const pair = new RawPair();
    pair.raw.descriptor(0, { gpa: BUFFER_GPA, flags: NEXT, next: 1 });
    pair.raw.descriptor(1, { gpa: BUFFER_GPA, flags: WRITE });
    pair.raw.descriptor(2, { gpa: BUFFER_GPA });
    expect(pair.takeChain(0)).toBe(NextElement.element);
    expect(pair.segments.map(({ writable }) => writable)).toEqual([false, true]);
    expect(pair.takeChain(2)).toBe(NextElement.element);
    expect(pair.device.fault).toBeUndefined();
  });
});

describe('Q6 used length', () => {
  it('Q6 reports the head and the bytes that were written: 0 for a hint', () => {
    const pair = new RawPair({ size: 4 });
    for (const head of [3, 1]) {
      pair.raw.descriptor(head, { gpa: BUFFER_GPA, flags: WRITE });
      expect(pair.takeChain(head)).toBe(NextElement.element);
    }
    // What a ring of another make left there does not shine through.
    pair.raw.setUsedElement(0, 0xffff_ffff, 0xffff_ffff);
    pair.device.pushUsed(3, 0);
    pair.device.pushUsed(1, PAGE_SIZE);
    expect(pair.raw.usedIdx).toBe(0);
    pair.device.publishUsed();
    expect(pair.raw.usedIdx).toBe(2);
    expect(pair.raw.usedElement(0)).toEqual({ id: 3, lengthBytes: 0 });
    expect(pair.raw.usedElement(1)).toEqual({ id: 1, lengthBytes: PAGE_SIZE });
  });

  it('Q6 names the chain by its head, not by its last descriptor or its indirect table', () => {
    const pair = new RawPair({ size: 8 });
    writeChain(pair.raw, 3);
    expect(pair.takeChain(0)).toBe(NextElement.element);
    pair.device.pushUsed(pair.element.head, 0);
    pair.raw.descriptor(6, { gpa: TABLE_GPA, lengthBytes: 16, flags: INDIRECT });
    pair.raw.descriptorAt(TABLE_GPA, { gpa: BUFFER_GPA });
    expect(pair.takeChain(6)).toBe(NextElement.element);
    pair.device.pushUsed(pair.element.head, 0);
    pair.device.publishUsed();
    expect([pair.raw.usedElement(0).id, pair.raw.usedElement(1).id]).toEqual([0, 6]);
  });
});

/** What came of one schedule. */
interface Outcome {
  readonly lost: boolean;
  readonly sleeps: number;
  readonly wakes: number;
}

/** Steps of one side, run by the other side's schedule: some before each of its shared accesses. */
class Interleaved {
  readonly #steps: readonly (() => void)[];
  readonly #choose: (options: number) => number;
  #done = 0;
  #armed = false;

  constructor(steps: readonly (() => void)[], choose: (options: number) => number) {
    this.#steps = steps;
    this.#choose = choose;
  }

  /** Making the pair takes no part in the schedule. */
  begin(): void {
    this.#armed = true;
  }

  /** Between any two accesses the other side may have taken any number of its steps. */
  readonly someSteps = (): void => {
    const left = this.#steps.length - this.#done;
    if (this.#armed && left > 0) {
      for (let count = this.#choose(left + 1); count > 0; count -= 1) {
        this.oneStep();
      }
    }
  };

  /** False: there is none left. */
  oneStep(): boolean {
    const step = this.#steps[this.#done];
    this.#done += 1;
    step?.();
    return step !== undefined;
  }
}

interface WakeupScenario {
  readonly eventIdx: boolean;
  readonly startIndex: number;
  readonly bursts: readonly number[];
}

/**
 * The driver's steps, each of one shared access: publish a burst; look at the device's wish and ring. The device
 * polls, arms, and sleeps on the doorbell. It must never sleep for ever on elements that were published.
 */
function playNotifications(
  choose: (options: number) => number,
  scenario: WakeupScenario,
  arm: (device: DeviceQueue) => boolean,
): Outcome {
  const { bursts } = scenario;
  let doorbell = 0;
  let added = 0;
  const driver = new Interleaved(
    bursts.flatMap((burst) => [
      () => {
        pair.addPages(...Array.from({ length: burst }, (_, i) => added + i));
        added += burst;
      },
      () => {
        doorbell += pair.driver.needsNotification() ? 1 : 0;
      },
    ]),
    choose,
  );
  const memory = new PrivateGuestMemory(TINY_LAYOUT);
  const deviceMap = hookedMapper(driver.someSteps);
  const pair = new RingPair({ ...scenario, size: 8, memory, deviceMap, gpa: 0 });
  driver.begin();
  const taken: number[] = [];
  const total = bursts.reduce((sum, burst) => sum + burst, 0);
  let sleeps = 0;
  let wakes = 0;
  for (;;) {
    pair.device.disableNotifications();
    taken.push(...pair.takeAll());
    const seen = doorbell;
    if (arm(pair.device)) {
      continue;
    }
    sleeps += 1;
    while (doorbell === seen) {
      if (!driver.oneStep()) {
        const inOrder = taken.every((pfn, i) => pfn === i);
        return { lost: !inOrder || taken.length < total, sleeps, wakes };
      }
    }
    wakes += 1;
  }
}

/** The device's steps: use one element and publish it; look at the driver's wish and interrupt. */
function playInterrupts(
  choose: (options: number) => number,
  scenario: WakeupScenario,
  arm: (driver: RingPair['driver']) => boolean,
): Outcome {
  const { bursts } = scenario;
  const total = bursts.reduce((sum, burst) => sum + burst, 0);
  let interrupts = 0;
  const device = new Interleaved(
    bursts.flatMap((burst) => [
      () => {
        for (let i = 0; i < burst; i += 1) {
          pair.takePage();
        }
        pair.device.publishUsed();
      },
      () => {
        interrupts += pair.device.needsInterrupt() ? 1 : 0;
      },
    ]),
    choose,
  );
  const memory = new PrivateGuestMemory(TINY_LAYOUT);
  const driverMap = hookedMapper(device.someSteps);
  const pair = new RingPair({ ...scenario, size: 8, memory, driverMap, gpa: 0 });
  pair.addPages(...Array.from({ length: total }, (_, i) => i));
  pair.driver.needsNotification();
  pair.device.refresh();
  device.begin();
  let sleeps = 0;
  let wakes = 0;
  for (;;) {
    pair.driver.disableInterrupts();
    while (pair.driver.reclaim() > 0) {
      // Until there is no more, as a driver does that has been woken.
    }
    if (pair.driver.idle) {
      return { lost: false, sleeps, wakes };
    }
    const seen = interrupts;
    if (arm(pair.driver)) {
      continue;
    }
    sleeps += 1;
    while (interrupts === seen) {
      if (!device.oneStep()) {
        return { lost: true, sleeps, wakes };
      }
    }
    wakes += 1;
  }
}

/** Plays every schedule; what was seen in any of them. */
function playAll(play: (choose: (options: number) => number) => Outcome) {
  const seen = { schedules: 0, lost: 0, withoutWake: 0, withWake: 0 };
  seen.schedules = everySchedule((choose) => {
    const { lost, wakes } = play(choose);
    seen.lost += lost ? 1 : 0;
    seen.withWake += wakes > 0 ? 1 : 0;
    seen.withoutWake += wakes === 0 ? 1 : 0;
  });
  return seen;
}

describe('Q7 notification suppression', () => {
  const scenarios = BOTH_MODES.flatMap(([mode, eventIdx]) =>
    [0, 0xfffe, 0xffff].map(
      (startIndex) => [mode, startIndex, { eventIdx, startIndex, bursts: [1, 2] }] as const,
    ),
  );

  it.each(scenarios)(
    'Q7 loses no notification in any interleaving (%s, from index %s)',
    (_, __, scenario) => {
      const seen = playAll((choose) => playNotifications(choose, scenario, (d) => d.enableNotifications()));
      expect(seen.lost).toBe(0);
      // The schedules are of both kinds: those where the device was woken, and those where it saw for itself.
      expect(seen.withWake).toBeGreaterThan(0);
      expect(seen.withoutWake).toBeGreaterThan(0);
      expect(seen.schedules).toBeGreaterThan(100);
    },
  );

  it.each(scenarios)('Q7 loses no interrupt in any interleaving (%s, from index %s)', (_, __, scenario) => {
    const seen = playAll((choose) => playInterrupts(choose, scenario, (d) => d.enableInterrupts()));
    expect(seen.lost).toBe(0);
    expect(seen.withWake).toBeGreaterThan(0);
    expect(seen.withoutWake).toBeGreaterThan(0);
    expect(seen.schedules).toBeGreaterThan(100);
  });

  it.each(BOTH_MODES)(
    'Q7 needs the second look: without it some interleaving sleeps for ever (%s)',
    (_, eventIdx) => {
      const scenario = { eventIdx, startIndex: 0, bursts: [1, 2] };
      const deviceWithout = (device: DeviceQueue) => {
        device.enableNotifications();
        return false;
      };
      const driverWithout = (driver: RingPair['driver']) => {
        driver.enableInterrupts();
        return false;
      };
      const tooEarly = (device: DeviceQueue) => {
        const pending = device.refresh();
        device.enableNotifications();
        return pending;
      };
      expect(playAll((choose) => playNotifications(choose, scenario, deviceWithout)).lost).toBeGreaterThan(0);
      expect(playAll((choose) => playNotifications(choose, scenario, tooEarly)).lost).toBeGreaterThan(0);
      expect(playAll((choose) => playInterrupts(choose, scenario, driverWithout)).lost).toBeGreaterThan(0);
    },
  );

  it.each(BOTH_MODES)('Q7 sends no notification while the device polls (%s)', (_, eventIdx) => {
    const pair = new RingPair({ size: 4, eventIdx });
    pair.device.disableNotifications();
    for (let i = 0; i < 1000; i += 1) {
      pair.addPages(i % 256);
      expect(pair.driver.needsNotification()).toBe(false);
      expect(pair.takeAll()).toEqual([i % 256]);
      pair.device.needsInterrupt();
      pair.driver.reclaim();
    }
  });

  it.each(BOTH_MODES)('Q7 raises no interrupt while the driver polls (%s)', (_, eventIdx) => {
    const pair = new RingPair({ size: 4, eventIdx });
    pair.driver.disableInterrupts();
    for (let i = 0; i < 1000; i += 1) {
      pair.addPages(i % 256);
      pair.takeAll();
      expect(pair.device.needsInterrupt()).toBe(false);
      expect(pair.driver.reclaim()).toBe(1);
    }
  });

  it('Q7 spells its wishes as the standard does (flags)', () => {
    const { driver, device, raw } = new RingPair({ size: 4 });
    device.disableNotifications();
    driver.disableInterrupts();
    expect([raw.usedFlags, raw.availFlags]).toEqual([1, 1]);
    device.enableNotifications();
    driver.enableInterrupts();
    expect([raw.usedFlags, raw.availFlags]).toEqual([0, 0]);
  });

  it('Q7 leaves the flags alone under EVENT_IDX, and does not read the other side’s', () => {
    const pair = new RingPair({ size: 4, eventIdx: true });
    pair.device.disableNotifications();
    pair.driver.disableInterrupts();
    expect([pair.raw.usedFlags, pair.raw.availFlags]).toEqual([0, 0]);
    pair.device.enableNotifications();
    pair.driver.enableInterrupts();
    pair.raw.usedFlags = 1;
    pair.raw.availFlags = 1;
    pair.addPages(7);
    expect(pair.driver.needsNotification()).toBe(true);
    expect(pair.takeAll()).toEqual([7]);
    expect(pair.device.needsInterrupt()).toBe(true);
  });

  it('Q7 notifies once, for the batch that crosses the event index (EVENT_IDX)', () => {
    const pair = new RingPair({ size: 8, eventIdx: true, startIndex: 0xfffe });
    pair.raw.availEvent = 1; // of indices 0xfffe, 0xffff, 0, 1: tell me of the fourth
    const told = [1, 2, 1, 1].map((count) => {
      pair.addPages(...Array.from({ length: count }, () => 5));
      return pair.driver.needsNotification();
    });
    expect(told).toEqual([false, false, true, false]);
  });
});

describe('Q8 what the device writes is logged', () => {
  /** The used ring of 1024 entries takes three pages, of which the first also holds available entries. */
  const SIZE = 1024;

  function usedPages({ addresses: { usedGpa, size } }: RingPair, slots: readonly number[]): number[] {
    const pages = slots.flatMap((slot) => [usedGpa + 4 + slot * 8, usedGpa + 11 + slot * 8]);
    expect(Math.max(...slots)).toBeLessThan(size);
    return [...new Set([usedGpa + 2, ...pages].map(pfnOf))].sort((a, b) => a - b);
  }

  function witnessedPair(startIndex: number, eventIdx = false) {
    const memory = new PrivateGuestMemory(HOLED_LAYOUT);
    const witness = new WitnessedLog(memory);
    const pair = new RingPair({ size: SIZE, memory, log: witness.log, startIndex, eventIdx });
    return { pair, witness };
  }

  /** How many entries, from which index: within a page, over pages, over the ring's end and the index's. */
  const batches = [
    [1, 0],
    [1, 500],
    [1, 1023],
    [300, 400],
    [100, 1000],
    [1024, 700],
    [1024, 0],
    [10, 65_530],
  ] as const;

  it.each(batches)('Q8 logs the used ring after writing it: %i from index %i', (count, startIndex) => {
    const { pair, witness } = witnessedPair(startIndex);
    pair.addPages(...Array.from({ length: count }, (_, i) => 512 + (i % 256)));
    witness.forget();
    expect(pair.takeAll()).toHaveLength(count);
    const slots = Array.from({ length: count }, (_, i) => (startIndex + i) % SIZE);
    expect(dirtyPages(witness.log)).toEqual(expect.arrayContaining(usedPages(pair, slots)));
    expect(witness.unmarkedPages()).toEqual([]);
  });

  it('Q8 logs no page besides', () => {
    const { pair, witness } = witnessedPair(500);
    pair.addPages(600);
    witness.forget();
    pair.takeAll();
    expect(dirtyPages(witness.log)).toEqual(usedPages(pair, [500]));
  });

  it('Q8 logs several publications, each from where the one before ended', () => {
    const { pair, witness } = witnessedPair(300);
    for (const count of [1, 200, 700, 1024, 3]) {
      pair.addPages(...Array.from({ length: count }, () => 512));
      witness.forget();
      expect(pair.takeAll()).toHaveLength(count);
      expect(witness.unmarkedPages()).toEqual([]);
      pair.device.needsInterrupt();
      pair.driver.reclaim();
      pair.driver.needsNotification();
    }
  });

  it.each(BOTH_MODES)('Q8 logs the device’s wishes for notifications (%s)', (_, eventIdx) => {
    const { pair, witness } = witnessedPair(9, eventIdx);
    const wishGpa = pair.addresses.usedGpa + (eventIdx ? 4 + SIZE * 8 : 0);
    for (const wish of [() => pair.device.disableNotifications(), () => pair.device.enableNotifications()]) {
      witness.forget();
      wish();
      expect(dirtyPages(witness.log)).toEqual([pfnOf(wishGpa)]);
      expect(witness.unmarkedPages()).toEqual([]);
    }
  });

  it('Q8 logs nothing where the device has written nothing', () => {
    const { pair, witness } = witnessedPair(0);
    witness.forget();
    pair.device.refresh();
    pair.device.publishUsed();
    pair.device.needsInterrupt();
    expect(dirtyPages(witness.log)).toEqual([]);
  });

  it('Q8 has the driver log what it writes, too', () => {
    const { pair, witness } = witnessedPair(0);
    expect(witness.unmarkedPages()).toEqual([]);
    for (const count of [1, 100, 600, 1024]) {
      witness.forget();
      pair.addPages(...Array.from({ length: count }, (_, i) => 512 + (i % 256)));
      expect(witness.unmarkedPages()).toEqual([]);
      pair.driver.needsNotification();
      pair.takeAll();
      pair.device.needsInterrupt();
      witness.forget();
      pair.driver.disableInterrupts();
      pair.driver.reclaim();
      pair.driver.enableInterrupts();
      expect(witness.unmarkedPages()).toEqual([]);
    }
  });
});
