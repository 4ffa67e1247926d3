import { DirtyLog } from '../../src/memory/dirty-log.js';
import { type GuestMemory, PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf, KIB, MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { bitmapWords, PageBitmap } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper, type SharedWords, type WordMapper } from '../../src/memory/shared-words.js';
import { DeviceQueue, NextElement, QueueElement } from '../../src/virtqueue/device-queue.js';
import { DriverQueue } from '../../src/virtqueue/driver-queue.js';
import { packQueue, type QueueAddresses } from '../../src/virtqueue/layout.js';

/** RAM from 0 to 1 MiB and from 2 to 3 MiB, a hole between: room for the largest ring, and ways to miss RAM. */
export const HOLED_LAYOUT: RamLayout = new RamLayout([
  { startGpa: 0, endGpa: MIB },
  { startGpa: 2 * MIB, endGpa: 3 * MIB },
]);

/** 16 KiB: enough for a ring of a few entries, and cheap to make ten thousand times. */
export const TINY_LAYOUT: RamLayout = new RamLayout([{ startGpa: 0, endGpa: 16 * KIB }]);

/** Where the rings of these tests begin, unless they say otherwise. */
export const RING_GPA: number = PAGE_SIZE;

export function emptyLog(memory: GuestMemory): DirtyLog {
  return new DirtyLog(PageBitmap.allocate(atomicMapper, memory.layout.pfnSpan));
}

/** The pages that are marked in a log, which stays as it is. */
export function dirtyPages(log: DirtyLog): number[] {
  const { bitmap } = log;
  const pages: number[] = [];
  for (let pfn = bitmap.nextSet(0); pfn < bitmap.pageCount; pfn = bitmap.nextSet(pfn + 1)) {
    pages.push(pfn);
  }
  return pages;
}

/** Half words as atomicMapper's, with a call before each access: a place for the other side to run. */
export function hookedMapper(beforeAccess: () => void): WordMapper {
  return {
    ...atomicMapper,
    halfWords: (buffer, byteOffset, length) => {
      const words = atomicMapper.halfWords(buffer, byteOffset, length);
      return {
        load: (index) => {
          beforeAccess();
          return words.load(index);
        },
        store: (index, value) => {
          beforeAccess();
          words.store(index, value);
        },
      };
    },
  };
}

/** A 16-bit access to guest RAM by the standard's layout, without the code under test. */
function guestView(memory: GuestMemory, gpa: number): DataView {
  const { bytes, startGpa } = memory.segmentOf(gpa, 1)!;
  return new DataView(bytes.buffer, bytes.byteOffset + gpa - startGpa);
}

export interface RawDescriptor {
  readonly gpa?: number;
  /** The upper half of the le64 address, where `gpa` alone can't say it. */
  readonly gpaHigh?: number;
  readonly lengthBytes?: number;
  readonly flags?: number;
  readonly next?: number;
}

/**
 * A ring as bytes of guest RAM, by the offsets of VIRTIO 1.3 § 2.7 written out once more: what a driver that
 * follows no rules can do to it, and what a driver of another make would read there.
 */
export class RawRing {
  readonly memory: GuestMemory;
  readonly addresses: QueueAddresses;

  constructor(memory: GuestMemory, addresses: QueueAddresses) {
    this.memory = memory;
    this.addresses = addresses;
  }

  descriptor(index: number, descriptor: RawDescriptor): void {
    this.descriptorAt(this.addresses.descGpa + index * 16, descriptor);
  }

  /** A descriptor anywhere in RAM: of an indirect table. */
  descriptorAt(at: number, descriptor: RawDescriptor): void {
    const { gpa = 0, gpaHigh = 0, lengthBytes = PAGE_SIZE, flags = 0, next = 0 } = descriptor;
    const view = guestView(this.memory, at);
    view.setUint32(0, gpa, true);
    view.setUint32(4, gpaHigh, true);
    view.setUint32(8, lengthBytes, true);
    view.setUint16(12, flags, true);
    view.setUint16(14, next, true);
  }

  readDescriptor(index: number): Required<RawDescriptor> {
    const view = guestView(this.memory, this.addresses.descGpa + index * 16);
    return {
      gpa: view.getUint32(0, true),
      gpaHigh: view.getUint32(4, true),
      lengthBytes: view.getUint32(8, true),
      flags: view.getUint16(12, true),
      next: view.getUint16(14, true),
    };
  }

  /** Puts a chain's head into the next slot of the available ring, and shows it. */
  offer(head: number): void {
    const idx = this.availIdx;
    this.availEntry(idx % this.addresses.size, head);
    this.availIdx = idx + 1;
  }

  availEntry(slot: number, head: number): void {
    this.#avail.setUint16(4 + slot * 2, head, true);
  }

  readAvailEntry(slot: number): number {
    return this.#avail.getUint16(4 + slot * 2, true);
  }

  get availFlags(): number {
    return this.#avail.getUint16(0, true);
  }

  set availFlags(flags: number) {
    this.#avail.setUint16(0, flags, true);
  }

  get availIdx(): number {
    return this.#avail.getUint16(2, true);
  }

  set availIdx(idx: number) {
    this.#avail.setUint16(2, idx, true);
  }

  get usedEvent(): number {
    return this.#avail.getUint16(4 + this.addresses.size * 2, true);
  }

  set usedEvent(idx: number) {
    this.#avail.setUint16(4 + this.addresses.size * 2, idx, true);
  }

  get usedFlags(): number {
    return this.#used.getUint16(0, true);
  }

  set usedFlags(flags: number) {
    this.#used.setUint16(0, flags, true);
  }

  get usedIdx(): number {
    return this.#used.getUint16(2, true);
  }

  set usedIdx(idx: number) {
    this.#used.setUint16(2, idx, true);
  }

  get availEvent(): number {
    return this.#used.getUint16(4 + this.addresses.size * 8, true);
  }

  set availEvent(idx: number) {
    this.#used.setUint16(4 + this.addresses.size * 8, idx, true);
  }

  usedElement(slot: number): { id: number; lengthBytes: number } {
    return {
      id: this.#used.getUint32(4 + slot * 8, true),
      lengthBytes: this.#used.getUint32(8 + slot * 8, true),
    };
  }

  setUsedElement(slot: number, id: number, lengthBytes = 0): void {
    this.#used.setUint32(4 + slot * 8, id, true);
    this.#used.setUint32(8 + slot * 8, lengthBytes, true);
  }

  get #avail(): DataView {
    return guestView(this.memory, this.addresses.availGpa);
  }

  get #used(): DataView {
    return guestView(this.memory, this.addresses.usedGpa);
  }
}

export interface RingOptions {
  readonly size?: number;
  readonly eventIdx?: boolean;
  /** Where both rings' indices stand at the start; near 65535 the wrap is soon. */
  readonly startIndex?: number;
  readonly gpa?: number;
  readonly memory?: GuestMemory;
  readonly log?: DirtyLog;
  readonly driverMap?: WordMapper;
  readonly deviceMap?: WordMapper;
}

/** A device on a ring whose driver is the test, writing bytes. */
export class RawPair {
  readonly memory: GuestMemory;
  readonly addresses: QueueAddresses;
  readonly raw: RawRing;
  readonly log: DirtyLog;
  readonly device: DeviceQueue;
  readonly element: QueueElement;

  constructor(options: RingOptions = {}) {
    const { size = 8, eventIdx = false, gpa = RING_GPA, deviceMap = atomicMapper } = options;
    this.memory = options.memory ?? new PrivateGuestMemory(HOLED_LAYOUT);
    this.log = options.log ?? emptyLog(this.memory);
    this.addresses = packQueue(gpa, size);
    this.raw = new RawRing(this.memory, this.addresses);
    this.device = new DeviceQueue(this.memory, deviceMap, this.log, this.addresses, eventIdx);
    this.element = new QueueElement(size);
  }

  /** Offers the chain that starts at `head`, and has the device look at it. */
  takeChain(head: number): number {
    this.raw.offer(head);
    return this.takeNext();
  }

  takeNext(): number {
    this.device.refresh();
    return this.device.next(this.element);
  }

  /** The segments of the element taken last. */
  get segments(): { gpa: number; lengthBytes: number; writable: boolean }[] {
    const { element } = this;
    return Array.from({ length: element.segmentCount }, (_, i) => ({
      gpa: element.gpa[i]!,
      lengthBytes: element.lengthBytes[i]!,
      writable: element.writable[i] !== 0,
    }));
  }
}

/** A driver and a device on one ring. */
export class RingPair {
  readonly memory: GuestMemory;
  readonly addresses: QueueAddresses;
  readonly raw: RawRing;
  readonly log: DirtyLog;
  readonly driver: DriverQueue;
  readonly device: DeviceQueue;
  readonly element: QueueElement;

  constructor(options: RingOptions = {}) {
    const { size = 8, eventIdx = false, startIndex = 0, gpa = RING_GPA } = options;
    const { driverMap = atomicMapper, deviceMap = atomicMapper } = options;
    const memory = options.memory ?? new PrivateGuestMemory(HOLED_LAYOUT);
    const log = options.log ?? emptyLog(memory);
    const addresses = packQueue(gpa, size);
    const raw = new RawRing(memory, addresses);
    const fresh = new DriverQueue(memory, driverMap, log, addresses, eventIdx);
    raw.availIdx = startIndex;
    raw.usedIdx = startIndex;
    this.memory = memory;
    this.log = log;
    this.addresses = addresses;
    this.raw = raw;
    this.driver = new DriverQueue(memory, driverMap, log, addresses, eventIdx, {
      ...fresh.saveState(),
      availIdx: startIndex,
      publishedIdx: startIndex,
      lastUsedIdx: startIndex,
    });
    this.device = new DeviceQueue(memory, deviceMap, log, addresses, eventIdx, {
      lastAvailIdx: startIndex,
      usedIdx: startIndex,
    });
    this.element = new QueueElement(size);
  }

  /** Driver: adds free ranges of one page whose pfns are given, and publishes them as one batch. */
  addPages(...pfns: number[]): void {
    for (const pfn of pfns) {
      if (this.driver.tryAddInbuf(gpaOf(pfn), PAGE_SIZE) === -1) {
        throw new Error('the ring is full');
      }
    }
    this.driver.publish();
  }

  /** Device: the pfn of the next element (of one segment), which is put into the used ring; or undefined. */
  takePage(): number | undefined {
    if (this.device.next(this.element) !== NextElement.element) {
      return undefined;
    }
    this.device.pushUsed(this.element.head, 0);
    return this.element.gpa[0]! / PAGE_SIZE;
  }

  /** Device: all that is there now, returned with one publication. */
  takeAll(): number[] {
    const pfns: number[] = [];
    while (this.device.refresh()) {
      for (let pfn = this.takePage(); pfn !== undefined; pfn = this.takePage()) {
        pfns.push(pfn);
      }
      if (this.device.fault !== undefined) {
        throw new Error(`the ring broke: ${this.device.fault.message}`);
      }
    }
    this.device.publishUsed();
    return pfns;
  }
}

/**
 * A dirty log that remembers what each page held when it was marked. Whatever differs from that afterwards was
 * written after its mark, or never marked: a breach of I1.
 */
export class WitnessedLog {
  readonly log: DirtyLog;
  readonly #memory: GuestMemory;
  readonly #seen: Map<number, Uint8Array> = new Map();

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    for (const segment of memory.layout.segments) {
      for (let i = 0; i < segment.pageCount; i += 1) {
        this.#witness(segment.firstPfn + i);
      }
    }
    const { pfnSpan } = memory.layout;
    const bytes = bitmapWords(pfnSpan) * 4;
    const words = atomicMapper.words(new ArrayBuffer(bytes), 0, bytes / 4);
    const or = (index: number, bits: number): number => {
      for (let bit = 0; bit < 32; bit += 1) {
        if (((bits >>> bit) & 1) === 1) {
          this.#witness(index * 32 + bit);
        }
      }
      return words.or(index, bits);
    };
    const witnessed: SharedWords = {
      length: words.length,
      load: (index) => words.load(index),
      store: (index, value) => words.store(index, value),
      exchange: (index, value) => words.exchange(index, value),
      compareExchange: (index, expected, value) => words.compareExchange(index, expected, value),
      or,
      and: (index, bits) => words.and(index, bits),
      add: (index, value) => words.add(index, value),
      notify: (index) => words.notify(index),
      wait: (index, expected, timeoutMs) => words.wait(index, expected, timeoutMs),
      waitAsync: (index, expected) => words.waitAsync(index, expected),
    };
    this.log = new DirtyLog(new PageBitmap(witnessed, pfnSpan));
  }

  /** Pages that were written later than they were last marked. */
  unmarkedPages(): number[] {
    return [...this.#seen]
      .filter(([pfn, bytes]) => Buffer.compare(bytes, this.#memory.pages(pfn, 1)) !== 0)
      .map(([pfn]) => pfn);
  }

  /** From here on as if every page had been marked just now. */
  forget(): void {
    this.log.bitmap.clearAll();
    for (const pfn of this.#seen.keys()) {
      this.#witness(pfn);
    }
  }

  #witness(pfn: number): void {
    this.#seen.set(pfn, this.#memory.pages(pfn, 1).slice());
  }
}

/** Runs `play` once for every way to answer the choices that it asks for; returns how many ways there were. */
export function everySchedule(play: (choose: (options: number) => number) => void): number {
  const path: { taken: number; options: number }[] = [];
  for (let runs = 1; ; runs += 1) {
    let depth = 0;
    play((options) => {
      const choice = path[depth] ?? { taken: 0, options };
      path[depth] = choice;
      depth += 1;
      return choice.taken;
    });
    for (let last = path.at(-1); last !== undefined && last.taken + 1 === last.options; last = path.at(-1)) {
      path.pop();
    }
    const branch = path.at(-1);
    if (branch === undefined) {
      return runs;
    }
    branch.taken += 1;
  }
}
