import { LacunaError } from '../errors.js';
import type { DirtyLog } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { pfnOf } from '../memory/page.js';
import type { WordMapper } from '../memory/shared-words.js';
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
  VIRTQ_USED_F_NO_NOTIFY,
} from '../spec/virtio-ring.js';
import {
  AVAIL_RING,
  availEventIndex,
  mapQueue,
  needsEvent,
  type QueueAddresses,
  type QueueViews,
  RING_FLAGS,
  RING_IDX,
  usedEventIndex,
} from './layout.js';

/** What of a driver's queue does not lie in guest RAM: it travels with the vCPU's registers. */
export interface DriverQueueState {
  freeHead: number;
  freeTail: number;
  freeCount: number;
  availIdx: number;
  publishedIdx: number;
  lastUsedIdx: number;
}

const END_OF_FREE_LIST = 0xffff;

/**
 * The driver's side of a split virtqueue whose buffers are single descriptors (as all of the balloon's are).
 *
 * Adding writes plain descriptors and ring entries; {@link publish} makes a batch visible with one atomic store:
 *
 * ```
 *   tryAdd…   desc[i] = {addr, len, flags};  ring[availIdx % size] = i          plain
 *   publish   mark the pages dirty (I1);     avail.idx = availIdx               pairs with DeviceQueue.refresh
 *   needsNotification                        reads used.flags or avail_event    after the store: no lost wake-up
 * ```
 *
 * Free descriptors are chained through their `next` fields, in guest RAM like all else, first in, first out: with a
 * device that returns buffers in order they are used round and round, which is the order that caches like.
 */
export class DriverQueue {
  readonly addresses: QueueAddresses;
  readonly #views: QueueViews;
  readonly #log: DirtyLog;
  readonly #eventIdx: boolean;
  readonly #mask: number;
  #freeHead = 0;
  #freeTail: number;
  #freeCount: number;
  #availIdx = 0;
  #publishedIdx = 0;
  #lastUsedIdx = 0;
  /** Descriptors and ring slots written since the last publish: what has to be marked dirty. */
  #lowestDesc = END_OF_FREE_LIST;
  #highestDesc = -1;
  /** Ring entries before this index are published and marked. */
  #markedIdx = 0;

  constructor(
    memory: GuestMemory,
    map: WordMapper,
    log: DirtyLog,
    addresses: QueueAddresses,
    eventIdx: boolean,
    restored?: DriverQueueState,
  ) {
    const views = mapQueue(memory, map, addresses);
    if (typeof views === 'string') {
      throw new LacunaError('INVALID_ARGUMENT', `virtqueue: ${views}`);
    }
    this.addresses = addresses;
    this.#views = views;
    this.#log = log;
    this.#eventIdx = eventIdx;
    this.#mask = addresses.size - 1;
    this.#freeTail = addresses.size - 1;
    this.#freeCount = addresses.size;
    if (restored !== undefined) {
      this.#freeHead = restored.freeHead;
      this.#freeTail = restored.freeTail;
      this.#freeCount = restored.freeCount;
      this.#availIdx = restored.availIdx;
      this.#publishedIdx = restored.publishedIdx;
      this.#lastUsedIdx = restored.lastUsedIdx;
      this.#markedIdx = restored.availIdx;
      return;
    }
    this.#initialise();
  }

  get size(): number {
    return this.#mask + 1;
  }

  /** Descriptors that can be added before used ones have to be taken back. */
  get freeCount(): number {
    return this.#freeCount;
  }

  /** The descriptor that the next buffer will be given; -1: the ring is full. */
  get nextHead(): number {
    return this.#freeCount === 0 ? -1 : this.#freeHead;
  }

  /** Whether the device has returned everything that was published. As of the last {@link reclaim}. */
  get idle(): boolean {
    return this.#freeCount === this.size;
  }

  saveState(): DriverQueueState {
    return {
      freeHead: this.#freeHead,
      freeTail: this.#freeTail,
      freeCount: this.#freeCount,
      availIdx: this.#availIdx,
      publishedIdx: this.#publishedIdx,
      lastUsedIdx: this.#lastUsedIdx,
    };
  }

  /** Adds a device-writable buffer (a free range, on the free page queue). -1: the ring is full. */
  tryAddInbuf(gpa: number, lengthBytes: number): number {
    return this.#tryAdd(gpa, lengthBytes, VIRTQ_DESC_F_WRITE);
  }

  /** Adds a device-readable buffer. -1: the ring is full. */
  tryAddOutbuf(gpa: number, lengthBytes: number): number {
    return this.#tryAdd(gpa, lengthBytes, 0);
  }

  #tryAdd(gpa: number, lengthBytes: number, flags: number): number {
    if (this.#freeCount === 0) {
      return -1;
    }
    const { desc, availEntries } = this.#views;
    const index = this.#freeHead;
    const at = index * 4;
    const high = gpa < 0x1_0000_0000 ? 0 : Math.floor(gpa / 0x1_0000_0000);
    this.#freeHead = desc[at + 3]! >>> 16;
    this.#freeCount -= 1;
    desc[at] = gpa - high * 0x1_0000_0000;
    desc[at + 1] = high;
    desc[at + 2] = lengthBytes;
    desc[at + 3] = flags;
    availEntries[AVAIL_RING + (this.#availIdx & this.#mask)] = index;
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
    this.#touch(index);
    return index;
  }

  /** Makes everything added so far visible to the device: one store. */
  publish(): void {
    if (this.#availIdx === this.#markedIdx) {
      return;
    }
    const { availGpa } = this.addresses;
    this.#markDescriptors();
    this.#views.avail.store(RING_IDX, this.#availIdx); // pairs with the load in DeviceQueue.refresh
    // The index lies on the ring's first page and is written last, so the marks follow it (I1).
    const first = AVAIL_RING + (this.#markedIdx & this.#mask);
    const last = AVAIL_RING + ((this.#availIdx - 1) & this.#mask);
    this.#log.mark(pfnOf(availGpa));
    if (first <= last) {
      this.#markBytes(availGpa + first * 2, availGpa + last * 2 + 1);
    } else {
      this.#markBytes(availGpa, availGpa + (AVAIL_RING + this.size) * 2 - 1);
    }
    this.#markedIdx = this.#availIdx;
  }

  /**
   * Whether the batch published last has to be announced, by the device's wishes. Reads them after the
   * publishing store; pairs with DeviceQueue.enableNotifications, which stores its wish and then looks again.
   */
  needsNotification(): boolean {
    const oldIdx = this.#publishedIdx;
    this.#publishedIdx = this.#availIdx;
    if (oldIdx === this.#availIdx) {
      return false;
    }
    const { used } = this.#views;
    return this.#eventIdx
      ? needsEvent(used.load(availEventIndex(this.size)), this.#availIdx, oldIdx)
      : (used.load(RING_FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0;
  }

  /** Takes back the descriptors that the device has used since the last call; returns how many. */
  reclaim(): number {
    const { desc, usedEntries, used } = this.#views;
    const usedIdx = used.load(RING_IDX); // pairs with the store in DeviceQueue.publishUsed
    const count = (usedIdx - this.#lastUsedIdx) & 0xffff;
    if (count === 0) {
      return 0;
    }
    if (count > this.size - this.#freeCount) {
      throw new LacunaError('QUEUE_CORRUPT', `the device returned ${count} buffers, more than it was given`);
    }
    const oldTailGpa = this.addresses.descGpa + this.#freeTail * VIRTQ_DESC_SIZE;
    for (let i = 0; i < count; i += 1) {
      const id = usedEntries[((this.#lastUsedIdx + i) & this.#mask) * 2]!;
      if (id > this.#mask) {
        throw new LacunaError('QUEUE_CORRUPT', `the device returned descriptor ${id} of ${this.size}`);
      }
      if (this.#freeCount + i === 0) {
        this.#freeHead = id;
      } else {
        desc[this.#freeTail * 4 + 3] = id << 16;
      }
      this.#freeTail = id;
      this.#touch(id);
    }
    if (this.#freeCount > 0) {
      this.#markBytes(oldTailGpa, oldTailGpa); // its link was changed
    }
    this.#lastUsedIdx = usedIdx;
    this.#freeCount += count;
    this.#markDescriptors();
    return count;
  }

  /** Asks for no interrupts when buffers are used (with EVENT_IDX: for none before the index wraps). */
  disableInterrupts(): void {
    if (this.#eventIdx) {
      this.#storeAvail(usedEventIndex(this.size), (this.#lastUsedIdx - 1) & 0xffff);
    } else {
      this.#storeAvail(RING_FLAGS, VIRTQ_AVAIL_F_NO_INTERRUPT);
    }
  }

  /**
   * Asks for an interrupt when the next buffer is used. True if some were used already: then none may come,
   * and the caller has to {@link reclaim} instead of waiting. Pairs with DeviceQueue.needsInterrupt.
   */
  enableInterrupts(): boolean {
    if (this.#eventIdx) {
      this.#storeAvail(usedEventIndex(this.size), this.#lastUsedIdx);
    } else {
      this.#storeAvail(RING_FLAGS, 0);
    }
    return this.#views.used.load(RING_IDX) !== this.#lastUsedIdx;
  }

  #storeAvail(index: number, value: number): void {
    this.#views.avail.store(index, value);
    this.#log.mark(pfnOf(this.addresses.availGpa + index * 2));
  }

  #initialise(): void {
    const { desc, avail } = this.#views;
    for (let i = 0; i < this.size; i += 1) {
      desc[i * 4 + 3] = (i + 1 === this.size ? END_OF_FREE_LIST : i + 1) << 16;
    }
    avail.store(RING_FLAGS, 0);
    avail.store(RING_IDX, 0);
    avail.store(usedEventIndex(this.size), 0);
    this.#markBytes(this.addresses.descGpa, this.addresses.descGpa + this.size * VIRTQ_DESC_SIZE - 1);
    this.#markBytes(this.addresses.availGpa, this.addresses.availGpa + usedEventIndex(this.size) * 2 + 1);
  }

  /** A descriptor was written, and has to be marked with the next batch. */
  #touch(index: number): void {
    if (index < this.#lowestDesc) {
      this.#lowestDesc = index;
    }
    if (index > this.#highestDesc) {
      this.#highestDesc = index;
    }
  }

  #markDescriptors(): void {
    if (this.#highestDesc >= 0) {
      const { descGpa } = this.addresses;
      this.#markBytes(
        descGpa + this.#lowestDesc * VIRTQ_DESC_SIZE,
        descGpa + this.#highestDesc * VIRTQ_DESC_SIZE + VIRTQ_DESC_SIZE - 1,
      );
      this.#lowestDesc = END_OF_FREE_LIST;
      this.#highestDesc = -1;
    }
  }

  #markBytes(firstGpa: number, lastGpa: number): void {
    this.#log.markBytes(firstGpa, lastGpa - firstGpa + 1);
  }
}
