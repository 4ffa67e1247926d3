import { equalBytes, fillWords } from './byte-ops.js';
import type { DirtySink } from './dirty-log.js';
import type { GuestMemory } from './guest-memory.js';
import { bitMask, lowestBit, MIB, PAGE_SIZE, PAGES_PER_WORD } from './page.js';
import { bitmapWords } from './page-bitmap.js';

/** What one slice of a scan compares: well below a millisecond's worth, and a millisecond or two where all of it has to be copied. */
const SLICE_BYTES: number = 2 * MIB;

/** What scans came to. */
export interface ScanCounts {
  /** Passes over the whole of memory. */
  passes: number;
  comparedBytes: number;
  /** Pages that differed. */
  changedPages: number;
  /** Time of the thread that scans, which is the guest's too. */
  ms: number;
}

/**
 * The dirty log of a VMM that keeps none: guest RAM is compared with a *shadow*, and what differs was written (I9).
 *
 * The shadow is what the destination holds, or will once everything that was sent, and is pending to be sent, has arrived.
 * So pages are sent from the shadow and never from live RAM: what a scan has not copied there would be sent, and then
 * compared with something else. And so a page that is left out is made, in the guest as in the shadow, what it reads as at
 * the destination ({@link leaveOut}): a guest that takes it again and writes the very bytes that it held before has
 * changed it then, and a scan sees that.
 *
 * ```
 *   guest RAM ──scan: differs? copy──▶ shadow ──runs──▶ destination
 *       ▲                                ▲
 *       └────── leaveOut: a value ───────┘      (in the driver's kick, before a vCPU runs again)
 * ```
 *
 * Everything happens on the thread that the guest's vCPU runs on, between two of its instructions: nobody writes what is
 * being compared (ADR 9).
 */
export class ComparedMemory {
  readonly counts: ScanCounts = { passes: 0, comparedBytes: 0, changedPages: 0, ms: 0 };
  readonly #live: GuestMemory;
  readonly #shadow: GuestMemory;
  /**
   * Pages that read as zeroes at the destination, a bit each. They are compared with zeroes that lie in a cache, so that a
   * scan reads them once and not twice, and the shadow of a page that was never used is never touched.
   */
  readonly #zero: Int32Array;
  /**
   * Those of them whose shadow still holds what they were before they were left out. To write zeroes there takes as long as to
   * write them in the guest, while the guest's driver waits; few of them are ever looked at again.
   */
  readonly #stale: Int32Array;
  readonly #clock: () => number;
  /** Where the next slice begins. */
  #segment = 0;
  #page = 0;

  /** Both of the same layout, and the shadow all zero. `clock` gives milliseconds, for the counts. */
  constructor(live: GuestMemory, shadow: GuestMemory, clock: () => number) {
    this.#live = live;
    this.#shadow = shadow;
    this.#zero = new Int32Array(bitmapWords(live.layout.pfnSpan)).fill(-1);
    this.#stale = new Int32Array(this.#zero.length);
    this.#clock = clock;
  }

  /**
   * Compares some of memory, copies what differs to the shadow, and tells `sink` of it. True: the pass is complete. What
   * the guest writes behind the scan is found by the next pass; before the last one it has to stand still.
   */
  scanSlice(sink: DirtySink): boolean {
    const began = this.#clock();
    const isComplete = this.#scan(sink);
    this.counts.ms += this.#clock() - began;
    return isComplete;
  }

  #scan(sink: DirtySink): boolean {
    const segment = this.#live.segments[this.#segment]!;
    const shadow = this.#shadow.segments[this.#segment]!;
    const end = Math.min(segment.pageCount, this.#page + SLICE_BYTES / PAGE_SIZE);
    while (this.#page < end) {
      const pfn = segment.firstPfn + this.#page;
      // To the end of the sink's word, so that it gets all of its bits at once.
      const pages = Math.min(PAGES_PER_WORD - (pfn & (PAGES_PER_WORD - 1)), end - this.#page);
      this.#scanWord(segment.bytes, shadow.bytes, this.#page, pages, pfn, sink);
      this.#page += pages;
    }
    if (this.#page < segment.pageCount) {
      return false;
    }
    this.#page = 0;
    this.#segment = (this.#segment + 1) % this.#live.segments.length;
    if (this.#segment !== 0) {
      return false;
    }
    this.counts.passes += 1;
    return true;
  }

  /** The next slice is the first of a pass. A pass that was cut short found what it found. */
  restart(): void {
    this.#segment = 0;
    this.#page = 0;
  }

  /**
   * These pages are left out, and read as `value`, a le32 over and over, at the destination: so they do here from now on,
   * in the guest and in what is sent and compared with.
   * Bit `i` of `bits` is page `wordIndex * 32 + i`. Only while the guest has them free: in its driver's kick.
   */
  leaveOut(wordIndex: number, bits: number, value: number): void {
    fillPages(this.#live, wordIndex, bits, value);
    if (value === 0) {
      this.#stale[wordIndex]! |= bits & ~this.#zero[wordIndex]!;
      this.#zero[wordIndex]! |= bits;
      return;
    }
    fillPages(this.#shadow, wordIndex, bits, value);
    this.#zero[wordIndex]! &= ~bits;
    this.#stale[wordIndex]! &= ~bits;
  }

  /** The shadow of these pages, in one piece: what is sent of them. */
  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    const end = pfn + pageCount;
    for (let at = pfn; at < end; ) {
      const first = at & (PAGES_PER_WORD - 1);
      const pages = Math.min(PAGES_PER_WORD - first, end - at);
      this.#freshen(at >>> 5, bitMask(first, pages));
      at += pages;
    }
    return this.#shadow.pages(pfn, pageCount);
  }

  /** Has the shadow hold zeroes where it is to. */
  #freshen(word: number, mask: number): void {
    const bits = this.#stale[word]! & mask;
    if (bits !== 0) {
      fillPages(this.#shadow, word, bits, 0);
      this.#stale[word]! &= ~bits;
    }
  }

  #scanWord(
    live: Uint8Array,
    shadow: Uint8Array,
    page: number,
    pages: number,
    pfn: number,
    sink: DirtySink,
  ): void {
    const at = page * PAGE_SIZE;
    const length = pages * PAGE_SIZE;
    const word = pfn >>> 5;
    const first = pfn & (PAGES_PER_WORD - 1);
    const mask = bitMask(first, pages);
    this.counts.comparedBytes += length;
    const isZero = (this.#zero[word]! & mask) === mask;
    if (!isZero) {
      this.#freshen(word, mask);
    }
    const others = isZero ? ZEROES : shadow.subarray(at, at + length);
    if (equalBytes(live.subarray(at, at + length), others.subarray(0, length))) {
      return;
    }
    let bits = 0;
    for (let i = 0; i < pages; i += 1) {
      const from = i * PAGE_SIZE;
      const bytes = live.subarray(at + from, at + from + PAGE_SIZE);
      if (!equalBytes(bytes, others.subarray(from, from + PAGE_SIZE))) {
        shadow.set(bytes, at + from);
        bits |= 1 << (first + i);
        this.counts.changedPages += 1;
      }
    }
    this.#zero[word]! &= ~bits;
    this.#stale[word]! &= ~bits;
    sink.addDirty(word, bits);
  }
}

/** As many as one comparison takes. */
const ZEROES: Uint8Array = new Uint8Array(PAGES_PER_WORD * PAGE_SIZE);

/** Bit `i` of `bits` is page `wordIndex * 32 + i`. */
function fillPages(memory: GuestMemory, wordIndex: number, bits: number, value: number): void {
  for (let left = bits; left !== 0; ) {
    const first = lowestBit(left);
    const clear = ~(left >>> first);
    const pages = clear === 0 ? PAGES_PER_WORD : lowestBit(clear);
    const bytes = memory.pages(wordIndex * PAGES_PER_WORD + first, pages);
    // Free memory that was never touched stays so: it takes up none here, and every scan of it is quicker.
    if (value !== 0 || !equalBytes(bytes, ZEROES.subarray(0, bytes.length))) {
      fillWords(bytes, 0, bytes.length, value);
    }
    left &= ~bitMask(first, pages);
  }
}
