import { describe, expect, it } from 'vitest';
import { ComparedMemory } from '../../../src/memory/compared-memory.js';
import { BorrowedGuestMemory, PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { gpaOf, MIB, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';

function memories(...blocks: (readonly [pfn: number, end: number])[]): {
  live: PrivateGuestMemory;
  shadow: PrivateGuestMemory;
} {
  const layout = new RamLayout(blocks.map(([pfn, end]) => ({ startGpa: gpaOf(pfn), endGpa: gpaOf(end) })));
  return { live: new PrivateGuestMemory(layout), shadow: new PrivateGuestMemory(layout) };
}

/** All of one pass: pages found, by pfn, and the slices that it took. */
function scan(compared: ComparedMemory): { pfns: number[]; slices: number } {
  const pfns: number[] = [];
  let slices = 1;
  const sink = {
    addDirty: (word: number, bits: number): void => {
      for (let bit = 0; bit < 32; bit += 1) {
        if (((bits >>> bit) & 1) === 1) {
          pfns.push(word * 32 + bit);
        }
      }
    },
  };
  while (!compared.scanSlice(sink)) {
    slices += 1;
  }
  return { pfns, slices };
}

describe('ComparedMemory', () => {
  it('finds what differs, at the ends of words, blocks and slices, and makes the shadow the same', () => {
    const { live, shadow } = memories([3, 70], [100, 133]);
    const compared = new ComparedMemory(live, shadow, () => 0);
    const pfns = [3, 31, 32, 63, 64, 69, 100, 127, 128, 132];
    for (const pfn of pfns) {
      live.pages(pfn, 1)[PAGE_SIZE - 1] = 1;
    }
    expect(scan(compared).pfns).toEqual(pfns);
    expect(scan(compared).pfns).toEqual([]);
    expect(compared.counts).toMatchObject({
      passes: 2,
      changedPages: pfns.length,
      comparedBytes: 200 * PAGE_SIZE,
    });
    for (const pfn of pfns) {
      expect(Buffer.compare(shadow.pages(pfn, 1), live.pages(pfn, 1))).toBe(0);
    }
  });

  it('takes slices of 2 MiB, and finds in the next pass what was written behind it', () => {
    const { live, shadow } = memories([0, (5 * MIB) / PAGE_SIZE]);
    const compared = new ComparedMemory(live, shadow, () => 0);
    const none = { addDirty: () => expect.unreachable() };
    expect(compared.scanSlice(none)).toBe(false);
    live.pages(0, 1)[0] = 1;
    expect(compared.scanSlice(none)).toBe(false);
    expect(compared.scanSlice(none)).toBe(true);
    expect(scan(compared)).toEqual({ pfns: [0], slices: 3 });
  });

  it('begins anew after a pass that was cut short', () => {
    const { live, shadow } = memories([0, (5 * MIB) / PAGE_SIZE]);
    const compared = new ComparedMemory(live, shadow, () => 0);
    compared.scanSlice({ addDirty: () => {} });
    live.pages(0, 1)[0] = 1;
    compared.restart();
    expect(scan(compared)).toEqual({ pfns: [0], slices: 3 });
  });

  it('makes runs of left out pages what they read as, in the guest and in what is sent, and nothing else', () => {
    const { live, shadow } = memories([0, 96]);
    const compared = new ComparedMemory(live, shadow, () => 0);
    live.pages(0, 96).fill(7);
    scan(compared);
    compared.leaveOut(0, 0b1000_0000_0000_0000_0000_0000_0110_0001 | 0, 0xaabb_ccdd);
    compared.leaveOut(1, -1, 0);
    const words = (pfn: number): number[] =>
      [live.pages(pfn, 1), compared.payload(pfn, 1)].flatMap((page) => {
        const all = new Set(new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4));
        return [...all];
      });
    for (const pfn of [0, 5, 6, 31]) {
      expect(words(pfn)).toEqual([0xaabb_ccdd, 0xaabb_ccdd]);
    }
    for (const pfn of [1, 4, 7, 30, 64]) {
      expect(words(pfn)).toEqual([0x0707_0707, 0x0707_0707]);
    }
    expect(words(32)).toEqual([0, 0]);
    expect(words(63)).toEqual([0, 0]);
    expect(scan(compared).pfns).toEqual([]);
  });

  it('does not show in what is sent, nor take for a change, what a page was before it was left out', () => {
    const { live, shadow } = memories([0, 96]);
    const compared = new ComparedMemory(live, shadow, () => 0);
    live.pages(0, 96).fill(7);
    scan(compared);
    compared.leaveOut(1, -1, 0);
    // Taken again: with the bytes of before, with others, and in a word of which a page is zero no more.
    live.pages(40, 1).fill(7);
    live.pages(50, 1).fill(8);
    expect(scan(compared).pfns).toEqual([40, 50]);
    live.pages(41, 1).fill(7);
    expect(scan(compared).pfns).toEqual([41]);
    expect(scan(compared).pfns).toEqual([]);
    compared.leaveOut(1, 1 << 9, 0x0505_0505);
    live.pages(63, 1)[0] = 1;
    live.pages(63, 1)[0] = 0;
    expect(scan(compared).pfns).toEqual([]);
    expect(Buffer.compare(compared.payload(20, 60), live.pages(20, 60))).toBe(0);
  });
});

describe('BorrowedGuestMemory', () => {
  const layout = new RamLayout([{ startGpa: 0, endGpa: gpaOf(2) }]);

  it('is another generation when its owner has replaced it, and shows what is there then', () => {
    let buffer = new ArrayBuffer(3 * PAGE_SIZE);
    const memory = new BorrowedGuestMemory(layout, () => buffer, PAGE_SIZE);
    const { generation } = memory;
    memory.pages(1, 1)[0] = 5;
    expect(new Uint8Array(buffer)[2 * PAGE_SIZE]).toBe(5);
    expect(memory.generation).toBe(generation);
    buffer = buffer.slice(0);
    new Uint8Array(buffer)[2 * PAGE_SIZE] = 6;
    expect(memory.generation).toBe(generation + 1);
    expect(memory.pages(1, 1)[0]).toBe(6);
    expect(memory.shared).toBe(false);
  });

  it('is one segment, in its place', () => {
    const two = new RamLayout([
      { startGpa: 0, endGpa: gpaOf(1) },
      { startGpa: gpaOf(2), endGpa: gpaOf(3) },
    ]);
    const buffer = (): ArrayBuffer => new ArrayBuffer(4 * PAGE_SIZE);
    expect(() => new BorrowedGuestMemory(two, buffer, 0)).toThrow(/one segment/);
    expect(() => new BorrowedGuestMemory(layout, buffer, 4)).toThrow(/multiple of 8/);
  });
});
