import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LacunaError, messageOf } from '../errors.js';
import { type MemoryMap, MemoryMapReader } from '../guest/memory-map.js';
import { PAGE_SIZE } from '../memory/page.js';
import type { RamBlock } from '../memory/ram-layout.js';
import { atomicMapper } from '../memory/shared-words.js';
import { chunksOf } from './chunks.js';

/** What the kernel says of a machine's memory. `proc` is /proc, or where another machine's was mounted. */
export interface MachineMemory {
  readonly map: MemoryMap;
  /** "System RAM" of iomem, in bytes; undefined where the kernel does not show it. */
  readonly systemRam: readonly RamBlock[] | undefined;
}

/**
 * Where RAM lies, from the text of /proc/iomem: its "System RAM" in ascending order. Undefined if there is none, or if
 * the addresses are hidden (they read as zeroes without CAP_SYS_ADMIN).
 */
export function parseIomem(text: string): RamBlock[] | undefined {
  const blocks: RamBlock[] = [];
  for (const [, start, end] of text.matchAll(/^\s*([0-9a-f]+)-([0-9a-f]+) : System RAM\b/gm)) {
    blocks.push({ startGpa: Number.parseInt(start!, 16), endGpa: Number.parseInt(end!, 16) + 1 });
  }
  blocks.sort((a, b) => a.startGpa - b.startGpa);
  return blocks.length === 0 || blocks.some(({ endGpa }) => endGpa === 1) ? undefined : blocks;
}

/** The whole pages of RAM: a page that is RAM only in part is none for the kernel either. */
export function wholePages(systemRam: readonly RamBlock[]): RamBlock[] {
  return systemRam
    .map(({ startGpa, endGpa }) => ({
      startGpa: Math.ceil(startGpa / PAGE_SIZE) * PAGE_SIZE,
      endGpa: Math.floor(endGpa / PAGE_SIZE) * PAGE_SIZE,
    }))
    .filter(({ startGpa, endGpa }) => endGpa > startGpa);
}

/**
 * Reads a running machine's flags and where its RAM lies; every chunk of the flags also goes to `copy`.
 * Throws CAPTURE_NOT_FOUND (not there, or not allowed) or CAPTURE_MALFORMED, with what to do.
 */
export async function readMachine(
  proc: string,
  copy: (chunk: Uint8Array) => Promise<void> | void = () => {},
): Promise<MachineMemory> {
  const path = join(proc, 'kpageflags');
  checkPageSize(proc);
  const systemRam = parseIomem(readIfThere(join(proc, 'iomem')) ?? '');
  const reader = new MemoryMapReader(path, systemRam === undefined ? undefined : wholePages(systemRam));
  for await (const chunk of explained(path)) {
    reader.push(chunk);
    await copy(chunk);
  }
  const map = reader.finish(atomicMapper);
  if (map.freeOutsideRam > 0) {
    throw new LacunaError(
      'CAPTURE_MALFORMED',
      `${path}: ${map.freeOutsideRam} pages are free where ${join(proc, 'iomem')} has no RAM; copy the flags ` +
        'with `cat` and give the copy, whose RAM is then taken from the flags',
    );
  }
  return { map, systemRam };
}

/** A file of /proc as text; undefined if it is not there or may not be read. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** Flags are a word a page, of whatever size the kernel's pages are. */
function checkPageSize(proc: string): void {
  const kib = /^KernelPageSize:\s+(\d+) kB/m.exec(readIfThere(join(proc, 'self', 'smaps')) ?? '')?.[1];
  if (kib !== undefined && Number(kib) * 1024 !== PAGE_SIZE) {
    throw new LacunaError(
      'CAPTURE_MALFORMED',
      `this kernel's pages have ${kib} KiB, and lacuna knows machines with pages of ${PAGE_SIZE / 1024} KiB only`,
    );
  }
}

async function* explained(path: string): AsyncGenerator<Uint8Array> {
  try {
    yield* chunksOf(path);
  } catch (thrown) {
    throw explainUnreadable(thrown, path);
  }
}

/** What the system said when `path` was to be read, with what to do. */
export function explainUnreadable(thrown: unknown, path: string): LacunaError {
  const code = thrown instanceof Error && 'code' in thrown ? thrown.code : undefined;
  const text =
    code === 'EACCES' || code === 'EPERM'
      ? `${path}: only root may read it (CAP_SYS_ADMIN): run lacuna as root, or copy it as root ` +
        '(sudo cat /proc/kpageflags > FILE) and give FILE'
      : code === 'ENOENT'
        ? `${path} is not there: it takes Linux with CONFIG_PROC_PAGE_MONITOR, and a container may hide it; ` +
          "give a copy of another machine's (cat /proc/kpageflags > FILE), or a capture"
        : `${path} can't be read: ${messageOf(thrown)}`;
  return new LacunaError('CAPTURE_NOT_FOUND', text, { cause: thrown });
}
