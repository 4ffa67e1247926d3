import { describe, expect, it } from 'vitest';
import { type GuestMemory, PrivateGuestMemory, SharedGuestMemory } from '../../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { NextElement } from '../../../src/virtqueue/device-queue.js';
import { RingPair } from '../../support/ring-pair.js';

/** Pages 1–4 in two segments of two, a hole, and page 8. */
const LAYOUT = new RamLayout(
  [
    { startGpa: gpaOf(1), endGpa: gpaOf(5) },
    { startGpa: gpaOf(8), endGpa: gpaOf(9) },
  ],
  2 * PAGE_SIZE,
);

interface MemoryKind {
  readonly kind: string;
  readonly shared: boolean;
  readonly allocate: (layout: RamLayout) => GuestMemory;
  /** Memory over buffers that are `extraBytes` longer than their segments. */
  readonly over: (layout: RamLayout, extraBytes: number) => GuestMemory;
}

const KINDS: readonly MemoryKind[] = [
  {
    kind: 'SharedGuestMemory',
    shared: true,
    allocate: (layout) => SharedGuestMemory.allocate(layout),
    over: (layout, extraBytes) =>
      new SharedGuestMemory(
        layout,
        layout.segments.map(({ lengthBytes }) => new SharedArrayBuffer(lengthBytes + extraBytes)),
      ),
  },
  {
    kind: 'PrivateGuestMemory',
    shared: false,
    allocate: (layout) => new PrivateGuestMemory(layout),
    over: (layout, extraBytes) =>
      new PrivateGuestMemory(
        layout,
        layout.segments.map(({ lengthBytes }) => new ArrayBuffer(lengthBytes + extraBytes)),
      ),
  },
];

describe.each(KINDS.map((kind) => [kind.kind, kind] as const))('%s', (_, { shared, allocate, over }) => {
  it('says whether threads can share it, and starts as generation 0', () => {
    const memory = allocate(LAYOUT);
    expect(memory.shared).toBe(shared);
    expect(memory.generation).toBe(0);
    for (const { bytes } of memory.segments) {
      expect(bytes.buffer instanceof SharedArrayBuffer).toBe(shared);
    }
  });

  it('backs every segment of its layout with as many bytes, all zero', () => {
    const memory = allocate(LAYOUT);
    expect(memory.layout).toBe(LAYOUT);
    expect(memory.segments).toMatchObject(LAYOUT.segments);
    for (const { bytes, lengthBytes } of memory.segments) {
      expect(bytes).toHaveLength(lengthBytes);
      expect(bytes.every((byte) => byte === 0)).toBe(true);
    }
  });

  it('gives views of the pages, not copies', () => {
    const memory = allocate(LAYOUT);
    const pages = memory.pages(3, 2);
    expect(pages).toHaveLength(2 * PAGE_SIZE);
    pages[PAGE_SIZE + 7] = 42;
    expect(memory.segments[1]!.bytes[PAGE_SIZE + 7]).toBe(42);
    expect(memory.pages(4, 1)[7]).toBe(42);
    expect(memory.pages(3, 1)[7]).toBe(0);
  });

  it.each([
    ['the page before RAM', 0, 1],
    ['a page in a hole', 6, 1],
    ['a page beyond RAM', 9, 1],
    ['a run into a hole', 4, 2],
    ['a run over two segments', 2, 2],
    ['no pages', 1, 0],
    ['a page below 0', -1, 1],
  ])('throws OUT_OF_RANGE for %s', (_what, pfn, pageCount) => {
    expect(() => allocate(LAYOUT).pages(pfn, pageCount)).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
  });

  it.each([
    ['a whole segment', gpaOf(1), 2 * PAGE_SIZE, 0],
    ['the last byte of a segment', gpaOf(3) - 1, 1, 0],
    ['the first byte of the next', gpaOf(3), 1, 1],
    ['the last byte of RAM', gpaOf(9) - 1, 1, 2],
    ['bytes of two segments', gpaOf(3) - 1, 2, undefined],
    ['the byte before RAM', gpaOf(1) - 1, 1, undefined],
    ['bytes of a hole', gpaOf(5), 1, undefined],
    ['the byte after RAM', gpaOf(9), 1, undefined],
    ['no bytes', gpaOf(1), 0, undefined],
    ['no number', Number.NaN, 1, undefined],
  ])('finds the segment of %s', (_what, gpa, lengthBytes, index) => {
    expect(allocate(LAYOUT).segmentOf(gpa, lengthBytes)?.index).toBe(index);
  });

  it('takes buffers that are longer than needed, and shows as much of them as is RAM', () => {
    const memory = over(LAYOUT, PAGE_SIZE);
    expect(memory.segments.map(({ bytes }) => bytes.length)).toEqual([2, 2, 1].map(gpaOf));
  });

  it('refuses buffers that are too short, or too few', () => {
    const invalid = expect.objectContaining({ code: 'INVALID_ARGUMENT' });
    expect(() => over(LAYOUT, -1)).toThrow(invalid);
    const tooFew = LAYOUT.segments.slice(1).map(({ lengthBytes }) => lengthBytes);
    expect(() =>
      shared
        ? new SharedGuestMemory(
            LAYOUT,
            tooFew.map((bytes) => new SharedArrayBuffer(bytes)),
          )
        : new PrivateGuestMemory(
            LAYOUT,
            tooFew.map((bytes) => new ArrayBuffer(bytes)),
          ),
    ).toThrow(invalid);
  });

  it.each([false, true])('carries a virtqueue (EVENT_IDX: %s)', (eventIdx) => {
    const memory = allocate(LAYOUT);
    const pair = new RingPair({ memory, gpa: gpaOf(3), size: 4, eventIdx, startIndex: 0xffff });
    for (let round = 0; round < 10; round += 1) {
      pair.addPages(1, 2, 8);
      expect(pair.driver.needsNotification()).toBe(round === 0 || !eventIdx);
      expect(pair.takeAll()).toEqual([1, 2, 8]);
      pair.device.needsInterrupt();
      expect(pair.driver.reclaim()).toBe(3);
    }
    expect(pair.device.next(pair.element)).toBe(NextElement.none);
  });
});

describe('PrivateGuestMemory whose buffers are replaced', () => {
  it('is a generation further, and shows the new buffers', () => {
    const memory = new PrivateGuestMemory(LAYOUT);
    const before = memory.pages(1, 1);
    const buffers = LAYOUT.segments.map(({ lengthBytes }) => new ArrayBuffer(lengthBytes));
    new Uint8Array(buffers[0]!)[5] = 55;
    memory.replaceBuffers(buffers);
    expect(memory.generation).toBe(1);
    expect(memory.pages(1, 1)[5]).toBe(55);
    expect(before[5]).toBe(0);
    memory.replaceBuffers(buffers);
    expect(memory.generation).toBe(2);
  });

  it('stays as it was if the new buffers are too short', () => {
    const memory = new PrivateGuestMemory(LAYOUT);
    const { segments } = memory;
    expect(() => memory.replaceBuffers([new ArrayBuffer(8)])).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
    expect(memory.generation).toBe(0);
    expect(memory.segments).toBe(segments);
  });
});
