// @ts-check
import { atomicMapper, HintSession, nextCommandId, PageBitmap } from 'lacuna';

/** @import { HintDevice, HintSink, PageRun, RamLayout } from 'lacuna' */

const PAGE_BYTES = 4096;
/** An id, and the stop sign, are 4 bytes on a queue; there is no queue here, but a session counts on it. */
const MARKER_BYTES = 4;
const STOP_SIGN = 0;

/**
 * Hints without a balloon, a queue or a driver: this machine's heap is its VMM's, so the VMM knows what is free and
 * says so itself. A guest that knows more than its VMM needs a device that it can talk to in its place.
 *
 * It reads the bitmap of free pages as it stands while it is polled, after the session was opened. A list made before
 * would not do: a page that was free then may have been written since, before the dirty log was drained (I4).
 *
 * @implements {HintDevice}
 */
export class FreePageHints {
  session = new HintSession();
  /** The first id; without a queue no marker of an older session can turn up, so every machine may begin here. */
  upcomingId = nextCommandId(STOP_SIGN);
  /** A guest that corrupts its queue would be reported here. */
  fault = undefined;
  /** Pages in a balloon: there is none. */
  inflated;
  #free;
  /** The page from which on free ones have still to be hinted. */
  #from = 0;
  /** @type {PageRun} */
  #run = { pfn: 0, pageCount: 0 };

  /**
   * @param {RamLayout} layout
   * @param {PageBitmap} free kept by the heap; a bit is set while a page is free
   */
  constructor(layout, free) {
    this.inflated = PageBitmap.allocateOwn(atomicMapper, layout.pfnSpan);
    this.#free = free;
  }

  /**
   * @param {HintSink} sink
   * @param {number} now
   */
  openSession(sink, now) {
    const id = this.upcomingId;
    this.upcomingId = nextCommandId(id);
    this.session.open(id, sink, now);
    this.session.marker(MARKER_BYTES, id, now);
    this.#from = 0;
    return id;
  }

  closeSession() {
    this.session.close();
  }

  /**
   * @param {number} now
   * @param {number} limit
   */
  poll(now, limit) {
    let handled = 0;
    while (this.#reporting && handled < limit) {
      const run = this.#run;
      if (this.#free.nextRunInto(run, this.#from)) {
        this.session.range(run.pfn * PAGE_BYTES, run.pageCount * PAGE_BYTES, now);
        this.#from = run.pfn + run.pageCount;
      } else {
        this.session.marker(MARKER_BYTES, STOP_SIGN, now);
      }
      handled += 1;
    }
    return handled;
  }

  get #reporting() {
    return this.session.state === 'reporting';
  }

  suppressNotifications() {}

  /** There is work exactly while a session is open and not done; nobody has to be rung for it. */
  armNotifications() {
    return this.#reporting;
  }

  freeze() {}

  unfreeze() {}
}
