import { describe, expect, it } from 'vitest';
import { GIB, MIB, PAGE_SIZE } from '../../../src/memory/page.js';
import { MAX_SEGMENT_BYTES, q35Blocks, RamLayout } from '../../../src/memory/ram-layout.js';

const HOLED = new RamLayout([
  { startGpa: MIB, endGpa: 2 * MIB },
  { startGpa: 4 * MIB, endGpa: 4 * MIB + PAGE_SIZE },
]);

function q35(memoryBytes: number): RamLayout {
  return new RamLayout(q35Blocks(memoryBytes));
}

describe('RamLayout', () => {
  it('counts memory without holes, and bitmap bits with them', () => {
    expect(HOLED.memoryBytes).toBe(MIB + PAGE_SIZE);
    expect(HOLED.pageCount).toBe(257);
    expect(HOLED.pfnSpan).toBe(1025);
  });

  it('keeps its own copy of the blocks', () => {
    const block = { startGpa: 0, endGpa: MIB };
    const layout = new RamLayout([block]);
    block.endGpa = 2 * MIB;
    expect(layout.blocks).toEqual([{ startGpa: 0, endGpa: MIB }]);
  });

  it('backs every block by segments, numbered through', () => {
    const layout = new RamLayout(
      [
        { startGpa: 0, endGpa: 5 * PAGE_SIZE },
        { startGpa: 8 * PAGE_SIZE, endGpa: 10 * PAGE_SIZE },
      ],
      2 * PAGE_SIZE,
    );
    const inPages = layout.segments.map(({ index, firstPfn, pageCount }) => [index, firstPfn, pageCount]);
    expect(inPages).toEqual([
      [0, 0, 2],
      [1, 2, 2],
      [2, 4, 1],
      [3, 8, 2],
    ]);
    for (const segment of layout.segments) {
      expect(segment.startGpa).toBe(segment.firstPfn * PAGE_SIZE);
      expect(segment.lengthBytes).toBe(segment.pageCount * PAGE_SIZE);
      expect(segment.endGpa).toBe(segment.startGpa + segment.lengthBytes);
    }
  });

  it('cuts a block of more than 4 GiB', () => {
    const layout = new RamLayout([{ startGpa: 0, endGpa: 9 * GIB }]);
    expect(layout.segments.map(({ lengthBytes }) => lengthBytes)).toEqual([4 * GIB, 4 * GIB, GIB]);
    expect(MAX_SEGMENT_BYTES).toBe(4 * GIB);
  });

  it.each([
    ['none', []],
    ['an empty one', [{ startGpa: MIB, endGpa: MIB }]],
    ['one upside down', [{ startGpa: MIB, endGpa: 0 }]],
    ['one that begins in mid-page', [{ startGpa: 1, endGpa: MIB }]],
    ['one that ends in mid-page', [{ startGpa: 0, endGpa: MIB + 512 }]],
    ['one below 0', [{ startGpa: -MIB, endGpa: MIB }]],
    ['one without an end', [{ startGpa: 0, endGpa: Number.POSITIVE_INFINITY }]],
    ['one that is no number', [{ startGpa: Number.NaN, endGpa: MIB }]],
    [
      'overlapping ones',
      [
        { startGpa: 0, endGpa: 2 * MIB },
        { startGpa: MIB, endGpa: 3 * MIB },
      ],
    ],
    [
      'ones in the wrong order',
      [
        { startGpa: 2 * MIB, endGpa: 3 * MIB },
        { startGpa: 0, endGpa: MIB },
      ],
    ],
  ])('refuses blocks: %s', (_, blocks) => {
    expect(() => new RamLayout(blocks)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  it.each([0, -PAGE_SIZE, 100, 4 * GIB + PAGE_SIZE, Number.NaN])('refuses segments of %d bytes', (bytes) => {
    expect(() => new RamLayout([{ startGpa: 0, endGpa: MIB }], bytes)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  it.each([
    ['a whole block', MIB, MIB, true],
    ['the first byte of a block', MIB, 1, true],
    ['the last byte of a block', 2 * MIB - 1, 1, true],
    ['the byte before a block', MIB - 1, 1, false],
    ['the byte after a block', 2 * MIB, 1, false],
    ['a range into a block', MIB - 1, 2, false],
    ['a range out of a block', 2 * MIB - 1, 2, false],
    ['a range from block to block', 2 * MIB - 1, 2 * MIB + 2, false],
    ['nothing', MIB, 0, false],
    ['less than nothing', MIB + 8, -8, false],
    ['an address below 0', -1, 2, false],
    ['an address of 64 bits', 2 ** 64 - 4096, 4096, false],
    ['no address', Number.NaN, 1, false],
  ])('says whether it contains %s', (_, gpa, lengthBytes, contained) => {
    expect(HOLED.containsRange(gpa, lengthBytes)).toBe(contained);
  });

  it('contains a range that its segments share', () => {
    const layout = new RamLayout([{ startGpa: 0, endGpa: 4 * PAGE_SIZE }], PAGE_SIZE);
    expect(layout.containsRange(100, 3 * PAGE_SIZE)).toBe(true);
  });

  it('finds the segment of a page, and none in a hole', () => {
    expect([0, 255, 256, 511, 512, 1023, 1024, 1025].map((pfn) => HOLED.segmentOfPfn(pfn)?.index)).toEqual([
      undefined,
      undefined,
      0,
      0,
      undefined,
      undefined,
      1,
      undefined,
    ]);
  });

  it('equals a layout with the same blocks, however they are backed', () => {
    const blocks = [{ startGpa: 0, endGpa: MIB }];
    expect(new RamLayout(blocks).equals(new RamLayout(blocks, PAGE_SIZE))).toBe(true);
    expect(new RamLayout(blocks).equals(new RamLayout([{ startGpa: 0, endGpa: 2 * MIB }]))).toBe(false);
    expect(
      new RamLayout(blocks).equals(new RamLayout([...blocks, { startGpa: 2 * MIB, endGpa: 3 * MIB }])),
    ).toBe(false);
    expect(HOLED.equals(new RamLayout(HOLED.blocks.slice(0, 1)))).toBe(false);
  });
});

describe('q35Blocks', () => {
  it('puts a small machine below the hole', () => {
    expect(q35(512 * MIB).blocks).toEqual([{ startGpa: 0, endGpa: 512 * MIB }]);
    expect(q35(2.75 * GIB - PAGE_SIZE).blocks).toHaveLength(1);
  });

  it.each([2.75, 3, 4, 8, 16])(
    'puts 2 GiB of a machine of %d GiB below the hole, the rest from 4 GiB',
    (gib) => {
      const layout = q35(gib * GIB);
      expect(layout.blocks).toEqual([
        { startGpa: 0, endGpa: 2 * GIB },
        { startGpa: 4 * GIB, endGpa: (2 + gib) * GIB },
      ]);
      expect(layout.memoryBytes).toBe(gib * GIB);
      expect(layout.segmentOfPfn((3 * GIB) / PAGE_SIZE)).toBeUndefined();
    },
  );
});
