import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { LacunaError, messageOf } from '../errors.js';
import { parseCapture } from '../guest/capture.js';
import type { GuestImage } from '../guest/image.js';
import type { GuestTrace } from '../guest/trace.js';
import { parseTrace, traceBytes } from '../guest/trace-file.js';
import { traceImage } from '../guest/trace-player.js';
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

/** Names of the captures that come with the package: machines at one moment. */
export function captureNames(): string[] {
  return namesWith(FLAGS_FILE);
}

/** Names of the traces that come with the package: machines in time. */
export function traceNames(): string[] {
  return namesWith(TRACE_FILE);
}

const FLAGS_FILE = 'kpageflags.bin.gz';
const TRACE_FILE = 'trace.bin.gz';

function namesWith(file: string): string[] {
  return readdirSync(CAPTURES())
    .filter((name) => existsSync(join(CAPTURES(), name, file)))
    .sort();
}

/** The largest that a file of a capture may be once unpacked: a terabyte guest's kpageflags. */
const MOST_UNPACKED_BYTES = 2048 * MIB;

/** A guest that can be migrated: its memory map, and what becomes of it if that is known. */
export interface StoredGuest extends GuestImage {
  readonly trace?: GuestTrace;
}

/**
 * A capture or a trace by name, or from a folder in their format; of a trace the image is that of its first sample.
 * Throws CAPTURE_NOT_FOUND or CAPTURE_MALFORMED, both with what to do.
 */
export function loadGuest(nameOrFolder: string): StoredGuest {
  const folder = captureFolder(nameOrFolder);
  if (existsSync(join(folder, FLAGS_FILE)) || !existsSync(join(folder, TRACE_FILE))) {
    return loadCapture(nameOrFolder);
  }
  const meta = readMeta(folder);
  const most = Math.min(MOST_UNPACKED_BYTES, traceBytes(meta, folder));
  const records = read(folder, TRACE_FILE, (bytes) => gunzipSync(bytes, { maxOutputLength: most }));
  const trace = parseTrace(atomicMapper, { meta, records }, folder);
  return { ...traceImage(atomicMapper, trace, 0), trace };
}

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
      `no guest "${nameOrFolder}": neither a folder with a meta.json in it nor one of ` +
        [...captureNames(), ...traceNames()].join(', '),
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
      `${folder}: ${file} is missing (a capture has meta.json, ${FLAGS_FILE} and, where it is known, zero.bin.gz; a trace meta.json and ${TRACE_FILE})`,
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
      kpageflags: read(folder, FLAGS_FILE, unpack),
      zero: readZeroBitmap(folder),
    },
    folder,
  );
}
