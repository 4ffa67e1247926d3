import { describe, expect, it } from 'vitest';
import { ExitFeature, exitsBetween, readExits } from '../../src/balloon/exits.js';
import { HintState } from '../../src/balloon/hint-session.js';
import { encodeStatistics, type GuestStatistics, parseStatistics } from '../../src/balloon/statistics.js';
import {
  CMD_ID_REG,
  DRIVER_FEATURES,
  INTERRUPT_CONFIG,
  INTERRUPTS,
} from '../../src/memory/control-buffer.js';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { resolveOptions } from '../../src/migration/options.js';
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CMD_ID_STOP,
  VIRTIO_BALLOON_CONFIG_ACTUAL,
  VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID,
  VIRTIO_BALLOON_CONFIG_NUM_PAGES,
  VIRTIO_BALLOON_CONFIG_POISON_VAL,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_STATS_VQ,
  VIRTIO_BALLOON_VQ_STATS,
} from '../../src/spec/virtio-balloon.js';
import { DriverQueue } from '../../src/virtqueue/driver-queue.js';
import {
  Collector,
  DEFAULT_FREE,
  DriverRig,
  expectGuestKept,
  expectHealthy,
  expectSameGuest,
  FRAGMENTED,
  FRAGMENTED_GUEST,
  Machine,
  migrated,
  pagesIn,
  readsAs,
  TestMigration,
  useDialect,
} from '../support/machine.js';

/*
 * What VIRTIO's dialect has and the mail's has not. The rows that both have are in hinting.test.ts, cases.test.ts and
 * page-poison.test.ts, which are run in both (…-virtio.test.ts).
 */
useDialect('virtio');

const FREE_PAGES = pagesIn(DEFAULT_FREE);
/** What *hold* takes of them: 256 stay with the guest. */
const HELD_PAGES = FREE_PAGES - 256;
const WAIT = { schedule: 'wait' } as const;
const POISON = 0xaaaa_aaaa;

const idOf = ({ control }: Pick<Machine, 'control'>): number => control.words.load(CMD_ID_REG) >>> 0;

function holding(options: Parameters<typeof Machine.boot>[0] = {}): Machine {
  const machine = Machine.boot({ reportMode: 'hold', ...options });
  machine.settle();
  return machine;
}

describe('the config space (§ 5.5.4)', () => {
  it('has num_pages, actual, free_page_hint_cmd_id and poison_val at 0, 4, 8 and 12', () => {
    const { machine } = Machine.bare();
    const { traps, device } = machine;
    const read = (offset: number): number => traps.readConfig(offset, ExitFeature.other);
    traps.writeConfig(VIRTIO_BALLOON_CONFIG_POISON_VAL, POISON, ExitFeature.setup);
    device.setBalloonTarget(17);
    const id = device.openSession(new Collector(), 0);
    traps.writeConfig(VIRTIO_BALLOON_CONFIG_ACTUAL, 5, ExitFeature.ballooning);
    expect([read(0), read(4), read(8), read(12)]).toEqual([17, 5, id, POISON]);
    expect(device.registers.actual).toBe(5);
    expect([read(16), read(28), read(32), read(-4)]).toEqual([0, 0, 0, 0]);
  });

  it('takes no write to what is the host’s, or to where there is nothing', () => {
    const { machine } = Machine.bare();
    const { traps, device } = machine;
    const id = device.openSession(new Collector(), 0);
    for (const offset of [VIRTIO_BALLOON_CONFIG_NUM_PAGES, VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID, 16]) {
      traps.writeConfig(offset, 99, ExitFeature.other);
    }
    expect(idOf(machine)).toBe(id);
    expect(device.registers).toMatchObject({ actual: 0, unrequestedAcks: 0 });
    expect(traps.readConfig(VIRTIO_BALLOON_CONFIG_NUM_PAGES, ExitFeature.other)).toBe(0);
  });

  it('a config interrupt costs a read of each field that may have changed, and no write', () => {
    const machine = Machine.boot();
    machine.settle();
    const before = readExits(machine.control.words);
    machine.device.openSession(new Collector(), machine.clock.now);
    machine.settle();
    const { shared, reporting, ballooning } = exitsBetween(before, readExits(machine.control.words));
    expect({ shared, reporting: { ...reporting, kicks: 0 }, ballooning }).toEqual({
      shared: { configReads: 0, configWrites: 0, kicks: 0 },
      reporting: { configReads: 1, configWrites: 0, kicks: 0 },
      ballooning: { configReads: 1, configWrites: 0, kicks: 0 },
    });
  });
});

describe('D1 markers', () => {
  it('D1 every outbuf on the free page queue is of exactly 4 bytes, and starts or ends hinting', () => {
    const machine = Machine.boot({ ...FRAGMENTED_GUEST, ringSize: 512 });
    const history = machine.watchRing();
    const id = machine.device.openSession(new Collector(), 0);
    machine.settle();
    const outbufs = history.entries.filter(({ direction }) => direction === 'out');
    expect(outbufs.map(({ lengthBytes, value }) => [lengthBytes, value])).toEqual([
      [4, id],
      [4, VIRTIO_BALLOON_CMD_ID_STOP],
    ]);
  });
});

describe('D4, D5 when pages are supplied', () => {
  it.each([2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff])('D4 an id of %i has them supplied', (id) => {
    const rig = new DriverRig({ ringSize: 64, firstId: id });
    expect(rig.openSession()).toBe(id);
    rig.settle();
    expect(rig.ring()).toEqual([id, 'range', 'range', 0]);
    expect(rig.applied).toHaveLength(2);
  });

  it('D4, D5 neither STOP nor DONE starts anything', () => {
    const rig = new DriverRig({ ringSize: 64 });
    rig.device.registers.requestStop();
    rig.settle();
    rig.device.registers.requestDone();
    rig.settle();
    rig.device.registers.requestStop();
    rig.settle();
    expect(rig.ring()).toEqual([]);
    expect(rig.ranges.begun).toBe(0);
  });

  it.each(['requestStop', 'requestDone'] as const)(
    'D5 supplying stops on %s, wherever the report is, and STOP ends it',
    (request) => {
      for (let steps = 0; steps < 16; steps += 1) {
        const rig = new DriverRig({ ringSize: 64, rangesPerReport: 8 });
        const id = rig.openSession();
        for (let i = 0; i < steps; i += 1) {
          rig.guestStep();
        }
        const supplied = rig.report.counts.ranges;
        rig.device.registers[request]();
        rig.guestRuns();
        expect(rig.report.counts.ranges, `after ${steps} steps`).toBe(supplied);
        const markers = rig.ring().filter((entry) => entry !== 'range');
        expect([[], [id, 0]], `after ${steps} steps`).toContainEqual(markers);
      }
    },
  );
});

describe('D8, D9 what a page holds that was hinted', () => {
  it('D9 one that is released before DONE is written before it is used: with poison, where the guest poisons', () => {
    const machine = holding({ pagePoison: POISON });
    const { held, allocator } = machine.guest!;
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    machine.device.closeSession(0);
    machine.settle();
    expect(machine.heldPages).toBe(HELD_PAGES); // STOP releases nothing
    for (let pfn = held.nextSet(0); pfn < held.pageCount; pfn = held.nextSet(pfn + 1)) {
      machine.page(pfn).fill(0x5a); // the device alters it, as it may until DONE
    }
    const free = allocator.freePages;
    machine.log.bitmap.clearAll();
    for (let i = 0; i < free + 40; i += 1) {
      takeUnderPressure(machine);
    }
    expect(machine.heldPages).toBeLessThan(HELD_PAGES);
    expect(machine.heldPages).toBeGreaterThan(0);
    // Every page that the allocator has, or has handed out, was written by the guest since.
    const pages = [...allPages(machine)].filter((pfn) => allocator.free.test(pfn));
    expect(pages.filter((pfn) => !readsAs(machine.page(pfn), POISON))).toEqual([]);
    expect(pages.length).toBeGreaterThan(0);
    expect(pages.filter((pfn) => !machine.log.bitmap.test(pfn))).toEqual([]);
    expect(machine.guest!.saveRegisters().poisonFailures).toEqual({ pages: 0, firstPfn: -1 });
  });

  it.each([
    ['as it is', {}],
    ['zeroed when it is allocated', { initOnAlloc: true }],
  ])('D8, D9 a guest that takes pages %s finds nothing of what the device made of them', (_, options) => {
    const machine = holding(options);
    const { held } = machine.guest!;
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    for (let pfn = held.nextSet(0); pfn < held.pageCount; pfn = held.nextSet(pfn + 1)) {
      machine.page(pfn).fill(0x5a);
    }
    for (let i = 0; i < FREE_PAGES; i += 1) {
      takeUnderPressure(machine);
    }
    expect(machine.heldPages).toBe(0);
    expectHealthy(machine);
  });

  it('D9 after DONE nothing needs to be written: what comes back holds its poison', () => {
    const machine = holding({ pagePoison: POISON });
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    machine.log.bitmap.clearAll();
    machine.device.closeSession(0);
    machine.device.showDone();
    machine.settle();
    expect(machine.heldPages).toBe(0);
    const free = [...allPages(machine)].filter((pfn) => machine.guest!.allocator.free.test(pfn));
    expect(free.filter((pfn) => machine.log.bitmap.test(pfn))).toEqual([]);
    expectHealthy(machine);
  });
});

describe('D10 DONE', () => {
  it('D10 everything that was held is released on DONE, and nothing on STOP', () => {
    const machine = holding();
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    expect(machine.heldPages).toBe(HELD_PAGES);
    machine.device.closeSession(0);
    machine.settle();
    expect(machine.heldPages).toBe(HELD_PAGES);
    machine.device.showDone();
    machine.settle();
    expect({ held: machine.heldPages, free: machine.freePages }).toEqual({ held: 0, free: FREE_PAGES });
    expect(machine.guest!.allocator.inconsistency()).toBeUndefined();
  });

  it('D10 in the midst of a report, what it had taken and not put on the ring included', () => {
    for (let steps = 1; steps < 12; steps += 1) {
      const machine = holding({ ...FRAGMENTED_GUEST });
      machine.device.openSession(new Collector(), 0);
      for (let i = 0; i < steps; i += 1) {
        machine.step();
      }
      machine.device.closeSession(0);
      machine.device.showDone();
      machine.settle();
      expect({ held: machine.heldPages, free: machine.freePages }, `after ${steps} steps`).toEqual({
        held: 0,
        free: pagesIn(FRAGMENTED),
      });
    }
  });

  it('D10 of several sessions, of which the later hint only what is not held already', () => {
    const machine = holding();
    const [first, second] = [new Collector(), new Collector()];
    machine.device.openSession(first, 0);
    machine.settle();
    machine.device.closeSession(0);
    machine.guest!.allocator.release(100, 0); // one page more
    machine.device.openSession(second, 0);
    machine.settle();
    expect(first.pages).toHaveLength(HELD_PAGES);
    expect(second.pages).toEqual([]); // fewer than the guest keeps for itself are left
    machine.device.closeSession(0);
    machine.device.showDone();
    machine.settle();
    expect(machine.freePages).toBe(FREE_PAGES + 1);
  });

  it('D10 that was overtaken by the next id comes later, with all of it', () => {
    const machine = holding();
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    machine.device.closeSession(0);
    machine.device.showDone();
    const id = machine.device.openSession(new Collector(), 0); // before the guest has looked
    machine.settle();
    expect(machine.device.session).toMatchObject({ id, state: HintState.done });
    expect(machine.heldPages).toBe(HELD_PAGES);
    machine.device.closeSession(0);
    machine.device.showDone();
    machine.settle();
    expect(machine.freePages).toBe(FREE_PAGES);
  });
});

describe('V5, V6 when DONE is shown', () => {
  it('V6 on completion: with the device state, and not before the guest stands still', () => {
    const machine = holding();
    const ids: number[] = [];
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => {
      if (ids.at(-1) !== idOf(machine)) {
        ids.push(idOf(machine));
      }
      expect(idOf(machine) === VIRTIO_BALLOON_CMD_ID_DONE && !machine.paused).toBe(false);
      return migration.arrived !== undefined;
    });
    const { sessions } = migration.source;
    expect(ids).toEqual([0, ...sessions.flatMap(({ id }) => [id, 0]), VIRTIO_BALLOON_CMD_ID_DONE]);
    migration.run();
    expect(expectSameGuest(migration)).toBe(HELD_PAGES);
    const { destination } = migration;
    expect(destination.heldPages).toBe(HELD_PAGES);
    destination.settle();
    expect({ held: destination.heldPages, free: destination.freePages }).toEqual({
      held: 0,
      free: FREE_PAGES,
    });
    expectHealthy(destination);
  });

  it.each(['round', 'fills', 'pausing', 'final-sync', 'final-send', 'ready-wait'] as const)(
    'V6 on a cancel in %s, and the guest has all of its memory',
    (phase) => {
      const machine = holding();
      const migration = new TestMigration(machine, WAIT);
      migration.until(() => migration.source.phase === phase);
      migration.cancel();
      expect(idOf(machine)).toBe(VIRTIO_BALLOON_CMD_ID_DONE);
      expectGuestKept(migration, FREE_PAGES);
    },
  );

  it('V6 on a failure, the last moment included', () => {
    for (const faults of [{ refuseState: true }, { failToStart: true }]) {
      const machine = holding();
      const migration = new TestMigration(machine, WAIT, faults).run();
      expect(migration.source.phase).toBe('failed');
      expect(idOf(machine)).toBe(VIRTIO_BALLOON_CMD_ID_DONE);
      expectGuestKept(migration, FREE_PAGES);
    }
  });

  it('V6 not by a migration that asked for no hints', () => {
    const machine = holding();
    machine.control.words.exchange(INTERRUPTS, 0);
    migrated(machine, { hints: false });
    expect(idOf(machine)).toBe(VIRTIO_BALLOON_CMD_ID_STOP);
    expect(machine.control.words.load(INTERRUPTS) & INTERRUPT_CONFIG).toBe(0);
  });

  it('V5 a guest that goes on in the middle of its migration has not been told, and is told at its end', () => {
    const machine = holding();
    machine.device.openSession(new Collector(), 0);
    machine.settle();
    machine.device.closeSession(0);
    machine.device.freeze();
    expect(idOf(machine)).toBe(VIRTIO_BALLOON_CMD_ID_DONE);
    machine.device.unfreeze(); // the link broke, and the migration goes on later
    machine.settle();
    expect(idOf(machine)).toBe(VIRTIO_BALLOON_CMD_ID_STOP);
    expect(machine.heldPages).toBe(HELD_PAGES);
    machine.device.freeze();
    machine.device.unfreeze();
    machine.migrationEnds();
    machine.settle();
    expect(machine.heldPages).toBe(0);
  });

  it('V5 no page of the guest is altered by its host from DONE on', () => {
    const machine = holding({ pagePoison: POISON });
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => idOf(machine) === VIRTIO_BALLOON_CMD_ID_DONE);
    const before = machine.memory.segments.map(({ bytes }) => bytes.slice());
    migration.run();
    machine.memory.segments.forEach(({ bytes }, i) => {
      expect(Buffer.compare(bytes, before[i]!)).toBe(0);
    });
    const there = migration.destination.memory.segments.map(({ bytes }) => bytes.slice());
    migration.destination.device.poll(0, 64);
    migration.destination.memory.segments.forEach(({ bytes }, i) => {
      const pages = [...allPages(migration.destination)].filter((pfn) =>
        migration.destination.guest!.held.test(pfn),
      );
      for (const pfn of pages) {
        const at = pfn * PAGE_SIZE;
        expect(
          Buffer.compare(bytes.subarray(at, at + PAGE_SIZE), there[i]!.subarray(at, at + PAGE_SIZE)),
        ).toBe(0);
      }
    });
  });
});

describe('V8 a config interrupt for another reason', () => {
  it.each(['walk', 'hold'] as const)(
    'V8 a balloon resize in mid-session does not end it, %s',
    (reportMode) => {
      const machine = Machine.boot({ ...FRAGMENTED_GUEST, reportMode, ringDeadlineMs: 1e6 });
      const history = machine.watchRing();
      const collector = new Collector();
      const id = machine.device.openSession(collector, machine.clock.now);
      machine.step();
      machine.device.setBalloonTarget(9);
      expect(idOf(machine)).toBe(id);
      machine.step();
      expect(machine.device.session.state).not.toBe(HintState.done);
      machine.settle();
      expect(machine.device.session).toMatchObject({ id, state: HintState.done });
      expect(history.words.filter((word) => word !== 'range')).toEqual([id, 0]);
      expect(machine.device.registers.actual).toBe(9);
      expect(collector.pages.length).toBeGreaterThan(reportMode === 'walk' ? 600 : 100);
    },
  );

  it('V8 in a migration: it arrives whole, and its balloon goes on', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => migration.count('session-started') === 1);
    machine.device.setBalloonTarget(60);
    migration.run();
    expectSameGuest(migration);
    expect(migration.count('session-done')).toBe(migration.source.sessions.length);
    migration.destination.settle();
    expect(migration.destination.device.registers.actual).toBe(60);
  });
});

describe('V9 what travels', () => {
  it('V9 DONE that the guest has not seen: it gives its blocks back at the destination', () => {
    const machine = holding();
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => migration.count('session-done') === 1);
    machine.actor = undefined; // it hears nothing any more before it is stopped
    migration.run();
    const { destination } = migration;
    expect(idOf(destination)).toBe(VIRTIO_BALLOON_CMD_ID_DONE);
    expect(destination.heldPages).toBe(HELD_PAGES);
    destination.settle();
    expect(destination.freePages).toBe(FREE_PAGES);
    expect(destination.pending).toBe(0);
    const onwards = migrated(destination, WAIT);
    expect(onwards.source.sessions[0]!.id).toBe(migration.source.sessions.at(-1)!.id + 1);
    onwards.destination.settle();
    expect(onwards.destination.freePages).toBe(FREE_PAGES);
  });

  it('V9 the dialect itself', () => {
    const { destination } = migrated(Machine.boot(), WAIT);
    expect(destination.device.registers.dialect).toBe('virtio');
    expect(destination.guest!.saveRegisters().config.dialect).toBe('virtio');
  });
});

describe('V12 a reset in mid-session', () => {
  it('V12 closes it; the migration goes on without those hints, and ids go on', () => {
    const { machine, driver } = Machine.bare();
    let id = 0;
    driver.script = () => {
      if (driver.takeInterrupt() && id === 0) {
        id = driver.takeStart();
        driver.marker(id);
        driver.declare(id, 300, 8);
      }
      return 1;
    };
    const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 5 });
    migration.until(() => migration.source.accounts.hints.applied === 8);
    machine.device.reset();
    expect(machine.device.session.state).toBe(HintState.closed);
    expect(idOf(machine)).toBe(VIRTIO_BALLOON_CMD_ID_STOP);
    driver.range(gpaOf(400), PAGE_SIZE); // of the driver that is gone
    driver.write(301, 0x11); // and what comes after it uses its pages
    migration.run();
    expect(migration.source.phase).toBe('completed');
    expectSameGuest(migration);
    expect(migration.source.accounts.hints.applied).toBe(8);
    expect(migration.source.sessions.map((session) => session.id)).toEqual(
      migration.source.sessions.map((_, i) => id + i),
    );
    expect(machine.device.upcomingId).toBe(id + migration.source.sessions.length);
  });

  it('V12 a balloon in the midst of a migration is RAM again, and arrives as what it reads', () => {
    const machine = Machine.boot();
    machine.device.setBalloonTarget(30);
    machine.settle();
    const migration = new TestMigration(machine, { ...WAIT, maxRounds: 4 });
    migration.until(() => migration.source.phase === 'fills');
    const inflated = [...allPages(machine)].filter((pfn) => machine.device.inflated.test(pfn));
    expect(inflated).toHaveLength(30);
    machine.actor = undefined; // its driver is gone
    machine.device.reset();
    const [first = -1] = inflated;
    machine.page(first).fill(0x22);
    machine.oracle.stampWrite(first);
    machine.log.mark(first);
    migration.run();
    expect(migration.source.phase).toBe('completed');
    for (const pfn of inflated) {
      expect(Buffer.compare(machine.page(pfn), migration.destination.page(pfn))).toBe(0);
    }
  });
});

describe('V13 the statistics queue', () => {
  it('V13 is always offered, and the built-in guest takes it', () => {
    const machine = Machine.boot();
    const { words } = machine.control;
    const accepted =
      (1 << VIRTIO_BALLOON_F_MUST_TELL_HOST) |
      (1 << VIRTIO_BALLOON_F_STATS_VQ) |
      (1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    expect(words.load(DRIVER_FEATURES)).toBe(accepted);
    const { machine: bare } = Machine.bare();
    bare.traps.driverOk(0xffff_ffff);
    expect(bare.control.words.load(DRIVER_FEATURES)).toBe(accepted | (1 << VIRTIO_BALLOON_F_PAGE_POISON));
  });

  it('V13 and a driver that leaves it alone hints on queue 3 all the same', () => {
    const { machine, driver } = Machine.bare();
    machine.traps.driverOk(1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    const collector = new Collector();
    driver.marker(machine.device.openSession(collector, 0));
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.device.poll(0, 64);
    expect(collector.pages).toEqual([100]);
    expect(machine.device.requestStatistics()).toBe(false);
    expect(machine.device.statistics).toBeUndefined();
  });
});

describe('statistics (§ 5.5.6.3)', () => {
  const current = (machine: Machine): GuestStatistics => ({
    freeBytes: machine.freePages * PAGE_SIZE,
    totalBytes: 1024 * PAGE_SIZE,
    availableBytes: (machine.freePages + machine.heldPages) * PAGE_SIZE,
  });

  it.each([true, false])(
    'the guest says once what it has, and again when it is asked (EVENT_IDX %s)',
    (eventIdx) => {
      const machine = Machine.boot({ eventIdx, reportMode: 'hold' });
      machine.settle();
      const first = current(machine);
      expect(machine.device.statistics).toEqual(first);
      machine.guest!.allocator.allocate(3);
      machine.settle();
      expect(machine.device.statistics).toEqual(first);
      for (let i = 0; i < 20; i += 1) {
        machine.guest!.allocator.allocate(0);
        expect(machine.device.requestStatistics()).toBe(true);
        expect(machine.device.requestStatistics()).toBe(false); // it is asked already
        machine.settle();
        expect(machine.device.statistics).toEqual(current(machine));
      }
      machine.device.openSession(new Collector(), 0);
      machine.settle();
      machine.device.requestStatistics();
      machine.settle();
      expect(machine.heldPages).toBeGreaterThan(0);
      expect(machine.device.statistics).toEqual(current(machine));
      expect(first.freeBytes).toBe(first.availableBytes);
    },
  );

  it('travel: the buffer that is kept at the source is kept at the destination, and asked for there', () => {
    const machine = Machine.boot();
    machine.settle();
    const { destination } = migrated(machine, WAIT);
    destination.settle();
    expect(destination.device.statistics).toEqual(machine.device.statistics);
    destination.guest!.allocator.allocate(0);
    expect(destination.device.requestStatistics()).toBe(true);
    destination.settle();
    expect(destination.device.statistics).toEqual(current(destination));
    const home = migrated(destination, WAIT).destination; // and once more
    home.settle();
    home.guest!.allocator.allocate(0);
    expect(home.device.requestStatistics()).toBe(true);
    home.settle();
    expect(home.device.statistics).toEqual(current(home));
  });

  it('are not asked for of a guest that stands still: the host writes nothing then (V14)', () => {
    const machine = Machine.boot();
    machine.settle();
    machine.device.freeze();
    expect(machine.device.requestStatistics()).toBe(false);
    machine.device.unfreeze();
    expect(machine.device.requestStatistics()).toBe(true);
  });

  /** A queue of statistics whose driver is the test. */
  function statisticsByHand(): { machine: Machine; put: (gpa: number, lengthBytes: number) => DriverQueue } {
    const { machine, driver } = Machine.bare();
    const { statisticsQueue } = driver.metadata;
    machine.traps.setQueue(VIRTIO_BALLOON_VQ_STATS, statisticsQueue);
    const queue = new DriverQueue(machine.memory, atomicMapper, machine.log, statisticsQueue, true);
    const put = (gpa: number, lengthBytes: number): DriverQueue => {
      queue.tryAddOutbuf(gpa, lengthBytes);
      queue.publish();
      machine.device.poll(0, 64);
      return queue;
    };
    return { machine, put };
  }

  it('a buffer as large as memory is not read to its end', () => {
    const { machine, put } = statisticsByHand();
    machine.memory.segments[0]!.bytes.fill(0, 0, 4096);
    encodeStatistics({ freeBytes: 5 }, new DataView(machine.page(0).buffer), 0);
    put(0, 1024 * PAGE_SIZE);
    expect(machine.device.fault).toBeUndefined();
    expect(Object.keys(machine.device.statistics!)).not.toHaveLength(0);
  });

  it('a driver that puts more than one buffer there gets all but the last back', () => {
    const { machine, put } = statisticsByHand();
    encodeStatistics({ freeBytes: 5 }, new DataView(machine.page(0).buffer), 0);
    encodeStatistics({ freeBytes: 6 }, new DataView(machine.page(1).buffer, PAGE_SIZE), 0);
    put(0, 10);
    const queue = put(PAGE_SIZE, 10);
    expect(machine.device.statistics).toEqual({ freeBytes: 6 });
    expect(queue.reclaim()).toBe(1);
    expect(machine.device.armNotifications()).toBe(false); // the host can sleep
  });

  it('a corrupt queue is a fault like any other', () => {
    const { machine, put } = statisticsByHand();
    put(2 ** 40, 10);
    expect(machine.device.fault?.code).toBe('OUT_OF_RAM');
    expect(machine.device.requestStatistics()).toBe(false);
  });

  it('parses tags in any order, passes over those it does not know, and over values that count nothing', () => {
    const record = (tag: number, low: number, high = 0): number[] => {
      const bytes = new Uint8Array(10);
      const view = new DataView(bytes.buffer);
      view.setUint16(0, tag, true);
      view.setUint32(2, low, true);
      view.setUint32(6, high, true);
      return [...bytes];
    };
    const parse = (...bytes: number[][]): GuestStatistics => parseStatistics(Uint8Array.from(bytes.flat()));
    expect(parse(record(5, 8), record(4, 7), record(700, 1), record(10, 1))).toEqual({
      freeBytes: 7,
      totalBytes: 8,
    });
    expect(parse(record(0, 0xffff_ffff, 0x1f_ffff))).toEqual({ swappedInBytes: Number.MAX_SAFE_INTEGER });
    expect(parse(record(0, 0, 0x20_0000))).toEqual({}); // 2^53
    expect(parse(record(6, 0xffff_ffff, 0xffff_ffff), record(7, 3))).toEqual({ cachesBytes: 3 });
    expect(parse(record(4, 1), record(4, 2))).toEqual({ freeBytes: 2 });
    expect(parse(record(4, 1), record(5, 2).slice(0, 9))).toEqual({ freeBytes: 1 });
    expect(parse()).toEqual({});
  });

  it('encodes what it parses', () => {
    const all: GuestStatistics = {
      swappedInBytes: 1,
      swappedOutBytes: 2 ** 32,
      majorFaults: 3,
      minorFaults: 4,
      freeBytes: 2 ** 53 - 1,
      totalBytes: 2 ** 40 + 5,
      availableBytes: 0,
      cachesBytes: 8,
      hugePageAllocations: 9,
      hugePageFailures: 10,
    };
    const bytes = new Uint8Array(200);
    const length = encodeStatistics(all, new DataView(bytes.buffer), 7);
    expect(length).toBe(100);
    expect(parseStatistics(bytes.subarray(7, 107))).toEqual(all);
  });
});

describe('V16 postcopy', () => {
  it('V16 is refused in words, with hints and without', () => {
    for (const hints of [true, false]) {
      expect(() => resolveOptions({ hints, postcopy: true })).toThrowError(
        expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringMatching(/postcopy/) }),
      );
    }
    expect(resolveOptions({ postcopy: false }).postcopy).toBe(false);
  });
});

function allPages({ memory }: Machine): Iterable<number> {
  return Array.from({ length: memory.layout.pfnSpan }, (_, pfn) => pfn).values();
}

/** The guest takes a page and writes it, one that is held if there is no other. */
function takeUnderPressure(machine: Machine): void {
  const pfn = machine.guest!.allocate(0);
  expect(pfn, 'no page is left').not.toBe(-1);
  machine.write(pfn, 7);
}
