/**
 * The boundary between the two ends of a migration. A transport carries it; source and destination know nothing
 * of how. Everything sent is applied in the order in which it was sent.
 */

/** What the destination says. */
export type DestinationMessage =
  /** All of the guest is here and could be started (I10: it is not, before the commit). */
  | { readonly type: 'ready'; readonly counts: PageCounts }
  /** The guest runs at the destination, since `startedAt` (ms since the epoch). */
  | { readonly type: 'started'; readonly startedAt: number }
  /** The guest was not started, and never will be by that commit. */
  | { readonly type: 'not-started'; readonly reason: string }
  /** The destination has given the migration up. */
  | { readonly type: 'error'; readonly reason: string }
  /** Everything that was sent before the end of this round, counted as in {@link Frames.roundEnd}, was applied. */
  | { readonly type: 'applied'; readonly round: number }
  /**
   * The link broke: what was not applied is lost, and so is what is sent from here on. The channel goes on trying until it is
   * cancelled.
   */
  | { readonly type: 'lost'; readonly reason: string }
  /**
   * The link is there again, and everything is counted anew from here. `kept`: the destination still has what it
   * said was applied; otherwise it is one that knows nothing of the guest. After the commit, `kept` says that it knows what
   * became of it: it is asked again. Nothing of before arrives after this.
   */
  | { readonly type: 'restored'; readonly kept: boolean }
  /** After a commit: who answers there knows nothing of this migration. That does not mean that it was not started (I10). */
  | { readonly type: 'unknown-migration' };

/** What one end sent and the other applied; both count, and the commit is given only if they agree. */
export interface PageCounts {
  /** Pages whose contents were sent. */
  pages: number;
  /** Pages sent as zeroes, without contents. */
  zeroPages: number;
  /** Pages that the destination was told to fill. */
  filledPages: number;
  /** Rounds that were ended. */
  rounds: number;
}

/** Nothing was sent yet. */
export function noPages(): PageCounts {
  return { pages: 0, zeroPages: 0, filledPages: 0, rounds: 0 };
}

export function sameCounts(a: PageCounts, b: PageCounts | undefined): boolean {
  return (
    b !== undefined &&
    a.pages === b.pages &&
    a.zeroPages === b.zeroPages &&
    a.filledPages === b.filledPages &&
    a.rounds === b.rounds
  );
}

/** The pages that several streams have carried. Rounds are not counted: each is one of all of the streams. */
export function totalCounts(counts: readonly PageCounts[]): PageCounts {
  const total = noPages();
  for (const { pages, zeroPages, filledPages } of counts) {
    total.pages += pages;
    total.zeroPages += zeroPages;
    total.filledPages += filledPages;
  }
  return total;
}

/** What goes from the source to the destination, in order. */
interface Frames {
  /**
   * Pages with their contents. A source's channel may read `payload` at any time until the run is flushed: a page that
   * is written meanwhile is torn, and goes out again, because its mark follows the write (I5). A destination's sink
   * has read it when it returns.
   */
  pageRun(pfn: number, pageCount: number, payload: Uint8Array<ArrayBufferLike>): void;
  /** Pages that hold zeroes, without contents. */
  zeroRun(pfn: number, pageCount: number): void;
  /** Pages that are to read as `value` (32 bits, repeated as le32) from here on. */
  fillRun(pfn: number, pageCount: number, value: number): void;
  /** Round `round` was sent, counted from 1 since the link was made or restored. */
  roundEnd(round: number): void;
  /** What `SourceVm.saveDeviceState` gave, for `DestinationVm.loadDeviceState`. */
  deviceState(state: Uint8Array): void;
  /** Everything was sent: the destination answers *ready*. */
  finish(): void;
  /** The guest is the destination's. After this it may start it, and the source never runs it again (I10). */
  commit(): void;
  /** Takes the commit back if the guest was not started by it: answered by *started* or *not started*. */
  withdraw(): void;
  /** The migration is over, without a commit. */
  cancel(): void;
}

/** The source's end. */
export interface SourceChannel extends Frames {
  /** Whether another run may be sent; if not, the channel rings its event word when it may. */
  readonly writable: boolean;
  /** Bytes that were sent and have not been applied yet. */
  readonly unflushedBytes: number;
  /** The next message of the destination, if one has arrived. */
  poll(): DestinationMessage | undefined;
}

/** The destination's end: what a transport hands everything that arrives to. */
export interface FrameSink extends Frames {
  /** Nothing that arrives now matters any more: it is read and dropped. */
  readonly discarded: boolean;
  /** The link was restored: rounds and pages are counted anew, and a guest that was *ready* is so no more. */
  restart(): void;
  /** A frame has made the sink throw, or the transport itself has found something that can't be right. */
  fail(thrown: unknown): void;
}

/** Bytes that a run's header takes on the wire; what is counted as transferred includes it. */
export const FRAME_HEADER_BYTES = 32;
