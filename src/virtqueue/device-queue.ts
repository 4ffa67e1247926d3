import type { WriteLog } from '../memory/dirty-log.js';
import type { BackedSegment, GuestMemory } from '../memory/guest-memory.js';
import { pfnOf } from '../memory/page.js';
import type { RamBlock } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
  VIRTQ_USED_ELEM_SIZE,
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

/** What is wrong with a ring that the guest has corrupted. The first one found stays: the queue is dead. */
export interface QueueFault {
  readonly code:
    | 'BAD_ADDRESSES'
    | 'INDEX_TOO_FAR_AHEAD'
    | 'HEAD_OUT_OF_RANGE'
    | 'NEXT_OUT_OF_RANGE'
    | 'CHAIN_TOO_LONG'
    | 'INDIRECT_BAD_LENGTH'
    | 'INDIRECT_BAD_FLAGS'
    | 'ZERO_LENGTH'
    | 'OUT_OF_RAM'
    | 'READABLE_AFTER_WRITABLE';
  readonly message: string;
}

/** What of a device's queue does not lie in guest RAM; it is part of the device state. */
export interface DeviceQueueState {
  lastAvailIdx: number;
  usedIdx: number;
}

/** One element (descriptor chain) of the queue; filled in place by {@link DeviceQueue.next}. */
export class QueueElement {
  head = 0;
  segmentCount = 0;
  /** Of each segment: guest-physical address and length in bytes, and whether the device may write it. */
  readonly gpa: Float64Array;
  readonly lengthBytes: Float64Array;
  readonly writable: Uint8Array;

  constructor(queueSize: number) {
    this.gpa = new Float64Array(queueSize);
    this.lengthBytes = new Float64Array(queueSize);
    this.writable = new Uint8Array(queueSize);
  }
}

/** What {@link DeviceQueue.next} found. */
export const NextElement = { none: 0, element: 1, broken: 2 } as const;

/**
 * The device's side of a split virtqueue. The ring lies in memory that the guest writes at will, so nothing in
 * it is believed: a fault is kept as data in {@link fault} (the device then asks to be reset) and no call
 * throws, loops without bound, or reads outside guest RAM.
 */
export class DeviceQueue {
  readonly addresses: QueueAddresses;
  /** Set once the ring was found corrupt; {@link next} returns nothing from then on. */
  fault: QueueFault | undefined;
  readonly #memory: GuestMemory;
  readonly #map: WordMapper;
  readonly #log: WriteLog;
  readonly #eventIdx: boolean;
  readonly #mask: number;
  #lastAvailIdx: number;
  #usedIdx: number;
  #views: QueueViews | undefined;
  #viewGeneration = -1;
  /** The driver's index when it was last loaded: one atomic load serves a batch. */
  #availIdx: number;
  #publishedUsedIdx: number;
  /** Used elements before this index are published and logged. */
  #markedUsedIdx: number;
  /** The block of RAM that the last buffer lay in. */
  #block: RamBlock;

  constructor(
    memory: GuestMemory,
    map: WordMapper,
    log: WriteLog,
    addresses: QueueAddresses,
    eventIdx: boolean,
    restored: DeviceQueueState = { lastAvailIdx: 0, usedIdx: 0 },
  ) {
    this.addresses = addresses;
    this.#memory = memory;
    this.#map = map;
    this.#log = log;
    this.#eventIdx = eventIdx;
    this.#mask = addresses.size - 1;
    this.#lastAvailIdx = restored.lastAvailIdx;
    this.#usedIdx = restored.usedIdx;
    this.#availIdx = restored.lastAvailIdx;
    this.#publishedUsedIdx = restored.usedIdx;
    this.#markedUsedIdx = restored.usedIdx;
    this.#block = memory.layout.blocks[0]!;
    this.#mapViews();
  }

  saveState(): DeviceQueueState {
    return { lastAvailIdx: this.#lastAvailIdx, usedIdx: this.#usedIdx };
  }

  /** Elements that {@link next} will return before it has to look at the driver's index again. */
  get batch(): number {
    return (this.#availIdx - this.#lastAvailIdx) & 0xffff;
  }

  /** Loads the driver's index; true if elements are there. Pairs with the store in DriverQueue.publish. */
  refresh(): boolean {
    const views = this.#mapViews();
    if (views === undefined || this.fault !== undefined) {
      return false;
    }
    this.#availIdx = views.avail.load(RING_IDX);
    // An index further ahead than the queue is long would have the device walk the same entries for ever:
    // a guest could keep the host's thread busy with one 16-bit store.
    if (this.batch > this.addresses.size) {
      this.#fail(
        'INDEX_TOO_FAR_AHEAD',
        `the available index is ${this.batch} ahead of a queue of ${this.addresses.size}`,
      );
      return false;
    }
    return this.batch > 0;
  }

  /** The next element into `out`, from what {@link refresh} saw. */
  next(out: QueueElement): number {
    if (this.fault !== undefined) {
      return NextElement.broken;
    }
    const lastAvailIdx = this.#lastAvailIdx;
    if (lastAvailIdx === this.#availIdx) {
      return NextElement.none;
    }
    const views = this.#viewGeneration === this.#memory.generation ? this.#views : this.#mapViews();
    if (views === undefined) {
      return NextElement.broken;
    }
    const head = views.availEntries[AVAIL_RING + (lastAvailIdx & this.#mask)]!;
    if (head > this.#mask) {
      return this.#fail(
        'HEAD_OUT_OF_RANGE',
        `the available ring names descriptor ${head} of ${this.addresses.size}`,
      );
    }
    out.head = head;
    out.segmentCount = 0;
    const { desc } = views;
    const at = head * 4;
    const flags = desc[at + 3]! & 0xffff;
    if ((flags & ~VIRTQ_DESC_F_WRITE) === 0) {
      // A chain of one, as all of the balloon's are. Written out: this runs for every range that a guest reports.
      const gpa = desc[at]! + desc[at + 1]! * 0x1_0000_0000;
      const lengthBytes = desc[at + 2]!;
      const block = this.#block;
      if (gpa >= block.startGpa && gpa + lengthBytes <= block.endGpa && lengthBytes !== 0) {
        out.gpa[0] = gpa;
        out.lengthBytes[0] = lengthBytes;
        out.writable[0] = flags;
        out.segmentCount = 1;
        this.#lastAvailIdx = (lastAvailIdx + 1) & 0xffff;
        return NextElement.element;
      }
    }
    if (!this.#walkChain(out, desc, this.addresses.size, head)) {
      return NextElement.broken;
    }
    this.#lastAvailIdx = (lastAvailIdx + 1) & 0xffff;
    return NextElement.element;
  }

  /** Returns an element to the driver; `writtenBytes` is what the device wrote into it (0 for a hint). */
  pushUsed(head: number, writtenBytes: number): void {
    const views = (this.#viewGeneration === this.#memory.generation ? this.#views : this.#mapViews())!;
    const at = (this.#usedIdx & this.#mask) * 2;
    views.usedEntries[at] = head;
    views.usedEntries[at + 1] = writtenBytes;
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
  }

  /**
   * Makes returned elements visible to the driver with one store, and logs the used ring's pages, which the
   * host has just written (Q8); the marks follow the writes (I1).
   */
  publishUsed(): void {
    const usedIdx = this.#usedIdx;
    if (usedIdx === this.#markedUsedIdx) {
      return;
    }
    this.#mapViews()!.used.store(RING_IDX, usedIdx); // pairs with the load in DriverQueue.reclaim
    const { usedGpa } = this.addresses;
    const first = this.#markedUsedIdx & this.#mask;
    const last = (usedIdx - 1) & this.#mask;
    this.#log.mark(pfnOf(usedGpa));
    if (first <= last) {
      this.#markBytes(
        usedGpa + 4 + first * VIRTQ_USED_ELEM_SIZE,
        usedGpa + 3 + (last + 1) * VIRTQ_USED_ELEM_SIZE,
      );
    } else {
      this.#markBytes(usedGpa, usedGpa + 3 + this.addresses.size * VIRTQ_USED_ELEM_SIZE);
    }
    this.#markedUsedIdx = usedIdx;
  }

  /** Whether the batch published last is to be announced to the driver, by its wishes. */
  needsInterrupt(): boolean {
    const usedIdx = this.#usedIdx;
    const oldIdx = this.#publishedUsedIdx;
    this.#publishedUsedIdx = usedIdx;
    const views = this.#mapViews();
    if (oldIdx === usedIdx || views === undefined) {
      return false;
    }
    return this.#eventIdx
      ? needsEvent(views.avail.load(usedEventIndex(this.addresses.size)), usedIdx, oldIdx)
      : (views.avail.load(RING_FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** Asks the driver for no notifications: the device is polling. */
  disableNotifications(): void {
    if (!this.#eventIdx) {
      this.#storeUsed(RING_FLAGS, VIRTQ_USED_F_NO_NOTIFY);
    } else {
      this.#storeUsed(availEventIndex(this.addresses.size), (this.#lastAvailIdx - 1) & 0xffff);
    }
  }

  /**
   * Asks to be told of the next element. True if there are some already: then no notification may come, and
   * the caller goes on polling. The wish is stored before the index is loaded; the driver stores its index
   * before it loads the wish; so at least one of the two sees the other (Q7).
   */
  enableNotifications(): boolean {
    if (!this.#eventIdx) {
      this.#storeUsed(RING_FLAGS, 0);
    } else {
      this.#storeUsed(availEventIndex(this.addresses.size), this.#lastAvailIdx);
    }
    return this.refresh();
  }

  /** The le32 at `gpa`, byte by byte: the guest need not have aligned it, and it may straddle two segments. */
  readLe32(gpa: number): number {
    return (
      (this.readByte(gpa) |
        (this.readByte(gpa + 1) << 8) |
        (this.readByte(gpa + 2) << 16) |
        (this.readByte(gpa + 3) << 24)) >>>
      0
    );
  }

  /** The byte at `gpa`; 0 where there is no RAM. */
  readByte(gpa: number): number {
    const segment = this.#memory.segmentOf(gpa, 1);
    return segment === undefined ? 0 : segment.bytes[gpa - segment.startGpa]!;
  }

  /** A fault that the device found in what a queue carries. Always returns `broken`. */
  #fail(code: QueueFault['code'], message: string): number {
    this.fault ??= { code, message };
    return NextElement.broken;
  }

  #mapViews(): QueueViews | undefined {
    if (this.#viewGeneration !== this.#memory.generation) {
      const views = mapQueue(this.#memory, this.#map, this.addresses);
      if (typeof views === 'string') {
        this.#views = undefined;
        this.#fail('BAD_ADDRESSES', views);
      } else {
        this.#views = views;
      }
      this.#viewGeneration = this.#memory.generation;
    }
    return this.#views;
  }

  /** Reads one descriptor of `table` at word `at` into `out`. False: the queue is broken. */
  #addSegment(out: QueueElement, table: Uint32Array, at: number, flags: number): boolean {
    const lengthBytes = table[at + 2]!;
    const gpa = table[at]! + table[at + 1]! * 0x1_0000_0000;
    if (lengthBytes === 0) {
      this.#fail('ZERO_LENGTH', `a buffer at ${gpa} of no bytes`);
      return false;
    }
    const block = this.#block;
    if ((gpa < block.startGpa || gpa + lengthBytes > block.endGpa) && !this.#findBlock(gpa, lengthBytes)) {
      this.#fail('OUT_OF_RAM', `a buffer of ${lengthBytes} bytes at ${gpa} does not lie in RAM`);
      return false;
    }
    const i = out.segmentCount;
    const writable = flags & VIRTQ_DESC_F_WRITE;
    if (writable === 0 && i > 0 && out.writable[i - 1] !== 0) {
      this.#fail(
        'READABLE_AFTER_WRITABLE',
        'a device-readable descriptor after a device-writable one (§ 2.7.4.2)',
      );
      return false;
    }
    out.gpa[i] = gpa;
    out.lengthBytes[i] = lengthBytes;
    out.writable[i] = writable;
    out.segmentCount = i + 1;
    return true;
  }

  /** A chain of several descriptors, or an indirect table, from descriptor `index` of `table`. */
  #walkChain(
    out: QueueElement,
    table: Uint32Array,
    tableSize: number,
    index: number,
    indirect = false,
  ): boolean {
    for (;;) {
      const at = index * 4;
      const flagsNext = table[at + 3]!;
      const flags = flagsNext & 0xffff;
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if (indirect || (flags & VIRTQ_DESC_F_NEXT) !== 0) {
          this.#fail(
            'INDIRECT_BAD_FLAGS',
            'an indirect table within another, or one that goes on (§ 2.7.5.3.1)',
          );
          return false;
        }
        return this.#walkIndirect(out, table, at);
      }
      // A chain that is longer than the queue must be a loop (§ 2.7.5.3.1 forbids both).
      if (out.segmentCount === this.addresses.size) {
        this.#fail('CHAIN_TOO_LONG', `a chain of more than ${this.addresses.size} descriptors, or a loop`);
        return false;
      }
      if (!this.#addSegment(out, table, at, flags)) {
        return false;
      }
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) {
        return true;
      }
      index = flagsNext >>> 16;
      if (index >= tableSize) {
        this.#fail('NEXT_OUT_OF_RANGE', `a chain goes on in descriptor ${index} of ${tableSize}`);
        return false;
      }
    }
  }

  /** Whether the range is RAM; its block is looked at first the next time. */
  #findBlock(gpa: number, lengthBytes: number): boolean {
    if (!this.#memory.layout.containsRange(gpa, lengthBytes)) {
      return false;
    }
    const { blocks } = this.#memory.layout;
    this.#block = blocks.find(({ startGpa, endGpa }) => gpa >= startGpa && gpa < endGpa)!;
    return true;
  }

  #walkIndirect(out: QueueElement, table: Uint32Array, at: number): boolean {
    const lengthBytes = table[at + 2]!;
    const gpa = table[at]! + table[at + 1]! * 0x1_0000_0000;
    const entries = lengthBytes / VIRTQ_DESC_SIZE;
    if (!Number.isInteger(entries) || entries === 0 || entries > this.addresses.size) {
      this.#fail(
        'INDIRECT_BAD_LENGTH',
        `an indirect table of ${lengthBytes} bytes: it holds 1 to ${this.addresses.size} descriptors of ${VIRTQ_DESC_SIZE} bytes`,
      );
      return false;
    }
    const segment: BackedSegment | undefined = this.#memory.segmentOf(gpa, lengthBytes);
    if (segment === undefined) {
      this.#fail('OUT_OF_RAM', `an indirect table of ${lengthBytes} bytes at ${gpa} does not lie in RAM`);
      return false;
    }
    // Copied, so that it can't change under the walk; the table need not be aligned.
    const offset = gpa - segment.startGpa;
    const copy = new Uint8Array(lengthBytes);
    copy.set(segment.bytes.subarray(offset, offset + lengthBytes));
    return this.#walkChain(out, new Uint32Array(copy.buffer), entries, 0, true);
  }

  #storeUsed(index: number, value: number): void {
    const views = this.#mapViews();
    if (views !== undefined) {
      views.used.store(index, value);
      this.#log.mark(pfnOf(this.addresses.usedGpa + index * 2));
    }
  }

  #markBytes(firstGpa: number, lastGpa: number): void {
    this.#log.markBytes(firstGpa, lastGpa - firstGpa + 1);
  }
}
