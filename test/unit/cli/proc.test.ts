import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { capture } from '../../../src/cli/capture/capture.js';
import { loadCapture } from '../../../src/cli/captures.js';
import { readMemory } from '../../../src/cli/estimate/memory.js';
import { orderReports, predict } from '../../../src/cli/estimate/predict.js';
import { explainUnreadable, parseIomem, wholePages } from '../../../src/cli/proc.js';
import { isLacunaError, messageOf } from '../../../src/errors.js';
import { imageBitmaps } from '../../../src/guest/image.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { pagesIn } from '../guest/small-guest.js';

let folder: string;
let proc: string;

const FREE = 1n << 10n;
const NOPAGE = 1n << 20n;
const FILE = 0x28n;

/** 512 frames: pages 16–95 RAM but for a hole at 64–71; 20–29 and 80–89 free; the rest of RAM page cache. */
function madeUpFlags(): Buffer {
  const words = Array.from({ length: 512 }, (_, pfn) => {
    if (pfn < 16 || pfn >= 96 || (pfn >= 64 && pfn < 72)) {
      return NOPAGE;
    }
    return (pfn >= 20 && pfn < 30) || (pfn >= 80 && pfn < 90) ? FREE : FILE;
  });
  return Buffer.from(new BigUint64Array(words).buffer);
}
const MADE_UP_FREE = [
  ...Array.from({ length: 10 }, (_, i) => 20 + i),
  ...Array.from({ length: 10 }, (_, i) => 80 + i),
];

// The first page of the first block and the last of the second are RAM in part only.
const IOMEM = `00000000-0000ffff : Reserved
0000f800-0003ffff : System RAM
  00010000-00012fff : Kernel code
00040000-00047fff : Reserved
00048000-000607ff : System RAM
fec00000-fec003ff : IOAPIC 0
`;

/** A folder that looks like /proc. */
function makeProc(files: Readonly<Record<string, string | Uint8Array>>): void {
  rmSync(proc, { recursive: true, force: true });
  mkdirSync(join(proc, 'self'), { recursive: true });
  mkdirSync(join(proc, 'sys', 'kernel'), { recursive: true });
  for (const [name, contents] of Object.entries(files)) {
    writeFileSync(join(proc, name), contents);
  }
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-proc-'));
  proc = join(folder, 'proc');
  makeProc({
    kpageflags: madeUpFlags(),
    iomem: IOMEM,
    meminfo: 'MemTotal:   288 kB\nMemFree:   80 kB\nHugePages_Total:   0\n',
    buddyinfo: `Node 0, zone DMA ${'1 '.repeat(11)}\n`,
    'sys/kernel/osrelease': '6.1.0-test\n',
    'self/smaps': 'KernelPageSize:        4 kB\n',
  });
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

async function refusal(doing: Promise<unknown>): Promise<string> {
  const thrown: unknown = await doing.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(isLacunaError(thrown), messageOf(thrown)).toBe(true);
  return messageOf(thrown);
}

describe('/proc/iomem', () => {
  it('says where RAM lies; of a page that is RAM in part, nothing', () => {
    const ram = parseIomem(IOMEM)!;
    expect(ram).toEqual([
      { startGpa: 0xf800, endGpa: 0x40000 },
      { startGpa: 0x48000, endGpa: 0x60800 },
    ]);
    expect(wholePages(ram)).toEqual([
      { startGpa: 0x10000, endGpa: 0x40000 },
      { startGpa: 0x48000, endGpa: 0x60000 },
    ]);
    expect(wholePages([{ startGpa: 0x800, endGpa: 0x1800 }])).toEqual([]);
  });

  it('says nothing where its addresses are hidden, or where there is none', () => {
    expect(parseIomem(IOMEM.replaceAll(/^( *)[0-9a-f]+-[0-9a-f]+/gm, '$100000000-00000000'))).toBeUndefined();
    expect(parseIomem('')).toBeUndefined();
  });
});

describe('a machine', () => {
  it('is read: flags, and RAM from iomem', async () => {
    const { map, image, ramFrom } = await readMemory(undefined, proc);
    expect(ramFrom).toBe('iomem');
    expect(map.blocks).toEqual(wholePages(parseIomem(IOMEM)!));
    expect(map.use).toMatchObject({ pages: 72, free: 20, pageCache: 52 });
    expect(map.pageCache.droppable).toBe(52);
    expect(pagesIn(imageBitmaps(atomicMapper, image).free)).toEqual(MADE_UP_FREE);
    expect(image.zeroUnknown).toBe(true);
  });

  it('has the RAM that its flags show where iomem hides it', async () => {
    makeProc({ kpageflags: madeUpFlags(), iomem: '00000000-00000000 : System RAM\n' });
    const { map, ramFrom } = await readMemory(undefined, proc);
    expect(ramFrom).toBe('flags');
    expect(map.use.pages).toBe(72);
    expect(map.blocks).toHaveLength(2);
  });

  it('is refused with what to do: no flags, larger pages, flags that end before RAM, RAM that iomem lacks', async () => {
    makeProc({ iomem: IOMEM });
    expect(await refusal(readMemory(undefined, proc))).toMatch(/is not there.*copy of another machine's/);
    makeProc({ kpageflags: madeUpFlags(), 'self/smaps': 'KernelPageSize:       64 kB\n' });
    expect(await refusal(readMemory(undefined, proc))).toMatch(/pages have 64 KiB/);
    makeProc({ kpageflags: madeUpFlags().subarray(0, 80 * 8), iomem: IOMEM });
    expect(await refusal(readMemory(undefined, proc))).toMatch(/the flags end at pfn 80 and RAM at pfn 96/);
    makeProc({ kpageflags: madeUpFlags(), iomem: '00010000-0003ffff : System RAM\n' });
    expect(await refusal(readMemory(undefined, proc))).toMatch(/10 pages are free where .*iomem has no RAM/);
  });

  it('that only root may read says so', () => {
    for (const code of ['EACCES', 'EPERM']) {
      const { message } = explainUnreadable(Object.assign(new Error('no'), { code }), '/proc/kpageflags');
      expect(message).toMatch(/only root.*sudo cat \/proc\/kpageflags > FILE/);
    }
  });
});

describe('a file of flags', () => {
  it('is read raw or packed, RAM from the flags', async () => {
    for (const bytes of [madeUpFlags(), gzipSync(madeUpFlags())]) {
      writeFileSync(join(folder, 'flags'), bytes);
      const { map, kind, ramFrom, image } = await readMemory(join(folder, 'flags'), proc);
      expect({ kind, ramFrom, name: image.name }).toEqual({ kind: 'flags', ramFrom: 'flags', name: 'flags' });
      expect(map.use).toMatchObject({ pages: 72, free: 20 });
    }
  });

  it.each<[string, Uint8Array, RegExp]>([
    ['cut off', madeUpFlags().subarray(0, 1003), /1003 bytes are no whole number/],
    ['empty', new Uint8Array(), /empty/],
    ['packed and cut off', gzipSync(madeUpFlags()).subarray(0, 40), /can't be read: unexpected end of file/],
    ['packed and damaged', gzipSync(madeUpFlags()).fill(7, 20, 30), /can't be read/],
    ['packed, of nothing', gzipSync(new Uint8Array()), /empty/],
    [
      'packed, of a length that is none',
      gzipSync(madeUpFlags().subarray(0, 9)),
      /9 bytes are no whole number/,
    ],
    ['something else', Buffer.from('0123456789abcdef'), /no copy of \/proc\/kpageflags/],
  ])('that is %s is refused', async (_, bytes, message) => {
    writeFileSync(join(folder, 'flags'), bytes);
    const text = await refusal(readMemory(join(folder, 'flags'), proc));
    expect(text).toMatch(message);
    expect(text).toContain(join(folder, 'flags'));
  });

  it('that is not there is refused, with the captures that are', async () => {
    expect(await refusal(readMemory(join(folder, 'none'), proc))).toMatch(
      /no file .*none.*idle-8g.*cat \/proc/,
    );
    expect(await refusal(readMemory(folder, proc))).toMatch(/neither a folder with a meta\.json/);
  });
});

describe('lacuna capture', () => {
  const request = (force = false): Parameters<typeof capture>[0] => ({
    folder: join(folder, 'mine'),
    proc,
    force,
    version: '0.0.0',
  });
  const metaOf = (): Record<string, unknown> =>
    JSON.parse(readFileSync(join(folder, 'mine', 'meta.json'), 'utf8')) as Record<string, unknown>;

  it('makes a capture that is read back as what was there', async () => {
    expect(await capture(request())).toMatch(/mine: 0\.3 MiB of RAM, 0\.1 MiB of it free in 2 runs/);
    const image = loadCapture(join(folder, 'mine'));
    expect(image.zeroUnknown).toBe(true);
    expect(image.blocks).toEqual(wholePages(parseIomem(IOMEM)!));
    const { free, zero } = imageBitmaps(atomicMapper, image);
    expect(pagesIn(free)).toEqual(MADE_UP_FREE);
    expect(zero.count()).toBe(0);
    expect(metaOf()).toMatchObject({
      name: 'mine',
      kernel: '6.1.0-test',
      meminfoKiB: { MemTotal: 288, MemFree: 80 },
      systemRam: parseIomem(IOMEM),
      counts: { pages: 72, free: 20, pageCache: 52, droppablePageCache: 52, freeRuns: 2 },
    });
    expect(metaOf()['counts']).not.toHaveProperty('zero');
    const there = await readMemory(undefined, proc);
    const back = await readMemory(join(folder, 'mine'), proc);
    expect(back.map).toEqual(there.map);
    expect(back.kind).toBe('capture');
  });

  it('fills its flags up to a number of frames that the format allows', async () => {
    makeProc({ kpageflags: madeUpFlags().subarray(0, 99 * 8), iomem: IOMEM });
    await capture(request());
    expect(metaOf()['pfns']).toBe(104);
    expect(pagesIn(imageBitmaps(atomicMapper, loadCapture(join(folder, 'mine'))).free)).toEqual(MADE_UP_FREE);
  });

  it('overwrites nothing unless it is told to, and then leaves nothing of the other', async () => {
    await capture(request());
    const before = metaOf();
    writeFileSync(join(folder, 'mine', 'zero.bin.gz'), gzipSync(new Uint8Array(64)));
    makeProc({ kpageflags: madeUpFlags(), iomem: '' });
    expect(await refusal(capture(request()))).toMatch(/has a capture in it already.*--force/);
    expect(metaOf()).toEqual(before);
    await capture(request(true));
    expect(metaOf()['systemRam']).toBeNull();
    expect(loadCapture(join(folder, 'mine')).zeroUnknown).toBe(true);
  });

  it('leaves a capture that is there, and no new folder, if the machine can not be read', async () => {
    await capture(request());
    const before = metaOf();
    makeProc({ kpageflags: madeUpFlags().subarray(0, 83), iomem: IOMEM });
    expect(await refusal(capture(request(true)))).toMatch(/83 bytes are no whole number/);
    expect(metaOf()).toEqual(before);
    expect(pagesIn(imageBitmaps(atomicMapper, loadCapture(join(folder, 'mine'))).free)).toEqual(MADE_UP_FREE);
    const elsewhere = { ...request(), folder: join(folder, 'new', 'one') };
    expect(await refusal(capture(elsewhere))).toMatch(/83 bytes/);
    expect(() => readFileSync(join(folder, 'new'))).toThrow(/ENOENT/);
    writeFileSync(join(folder, 'file'), '');
    expect(await refusal(capture({ ...request(), folder: join(folder, 'file') }))).toMatch(
      /can't be written/,
    );
    // A disk that takes nothing: what goes wrong is the writing, not the reading.
    makeProc({ kpageflags: madeUpFlags(), iomem: IOMEM });
    symlinkSync('/dev/full', join(folder, 'mine', `kpageflags.bin.gz.${process.pid}.part`));
    expect(await refusal(capture(request(true)))).toMatch(/can't be written: ENOSPC/);
    expect(metaOf()).toEqual(before);
  });
});

describe('predictions', () => {
  const rates = { bytesPerSecond: 1.25e9, zeroScanBytesPerSecond: 8e9, minOrder: 0, builtInGuest: false };

  it('have bounds for zero detection where nothing says which pages are zero', async () => {
    const { image } = await readMemory(undefined, proc);
    const predictions = predict(image, { ...rates, freeMemory: undefined });
    expect(predictions.map(({ baseline, freeMemory, minOrder }) => [baseline, freeMemory, minOrder])).toEqual(
      [
        ['none', 'any', null],
        ['zero', 'zero', null],
        ['zero', 'data', null],
        ['hints', 'any', 0],
        ['both', 'zero', 0],
        ['both', 'data', 0],
        ['hints', 'any', 10],
        ['both', 'zero', 10],
        ['both', 'data', 10],
      ],
    );
    expect(predictions.map(({ duplicate, skipped }) => [duplicate, skipped])).toEqual([
      [0, 0],
      [20, 0],
      [0, 0],
      [0, 20],
      [0, 20],
      [0, 20],
      [0, 0],
      [20, 0],
      [0, 0],
    ]);
    expect(predict(image, { ...rates, freeMemory: 'zero', minOrder: 10 })).toHaveLength(4);
  });

  it('say by order what would be left behind', async () => {
    const { map } = await readMemory(undefined, proc);
    // 20–23, 24–27, 28–29; 80–87, 88–89.
    expect(orderReports(map).map(({ blocks, bytes }) => [blocks, bytes / 4096])).toEqual([
      [0, 20],
      [2, 20],
      [2, 16],
      [1, 8],
      ...Array.from({ length: 7 }, () => [0, 0]),
    ]);
    expect(orderReports(map)[3]).toMatchObject({ shareOfFree: 0.4, shareOfMemory: 8 / 72, ranges: 1 });
  });
});
