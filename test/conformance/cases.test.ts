import { describe, expect, it } from 'vitest';
import { HintState } from '../../src/balloon/hint-session.js';
import type { WorkloadSpec } from '../../src/guest/workload.js';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import type { MigrationOptions } from '../../src/migration/options.js';
import { REPORT_START, REPORT_STOP } from '../../src/spec/command-register.js';
import {
  Collector,
  DEFAULT_FREE,
  DriverRig,
  expectGuestKept,
  expectHealthy,
  expectSameGuest,
  type HandDriver,
  isVirtio,
  Machine,
  migrated,
  pagesIn,
  TestMigration,
} from '../support/machine.js';

/** What free pages hold before anyone uses them: a version like any other, so that it can be written again. */
const OLD_DATA_VERSION = 0x0100_0000;
const FREE_PAGES = pagesIn(DEFAULT_FREE);
const WAIT = { schedule: 'wait' } as const;

describe('T1 an old id replayed after stop', () => {
  it('T1 restarts no session at the host', () => {
    const { machine, driver } = Machine.bare();
    const { device } = machine;
    const collector = new Collector();
    const id = device.openSession(collector, 0);
    driver.marker(id);
    device.poll(0, 64);
    device.closeSession(0);
    driver.marker(id);
    driver.range(gpaOf(100), PAGE_SIZE);
    device.poll(0, 64);
    expect(device.session.state).toBe(HintState.closed);
    device.openSession(collector, 0);
    driver.marker(id);
    driver.range(gpaOf(101), PAGE_SIZE);
    device.poll(0, 64);
    expect(device.session.state).toBe(HintState.requested);
    expect(collector.pages).toEqual([]);
  });

  it('T1 restarts no report of the driver', () => {
    const rig = new DriverRig({ ringSize: 64 });
    const id = rig.openSession();
    rig.settle();
    const ring = rig.ring();
    rig.forceRequest(REPORT_START); // the register still holds the id
    rig.settle();
    expect(rig.ring()).toEqual(ring);
    rig.closeSession();
    rig.settle();
    rig.device.registers.requestReport(id);
    rig.settle();
    expect(rig.ring()).toEqual(ring);
  });
});

describe('T2 start and stop race', () => {
  type Turn = 'guest' | 'host' | 'poll';

  /** Plays a sequence, lets both come to rest, and checks all that must hold whatever the sequence was. */
  function play(turns: readonly Turn[]): void {
    const rig = new DriverRig({ ringSize: 4, rangesPerReport: 2, pages: 24 });
    const ids: number[] = [];
    for (const turn of turns) {
      if (turn === 'guest') {
        rig.guestStep();
      } else if (turn === 'poll') {
        rig.poll(1);
      } else if (rig.open) {
        rig.closeSession();
      } else {
        ids.push(rig.openSession());
      }
    }
    rig.settle();
    const facts = {
      // I4: no hint counts under another id than its own.
      wrong: rig.applied.filter(({ pfn, sessionId }) => rig.declaredUnder.get(pfn) !== sessionId),
      pending: rig.pending,
      phase: rig.report.phase,
      state: rig.device.session.state,
      // The last session, if it is still open, is complete: nothing of it was lost.
      appliedToOpen: rig.applied.filter(({ sessionId }) => sessionId === ids.at(-1)).length,
      markers: rig.ring().filter((entry) => entry !== 'range'),
    };
    const isOpen = rig.open;
    if (
      facts.wrong.length > 0 ||
      facts.pending !== 0 ||
      facts.phase !== 0 ||
      (isOpen && (facts.state !== HintState.done || facts.appliedToOpen !== 2)) ||
      !eachIdOnceAndEnded(facts.markers, ids)
    ) {
      expect.fail(`${turns.join(' ')}: ${JSON.stringify(facts)}`);
    }
  }

  /** Markers are id, 0, id, 0, …, each id one that was issued and no id twice (D3). */
  function eachIdOnceAndEnded(markers: readonly (number | 'range')[], ids: readonly number[]): boolean {
    const shown = markers.filter((_, i) => i % 2 === 0);
    return (
      markers.length % 2 === 0 &&
      markers.every((marker, i) => i % 2 === 0 || marker === 0) &&
      new Set(shown).size === shown.length &&
      shown.every((id) => id !== 'range' && ids.includes(id))
    );
  }

  it('T2 every order of guest steps, opens and closes, and polls up to a length of nine', () => {
    const turns: readonly Turn[] = ['guest', 'host', 'poll'];
    const explore = (sequence: Turn[], left: number): void => {
      if (left === 0) {
        play(sequence);
        return;
      }
      for (const turn of turns) {
        explore([...sequence, turn], left - 1);
      }
    };
    explore(['host'], 8); // before the first open there is nothing to race with
  });

  it('T2 four opens and closes at any distances, with and without a poll in between', () => {
    const distances = [0, 1, 2, 3, 4, 5, 6, 8];
    for (const a of distances) {
      for (const b of distances) {
        for (const c of distances) {
          for (const polls of [0, 1, 3]) {
            const between = (guestSteps: number): Turn[] => [
              ...Array<Turn>(guestSteps).fill('guest'),
              ...Array<Turn>(polls).fill('poll'),
            ];
            play([
              'host',
              ...between(a),
              'host',
              ...between(b),
              'host',
              ...between(c),
              'host',
              'guest',
              'host',
            ]);
          }
        }
      }
    }
  });
});

describe.each(['walk', 'hold'] as const)(
  'T3 after cancel or failure the guest has all its memory back, %s',
  (reportMode) => {
    it('T3 cancelled in the midst of a report', () => {
      const machine = Machine.boot({ reportMode });
      const migration = new TestMigration(machine, WAIT);
      migration.until(() => migration.count('session-started') === 1);
      migration.cancel();
      expectGuestKept(migration, FREE_PAGES);
    });

    it('T3 failed at the very end', () => {
      const machine = Machine.boot({ reportMode });
      const migration = new TestMigration(machine, WAIT, { failToStart: true }).run();
      expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
      expectGuestKept(migration, FREE_PAGES);
    });

    it('T3 and can be migrated again', () => {
      const machine = Machine.boot({ reportMode });
      const first = new TestMigration(machine, WAIT);
      first.until(() => first.count('session-done') === 1);
      first.cancel();
      machine.settle();
      const second = migrated(machine, WAIT);
      expect(second.source.sessions[0]!.id).toBe(first.source.sessions.at(-1)!.id + 1);
      expect(second.source.accounts.hints.applied).toBe(
        reportMode === 'walk' ? FREE_PAGES : FREE_PAGES - 256,
      );
    });
  },
);

describe('T4 a skipped page', () => {
  const rounds = { workload: { kind: 'dirty', bytesPerSecond: 40e6, workingSetBytes: 400_000 } } as const;

  it('T4 is not sent in any round unless it is written', () => {
    const machine = Machine.boot(rounds);
    const migration = migrated(machine, { ...WAIT, maxRounds: 5 });
    expect(migration.source.rounds.length).toBeGreaterThan(3);
    expect(migration.source.accounts.skipped.count()).toBe(FREE_PAGES);
    for (const [pfn, pageCount] of DEFAULT_FREE) {
      for (let page = pfn; page < pfn + pageCount; page += 1) {
        expect(migration.wasSent(page)).toBe(false);
      }
    }
  });

  it('T4 is sent once it is written', () => {
    const machine = Machine.boot(rounds);
    const migration = new TestMigration(machine, { ...WAIT, maxRounds: 5 });
    migration.until(() => migration.count('session-done') === 1);
    const pfn = machine.allocateAndWrite(7);
    expect(migration.source.accounts.skipped.test(pfn)).toBe(true);
    migration.run();
    expect(migration.wasSent(pfn)).toBe(true);
    expect(migration.source.accounts.hints.reDirtied).toBe(1);
    expect(expectSameGuest(migration)).toBe(FREE_PAGES - 1);
  });
});

describe('T5 between two polls', () => {
  it('T5 a session that is started and done in one go is seen, with all of its hints', () => {
    const machine = Machine.boot();
    const collector = new Collector();
    machine.device.openSession(collector, 5);
    for (let i = 0; i < 10; i += 1) {
      machine.step();
    }
    expect(machine.device.session.state).toBe(HintState.requested);
    machine.device.poll(7, 64);
    expect(machine.device.session.state).toBe(HintState.done);
    expect(machine.device.session.times).toEqual({
      requestedAt: 5,
      startedAt: 7,
      firstRangeAt: 7,
      doneAt: 7,
    });
    expect(collector.pages).toHaveLength(FREE_PAGES);
  });

  it('T5 and the migration tells of its start and of its end', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    machine.beforeStep = () => {
      if (machine.device.session.state === HintState.requested) {
        machine.beforeStep = undefined;
        for (let i = 0; i < 10; i += 1) {
          machine.step();
        }
      }
    };
    migration.run();
    const told = migration.events.map(({ type }) => type).filter((type) => type.startsWith('session'));
    expect(told.slice(0, 3)).toEqual(['session-issued', 'session-started', 'session-done']);
    const { requestedAt, startedAt, doneAt } = migration.source.sessions[0]!;
    expect(startedAt).toBe(doneAt);
    expect(startedAt).toBeGreaterThanOrEqual(requestedAt);
    expect(expectSameGuest(migration)).toBe(FREE_PAGES);
  });
});

describe('T6 a stopped guest', () => {
  it('T6 nothing on the queues is handled while the device is frozen, and nothing is lost', () => {
    const { machine, driver } = Machine.bare();
    const collector = new Collector();
    const id = machine.device.openSession(collector, 0);
    driver.marker(id);
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.device.freeze();
    machine.log.bitmap.clearAll();
    expect(machine.device.poll(0, 64)).toBe(0);
    machine.device.suppressNotifications();
    expect(machine.device.armNotifications()).toBe(false);
    expect(collector.pages).toEqual([]);
    expect(machine.log.bitmap.count()).toBe(0);
    machine.device.unfreeze();
    expect(machine.device.poll(0, 64)).toBe(2);
    expect(collector.pages).toEqual([100]);
  });

  it('T6 from the moment the guest has stopped no hint is handled', () => {
    const { machine, driver } = Machine.bare();
    const migration = new TestMigration(machine, { ...WAIT, hintTimeoutMs: 5 });
    migration.until(() => migration.count('stopped') === 1);
    driver.marker(machine.device.upcomingId - 1);
    driver.range(gpaOf(100), PAGE_SIZE);
    migration.run();
    expectSameGuest(migration);
    expect(machine.device.session.counts).toEqual({ ranges: 0, stale: 0, rejected: 0, staleMarkers: 0 });
  });

  it('T6 no session is opened while the guest is stopped (I4)', () => {
    const machine = Machine.boot();
    machine.requestPause();
    const migration = new TestMigration(machine, WAIT).run();
    expect(migration.source.sessions).toEqual([]);
    expectSameGuest(migration);
  });
});

describe('T7 hinted, reused, and rewritten with the old bytes', () => {
  it('T7 the page goes out in the next round and arrives', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => migration.count('session-done') === 1);
    const { accounts } = migration.source;
    const pfn = machine.guest!.allocator.allocate(0);
    const before = machine.page(pfn).slice();
    expect(accounts.skipped.test(pfn)).toBe(true);
    machine.write(pfn, OLD_DATA_VERSION);
    expect(Buffer.compare(machine.page(pfn), before)).toBe(0);
    const sentBefore = migration.frames.length;
    migration.until(() => migration.source.rounds.length === 2);
    expect(accounts.send.test(pfn)).toBe(true);
    migration.run();
    expect(migration.wasSent(pfn, sentBefore)).toBe(true);
    expect(Buffer.compare(migration.destination.page(pfn), before)).toBe(0);
    expectSameGuest(migration);
  });

  it('T7 under memory pressure, out of what hold had taken', () => {
    const machine = Machine.boot({
      reportMode: 'hold',
      workload: { kind: 'pressure', pagesPerSecond: 40_000 },
    });
    const migration = new TestMigration(machine, { ...WAIT, maxRounds: 6 });
    migration.until(() => migration.count('session-done') === 1);
    const held = machine.heldPages;
    migration.until(() => machine.heldPages < held); // it has taken some back by itself
    migration.run();
    expectSameGuest(migration);
    expect(migration.source.accounts.hints.reDirtied).toBeGreaterThan(0);
  });
});

describe("T8 Firecracker's list", () => {
  const start = (): { machine: Machine; driver: HandDriver; collector: Collector } => ({
    ...Machine.bare(),
    collector: new Collector(),
  });

  it('T8 no id set: a range without any session is stale', () => {
    const { machine, driver } = start();
    driver.range(gpaOf(100), 2 * PAGE_SIZE);
    expect(machine.device.poll(0, 64)).toBe(1);
    expect(machine.device.session.counts.stale).toBe(2);
    expect(driver.readId()).toBe(0);
  });

  it('T8 the normal path', () => {
    const { machine, driver, collector } = start();
    machine.device.openSession(collector, 0);
    driver.marker(driver.takeStart());
    driver.range(gpaOf(100), 2 * PAGE_SIZE);
    driver.range(gpaOf(120), PAGE_SIZE);
    driver.marker(0);
    expect(machine.device.poll(0, 64)).toBe(4);
    expect(collector.pages).toEqual([100, 101, 120]);
    expect(machine.device.session.state).toBe(HintState.done);
    expect(machine.device.session.counts).toEqual({ ranges: 2, stale: 0, rejected: 0, staleMarkers: 0 });
  });

  it('T8 an invalid id starts nothing', () => {
    const { machine, driver, collector } = start();
    const id = machine.device.openSession(collector, 0);
    for (const wrong of [0, 1, id + 1, id - 1, 0xffff_ffff]) {
      driver.marker(wrong);
      driver.range(gpaOf(100), PAGE_SIZE);
    }
    machine.device.poll(0, 64);
    expect(collector.pages).toEqual([]);
    expect(machine.device.session.counts).toEqual({ ranges: 0, stale: 5, rejected: 0, staleMarkers: 5 });
    expect(machine.device.session.state).toBe(HintState.requested);
  });

  it('T8 stale in flight: what is in the ring when the session is closed is returned unread', () => {
    const { machine, driver, collector } = start();
    const id = machine.device.openSession(collector, 0);
    driver.marker(id);
    machine.device.poll(0, 64);
    driver.range(gpaOf(100), 3 * PAGE_SIZE);
    machine.device.closeSession(0);
    expect(collector.pages).toEqual([]);
    expect(machine.device.session.counts.stale).toBe(3);
    driver.queue.reclaim();
    expect(driver.queue.idle).toBe(true);
  });

  it('T8 stale after stop: what is put on the ring later counts no more', () => {
    const { machine, driver, collector } = start();
    const id = machine.device.openSession(collector, 0);
    driver.marker(id);
    machine.device.poll(0, 64);
    machine.device.closeSession(0);
    driver.range(gpaOf(100), 3 * PAGE_SIZE);
    driver.marker(0);
    machine.device.poll(0, 64);
    expect(collector.pages).toEqual([]);
    expect(machine.device.session.counts.stale).toBe(3);
  });

  it('T8 no acknowledgement of a stop: nothing waits for it, and the next session is as good as any', () => {
    const { machine, driver, collector } = start();
    driver.marker(machine.device.openSession(new Collector(), 0));
    machine.device.poll(0, 64);
    machine.device.closeSession(0);
    if (!isVirtio()) {
      expect(machine.pending & REPORT_STOP).toBe(REPORT_STOP);
    }
    const id = machine.device.openSession(collector, 0);
    driver.marker(id);
    driver.range(gpaOf(100), PAGE_SIZE);
    machine.device.poll(0, 64);
    expect(collector.pages).toEqual([100]);
  });

  it('T8 a misaligned range covers the whole pages within it', () => {
    const { machine, driver } = Machine.bare();
    driver.script = () => {
      const id = driver.takeInterrupt() ? driver.takeStart() : 0;
      if (id !== 0) {
        driver.marker(id);
        machine.oracle.declared(id, 301, 2);
        driver.range(gpaOf(300) + 1, 3 * PAGE_SIZE);
        driver.range(gpaOf(310) + 8, PAGE_SIZE); // holds no whole page
        driver.marker(0);
      }
      return Number.POSITIVE_INFINITY;
    };
    const migration = new TestMigration(machine, WAIT).run();
    expect(expectSameGuest(migration)).toBe(2);
    expect(machine.device.session.counts).toMatchObject({ ranges: 1, rejected: 1 });
  });
});

describe('I7 what arrives is the guest', () => {
  const workloads: readonly WorkloadSpec[] = [
    { kind: 'idle', pagesPerSecond: 5000 },
    { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 20 },
    { kind: 'pressure', pagesPerSecond: 20_000 },
  ];
  const cases = (['walk', 'hold'] as const).flatMap((reportMode) =>
    (['wait', 'overlap', 'adaptive'] as const).flatMap((schedule) =>
      workloads.map((workload, i) => ({ reportMode, schedule, workload, privateMemory: i % 2 === 0 })),
    ),
  );

  it.each(cases)('I7 $reportMode, $schedule, $workload.kind', ({ schedule, ...machineOptions }) => {
    const options: Partial<MigrationOptions> = { schedule, downtimeLimitMs: 2 };
    const machine = Machine.boot(machineOptions);
    const migration = migrated(machine, options);
    expect(migration.source.accounts.hints.applied).toBeGreaterThan(0);
    const { destination } = migration;
    destination.run(30);
    expectHealthy(destination);
    expect(destination.heldPages).toBe(0);
    const home = migrated(destination, options);
    home.destination.run(10);
    expectHealthy(home.destination);
  });

  it('I7 a page that was sent, then freed and hinted, does not come back to life: it is filled', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, { schedule: 'wait', maxRounds: 3 });
    let pfn = -1;
    machine.beforeStep = () => {
      if (pfn === -1) {
        pfn = machine.allocateAndWrite(5); // before the first report: so it is sent
      } else if (migration.source.rounds.length === 2 && machine.guest!.allocator.free.test(pfn) === false) {
        machine.write(pfn, 6);
        machine.guest!.allocator.release(pfn, 0);
      }
      for (let page = 64; page < 180; page += 1) {
        machine.write(page, 8); // enough to make a report in later rounds worth its while
      }
    };
    migration.until(() => migration.source.rounds.length === 3 || migration.source.done);
    machine.beforeStep = undefined;
    migration.run();
    expect(migration.wasSent(pfn)).toBe(true);
    expectSameGuest(migration);
    expect(migration.source.sent.filledPages).toBeGreaterThan(0);
    expect(migration.destination.page(pfn).every((byte) => byte === 0)).toBe(true);
  });
});
