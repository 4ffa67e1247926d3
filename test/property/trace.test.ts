import fc from 'fast-check';
import { expect, it } from 'vitest';
import { isLacunaError } from '../../src/errors.js';
import { imageBitmaps } from '../../src/guest/image.js';
import { type GuestTrace, TraceBitmap, traceEndMs, traceWords } from '../../src/guest/trace.js';
import { parseTrace } from '../../src/guest/trace-file.js';
import { TracePlayer, type TracePosition, traceImage } from '../../src/guest/trace-player.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { effort } from '../support/long.js';
import { type MadeUpSample, type MadeUpTrace, madeUpTrace } from '../support/made-up-trace.js';
import { type NaiveChange, naiveChanges, naiveTrace } from '../support/naive-trace.js';
import { pagesIn } from '../unit/guest/small-guest.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 600;
const PFNS = 208;
const RAM = [
  [0, 64],
  [96, 190],
] as const;

const isRam = (pfn: number): boolean => RAM.some(([first, end]) => pfn >= first && pfn < end);
const somePages = fc
  .uniqueArray(fc.nat(PFNS - 1), { maxLength: 60, size: 'max' })
  .map((pages) => pages.filter(isRam));

const someTrace = fc
  .array(
    fc.record({ ms: fc.integer({ min: 1, max: 50 }), free: somePages, dirty: somePages, zero: somePages }),
    { minLength: 1, maxLength: 6 },
  )
  .map((steps) => {
    let tMs = 0;
    const samples: MadeUpSample[] = steps.map(({ ms, free, dirty, zero }, i) => {
      tMs += i === 0 ? 0 : ms;
      return { tMs, free, dirty: i === 0 ? [] : dirty, zero };
    });
    return madeUpTrace(PFNS, RAM, samples);
  });

function pages(trace: GuestTrace, sample: number, which: keyof typeof TraceBitmap): number[] {
  const words = traceWords(trace, sample, TraceBitmap[which]);
  return pagesIn(
    new PageBitmap(atomicMapper.words(words.buffer, words.byteOffset, words.length), words.length * 32),
  );
}

const ascending = (set: ReadonlySet<number>): number[] => [...set].sort((a, b) => a - b);

/** Takes it or refuses it, as the naive twin does, and to the page; true: it was taken. */
function parseOrRefuse(files: MadeUpTrace): boolean {
  const expected = naiveTrace(files);
  try {
    const trace = parseTrace(atomicMapper, files, 'guests/damaged');
    expect(expected).toBeDefined();
    for (const [i, sample] of expected!.entries()) {
      for (const which of ['free', 'dirty', 'zero'] as const) {
        expect(pages(trace, i, which)).toEqual(ascending(sample[which]));
      }
    }
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

it('takes any trace that is consistent', () => {
  fc.assert(
    fc.property(someTrace, (files) => {
      expect(parseOrRefuse(files)).toBe(true);
    }),
    effort(200, TIME_LIMIT_MS),
  );
});

it('takes or refuses records that were damaged anywhere as its naive twin does', () => {
  const someDamage = fc.record({
    flips: fc.array(fc.record({ at: fc.nat(), mask: fc.integer({ min: 1, max: 255 }) }), { maxLength: 4 }),
    keep: fc.option(fc.nat(), { freq: 5, nil: undefined }),
  });
  let refused = 0;
  fc.assert(
    fc.property(someTrace, someDamage, (files, { flips, keep }) => {
      for (const { at, mask } of flips) {
        const i = at % files.records.length;
        files.records[i] = files.records[i]! ^ mask;
      }
      const records =
        keep === undefined ? files.records : files.records.subarray(0, keep % files.records.length);
      refused += parseOrRefuse({ ...files, records }) ? 0 : 1;
    }),
    effort(300, TIME_LIMIT_MS),
  );
  expect(refused).toBeGreaterThan(0);
});

it('plays every change once and in order, however time passes and wherever it goes on from what was saved', () => {
  const steps = fc.array(
    fc.record({ ms: fc.double({ min: 0, max: 40, noNaN: true }), saved: fc.boolean() }),
    {
      maxLength: 40,
      size: 'max',
    },
  );
  fc.assert(
    fc.property(someTrace, steps, fc.double({ min: 0, max: 1, noNaN: true }), (files, waits, from) => {
      const trace = parseTrace(atomicMapper, files, 'made-up');
      const naive = naiveTrace(files)!;
      const atMs = from * traceEndMs(trace);
      // The state where it begins, then change by change.
      const free = new Set(pagesIn(imageBitmaps(atomicMapper, traceImage(atomicMapper, trace, atMs)).free));
      let player = TracePlayer.at(trace, atMs);
      const begun = player.sample;
      const given: NaiveChange[] = [];
      const play = (): void => {
        while (player.next()) {
          given.push([player.change, player.pfn]);
          if (player.change === 0) {
            free.add(player.pfn);
          } else {
            free.delete(player.pfn);
          }
        }
      };
      for (const { ms, saved } of waits) {
        player.advance(ms, Number.POSITIVE_INFINITY);
        if (saved) {
          player = new TracePlayer(trace, JSON.parse(JSON.stringify(player.save())) as TracePosition);
        }
        play();
        const { sample, sinceMs, done } = player.save();
        const before = naive[sample]!;
        const after = naive[sample + 1];
        if (after !== undefined) {
          // As much as is due, and free what the changes so far make of the sample before.
          const all = naiveChanges(before, after);
          expect(Math.abs(done - (all.length * sinceMs) / (after.tMs - before.tMs))).toBeLessThan(1.000_001);
          const now = new Set(before.free);
          for (const [change, pfn] of all.slice(0, done)) {
            if (change === 0) {
              now.add(pfn);
            } else {
              now.delete(pfn);
            }
          }
          expect(ascending(free)).toEqual(ascending(now));
        }
      }
      player.advance(1e6, Number.POSITIVE_INFINITY);
      play();
      expect(player.ended).toBe(true);
      expect(ascending(free)).toEqual(ascending(naive.at(-1)!.free));
      const all = naive.slice(begun + 1).flatMap((sample, i) => naiveChanges(naive[begun + i]!, sample));
      expect(given).toEqual(all.slice(all.length - given.length));
      // What had been given out when it began belongs to the sample before.
      expect(all.length - given.length).toBe(TracePlayer.at(trace, atMs).save().done);
    }),
    effort(200, TIME_LIMIT_MS),
  );
});
