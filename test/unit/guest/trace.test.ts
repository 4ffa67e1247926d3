import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { isLacunaError, messageOf } from '../../../src/errors.js';
import { findMetadataPlace, imageBitmaps } from '../../../src/guest/image.js';
import { metadataPages } from '../../../src/guest/metadata.js';
import { type GuestTrace, TraceBitmap, traceEndMs, traceWords } from '../../../src/guest/trace.js';
import { parseTrace, traceBytes } from '../../../src/guest/trace-file.js';
import { TraceChange, TracePlayer, traceImage, traceWrites } from '../../../src/guest/trace-player.js';
import { traceWorkload } from '../../../src/guest/trace-replay.js';
import { PageBitmap } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { type MadeUpTrace, madeUpTrace } from '../../support/made-up-trace.js';
import { pagesIn } from './small-guest.js';

function pages(trace: GuestTrace, sample: number, which: keyof typeof TraceBitmap): number[] {
  const words = traceWords(trace, sample, TraceBitmap[which]);
  return pagesIn(
    new PageBitmap(atomicMapper.words(words.buffer, words.byteOffset, words.length), words.length * 32),
  );
}

/** RAM with a hole, and files that go on behind it. */
const PFNS = 256;
const RAM = [
  [0, 64],
  [96, 190],
] as const;

function small(): MadeUpTrace {
  return madeUpTrace(PFNS, RAM, [
    { tMs: 0, free: [8, 9, 63, 96, 189], dirty: [], zero: [9, 20, 96] },
    { tMs: 1000, free: [8, 10, 11, 63, 189], dirty: [9, 30, 63, 120], zero: [20] },
    { tMs: 1900, free: [8, 10, 63, 96], dirty: [11, 189], zero: [20, 21, 96] },
    { tMs: 3000, free: [8, 10, 63, 96], dirty: [], zero: [20, 21, 96] },
  ]);
}

function parsed(files: MadeUpTrace = small()): GuestTrace {
  return parseTrace(atomicMapper, files, 'guests/made-up');
}

describe('the trace trace-build-2g', () => {
  const file = (path: string): Buffer =>
    readFileSync(fileURLToPath(new URL(`../../../bench/guests/trace-build-2g/${path}`, import.meta.url)));
  const meta = JSON.parse(file('meta.json').toString('utf8')) as {
    readonly counts: { readonly dirtyPagesPerSecond: { readonly mean: number } };
    readonly samples: readonly Readonly<Record<'tMs' | 'free' | 'dirty' | 'allocated' | 'freed', number>>[];
  };
  const records = gunzipSync(file('trace.bin.gz'));
  const trace = parseTrace(atomicMapper, { meta, records }, 'trace-build-2g');

  it('has the samples that its meta.json says, whose counts agree', () => {
    expect(trace.name).toBe('trace-build-2g');
    expect(trace.timesMs).toHaveLength(61);
    expect(traceEndMs(trace)).toBe(meta.samples.at(-1)!.tMs);
    expect(new RamLayout(trace.blocks).pageCount).toBe(524_288);
    for (const sample of [0, 1, 20, 60]) {
      expect(pages(trace, sample, 'free')).toHaveLength(meta.samples[sample]!.free);
      expect(pages(trace, sample, 'dirty')).toHaveLength(meta.samples[sample]!.dirty);
    }
  });

  it('has of each sample the bitmaps that a plain sum of the records gives', () => {
    const bitmapBytes = 524_288 / 8;
    const free = new Uint8Array(bitmapBytes);
    const zero = new Uint8Array(bitmapBytes);
    const wrong: number[] = [];
    for (let sample = 0; sample < 61; sample += 1) {
      const at = 64 + sample * (16 + 3 * bitmapBytes) + 16;
      for (let i = 0; i < bitmapBytes; i += 1) {
        free[i] = free[i]! ^ records[at + i]!;
        zero[i] = zero[i]! ^ records[at + 2 * bitmapBytes + i]!;
      }
      const bytesOf = (which: keyof typeof TraceBitmap): Buffer => {
        const words = traceWords(trace, sample, TraceBitmap[which]);
        return Buffer.from(words.buffer, words.byteOffset, words.byteLength);
      };
      const same =
        bytesOf('free').equals(free) &&
        bytesOf('zero').equals(zero) &&
        bytesOf('dirty').equals(records.subarray(at + bitmapBytes, at + 2 * bitmapBytes));
      if (!same) {
        wrong.push(sample);
      }
    }
    expect(wrong).toEqual([]);
  });

  it('plays as many changes as were counted, sample by sample', () => {
    const player = TracePlayer.at(trace, 0);
    for (let sample = 1; sample < 61; sample += 1) {
      const counts = [0, 0, 0];
      player.advance(trace.timesMs[sample]! - trace.timesMs[sample - 1]!, Number.POSITIVE_INFINITY);
      while (player.next()) {
        counts[player.change] = counts[player.change]! + 1;
      }
      expect(player.sample).toBe(sample);
      const { freed, allocated, written } = trace.changes[sample]!;
      expect(counts).toEqual([freed, allocated, written]);
      expect([freed, allocated]).toEqual([meta.samples[sample]!.freed, meta.samples[sample]!.allocated]);
    }
    expect(player.ended).toBe(true);
  });

  it('asks for about as many pages a second as were dirty, for what is written is mostly that', () => {
    const { pagesPerSecond } = traceWorkload(trace, 0);
    expect(pagesPerSecond / meta.counts.dirtyPagesPerSecond.mean).toBeCloseTo(1, 1);
    expect(traceWorkload(trace, 0, 10).pagesPerSecond).toBeCloseTo(10 * pagesPerSecond, 6);
    expect(traceWorkload(trace, traceEndMs(trace)).pagesPerSecond).toBe(0);
  });

  it('leaves room for the tables of the guest that replays it, wherever it begins', () => {
    for (const atMs of [0, 20_000, traceEndMs(trace)]) {
      const image = traceImage(atomicMapper, trace, atMs);
      const place = findMetadataPlace(atomicMapper, image, 4096) / 4096;
      const { free } = imageBitmaps(atomicMapper, image);
      const end = place + metadataPages({ pfnSpan: 524_288, ringSize: 4096 });
      expect(free.nextSet(place, end)).toBe(end);
    }
  });
});

describe('a made-up trace', () => {
  it('is read as it was written, its records beginning anywhere in their buffer', () => {
    const { meta, records } = small();
    const buffer = new Uint8Array(records.length + 3);
    buffer.set(records, 3);
    const trace = parseTrace(atomicMapper, { meta, records: buffer.subarray(3) }, 'made-up');
    expect(trace.timesMs).toEqual([0, 1000, 1900, 3000]);
    expect(pages(trace, 1, 'free')).toEqual([8, 10, 11, 63, 189]);
    expect(pages(trace, 1, 'dirty')).toEqual([9, 30, 63, 120]);
    expect(pages(trace, 2, 'zero')).toEqual([20, 21, 96]);
    expect(trace.changes).toEqual([
      { freed: 0, allocated: 0, written: 0 },
      { freed: 2, allocated: 2, written: 2 },
      { freed: 1, allocated: 2, written: 0 },
      { freed: 0, allocated: 0, written: 0 },
    ]);
  });

  it('says how many bytes there are to be unpacked', () => {
    const { meta, records } = small();
    expect(traceBytes(meta, 'made-up')).toBe(records.length);
    expect(() => traceBytes({ ...meta, pfns: -8 }, 'made-up')).toThrow('pfns');
  });

  type Sample = MadeUpTrace['meta']['samples'][number];
  const RECORD_BYTES = 16 + 3 * (PFNS / 8);
  /** Flips a page's bit in one bitmap of a record. */
  const flip = ({ records }: MadeUpTrace, sample: number, bitmap: number, pfn: number): object => {
    const at = 64 + sample * RECORD_BYTES + 16 + bitmap * (PFNS / 8) + (pfn >> 3);
    records[at] = records[at]! ^ (1 << (pfn & 7));
    return {};
  };
  const u32 = ({ records }: MadeUpTrace, at: number, value: number): object => {
    new DataView(records.buffer).setUint32(at, value, true);
    return {};
  };
  const meta = (change: (meta: MadeUpTrace['meta']) => object) => (trace: MadeUpTrace) => ({
    meta: { ...trace.meta, ...change(trace.meta) },
  });
  const sampleMeta = (index: number, change: Partial<Sample>) =>
    meta(({ samples }) => ({
      samples: samples.map((sample, i) => (i === index ? { ...sample, ...change } : sample)),
    }));

  const spoilers: [what: string, spoil: (trace: MadeUpTrace) => object, field: string][] = [
    ['records that were cut off', ({ records }) => ({ records: records.subarray(0, -1) }), 'bytes'],
    ['records of no bytes', () => ({ records: new Uint8Array() }), 'bytes'],
    ['a byte too many', ({ records }) => ({ records: new Uint8Array(records.length + 1) }), 'bytes'],
    ['no meta.json', () => ({ meta: undefined }), 'meta.json'],
    ['a list for a meta.json', () => ({ meta: [] }), 'meta.json'],
    ['another beginning', (trace) => u32(trace, 0, 0x4650_4b4c), 'KPFTRACE'],
    ['another version', (trace) => u32(trace, 8, 2), 'version'],
    ['another header', (trace) => u32(trace, 12, 128), 'header bytes'],
    ['larger pages', (trace) => u32(trace, 16, 16_384), 'page size'],
    ['a sample more in the header', (trace) => u32(trace, 20, 5), 'samples'],
    ['more pfns in the header', (trace) => u32(trace, 24, 512), 'pfns'],
    ['2^32 more pfns in the header', (trace) => u32(trace, 28, 1), 'pfns (upper half)'],
    ['larger bitmaps in the header', (trace) => u32(trace, 32, 64), 'bytes of a bitmap'],
    ['larger records in the header', (trace) => u32(trace, 36, 16), 'bytes of a record'],
    ['a bitmap more in the header', (trace) => u32(trace, 40, 4), 'bitmaps'],
    ['something in the header where nothing is', (trace) => u32(trace, 60, 1), 'zeroes'],
    ['a sample that was later', (trace) => u32(trace, 64 + RECORD_BYTES, 1001), 'sample 1'],
    ['a page that is free in the hole', (trace) => flip(trace, 1, 0, 70), 'pfn 70'],
    ['a page that is dirty in the hole', (trace) => flip(trace, 2, 1, 95), 'pfn 95'],
    ['a page that is zero behind RAM', (trace) => flip(trace, 3, 2, 190), 'pfn 190'],
    ['a page that is free far behind RAM', (trace) => flip(trace, 0, 0, 255), 'pfn 255'],
    ['a page that is dirty far behind RAM', (trace) => flip(trace, 1, 1, 200), 'pfn 200'],
    ['a page more free', (trace) => flip(trace, 1, 0, 12), 'sample 1'],
    ['a page more dirty', (trace) => flip(trace, 1, 1, 12), 'dirty'],
    ['a page more zero', (trace) => flip(trace, 2, 2, 12), 'zero'],
    [
      'a page instead of another',
      (trace) => {
        flip(trace, 1, 0, 10); // was to become free
        return flip(trace, 1, 0, 96); // was not to be free any more
      },
      'freed',
    ],
    [
      'a page that is dirty at the first sample',
      (trace) => {
        flip(trace, 0, 1, 12);
        return sampleMeta(0, { dirty: 1 })(trace);
      },
      'sample 0',
    ],
    [
      'a first sample that is not at 0',
      (trace) => {
        u32(trace, 64, 5);
        return sampleMeta(0, { tMs: 5 })(trace);
      },
      'tMs',
    ],
    [
      'two samples at one time',
      (trace) => {
        u32(trace, 64 + 2 * RECORD_BYTES, 1000);
        return sampleMeta(2, { tMs: 1000 })(trace);
      },
      'tMs',
    ],
    ['a sample less in meta.json', meta(({ samples }) => ({ samples: samples.slice(1) })), 'counts.samples'],
    ['no samples', meta(() => ({ samples: [] })), 'samples'],
    ['a negative count', sampleMeta(1, { free: -1 }), 'samples'],
    ['a count that is no number', sampleMeta(1, { zero: 'many' as unknown as number }), 'samples'],
    ['another count of pages', meta(() => ({ counts: { pages: 157, samples: 4 } })), 'counts.pages'],
    ['no counts', meta(() => ({ counts: undefined })), 'counts'],
    ['no name', meta(() => ({ name: '' })), 'name'],
    ['other page sizes', meta(() => ({ pageSize: 16_384 })), 'pageSize'],
    ['pfns that are no whole bytes', meta(() => ({ pfns: 255 })), 'pfns'],
    ['pfns without end', meta(() => ({ pfns: 2 ** 52 })), 'pfns'],
    ['RAM without end', meta(() => ({ backing: [{ startGpa: 0, endGpa: 2 ** 52 }] })), 'backing ends at pfn'],
    ['fewer pfns than RAM', meta(() => ({ pfns: 184 })), 'pfns'],
    ['no RAM', meta(() => ({ backing: [] })), 'backing'],
    ['RAM that is not whole pages', meta(() => ({ backing: [{ startGpa: 0, endGpa: 4097 }] })), 'backing'],
    ['another size of memory', meta(() => ({ memoryBytes: 159 * 4096 })), 'memoryBytes'],
  ];

  it.each(spoilers)('is refused with %s, and the message names folder and field', (_, spoil, field) => {
    const files = small();
    const spoilt = { ...files, ...spoil(files) };
    let thrown: unknown;
    try {
      parseTrace(atomicMapper, spoilt, 'guests/spoilt');
    } catch (error) {
      thrown = error;
    }
    expect(isLacunaError(thrown, 'CAPTURE_MALFORMED'), messageOf(thrown)).toBe(true);
    expect(messageOf(thrown)).toContain('guests/spoilt');
    expect(messageOf(thrown)).toContain(field);
  });
});

describe('a moment of a trace', () => {
  function stateAt(atMs: number): { free: number[]; zero: number[] } {
    const { free, zero } = imageBitmaps(atomicMapper, traceImage(atomicMapper, parsed(), atMs));
    return { free: pagesIn(free), zero: pagesIn(zero) };
  }

  it('has at a sample what the sample says', () => {
    expect(stateAt(0)).toEqual({ free: [8, 9, 63, 96, 189], zero: [9, 20, 96] });
    expect(stateAt(1900)).toEqual({ free: [8, 10, 63, 96], zero: [20, 21, 96] });
    expect(stateAt(3000)).toEqual({ free: [8, 10, 63, 96], zero: [20, 21, 96] });
  });

  it('has in between what has changed until then: first freed, then allocated, then written', () => {
    // Six changes in 1000 ms: free 10, free 11, take 9, take 96, write 30, write 120.
    expect(stateAt(166)).toEqual({ free: [8, 9, 63, 96, 189], zero: [9, 20, 96] });
    expect(stateAt(167).free).toEqual([8, 9, 10, 63, 96, 189]);
    expect(stateAt(400).free).toEqual([8, 9, 10, 11, 63, 96, 189]);
    expect(stateAt(500)).toEqual({ free: [8, 10, 11, 63, 96, 189], zero: [20, 96] });
    expect(stateAt(999)).toEqual({ free: [8, 10, 11, 63, 189], zero: [20] });
  });

  it.each([-1, 3001, Number.NaN, Number.POSITIVE_INFINITY])(
    'is refused if the trace has none: %s ms',
    (atMs) => {
      for (const use of [
        () => traceImage(atomicMapper, parsed(), atMs),
        () => traceWorkload(parsed(), atMs),
      ]) {
        expect(use).toThrow(expect.toSatisfy((thrown) => isLacunaError(thrown, 'INVALID_ARGUMENT')));
        expect(use).toThrow('from 0 to 3 s');
      }
    },
  );

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])('can not be replayed at a speed of %s', (speed) => {
    expect(() => traceWorkload(parsed(), 0, speed)).toThrow('speed');
  });
});

it('counts what a trace writes between two moments', () => {
  expect(traceWrites(parsed(), 0, 3000)).toBe(6); // 9, 96; 30, 120; 11, 189
  expect(traceWrites(parsed(), 400, 900)).toBe(3); // 9, 96; 30
  expect(traceWrites(parsed(), 1000, 1000)).toBe(0);
});

describe('the player', () => {
  it('says when the next change is due, and when the next sample is', () => {
    const player = TracePlayer.at(parsed(), 0);
    expect(player.dueInMs()).toBeCloseTo(1000 / 6, 6);
    player.advance(960, Number.POSITIVE_INFINITY);
    expect(player.dueInMs()).toBe(0);
    while (player.next()) {
      // five of six
    }
    expect([player.change, player.pfn]).toEqual([TraceChange.written, 30]);
    expect(player.dueInMs()).toBeCloseTo(40, 6);
    player.advance(940, Number.POSITIVE_INFINITY);
    while (player.next()) {
      // into the last interval, in which nothing changes
    }
    expect(player.sample).toBe(2);
    expect(player.dueInMs()).toBeCloseTo(1100, 6);
    expect(player.atMs).toBeCloseTo(1900, 6);
  });

  it('owes no more than it is allowed to', () => {
    const player = TracePlayer.at(parsed(), 0);
    player.advance(5000, 400);
    let changes = 0;
    while (player.next()) {
      changes += 1;
    }
    expect(changes).toBe(2);
    expect(player.atMs).toBe(400);
  });

  it('goes on over several samples at once, also over one without changes, and ends with the last', () => {
    const player = TracePlayer.at(parsed(), 0);
    player.advance(1_000_000, Number.POSITIVE_INFINITY);
    let changes = 0;
    while (player.next()) {
      changes += 1;
    }
    expect(changes).toBe(9);
    expect(player.ended).toBe(true);
    expect(player.atMs).toBe(3000);
    expect(player.dueInMs()).toBe(Number.POSITIVE_INFINITY);
    player.advance(1000, Number.POSITIVE_INFINITY);
    expect(player.next()).toBe(false);
    expect(player.atMs).toBe(3000);
  });
});
