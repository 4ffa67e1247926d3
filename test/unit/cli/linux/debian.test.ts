import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import {
  fetchFromDebian,
  parseKernelDependency,
  parsePrintUris,
  type RunTool,
} from '../../../../src/cli/linux/image/debian.js';
import type { GuestFiles, Missing } from '../../../../src/cli/linux/image/guest-files.js';

const SHOW = `Package: linux-image-686
Source: linux-signed-i386 (6.1.176+1)
Version: 6.1.176-1
Provides: virtualbox-guest-modules
Depends: linux-image-6.1.0-50-686 (= 6.1.176-1)
Description: Linux for older PCs (meta-package)
`;

const URIS = `'http://mirror/pool/main/b/busybox/busybox-static_1.35.0-4%2bb1_i386.deb' busybox-static_1%3a1.35.0-4+b1_i386.deb 958344 SHA256:00
'http://mirror/pool/main/l/linux-image-6.1.0-50-686_6.1.176-1_i386.deb' linux-image-6.1.0-50-686_6.1.176-1_i386.deb 51921880 SHA256:00
'http://mirror/pool/main/s/seabios/seabios_1.16.2-1_all.deb' seabios_1.16.2-1_all.deb 162656 SHA256:00
`;

it('reads what apt says', () => {
  expect(parseKernelDependency(SHOW)).toBe('linux-image-6.1.0-50-686');
  expect(parseKernelDependency('Depends: kmod, linux-image-6.12.3+deb13-686 (= 6.12.3-1), x\n')).toBe(
    'linux-image-6.12.3+deb13-686',
  );
  expect(parseKernelDependency('')).toBeUndefined();
  expect(parsePrintUris(`Reading package lists...\n${URIS}`)).toEqual([
    {
      name: 'busybox-static',
      version: '1:1.35.0-4+b1',
      file: 'busybox-static_1%3a1.35.0-4+b1_i386.deb',
      lengthBytes: 958344,
    },
    {
      name: 'linux-image-6.1.0-50-686',
      version: '6.1.176-1',
      file: 'linux-image-6.1.0-50-686_6.1.176-1_i386.deb',
      lengthBytes: 51921880,
    },
    { name: 'seabios', version: '1.16.2-1', file: 'seabios_1.16.2-1_all.deb', lengthBytes: 162656 },
  ]);
  expect(parsePrintUris("E: Unable to locate package 'seabios'\n")).toEqual([]);
});

const MODULES: Record<string, string> = {
  virtio: '',
  virtio_ring: '',
  virtio_pci_modern_dev: '',
  virtio_pci: 'virtio_ring,virtio_pci_modern_dev,virtio',
  virtio_balloon: 'virtio,virtio_ring',
  virtio_mmio: 'virtio,virtio_ring',
};

/** What stands in the packages, below where they are unpacked. */
const CONTENTS: Record<string, readonly [string, string][]> = {
  'busybox-static': [['bin/busybox', 'busybox']],
  seabios: [
    ['usr/share/seabios/bios.bin', 'bios'],
    ['usr/share/seabios/vgabios-stdvga.bin', 'vga bios'],
  ],
  'linux-image-6.1.0-50-686': [
    ['boot/vmlinuz-6.1.0-50-686', 'a kernel that is not packed with xz'],
    ['lib/modules/6.1.0-50-686/modules.builtin', 'kernel/drivers/char/mem.ko\n'],
    ...Object.entries(MODULES).map(([name, needs]): [string, string] => [
      `lib/modules/6.1.0-50-686/kernel/drivers/virtio/${name}.ko`,
      `${name}\0depends=${needs}\0`,
    ]),
  ],
};

interface FakeDebian {
  readonly calls: string[];
  readonly run: RunTool;
  folder: string;
}

/** A Debian with nothing wrong, but for what `amiss` says instead; it sees each call as one line. */
function fakeDebian(amiss: (call: string) => Partial<Awaited<ReturnType<RunTool>>> | undefined): FakeDebian {
  const debian: FakeDebian = {
    calls: [],
    folder: '',
    run: async (command, args, folder) => {
      debian.folder = folder;
      const call = [command, ...args].join(' ');
      debian.calls.push(call);
      const other = amiss(call);
      if (other !== undefined) {
        return { code: 0, stdout: '', stderr: '', ...other };
      }
      if (call.includes('--print-uris')) {
        return { code: 0, stdout: URIS, stderr: '' };
      }
      if (call.includes(' download ')) {
        for (const { file } of parsePrintUris(URIS)) {
          writeFileSync(join(folder, file), '');
        }
      }
      if (call.includes('tar -x')) {
        const name = args[3]!.split('_')[0]!;
        for (const [path, data] of CONTENTS[name]!) {
          mkdirSync(dirname(join(folder, 'root', path)), { recursive: true });
          writeFileSync(join(folder, 'root', path), data);
        }
      }
      return { code: 0, stdout: call.includes(' show ') ? SHOW : '', stderr: '' };
    },
  };
  return debian;
}

it('fetches a kernel with its drivers, busybox and the BIOS', async () => {
  const debian = fakeDebian(() => undefined);
  const log: string[] = [];
  const { packages, files } = (await fetchFromDebian((line) => log.push(line), debian.run)) as GuestFiles;
  expect(packages).toEqual({
    'busybox-static': '1:1.35.0-4+b1',
    'linux-image-6.1.0-50-686': '6.1.176-1',
    seabios: '1.16.2-1',
  });
  const text = [...files].map(([name, bytes]) => [name, Buffer.from(bytes).toString().split('\0')[0]]);
  expect(text).toEqual([
    ['vmlinuz', 'a kernel that is not packed with xz'],
    ['busybox', 'busybox'],
    ['bios.bin', 'bios'],
    ['vgabios-stdvga.bin', 'vga bios'],
    // Each after what it needs; virtio_mmio nobody asked for.
    ['virtio_ring.ko', 'virtio_ring'],
    ['virtio_pci_modern_dev.ko', 'virtio_pci_modern_dev'],
    ['virtio.ko', 'virtio'],
    ['virtio_pci.ko', 'virtio_pci'],
    ['virtio_balloon.ko', 'virtio_balloon'],
  ]);
  expect(log.join('\n')).toMatch(/fetching linux-image-6\.1\.0-50-686 6\.1\.176-1 \(49\.5 MiB\)/);
  expect(log.join('\n')).toMatch(/could not be unpacked here/);
  expect(existsSync(debian.folder)).toBe(false);
});

it('gives apt folders of its own, and none of the machine’s hooks', async () => {
  let settings = '';
  const debian = fakeDebian((call) => {
    settings ||= readFileSync(/-c (\S+)/.exec(call)![1]!, 'utf8');
    return { code: 100 };
  });
  await fetchFromDebian(() => {}, debian.run);
  for (const key of ['Dir::State', 'Dir::State::status', 'Dir::Cache']) {
    expect(settings).toContain(`\n${key} "${debian.folder}/`);
  }
  expect(settings).toContain('#clear APT::Update::Post-Invoke;');
  expect(debian.calls[0]).toMatch(/^apt-get -c \S+ -qq update$/);
});

it('goes on after an update that failed in part, if the packages are found', async () => {
  const debian = fakeDebian((call) =>
    call.endsWith(' update') ? { code: 100, stderr: 'E: some' } : undefined,
  );
  expect(await fetchFromDebian(() => {}, debian.run)).toHaveProperty('files');
});

const says = (text: string) => ({ missing: expect.stringContaining(text) as string });

it.each<[string, string, Partial<Awaited<ReturnType<RunTool>>>, Missing]>([
  ['has no such kernel', ' show ', { code: 100, stderr: 'N: nothing' }, says('no linux-image-686 for i386')],
  [
    'has no busybox',
    '--print-uris',
    { stdout: URIS.split('\n').slice(1).join('\n') },
    says('have no busybox-static'),
  ],
  ['does not download', ' download ', { code: 100, stderr: 'E: 404' }, says('E: 404')],
  ['downloads nothing', '-qq download ', {}, says('could not fetch busybox-static, linux-image')],
  ['can’t unpack', 'tar -x', { code: 2, stderr: 'sh: dpkg-deb: not found' }, says('dpkg-deb: not found')],
])('says what is missing, and leaves nothing behind, where apt %s', async (_, part, result, missing) => {
  const debian = fakeDebian((call) => (call.includes(part) ? result : undefined));
  expect(await fetchFromDebian(() => {}, debian.run)).toEqual(missing);
  expect(existsSync(debian.folder)).toBe(false);
});

it('says what went wrong with the update where nothing is found', async () => {
  const debian = fakeDebian((call) => ({
    code: 100,
    stderr: call.endsWith(' update') ? 'E: no route to host' : '',
  }));
  expect(await fetchFromDebian(() => {}, debian.run)).toEqual(says('no route to host'));
});

it('says so where there is no apt', async () => {
  const run: RunTool = () => Promise.reject(Object.assign(new Error('spawn'), { code: 'ENOENT' }));
  expect(await fetchFromDebian(() => {}, run)).toEqual(says('there is no apt-get here'));
});
