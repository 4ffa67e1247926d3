import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { LacunaError, messageOf } from '../errors.js';
import { parseCapture } from '../guest/capture.js';
import type { GuestImage } from '../guest/image.js';
import { MIB } from '../memory/page.js';
import { atomicMapper } from '../memory/shared-words.js';

/** The package's own folder: the nearest one above this file with a package.json. Not the working directory. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) {
      throw new LacunaError('ILLEGAL_STATE', 'this copy of lacuna has no package.json: install it anew');
    }
    folder = parent;
  }
  return folder;
}

const CAPTURES = (): string => join(packageRoot(), 'bench', 'guests');

/** Names of the captures that come with the package and can be migrated (a trace alone can't). */
export function captureNames(): string[] {
  return readdirSync(CAPTURES())
    .filter((name) => existsSync(join(CAPTURES(), name, 'kpageflags.bin.gz')))
    .sort();
}

/** The largest that a file of a capture may be once unpacked: a terabyte guest's kpageflags. */
const MOST_UNPACKED_BYTES = 2048 * MIB;

/**
 * The folder of a capture that comes with lacuna, or of one in the captures' format.
 * Throws CAPTURE_NOT_FOUND with what to do.
 */
export function captureFolder(nameOrFolder: string): string {
  const named = join(CAPTURES(), nameOrFolder);
  const isName = /^[\w.-]+$/.test(nameOrFolder) && existsSync(join(named, 'meta.json'));
  const folder = isName ? named : resolve(nameOrFolder);
  if (!existsSync(join(folder, 'meta.json'))) {
    throw new LacunaError(
      'CAPTURE_NOT_FOUND',
      `no guest "${nameOrFolder}": neither a folder with a meta.json in it nor one of ${captureNames().join(', ')}`,
    );
  }
  return folder;
}

/** The path of a file of a capture. Throws CAPTURE_MALFORMED if it is not there. */
export function captureFile(folder: string, file: string): string {
  const path = join(folder, file);
  if (!existsSync(path)) {
    throw new LacunaError(
      'CAPTURE_MALFORMED',
      `${folder}: ${file} is missing (a capture has meta.json, kpageflags.bin.gz and zero.bin.gz)`,
    );
  }
  return path;
}

function read<T>(folder: string, file: string, decode: (bytes: Buffer) => T): T {
  const path = captureFile(folder, file);
  try {
    return decode(readFileSync(path));
  } catch (cause) {
    throw new LacunaError('CAPTURE_MALFORMED', `${folder}: ${file} can't be read: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** meta.json of a capture. */
export function readMeta(folder: string): unknown {
  return read(folder, 'meta.json', (bytes) => JSON.parse(bytes.toString('utf8')) as unknown);
}

function unpack(bytes: Buffer): Buffer {
  return gunzipSync(bytes, { maxOutputLength: MOST_UNPACKED_BYTES });
}

/** The zero bitmap of a capture, if it has one. */
export function readZeroBitmap(folder: string): Buffer | undefined {
  return existsSync(join(folder, 'zero.bin.gz')) ? read(folder, 'zero.bin.gz', unpack) : undefined;
}

/**
 * A capture by name, or from a folder in the captures' format.
 * Throws CAPTURE_NOT_FOUND or CAPTURE_MALFORMED, both with what to do.
 */
export function loadCapture(nameOrFolder: string): GuestImage {
  const folder = captureFolder(nameOrFolder);
  return parseCapture(
    atomicMapper,
    {
      meta: readMeta(folder),
      kpageflags: read(folder, 'kpageflags.bin.gz', unpack),
      zero: readZeroBitmap(folder),
    },
    folder,
  );
}
