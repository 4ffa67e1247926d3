import type { WriteLog } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../memory/page.js';
import type { PageBitmap } from '../memory/page-bitmap.js';
import type { WordMapper } from '../memory/shared-words.js';
import { COMMAND_ID_BYTES, FIRST_COMMAND_ID } from '../spec/command-register.js';
import {
  VIRTIO_BALLOON_VQ_DEFLATE,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
  VIRTIO_BALLOON_VQ_INFLATE,
  VIRTIO_BALLOON_VQ_STATS,
} from '../spec/virtio-balloon.js';
import { VIRTQ_MAX_SIZE } from '../spec/virtio-ring.js';
import {
  DeviceQueue,
  type DeviceQueueState,
  NextElement,
  QueueElement,
  type QueueFault,
} from '../virtqueue/device-queue.js';
import type { BalloonRegisters } from './balloon-registers.js';
import { HintSession, type HintSink, nextCommandId } from './hint-session.js';
import { type GuestStatistics, MOST_STATISTICS_BYTES, parseStatistics } from './statistics.js';

/** What of a device, its registers apart, must be known at the destination for the guest's driver to go on there. */
export interface BalloonDeviceState {
  readonly queues: readonly (DeviceQueueState | null)[];
  readonly nextId: number;
  readonly eventIdx: boolean;
  /** The guest was not told yet that it may release what it has lent for the last session. */
  readonly owesDone: boolean;
}

export interface BalloonDeviceOptions<Registers extends BalloonRegisters = BalloonRegisters> {
  /** Its views may be replaced while the device is in use (`generation`). */
  readonly memory: GuestMemory;
  readonly map: WordMapper;
  readonly registers: Registers;
  /** Is told what the host itself writes into guest RAM; a VMM that finds such writes by comparison passes one that does nothing. */
  readonly log: WriteLog;
  /** Pages in the balloon; all clear for a new guest, and part of a migration's contents otherwise. */
  readonly inflated: PageBitmap;
  /** Whether VIRTIO_F_EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /** One that is watched; by default a new one. */
  readonly session?: HintSession | undefined;
  /** Whether there may be a statistics queue; if nothing is said, there may. The mail has none. */
  readonly hasStatistics?: boolean;
  /** The first id; a device that was migrated goes on from where it was. */
  readonly firstId?: number;
  readonly restored?: BalloonDeviceState;
}

/** Elements after which they are returned, so that a driver with a full ring goes on while the rest is handled. */
const RETURN_BATCH = 128;
/** Entries of one inflate or deflate buffer that are served: 4 MiB of pages; drivers use 256. */
const MOST_BALLOON_ENTRIES = 1024;
/** Inflate and deflate buffers that one poll handles: each may zero 4 MiB. */
const BALLOON_BUFFERS_PER_POLL = 4;

/** Inflate, deflate, statistics, free pages. */
const QUEUE_COUNT = 4;

const QUEUE_INDICES = [
  VIRTIO_BALLOON_VQ_INFLATE,
  VIRTIO_BALLOON_VQ_DEFLATE,
  VIRTIO_BALLOON_VQ_STATS,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
] as const;

/**
 * The host's side of the balloon, in either dialect: what differs between them is behind its registers. It belongs to
 * one thread, the host's, which also syncs the dirty log and claims pages: that is what makes I4's critical section a
 * matter of not awaiting.
 *
 * It looks at its queues when it is polled and does nothing by itself. While it is frozen (the vCPU is stopped
 * for switchover) it writes nothing to guest RAM any more (V14).
 */
export class BalloonDevice<Registers extends BalloonRegisters = BalloonRegisters> {
  readonly registers: Registers;
  readonly session: HintSession;
  readonly inflated: PageBitmap;
  /** What the guest did to a ring; the device is NEEDS_RESET and its queues are dead (I6). */
  fault: QueueFault | undefined;
  /** Inflate and deflate entries that named no page of RAM. */
  rejectedBalloonPages = 0;
  /** What the guest has said of its memory last; undefined until it has, and where there is no queue for it. */
  statistics: GuestStatistics | undefined;
  /** The statistics buffer that is kept until the host wants to know more; -1: there is none. */
  #statisticsHead = -1;
  #frozen = false;
  #nextId: number;
  /** A session was opened, and the guest was not told since that it may release what it has lent for it (V6). */
  #owesDone: boolean;
  /** It was told when it stood still, and stands still. */
  #doneUnseen = false;
  /** The host polls and wants no kicks. */
  #suppressed = false;
  /** Where the queues were at the host that this device has come from. */
  #restoredQueues: BalloonDeviceState['queues'];
  readonly #options: BalloonDeviceOptions<Registers>;
  readonly #queues: (DeviceQueue | undefined)[] = Array.from({ length: QUEUE_COUNT }, () => undefined);
  readonly #elements: (QueueElement | undefined)[] = Array.from({ length: QUEUE_COUNT }, () => undefined);

  constructor(options: BalloonDeviceOptions<Registers>) {
    this.#options = options;
    this.session = options.session ?? new HintSession();
    this.inflated = options.inflated;
    this.registers = options.registers;
    this.#nextId = options.restored?.nextId ?? options.firstId ?? FIRST_COMMAND_ID;
    this.#owesDone = options.restored?.owesDone ?? false;
    this.#restoredQueues = options.restored?.queues ?? [];
  }

  /**
   * Opens a session: a new id, the request, the interrupt. The dirty log must have been drained before (I2).
   * Returns the id. Ids are never used twice, so no marker of an older session can start this one.
   */
  openSession(sink: HintSink, now: number): number {
    const id = this.#nextId;
    this.#nextId = nextCommandId(id);
    this.#owesDone = true;
    this.session.open(id, sink, now);
    this.registers.requestReport(id);
    return id;
  }

  /** `poison_val`, where page poisoning was negotiated. */
  get poison(): number | undefined {
    return this.registers.poison;
  }

  /** The id that the next session will have. */
  get upcomingId(): number {
    return this.#nextId;
  }

  /**
   * Closes the session before a sync (I4): the id becomes the stop sign, the guest is told to stop (and, by the mail, to
   * take its blocks back: C13), and what is in the ring by now is returned unread as stale.
   */
  closeSession(now: number): void {
    this.session.close();
    this.registers.requestStop();
    // No ring holds more: a guest that refills it as fast as it is emptied can't hold up the close (I6).
    this.poll(now, VIRTQ_MAX_SIZE);
  }

  /**
   * Tells the guest that hints are of no use any more, if it was asked for any since it was last told: the pages that it
   * has lent for them are its own again (V6). For the end of a migration, however it ended.
   */
  showDone(): void {
    if (this.#owesDone) {
      this.#owesDone = false;
      this.registers.requestDone();
    }
  }

  /**
   * From here on the host writes nothing to guest RAM: the final drain is about to be, or was, done (V14). The guest
   * stands still, and where it goes on it gives back what it holds (V9): it finds DONE in the state that is saved now.
   */
  freeze(): void {
    this.#frozen = true;
    this.#doneUnseen ||= this.#owesDone;
    this.showDone();
  }

  /** The guest is about to go on here. It has not seen DONE: pages that it has lent may still be left out (V5). */
  unfreeze(): void {
    this.#frozen = false;
    if (this.#doneUnseen) {
      this.#doneUnseen = false;
      this.#owesDone = true;
      this.registers.withdrawDone();
    }
  }

  /** Handles up to `limit` elements of the queues; returns how many there were. */
  poll(now: number, limit: number): number {
    if (this.#frozen || this.fault !== undefined) {
      return 0;
    }
    this.registers.takeNotified();
    let handled = this.#pollFreePages(now, limit);
    handled += this.#pollBalloon(VIRTIO_BALLOON_VQ_INFLATE, limit - handled);
    handled += this.#pollBalloon(VIRTIO_BALLOON_VQ_DEFLATE, limit - handled);
    handled += this.#pollStatistics(limit - handled);
    return handled;
  }

  /**
   * Handles up to `limit` elements of one queue at once, as a VMM must that hands a kick to its device before the vCPU
   * goes on (I9), and returns how many there were. When the queue is empty then, the driver's next element brings a kick
   * again, unless the host has asked for none.
   */
  pollQueue(index: number, now: number, limit: number): number {
    let handled = 0;
    while (handled < limit && !this.#frozen && this.fault === undefined) {
      const served = this.#pollOne(index, now, limit - handled);
      handled += served;
      if (served === 0 && (this.#suppressed || this.#queue(index)?.enableNotifications() !== true)) {
        break;
      }
    }
    return handled;
  }

  /**
   * The driver has reset the device, as it does when the guest reboots (V12): the session is closed, queues are
   * forgotten until they are set up anew, and pages in the balloon are RAM again. Ids go on from where they were.
   */
  reset(): void {
    this.session.close();
    this.fault = undefined;
    this.#owesDone = false;
    this.#doneUnseen = false;
    this.#statisticsHead = -1;
    this.statistics = undefined;
    this.#suppressed = false;
    this.#restoredQueues = [];
    this.#queues.fill(undefined);
    this.#elements.fill(undefined);
    this.inflated.clearRange(0, this.inflated.pageCount);
    this.registers.reset();
  }

  /** While the host polls anyway it wants no kicks. */
  suppressNotifications(): void {
    this.#suppressed = true;
    for (const index of QUEUE_INDICES) {
      if (!this.#frozen) {
        this.#queue(index)?.disableNotifications();
      }
    }
  }

  /** Before the host sleeps. True: there is something to do after all (Q7). */
  armNotifications(): boolean {
    this.#suppressed = false;
    let pending = false;
    for (const index of QUEUE_INDICES) {
      if (!this.#frozen && this.fault === undefined && this.#queue(index)?.enableNotifications() === true) {
        pending = true;
      }
    }
    return pending;
  }

  /** Asks the guest to bring its balloon to `pages` pages (C10). */
  setBalloonTarget(pages: number): void {
    this.registers.requestBallooning(pages);
  }

  /**
   * Asks the guest for {@link statistics} anew (§ 5.5.6.3); they are there when a later poll has found them. False: it can't
   * be asked now, because its driver keeps none, or has been asked already.
   */
  requestStatistics(): boolean {
    const head = this.#statisticsHead;
    const queue = this.#queue(VIRTIO_BALLOON_VQ_STATS);
    if (head === -1 || queue === undefined || this.#frozen || this.fault !== undefined) {
      return false;
    }
    this.#statisticsHead = -1;
    this.#returnOne(queue, VIRTIO_BALLOON_VQ_STATS, head);
    return true;
  }

  saveState(): BalloonDeviceState {
    return {
      // A queue that was not looked at since the device arrived is where it was then.
      queues: this.#queues.map((queue, i) => this.#queueState(i, queue) ?? this.#restoredQueues[i] ?? null),
      nextId: this.#nextId,
      eventIdx: this.#options.eventIdx,
      owesDone: this.#owesDone,
    };
  }

  /** A statistics buffer that is kept counts as not taken yet: whoever goes on from here takes it, and reads it, again. */
  #queueState(index: number, queue: DeviceQueue | undefined): DeviceQueueState | undefined {
    const state = queue?.saveState();
    return state !== undefined && index === VIRTIO_BALLOON_VQ_STATS && this.#statisticsHead !== -1
      ? { ...state, lastAvailIdx: (state.lastAvailIdx - 1) & 0xffff }
      : state;
  }

  #pollOne(index: number, now: number, limit: number): number {
    switch (index) {
      case VIRTIO_BALLOON_VQ_FREE_PAGE:
        return this.#pollFreePages(now, limit);
      case VIRTIO_BALLOON_VQ_STATS:
        return this.#pollStatistics(limit);
      default:
        return this.#pollBalloon(index, limit);
    }
  }

  #queue(index: number): DeviceQueue | undefined {
    const known = this.#queues[index];
    if (known !== undefined) {
      return known;
    }
    const { memory, map, log, eventIdx, hasStatistics = true } = this.#options;
    const addresses =
      index !== VIRTIO_BALLOON_VQ_STATS || hasStatistics ? this.registers.queue(index) : undefined;
    if (addresses === undefined) {
      return undefined;
    }
    const state = this.#restoredQueues[index] ?? undefined;
    const queue = new DeviceQueue(memory, map, log, addresses, eventIdx, state);
    this.#queues[index] = queue;
    this.#elements[index] = new QueueElement(queue.fault === undefined ? addresses.size : 1);
    return queue;
  }

  #pollFreePages(now: number, limit: number): number {
    const queue = this.#queue(VIRTIO_BALLOON_VQ_FREE_PAGE);
    if (queue === undefined) {
      return 0;
    }
    const element = this.#elements[VIRTIO_BALLOON_VQ_FREE_PAGE]!;
    const { session } = this;
    let handled = 0;
    while (handled < limit && (queue.batch > 0 || queue.refresh())) {
      const batch = Math.min(queue.batch, limit - handled, RETURN_BATCH);
      for (let i = 0; i < batch; i += 1) {
        if (queue.next(element) !== NextElement.element) {
          break;
        }
        // Every segment of an element counts (V10).
        for (let s = 0; s < element.segmentCount; s += 1) {
          const gpa = element.gpa[s]!;
          const lengthBytes = element.lengthBytes[s]!;
          if (element.writable[s] !== 0) {
            session.range(gpa, lengthBytes, now);
          } else {
            session.marker(lengthBytes, lengthBytes === COMMAND_ID_BYTES ? queue.readLe32(gpa) : 0, now);
          }
        }
        queue.pushUsed(element.head, 0);
        handled += 1;
      }
      queue.publishUsed();
      if (queue.needsInterrupt()) {
        this.registers.interruptQueue(VIRTIO_BALLOON_VQ_FREE_PAGE);
      }
      if (queue.fault !== undefined) {
        break;
      }
    }
    this.#checkFault(queue);
    return handled;
  }

  /** Inflate: the page is discarded (it reads as zeroes) and needs no sending. Deflate: it is RAM again. */
  #pollBalloon(index: number, limit: number): number {
    const queue = this.#queue(index);
    if (queue === undefined || limit <= 0) {
      return 0;
    }
    const element = this.#elements[index]!;
    let handled = 0;
    const most = Math.min(limit, BALLOON_BUFFERS_PER_POLL);
    while (handled < most && queue.refresh()) {
      if (queue.next(element) !== NextElement.element) {
        break;
      }
      for (let s = 0; s < element.segmentCount; s += 1) {
        if (element.writable[s] === 0) {
          this.#balloonPages(
            queue,
            element.gpa[s]!,
            element.lengthBytes[s]!,
            index === VIRTIO_BALLOON_VQ_INFLATE,
          );
        }
      }
      this.#returnOne(queue, index, element.head);
      handled += 1;
    }
    this.#checkFault(queue);
    return handled;
  }

  #pollStatistics(limit: number): number {
    const queue = this.#queue(VIRTIO_BALLOON_VQ_STATS);
    if (queue === undefined || limit <= 0) {
      return 0;
    }
    const element = this.#elements[VIRTIO_BALLOON_VQ_STATS]!;
    let handled = 0;
    while (handled < limit && queue.refresh()) {
      if (queue.next(element) !== NextElement.element) {
        break;
      }
      if (this.#statisticsHead !== -1) {
        // A driver has one buffer there at the most (§ 5.5.6.3); of one that has more, the last one is kept.
        this.#returnOne(queue, VIRTIO_BALLOON_VQ_STATS, this.#statisticsHead);
      }
      this.#statisticsHead = element.head;
      this.statistics = parseStatistics(readableBytes(queue, element));
      handled += 1;
    }
    this.#checkFault(queue);
    return handled;
  }

  /** Gives one element back to the driver, with nothing written into it. */
  #returnOne(queue: DeviceQueue, index: number, head: number): void {
    queue.pushUsed(head, 0);
    queue.publishUsed();
    if (queue.needsInterrupt()) {
      this.registers.interruptQueue(index);
    }
  }

  #balloonPages(queue: DeviceQueue, gpa: number, lengthBytes: number, inflate: boolean): void {
    const { memory, log } = this.#options;
    // The length is the guest's word: one buffer must not keep the host's thread for as long as the guest likes (I6).
    const entries = Math.floor(lengthBytes / 4);
    const served = Math.min(entries, MOST_BALLOON_ENTRIES);
    this.rejectedBalloonPages += entries - served;
    for (let at = 0; at < served * 4; at += 4) {
      const pfn = queue.readLe32(gpa + at);
      const segment = memory.segmentOf(gpaOf(pfn), PAGE_SIZE);
      if (segment === undefined) {
        this.rejectedBalloonPages += 1;
      } else if (inflate) {
        this.inflated.set(pfn);
        const offset = gpaOf(pfn) - segment.startGpa;
        segment.bytes.fill(0, offset, offset + PAGE_SIZE);
        log.mark(pfn); // what the host writes is logged too, after the write (I1, V14)
      } else {
        this.inflated.clear(pfn);
      }
    }
  }

  #checkFault(queue: DeviceQueue): void {
    if (queue.fault !== undefined && this.fault === undefined) {
      this.fault = queue.fault;
      this.session.close();
      this.registers.needsReset();
    }
  }
}

/** The first bytes of what the device may read of an element, over all of its segments. */
function readableBytes(queue: DeviceQueue, element: QueueElement): Uint8Array {
  const bytes = new Uint8Array(MOST_STATISTICS_BYTES);
  let length = 0;
  for (let s = 0; s < element.segmentCount && element.writable[s] === 0; s += 1) {
    // The length is the guest's word: no more is read than fits (I6).
    const take = Math.min(element.lengthBytes[s]!, bytes.length - length);
    for (let i = 0; i < take; i += 1) {
      bytes[length + i] = queue.readByte(element.gpa[s]! + i);
    }
    length += take;
  }
  return bytes.subarray(0, length);
}
