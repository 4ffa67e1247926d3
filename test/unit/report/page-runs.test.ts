import { inflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { encodePageMap } from '../../../src/report/page-map.js';
import { decodePageRuns, encodePageRuns } from '../../../src/report/page-runs.js';

/** Runs of all lengths that take another byte, and those beside them. */
const lengths = fc.oneof(
  fc.integer({ min: 1, max: 40 }),
  fc.constantFrom(15, 16, 17, 2047, 2048, 2049, 262_143, 262_144),
);
const someFates = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 6 }), lengths), { maxLength: 12 })
  .map((runs) => Buffer.concat(runs.map(([fate, length]) => new Uint8Array(length).fill(fate))));

it('gives back what it was given, in one to four bytes a run', () => {
  fc.assert(
    fc.property(someFates, (fates) => {
      const bytes = encodePageRuns(fates);
      expect(Buffer.compare(decodePageRuns(bytes, fates.length), fates)).toBe(0);
      let runs = fates.length === 0 ? 0 : 1;
      for (let i = 1; i < fates.length; i += 1) {
        runs += fates[i] === fates[i - 1] ? 0 : 1;
      }
      expect(bytes.length).toBeGreaterThanOrEqual(runs);
      expect(bytes.length).toBeLessThanOrEqual(runs * 4);
    }),
  );
});

it('refuses a map that is not of this guest', () => {
  const bytes = encodePageRuns(new Uint8Array(100));
  expect(() => decodePageRuns(bytes, 99)).toThrow(RangeError);
  expect(() => decodePageRuns(bytes, 101)).toThrow('the map is of 100 page frames, and the guest has 101');
  expect(() => decodePageRuns(encodePageRuns(new Uint8Array(3000)).subarray(0, 1), 3000)).toThrow(RangeError);
});

it('is text for JSON that inflates to the runs', () => {
  const fates = Uint8Array.from({ length: 5000 }, (_, pfn) => (pfn % 7 === 0 ? 1 : 3));
  const text = encodePageMap(fates);
  expect(text).toMatch(/^[A-Za-z0-9+/]+=*$/);
  expect(inflateRawSync(Buffer.from(text, 'base64'))).toEqual(Buffer.from(encodePageRuns(fates)));
});
