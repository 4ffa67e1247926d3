import fc from 'fast-check';
import { expect, it } from 'vitest';
import { isLacunaError } from '../../src/errors.js';
import { parseCapture } from '../../src/guest/capture.js';
import { imageBitmaps } from '../../src/guest/image.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { KPF_BUDDY, KPF_NOPAGE } from '../../src/spec/kpageflags.js';
import { effort } from '../support/long.js';
import { naiveCapture } from '../support/naive-capture.js';
import { MADE_UP_PFNS, madeUpCapture } from '../unit/guest/captures.js';
import { pagesIn } from '../unit/guest/small-guest.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 600;

/** Bytes at some places, xor-ed with something, and perhaps an end cut off. */
const someDamage = fc.record({
  flips: fc.array(fc.record({ at: fc.nat(), mask: fc.integer({ min: 1, max: 255 }) }), { maxLength: 6 }),
  keep: fc.option(fc.nat(), { freq: 4, nil: undefined }),
});

function damage(
  bytes: Uint8Array,
  { flips, keep }: typeof someDamage extends fc.Arbitrary<infer T> ? T : never,
) {
  for (const { at, mask } of flips) {
    const i = at % bytes.length;
    bytes[i] = bytes[i]! ^ mask;
  }
  return keep === undefined ? bytes : bytes.subarray(0, keep % (bytes.length + 1));
}

/** Takes it or refuses it, as the naive twin does, and to the page; true: it was taken. */
function parseOrRefuse(files: ReturnType<typeof madeUpCapture>): boolean {
  const expected = naiveCapture(files);
  try {
    const image = parseCapture(atomicMapper, files, 'guests/damaged');
    const { free, zero } = imageBitmaps(atomicMapper, image);
    expect({ free: pagesIn(free), zero: pagesIn(zero) }).toEqual(expected);
    const { memoryBytes } = files.meta;
    expect(new RamLayout(image.blocks).memoryBytes).toBe(memoryBytes);
    return true;
  } catch (thrown) {
    if (!isLacunaError(thrown, 'CAPTURE_MALFORMED')) {
      throw thrown;
    }
    expect(thrown.message).toContain('guests/damaged');
    expect(expected).toBeUndefined();
    return false;
  }
}

it('takes the capture that nobody damaged', () => {
  expect(parseOrRefuse(madeUpCapture())).toBe(true);
});

it('takes any capture that is consistent, and no other: RAM, free pages, zero pages and counts of all kinds', () => {
  const pages = fc.uniqueArray(fc.nat(MADE_UP_PFNS - 1), { maxLength: 30 });
  const backing = fc
    .uniqueArray(fc.nat(MADE_UP_PFNS + 1), { minLength: 2, maxLength: 8 }) // perhaps a page too far
    .map((ends) => ends.sort((a, b) => a - b).slice(0, ends.length - (ends.length % 2)));
  const off = fc.record({
    field: fc.constantFrom('pages', 'free', 'zero'),
    by: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.constantFrom(-1, 1)),
    // A page that is free, or zero, where there may be no RAM.
    stray: fc.oneof({ weight: 4, arbitrary: fc.constant(-1) }, fc.nat(MADE_UP_PFNS - 1)),
    what: fc.constantFrom('free', 'zero', 'no page'),
  });
  let taken = 0;
  let runs = 0;
  fc.assert(
    fc.property(backing, pages, pages, off, (ends, free, zero, { field, by, stray, what }) => {
      const blocks = Array.from(
        { length: ends.length / 2 },
        (_, i) => [ends[i * 2]!, ends[i * 2 + 1]!] as const,
      );
      const isRam = (pfn: number): boolean => blocks.some(([first, end]) => pfn >= first && pfn < end);
      const files = madeUpCapture();
      const flags = new Uint32Array(files.kpageflags.buffer);
      flags.fill(0);
      files.zero.fill(0);
      const setFree = (pfn: number): void => {
        flags[pfn * 2] = 1 << KPF_BUDDY;
      };
      const setZero = (pfn: number): void => {
        files.zero[pfn >> 3] = files.zero[pfn >> 3]! | (1 << (pfn & 7));
      };
      free.filter(isRam).forEach(setFree);
      zero.filter(isRam).forEach(setZero);
      if (stray !== -1 && what === 'free') {
        setFree(stray);
      } else if (stray !== -1 && what === 'zero') {
        setZero(stray);
      } else if (stray !== -1) {
        const pfn = free.filter(isRam)[stray % 4] ?? stray; // often one that is free
        flags[pfn * 2] = flags[pfn * 2]! | (1 << KPF_NOPAGE);
      }
      const ram = Array.from({ length: MADE_UP_PFNS + 1 }, (_, pfn) => pfn).filter(isRam);
      Object.assign(files.meta, {
        memoryBytes: ram.length * 4096,
        backing: blocks.map(([first, end]) => ({ startGpa: first * 4096, endGpa: end * 4096 })),
      });
      const counts = {
        pages: ram.length,
        free: free.filter(isRam).length,
        zero: zero.filter(isRam).length,
      };
      // As often as not the counts go along with the stray page.
      if (
        what !== 'no page' &&
        stray !== -1 &&
        stray % 2 === 0 &&
        !(what === 'free' ? free : zero).includes(stray)
      ) {
        counts[what] += 1;
      }
      Object.assign(files.meta.counts, counts, { [field]: counts[field as keyof typeof counts] + by });
      taken += parseOrRefuse(files) ? 1 : 0;
      runs += 1;
    }),
    effort(1000, TIME_LIMIT_MS),
  );
  // Both happen often (unless the time was up at once).
  if (runs > 200) {
    expect(taken).toBeGreaterThan(runs / 10);
    expect(taken).toBeLessThan((runs * 9) / 10);
  }
});

it('takes or refuses a capture with random bytes damaged, and never fails in another way', () => {
  fc.assert(
    fc.property(someDamage, someDamage, (flags, zeroes) => {
      const files = madeUpCapture();
      files.kpageflags = damage(files.kpageflags, flags);
      files.zero = damage(files.zero, zeroes);
      parseOrRefuse(files);
    }),
    effort(2000, TIME_LIMIT_MS),
  );
});

it('takes or refuses a meta.json with random bytes damaged', () => {
  fc.assert(
    fc.property(someDamage, (broken) => {
      const files = madeUpCapture();
      const text = Buffer.from(JSON.stringify(files.meta));
      let meta: unknown;
      try {
        meta = JSON.parse(Buffer.from(damage(text, broken)).toString('utf8'));
      } catch {
        return; // whoever reads the file says so
      }
      parseOrRefuse({ ...files, meta: meta as typeof files.meta });
    }),
    effort(3000, TIME_LIMIT_MS),
  );
});

it('takes or refuses a meta.json with anything at all in one of its fields', () => {
  const { meta } = madeUpCapture();
  const path = fc.constantFrom(
    ...Object.keys(meta),
    ...Object.keys(meta.counts).map((key) => `counts.${key}`),
  );
  const anything = fc.oneof(
    fc.jsonValue(),
    fc.double(),
    fc.integer(),
    fc.maxSafeNat(),
    fc.array(fc.record({ startGpa: fc.maxSafeNat(), endGpa: fc.maxSafeNat() }), { maxLength: 3 }),
    fc
      .array(fc.record({ startGpa: fc.nat(300), endGpa: fc.nat(300) }), { maxLength: 3 })
      .map((ranges) =>
        ranges.map((range) => ({ startGpa: range.startGpa * 4096, endGpa: range.endGpa * 4096 })),
      ),
  );
  fc.assert(
    fc.property(path, anything, (where, value) => {
      const files = madeUpCapture();
      const [field = '', inner] = where.split('.');
      if (inner === undefined) {
        Object.assign(files.meta, { [field]: value });
      } else {
        Object.assign(files.meta.counts, { [inner]: value });
      }
      parseOrRefuse(files);
    }),
    effort(2000, TIME_LIMIT_MS),
  );
});
