import { describe, expect, it } from 'vitest';
import {
  alignUp,
  bitMask,
  GIB,
  gpaOf,
  lowestBit,
  MIB,
  PAGE_SHIFT,
  PAGE_SIZE,
  pfnOf,
  popcount32,
} from '../../../src/memory/page.js';

/** Words with every pattern that matters: single bits, runs, both ends, the sign bit, and a scatter of others. */
const WORDS = [
  ...Array.from({ length: 32 }, (_, i) => 1 << i),
  ...Array.from({ length: 32 }, (_, i) => -1 << i),
  ...Array.from({ length: 32 }, (_, i) => (-1 >>> i) | 0),
  ...Array.from({ length: 1000 }, (_, i) => Math.imul(i, 0x9e37_79b1)),
];

function bitsOf(word: number): number[] {
  return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => ((word >>> bit) & 1) === 1);
}

describe('page numbers and addresses', () => {
  it('has pages of 4096 bytes', () => {
    expect(PAGE_SIZE).toBe(2 ** PAGE_SHIFT);
  });

  it.each([
    [0, 0],
    [4095, 0],
    [4096, 1],
    [2 ** 32 - 1, 2 ** 20 - 1],
    [2 ** 32, 2 ** 20],
    [2 ** 52 + 8191, 2 ** 40 + 1],
  ])('finds the page of address %d: %d', (gpa, pfn) => {
    expect(pfnOf(gpa)).toBe(pfn);
    expect(gpaOf(pfn)).toBeLessThanOrEqual(gpa);
    expect(gpaOf(pfn + 1)).toBeGreaterThan(gpa);
  });

  it('goes there and back above 32 bits', () => {
    expect(pfnOf(gpaOf(2 ** 33 + 5))).toBe(2 ** 33 + 5);
  });
});

describe('alignUp', () => {
  it.each([
    [0, 16, 0],
    [1, 16, 16],
    [16, 16, 16],
    [17, 16, 32],
    [10, 3, 12],
    [5 * GIB + 1, MIB, 5 * GIB + MIB],
  ])('brings %d up to a multiple of %d: %d', (value, alignment, expected) => {
    expect(alignUp(value, alignment)).toBe(expected);
  });
});

describe('bits of a word', () => {
  it('counts them', () => {
    for (const word of [0, ...WORDS]) {
      expect(popcount32(word), `${word}`).toBe(bitsOf(word).length);
    }
  });

  it('finds the lowest', () => {
    for (const word of WORDS.filter((candidate) => candidate !== 0)) {
      expect(lowestBit(word), `${word}`).toBe(bitsOf(word)[0]);
    }
  });

  it('makes a mask of every run', () => {
    for (let first = 0; first < 32; first += 1) {
      for (let count = 1; first + count <= 32; count += 1) {
        const run = Array.from({ length: count }, (_, i) => first + i);
        expect(bitsOf(bitMask(first, count)), `${first} + ${count}`).toEqual(run);
      }
    }
  });
});
