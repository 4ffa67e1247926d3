import { describe, expect, it } from 'vitest';
import { MemoryPool, zeroMemory } from '../../../src/memory/memory-pool.js';
import { KIB, MIB, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';

const OUT_OF_MEMORY = expect.objectContaining({ code: 'OUT_OF_MEMORY' });

/** A machine whose RAM is made of segments of these sizes. */
function layoutOf(...segmentBytes: number[]): RamLayout {
  let at = 0;
  return new RamLayout(
    segmentBytes.map((bytes) => {
      const startGpa = at;
      at += bytes + MIB;
      return { startGpa, endGpa: startGpa + bytes };
    }),
  );
}

describe('MemoryPool', () => {
  it('makes memory of the layout that is asked for', () => {
    const pool = new MemoryPool();
    const layout = layoutOf(64 * KIB, 128 * KIB);
    const memory = pool.take(layout);
    expect(memory.layout).toBe(layout);
    expect(memory.buffers.map(({ byteLength }) => byteLength)).toEqual([64 * KIB, 128 * KIB]);
    expect(pool.heldBytes).toBe(192 * KIB);
  });

  it('refuses memory that is given back twice', () => {
    const pool = new MemoryPool();
    const memory = pool.take(layoutOf(64 * KIB));
    pool.giveBack(memory);
    expect(() => pool.giveBack(memory)).toThrow(expect.objectContaining({ code: 'ILLEGAL_STATE' }));
    pool.take(layoutOf(64 * KIB));
    expect(pool.heldBytes).toBe(64 * KIB);
  });

  it('hands out again what was given back, contents and all', () => {
    const pool = new MemoryPool();
    const first = pool.take(layoutOf(64 * KIB));
    first.pages(0, 1)[0] = 9;
    pool.giveBack(first);
    const second = pool.take(layoutOf(64 * KIB));
    expect(second.buffers[0]).toBe(first.buffers[0]);
    expect(second.pages(0, 1)[0]).toBe(9);
    expect(pool.heldBytes).toBe(64 * KIB);
  });

  it('never lends one buffer twice', () => {
    const pool = new MemoryPool();
    pool.giveBack(pool.take(layoutOf(64 * KIB, 64 * KIB)));
    const buffers = [
      ...pool.take(layoutOf(64 * KIB)).buffers,
      ...pool.take(layoutOf(64 * KIB, 64 * KIB)).buffers,
    ];
    expect(new Set(buffers).size).toBe(3);
    expect(pool.heldBytes).toBe(192 * KIB);
  });

  it('reuses the shortest buffer that is long enough, in whatever layout', () => {
    const pool = new MemoryPool();
    const first = pool.take(layoutOf(256 * KIB, 64 * KIB, 128 * KIB));
    pool.giveBack(first);
    const second = pool.take(layoutOf(128 * KIB, 32 * KIB));
    expect(second.buffers[0]).toBe(first.buffers[2]);
    expect(second.buffers[1]).toBe(first.buffers[1]);
    expect(second.segments.map(({ bytes }) => bytes.length)).toEqual([128 * KIB, 32 * KIB]);
    expect(pool.heldBytes).toBe(448 * KIB);
  });

  it('makes a new buffer where those that it has are too short', () => {
    const pool = new MemoryPool();
    const first = pool.take(layoutOf(64 * KIB));
    pool.giveBack(first);
    const second = pool.take(layoutOf(68 * KIB));
    expect(second.buffers[0]).not.toBe(first.buffers[0]);
    expect(pool.heldBytes).toBe(132 * KIB);
  });

  it('throws OUT_OF_MEMORY and says how much is missing', () => {
    const pool = new MemoryPool(() => MIB);
    expect(() => pool.take(layoutOf(2 * MIB))).toThrow(OUT_OF_MEMORY);
    expect(() => pool.take(layoutOf(2 * MIB))).toThrow(/2 MiB.* 1 MiB/);
    expect(pool.heldBytes).toBe(0);
  });

  it('takes as much as there is, to the byte', () => {
    expect(new MemoryPool(() => MIB).take(layoutOf(MIB)).layout.memoryBytes).toBe(MIB);
    expect(() => new MemoryPool(() => MIB - 1).take(layoutOf(MIB))).toThrow(OUT_OF_MEMORY);
  });

  it('takes nothing when it throws OUT_OF_MEMORY: what it would have reused is still there', () => {
    let available = MIB;
    const pool = new MemoryPool(() => available);
    const first = pool.take(layoutOf(64 * KIB, 64 * KIB));
    pool.giveBack(first);
    available = 0;
    expect(() => pool.take(layoutOf(64 * KIB, 128 * KIB, 64 * KIB))).toThrow(OUT_OF_MEMORY);
    expect(pool.heldBytes).toBe(128 * KIB);
    const second = pool.take(layoutOf(64 * KIB, 64 * KIB));
    expect(new Set(second.buffers)).toEqual(new Set(first.buffers));
  });

  it('asks the machine only for what it can’t reuse', () => {
    let available = 64 * KIB;
    const pool = new MemoryPool(() => available);
    pool.giveBack(pool.take(layoutOf(64 * KIB)));
    available = 32 * KIB;
    expect(pool.take(layoutOf(64 * KIB, 32 * KIB)).buffers).toHaveLength(2);
  });

  it('reserves for several guests at once, and lends what it made', () => {
    const pool = new MemoryPool(() => 2 * MIB);
    pool.reserve(layoutOf(MIB), 2);
    const lent = [pool.take(layoutOf(MIB)), pool.take(layoutOf(MIB / 2))];
    expect(lent[0]!.buffers[0]).not.toBe(lent[1]!.buffers[0]);
    expect(pool.heldBytes).toBe(2 * MIB);
  });

  it('reserves nothing if there is not enough for all of them, or for what is needed beside', () => {
    const pool = new MemoryPool(() => 2 * MIB);
    expect(() => pool.reserve(layoutOf(MIB), 3)).toThrow(OUT_OF_MEMORY);
    expect(() => pool.reserve(layoutOf(MIB), 1, MIB + 1)).toThrow(/destination need 3 MiB.* 2 MiB/);
    expect(pool.heldBytes).toBe(0);
    pool.reserve(layoutOf(MIB), 1, MIB);
    expect(pool.heldBytes).toBe(MIB);
  });

  it('asks no more for a sparse guest than it will touch', () => {
    const pool = new MemoryPool(() => MIB);
    expect(pool.take(layoutOf(16 * MIB), MIB).layout.memoryBytes).toBe(16 * MIB);
    expect(() => pool.take(layoutOf(16 * MIB), MIB + 1)).toThrow(OUT_OF_MEMORY);
  });
});

describe('zeroMemory', () => {
  it('fills every segment to its last byte', () => {
    const memory = new MemoryPool().take(layoutOf(PAGE_SIZE, 64 * KIB));
    for (const { bytes } of memory.segments) {
      bytes.fill(0xff);
    }
    zeroMemory(memory);
    for (const { bytes } of memory.segments) {
      expect(bytes.every((byte) => byte === 0)).toBe(true);
    }
  });
});
