import { describe, expect, it } from 'vitest';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { WriteOracle } from '../../../src/memory/write-oracle.js';

const PAGES = 100;

function makeOracle(pageCount = PAGES): WriteOracle {
  return new WriteOracle(atomicMapper, new SharedArrayBuffer(WriteOracle.byteLength(pageCount)), pageCount);
}

function mayDiffer(oracle: WriteOracle): number[] {
  return Array.from({ length: oracle.pageCount }, (_, pfn) => pfn).filter((pfn) => oracle.mayDiffer(pfn));
}

describe('WriteOracle', () => {
  it('lets no page differ that was never declared', () => {
    const oracle = makeOracle();
    oracle.stampWrite(3);
    oracle.sessionIssued(2);
    expect(mayDiffer(oracle)).toEqual([]);
  });

  it('lets the pages differ that were declared under a session, and no others', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.declared(2, 30, 5);
    oracle.declared(2, 99, 1);
    expect(mayDiffer(oracle)).toEqual([30, 31, 32, 33, 34, 99]);
  });

  it('lets a page differ that was written before the session was issued', () => {
    const oracle = makeOracle();
    oracle.stampWrite(7);
    oracle.sessionIssued(2);
    oracle.declared(2, 7, 1);
    expect(oracle.mayDiffer(7)).toBe(true);
  });

  it('lets no page differ that was written between issue and declaration: its old bytes may be on their way', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.stampWrite(7);
    oracle.declared(2, 7, 1);
    expect(oracle.mayDiffer(7)).toBe(false);
  });

  it('lets no page differ that was written after it was declared', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.declared(2, 7, 2);
    oracle.stampWrite(7);
    expect(mayDiffer(oracle)).toEqual([8]);
  });

  it('lets it differ again once it is declared under a later session', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.declared(2, 7, 1);
    oracle.stampWrite(7);
    oracle.sessionIssued(3);
    expect(oracle.mayDiffer(7)).toBe(false);
    oracle.declared(3, 7, 1);
    expect(oracle.mayDiffer(7)).toBe(true);
  });

  it('goes by the newest session that declared the page, in whatever order they did', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.stampWrite(7);
    oracle.sessionIssued(3);
    oracle.declared(3, 7, 1);
    oracle.declared(2, 7, 1);
    expect(oracle.mayDiffer(7)).toBe(true);
  });

  it('does not excuse a write by a later session that did not declare the page', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.declared(2, 7, 1);
    oracle.stampWrite(7);
    oracle.sessionIssued(3);
    oracle.declared(3, 8, 1);
    expect(mayDiffer(oracle)).toEqual([8]);
  });

  it('ignores a declaration under an id that was never issued', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.declared(3, 7, 1);
    expect(mayDiffer(oracle)).toEqual([]);
  });

  it('knows ids of 32 bits', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(0xffff_ffff);
    oracle.declared(0xffff_ffff, 7, 1);
    oracle.sessionIssued(0x8000_0000);
    oracle.declared(0x8000_0000, 9, 1);
    expect(mayDiffer(oracle)).toEqual([7, 9]);
  });

  it.each([8, 9, 20])('remembers what %d sessions declared, more than it has slots for', (sessions) => {
    const oracle = makeOracle();
    const rewritten: number[] = [];
    for (let i = 0; i < sessions; i += 1) {
      oracle.sessionIssued(2 + i);
      oracle.declared(2 + i, i, 1);
      oracle.declared(2 + i, 50 + i, 1);
    }
    for (let i = 0; i < sessions; i += 3) {
      oracle.stampWrite(i);
      rewritten.push(i);
    }
    const kept = Array.from({ length: sessions }, (_, i) => i).filter((i) => !rewritten.includes(i));
    expect(mayDiffer(oracle)).toEqual([...kept, ...Array.from({ length: sessions }, (_, i) => 50 + i)]);
  });

  it('judges a page that sessions of both kinds declared, with a slot and without', () => {
    const oracle = makeOracle();
    oracle.sessionIssued(2);
    oracle.declared(2, 7, 3);
    for (let id = 3; id < 12; id += 1) {
      oracle.sessionIssued(id);
    }
    oracle.stampWrite(7);
    oracle.stampWrite(8);
    oracle.sessionIssued(12);
    oracle.declared(12, 8, 1);
    expect(mayDiffer(oracle)).toEqual([8, 9]);
    // And once that session, too, has lost its slot.
    for (let id = 13; id < 30; id += 1) {
      oracle.sessionIssued(id);
    }
    expect(mayDiffer(oracle)).toEqual([8, 9]);
  });

  it('gives the slot of the oldest session away, not that of the one that runs', () => {
    const oracle = makeOracle();
    for (let id = 2; id < 40; id += 1) {
      oracle.sessionIssued(id);
      oracle.declared(id - 7, id, 1); // seven sessions back: the oldest that still has a slot
      expect(oracle.mayDiffer(id)).toBe(id - 7 >= 2);
      oracle.declared(id - 8, 50, 1);
      expect(oracle.mayDiffer(50)).toBe(false);
    }
  });

  it('keeps to its own buffer, and shows another thread the same', () => {
    const oracle = makeOracle(33);
    const twin = new WriteOracle(atomicMapper, oracle.buffer, 33);
    oracle.sessionIssued(2);
    twin.declared(2, 0, 33);
    twin.stampWrite(32);
    expect(mayDiffer(oracle)).toEqual(Array.from({ length: 32 }, (_, pfn) => pfn));
    expect(WriteOracle.byteLength(33)).toBe(oracle.buffer.byteLength);
  });

  it('forgets everything', () => {
    const oracle = makeOracle();
    for (let id = 2; id < 14; id += 1) {
      oracle.sessionIssued(id);
      oracle.declared(id, 0, PAGES);
    }
    oracle.reset();
    expect(mayDiffer(oracle)).toEqual([]);
    expect(new Uint8Array(oracle.buffer).every((byte) => byte === 0)).toBe(true);
    oracle.declared(13, 1, 1);
    expect(mayDiffer(oracle)).toEqual([]);
  });
});
