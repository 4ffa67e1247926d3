import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PageBitmap } from '../../../src/memory/page-bitmap.js';
import { type RamBlock, RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import {
  type EstimateInput,
  estimateMigration,
  type MigrationEstimate,
  MOST_MODELLED_BYTES_PER_SECOND,
} from '../../../src/migration/estimate.js';
import { effort } from '../../support/long.js';

const PAGES = 4096;
const LAYOUT = layoutOf([0, PAGES]);
const GBIT_10 = 1.25e9;

function layoutOf(...blocks: readonly (readonly [first: number, end: number])[]): RamLayout {
  return new RamLayout(
    blocks.map(([first, end]): RamBlock => ({ startGpa: first * 4096, endGpa: end * 4096 })),
  );
}

function bitmap(runs: readonly (readonly [pfn: number, pages: number])[], pageCount = PAGES): PageBitmap {
  const result = PageBitmap.allocateOwn(atomicMapper, pageCount);
  for (const [pfn, pages] of runs) {
    result.setRange(pfn, pages);
  }
  return result;
}

function run(changes: Partial<EstimateInput> = {}): MigrationEstimate {
  return estimateMigration(atomicMapper, {
    layout: LAYOUT,
    reported: undefined,
    zero: undefined,
    bytesPerSecond: GBIT_10,
    zeroScanBytesPerSecond: 8e9,
    dirty: { pagesPerSecond: 0, setPages: 0 },
    ...changes,
  });
}

/** Frames that end rounds and the migration: two rounds' ends, the device's state, finish, and an empty last run. */
const END_FRAMES = 5;

describe('bytes', () => {
  it('are all pages, and a header for every 256 of them', () => {
    expect(run()).toMatchObject({
      pages: PAGES,
      zeroPages: 0,
      skippedPages: 0,
      transferredBytes: PAGES * 4096 + (PAGES / 256 + END_FRAMES) * 32,
    });
  });

  it('are none for pages that are reported; what is left is cut into runs around them', () => {
    // Used: 0–9; 20–299, in three runs, for the cursor ends the one after a full run at the next bitmap word (288);
    // 1300–4095, in 12 for the same reason.
    const reported = bitmap([
      [10, 10],
      [300, 1000],
    ]);
    expect(run({ reported })).toMatchObject({
      pages: PAGES - 1010,
      skippedPages: 1010,
      transferredBytes: (PAGES - 1010) * 4096 + (1 + 3 + 12 + END_FRAMES) * 32,
    });
  });

  it('are a header for zero pages; a run is cut where data and zeroes meet', () => {
    // In the first run of 256: data 0–9, zero 10–19, data 20–255; the second is zero; 14 more of data.
    const zero = bitmap([
      [10, 10],
      [256, 256],
    ]);
    expect(run({ zero })).toMatchObject({
      pages: PAGES - 266,
      zeroPages: 266,
      transferredBytes: (PAGES - 266) * 4096 + (3 + 1 + 14 + END_FRAMES) * 32,
    });
  });

  it('do not count a hole, and no run goes across it', () => {
    const layout = layoutOf([0, 100], [200, 300]);
    expect(run({ layout })).toMatchObject({
      pages: 200,
      transferredBytes: 200 * 4096 + (2 + END_FRAMES) * 32,
    });
  });

  it('grow by what the guest writes meanwhile, up to its set', () => {
    // 16 MiB at 10 Mbit/s take 13 s.
    const slow = { bytesPerSecond: 1.25e6 };
    expect(run({ ...slow, dirty: { pagesPerSecond: 50, setPages: 64 } }).pages).toBe(PAGES + 64);
    const some = run({ ...slow, dirty: { pagesPerSecond: 2, setPages: 64 } }).pages - PAGES;
    expect(some).toBeGreaterThanOrEqual(26);
    expect(some).toBeLessThanOrEqual(28);
  });
});

describe('time', () => {
  it('is bytes by rate where the link is slow, and a little more', () => {
    const { totalMs, transferredBytes } = run({ bytesPerSecond: 1.25e6 });
    const linkMs = transferredBytes / 1250;
    expect(totalMs).toBeGreaterThan(linkMs - 5); // the link's queue may hold 4 ms at the start
    expect(totalMs).toBeLessThan(linkMs + 15);
  });

  it('is the scan where the link has nothing to carry', () => {
    const { totalMs } = run({ zero: bitmap([[0, PAGES]]), zeroScanBytesPerSecond: 1e8 });
    const scanMs = (PAGES * 4096) / 1e5;
    expect(totalMs).toBeGreaterThan(scanMs);
    expect(totalMs).toBeLessThan(scanMs + 20);
  });

  it('is not known where the link does not limit it; bytes are', () => {
    expect(run({ bytesPerSecond: Number.POSITIVE_INFINITY })).toEqual({ ...run(), totalMs: null });
    expect(run({ bytesPerSecond: MOST_MODELLED_BYTES_PER_SECOND * 1.01 }).totalMs).toBeNull();
    expect(run({ bytesPerSecond: MOST_MODELLED_BYTES_PER_SECOND }).totalMs).not.toBeNull();
  });

  it('and bytes only fall with every page more that is reported, and with a faster link or scan', () => {
    const someRuns = fc.array(fc.tuple(fc.nat(PAGES - 600), fc.integer({ min: 1, max: 600 })), {
      minLength: 1,
      maxLength: 12,
    });
    // A report itself takes time, and may cut a run in two: that much more it may cost.
    const [slackMs, slackBytes] = [0.1, 13 * 32];
    fc.assert(
      fc.property(someRuns, someRuns, someRuns, fc.boolean(), (less, more, zeroRuns, detect) => {
        const zero = detect ? bitmap(zeroRuns) : undefined;
        const few = run({ reported: bitmap(less), zero });
        const many = run({ reported: bitmap([...less, ...more]), zero });
        expect(many.skippedPages).toBeGreaterThanOrEqual(few.skippedPages);
        expect(many.pages + many.zeroPages + many.skippedPages).toBe(PAGES);
        expect(many.pages).toBeLessThanOrEqual(few.pages);
        expect(many.transferredBytes).toBeLessThanOrEqual(few.transferredBytes + slackBytes);
        expect(many.totalMs!).toBeLessThanOrEqual(few.totalMs! + slackMs);
        expect(
          run({ reported: bitmap(less), zero, bytesPerSecond: 2 * GBIT_10 }).totalMs,
        ).toBeLessThanOrEqual(few.totalMs!);
        expect(
          run({ reported: bitmap(less), zero, zeroScanBytesPerSecond: 2e10 }).totalMs,
        ).toBeLessThanOrEqual(few.totalMs!);
        const seen = run({ reported: bitmap(less), zero: bitmap(zeroRuns) });
        expect(seen.pages).toBeLessThanOrEqual(run({ reported: bitmap(less) }).pages);
      }),
      effort(100, 2000),
    );
  });
});
