import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { arch, release } from 'node:os';
import { basename, join, resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { isLacunaError, LacunaError, messageOf } from '../../errors.js';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import { PAGE_SIZE } from '../../memory/page.js';
import { formatMib } from '../../report/format.js';
import { KPF_NOPAGE, KPF_WORD_BYTES } from '../../spec/kpageflags.js';
import { type MachineMemory, readIfThere, readMachine } from '../proc.js';

/** What `lacuna capture` was asked for. */
export interface CaptureRequest {
  readonly folder: string;
  readonly proc: string;
  /** A capture that is there already is replaced. */
  readonly force: boolean;
  readonly version: string;
}

/** The files of a capture; zero.bin.gz is one that a capture of flags alone does not have. */
const FILES = ['meta.json', 'kpageflags.bin.gz', 'zero.bin.gz'] as const;
/** The format counts page frames in eights. */
const PFNS_MULTIPLE = 8;

/**
 * Records this machine's page flags in the captures' format. No contents: so it is not known which pages are zero, and
 * the capture has no zero.bin.gz. The files appear whole or not at all, meta.json last.
 * Throws CAPTURE_NOT_FOUND or CAPTURE_MALFORMED as `readMachine` does, INVALID_ARGUMENT for the folder.
 */
export async function capture(request: CaptureRequest): Promise<string> {
  const folder = resolve(request.folder);
  const there = FILES.filter((file) => existsSync(join(folder, file)));
  if (there.length > 0 && !request.force) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${folder} has a capture in it already (${there.join(', ')}): choose another folder, or say --force`,
    );
  }
  const part = join(folder, `kpageflags.bin.gz.${process.pid}.part`);
  const before = { meminfo: meminfoOf(request.proc), buddyinfo: textOf(request.proc, 'buddyinfo') };
  let made: string | undefined;
  try {
    made = mkdirSync(folder, { recursive: true });
    // Packing as little as possible: the slower the reading, the further apart the flags' moments.
    const gzip = createGzip({ level: 1 });
    const written = pipeline(gzip, createWriteStream(part));
    written.catch(() => {}); // it is waited for below, or something else is what went wrong
    const began = performance.now();
    let bytes = 0;
    const memory = await readMachine(request.proc, async (chunk) => {
      bytes += chunk.length;
      await (gzip.destroyed ? written : write(gzip, chunk)); // a full disk says so there
    }).catch((thrown: unknown) => {
      gzip.destroy();
      throw thrown;
    });
    const readMs = performance.now() - began;
    const words = Math.ceil(bytes / KPF_WORD_BYTES / PFNS_MULTIPLE) * PFNS_MULTIPLE;
    await write(gzip, noPages(words - bytes / KPF_WORD_BYTES));
    gzip.end();
    await written;
    const meta = metaOf(memory, words, { name: basename(folder), readMs, before, ...request });
    for (const stale of there) {
      rmSync(join(folder, stale)); // one of another machine must not be left beside the new ones
    }
    renameSync(part, join(folder, 'kpageflags.bin.gz'));
    writeFileSync(join(folder, 'meta.json'), `${JSON.stringify(meta, null, 1)}\n`);
    const { use, freeRuns } = memory.map;
    return (
      `${folder}: ${formatMib(use.pages * PAGE_SIZE)} MiB of RAM, ${formatMib(use.free * PAGE_SIZE)} MiB of it free in ` +
      `${freeRuns} runs; lacuna estimate ${request.folder} says what that is worth`
    );
  } catch (thrown) {
    if (made !== undefined) {
      rmSync(made, { recursive: true, force: true }); // nothing is in it but what was begun here
    }
    if (isLacunaError(thrown)) {
      throw thrown;
    }
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the capture can't be written: ${messageOf(thrown)}; choose another folder`,
      { cause: thrown },
    );
  } finally {
    if (existsSync(part)) {
      rmSync(part);
    }
  }
}

/** Writes a chunk; waits while the disk is slower than the machine, or until it fails. */
async function write(into: Writable, chunk: Uint8Array): Promise<void> {
  if (!into.write(chunk)) {
    await new Promise<void>((resolve) => {
      const settle = (): void => {
        into.off('drain', settle).off('close', settle);
        resolve();
      };
      into.once('drain', settle).once('close', settle);
    });
  }
}

/** Words of frames that do not exist. */
function noPages(count: number): Uint8Array {
  const bytes = new Uint8Array(count * KPF_WORD_BYTES);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i += 1) {
    view.setUint32(i * KPF_WORD_BYTES, 1 << KPF_NOPAGE, true);
  }
  return bytes;
}

interface Circumstances {
  readonly name: string;
  readonly readMs: number;
  readonly before: { readonly meminfo: Readonly<Record<string, number>>; readonly buddyinfo: string };
  readonly proc: string;
  readonly version: string;
}

/** meta.json, as bench/guests/README.md describes it. */
function metaOf({ map, systemRam }: MachineMemory, pfns: number, how: Circumstances): object {
  const { use, pageCache, freeByOrder } = map;
  let fileOffset = 0;
  return {
    name: how.name,
    description: 'page flags of a running machine; which of its pages were zero is not known',
    kernel: textOf(how.proc, 'sys/kernel/osrelease').trim() || release(),
    arch: arch(),
    memoryBytes: use.pages * PAGE_SIZE,
    pageSize: PAGE_SIZE,
    pfns,
    backing: map.blocks.map(({ startGpa, endGpa }) => {
      const block = { startGpa, endGpa, fileOffset };
      fileOffset += endGpa - startGpa;
      return block;
    }),
    systemRam: systemRam ?? null,
    capturedAt: new Date().toISOString().slice(0, 10),
    how:
      `lacuna ${how.version} read /proc/kpageflags from pfn 0 to its end while the machine went on running: the flags are ` +
      'not of one instant. The counts are of what was read. No contents were read, so there is no zero.bin.gz and no ' +
      'counts.zero. backing: ' +
      (systemRam === undefined
        ? 'every frame whose flags do not say NOPAGE, for /proc/iomem did not show where RAM lies.'
        : 'the whole pages of "System RAM" in /proc/iomem.'),
    kpageflagsReadMs: Math.round(how.readMs * 10) / 10,
    counts: {
      pfns,
      ...use,
      freeByOrder: freeByOrder.blocks,
      freeInOrder10Pages: freeByOrder.pagesFrom[MAX_ORDER],
      freeRuns: map.freeRuns,
      longestFreeRunPages: map.longestFreeRunPages,
      mappedFile: pageCache.mapped,
      droppablePageCache: pageCache.droppable,
    },
    meminfoKiB: how.before.meminfo,
    meminfoAfterKiB: meminfoOf(how.proc),
    buddyinfo: how.before.buddyinfo,
    buddyinfoAfter: textOf(how.proc, 'buddyinfo'),
  };
}

function textOf(proc: string, file: string): string {
  return readIfThere(join(proc, file)) ?? '';
}

/** /proc/meminfo in KiB, what is a size. */
function meminfoOf(proc: string): Record<string, number> {
  return Object.fromEntries(
    [...textOf(proc, 'meminfo').matchAll(/^(\S+):\s+(\d+) kB$/gm)].map(([, name, kib]) => [
      name!,
      Number(kib),
    ]),
  );
}
