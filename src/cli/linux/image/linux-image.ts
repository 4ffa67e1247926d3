import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LacunaError, messageOf } from '../../../errors.js';
import { bufferOf } from '../../../memory/byte-ops.js';
import { DEBIAN_RECIPE, fetchFromDebian, toolRunner } from './debian.js';
import { cacheFolder, FileStore, hashOf } from './file-store.js';
import {
  type FetchGuestFiles,
  GUEST_FILE,
  type GuestFiles,
  isMissing,
  type Log,
  type Missing,
} from './guest-files.js';
import { initramfs } from './initramfs.js';
import { kernelVersion } from './kernel-modules.js';
import { OPTION } from './options.js';

/** A Linux guest that can be booted: buffers for v86, and the kernel's command line. */
export interface LinuxImage {
  readonly bios: ArrayBuffer;
  readonly vgaBios: ArrayBuffer;
  /** A bzImage. */
  readonly kernel: ArrayBuffer;
  readonly initrd: ArrayBuffer;
  readonly cmdline: string;
  /** Of all of the above, SHA-256 in hexadecimal: two images with one hash boot into the same guest. */
  readonly hash: string;
  /** As in "6.1.0-50-686". */
  readonly kernelVersion: string;
  /** Where each came from, for people. */
  readonly origins: Readonly<Record<ImagePart, string>>;
}

/** What a user may bring. */
export const IMAGE_PARTS = ['kernel', 'initrd', 'bios', 'vgaBios'] as const;
export type ImagePart = (typeof IMAGE_PARTS)[number];

/** What a guest image is to be; nothing of it has to be said. */
export interface LinuxImageOptions extends CommandLineOptions {
  /** Paths of the user's own files, in place of Debian's. */
  readonly own?: Partial<Readonly<Record<ImagePart, string>>>;
  /** Fetch again what is cached, for a newer kernel. */
  readonly refresh?: boolean;
  /** Is told what is fetched, a line each. */
  readonly log?: Log;
  /** Ends what is being fetched. */
  readonly signal?: AbortSignal;
  /** Where fetched files are kept, instead of in {@link imageFolder}. */
  readonly folder?: string;
  /** How they are fetched, instead of from Debian. */
  readonly fetch?: FetchGuestFiles;
}

/** How the kernel is to behave. */
export interface CommandLineOptions {
  /** Whether the kernel zeroes memory when it gives it out: Debian's default, and not ours (default false). */
  readonly initOnAlloc?: boolean;
  /** Whether the guest loads a driver for its balloon (default true). */
  readonly balloonDriver?: boolean;
  /** More arguments for the kernel. */
  readonly extraArguments?: string;
}

/**
 * What makes Linux boot fast in an emulator: no probing for hardware that v86 does not have, no self-tests, no mitigations
 * of mistakes that its processor does not make.
 */
const COMMAND_LINE =
  'console=ttyS0 quiet mitigations=off acpi=off pci=nobios lsm= nokaslr cryptomgr.notests noisapnp pnpbios=off edd=off';

/** The kernel's command line. */
export function commandLine({
  initOnAlloc = false,
  balloonDriver = true,
  extraArguments = '',
}: CommandLineOptions = {}): string {
  return [
    COMMAND_LINE,
    `init_on_alloc=${initOnAlloc ? 1 : 0}`,
    ...(balloonDriver ? [] : ['lacuna.balloon=off']),
    ...(extraArguments.trim() === '' ? [] : [extraArguments.trim()]),
  ].join(' ');
}

/** Where the guest's files are kept: in the user's cache. */
export function imageFolder(): string {
  return join(cacheFolder(), 'linux');
}

/**
 * The Linux guest's image: from the user's own files where they are named, for the rest from the cache or else from Debian.
 * Where it can't be had, says what is missing and what to do. Throws INVALID_ARGUMENT for own files that are of no use.
 */
export async function obtainLinuxImage(options: LinuxImageOptions = {}): Promise<LinuxImage | Missing> {
  const own = readOwnFiles(options.own ?? {});
  const needed = IMAGE_PARTS.filter((part) => own[part] === undefined);
  const fetched = needed.length === 0 ? undefined : await guestFiles(options);
  if (fetched !== undefined && isMissing(fetched)) {
    return {
      missing: `no Linux guest: ${fetched.missing}\nOr bring your own: ${needed.map((part) => `${OPTION[part]} FILE`).join(' ')}`,
    };
  }
  const parts = { ...(fetched === undefined ? {} : imageParts(fetched)), ...own } as Record<ImagePart, Part>;
  const cmdline = commandLine(options);
  const version = kernelVersion(parts.kernel.bytes);
  if (version === undefined) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${parts.kernel.origin} is no Linux kernel: it has to be a bzImage`,
    );
  }
  const hash = createHash('sha256');
  for (const bytes of [...IMAGE_PARTS.map((part) => parts[part].bytes), Buffer.from(cmdline)]) {
    hash.update(`${hashOf(bytes)}\n`);
  }
  return {
    bios: bufferOf(parts.bios.bytes),
    vgaBios: bufferOf(parts.vgaBios.bytes),
    kernel: bufferOf(parts.kernel.bytes),
    initrd: bufferOf(parts.initrd.bytes),
    cmdline,
    hash: hash.digest('hex'),
    kernelVersion: version,
    origins: {
      kernel: parts.kernel.origin,
      initrd: parts.initrd.origin,
      bios: parts.bios.origin,
      vgaBios: parts.vgaBios.origin,
    },
  };
}

interface Part {
  readonly bytes: Uint8Array;
  readonly origin: string;
}

function readOwnFiles(own: Partial<Readonly<Record<ImagePart, string>>>): Partial<Record<ImagePart, Part>> {
  if (own.kernel !== undefined && own.initrd === undefined) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${OPTION.kernel} without ${OPTION.initrd}: the drivers in lacuna's initrd fit no other kernel than Debian's`,
    );
  }
  const parts: Partial<Record<ImagePart, Part>> = {};
  for (const part of IMAGE_PARTS) {
    const path = own[part];
    if (path !== undefined) {
      parts[part] = { bytes: readOwnFile(path, OPTION[part]), origin: path };
    }
  }
  return parts;
}

function readOwnFile(path: string, option: string): Uint8Array {
  try {
    const bytes = readFileSync(path);
    if (bytes.length > 0) {
      return bytes;
    }
  } catch (cause) {
    throw new LacunaError('INVALID_ARGUMENT', `${option}: ${path} can't be read: ${messageOf(cause)}`, {
      cause,
    });
  }
  throw new LacunaError('INVALID_ARGUMENT', `${option}: ${path} is empty`);
}

async function guestFiles(options: LinuxImageOptions): Promise<GuestFiles | Missing> {
  const log = options.log ?? (() => {});
  const store = new FileStore(
    options.folder ?? imageFolder(),
    `debian-${hashOf(Buffer.from(DEBIAN_RECIPE)).slice(0, 16)}`,
  );
  const stored = options.refresh === true ? undefined : store.read();
  if (stored !== undefined) {
    log(`nothing to fetch: all is in ${store.folder}`);
    return stored;
  }
  const fetch = options.fetch ?? ((say: Log) => fetchFromDebian(say, toolRunner(options.signal)));
  const fetched = await fetch(log).catch((cause: unknown) => {
    throw options.signal?.aborted === true
      ? new LacunaError('CANCELLED', 'called off while the Linux guest was being fetched: nothing is kept', {
          cause,
        })
      : cause;
  });
  if (isMissing(fetched)) {
    return fetched;
  }
  try {
    store.write(fetched);
    log(`kept in ${store.folder}`);
  } catch (thrown) {
    log(`not kept, and to be fetched again the next time: ${messageOf(thrown)}`);
  }
  return fetched;
}

const MODULE = /^(\w+)\.ko$/;

function imageParts({ packages, files }: GuestFiles): Record<ImagePart, Part> {
  const file = (name: string): Uint8Array => {
    const bytes = files.get(name);
    if (bytes === undefined) {
      throw new LacunaError('ILLEGAL_STATE', `no ${name} was fetched`);
    }
    return bytes;
  };
  const from = (name: RegExp): string => {
    const found = Object.entries(packages).find(([key]) => name.test(key));
    return found === undefined ? 'Debian' : `Debian's ${found[0]} ${found[1]}`;
  };
  const modules = [...files].flatMap(([name, bytes]): [string, Uint8Array][] => {
    const module = MODULE.exec(name)?.[1];
    return module === undefined ? [] : [[module, bytes]];
  });
  const bios = from(/seabios/);
  return {
    kernel: { bytes: file(GUEST_FILE.kernel), origin: from(/^linux-image/) },
    initrd: {
      bytes: initramfs({ busybox: file(GUEST_FILE.busybox), modules: new Map(modules) }),
      origin: `built here, with ${from(/busybox/)} and ${modules.length} of the kernel's modules`,
    },
    bios: { bytes: file(GUEST_FILE.bios), origin: bios },
    vgaBios: { bytes: file(GUEST_FILE.vgaBios), origin: bios },
  };
}
