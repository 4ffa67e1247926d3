import { LacunaError } from '../errors.js';
import { type GuestTrace, traceEndMs } from './trace.js';
import { TraceChange, TracePlayer, type TracePosition } from './trace-player.js';
import {
  FIRST_WRITTEN_VERSION,
  MOST_CREDIT_MS,
  nextVersion,
  type ReplaySpec,
  SLICE_PAGES,
} from './workload.js';

/** The guest's services that a replay uses. */
export interface ReplayHost {
  /** Whether the page is allocated, and neither ballooned nor one of the guest's own tables. */
  inUse(pfn: number): boolean;
  /** Allocates exactly this page, also out of what is held for a report; false if it is not to be had. */
  allocateAt(pfn: number): boolean;
  release(pfn: number): void;
  /** Writes a page's new contents, its mark, its line in the ledger. */
  write(pfn: number, version: number): void;
}

/** What of a replay does not lie in guest RAM: with it the guest goes on where it was, wherever it is. */
export interface ReplayState {
  readonly position: TracePosition;
  readonly version: number;
  readonly skipped: number;
}

/**
 * Does what a trace says, at its time and slice by slice: frees the pages that became free, allocates those that were
 * allocated and writes them, writes those that differ. At the trace's end it halts.
 *
 * A change that can't be made is skipped and counted: the guest's own tables lie where the traced guest had something
 * else, and a page in the balloon is not the guest's to take. The trace's clock runs while the guest does; as with other
 * workloads a guest that was stopped or kept waiting makes up for {@link MOST_CREDIT_MS} and no more.
 */
export class TraceReplay {
  readonly #host: ReplayHost;
  readonly #player: TracePlayer;
  readonly #speed: number;
  #version: number;
  #skipped: number;
  #lastNow = Number.NaN;
  /** Pages written since the guest was started. */
  pagesWritten = 0;

  /** Throws INVALID_ARGUMENT unless `trace` is the one that `spec` names. */
  constructor(
    spec: ReplaySpec,
    trace: GuestTrace | undefined,
    host: ReplayHost,
    restored: ReplayState | undefined,
  ) {
    const named = namedTrace(spec, trace);
    this.#host = host;
    this.#speed = spec.speed;
    this.#player =
      restored === undefined ? TracePlayer.at(named, spec.atMs) : new TracePlayer(named, restored.position);
    this.#version = restored?.version ?? FIRST_WRITTEN_VERSION;
    this.#skipped = restored?.skipped ?? 0;
  }

  saveState(): ReplayState {
    return { position: this.#player.save(), version: this.#version, skipped: this.#skipped };
  }

  /** The last sample that was reached. */
  get sample(): number {
    return this.#player.sample;
  }

  /** ms of the trace. */
  get atMs(): number {
    return this.#player.atMs;
  }

  /** Changes that could not be made. */
  get skipped(): number {
    return this.#skipped;
  }

  /** Does what is due, a slice at the most. Milliseconds until more is due: 0 = at once, Infinity = never. */
  step(now: number): number {
    if (!Number.isNaN(this.#lastNow)) {
      this.#player.advance((now - this.#lastNow) * this.#speed, MOST_CREDIT_MS * this.#speed);
    }
    this.#lastNow = now;
    for (let left = SLICE_PAGES; left > 0 && this.#player.next(); left -= 1) {
      if (!this.#make()) {
        this.#skipped += 1;
      }
    }
    return this.#player.dueInMs() / this.#speed;
  }

  /** Makes the player's change; false if it can't be made. */
  #make(): boolean {
    const { change, pfn } = this.#player;
    const host = this.#host;
    if (change === TraceChange.freed) {
      if (!host.inUse(pfn)) {
        return false;
      }
      host.release(pfn);
      return true;
    }
    if (change === TraceChange.allocated ? !host.allocateAt(pfn) : !host.inUse(pfn)) {
      return false;
    }
    host.write(pfn, this.#version);
    this.#version = nextVersion(this.#version);
    this.pagesWritten += 1;
    return true;
  }
}

/** The trace that a workload names, if that is the one given. Throws INVALID_ARGUMENT. */
export function namedTrace(spec: ReplaySpec, trace: GuestTrace | undefined): GuestTrace {
  if (trace?.name !== spec.name) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the guest replays ${spec.name}: give that trace to whoever hosts it (it was given ${trace?.name ?? 'none'})`,
    );
  }
  return trace;
}

/** The workload that replays a trace from a moment on. Throws INVALID_ARGUMENT if there is no such moment or speed. */
export function traceWorkload(trace: GuestTrace, atMs: number, speed = 1): ReplaySpec {
  if (!(speed > 0 && Number.isFinite(speed))) {
    throw new LacunaError('INVALID_ARGUMENT', `a trace is replayed at a speed above 0, not at ${speed}`);
  }
  const { sample } = TracePlayer.at(trace, atMs);
  const pages = trace.changes
    .slice(sample + 1)
    .reduce((sum, { allocated, written }) => sum + allocated + written, 0);
  const ms = traceEndMs(trace) - trace.timesMs[sample]!;
  return {
    kind: 'trace',
    name: trace.name,
    atMs,
    speed,
    pagesPerSecond: ms === 0 ? 0 : (pages / ms) * 1000 * speed,
  };
}
