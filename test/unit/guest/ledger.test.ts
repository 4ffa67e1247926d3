import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PageContent, xorshift32 } from '../../../src/guest/content.js';
import { LEDGER_METADATA, LEDGER_ZERO, Ledger } from '../../../src/guest/ledger.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { WriteOracle } from '../../../src/memory/write-oracle.js';
import { makeRam, pagesIn, UnmarkedWrites } from './small-guest.js';

const PAGES = 32;
/** The ledger of {@link PAGES} page frames takes a part of this page. */
const LEDGER_PFN = 30;

function makeLedger(oracle?: WriteOracle) {
  const parts = makeRam(PAGES);
  const content = new PageContent(7);
  const ledger = new Ledger(parts.ram, content, LEDGER_PFN * PAGE_SIZE, PAGES, oracle);
  return { ...parts, content, ledger };
}

const aPage = fc.integer({ min: 0, max: LEDGER_PFN - 1 });
const aVersion = fc.oneof(fc.constant(LEDGER_ZERO), fc.integer({ min: 1, max: 0xffff_fffe }));

describe('the contents of a page', () => {
  it('follow from seed, pfn and version', () => {
    const page = (seed: number, pfn: number, version: number): Uint8Array => {
      const bytes = new Uint8Array(PAGE_SIZE);
      new PageContent(seed).writeInto(bytes, 0, pfn, version);
      return bytes;
    };
    expect(page(1, 2, 3)).toEqual(page(1, 2, 3));
    expect(page(1, 2, 3)).not.toEqual(page(1, 2, 4));
    expect(page(1, 2, 3)).not.toEqual(page(1, 3, 3));
    expect(page(1, 2, 3)).not.toEqual(page(2, 2, 3));
  });

  it('differ between versions in most of the page, not only where the version is written', () => {
    const content = new PageContent(1);
    const [one, two] = [new Uint8Array(PAGE_SIZE), new Uint8Array(PAGE_SIZE)];
    content.writeInto(one, 0, 5, 1);
    content.writeInto(two, 0, 5, 2);
    const equal = one.filter((byte, i) => byte === two[i]).length;
    expect(equal).toBeLessThan(PAGE_SIZE / 8);
  });

  it('fill just the page', () => {
    const bytes = new Uint8Array(3 * PAGE_SIZE).fill(0xaa);
    new PageContent(1).writeInto(bytes, PAGE_SIZE, 0, 1);
    expect(bytes.subarray(0, PAGE_SIZE).every((byte) => byte === 0xaa)).toBe(true);
    expect(bytes.subarray(2 * PAGE_SIZE).every((byte) => byte === 0xaa)).toBe(true);
  });

  it('come from a generator that never sticks at 0', () => {
    let state = 1;
    const seen = new Set<number>();
    for (let i = 0; i < 1000; i += 1) {
      state = xorshift32(state);
      seen.add(state);
    }
    expect(seen.size).toBe(1000);
    expect(seen.has(0)).toBe(false);
  });
});

describe('the ledger', () => {
  it('says that a page holds what was written, for every page and version', () => {
    const { ledger } = makeLedger();
    fc.assert(
      fc.property(aPage, aVersion, (pfn, version) => {
        ledger.write(pfn, version);
        expect(ledger.version(pfn)).toBe(version);
        expect(ledger.holds(pfn)).toBe(true);
      }),
    );
  });

  it('says that it does not after any one byte of it was damaged', () => {
    const { ledger, memory } = makeLedger();
    const aByte = fc.integer({ min: 0, max: PAGE_SIZE - 1 });
    fc.assert(
      fc.property(aPage, aVersion, aByte, fc.integer({ min: 1, max: 255 }), (pfn, version, at, mask) => {
        ledger.write(pfn, version);
        const bytes = memory.pages(pfn, 1);
        bytes[at] = bytes[at]! ^ mask;
        expect(ledger.holds(pfn)).toBe(false);
      }),
      { numRuns: 1000 },
    );
  });

  it.each([0, 7])('finds damage in each single byte of a page of version %i', (version) => {
    const { ledger, memory } = makeLedger();
    ledger.write(3, version);
    const bytes = memory.pages(3, 1);
    const unnoticed: number[] = [];
    for (let at = 0; at < PAGE_SIZE; at += 1) {
      bytes[at] = bytes[at]! ^ 1;
      if (ledger.holds(3)) {
        unnoticed.push(at);
      }
      bytes[at] = bytes[at]! ^ 1;
    }
    expect(unnoticed).toEqual([]);
    expect(ledger.holds(3)).toBe(true);
  });

  it('finds a page that holds an older version, another page, or the version of another line', () => {
    const { ledger, memory } = makeLedger();
    ledger.write(3, 5);
    const older = memory.pages(3, 1).slice();
    ledger.write(3, 6);
    ledger.write(4, 6);
    memory.pages(3, 1).set(older);
    expect(ledger.holds(3)).toBe(false);
    memory.pages(3, 1).set(memory.pages(4, 1));
    expect(ledger.holds(3)).toBe(false);
    ledger.note(4, 7);
    expect(ledger.holds(4)).toBe(false);
  });

  it('does not say what metadata holds', () => {
    const { ledger, memory } = makeLedger();
    ledger.note(3, LEDGER_METADATA);
    memory.pages(3, 1).fill(9);
    expect(ledger.holds(3)).toBe(true);
  });

  it('marks the page and its own line, and nothing else', () => {
    const { ledger, memory, log } = makeLedger();
    const writes = new UnmarkedWrites(memory, log);
    ledger.write(3, 1);
    expect(writes.changed()).toEqual([3, LEDGER_PFN]);
    expect(writes.unmarked()).toEqual([]);
    expect(pagesIn(log.bitmap)).toEqual([3, LEDGER_PFN]);
    ledger.write(3, LEDGER_ZERO);
    expect(ledger.holds(3)).toBe(true);
    expect(writes.unmarked()).toEqual([]);
  });

  it('lies in guest RAM: whoever attaches there reads the same lines', () => {
    const { ledger, ram, content } = makeLedger();
    ledger.write(3, 12);
    const again = new Ledger(ram, content, LEDGER_PFN * PAGE_SIZE, PAGES, undefined);
    expect(again.version(3)).toBe(12);
    expect(again.holds(3)).toBe(true);
  });

  it('tells the oracle of each write', () => {
    const oracle = new WriteOracle(atomicMapper, new ArrayBuffer(WriteOracle.byteLength(PAGES)), PAGES);
    const { ledger } = makeLedger(oracle);
    oracle.sessionIssued(9);
    oracle.declared(9, 3, 2);
    ledger.write(4, 1);
    expect(oracle.mayDiffer(3)).toBe(true);
    expect(oracle.mayDiffer(4)).toBe(false);
  });

  it('refuses to write where no RAM is, and holds nothing there', () => {
    const parts = makeRam(PAGES);
    const ledger = new Ledger(parts.ram, new PageContent(1), 0, PAGES + 8, undefined);
    expect(() => ledger.write(PAGES + 1, 1)).toThrow(RangeError);
    expect(ledger.holds(PAGES + 1)).toBe(false);
  });
});

describe('guest RAM as programs see it', () => {
  it('marks every page that a write touched', () => {
    const { ram, log } = makeRam(PAGES);
    ram.wrote(PAGE_SIZE - 1, 2);
    expect(pagesIn(log.bitmap)).toEqual([0, 1]);
    ram.wrote(5 * PAGE_SIZE, PAGE_SIZE);
    expect(pagesIn(log.bitmap)).toEqual([0, 1, 5]);
  });

  it('marks the page of the word that a bitmap changes, after the change', () => {
    const { ram, log, memory } = makeRam(PAGES);
    const span = 3 * PAGE_SIZE * 8;
    const bitmap = ram.bitmap(4 * PAGE_SIZE, span);
    const seen: [pfn: number, byte: number][] = [];
    const originalMark = log.mark.bind(log);
    log.mark = (pfn) => {
      seen.push([pfn, memory.pages(pfn, 1)[8]!]);
      originalMark(pfn);
    };
    bitmap.set(64 + PAGE_SIZE * 8);
    bitmap.clear(64 + PAGE_SIZE * 8);
    expect(seen).toEqual([
      [5, 1],
      [5, 0],
    ]);
  });

  it.each<[string, (words: ReturnType<ReturnType<typeof makeRam>['ram']['bitmap']>['words']) => unknown]>([
    ['store', (words) => words.store(1024, 5)],
    ['exchange', (words) => words.exchange(1024, 5)],
    ['compareExchange', (words) => words.compareExchange(1024, 0, 5)],
    ['or', (words) => words.or(1024, 5)],
    ['and', (words) => words.and(1024, 5)],
    ['add', (words) => words.add(1024, 5)],
  ])('marks what %s of a word wrote', (_, change) => {
    const { ram, log } = makeRam(PAGES);
    change(ram.bitmap(0, 2 * PAGE_SIZE * 8).words);
    expect(pagesIn(log.bitmap)).toEqual([1]);
  });

  it('does not mark what was only read, and lets nobody wait', () => {
    const { ram, log } = makeRam(PAGES);
    const { words } = ram.bitmap(0, 64);
    expect(words.load(1)).toBe(0);
    words.notify(0);
    expect(log.bitmap.count()).toBe(0);
    expect(() => words.wait(0, 0, 1)).toThrow(/nothing ever waits/);
    expect(() => words.waitAsync(0, 0)).toThrow(/nothing ever waits/);
  });

  it('refuses areas that do not lie in RAM', () => {
    const { ram } = makeRam(PAGES);
    expect(() => ram.uint32((PAGES - 1) * PAGE_SIZE, 1025)).toThrow(RangeError);
    expect(() => ram.bitmap(PAGES * PAGE_SIZE, 32)).toThrow(RangeError);
  });
});
