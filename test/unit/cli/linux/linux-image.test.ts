import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FetchGuestFiles, GuestFiles } from '../../../../src/cli/linux/image/guest-files.js';
import {
  commandLine,
  type LinuxImage,
  type LinuxImageOptions,
  obtainLinuxImage,
} from '../../../../src/cli/linux/image/linux-image.js';
import { readCpio } from '../../../support/naive-cpio.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-image-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** As much of a bzImage as tells its version. */
function madeUpKernel(version = '6.1.0-50-686'): Buffer {
  const kernel = Buffer.alloc(0x400);
  kernel[0x1f1] = 1;
  kernel.write('HdrS', 0x202, 'latin1');
  kernel.writeUInt16LE(0x100, 0x20e);
  kernel.write(`${version} (someone)\0`, 0x300, 'latin1');
  return Buffer.concat([kernel, Buffer.from('the code')]);
}

function madeUpFiles(): GuestFiles {
  return {
    packages: { 'linux-image-6.1.0-50-686': '6.1.176-1', 'busybox-static': '1.35', seabios: '1.16' },
    files: new Map<string, Uint8Array>([
      ['vmlinuz', madeUpKernel()],
      ['busybox', Buffer.from('busybox')],
      ['bios.bin', Buffer.from('bios')],
      ['vgabios-stdvga.bin', Buffer.from('vga bios')],
      ['virtio.ko', Buffer.from('first module')],
      ['virtio_balloon.ko', Buffer.from('second module')],
    ]),
  };
}

interface Fetcher {
  readonly fetch: FetchGuestFiles;
  count: number;
}

function fetcher(files: () => GuestFiles = madeUpFiles): Fetcher {
  const made: Fetcher = {
    count: 0,
    fetch: async () => {
      made.count += 1;
      return files();
    },
  };
  return made;
}

async function image(options: LinuxImageOptions = {}): Promise<LinuxImage> {
  const got = await obtainLinuxImage({ folder, fetch: fetcher().fetch, ...options });
  expect(got).toHaveProperty('hash');
  return got as LinuxImage;
}

describe('the cache', () => {
  it('is fetched into once, and says so', async () => {
    const first: string[] = [];
    const second: string[] = [];
    const source = fetcher();
    const before = await image({ fetch: source.fetch, log: (line) => first.push(line) });
    const after = await image({ fetch: source.fetch, log: (line) => second.push(line) });
    expect(source.count).toBe(1);
    expect(first.join()).toContain(`kept in ${folder}`);
    expect(second.join()).toContain('nothing to fetch');
    expect(after).toEqual(before);
  });

  it('is fetched into again if it is damaged, and is whole then', async () => {
    const source = fetcher();
    const before = await image({ fetch: source.fetch });
    for (const file of readdirSync(folder)) {
      truncateSync(join(folder, file), 3);
      expect(await image({ fetch: source.fetch })).toEqual(before);
    }
    expect(source.count).toBe(1 + readdirSync(folder).length);
    await image({ fetch: source.fetch });
    expect(source.count).toBe(1 + readdirSync(folder).length);
  });

  it('is fetched into again where that is asked for', async () => {
    const source = fetcher();
    await image({ fetch: source.fetch });
    await image({ fetch: source.fetch, refresh: true });
    expect(source.count).toBe(2);
  });

  it('is not needed: what can’t be kept is fetched each time', async () => {
    const file = join(folder, 'no-folder');
    writeFileSync(file, '');
    const log: string[] = [];
    await image({ folder: file, log: (line) => log.push(line) });
    expect(log.join()).toMatch(/^not kept/);
  });

  it('keeps nothing of a fetch that found nothing', async () => {
    const missing = await obtainLinuxImage({
      folder,
      fetch: async () => ({ missing: 'there is no apt-get here' }),
    });
    expect(missing).toEqual({
      missing:
        'no Linux guest: there is no apt-get here\nOr bring your own: --kernel FILE --initrd FILE --bios FILE --vga-bios FILE',
    });
    expect(readdirSync(folder)).toEqual([]);
  });

  it('gets nothing from a fetch that was called off', async () => {
    const abort = new AbortController();
    const fetch = async (): Promise<never> => {
      abort.abort();
      throw new Error('ended by a signal');
    };
    await expect(obtainLinuxImage({ folder, fetch, signal: abort.signal })).rejects.toMatchObject({
      code: 'CANCELLED',
    });
  });
});

describe('an image', () => {
  it('has a root file system with busybox, the modules in their order, and tools that can be run', async () => {
    const entries = readCpio(Buffer.from((await image()).initrd));
    const byPath = new Map(entries.map((entry) => [entry.path, entry]));
    expect(byPath.get('bin/busybox')!.data.toString()).toBe('busybox');
    expect(byPath.get('lib/modules/order')!.data.toString()).toBe('virtio\nvirtio_balloon\n');
    expect(byPath.get('lib/modules/virtio_balloon.ko')!.data.toString()).toBe('second module');
    for (const path of ['init', 'bin/busybox', 'bin/counter', 'bin/checksum', 'bin/pressure', 'bin/use']) {
      expect(byPath.get(path)!.mode).toBe(0o100755);
    }
    // The kernel makes no folders on its way.
    const seen = new Set<string>();
    for (const { path } of entries) {
      const parent = path.split('/').slice(0, -1).join('/');
      expect(parent === '' || seen.has(parent)).toBe(true);
      seen.add(path);
    }
  });

  it('is the same for the same parts, to the byte, and has another hash for any other', async () => {
    const first = await image();
    expect(await image({ folder: join(folder, 'elsewhere') })).toEqual(first);
    const hashes = new Set([first.hash]);
    for (const name of madeUpFiles().files.keys()) {
      const source = fetcher(() => {
        const made = madeUpFiles();
        const bytes = name === 'vmlinuz' ? madeUpKernel('6.1.1') : Buffer.from('something else');
        return { ...made, files: new Map([...made.files, [name, bytes]]) };
      });
      hashes.add((await image({ folder: join(folder, name), fetch: source.fetch })).hash);
    }
    hashes.add((await image({ initOnAlloc: true })).hash);
    hashes.add((await image({ extraArguments: 'debug' })).hash);
    expect(hashes.size).toBe(1 + madeUpFiles().files.size + 2);
  });

  it('can be made of one’s own files, and then nothing is fetched', async () => {
    const own = {
      kernel: join(folder, 'kernel'),
      initrd: join(folder, 'initrd'),
      bios: join(folder, 'bios'),
      vgaBios: join(folder, 'vga'),
    };
    writeFileSync(own.kernel, madeUpKernel('5.10.0'));
    for (const part of ['initrd', 'bios', 'vgaBios'] as const) {
      writeFileSync(own[part], `my ${part}`);
    }
    const source = fetcher();
    const made = await image({ own, fetch: source.fetch });
    expect(source.count).toBe(0);
    expect(made.kernelVersion).toBe('5.10.0');
    expect(Buffer.from(made.initrd).toString()).toBe('my initrd');
    expect(made.origins.bios).toBe(own.bios);

    const some = await image({ own: { bios: own.bios }, fetch: source.fetch });
    expect(source.count).toBe(1);
    expect(Buffer.from(some.bios).toString()).toBe('my bios');
    expect(Buffer.from(some.vgaBios).toString()).toBe('vga bios');
  });

  it.each([
    ['a kernel without an initrd', { kernel: 'kernel' }, /--kernel without --initrd/],
    ['a kernel that is none', { kernel: 'initrd', initrd: 'initrd' }, /no Linux kernel/],
    ['a file that is not there', { bios: 'nowhere' }, /--bios: .*nowhere can't be read/],
    ['an empty file', { vgaBios: 'empty' }, /--vga-bios: .*empty is empty/],
  ])('is not made of %s', async (_, names, message) => {
    writeFileSync(join(folder, 'kernel'), madeUpKernel());
    writeFileSync(join(folder, 'initrd'), 'no kernel');
    writeFileSync(join(folder, 'empty'), '');
    const own = Object.fromEntries(Object.entries(names).map(([part, name]) => [part, join(folder, name)]));
    await expect(image({ own })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message) as string,
    });
  });
});

it('a command line says what was asked for', () => {
  const words = (text: string): string[] => text.split(' ');
  expect(words(commandLine())).toContain('init_on_alloc=0');
  expect(words(commandLine({ initOnAlloc: true }))).toContain('init_on_alloc=1');
  expect(words(commandLine())).not.toContain('lacuna.balloon=off');
  expect(words(commandLine({ balloonDriver: false }))).toContain('lacuna.balloon=off');
  expect(commandLine({ extraArguments: ' debug  loglevel=7 ' })).toMatch(/ debug {2}loglevel=7$/);
});
