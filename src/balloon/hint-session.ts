import { COMMAND_ID_BYTES, FIRST_COMMAND_ID, LAST_COMMAND_ID, STOP_SIGN } from '../spec/command-register.js';

/** Who takes the ranges of a session: the migration. Called only while the session's id is current. */
export interface HintSink {
  /**
   * The guest calls `[gpa, gpa + lengthBytes)` free. The range lies in RAM; it need not be page-aligned.
   * Returns false if no whole page lies within it (it is then counted as rejected).
   */
  hint(gpa: number, lengthBytes: number): boolean;
}

/** Where a session stands. */
export const HintState = {
  /** No session, or it was closed: everything that arrives is stale. */
  closed: 'closed',
  /** An id was issued; the guest has not put it on the queue yet. */
  requested: 'requested',
  /** The guest has put the id on the queue: ranges count. */
  reporting: 'reporting',
  /** The guest has put the stop sign: nothing more will come (C6). */
  done: 'done',
} as const;
/** A state's name, a value of {@link HintState}. */
export type HintStateName = (typeof HintState)[keyof typeof HintState];

/** What came of the queue's entries, in pages unless it says otherwise. */
export interface HintCounts {
  /** Ranges that were accepted under the current id. */
  ranges: number;
  /** Pages under an id that is not current: of a session before, or between sessions. */
  stale: number;
  /** Ranges refused: no whole page in them, or a buffer that is neither a range nor a marker. */
  rejected: number;
  /** Markers that meant nothing: a stop sign or an id outside its session. */
  staleMarkers: number;
}

/** When things happened, in the caller's milliseconds; NaN until they have. */
export interface HintTimes {
  requestedAt: number;
  startedAt: number;
  firstRangeAt: number;
  doneAt: number;
}

/** The id after `id`: 0 and 1 are reserved, and the counter wraps past them (C9). */
export function nextCommandId(id: number): number {
  return id >= LAST_COMMAND_ID || id < FIRST_COMMAND_ID ? FIRST_COMMAND_ID : id + 1;
}

/**
 * The host's view of one exchange between a start and its stop, the same for both dialects.
 *
 * ```
 *            open(id)             id marker            0 marker
 *   closed ───────────▶ requested ─────────▶ reporting ─────────▶ done
 *     ▲                     │                    │                  │
 *     └─────────────────────┴──────close()───────┴──────────────────┘
 * ```
 *
 * I4: a hint counts only between the marker with the *current* id and the next marker. The check of the state
 * and the call of the sink are one piece of code that runs to its end on the thread that also closes the
 * session, so no hint is ever half applied when a sync begins.
 */
export class HintSession {
  state: HintStateName = HintState.closed;
  id: number = STOP_SIGN;
  readonly counts: HintCounts = { ranges: 0, stale: 0, rejected: 0, staleMarkers: 0 };
  readonly times: HintTimes = { requestedAt: NaN, startedAt: NaN, firstRangeAt: NaN, doneAt: NaN };
  #sink: HintSink | undefined;

  /** Begins a session under an id that was never used before. */
  open(id: number, sink: HintSink, now: number): void {
    this.id = id;
    this.state = HintState.requested;
    this.#sink = sink;
    Object.assign(this.times, { requestedAt: now, startedAt: NaN, firstRangeAt: NaN, doneAt: NaN });
  }

  /** Ends it, whatever its state. From here on everything that is still in the ring is stale. */
  close(): void {
    this.state = HintState.closed;
    this.id = STOP_SIGN;
    this.#sink = undefined;
  }

  /**
   * A device-readable buffer. It is a marker only if it is exactly 4 bytes; it starts a session only if that
   * session was requested and the buffer carries its id (V7). Direction and length both decide.
   */
  marker(lengthBytes: number, value: number, now: number): void {
    if (lengthBytes !== COMMAND_ID_BYTES) {
      this.counts.rejected += 1;
    } else if (this.state === HintState.requested && value === this.id) {
      this.state = HintState.reporting;
      this.times.startedAt = now;
    } else if (this.state === HintState.reporting) {
      // The stop sign, or an id that has no business here: either way the ranges that follow are not ours.
      this.state = HintState.done;
      this.times.doneAt = now;
      if (value !== STOP_SIGN) {
        this.counts.staleMarkers += 1;
      }
    } else {
      // A stop sign before our start belongs to the session before; an old id restarts nothing (T1).
      this.counts.staleMarkers += 1;
    }
  }

  /** A device-writable buffer: a free range. */
  range(gpa: number, lengthBytes: number, now: number): void {
    if (this.state !== HintState.reporting || this.#sink === undefined) {
      this.counts.stale += Math.floor(lengthBytes / 4096);
      return;
    }
    if (Number.isNaN(this.times.firstRangeAt)) {
      this.times.firstRangeAt = now;
    }
    if (this.#sink.hint(gpa, lengthBytes)) {
      this.counts.ranges += 1;
    } else {
      this.counts.rejected += 1;
    }
  }
}
