import { LacunaError } from '../errors.js';
import { lowestBit, PAGES_PER_WORD } from '../memory/page.js';
import { bitmapWords } from '../memory/page-bitmap.js';
import { RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { emptyImage, type GuestImage, imageBitmaps } from './image.js';
import { type GuestTrace, TraceBitmap, traceEndMs, traceWords } from './trace.js';

/** What becomes of a page on the way to a sample, in the order in which it does. */
export const TraceChange = { freed: 0, allocated: 1, written: 2 } as const;
export type TraceChangeValue = (typeof TraceChange)[keyof typeof TraceChange];

/** A moment of a trace. Plain numbers: it travels with the vCPU's registers. */
export interface TracePosition {
  /** The last sample that was reached. */
  sample: number;
  /** ms of the trace since then. */
  sinceMs: number;
  /** Changes on the way to the next sample that were given out. */
  done: number;
  /** Kind of the change that comes next, and the page at which it is looked for. */
  change: TraceChangeValue;
  fromPfn: number;
}

/**
 * Plays a trace: gives out its changes one by one as time goes on. Between samples *s* and *s* + 1 these are the pages
 * that became free, then those that were allocated, then those that were in use at both and differ; they are spread
 * evenly over the time between the two.
 *
 * ```
 *   t[s]                                             t[s+1]
 *    ├── freed ──┬──── allocated ────┬──── written ────┤
 * ```
 */
export class TracePlayer {
  readonly #trace: GuestTrace;
  readonly #position: TracePosition;
  /** Free at the last sample and at the next, and dirty at the next. */
  #before: Uint32Array;
  #now: Uint32Array;
  #dirty: Uint32Array;
  /** Changes between the two, and ms. */
  #changes = 0;
  #lengthMs = 0;
  /** The change that {@link next} gave out last, and its page. */
  change: TraceChangeValue = TraceChange.freed;
  pfn = -1;

  constructor(trace: GuestTrace, position: TracePosition) {
    this.#trace = trace;
    this.#position = { ...position };
    this.#before = this.#now = this.#dirty = traceWords(trace, 0, TraceBitmap.free);
    this.#aim();
  }

  /** At moment `atMs`: all changes until then count as given out. Throws INVALID_ARGUMENT if the trace has no such. */
  static at(trace: GuestTrace, atMs: number, visit?: (player: TracePlayer) => void): TracePlayer {
    const endMs = traceEndMs(trace);
    if (!(atMs >= 0 && atMs <= endMs)) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `${trace.name} goes from 0 to ${endMs / 1000} s: there is no ${atMs / 1000} s in it`,
      );
    }
    const sample = trace.timesMs.findLastIndex((timeMs) => timeMs <= atMs);
    const sinceMs = atMs - trace.timesMs[sample]!;
    const player = new TracePlayer(trace, {
      sample,
      sinceMs,
      done: 0,
      change: TraceChange.freed,
      fromPfn: 0,
    });
    while (player.next()) {
      visit?.(player);
    }
    return player;
  }

  save(): TracePosition {
    return { ...this.#position };
  }

  /** Whether the last sample was reached: nothing more is known. */
  get ended(): boolean {
    return this.#position.sample === this.#trace.timesMs.length - 1;
  }

  /** The last sample that was reached. */
  get sample(): number {
    return this.#position.sample;
  }

  /** ms of the trace. */
  get atMs(): number {
    return this.#trace.timesMs[this.#position.sample]! + this.#position.sinceMs;
  }

  /** Lets `ms` of the trace pass, but no more than brings the changes that are due to `mostOwedMs` worth of them. */
  advance(ms: number, mostOwedMs: number): void {
    if (!this.ended) {
      const position = this.#position;
      const servedMs =
        this.#changes === 0 ? position.sinceMs : (position.done * this.#lengthMs) / this.#changes;
      position.sinceMs = Math.min(position.sinceMs + ms, servedMs + mostOwedMs);
    }
  }

  /** The next change that is due, in {@link change} and {@link pfn}; false: none is, for now or ever. */
  next(): boolean {
    const position = this.#position;
    while (!this.ended) {
      const due =
        position.sinceMs >= this.#lengthMs
          ? this.#changes
          : Math.floor((this.#changes * position.sinceMs) / this.#lengthMs);
      if (position.done < due) {
        this.#find();
        position.done += 1;
        return true;
      }
      if (position.sinceMs < this.#lengthMs) {
        return false;
      }
      position.sample += 1;
      position.sinceMs = this.ended ? 0 : position.sinceMs - this.#lengthMs;
      position.done = 0;
      position.change = TraceChange.freed;
      position.fromPfn = 0;
      this.#aim();
    }
    return false;
  }

  /** ms of the trace until something is due; Infinity: nothing ever will be. */
  dueInMs(): number {
    if (this.ended) {
      return Number.POSITIVE_INFINITY;
    }
    const { done, sinceMs } = this.#position;
    const dueMs = done < this.#changes ? ((done + 1) * this.#lengthMs) / this.#changes : this.#lengthMs;
    return Math.max(0, dueMs - sinceMs);
  }

  /** Looks from the sample that was reached towards the next. */
  #aim(): void {
    if (this.ended) {
      return;
    }
    const trace = this.#trace;
    const { sample } = this.#position;
    this.#before = traceWords(trace, sample, TraceBitmap.free);
    this.#now = traceWords(trace, sample + 1, TraceBitmap.free);
    this.#dirty = traceWords(trace, sample + 1, TraceBitmap.dirty);
    const { freed, allocated, written } = trace.changes[sample + 1]!;
    this.#changes = freed + allocated + written;
    this.#lengthMs = trace.timesMs[sample + 1]! - trace.timesMs[sample]!;
  }

  /** Finds the change at which the position points or the first one behind it. There is one: they were counted. */
  #find(): void {
    const position = this.#position;
    const end = this.#now.length * PAGES_PER_WORD;
    let pfn = this.#nextOf(position.change, position.fromPfn);
    while (pfn === end) {
      if (position.change === TraceChange.written) {
        throw new LacunaError(
          'ILLEGAL_STATE',
          `${this.#trace.name} has fewer changes after sample ${position.sample} than were counted`,
        );
      }
      position.change = position.change === TraceChange.freed ? TraceChange.allocated : TraceChange.written;
      pfn = this.#nextOf(position.change, 0);
    }
    this.change = position.change;
    this.pfn = pfn;
    position.fromPfn = pfn + 1;
  }

  /** The first page at or after `from` that changed in this way; one behind the last if none did. */
  #nextOf(change: TraceChangeValue, from: number): number {
    const words = this.#now.length;
    let index = from >>> 5;
    let mask = -1 << (from & 31);
    for (; index < words; index += 1) {
      const word = this.#changedIn(change, index) & mask;
      if (word !== 0) {
        return index * PAGES_PER_WORD + lowestBit(word);
      }
      mask = -1;
    }
    return words * PAGES_PER_WORD;
  }

  #changedIn(change: TraceChangeValue, index: number): number {
    const before = this.#before[index]!;
    const now = this.#now[index]!;
    switch (change) {
      case TraceChange.freed:
        return now & ~before;
      case TraceChange.allocated:
        return before & ~now;
      case TraceChange.written:
        return this.#dirty[index]! & ~(now | before);
    }
  }
}

/**
 * The memory map of a trace's guest at moment `atMs`: that of the sample before it, and the changes since. What was
 * written since is not zero any more. Throws INVALID_ARGUMENT if the trace has no such moment.
 */
export function traceImage(map: WordMapper, trace: GuestTrace, atMs: number): GuestImage {
  const image = emptyImage(trace.name, trace.blocks);
  const { free, zero } = imageBitmaps(map, image);
  const changes: [change: TraceChangeValue, pfn: number][] = [];
  const { sample } = TracePlayer.at(trace, atMs, ({ change, pfn }) => changes.push([change, pfn]));
  const words = bitmapWords(new RamLayout(trace.blocks).pfnSpan);
  new Uint32Array(image.free).set(traceWords(trace, sample, TraceBitmap.free).subarray(0, words));
  new Uint32Array(image.zero).set(traceWords(trace, sample, TraceBitmap.zero).subarray(0, words));
  for (const [change, pfn] of changes) {
    if (change === TraceChange.freed) {
      free.set(pfn);
    } else {
      free.clear(pfn);
      zero.clear(pfn);
    }
  }
  return image;
}

/** Pages that a trace has written between two of its moments: allocated ones and others. */
export function traceWrites(trace: GuestTrace, fromMs: number, untilMs: number): number {
  const player = TracePlayer.at(trace, fromMs);
  player.advance(untilMs - fromMs, Number.POSITIVE_INFINITY);
  let pages = 0;
  while (player.next()) {
    pages += player.change === TraceChange.freed ? 0 : 1;
  }
  return pages;
}
