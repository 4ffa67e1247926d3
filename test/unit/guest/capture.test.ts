import { describe, expect, it } from 'vitest';
import { isLacunaError, messageOf } from '../../../src/errors.js';
import { type CaptureFiles, parseCapture } from '../../../src/guest/capture.js';
import { imageBitmaps } from '../../../src/guest/image.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { KPF_BUDDY, KPF_NOPAGE } from '../../../src/spec/kpageflags.js';
import { CAPTURES, MADE_UP_FREE, MADE_UP_ZERO, madeUpCapture, readCapture } from './captures.js';
import { makeAllocator, pagesIn, runsIn } from './small-guest.js';

describe.each(CAPTURES)('the capture %s', (name) => {
  const { meta, ...files } = readCapture(name);
  const { counts } = meta;
  const image = parseCapture(atomicMapper, { meta, ...files }, name);
  const layout = new RamLayout(image.blocks);
  const { free, zero } = imageBitmaps(atomicMapper, image);

  it('has the pages free and zero that its meta.json counts', () => {
    expect(image.name).toBe(name);
    expect(layout.memoryBytes).toBe(meta.memoryBytes);
    expect(free.count()).toBe(counts.free);
    expect(zero.count()).toBe(counts.zero);
    expect(pagesIn(free).filter((pfn) => zero.test(pfn))).toHaveLength(counts.zeroAndFree);
  });

  it('has the free runs that its meta.json counts, all of them in RAM', () => {
    const runs = runsIn(free);
    expect(runs).toHaveLength(counts.freeRuns);
    expect(Math.max(...runs.map(([, pageCount]) => pageCount))).toBe(counts.longestFreeRunPages);
    const outside = runs.filter(([pfn, pageCount]) => !layout.containsRange(pfn * 4096, pageCount * 4096));
    expect(outside).toEqual([]);
  });

  it('makes an allocator with the blocks that its meta.json counts', () => {
    const { allocator } = makeAllocator(layout.pfnSpan);
    allocator.initialise(free);
    expect(allocator.blocksByOrder()).toEqual(counts.freeByOrder);
    expect(allocator.freePages).toBe(counts.free);
    expect(allocator.inconsistency()).toBeUndefined();
  });
});

type MadeUp = ReturnType<typeof madeUpCapture>;

function setFlags(capture: MadeUp, pfn: number, flags: number): void {
  new DataView(capture.kpageflags.buffer).setUint32(pfn * 8, flags, true);
}

describe('a made-up capture', () => {
  it('is read as it was written, its files beginning anywhere in their buffers', () => {
    const { meta, kpageflags, zero } = madeUpCapture();
    const shifted = (bytes: Uint8Array): Uint8Array => {
      const buffer = new Uint8Array(bytes.length + 3);
      buffer.set(bytes, 3);
      return buffer.subarray(3);
    };
    const files = { meta, kpageflags: shifted(kpageflags), zero: shifted(zero) };
    const image = parseCapture(atomicMapper, files, 'made-up');
    const bitmaps = imageBitmaps(atomicMapper, image);
    expect(pagesIn(bitmaps.free)).toEqual(MADE_UP_FREE);
    expect(pagesIn(bitmaps.zero)).toEqual(MADE_UP_ZERO);
  });

  const spoilers: [what: string, spoil: (capture: MadeUp) => Partial<CaptureFiles>, field: string][] = [
    [
      'kpageflags that were cut off',
      ({ kpageflags }) => ({ kpageflags: kpageflags.subarray(8) }),
      'kpageflags',
    ],
    ['kpageflags of no bytes', () => ({ kpageflags: new Uint8Array() }), 'kpageflags'],
    ['a zero bitmap that was cut off', ({ zero }) => ({ zero: zero.subarray(1) }), 'zero bitmap'],
    ['a zero bitmap that is too long', () => ({ zero: new Uint8Array(64) }), 'zero bitmap'],
    ['no meta.json', () => ({ meta: undefined }), 'meta.json'],
    ['a list for a meta.json', () => ({ meta: [] }), 'meta.json'],
    [
      'a free page in the hole',
      (capture) => {
        setFlags(capture, 70, 1 << KPF_BUDDY);
        capture.meta.counts.free = MADE_UP_FREE.length + 1;
        return {};
      },
      'pfn 70',
    ],
    [
      'a free page beyond RAM',
      (capture) => {
        setFlags(capture, 192, 1 << KPF_BUDDY);
        capture.meta.counts.free = MADE_UP_FREE.length + 1;
        return {};
      },
      'pfn 192',
    ],
    [
      'a page that is free and does not exist',
      (capture) => {
        setFlags(capture, 8, (1 << KPF_BUDDY) | (1 << KPF_NOPAGE));
        return {};
      },
      'pfn 8',
    ],
    [
      'a page more free than counted',
      (capture) => {
        setFlags(capture, 12, 1 << KPF_BUDDY);
        return {};
      },
      'counts.free',
    ],
    [
      'a zero page beyond RAM',
      (capture) => {
        capture.zero[200 >> 3] = 1;
        capture.meta.counts.zero = MADE_UP_ZERO.length + 1;
        return {};
      },
      'counts.zero',
    ],
    [
      'a zero page just behind RAM',
      (capture) => {
        capture.zero[191 >> 3] = 1 << 7;
        capture.meta.counts.zero = MADE_UP_ZERO.length;
        return {};
      },
      'pfn 191',
    ],
    [
      'a zero page in the hole',
      (capture) => {
        capture.zero[72 >> 3] = 1;
        capture.meta.counts.zero = MADE_UP_ZERO.length + 1;
        return {};
      },
      'pfn 72',
    ],
  ];

  const fields: [field: string, value: unknown][] = [
    ['name', ''],
    ['name', undefined],
    ['memoryBytes', 158 * 4096 + 1],
    ['memoryBytes', 157 * 4096],
    ['memoryBytes', '647168'],
    ['pageSize', 16_384],
    ['pageSize', undefined],
    ['pfns', 255],
    ['pfns', 0],
    ['pfns', -256],
    ['pfns', undefined],
    ['backing', []],
    ['backing', undefined],
    ['backing', [{ startGpa: 0 }]],
    ['backing', [{ startGpa: 0, endGpa: 158 * 4096 + 5 }]],
    ['backing', [{ startGpa: 4096 * 158, endGpa: 4096 }]],
    ['backing', [{ startGpa: 0, endGpa: 2 ** 53 }]],
    ['backing', [{ startGpa: 128 * 4096, endGpa: 286 * 4096 }]],
    ['backing', [{ startGpa: Number.NaN, endGpa: 4096 }]],
    ['counts', undefined],
    ['counts', { pages: 158, free: MADE_UP_FREE.length }],
    ['counts', { pages: 158, free: 0, zero: MADE_UP_ZERO.length }],
    ['counts', { pages: 158, free: MADE_UP_FREE.length, zero: 0 }],
    ['counts', { pages: 158, free: MADE_UP_FREE.length, zero: null }],
    ['counts', { pages: 159, free: MADE_UP_FREE.length, zero: MADE_UP_ZERO.length }],
  ];
  for (const [field, value] of fields) {
    spoilers.push([
      `${field} = ${JSON.stringify(value)}`,
      ({ meta }) => ({ meta: { ...meta, [field]: value } }),
      field,
    ]);
  }

  it.each(spoilers)('is refused with %s, and the message names folder and field', (_, spoil, field) => {
    const capture = madeUpCapture();
    const spoilt = { ...capture, ...spoil(capture) };
    let thrown: unknown;
    try {
      parseCapture(atomicMapper, spoilt, 'guests/spoilt');
    } catch (error) {
      thrown = error;
    }
    expect(isLacunaError(thrown, 'CAPTURE_MALFORMED'), messageOf(thrown)).toBe(true);
    expect(messageOf(thrown)).toContain('guests/spoilt');
    expect(messageOf(thrown)).toContain(field);
  });
});

describe('a capture without a zero bitmap', () => {
  const flagsAlone = (): MadeUp & { zero?: undefined } => {
    const { meta, kpageflags } = madeUpCapture();
    Object.assign(meta, { counts: { pages: 158, free: MADE_UP_FREE.length } });
    return { meta, kpageflags } as MadeUp & { zero?: undefined };
  };

  it('says that it is not known which pages are zero', () => {
    const image = parseCapture(atomicMapper, flagsAlone(), 'made-up');
    expect(image.zeroUnknown).toBe(true);
    expect(pagesIn(imageBitmaps(atomicMapper, image).zero)).toEqual([]);
    expect(pagesIn(imageBitmaps(atomicMapper, image).free)).toEqual(MADE_UP_FREE);
    expect(parseCapture(atomicMapper, madeUpCapture(), 'made-up')).not.toHaveProperty('zeroUnknown');
  });

  it('is refused if its meta.json counts zero pages: the file was lost', () => {
    const { meta, kpageflags } = madeUpCapture();
    expect(() => parseCapture(atomicMapper, { meta, kpageflags }, 'made-up')).toThrow(
      /zero\.bin\.gz is missing.*counts\.zero says 5/,
    );
  });
});
