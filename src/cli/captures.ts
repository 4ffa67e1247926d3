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
 * A capture by name, or from a folder in the captures' format.
 * Throws CAPTURE_NOT_FOUND or CAPTURE_MALFORMED, both with what to do.
 */
export function loadCapture(nameOrFolder: string): GuestImage {
  const named = join(CAPTURES(), nameOrFolder);
  const isName = /^[\w.-]+$/.test(nameOrFolder) && existsSync(join(named, 'meta.json'));
  const folder = isName ? named : resolve(nameOrFolder);
  if (!existsSync(join(folder, 'meta.json'))) {
    throw new LacunaError(
      'CAPTURE_NOT_FOUND',
      `no guest "${nameOrFolder}": neither a folder with a meta.json in it nor one of ${captureNames().join(', ')}`,
    );
  }
  const read = <T>(file: string, decode: (bytes: Buffer) => T): T => {
    const path = join(folder, file);
    if (!existsSync(path)) {
      throw new LacunaError(
        'CAPTURE_MALFORMED',
        `${folder}: ${file} is missing (a capture has meta.json, kpageflags.bin.gz and zero.bin.gz)`,
      );
    }
    try {
      return decode(readFileSync(path));
    } catch (cause) {
      throw new LacunaError('CAPTURE_MALFORMED', `${folder}: ${file} can't be read: ${messageOf(cause)}`, {
        cause,
      });
    }
  };
  const unpack = (bytes: Buffer): Buffer => gunzipSync(bytes, { maxOutputLength: MOST_UNPACKED_BYTES });
  return parseCapture(
    atomicMapper,
    {
      meta: read('meta.json', (bytes) => JSON.parse(bytes.toString('utf8')) as unknown),
      kpageflags: read('kpageflags.bin.gz', unpack),
      zero: read('zero.bin.gz', unpack),
    },
    folder,
  );
}
