import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fillWords } from '../../../src/memory/byte-ops.js';
import { type GuestMemory, PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { WriteOracle } from '../../../src/memory/write-oracle.js';
import { compareDigests, DIGEST_WORDS, digestPages } from '../../../src/migration/page-digests.js';
import { type Comparison, comparePages } from '../../../src/migration/verify.js';

const PAGES = 12;
/** RAM that begins at page 4. */
const FIRST = 4;

function memoryOf(contents: (page: number, bytes: Uint8Array) => void): GuestMemory {
  const layout = new RamLayout([{ startGpa: gpaOf(FIRST), endGpa: gpaOf(FIRST + PAGES) }]);
  const memory = new PrivateGuestMemory(layout);
  for (let page = 0; page < PAGES; page += 1) {
    contents(page, memory.pages(FIRST + page, 1));
  }
  return memory;
}

/** The verdict by digests, of these pages alone. */
function byDigests(
  source: GuestMemory,
  destination: GuestMemory,
  oracle: WriteOracle | undefined,
  [pfn, pageCount]: readonly [number, number],
  poison = 0,
): Comparison {
  const digests = new Uint32Array(pageCount * DIGEST_WORDS);
  digestPages({ memory: destination, pfn, pageCount, digests }, crc32);
  return compareDigests({ memory: source, pfn, pageCount, digests }, oracle, crc32, poison);
}

/** An oracle by which these pages were called free and not written since. */
function oracleOf(free: readonly number[]): WriteOracle {
  const span = FIRST + PAGES;
  const oracle = new WriteOracle(atomicMapper, new SharedArrayBuffer(WriteOracle.byteLength(span)), span);
  for (let page = 0; page < PAGES; page += 1) {
    oracle.stampWrite(FIRST + page);
  }
  oracle.sessionIssued(2);
  for (const page of free) {
    oracle.declared(2, FIRST + page, 1);
  }
  return oracle;
}

const POISON = 0x8123_4567;
/** What a page may hold. Few contents, so that pages are often equal. */
const contents = fc.constantFrom('data', 'other', 'zero', 'poison', 'nearly zero', 'nearly poison');
type Contents = typeof contents extends fc.Arbitrary<infer T> ? T : never;

function write(what: Contents, page: number, bytes: Uint8Array): void {
  switch (what) {
    case 'data':
    case 'other':
      bytes.forEach((_, i) => {
        bytes[i] = (i * 31 + page * 7 + (what === 'data' ? 0 : 1)) & 0xff;
      });
      break;
    case 'poison':
    case 'nearly poison':
      fillWords(bytes, 0, PAGE_SIZE, POISON);
      break;
    case 'zero':
    case 'nearly zero':
      bytes.fill(0);
  }
  if (what.startsWith('nearly')) {
    bytes[(page * 997) % PAGE_SIZE]! ^= 0x10;
  }
}

it('comes to the verdict of whoever sees both memories', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(contents, contents), { minLength: PAGES, maxLength: PAGES }),
      fc.option(fc.uniqueArray(fc.nat({ max: PAGES - 1 })), { nil: undefined }),
      fc.constantFrom(0, POISON),
      fc.nat({ max: PAGES - 1 }),
      fc.integer({ min: 1, max: PAGES }),
      (pages, free, poison, from, most) => {
        const source = memoryOf((page, bytes) => write(pages[page]![0], page, bytes));
        const destination = memoryOf((page, bytes) => write(pages[page]![1], page, bytes));
        const oracle = free === undefined ? undefined : oracleOf(free);
        const range = [FIRST + from, Math.min(most, PAGES - from)] as const;
        expect(byDigests(source, destination, oracle, range, poison)).toEqual(
          comparePages(source, destination, oracle, ...range, poison),
        );
      },
    ),
  );
});

describe('one bit', () => {
  const data = memoryOf((page, bytes) => write('data', page, bytes));
  const flipped = memoryOf((page, bytes) => write('data', page, bytes));

  it('that is flipped anywhere is found', () => {
    fc.assert(
      fc.property(fc.nat({ max: PAGES * PAGE_SIZE * 8 - 1 }), (bit) => {
        const page = Math.floor(bit / (PAGE_SIZE * 8));
        const bytes = flipped.pages(FIRST + page, 1);
        const at = Math.floor(bit / 8) % PAGE_SIZE;
        bytes[at]! ^= 1 << (bit % 8);
        const verdict = byDigests(data, flipped, undefined, [FIRST, PAGES]);
        bytes[at]! ^= 1 << (bit % 8);
        expect(verdict).toEqual({
          compared: PAGES,
          different: 1,
          leftBehind: 0,
          firstDifferentPfn: FIRST + page,
        });
      }),
    );
    expect(byDigests(data, flipped, undefined, [FIRST, PAGES])).toMatchObject({ different: 0 });
  });

  it('that is flipped in each byte of a page is found', () => {
    const bytes = flipped.pages(FIRST, 1);
    for (let at = 0; at < PAGE_SIZE; at += 1) {
      bytes[at]! ^= 0x80 >> (at % 8);
      expect(byDigests(data, flipped, undefined, [FIRST, 1]).different, `byte ${at}`).toBe(1);
      bytes[at]! ^= 0x80 >> (at % 8);
    }
  });

  it('that is left in a page that may be left behind is found', () => {
    const zero = memoryOf((_page, bytes) => bytes.fill(0));
    const all = Array.from({ length: PAGES }, (_, page) => page);
    expect(byDigests(data, zero, oracleOf(all), [FIRST, PAGES])).toMatchObject({
      leftBehind: PAGES,
      different: 0,
    });
    zero.pages(FIRST + 5, 1)[4095] = 1;
    expect(byDigests(data, zero, oracleOf(all), [FIRST, PAGES])).toMatchObject({
      leftBehind: PAGES - 1,
      different: 1,
      firstDifferentPfn: FIRST + 5,
    });
  });
});

it('tells pages apart that have changed places', () => {
  const source = memoryOf((page, bytes) => write('data', page, bytes));
  const swapped = memoryOf((page, bytes) => write('data', page ^ 1, bytes));
  expect(byDigests(source, swapped, undefined, [FIRST, PAGES])).toMatchObject({ different: PAGES });
});
