import { describe, expect, it } from 'vitest';
import { atomicMapper } from '../../../src/memory/shared-words.js';

const KINDS = [
  ['shared', (bytes: number): ArrayBufferLike => new SharedArrayBuffer(bytes)],
  ['private', (bytes: number): ArrayBufferLike => new ArrayBuffer(bytes)],
] as const;

describe.each(KINDS)('words of a %s buffer', (_, make) => {
  it('covers the words that it was asked for', () => {
    const buffer = make(16);
    const words = atomicMapper.words(buffer, 4, 2);
    expect(words.length).toBe(2);
    words.store(0, -5);
    words.store(1, 6);
    expect([...new Int32Array(buffer)]).toEqual([0, -5, 6, 0]);
    expect([words.load(0), words.load(1)]).toEqual([-5, 6]);
  });

  it('gives back what was there before each change', () => {
    const words = atomicMapper.words(make(4), 0, 1);
    words.store(0, 0b0110);
    const before = [
      words.or(0, 0b0011),
      words.and(0, 0b0101),
      words.add(0, 10),
      words.exchange(0, 40),
      words.compareExchange(0, 41, 50),
      words.compareExchange(0, 40, 60),
      words.load(0),
    ];
    expect(before).toEqual([0b0110, 0b0111, 0b0101, 15, 40, 40, 60]);
  });

  it('wraps at 32 bits', () => {
    const words = atomicMapper.words(make(4), 0, 1);
    words.store(0, 0x7fff_ffff);
    words.add(0, 1);
    expect(words.load(0)).toBe(-(2 ** 31));
    words.or(0, 1);
    expect(words.load(0) >>> 0).toBe(0x8000_0001);
  });

  it('notifies where nobody waits', () => {
    expect(() => atomicMapper.words(make(4), 0, 1).notify(0)).not.toThrow();
  });

  it('has half words of 16 unsigned bits, little-endian', () => {
    const buffer = make(8);
    const halves = atomicMapper.halfWords(buffer, 2, 2);
    halves.store(0, 0xfedc);
    halves.store(1, 0x1_2345);
    expect([...new Uint8Array(buffer)]).toEqual([0, 0, 0xdc, 0xfe, 0x45, 0x23, 0, 0]);
    expect([halves.load(0), halves.load(1)]).toEqual([0xfedc, 0x2345]);
  });

  it('throws for a word that it does not cover, as a corrupt index must not go unseen', () => {
    const words = atomicMapper.words(make(16), 0, 2);
    expect(() => words.load(2)).toThrow(RangeError);
    expect(() => atomicMapper.halfWords(make(16), 0, 2).store(2, 0)).toThrow(RangeError);
  });
});

describe('waiting on shared words', () => {
  it('does not block where the word has moved on already', () => {
    const words = atomicMapper.words(new SharedArrayBuffer(4), 0, 1);
    words.store(0, 1);
    words.wait(0, 0, Number.POSITIVE_INFINITY);
    expect(words.waitAsync(0, 0)).toBeUndefined();
  });

  it('wakes all that wait without blocking', async () => {
    const words = atomicMapper.words(new SharedArrayBuffer(8), 0, 2);
    const woken: string[] = [];
    const first = words.waitAsync(1, 0)?.then(() => woken.push('first'));
    const second = words.waitAsync(1, 0)?.then(() => woken.push('second'));
    words.notify(0);
    await Promise.resolve();
    expect(woken).toEqual([]);
    words.store(1, 1);
    words.notify(1);
    await Promise.all([first, second]);
    expect(woken.sort()).toEqual(['first', 'second']);
  });

  it('does not wait on private memory', () => {
    const words = atomicMapper.words(new ArrayBuffer(4), 0, 1);
    expect(() => words.wait(0, 0, 0)).toThrow(TypeError);
    expect(() => words.waitAsync(0, 0)).toThrow(TypeError);
  });
});
