import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../captures.js';
import { type CpioEntry, cpioArchive } from './cpio.js';

/** What Linux needs to drive the balloon; what these depend on comes with them. */
export const WANTED_MODULES: readonly string[] = ['virtio_pci', 'virtio_balloon'];

/** What an initramfs is made of, beside the scripts of `linux-guest/`. */
export interface InitramfsParts {
  /** A static busybox for the guest's processor. */
  readonly busybox: Uint8Array;
  /** Kernel modules by name, in the order in which they are loaded. */
  readonly modules: ReadonlyMap<string, Uint8Array>;
}

/**
 * The guest's root file system: busybox, the balloon's driver, and the scripts of `linux-guest/`. The same parts always make
 * the same bytes. Not compressed: to unpack 2 MiB would take an emulated processor two seconds.
 */
export function initramfs(parts: InitramfsParts): Buffer {
  return cpioArchive(initramfsEntries(parts, join(packageRoot(), 'linux-guest')));
}

function initramfsEntries({ busybox, modules }: InitramfsParts, scripts: string): CpioEntry[] {
  const folder = (path: string): CpioEntry => ({ path, kind: 'folder' });
  const tools = readdirSync(join(scripts, 'bin')).sort();
  return [
    ...['bin', 'dev', 'etc', 'lib', 'lib/modules', 'proc', 'root', 'sys', 'tmp'].map(folder),
    { path: 'init', kind: 'file', data: readFileSync(join(scripts, 'init')) },
    { path: 'bin/busybox', kind: 'file', data: busybox },
    // Busybox's shell finds its other applets without links.
    { path: 'bin/sh', kind: 'link', data: Buffer.from('busybox') },
    ...tools.map(
      (name): CpioEntry => ({
        path: `bin/${name}`,
        kind: 'file',
        data: readFileSync(join(scripts, 'bin', name)),
      }),
    ),
    {
      path: 'lib/modules/order',
      kind: 'file',
      mode: 0o644,
      data: Buffer.from([...modules.keys()].map((name) => `${name}\n`).join('')),
    },
    ...[...modules].map(
      ([name, data]): CpioEntry => ({ path: `lib/modules/${name}.ko`, kind: 'file', mode: 0o644, data }),
    ),
  ];
}
