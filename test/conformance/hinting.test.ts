import { describe, expect, it } from 'vitest';
import { HintState } from '../../src/balloon/hint-session.js';
import { CMD_ID_REG, DEVICE_STATUS } from '../../src/memory/control-buffer.js';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import { atomicMapper, type WordMapper } from '../../src/memory/shared-words.js';
import { SCHEDULES } from '../../src/migration/options.js';
import type { SourcePhase } from '../../src/migration/precopy.js';
import { REPORT_START, STOP_SIGN } from '../../src/spec/command-register.js';
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_VQ_DEFLATE,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
  VIRTIO_BALLOON_VQ_INFLATE,
} from '../../src/spec/virtio-balloon.js';
import { VIRTIO_CONFIG_S_NEEDS_RESET } from '../../src/spec/virtio-ring.js';
import { AVAIL_RING, mapQueue, RING_IDX } from '../../src/virtqueue/layout.js';
import {
  Collector,
  DEFAULT_FREE,
  DriverRig,
  expectSameGuest,
  FRAGMENTED,
  FRAGMENTED_GUEST,
  type HandDriver,
  isVirtio,
  Machine,
  migrated,
  pagesIn,
  putChain,
  TestMigration,
} from '../support/machine.js';

const FREE_PAGES = pagesIn(DEFAULT_FREE);
const WAIT = { schedule: 'wait' } as const;
/** What the id register reads when a migration that asked for hints is over: the stop sign, or DONE. */
const OVER = isVirtio() ? VIRTIO_BALLOON_CMD_ID_DONE : STOP_SIGN;

/** A driver by hand, in a session that its host has opened and it has begun. */
function reporting(): { machine: Machine; driver: HandDriver; collector: Collector; id: number } {
  const { machine, driver } = Machine.bare();
  const collector = new Collector();
  const id = machine.device.openSession(collector, 0);
  driver.marker(driver.takeStart());
  machine.device.poll(0, 64);
  return { machine, driver, collector, id };
}

/** A driver that answers each START with its id and then with what `ranges` puts on the ring. */
function answering(driver: HandDriver, ranges: (id: number) => void): void {
  driver.script = () => {
    const id = driver.takeInterrupt() ? driver.takeStart() : 0;
    if (id !== 0) {
      driver.marker(id);
      ranges(id);
    }
    return Number.POSITIVE_INFINITY;
  };
}

describe('D2, D3 a session and its id', () => {
  it('D2 begins with the current id, also after one that was cut short', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 5 });
    const first = rig.openSession();
    for (let i = 0; i < 6; i += 1) {
      rig.guestStep();
    }
    rig.closeSession();
    rig.guestRuns();
    const second = rig.openSession();
    rig.settle();
    const ring = rig.ring();
    expect(ring[0]).toBe(first);
    expect(ring[ring.indexOf(0) + 1]).toBe(second);
    expect(ring.slice(ring.indexOf(second))).toEqual([second, ...Array(5).fill('range'), 0]);
  });

  it('D2 gathers ranges only after it has read the id, and forgets what it had left of an older one', () => {
    const rig = new DriverRig({ ringSize: 4, rangesPerReport: 6 });
    rig.openSession();
    rig.guestRuns(); // the ring is full, a range is in hand
    rig.closeSession();
    const second = rig.openSession();
    expect(rig.ranges.begun).toBe(1);
    rig.settle();
    expect(rig.ranges.begun).toBe(2);
    expect(rig.applied).toHaveLength(6);
    for (const { pfn } of rig.applied) {
      expect(rig.declaredUnder.get(pfn)).toBe(second);
    }
  });

  it('D3 the id is put on the queue once, however often the request is repeated', () => {
    for (let steps = 0; steps < 12; steps += 1) {
      const rig = new DriverRig({ ringSize: 64, rangesPerReport: 3 });
      const id = rig.openSession();
      for (let i = 0; i < steps; i += 1) {
        rig.guestStep();
      }
      rig.forceRequest(REPORT_START);
      rig.settle();
      rig.forceRequest(REPORT_START);
      rig.settle();
      expect(rig.ring(), `after ${steps} steps`).toEqual([id, 'range', 'range', 'range', 0]);
    }
  });
});

describe('D5, D6 the end of a report', () => {
  it('D5 supplying stops when the host stops, at whatever point that is', () => {
    for (let steps = 0; steps < 16; steps += 1) {
      const rig = new DriverRig({ ringSize: 64, rangesPerReport: 8 });
      rig.openSession();
      for (let i = 0; i < steps; i += 1) {
        rig.guestStep();
      }
      const supplied = rig.report.counts.ranges;
      rig.closeSession();
      rig.settle();
      expect(rig.report.counts.ranges, `after ${steps} steps`).toBe(supplied);
      expect(rig.ring().filter((entry) => entry === 0)).toHaveLength(rig.ring().length > 0 ? 1 : 0);
    }
  });

  it('D5 an id that reads 0 supplies nothing', () => {
    const rig = new DriverRig({ ringSize: 64 });
    rig.forceRequest(REPORT_START);
    rig.guestRuns();
    expect(rig.port.exits).toContain(`read ${isVirtio() ? 'free_page_hint_cmd_id' : 'cmd_id_reg'} = 0`);
    expect(rig.ring()).toEqual([]);
  });

  it.each(['walk', 'hold'] as const)('D6 out of free pages: 0 ends the session, %s', (reportMode) => {
    const machine = Machine.boot({ reportMode, free: [[300, 1]] });
    machine.guest!.allocator.allocate(0);
    const history = machine.watchRing();
    const id = machine.device.openSession(new Collector(), 0);
    machine.settle();
    expect(history.words).toEqual([id, 0]);
    expect(machine.device.session.state).toBe(HintState.done);
  });
});

describe('D7 a hinted page may be released at any time', () => {
  it('D7 even before its descriptor is used', () => {
    const machine = Machine.boot({
      reportMode: 'hold',
      workload: { kind: 'pressure', pagesPerSecond: 100_000 },
    });
    const migration = new TestMigration(machine, { ...WAIT, maxRounds: 4 });
    migration.until(() => migration.count('session-issued') === 1);
    // The guest alone: it reports all that it holds, and runs out of memory before the host looks at any of it.
    let most = 0;
    while (most === 0 || machine.heldPages === most) {
      machine.step();
      machine.clock.now += 0.1;
      most = Math.max(most, machine.heldPages);
    }
    expect(machine.device.session.counts.ranges).toBe(0);
    migration.run();
    expect(migration.source.accounts.hints.applied).toBeGreaterThan(0);
    expect(migration.source.accounts.hints.reDirtied).toBeGreaterThan(0);
    expectSameGuest(migration);
  });
});

describe('D11 a ring that is full', () => {
  it('D11 walk waits up to its deadline, then drops and counts, and the stop sign fits', () => {
    const rig = new DriverRig({ ringSize: 4, rangesPerReport: 20, ringDeadlineMs: 10 });
    const id = rig.openSession();
    rig.guestRuns();
    rig.now = 9.9;
    rig.guestRuns();
    expect(rig.ring()).toEqual([id, 'range', 'range']);
    expect(rig.report.counts).toEqual({ ranges: 2, rangesDropped: 0, pagesDropped: 0 });
    rig.now = 10;
    rig.guestRuns();
    expect(rig.ring()).toEqual([id, 'range', 'range', 0]);
    expect(rig.report.counts).toEqual({ ranges: 2, rangesDropped: 18, pagesDropped: 18 });
    expect(rig.ranges.droppedPages).toBe(18);
    rig.poll();
    expect(rig.device.session.state).toBe(HintState.done);
    expect(rig.applied).toHaveLength(2);
  });

  it('D11 walk drops nothing while the host makes room', () => {
    const rig = new DriverRig({ ringSize: 4, rangesPerReport: 20, ringDeadlineMs: 10 });
    rig.openSession();
    rig.settle();
    expect(rig.report.counts).toEqual({ ranges: 20, rangesDropped: 0, pagesDropped: 0 });
    expect(rig.applied).toHaveLength(20);
  });

  it('D11 hold drops at once', () => {
    const rig = new DriverRig({ ringSize: 4, rangesPerReport: 20, ringDeadlineMs: 10 });
    rig.ranges.waitsForRing = false;
    const id = rig.openSession();
    rig.guestRuns();
    expect(rig.ring()).toEqual([id, 'range', 'range', 0]);
    expect(rig.report.counts).toEqual({ ranges: 2, rangesDropped: 18, pagesDropped: 18 });
    expect(rig.ranges.droppedPages).toBe(18);
  });

  it('D11 hold, in the built-in guest: what it drops is given back, and no page is dropped twice', () => {
    const machine = Machine.boot({ ...FRAGMENTED_GUEST, reportMode: 'hold' });
    machine.device.openSession(new Collector(), 0);
    for (let i = 0; i < 2 * pagesIn(FRAGMENTED); i += 1) {
      machine.step(); // and the host does nothing
    }
    expect(machine.heldPages + machine.freePages).toBe(pagesIn(FRAGMENTED));
    expect(machine.guest!.report.counts.pagesDropped).toBeGreaterThan(0);
    expect(machine.guest!.report.counts.pagesDropped).toBeLessThanOrEqual(pagesIn(FRAGMENTED));
    expect(machine.guest!.report.phase).toBe(0); // it has come to its end, the host looking or not
  });

  it.each([2, 4, 8, 16])('D11 the stop sign always fits, in a ring of %i', (ringSize) => {
    const rig = new DriverRig({ ringSize, rangesPerReport: 40 });
    const id = rig.openSession();
    rig.guestRuns();
    rig.device.registers.requestStop();
    rig.guestRuns();
    expect(rig.ring()).toEqual([id, ...Array(ringSize - 2).fill('range'), 0]);
    expect(rig.report.phase).toBe(0);
  });

  it.each([
    ['walk', true],
    ['walk', false],
    ['hold', true],
    ['hold', false],
  ] as const)('D11 never a deadlock: %s, EVENT_IDX %s', (reportMode, eventIdx) => {
    const machine = Machine.boot({ ...FRAGMENTED_GUEST, reportMode, eventIdx, ringSize: 4 });
    const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 1e6, hintDeadlineMs: 1e6 }).run();
    expectSameGuest(migration);
    expect(migration.source.sessions[0]!.expired).toBe(false);
    expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(1000);
  });
});

describe('V1, V2 the id register', () => {
  it('V1 reads as the stop sign before, between and after sessions', () => {
    const rig = new DriverRig();
    const read = (): number => rig.control.words.load(CMD_ID_REG);
    expect(read()).toBe(0);
    for (let i = 0; i < 3; i += 1) {
      rig.openSession();
      expect(read()).toBe(i + 2);
      rig.closeSession();
      expect(read()).toBe(0);
      rig.settle();
    }
  });

  it('V1 reads as the stop sign at both ends of a completed migration, from before the guest is stopped', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => migration.count('stopping') === 1);
    expect(machine.control.words.load(CMD_ID_REG)).toBe(0);
    migration.run();
    expectSameGuest(migration);
    expect(machine.control.words.load(CMD_ID_REG)).toBe(OVER);
    expect(migration.destination.control.words.load(CMD_ID_REG)).toBe(OVER);
  });

  it.each<SourcePhase>(['sync', 'round', 'fills', 'pausing', 'final-sync', 'final-send', 'ready-wait'])(
    'V1 reads as the stop sign after a cancel in %s',
    (phase) => {
      const machine = Machine.boot();
      const migration = new TestMigration(machine, WAIT);
      migration.until(() => migration.source.phase === phase);
      migration.cancel();
      // No session was opened yet, where it is cancelled at its very beginning: nothing is done with.
      expect(machine.control.words.load(CMD_ID_REG)).toBe(phase === 'sync' ? 0 : OVER);
      expect(machine.device.session.state).toBe(HintState.closed);
    },
  );

  it('V2 an id is not used again, in later sessions or at the next host', () => {
    const machine = Machine.boot();
    const cancelled = new TestMigration(machine, WAIT);
    cancelled.until(() => cancelled.source.phase === 'round');
    cancelled.cancel();
    machine.settle();
    const there = migrated(machine, WAIT);
    const back = migrated(there.destination, WAIT);
    const ids = [cancelled, there, back].flatMap(({ source }) => source.sessions.map(({ id }) => id));
    expect(ids.length).toBeGreaterThanOrEqual(3);
    expect(ids).toEqual(ids.map((_, i) => i + 2));
  });
});

describe('V3, V4 what a hint is good for', () => {
  it('V3 pages under an id that is not current are ignored, by a migration too', () => {
    const { machine, driver } = Machine.bare();
    answering(driver, (id) => {
      driver.marker(id - 1);
      driver.range(gpaOf(100), 20 * PAGE_SIZE); // in use
      driver.marker(0);
    });
    const migration = new TestMigration(machine, WAIT).run();
    expect(migration.source.accounts.hints.hinted).toBe(0);
    expect(machine.device.session.counts.stale).toBe(20);
    expect(expectSameGuest(migration)).toBe(0);
  });

  it('V4 a page that was written after the id was issued and then hinted arrives as it is', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, { ...WAIT, maxRounds: 1 }); // so that it is not hinted again
    let pfn = -1;
    machine.beforeStep = () => {
      if (pfn === -1 && machine.device.session.state === HintState.requested) {
        pfn = machine.allocateAndWrite(9);
        machine.guest!.allocator.release(pfn, 0); // free again before the report begins
      }
    };
    migration.run();
    expect(machine.guest!.allocator.free.test(pfn)).toBe(true);
    expect(migration.source.accounts.hints.applied).toBe(FREE_PAGES);
    expect(migration.source.accounts.hints.reDirtied).toBe(1);
    expect(Buffer.compare(migration.destination.page(pfn), machine.page(pfn))).toBe(0);
    expect(expectSameGuest(migration)).toBe(FREE_PAGES - 1);
  });

  it('V4 a page that was written before the id was issued and then hinted is left behind', () => {
    const machine = Machine.boot();
    const pfn = machine.allocateAndWrite(9);
    machine.guest!.allocator.release(pfn, 0);
    const migration = new TestMigration(machine, WAIT).run();
    expect(expectSameGuest(migration)).toBe(FREE_PAGES);
    expect(migration.destination.page(pfn).every((byte) => byte === 0)).toBe(true);
  });
});

describe('V7 direction and length', () => {
  it('V7 the id in a buffer that the device may write starts nothing', () => {
    const { machine, driver } = Machine.bare();
    const id = machine.device.openSession(new Collector(), 0);
    driver.writableMarker(id);
    machine.device.poll(0, 64);
    expect(machine.device.session.state).toBe(HintState.requested);
  });

  it.each([1, 3, 5, 8, 4096])('V7 the id in a readable buffer of %i bytes starts nothing', (lengthBytes) => {
    const { machine, driver } = Machine.bare();
    const id = machine.device.openSession(new Collector(), 0);
    driver.marker(id, lengthBytes);
    machine.device.poll(0, 64);
    expect(machine.device.session.state).toBe(HintState.requested);
    expect(machine.device.session.counts.rejected).toBe(1);
  });

  it('V7 a free range of 4 bytes is not taken for a marker', () => {
    const { machine, driver, collector } = reporting();
    driver.writableMarker(0);
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.device.poll(0, 64);
    expect(machine.device.session.state).toBe(HintState.reporting);
    expect(collector.pages).toContain(100);
  });

  it('V7 a readable buffer that is no marker is no range either', () => {
    const { machine, driver, collector } = reporting();
    driver.marker(0, PAGE_SIZE);
    machine.device.poll(0, 64);
    expect(collector.pages).toEqual([]);
    expect(machine.device.session.counts.rejected).toBe(1);
    expect(machine.device.session.state).toBe(HintState.reporting);
  });

  it('V7 a start is taken once: the id again ends the session', () => {
    const { machine, driver, collector, id } = reporting();
    driver.marker(id);
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.device.poll(0, 64);
    expect(machine.device.session.state).toBe(HintState.done);
    expect(collector.pages).toEqual([]);
  });
});

describe('V9 what travels with the device state', () => {
  it('V9 registers, ring positions and the counter of ids: hinting goes on at the destination', () => {
    const machine = Machine.boot({ firstId: 40 });
    machine.device.setBalloonTarget(12);
    machine.settle();
    const { destination, source } = migrated(machine, WAIT);
    expect(source.sessions[0]!.id).toBe(40);
    expect(destination.device.upcomingId).toBe(machine.device.upcomingId);
    expect(destination.device.registers.actual).toBe(12);
    expect(destination.device.inflated.count()).toBe(12);
    destination.settle();
    const collector = new Collector();
    expect(destination.device.openSession(collector, destination.clock.now)).toBe(41);
    destination.settle();
    expect(destination.device.session.state).toBe(HintState.done);
    expect(collector.pages).toHaveLength(FREE_PAGES - 12);
    expect(destination.device.session.counts.staleMarkers).toBe(0);
  });

  it('V9 a request that was pending at the source is pending at the destination, and served there', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => machine.paused);
    machine.device.setBalloonTarget(25);
    migration.run();
    const { destination } = migration;
    destination.settle();
    expect(destination.device.registers.actual).toBe(25);
  });

  it('V9 a device that has arrived and was never polled passes on what it was given', () => {
    const machine = Machine.boot();
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    machine.device.closeSession(0);
    machine.settle();
    const { destination } = migrated(machine, { hints: false });
    expect(destination.device.saveState().queues).toEqual(machine.device.saveState().queues);
    const home = migrated(destination, { hints: false }).destination;
    const collector = new Collector();
    home.device.openSession(collector, 0);
    home.settle();
    expect(home.device.fault).toBeUndefined();
    expect(collector.pages).toHaveLength(FREE_PAGES);
  });
});

describe('V10, V11 what an element covers', () => {
  it('V10 every segment of an element counts', () => {
    const { machine, driver } = Machine.bare();
    const { freePageQueue, markersGpa } = driver.metadata;
    const collector = new Collector();
    const id = machine.device.openSession(collector, 0);
    new DataView(machine.memory.segments[0]!.bytes.buffer).setUint32(markersGpa, id, true);
    putChain(machine, freePageQueue, [{ gpa: markersGpa, lengthBytes: 4, writable: false }]);
    putChain(machine, freePageQueue, [
      { gpa: gpaOf(100), lengthBytes: PAGE_SIZE, writable: true },
      { gpa: gpaOf(110), lengthBytes: 2 * PAGE_SIZE, writable: true },
      { gpa: gpaOf(120), lengthBytes: PAGE_SIZE, writable: true },
    ]);
    expect(machine.device.poll(0, 64)).toBe(2);
    expect(collector.pages).toEqual([100, 110, 111, 120]);
  });

  it('V10 a marker and ranges in one element count in their order', () => {
    const { machine, driver } = Machine.bare();
    const { freePageQueue, markersGpa } = driver.metadata;
    const collector = new Collector();
    const id = machine.device.openSession(collector, 0);
    new DataView(machine.memory.segments[0]!.bytes.buffer).setUint32(markersGpa, id, true);
    putChain(machine, freePageQueue, [
      { gpa: markersGpa, lengthBytes: 4, writable: false },
      { gpa: gpaOf(100), lengthBytes: PAGE_SIZE, writable: true },
    ]);
    machine.device.poll(0, 64);
    expect(collector.pages).toEqual([100]);
  });

  it.each([
    ['starts inside a page', 1, 2 * PAGE_SIZE, [301]],
    ['ends inside a page', 0, 2 * PAGE_SIZE + 4095, [300, 301]],
    ['does both', 4095, 2 * PAGE_SIZE + 1, [301, 302]],
    ['is a byte short of a page', 0, PAGE_SIZE - 1, []],
    ['lies across two pages and covers neither', 2048, PAGE_SIZE, []],
  ] as const)('V11 a hint that %s covers only whole pages', (_, offset, lengthBytes, pages) => {
    const { machine, driver } = Machine.bare();
    answering(driver, (id) => {
      for (const pfn of pages) {
        machine.oracle.declared(id, pfn, 1);
      }
      driver.range(gpaOf(300) + offset, lengthBytes);
      driver.marker(0);
    });
    const migration = new TestMigration(machine, WAIT).run();
    expect(migration.source.accounts.hints.applied).toBe(pages.length);
    expect(machine.device.session.counts.rejected).toBe(pages.length === 0 ? 1 : 0);
    expect(expectSameGuest(migration)).toBe(pages.length);
  });
});

describe('V14 what the host writes', () => {
  it('V14 a used ring is logged', () => {
    const { machine, driver } = Machine.bare();
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.log.bitmap.clearAll();
    machine.device.poll(0, 64);
    expect(machine.log.bitmap.test(Math.floor(driver.metadata.freePageQueue.usedGpa / PAGE_SIZE))).toBe(true);
  });

  it('V14 a used ring of several pages: the page of its index is logged, and that of the entry', () => {
    const { machine, driver } = Machine.bare({ ringSize: 1024 });
    const { usedGpa } = driver.metadata.freePageQueue;
    for (let i = 0; i < 600; i += 1) {
      driver.range(gpaOf(100), PAGE_SIZE);
    }
    machine.device.poll(0, 600);
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.log.bitmap.clearAll();
    machine.device.poll(0, 1);
    const pageOf = (gpa: number): number => Math.floor(gpa / PAGE_SIZE);
    expect(pageOf(usedGpa + 4 + 600 * 8)).toBeGreaterThan(pageOf(usedGpa));
    expect(machine.log.bitmap.test(pageOf(usedGpa))).toBe(true);
    expect(machine.log.bitmap.test(pageOf(usedGpa + 4 + 600 * 8))).toBe(true);
  });

  it('V14 a page that is inflated is discarded, and that is logged', () => {
    const machine = Machine.boot();
    machine.settle();
    machine.device.setBalloonTarget(20);
    machine.settle();
    const { inflated } = machine.device;
    expect(inflated.count()).toBe(20);
    for (let pfn = inflated.nextSet(0); pfn < inflated.pageCount; pfn = inflated.nextSet(pfn + 1)) {
      expect(machine.log.bitmap.test(pfn)).toBe(true);
      expect(machine.page(pfn).every((byte) => byte === 0)).toBe(true);
    }
  });

  it('V14 inflated pages are not sent; they are filled, and known at the destination', () => {
    const machine = Machine.boot();
    machine.device.setBalloonTarget(20);
    machine.settle();
    const migration = migrated(machine, { hints: false, zeroDetection: false });
    const { inflated } = machine.device;
    expect(migration.source.sent.filledPages).toBe(20);
    for (let pfn = inflated.nextSet(0); pfn < inflated.pageCount; pfn = inflated.nextSet(pfn + 1)) {
      expect(migration.wasSent(pfn)).toBe(false);
      expect(migration.destination.device.inflated.test(pfn)).toBe(true);
    }
    expect(migration.destination.device.inflated.count()).toBe(20);
  });

  it('V14 a page that is inflated after it was sent is filled at the destination', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 1e4, bytesPerSecond: 20e6 });
    const inflate = (): boolean => machine.device.inflated.count() === 20;
    machine.beforeStep = () => {
      if (migration.source.sent.pages > 300 && !inflate()) {
        machine.device.setBalloonTarget(20);
      }
    };
    migration.run();
    expect(inflate()).toBe(true);
    expectSameGuest(migration);
    expect(migration.source.sent.filledPages).toBeGreaterThanOrEqual(20);
  });

  it('V14 after the final drain nothing of the host lands in RAM any more', () => {
    const { machine, driver } = Machine.bare();
    driver.script = () => {
      if (driver.queue.freeCount > 1) {
        driver.range(gpaOf(100), PAGE_SIZE); // always something in the ring
      }
      return 0.5;
    };
    const migration = new TestMigration(machine, { ...WAIT, hintDeadlineMs: 5 });
    migration.until(() => migration.source.phase === 'final-send');
    const ram = machine.memory.pages(0, 1024).slice();
    migration.until(() => {
      machine.device.poll(machine.clock.now, 64); // whoever it is that looks
      return migration.source.done;
    });
    expect(machine.log.bitmap.count()).toBe(0);
    expect(Buffer.compare(machine.memory.pages(0, 1024), ram)).toBe(0);
    expectSameGuest(migration);
  });

  it('V14 a guest that stops with a full ring: what is left of it is not looked at after the final drain', () => {
    const { machine, driver } = Machine.bare({ ringSize: 4096 });
    const migration = new TestMigration(machine, { ...WAIT, hintDeadlineMs: 5 });
    migration.until(() => migration.source.phase === 'pausing');
    while (driver.queue.freeCount > 1) {
      driver.queue.tryAddInbuf(gpaOf(100), PAGE_SIZE); // more than one poll handles
    }
    driver.publish();
    migration.run();
    expectSameGuest(migration);
    const { device } = migration.destination;
    expect(device.poll(0, 8192)).toBeGreaterThan(2048); // the destination returns them, as stale (V15)
  });
});

describe('V15 what a session at the source leaves in the ring', () => {
  it('V15 is stale at the destination', () => {
    const { machine, driver } = Machine.bare();
    let id = 0;
    answering(driver, (current) => {
      id = current;
    });
    const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 5 });
    migration.until(() => migration.count('stopped') === 1);
    driver.marker(id);
    driver.range(gpaOf(100), 7 * PAGE_SIZE);
    migration.run();
    expectSameGuest(migration);
    const { device } = migration.destination;
    const collector = new Collector();
    device.openSession(collector, 0);
    device.poll(0, 64);
    expect(collector.pages).toEqual([]);
    expect(device.session.state).toBe(HintState.requested);
    expect(device.session.counts.stale).toBe(7);
  });

  it.each(['walk', 'hold'] as const)(
    'V15 a report that the switchover cut short ends at the destination, and none of it counts, %s',
    (reportMode) => {
      const machine = Machine.boot({ ...FRAGMENTED_GUEST, reportMode, ringDeadlineMs: 1e6 });
      const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 5 });
      migration.until(() => migration.count('session-started') === 1);
      machine.actor = undefined; // it hangs in the midst of its report until it has arrived
      migration.run();
      expectSameGuest(migration);
      const { destination } = migration;
      expect(destination.guest!.report.phase).not.toBe(0);
      const history = destination.watchRing();
      const before = history.entries.length;
      destination.settle();
      expect(history.words.slice(before)).toEqual([0]);
      expect(destination.guest!.report.phase).toBe(0);
      expect(destination.heldPages).toBe(0);
      expect(destination.device.session.counts.ranges).toBe(0);
      migrated(destination, WAIT);
    },
  );
});

describe('I6 a driver that does what it likes', () => {
  it('I6 a liar loses its own pages and nothing else', () => {
    const { machine, driver } = Machine.bare();
    answering(driver, () => {
      driver.range(gpaOf(100), 20 * PAGE_SIZE);
      driver.marker(0);
    });
    const migration = new TestMigration(machine, WAIT).run();
    expectSameGuest(migration, { except: (pfn) => pfn >= 100 && pfn < 120 });
    expect(migration.destination.page(100).every((byte) => byte === 0)).toBe(true);
  });

  it.each(['ranges', 'markers', 'ids'] as const)(
    'I6 a flood of %s without end is borne until the deadline',
    (what) => {
      const { machine, driver } = Machine.bare();
      let id = 0;
      driver.script = () => {
        const asked = driver.takeInterrupt() ? driver.takeStart() : 0;
        if (asked !== 0) {
          id = asked;
          driver.marker(id);
        }
        driver.queue.reclaim();
        for (let i = driver.queue.freeCount; i > 1 && id !== 0; i -= 1) {
          if (what === 'ranges') {
            driver.declare(id, 400, 4);
          } else {
            driver.marker(what === 'ids' ? id : 1234);
          }
        }
        return 0;
      };
      const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 50, hintDeadlineMs: 5 }).run();
      expectSameGuest(migration);
      expect(migration.count('session-started')).toBe(1);
      expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(5 + 42 + 5);
    },
  );

  it('I6 a guest that fills the ring as fast as the host empties it can not hold up the close of a session', () => {
    let flood: (() => void) | undefined;
    let looks = 0;
    const deviceMap: WordMapper = {
      ...atomicMapper,
      halfWords: (buffer, at, length) => {
        const words = atomicMapper.halfWords(buffer, at, length);
        return {
          load: (index) => {
            if (index === RING_IDX && flood !== undefined) {
              looks += 1;
              if (looks > 10_000) {
                throw new Error('the host is held up for ever');
              }
              flood();
            }
            return words.load(index);
          },
          store: (index, value) => words.store(index, value),
        };
      },
    };
    const { machine, driver } = Machine.bare({ deviceMap });
    const id = machine.device.openSession(new Collector(), 0);
    driver.marker(id);
    machine.device.poll(0, 64);
    flood = () => {
      driver.queue.reclaim();
      while (driver.queue.freeCount > 1) {
        driver.range(gpaOf(300), PAGE_SIZE);
      }
    };
    expect(() => machine.device.closeSession(0)).not.toThrow();
    expect(machine.device.session.counts.ranges).toBe(0);
  });

  const corruptions: readonly [string, (machine: Machine, driver: HandDriver) => void][] = [
    [
      'an index that is too far ahead',
      (machine, driver) => ring(machine, driver).avail.store(RING_IDX, 1000),
    ],
    [
      'a head out of range',
      (machine, driver) => {
        const { avail, availEntries } = ring(machine, driver);
        availEntries[AVAIL_RING + (avail.load(RING_IDX) & 63)] = 64;
        avail.store(RING_IDX, avail.load(RING_IDX) + 1);
      },
    ],
    ['a buffer outside RAM', (_, driver) => driver.range(2 ** 40, PAGE_SIZE)],
    ['a buffer of no bytes', (_, driver) => driver.range(gpaOf(100), 0)],
  ];

  function ring(machine: Machine, driver: HandDriver): Exclude<ReturnType<typeof mapQueue>, string> {
    const views = mapQueue(machine.memory, atomicMapper, driver.metadata.freePageQueue);
    if (typeof views === 'string') {
      throw new Error(views);
    }
    return views;
  }

  it.each(corruptions)('I6 %s: NEEDS_RESET, and the migration completes', (_, corrupt) => {
    const { machine, driver } = Machine.bare();
    answering(driver, (id) => {
      driver.declare(id, 300, 4);
      corrupt(machine, driver);
    });
    const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 1e6, hintDeadlineMs: 1e6 }).run();
    expect(machine.device.fault).toBeDefined();
    expect(machine.control.words.load(DEVICE_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET).not.toBe(0);
    expectSameGuest(migration);
    expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(100);
  });

  it.each(SCHEDULES)('I6 a ring that is corrupted after the stop sign holds nothing up (%s)', (schedule) => {
    const { machine, driver } = Machine.bare();
    let reported = false;
    driver.script = () => {
      if (driver.takeInterrupt()) {
        const id = driver.takeStart();
        if (id !== 0 && !reported) {
          driver.marker(id);
          driver.declare(id, 300, 4);
          driver.marker(0);
          reported = true;
        }
      } else if (machine.device.session.state === HintState.done) {
        ring(machine, driver).avail.store(RING_IDX, 1000);
      }
      return 0;
    };
    const migration = new TestMigration(machine, { schedule, hintTimeoutMs: 1e6, hintDeadlineMs: 1e6 }).run();
    expect(migration.count('session-done')).toBe(1);
    expect(machine.device.fault?.code).toBe('INDEX_TOO_FAR_AHEAD');
    expectSameGuest(migration);
  });

  it.each([0, 3, -1, 65_536, 2 ** 31 - 1])(
    'I6 a queue of %i entries is refused as data, with nothing allocated for it',
    (size) => {
      for (const queue of [
        VIRTIO_BALLOON_VQ_FREE_PAGE,
        VIRTIO_BALLOON_VQ_INFLATE,
        VIRTIO_BALLOON_VQ_DEFLATE,
      ]) {
        const { machine, driver } = Machine.bare();
        machine.traps.setQueue(queue, { ...driver.metadata.freePageQueue, size });
        const before = process.memoryUsage().arrayBuffers;
        expect(() => machine.device.poll(0, 64)).not.toThrow();
        expect(machine.device.fault?.code).toBe('BAD_ADDRESSES');
        expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024);
      }
    },
  );

  it('I6 inflated pages that are no RAM are counted and refused', () => {
    const { machine, driver } = Machine.bare();
    const { inflateQueue, balloonArrayGpa } = driver.metadata;
    machine.traps.setQueue(VIRTIO_BALLOON_VQ_INFLATE, inflateQueue);
    new Uint32Array(machine.memory.segments[0]!.bytes.buffer).set(
      [300, 5000, 0xffff_ffff],
      balloonArrayGpa / 4,
    );
    putChain(machine, inflateQueue, [{ gpa: balloonArrayGpa, lengthBytes: 12, writable: false }]);
    machine.device.poll(0, 64);
    expect(machine.device.inflated.count()).toBe(1);
    expect(machine.device.rejectedBalloonPages).toBe(2);
    expect(machine.device.fault).toBeUndefined();
  });
});
