import type { GuestMemory } from '../memory/guest-memory.js';
import { PAGE_SHIFT, PAGE_SIZE } from '../memory/page.js';
import type { PageRun } from '../memory/page-bitmap.js';
import { COMMAND_ID_BYTES, STOP_SIGN } from '../spec/command-register.js';
import { VIRTIO_BALLOON_VQ_FREE_PAGE } from '../spec/virtio-balloon.js';
import type { DriverQueue } from '../virtqueue/driver-queue.js';
import { ExitFeature } from './exits.js';
import type { DevicePort } from './registers.js';
import type { HintCommands } from './virtio-driver.js';

/** Where the driver gets free ranges from: by walking the allocator's bitmap, or by taking blocks and holding them. */
export interface FreeRangeSource {
  /** A new report begins. */
  begin(): void;
  /** The next free range into `out`; false when there are no more. */
  nextInto(out: PageRun): boolean;
  /** Where the report is (a pfn), so that it can go on from there after a migration. */
  position: number;
  /** The range from the last {@link nextInto} did not fit into the ring and is dropped. */
  dropped(range: PageRun): void;
  /** There are no more ranges in this report. */
  finish(): void;
  /** The host needs the report no more: what was held is given back. */
  release(): void;
  /** Whether a full ring is worth waiting for; *hold* drops at once, as Linux does (D11). */
  readonly waitsForRing: boolean;
}

/** Whoever wants to know what the driver declares: the verifier's oracle. Called before the range is visible. */
export interface DeclarationObserver {
  declared(id: number, pfn: number, pageCount: number): void;
}

/** The report's counters; the runtime shows them to the host. */
export interface ReportCounts {
  ranges: number;
  rangesDropped: number;
  pagesDropped: number;
}

export const ReportPhase = { idle: 0, id: 1, ranges: 2, stopSign: 3 } as const;

/** What a step of the driver left behind. */
export const ReportStep = {
  /** Nothing to do. */
  idle: 0,
  /** Progress was made and there is more. */
  working: 1,
  /** The ring is full: wait for an interrupt of its queue, or for the deadline. */
  waiting: 2,
} as const;

/** What of a report does not lie in guest RAM; part of the vCPU's state. */
export interface ReportDriverState {
  phase: number;
  id: number;
  lastId: number;
  pendingId: number;
  position: number;
  /** A range that was taken from the source and is not on the ring yet. */
  rangePfn: number;
  rangePages: number;
}

export interface ReportDriverOptions {
  readonly port: DevicePort;
  readonly queue: DriverQueue;
  readonly memory: GuestMemory;
  /** Guest-physical address of 4 bytes for each descriptor: the marker that descriptor carries. */
  readonly markersGpa: number;
  /** Called after bytes at a gpa were written (I1). */
  readonly wrote: (gpa: number, lengthBytes: number) => void;
  readonly source: FreeRangeSource;
  /** How long a report waits for room in the ring, in total, before it drops what does not fit. */
  readonly ringDeadlineMs: number;
  /** Ranges that one step adds at the most, so that the workload goes on between steps. */
  readonly rangesPerStep: number;
  /** Pages after which a step ends, where to find them takes as long as to write them. */
  readonly pagesPerStep?: number | undefined;
  /** Steps that look at a full ring again before an interrupt is asked for. */
  readonly spinSteps?: number;
  /** What was held comes back only when the host is done with it (VIRTIO's dialect), not already when a report is to stop. */
  readonly holdsUntilDone?: boolean | undefined;
  readonly observer?: DeclarationObserver | undefined;
  readonly restored?: ReportDriverState | undefined;
}

/** A buffer's length is a le32 and ranges are whole pages: the longest is a page short of 4 GiB. */
const MAX_RANGE_PAGES = 2 ** (32 - PAGE_SHIFT) - 1;

/**
 * The reporting half of the driver: the id, then the free ranges, then 0, on the free page queue (C5).
 *
 * ```
 *           start(id)          id is on the queue         no more ranges, or stop()
 *   idle ──────────────▶ id ───────────────────────▶ ranges ───────────────────────▶ stopSign ──▶ idle
 * ```
 *
 * It begins to look for ranges only after it has read the id that they go out under, and what it could not put
 * on the ring before a report ended is forgotten, never sent under a later id (I4). One descriptor is always
 * left for the stop sign (D11), so ending a report needs no room and can't deadlock.
 */
export class ReportDriver implements HintCommands {
  readonly counts: ReportCounts = { ranges: 0, rangesDropped: 0, pagesDropped: 0 };
  readonly #options: ReportDriverOptions;
  readonly #range: PageRun = { pfn: 0, pageCount: 0 };
  #phase: number = ReportPhase.idle;
  #id = STOP_SIGN;
  /** The last id that was taken: seen again, it starts nothing (T1). */
  #lastId = STOP_SIGN;
  /** An id that was asked for while another report is still being ended. */
  #pendingId = STOP_SIGN;
  #deadline = Number.NaN;
  /** Steps in a row that found the ring full. */
  #fullSteps = 0;

  constructor(options: ReportDriverOptions) {
    this.#options = options;
    const { restored } = options;
    if (restored !== undefined) {
      this.#phase = restored.phase;
      this.#id = restored.id;
      this.#lastId = restored.lastId;
      this.#pendingId = restored.pendingId;
      this.#range.pfn = restored.rangePfn;
      this.#range.pageCount = restored.rangePages;
      options.source.position = restored.position;
    }
  }

  get phase(): number {
    return this.#phase;
  }

  saveState(): ReportDriverState {
    return {
      phase: this.#phase,
      id: this.#id,
      lastId: this.#lastId,
      pendingId: this.#pendingId,
      position: this.#options.source.position,
      rangePfn: this.#range.pfn,
      rangePages: this.#range.pageCount,
    };
  }

  start(id: number): void {
    if (id === STOP_SIGN || id === this.#lastId) {
      return; // the host has stopped meanwhile, or this is a request that was served already
    }
    this.stop();
    this.#pendingId = id;
  }

  stop(): void {
    this.#pendingId = STOP_SIGN;
    this.#range.pageCount = 0;
    if (this.#options.holdsUntilDone !== true) {
      this.#options.source.release();
    }
    if (this.#phase === ReportPhase.id) {
      this.#phase = ReportPhase.idle; // its id was never shown, so there is nothing to end
    } else if (this.#phase === ReportPhase.ranges) {
      this.#phase = ReportPhase.stopSign;
    }
  }

  done(): void {
    this.stop();
    this.#options.source.release();
  }

  /** One burst of work. `now` is in milliseconds of the guest's clock. */
  step(now: number): number {
    switch (this.#phase) {
      case ReportPhase.id:
        return this.#stepId();
      case ReportPhase.ranges:
        return this.#stepRanges(now);
      case ReportPhase.stopSign:
        return this.#stepStopSign();
      default:
        if (this.#pendingId === STOP_SIGN) {
          return ReportStep.idle;
        }
        this.#id = this.#pendingId;
        this.#lastId = this.#id;
        this.#pendingId = STOP_SIGN;
        this.#deadline = Number.NaN;
        this.#phase = ReportPhase.id;
        return this.#stepId();
    }
  }

  #stepId(): number {
    this.#options.queue.reclaim();
    // Two descriptors: this marker's, and the one that stays reserved for the stop sign.
    if (this.#options.queue.freeCount < 2 || !this.#putMarker(this.#id)) {
      return this.#waitForRing();
    }
    this.#options.source.begin();
    this.#phase = ReportPhase.ranges;
    return ReportStep.working;
  }

  #stepRanges(now: number): number {
    const { queue, source, observer, rangesPerStep, pagesPerStep = Number.POSITIVE_INFINITY } = this.#options;
    const range = this.#range;
    queue.reclaim();
    let more = true;
    let addedPages = 0;
    for (let added = 0; added < rangesPerStep && addedPages < pagesPerStep; added += 1) {
      if (range.pageCount === 0) {
        more = source.nextInto(range);
        if (!more) {
          break;
        }
      }
      if (queue.freeCount < 2) {
        this.#announce();
        // After a drop the host gets its turn before the next range.
        return this.#dropOrWait(now) ? ReportStep.working : this.#waitForRing();
      }
      const pages = Math.min(range.pageCount, MAX_RANGE_PAGES);
      observer?.declared(this.#id, range.pfn, pages);
      queue.tryAddInbuf(range.pfn * PAGE_SIZE, pages * PAGE_SIZE);
      this.counts.ranges += 1;
      this.#fullSteps = 0;
      range.pfn += pages;
      range.pageCount -= pages;
      addedPages += pages;
    }
    this.#announce();
    if (!more) {
      source.finish();
      this.#phase = ReportPhase.stopSign;
    }
    return ReportStep.working;
  }

  #stepStopSign(): number {
    this.#options.queue.reclaim();
    if (!this.#putMarker(STOP_SIGN)) {
      return this.#waitForRing();
    }
    this.#phase = ReportPhase.idle;
    this.#id = STOP_SIGN;
    return ReportStep.working;
  }

  /** A full ring: true if the range in hand was dropped, false if it is worth waiting for room. */
  #dropOrWait(now: number): boolean {
    const { source, ringDeadlineMs } = this.#options;
    if (Number.isNaN(this.#deadline)) {
      this.#deadline = now + ringDeadlineMs;
    }
    if (source.waitsForRing && now < this.#deadline) {
      return false;
    }
    source.dropped(this.#range);
    this.counts.rangesDropped += 1;
    this.counts.pagesDropped += this.#range.pageCount;
    this.#range.pageCount = 0;
    return true;
  }

  /** Asks for an interrupt when there is room again, and looks once more so that none is missed (Q7). */
  #waitForRing(): number {
    const { queue } = this.#options;
    // A host that is at work makes room within microseconds: looking again is cheaper than a sleep and a wake-up.
    if (this.#fullSteps < (this.#options.spinSteps ?? 0)) {
      this.#fullSteps += 1;
      return ReportStep.working;
    }
    this.#fullSteps = 0;
    if (queue.enableInterrupts()) {
      queue.disableInterrupts();
      return ReportStep.working;
    }
    return ReportStep.waiting;
  }

  /** Puts an id or the stop sign on the queue, in 4 bytes that belong to its descriptor while it is in flight. */
  #putMarker(value: number): boolean {
    const { queue, memory, markersGpa, wrote } = this.#options;
    const head = queue.nextHead;
    if (head === -1) {
      return false;
    }
    const gpa = markersGpa + head * COMMAND_ID_BYTES;
    const segment = memory.segmentOf(gpa, COMMAND_ID_BYTES);
    if (segment === undefined) {
      return false;
    }
    new DataView(segment.bytes.buffer, segment.bytes.byteOffset + gpa - segment.startGpa).setUint32(
      0,
      value,
      true,
    );
    wrote(gpa, COMMAND_ID_BYTES);
    queue.tryAddOutbuf(gpa, COMMAND_ID_BYTES);
    this.#announce();
    return true;
  }

  #announce(): void {
    const { queue, port } = this.#options;
    queue.publish();
    if (queue.needsNotification()) {
      port.kick(VIRTIO_BALLOON_VQ_FREE_PAGE, ExitFeature.reporting);
    }
  }
}
