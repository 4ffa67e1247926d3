import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DirtyLog } from '../../../../src/memory/dirty-log.js';
import { PAGE_SIZE } from '../../../../src/memory/page.js';
import { PageBitmap } from '../../../../src/memory/page-bitmap.js';
import { atomicMapper } from '../../../../src/memory/shared-words.js';
import {
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
} from '../../../../src/spec/virtio-balloon.js';
import { DriverQueue } from '../../../../src/virtqueue/driver-queue.js';
import { packQueue } from '../../../../src/virtqueue/layout.js';
import { V86Guest } from '../../../../src/vmm/v86/v86-guest.js';
import { FakeMachine } from '../../../support/fake-v86.js';

const PAGES = 64;
const QUEUE_GPA = 8 * PAGE_SIZE;
const MARKER_GPA = 12 * PAGE_SIZE;

function open(): { readonly machine: FakeMachine; readonly guest: V86Guest } {
  const machine = new FakeMachine(PAGES);
  return { machine, guest: V86Guest.open(machine.emulator) };
}

/** The test is the driver of its free page queue. */
function driver(machine: FakeMachine, guest: V86Guest): DriverQueue {
  const addresses = packQueue(QUEUE_GPA, 16);
  const { virtio } = machine;
  Object.assign(virtio.queues[VIRTIO_BALLOON_VQ_FREE_PAGE]!, {
    size: addresses.size,
    enabled: true,
    desc_addr: addresses.descGpa,
    avail_addr: addresses.availGpa,
    used_addr: addresses.usedGpa,
  });
  virtio.negotiate(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
  virtio.driverOk();
  guest.memory.pages(QUEUE_GPA / PAGE_SIZE, 1).fill(0);
  const log = new DirtyLog(PageBitmap.allocate(atomicMapper, PAGES));
  return new DriverQueue(guest.memory, atomicMapper, log, addresses, false);
}

function putMarker(machine: FakeMachine, queue: DriverQueue, id: number): void {
  new DataView(machine.ram.buffer, machine.ram.byteOffset).setUint32(MARKER_GPA, id, true);
  queue.tryAddOutbuf(MARKER_GPA, 4);
  queue.publish();
}

function putRange(queue: DriverQueue, pfn: number, pageCount: number): void {
  queue.tryAddInbuf(pfn * PAGE_SIZE, pageCount * PAGE_SIZE);
  queue.publish();
}

describe('a v86 machine that runs and stops', () => {
  it('stands still at once when it is asked between two ticks', () => {
    const { machine, guest } = open();
    guest.start();
    expect(machine.elapse()).toBe(true);
    const rung = guest.event.value();
    guest.requestPause();
    expect(guest.paused).toBe(true);
    expect(guest.stoppedAt).toBeGreaterThan(performance.timeOrigin);
    expect(guest.event.value()).not.toBe(rung);
    expect(machine.sent.at(-1)).toBe('emulator-stopped');
    expect(machine.elapse()).toBe(false);
  });

  it('stands still as soon as its tick is over when it is asked within one', () => {
    const { machine, guest } = open();
    guest.start();
    let within: boolean | undefined;
    machine.tick = () => {
      guest.requestPause();
      within = guest.paused;
      return 0;
    };
    machine.elapse();
    expect(within).toBe(false);
    const rung = guest.event.value();
    machine.elapse();
    expect(guest.paused).toBe(true);
    expect(guest.event.value()).not.toBe(rung);
  });

  it('goes on where the request is taken back, and from where it stood still', () => {
    const { machine, guest } = open();
    guest.start();
    let ticks = 0;
    machine.tick = () => {
      ticks += 1;
      guest.requestPause();
      guest.resume();
      return 0;
    };
    machine.elapse();
    machine.elapse();
    expect([ticks, guest.paused]).toEqual([2, false]);
    guest.requestPause();
    guest.resume();
    expect(guest.paused).toBe(false);
    expect(machine.elapse()).toBe(true);
    expect(ticks).toBe(3);
  });

  it('has failed when v86 throws, and runs no more', () => {
    const { machine, guest } = open();
    guest.start();
    const rung = guest.event.value();
    machine.tick = () => {
      throw new Error('unreachable');
    };
    machine.elapse();
    expect(guest.failure).toMatchObject({ code: 'GUEST_FAILED', message: 'v86: unreachable' });
    expect(guest.paused).toBe(true);
    expect(guest.event.value()).not.toBe(rung);
    guest.resume();
    expect(guest.paused).toBe(true);
    expect(() => guest.start()).toThrow(expect.objectContaining({ code: 'GUEST_FAILED' }));
  });
});

describe('a v86 machine that is throttled', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** The share of the time in which it rests, over many ticks of `tickMs`. */
  function restOf(share: number, tickMs: number): number {
    const { machine, guest } = open();
    guest.throttle(share);
    let ranMs = 0;
    machine.tick = () => {
      vi.advanceTimersByTime(tickMs);
      ranMs += tickMs;
      return 0;
    };
    const began = performance.now();
    guest.start();
    for (let i = 0; i < 200; i += 1) {
      vi.advanceTimersByTime(machine.due.at(-1)!.delayMs);
      machine.elapse();
    }
    return 1 - ranMs / (performance.now() - began);
  }

  it.each([
    [0, 1],
    [0.2, 4],
    [0.5, 1],
    [0.8, 1],
    [0.2, 1],
  ])('rests for %d of the time, in ticks of %d ms', (share, tickMs) => {
    expect(restOf(share, tickMs)).toBeCloseTo(share, 1);
  });

  it('stops at once though it rests, and runs freely again', () => {
    const { machine, guest } = open();
    guest.throttle(0.9);
    machine.tick = () => {
      vi.advanceTimersByTime(10);
      return 0;
    };
    guest.start();
    machine.elapse();
    expect(machine.due.at(-1)!.delayMs).toBeCloseTo(90);
    guest.requestPause();
    expect(guest.paused).toBe(true);
    guest.throttle(0);
    guest.resume();
    expect(machine.due.at(-1)!.delayMs).toBe(0);
  });
});

describe("a v86 machine's hints", () => {
  it('I9 are taken within the kick that brings them, and never asked not to be', () => {
    const { machine, guest } = open();
    const queue = driver(machine, guest);
    const device = guest.device!;
    const hinted: number[] = [];
    const id = device.openSession({ hint: (gpa) => hinted.push(gpa / PAGE_SIZE) > 0 }, 0);
    expect(machine.virtio.read('free_page_hint_cmd_id')).toBe(id);
    device.suppressNotifications();
    guest.start();
    let inKick: unknown;
    machine.tick = () => {
      putMarker(machine, queue, id);
      expect(queue.needsNotification()).toBe(true);
      machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
      putRange(queue, 20, 2);
      expect(queue.needsNotification()).toBe(true);
      machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
      inKick = [device.session.state, [...hinted], queue.reclaim()];
      return 0;
    };
    const rung = guest.event.value();
    machine.elapse();
    expect(inKick).toEqual(['reporting', [20], 2]);
    expect(guest.event.value()).not.toBe(rung);
    expect([device.armNotifications(), device.poll(0, 9), device.poll(0, 9)]).toEqual([true, 2, 0]);
  });

  it('I9 are not taken from the ring by a poll: what was not kicked is not looked at', () => {
    const { machine, guest } = open();
    const queue = driver(machine, guest);
    const device = guest.device!;
    const hinted: number[] = [];
    const id = device.openSession({ hint: (gpa) => hinted.push(gpa) > 0 }, 0);
    putMarker(machine, queue, id);
    putRange(queue, 20, 2);
    expect(device.poll(0, 100)).toBe(0);
    expect([hinted, device.session.state]).toEqual([[], 'requested']);
    device.closeSession(0);
    expect([hinted, device.session.counts.stale, device.session.counts.staleMarkers]).toEqual([[], 2, 1]);
  });

  it('I9 make the guest, and the shadow, read as the destination does; compiled code is forgotten', () => {
    const { machine, guest } = open();
    machine.ram.fill(0xee);
    guest.migrationBegins();
    while (!guest.drainDirty({ addDirty: () => {} })) {
      // as long as it takes
    }
    guest.leaveOut(1, 0b110, 0x0403_0201);
    for (const bytes of [guest.memory.pages(0, PAGES), guest.payload(0, PAGES)]) {
      expect([...bytes.subarray(33 * PAGE_SIZE, 33 * PAGE_SIZE + 5)]).toEqual([1, 2, 3, 4, 1]);
      expect(bytes[33 * PAGE_SIZE - 1]).toBe(0xee);
      expect(bytes[35 * PAGE_SIZE - 1]).toBe(4);
      expect(bytes[35 * PAGE_SIZE]).toBe(0xee);
    }
    const covers = machine.forgotten.some(([start, end]) => start <= 33 * PAGE_SIZE && end >= 35 * PAGE_SIZE);
    expect(covers).toBe(true);
  });

  it('V14 come to nothing while it is frozen, and the ring stays as it is', () => {
    const { machine, guest } = open();
    const queue = driver(machine, guest);
    const device = guest.device!;
    device.freeze();
    putMarker(machine, queue, 2);
    const before = machine.ram.slice();
    machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
    expect(Buffer.compare(machine.ram, before)).toBe(0);
    device.unfreeze();
    machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
    expect(queue.reclaim()).toBe(1);
  });

  it("V6 end with DONE once the guest's pages are its own again", () => {
    const { machine, guest } = open();
    driver(machine, guest);
    guest.migrationBegins();
    guest.device!.openSession({ hint: () => true }, 0);
    guest.device!.closeSession(0);
    expect(machine.virtio.read('free_page_hint_cmd_id')).toBe(0);
    guest.migrationEnds();
    expect(machine.virtio.read('free_page_hint_cmd_id')).toBe(1);
  });

  it('I6 stop for good where the guest has corrupted its ring, and the host is woken', () => {
    const { machine, guest } = open();
    driver(machine, guest);
    const rung = guest.event.value();
    const { ram } = machine;
    const addresses = packQueue(QUEUE_GPA, 16);
    new DataView(ram.buffer, ram.byteOffset).setUint16(addresses.availGpa + 2, 1000, true);
    machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
    expect(guest.device!.fault).toBeDefined();
    expect(machine.virtio.asked).toContain('needs reset');
    expect(guest.event.value()).not.toBe(rung);
  });

  it('are found where memory has gone when it grew', () => {
    const { machine, guest } = open();
    const queue = driver(machine, guest);
    const id = guest.device!.openSession({ hint: () => true }, 0);
    putMarker(machine, queue, id);
    machine.grow();
    machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
    expect(guest.device!.session.state).toBe('reporting');
  });
});

describe('a v86 machine that is reset', () => {
  it('V12 closes its session when it reboots, has no driver then, and goes on counting ids', () => {
    const { machine, guest } = open();
    const queue = driver(machine, guest);
    const device = guest.device!;
    const id = device.openSession({ hint: () => true }, 0);
    putMarker(machine, queue, id);
    machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
    expect(device.session.state).toBe('reporting');
    machine.cpu.reboot_internal();
    expect(machine.sent).toContain('rebooted');
    expect(device.session.state).toBe('closed');
    expect(guest.device).toBeUndefined();
    putRange(queue, 20, 2); // by a driver that is gone
    machine.virtio.kick(VIRTIO_BALLOON_VQ_FREE_PAGE);
    expect(device.session.counts).toMatchObject({ ranges: 0, stale: 0 });
    driver(machine, guest);
    expect(guest.device!.openSession({ hint: () => true }, 0)).toBe(id + 1);
  });

  it('has the kernel that it was given in memory again when it reboots, and no compiled code of another', () => {
    const machine = new FakeMachine(PAGES);
    machine.ram.fill(7, 5 * PAGE_SIZE + 100, 7 * PAGE_SIZE);
    const guest = V86Guest.open(machine.emulator);
    machine.ram.fill(9);
    machine.cpu.reboot_internal();
    expect(machine.ram[5 * PAGE_SIZE]).toBe(0);
    expect(machine.ram[5 * PAGE_SIZE + 100]).toBe(7);
    expect(machine.ram[7 * PAGE_SIZE - 1]).toBe(7);
    expect(machine.ram[7 * PAGE_SIZE]).toBe(9);
    expect(machine.forgotten).toContainEqual([0, PAGES * PAGE_SIZE]);
    expect(guest.failure).toBeUndefined();
  });
});

describe("a v86 machine's device state", () => {
  it('has all of the balloon in it and nothing of RAM, and leaves v86 as it was', () => {
    const { machine, guest } = open();
    driver(machine, guest);
    machine.ram.fill(0x5a, 20 * PAGE_SIZE);
    const id = guest.device!.openSession({ hint: () => true }, 0);
    guest.setBalloonTarget(3);
    guest.device!.closeSession(0);
    guest.device!.freeze();
    const pack = machine.cpu.pack_memory;
    const state = guest.saveDeviceState();
    expect(machine.cpu.pack_memory).toBe(pack);
    expect(Buffer.from(state).includes(0x5a)).toBe(false);
    expect(state.length).toBeLessThan(2000);

    const there = new FakeMachine(PAGES);
    there.ram.fill(1);
    const arrived = V86Guest.incoming(there.emulator);
    expect(there.ram.every((byte) => byte === 0)).toBe(true);
    there.ram.set(machine.ram);
    const unpack = there.cpu.unpack_memory;
    arrived.loadDeviceState(state);
    expect(there.cpu.unpack_memory).toBe(unpack);
    expect(Buffer.compare(there.ram, machine.ram)).toBe(0);
    // V9, V2
    expect(there.virtio.read('free_page_hint_cmd_id')).toBe(1);
    expect(there.virtio.read('num_pages')).toBe(3);
    expect(arrived.device!.openSession({ hint: () => true }, 0)).toBe(id + 1);
  });

  it('is refused if v86 can make nothing of it', () => {
    const { machine, guest } = open();
    const state = guest.saveDeviceState();
    const unpack = machine.cpu.unpack_memory;
    machine.restore_state = () => {
      throw new TypeError('no such device');
    };
    expect(() => guest.loadDeviceState(state)).toThrow(
      expect.objectContaining({
        code: 'DEVICE_STATE_INVALID',
        message: expect.stringMatching(/no such device/),
      }),
    );
    expect(machine.cpu.unpack_memory).toBe(unpack);
  });

  it('is refused if it is of a machine of another size', () => {
    const state = open().guest.saveDeviceState();
    const other = V86Guest.incoming(new FakeMachine(PAGES / 2).emulator);
    expect(() => other.loadDeviceState(state)).toThrow(
      expect.objectContaining({
        code: 'DEVICE_STATE_INVALID',
        message: expect.stringMatching(/bytes of RAM/),
      }),
    );
  });
});
