import { PAGE_SIZE } from '../memory/page.js';
import { PageBitmap, type PageRun } from '../memory/page-bitmap.js';
import type { RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { FRAME_HEADER_BYTES } from '../wire/channel.js';
import { DEFAULT_OPTIONS } from './options.js';
import { Pacer } from './pacer.js';
import { SendCursor } from './send-cursor.js';

/** What a migration is estimated from. Rates in bytes a second. */
export interface EstimateInput {
  readonly layout: RamLayout;
  /** Pages that the guest reports as free; undefined: no hints are asked for. */
  readonly reported: PageBitmap | undefined;
  /** Pages that read as zeroes; undefined: zeroes are not looked for. */
  readonly zero: PageBitmap | undefined;
  /** Of the link; Infinity gives no time. */
  readonly bytesPerSecond: number;
  /** How fast the source finds that a page is all zero. */
  readonly zeroScanBytesPerSecond: number;
  /** What the guest goes on writing, as pages a second, out of a set of so many. */
  readonly dirty: { readonly pagesPerSecond: number; readonly setPages: number };
  readonly maxRunPages?: number;
}

export interface MigrationEstimate {
  /** Pages sent with their contents, the last round's included. */
  readonly pages: number;
  readonly zeroPages: number;
  /** Pages left out because the guest reports them. */
  readonly skippedPages: number;
  readonly transferredBytes: number;
  /** null: the link says nothing about it. */
  readonly totalMs: number | null;
}

/*
 * Milliseconds (a Mi of page frames or pages is 2^20 of them). Measured on 2 cores of an Intel Xeon at 2.50 GHz, a shared virtual
 * machine, Node 20.20.2, in 52 migrations of `lacuna bench --guest idle-8g cache-8g build-2g fragmented-2g
 * fragmented-settled-2g` at 10gbit, from the fields of its report.json that are named here.
 */

/** `setup-time`: 0.1–0.5 ms with 2 GiB (0.5 Mi of frames), 1.1–5.4 ms with 8 GiB (2.5 Mi, the hole counts). */
const SYNC_A_MIPFN = 0.5;
/** `to-first-range`: interrupt, acknowledgement, id. 2–10 ms with 2 GiB, 9–12 ms with cache-8g. */
const REPORT = 2;
const REPORT_A_MIPFN = 2.8;
/** Applying hints: `to-stop` of idle-8g, which hints 1.9 Mi of pages in 14 ranges, is 16–30 ms. */
const HINTED_A_MIPAGE = 10;
/** Claim, header, call: 2.6 µs a frame with the guest's report beside it (docs/BENCHMARKS.md). */
const FRAME = 0.0026;
/** To look whether a page is zero: 40 ns where a byte or two show that it is not, and as much beside the scan where it is. */
const LOOK = 0.00004;
/** From the first round's end to the last one's: 2–5 ms with 2 GiB, 6–17 ms with 8 GiB. */
const LAST_SYNC = 1.5;
const LAST_SYNC_A_MIPFN = 2.2;
/** From the last round's end: 5–13 ms, most of it the guest's thread at the destination making its runtime. */
const START = 7;

/** The rate up to which the link decides. Beyond it copying does, which differs from machine to machine. */
export const MOST_MODELLED_BYTES_PER_SECOND = 3e9;

/**
 * What a migration would send and how long it would take, from a memory map alone. `map` maps words that this thread has
 * to itself.
 *
 * Bytes are counted, not modelled. The engine's own cursor goes over the pages that are to be sent and cuts them into
 * runs; data is cut again where it would hold the link for too long, and with zero detection where data and zeroes meet.
 * What comes of that is a frame:
 *
 *     bytes = data pages × 4096 + frames × 32 + what the guest writes meanwhile
 *
 * Time is simulated. The engine's own {@link Pacer} is the link, and a clock goes on by what each step costs the
 * coordinator. The link has nothing to carry only until the first hint and while zeroes are scanned:
 *
 *     begin   sync                                   SYNC × span
 *             until the first hint (with hints)      REPORT + REPORT × span + HINTED × hinted pages
 *     frame   wait until the link takes it           bytes / rate, but for the few ms that the link's queue holds
 *             then                                   FRAME, and with zero detection
 *                                                    pages × LOOK + zero pages × 4096 / zero scan rate
 *     end     the last sync, the guest stops         LAST_SYNC + LAST_SYNC × span
 *             what it has written meanwhile          a frame
 *             all of it has passed the link; the guest starts   START
 *
 * where span is the page frames from 0 to the end of RAM. A report goes on while pages are sent, those that hints have
 * passed by, so that only its beginning counts (*adaptive*, with a link slower than the report).
 */
export function estimateMigration(map: WordMapper, input: EstimateInput): MigrationEstimate {
  const { layout, reported, zero, bytesPerSecond, dirty, maxRunPages = DEFAULT_OPTIONS.maxRunPages } = input;
  const send = PageBitmap.allocateOwn(map, layout.pfnSpan);
  for (const { firstPfn, pageCount } of layout.segments) {
    send.setRange(firstPfn, pageCount);
  }
  const skippedPages = reported === undefined ? 0 : leaveOut(send, reported);
  const cursor = new SendCursor(send, PageBitmap.allocateOwn(map, layout.pfnSpan), layout, maxRunPages);
  const spanMi = layout.pfnSpan / 2 ** 20;
  const clock = new Clock(bytesPerSecond);
  clock.now = SYNC_A_MIPFN * spanMi;
  if (reported !== undefined) {
    clock.now += REPORT + REPORT_A_MIPFN * spanMi + (HINTED_A_MIPAGE * skippedPages) / 2 ** 20;
  }
  const zeroPageMs = (PAGE_SIZE / input.zeroScanBytesPerSecond) * 1000 + LOOK;
  const mostPages = clock.longestRun(maxRunPages);
  const lookMs = zero === undefined ? 0 : LOOK;
  const run: PageRun = { pfn: 0, pageCount: 0 };
  let pages = 0;
  let zeroPages = 0;
  while (cursor.nextInto(run, Number.POSITIVE_INFINITY, false)) {
    const end = run.pfn + run.pageCount;
    for (let pfn = run.pfn; pfn < end; ) {
      const isZero = zero?.test(pfn) === true;
      const next = zero === undefined ? end : isZero ? zero.nextClear(pfn, end) : zero.nextSet(pfn, end);
      const count = isZero ? next - pfn : Math.min(next - pfn, mostPages);
      if (isZero) {
        zeroPages += count;
        clock.frame(0, count * zeroPageMs);
      } else {
        pages += count;
        clock.frame(count, count * lookMs);
      }
      pfn += count;
    }
  }
  clock.frame(0, 0); // the round's end
  clock.now += LAST_SYNC + LAST_SYNC_A_MIPFN * spanMi;
  const timed = bytesPerSecond <= MOST_MODELLED_BYTES_PER_SECOND;
  // Without a time of its own the guest is taken to have written all of its set.
  const written = timed
    ? Math.min(dirty.setPages, Math.round((clock.now / 1000) * dirty.pagesPerSecond))
    : dirty.setPages;
  clock.frame(written, 0);
  clock.frame(0, 0); // the round's end
  clock.frame(0, 0); // the device's state
  clock.frame(0, 0); // finish
  return {
    pages: pages + written,
    zeroPages,
    skippedPages,
    transferredBytes: clock.bytes,
    totalMs: timed ? Math.max(clock.now, clock.drainedAt()) + START : null,
  };
}

/** The coordinator's time and the link's. */
class Clock {
  now = 0;
  bytes = 0;
  readonly #pacer: Pacer;

  constructor(bytesPerSecond: number) {
    this.#pacer = new Pacer(bytesPerSecond);
  }

  /** One frame with `pages` pages of contents: waits for the link, then takes `workMs` besides what any frame takes. */
  frame(pages: number, workMs: number): void {
    const bytes = FRAME_HEADER_BYTES + pages * PAGE_SIZE;
    this.now = this.#pacer.readyAt(this.now);
    this.#pacer.charge(bytes, this.now);
    this.bytes += bytes;
    this.now += FRAME + workMs;
  }

  longestRun(most: number): number {
    return this.#pacer.longestRun(most);
  }

  drainedAt(): number {
    return this.#pacer.drainedAt();
  }
}

/** Takes the pages of `pages` out of `send`; returns how many that were. */
function leaveOut(send: PageBitmap, pages: PageBitmap): number {
  let count = 0;
  const run: PageRun = { pfn: 0, pageCount: 0 };
  for (let from = 0; pages.nextRunInto(run, from); from = run.pfn + run.pageCount) {
    count += send.clearRange(run.pfn, run.pageCount);
  }
  return count;
}
