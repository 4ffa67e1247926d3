import type { HintCounts, HintStateName, HintTimes } from '../../src/balloon/hint-session.js';

/** What happened to a session, as it is remembered. */
export type HintEvent =
  | { readonly kind: 'open'; readonly id: number; readonly at: number }
  | { readonly kind: 'close' }
  | { readonly kind: 'marker'; readonly lengthBytes: number; readonly value: number; readonly at: number }
  | { readonly kind: 'range'; readonly gpa: number; readonly lengthBytes: number; readonly at: number };

type Opened = Extract<HintEvent, { kind: 'open' }>;
type Marker = Extract<HintEvent, { kind: 'marker' }>;
type Range = Extract<HintEvent, { kind: 'range' }>;

/**
 * The naive twin of HintSession: a list of all that ever happened, and I4 as it is written. No state: whether a
 * range counts is found out by looking back for the open before it, then forward from there for its markers.
 */
export class NaiveHintSession {
  readonly events: HintEvent[] = [];
  readonly #accepts: (gpa: number, lengthBytes: number) => boolean;

  /** `accepts`: what the sink answers. */
  constructor(accepts: (gpa: number, lengthBytes: number) => boolean) {
    this.#accepts = accepts;
  }

  get state(): HintStateName {
    const open = this.#sessionAt(this.events.length);
    if (open === -1) {
      return 'closed';
    }
    if (this.#start(open) === -1) {
      return 'requested';
    }
    return this.#end(open) === -1 ? 'reporting' : 'done';
  }

  get id(): number {
    const open = this.#sessionAt(this.events.length);
    return open === -1 ? 0 : (this.events[open] as Opened).id;
  }

  get counts(): HintCounts {
    const counts = { ranges: 0, stale: 0, rejected: 0, staleMarkers: 0 };
    for (const [i, event] of this.events.entries()) {
      if (event.kind === 'marker') {
        if (event.lengthBytes !== 4) {
          counts.rejected += 1;
        } else if (!this.#hasMeaning(i)) {
          counts.staleMarkers += 1;
        }
      } else if (event.kind === 'range') {
        if (!this.#isCurrent(i)) {
          counts.stale += (event.lengthBytes - (event.lengthBytes % 4096)) / 4096;
        } else if (this.#accepts(event.gpa, event.lengthBytes)) {
          counts.ranges += 1;
        } else {
          counts.rejected += 1;
        }
      }
    }
    return counts;
  }

  /** Of the session that was opened last, closed or not. */
  get times(): HintTimes {
    const open = this.events.findLastIndex(({ kind }) => kind === 'open');
    const first = this.events.findIndex(
      (event, i) => i > open && event.kind === 'range' && this.#isCurrent(i),
    );
    const at = (index: number): number =>
      index === -1 ? Number.NaN : (this.events[index] as Opened | Marker | Range).at;
    return {
      requestedAt: at(open),
      startedAt: open === -1 ? Number.NaN : at(this.#start(open)),
      firstRangeAt: open === -1 ? Number.NaN : at(first),
      doneAt: open === -1 ? Number.NaN : at(this.#end(open)),
    };
  }

  /** The ranges that went to the sink of the session that was opened at `open`. */
  handedOver(open: number): [gpa: number, lengthBytes: number][] {
    return this.events.flatMap((event, i): [number, number][] =>
      event.kind === 'range' && this.#isCurrent(i) && this.#sessionAt(i) === open
        ? [[event.gpa, event.lengthBytes]]
        : [],
    );
  }

  /** The open of the session that event `index` falls into; -1: into none. */
  #sessionAt(index: number): number {
    const last = this.events.slice(0, index).findLastIndex(({ kind }) => kind === 'open' || kind === 'close');
    return last !== -1 && this.events[last]!.kind === 'open' ? last : -1;
  }

  /** The markers of 4 bytes that came while the session was open. */
  #markers(open: number): number[] {
    return this.events.flatMap((event, i) =>
      event.kind === 'marker' && event.lengthBytes === 4 && i > open && this.#sessionAt(i) === open
        ? [i]
        : [],
    );
  }

  /** Where the guest has put the session's id; -1: nowhere yet. */
  #start(open: number): number {
    const { id } = this.events[open] as Opened;
    return this.#markers(open).find((i) => (this.events[i] as Marker).value === id) ?? -1;
  }

  /** The next marker after that, whatever it says. */
  #end(open: number): number {
    const start = this.#start(open);
    return start === -1 ? -1 : (this.#markers(open).find((i) => i > start) ?? -1);
  }

  /** I4: between the marker with the current id and the next marker. */
  #isCurrent(index: number): boolean {
    const open = this.#sessionAt(index);
    if (open === -1) {
      return false;
    }
    const start = this.#start(open);
    const end = this.#end(open);
    return start !== -1 && start < index && (end === -1 || index < end);
  }

  /** The marker that starts its session, or the stop sign that ends it. */
  #hasMeaning(index: number): boolean {
    const open = this.#sessionAt(index);
    if (open === -1) {
      return false;
    }
    const isStopSign = (this.events[index] as Marker).value === 0;
    return index === this.#start(open) || (index === this.#end(open) && isStopSign);
  }
}
