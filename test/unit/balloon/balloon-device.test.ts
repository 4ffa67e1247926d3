import { describe, expect, it } from 'vitest';
import { BalloonDevice } from '../../../src/balloon/balloon-device.js';
import type { BalloonRegisters } from '../../../src/balloon/balloon-registers.js';
import { HintState } from '../../../src/balloon/hint-session.js';
import { DirtyLog } from '../../../src/memory/dirty-log.js';
import { PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { PageBitmap } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { VIRTIO_BALLOON_VQ_FREE_PAGE, VIRTIO_BALLOON_VQ_INFLATE } from '../../../src/spec/virtio-balloon.js';
import { DriverQueue } from '../../../src/virtqueue/driver-queue.js';
import { packQueue, type QueueAddresses } from '../../../src/virtqueue/layout.js';

const PAGES = 64;
const MARKER_GPA = 8 * PAGE_SIZE;

/** Registers of some VMM: they do nothing but note what is asked of them. */
class NotedRegisters implements BalloonRegisters {
  readonly asked: (string | number)[] = [];
  readonly queues: Map<number, QueueAddresses> = new Map();
  poison: number | undefined;
  actual = 0;

  requestReport(id: number): void {
    this.asked.push(id);
  }
  requestStop(): void {
    this.asked.push('stop');
  }
  requestDone(): void {
    this.asked.push('done');
  }
  withdrawDone(): void {
    this.asked.push('not done');
  }
  requestBallooning(): void {}
  interruptQueue(): void {}
  needsReset(): void {
    this.asked.push('needs reset');
  }
  reset(): void {
    this.asked.push('reset');
    this.queues.clear();
  }
  takeNotified(): number {
    return 0;
  }
  queue(index: number): QueueAddresses | undefined {
    return this.queues.get(index);
  }
}

/** A device in a VMM that has no dirty log and whose memory is its own; its driver is the test. */
class Rig {
  readonly memory: PrivateGuestMemory = new PrivateGuestMemory(
    new RamLayout([{ startGpa: 0, endGpa: PAGES * PAGE_SIZE }]),
  );
  readonly registers: NotedRegisters = new NotedRegisters();
  readonly inflated: PageBitmap = PageBitmap.allocate(atomicMapper, PAGES);
  readonly device: BalloonDevice;
  readonly hinted: number[] = [];
  readonly eventIdx: boolean;
  free: DriverQueue;
  inflate: DriverQueue;

  constructor(eventIdx: boolean) {
    this.eventIdx = eventIdx;
    const { memory, registers, inflated } = this;
    const log = { mark: () => {}, markBytes: () => {} };
    this.device = new BalloonDevice({ memory, map: atomicMapper, registers, log, inflated, eventIdx });
    [this.free, this.inflate] = this.setUp();
  }

  /** What a driver does as it starts. */
  setUp(): [DriverQueue, DriverQueue] {
    const queue = (index: number, gpa: number): DriverQueue => {
      const addresses = packQueue(gpa, 8);
      this.memory.pages(gpa / PAGE_SIZE, 1).fill(0);
      this.registers.queues.set(index, addresses);
      return this.#driver(addresses);
    };
    this.free = queue(VIRTIO_BALLOON_VQ_FREE_PAGE, PAGE_SIZE);
    this.inflate = queue(VIRTIO_BALLOON_VQ_INFLATE, 2 * PAGE_SIZE);
    return [this.free, this.inflate];
  }

  #driver(addresses: QueueAddresses, restored?: ReturnType<DriverQueue['saveState']>): DriverQueue {
    const log = new DirtyLog(PageBitmap.allocate(atomicMapper, PAGES));
    return new DriverQueue(this.memory, atomicMapper, log, addresses, this.eventIdx, restored);
  }

  /** As a WebAssembly memory that grows: other buffers with the same bytes, and those from before are gone. */
  grow(): void {
    const old = this.memory.segments[0]!.bytes.buffer as ArrayBuffer;
    this.memory.replaceBuffers([structuredClone(old, { transfer: [old] })]);
    this.free = this.#driver(this.free.addresses, this.free.saveState());
  }

  /** Puts one element on a queue; true: the driver would kick. */
  put(queue: DriverQueue, add: () => number): boolean {
    queue.reclaim();
    expect(add()).not.toBe(-1);
    queue.publish();
    return queue.needsNotification();
  }

  marker(value: number): boolean {
    const { bytes } = this.memory.segments[0]!;
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(MARKER_GPA, value, true);
    return this.put(this.free, () => this.free.tryAddOutbuf(MARKER_GPA, 4));
  }

  range(pfn: number): boolean {
    return this.put(this.free, () => this.free.tryAddInbuf(pfn * PAGE_SIZE, PAGE_SIZE));
  }

  open(): number {
    const hint = (gpa: number): boolean => {
      this.hinted.push(gpa / PAGE_SIZE);
      return true;
    };
    return this.device.openSession({ hint }, 0);
  }

  /** The VMM hands a kick of the free page queue to the device. */
  kick(): number {
    return this.device.pollQueue(VIRTIO_BALLOON_VQ_FREE_PAGE, 0, 64);
  }
}

describe.each([
  ['by flags', false],
  ['by EVENT_IDX', true],
])('a device that is rung for each element, notified %s', (_how, eventIdx) => {
  it('serves each within its kick, and is kicked for the next (I9)', () => {
    const rig = new Rig(eventIdx);
    const id = rig.open();
    expect([rig.marker(id), rig.kick()]).toEqual([true, 1]);
    for (let pfn = 16; pfn < 40; pfn += 1) {
      expect([rig.range(pfn), rig.kick()]).toEqual([true, 1]);
      expect(rig.hinted.at(-1)).toBe(pfn);
    }
    expect([rig.marker(0), rig.kick()]).toEqual([true, 1]);
    expect(rig.device.session.state).toBe(HintState.done);
  });

  it('serves all that came before one kick', () => {
    const rig = new Rig(eventIdx);
    rig.marker(rig.open());
    rig.range(16);
    rig.range(17);
    expect(rig.kick()).toBe(3);
    expect(rig.hinted).toEqual([16, 17]);
    expect(rig.range(18)).toBe(true);
  });

  it('is not kicked while the host has asked for silence', () => {
    const rig = new Rig(eventIdx);
    rig.marker(rig.open());
    rig.kick();
    rig.device.suppressNotifications();
    expect(rig.range(16)).toBe(false);
    expect(rig.kick()).toBe(1);
    expect(rig.range(17)).toBe(false);
    expect(rig.device.armNotifications()).toBe(true);
    rig.kick();
    expect(rig.range(18)).toBe(true);
  });

  it('goes on when the memory under its rings is replaced', () => {
    const rig = new Rig(eventIdx);
    rig.marker(rig.open());
    rig.kick();
    rig.grow();
    rig.range(16);
    expect(rig.kick()).toBe(1);
    rig.grow();
    expect([rig.range(17), rig.kick()]).toEqual([true, 1]);
    expect(rig.hinted).toEqual([16, 17]);
    expect(rig.free.reclaim()).toBe(1);
    expect(rig.device.fault).toBeUndefined();
  });
});

it('serves no queue while it is frozen, and says so', () => {
  const rig = new Rig(false);
  rig.marker(rig.open());
  rig.device.freeze();
  expect(rig.kick()).toBe(0);
  rig.device.unfreeze();
  expect(rig.kick()).toBe(1);
});

describe('V12 a reset by the driver', () => {
  it('closes the session; ids go on, queues begin anew, and the balloon is empty', () => {
    const rig = new Rig(false);
    const id = rig.open();
    rig.marker(id);
    rig.range(16);
    rig.inflated.set(20);
    rig.kick();
    rig.range(17);
    rig.device.reset();
    expect(rig.device.session.state).toBe(HintState.closed);
    expect(rig.registers.asked).toEqual([id, 'reset']);
    expect(rig.inflated.test(20)).toBe(false);
    expect(rig.kick()).toBe(0); // there is no queue
    expect(rig.device.saveState()).toMatchObject({ queues: [null, null, null, null], nextId: id + 1 });
    rig.setUp();
    expect(rig.open()).toBe(id + 1);
    rig.marker(id); // of the driver before
    rig.range(18);
    expect(rig.kick()).toBe(2);
    rig.marker(id + 1);
    rig.range(19);
    expect(rig.kick()).toBe(2);
    expect(rig.hinted).toEqual([16, 19]);
  });

  it('mends a device whose rings were corrupted', () => {
    const rig = new Rig(false);
    rig.put(rig.free, () => rig.free.tryAddOutbuf(PAGES * PAGE_SIZE, 4)); // behind RAM
    rig.kick();
    expect(rig.device.fault?.code).toBe('OUT_OF_RAM');
    rig.device.reset();
    expect(rig.device.fault).toBeUndefined();
    rig.setUp();
    rig.marker(rig.open());
    expect(rig.kick()).toBe(1);
    expect(rig.device.session.state).toBe(HintState.reporting);
  });

  it('of a device that has arrived has its queues begin anew, too', () => {
    const rig = new Rig(false);
    rig.marker(rig.open());
    rig.kick();
    const { memory, registers, inflated } = rig;
    const log = { mark: () => {}, markBytes: () => {} };
    const there = new BalloonDevice({
      memory,
      map: atomicMapper,
      registers,
      log,
      inflated,
      eventIdx: false,
      restored: rig.device.saveState(),
    });
    there.reset();
    rig.setUp();
    rig.marker(there.openSession({ hint: () => true }, 0));
    expect(there.pollQueue(VIRTIO_BALLOON_VQ_FREE_PAGE, 0, 64)).toBe(1);
    expect(there.session.state).toBe(HintState.reporting);
  });
});

describe('V6 DONE', () => {
  it('is shown once for the sessions since the last time', () => {
    const rig = new Rig(false);
    rig.device.showDone();
    const id = rig.open();
    rig.device.closeSession(0);
    rig.open();
    rig.device.closeSession(0);
    rig.device.freeze();
    rig.device.showDone();
    expect(rig.registers.asked).toEqual([id, 'stop', id + 1, 'stop', 'done']);
    rig.device.unfreeze();
    rig.open();
    rig.device.closeSession(0);
    rig.device.showDone();
    expect(rig.registers.asked.slice(5)).toEqual(['not done', id + 2, 'stop', 'done']);
  });

  it('is still owed by a device that was saved before it was shown', () => {
    const rig = new Rig(false);
    rig.open();
    rig.device.closeSession(0);
    const restored = JSON.parse(JSON.stringify(rig.device.saveState())) as ReturnType<
      BalloonDevice['saveState']
    >;
    const { memory, inflated } = rig;
    const registers = new NotedRegisters();
    const log = { mark: () => {}, markBytes: () => {} };
    const there = new BalloonDevice({
      memory,
      map: atomicMapper,
      registers,
      log,
      inflated,
      eventIdx: false,
      restored,
    });
    there.showDone();
    there.showDone();
    expect(registers.asked).toEqual(['done']);
  });
});
