import fc from 'fast-check';
import { expect, it } from 'vitest';
import { isLacunaError } from '../../src/errors.js';
import { parseCapture } from '../../src/guest/capture.js';
import { imageBitmaps } from '../../src/guest/image.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { madeUpCapture } from '../unit/guest/captures.js';
import { pagesIn } from '../unit/guest/small-guest.js';

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

/** True: it was taken, and then it must hang together. */
function parseOrRefuse(files: ReturnType<typeof madeUpCapture>): boolean {
  try {
    const image = parseCapture(atomicMapper, files, 'guests/damaged');
    const layout = new RamLayout(image.blocks);
    const { free, zero } = imageBitmaps(atomicMapper, image);
    for (const bitmap of [free, zero]) {
      expect(pagesIn(bitmap).filter((pfn) => layout.segmentOfPfn(pfn) === undefined)).toEqual([]);
    }
    expect(free.count()).toBe(files.meta.counts.free);
    expect(zero.count()).toBe(files.meta.counts.zero);
    return true;
  } catch (thrown) {
    if (!isLacunaError(thrown, 'CAPTURE_MALFORMED')) {
      throw thrown;
    }
    expect(thrown.message).toContain('guests/damaged');
    return false;
  }
}

it('takes the capture that nobody damaged', () => {
  expect(parseOrRefuse(madeUpCapture())).toBe(true);
});

it('takes or refuses a capture with random bytes damaged, and never fails in another way', () => {
  fc.assert(
    fc.property(someDamage, someDamage, (flags, zeroes) => {
      const files = madeUpCapture();
      files.kpageflags = damage(files.kpageflags, flags);
      files.zero = damage(files.zero, zeroes);
      parseOrRefuse(files);
    }),
    { numRuns: 2000 },
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
    { numRuns: 3000 },
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
    { numRuns: 2000 },
  );
});
