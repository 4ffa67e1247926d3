import { FaultBoard } from '../../guest/faulty-driver.js';
import {
  emptyImage,
  findMetadataPlace,
  type GuestImage,
  imageBitmaps,
  syntheticImage,
} from '../../guest/image.js';
import { layOutMetadata, metadataPages } from '../../guest/metadata.js';
import { EventWord } from '../../memory/control-buffer.js';
import type { SharedGuestMemory } from '../../memory/guest-memory.js';
import type { MemoryPool } from '../../memory/memory-pool.js';
import { PAGE_SIZE, PAGES_PER_WORD } from '../../memory/page.js';
import { bitmapWords, PageBitmap } from '../../memory/page-bitmap.js';
import { q35Blocks, RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { macrotask } from '../../migration/migrate.js';
import type { ThreadSource } from '../../vmm/threads.js';
import { WorkerGuest } from '../../vmm/worker-guest.js';
import { loadCapture } from '../captures.js';
import { type GuestPlan, PIECE_CAPTURES } from './plan.js';

/** A guest on its way from host to host. */
export interface TravellingGuest {
  readonly plan: GuestPlan;
  readonly board: FaultBoard;
  /** Where its bitmap of held pages lies, in its RAM. */
  readonly heldGpa: number;
  /** Whether its workload has what it takes to write something, wherever it is. */
  readonly works: boolean;
  /** Where it is now. */
  guest: WorkerGuest;
  memory: SharedGuestMemory;
}

const captures = new Map<string, GuestImage>();

function capture(name: string): GuestImage {
  const image = captures.get(name) ?? loadCapture(name);
  captures.set(name, image);
  return image;
}

/** Reads what plans may ask for (60 ms each) before a migration is under way that would be held up by it. */
export function readCaptures(): void {
  PIECE_CAPTURES.forEach(capture);
}

/** Pages of a piece that are used whatever the capture says: the guest's tables go there, and they are in one piece. */
function reservedPages(pfnSpan: number, ringSize: number): number {
  return metadataPages({ pfnSpan, ringSize }) + 64;
}

/** `memoryBytes` of a capture of one block, from `at` (0 to 1) of it on, where the largest blocks stay aligned. */
function pieceOf(whole: GuestImage, at: number, memoryBytes: number, ringSize: number): GuestImage {
  const image = emptyImage(`${whole.name}-piece`, q35Blocks(memoryBytes));
  const pages = memoryBytes / PAGE_SIZE;
  const alignment = 1024;
  const places = Math.floor((new RamLayout(whole.blocks).pfnSpan - pages) / alignment);
  const firstWord = (Math.floor(at * (places + 1)) * alignment) / PAGES_PER_WORD;
  const source = imageBitmaps(atomicMapper, whole);
  const piece = imageBitmaps(atomicMapper, image);
  for (let word = 0; word < bitmapWords(pages); word += 1) {
    piece.free.words.store(word, source.free.words.load(firstWord + word));
    piece.zero.words.store(word, source.zero.words.load(firstWord + word));
  }
  piece.free.clearRange(0, reservedPages(pages, ringSize));
  return image;
}

/** The memory map that a plan asks for. */
export function imageOf(plan: GuestPlan): GuestImage {
  const { image, memoryBytes } = plan;
  switch (image.from) {
    case 'synthetic':
      return syntheticImage(atomicMapper, { memoryBytes, ...image });
    case 'capture':
      return pieceOf(capture(image.capture), image.at, memoryBytes, plan.ringSize);
    case 'whole-capture':
      return capture(image.capture);
  }
}

/** Fewer free pages than this may be too few for a workload that allocates, once its driver holds some of them. */
const ENOUGH_FREE_PAGES = 64;

/** Boots a guest and lets it run. Throws OUT_OF_MEMORY. */
export async function bootGuest(
  plan: GuestPlan,
  pool: MemoryPool,
  threads: ThreadSource,
): Promise<TravellingGuest> {
  const image = imageOf(plan);
  const layout = new RamLayout(image.blocks);
  const { pfnSpan } = layout;
  const board = new FaultBoard(atomicMapper, new SharedArrayBuffer(FaultBoard.byteLength(pfnSpan)), pfnSpan);
  const metadataGpa = findMetadataPlace(atomicMapper, image, plan.ringSize);
  const freePages = imageBitmaps(atomicMapper, image).free.count();
  const allocates = plan.workload.kind === 'churn' || plan.workload.kind === 'pressure';
  const memory = pool.take(layout);
  try {
    const { freeMemory, workload, reportMode, dialect, minOrder, ringSize, eventIdx, ringDeadlineMs, seed } =
      plan;
    const guest = await WorkerGuest.boot({
      image,
      memory,
      event: new EventWord(atomicMapper),
      freeMemory,
      workload,
      reportMode,
      dialect,
      minOrder,
      ringSize,
      eventIdx,
      ringDeadlineMs,
      seed,
      initOnAlloc: plan.initOnAlloc,
      pagePoison: plan.pagePoison ?? undefined,
      oracle: true,
      faults: board.buffer,
      threads,
    });
    guest.run();
    return {
      plan,
      board,
      heldGpa: layOutMetadata(metadataGpa, { pfnSpan, ringSize }).heldGpa,
      works: workload.kind !== 'halt' && !(allocates && freePages < ENOUGH_FREE_PAGES),
      guest,
      memory,
    };
  } catch (thrown) {
    pool.giveBack(memory);
    throw thrown;
  }
}

/** Pages that the guest's driver holds for the host, by the guest's own bitmap. */
export function heldPages({ guest, heldGpa }: TravellingGuest): number {
  const { pfnSpan } = guest.memory.layout;
  const bytes = bitmapWords(pfnSpan) * 4;
  const segment = guest.memory.segmentOf(heldGpa, bytes)!;
  const at = segment.bytes.byteOffset + heldGpa - segment.startGpa;
  return PageBitmap.over(atomicMapper, segment.bytes.buffer, pfnSpan, at).count();
}

/** Bytes that are zeroed before the event loop gets its turn: about half a millisecond. */
const ZERO_SLICE_BYTES = 4 * 1024 * 1024;

/** Fills memory with zeroes without holding up the event loop. */
export async function zeroInSlices(memory: SharedGuestMemory): Promise<void> {
  for (const { bytes } of memory.segments) {
    for (let at = 0; at < bytes.length; at += ZERO_SLICE_BYTES) {
      const length = Math.min(ZERO_SLICE_BYTES, bytes.length - at);
      new Float64Array(bytes.buffer, bytes.byteOffset + at, length / 8).fill(0);
      await macrotask();
    }
  }
}

/** How long a thread is given to end by itself. */
const END_TIMEOUT_MS = 20_000;

/** Ends a thread by asking it, or by force; false: it took force. */
async function endThread(thread: { stop(): Promise<void>; kill(): Promise<void> }): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), END_TIMEOUT_MS);
  });
  const ended = await Promise.race([thread.stop().then(() => true), timeout]);
  clearTimeout(timer);
  if (!ended) {
    await thread.kill();
  }
  return ended;
}

/** Ends a guest. Its memory may be reused when this has resolved. False: only by force. */
export function endGuest(guest: WorkerGuest): Promise<boolean> {
  return endThread(guest);
}

/** The same for a destination's thread. */
export function endDestination(destination: {
  close(): Promise<void>;
  kill(): Promise<void>;
}): Promise<boolean> {
  return endThread({ stop: () => destination.close(), kill: () => destination.kill() });
}
