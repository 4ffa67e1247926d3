import { existsSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { isLacunaError, LacunaError, messageOf } from '../../errors.js';
import { checkFreePages, readZeroPages } from '../../guest/capture.js';
import type { GuestImage } from '../../guest/image.js';
import { type MemoryMap, MemoryMapReader } from '../../guest/memory-map.js';
import { parseCaptureMeta } from '../../guest/recording.js';
import type { RamBlock } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { captureFile, captureFolder, captureNames, readMeta, readZeroBitmap } from '../captures.js';
import { chunksOf } from '../chunks.js';
import { readMachine } from '../proc.js';

/** A machine's memory, from wherever it was read. */
export interface MachineMap {
  readonly kind: 'machine' | 'capture' | 'flags';
  readonly where: string;
  /** What says where RAM lies: iomem, a capture's meta.json, or the flags (every frame that is not NOPAGE). */
  readonly ramFrom: 'iomem' | 'meta.json' | 'flags';
  readonly map: MemoryMap;
  readonly image: GuestImage;
}

/**
 * Reads this machine's memory map (`file` undefined), a capture's (its name or folder), or that of a file of flags.
 * Throws CAPTURE_NOT_FOUND or CAPTURE_MALFORMED, with what to do.
 */
export async function readMemory(file: string | undefined, proc: string): Promise<MachineMap> {
  if (file === undefined) {
    const { map, systemRam } = await readMachine(proc);
    const ramFrom = systemRam === undefined ? 'flags' : 'iomem';
    return { kind: 'machine', where: join(proc, 'kpageflags'), ramFrom, map, image: imageOf('machine', map) };
  }
  if (file !== '-' && (captureNames().includes(file) || isFolder(file))) {
    return readCapture(captureFolder(file));
  }
  if (file !== '-' && !existsSync(file)) {
    throw new LacunaError(
      'CAPTURE_NOT_FOUND',
      `no file "${file}", nor is it one of the captures ${captureNames().join(', ')}; as root, ` +
        'cat /proc/kpageflags > FILE makes a copy, and without FILE lacuna reads this machine',
    );
  }
  const map = await readFlags(file);
  return { kind: 'flags', where: file, ramFrom: 'flags', map, image: imageOf(nameOf(file), map) };
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function nameOf(file: string): string {
  return file === '-' ? 'standard input' : basename(file);
}

/** A capture's flags are read in pieces, where `loadCapture` has them in memory: it may be a large machine's. */
async function readCapture(folder: string): Promise<MachineMap> {
  const meta = parseCaptureMeta(readMeta(folder), folder);
  const map = await readFlags(captureFile(folder, 'kpageflags.bin.gz'), meta.layout.blocks);
  if (map.pfns !== meta.pfns) {
    throw new LacunaError(
      'CAPTURE_MALFORMED',
      `${folder}: kpageflags has ${map.pfns} words, and meta.json's pfns says ${meta.pfns}`,
    );
  }
  if (map.freeOutsideRam > 0) {
    throw new LacunaError(
      'CAPTURE_MALFORMED',
      `${folder}: kpageflags: ${map.freeOutsideRam} pages are free and no RAM lies behind them`,
    );
  }
  checkFreePages(meta, map.use.free, folder);
  const zero = readZeroBitmap(folder);
  const image = imageOf(meta.name, map, zero === undefined);
  readZeroPages(atomicMapper, meta, zero, image, folder);
  return { kind: 'capture', where: folder, ramFrom: 'meta.json', map, image };
}

async function readFlags(path: string, ram?: readonly RamBlock[]): Promise<MemoryMap> {
  const reader = new MemoryMapReader(path, ram);
  try {
    for await (const chunk of chunksOf(path)) {
      reader.push(chunk);
    }
  } catch (thrown) {
    if (isLacunaError(thrown)) {
      throw thrown;
    }
    throw new LacunaError('CAPTURE_MALFORMED', `${path} can't be read: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
  return reader.finish(atomicMapper);
}

function imageOf(name: string, map: MemoryMap, zeroUnknown = true): GuestImage {
  const { blocks, free } = map;
  const zero = new SharedArrayBuffer(free.byteLength);
  return { name, blocks, free, zero, ...(zeroUnknown ? { zeroUnknown } : {}) };
}
