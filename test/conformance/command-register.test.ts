import { describe, expect, it } from 'vitest';
import type { CommandFeature } from '../../src/balloon/command-driver.js';
import { ExitFeature, type ExitTable, exitsBetween, readExits } from '../../src/balloon/exits.js';
import { HintState } from '../../src/balloon/hint-session.js';
import {
  CMD_ID_REG,
  CMD_REG,
  INTERRUPT_CONFIG,
  INTERRUPTS,
  NUM_PAGES,
} from '../../src/memory/control-buffer.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { atomicMapper, type SharedWords, type WordMapper } from '../../src/memory/shared-words.js';
import {
  BALLOONING,
  CMD_ID_REG_OFFSET,
  CMD_REG_OFFSET,
  LAST_COMMAND_ID,
  NUM_PAGES_OFFSET,
  REPORT_START,
  REPORT_STOP,
} from '../../src/spec/command-register.js';
import {
  Collector,
  DEFAULT_FREE,
  DriverRig,
  expectGuestKept,
  expectSameGuest,
  FRAGMENTED,
  FRAGMENTED_GUEST,
  Machine,
  pagesIn,
  TestMigration,
} from '../support/machine.js';

/** A bit that no feature of the mail has. */
const FUTURE_BIT = 8;
const FREE_PAGES = pagesIn(DEFAULT_FREE);
/** What *hold* takes of them: all but the 256 pages that it leaves to the guest. */
const HELD_PAGES = FREE_PAGES - 256;
const NO_EXITS = { configReads: 0, configWrites: 0, kicks: 0 };

/** The exits that `action`, and all that guest and device make of it, cost. */
function exitsOf(machine: Machine, action: () => void): ExitTable {
  const before = readExits(machine.control.words);
  action();
  machine.settle();
  return exitsBetween(before, readExits(machine.control.words));
}

/** A guest whose kicks are never suppressed, at rest. */
function machineAtRest(options: Parameters<typeof Machine.boot>[0] = {}): Machine {
  const machine = Machine.boot({ eventIdx: false, ...options });
  machine.settle();
  return machine;
}

describe('C1 the host requests reporting', () => {
  it('C1 sets REPORT_START and the id, raises the config interrupt, and leaves other bits as they were', () => {
    const rig = new DriverRig();
    rig.control.words.store(CMD_REG, BALLOONING | FUTURE_BIT);
    const id = rig.openSession();
    expect(rig.pending).toBe(BALLOONING | FUTURE_BIT | REPORT_START);
    expect(rig.control.words.load(CMD_ID_REG)).toBe(id);
    expect(rig.control.words.load(INTERRUPTS)).toBe(INTERRUPT_CONFIG);
  });

  it('C1 shows the id before the bit, and the bit before the interrupt', () => {
    const changes: string[] = [];
    const rig = new DriverRig({ map: watching([CMD_REG, CMD_ID_REG, INTERRUPTS], changes) });
    changes.length = 0;
    rig.openSession();
    expect(changes).toEqual([`${CMD_ID_REG} = 2`, `${CMD_REG} = ${REPORT_START}`, `${INTERRUPTS} = 1`]);
  });
});

describe('C2 a write is an acknowledgement', () => {
  it('C2 clears the bits in it that are pending, and those only', () => {
    const rig = new DriverRig();
    rig.control.words.store(CMD_REG, REPORT_START | REPORT_STOP | BALLOONING);
    rig.port.writeConfig(CMD_REG_OFFSET, REPORT_START | BALLOONING, ExitFeature.shared);
    expect(rig.pending).toBe(REPORT_STOP);
  });

  it('C2 the driver acknowledges only bits that it handles', () => {
    const rig = new DriverRig();
    rig.forceRequest(FUTURE_BIT);
    rig.openSession();
    rig.guestRuns();
    expect(rig.pending).toBe(FUTURE_BIT);
    expect(rig.port.exits).toContain(`write cmd_reg = ${REPORT_START}`);
  });

  it('C2 a bit that is set between the read and the acknowledgement survives and is served', () => {
    const rig = new DriverRig();
    rig.openSession();
    rig.guestStep(); // reads the register
    rig.device.setBalloonTarget(77);
    rig.guestStep(); // acknowledges
    expect(rig.pending).toBe(BALLOONING);
    rig.guestRuns();
    expect(rig.pending).toBe(0);
    expect(rig.targets).toEqual([77]);
  });

  it('C2 acknowledges first and reads the parameters then', () => {
    const rig = new DriverRig();
    rig.openSession();
    rig.device.setBalloonTarget(5);
    rig.guestRuns();
    expect(rig.port.exits.slice(0, 4)).toEqual([
      `read cmd_reg = ${REPORT_START | BALLOONING}`,
      `write cmd_reg = ${REPORT_START | BALLOONING}`,
      'read cmd_id_reg = 2',
      'read num_pages = 5',
    ]);
  });

  it('C2 a request that follows the acknowledgement is not erased by it', () => {
    const rig = new DriverRig({ ringSize: 64 });
    rig.openSession();
    rig.guestStep(); // reads
    rig.guestStep(); // acknowledges the first request
    rig.closeSession();
    const id = rig.openSession();
    expect(rig.pending).toBe(REPORT_START);
    rig.settle();
    expect(rig.device.session.state).toBe(HintState.done);
    expect(rig.ring()).toEqual([id, 'range', 'range', 0]);
  });
});

describe('C3 an acknowledgement of what was not requested', () => {
  it('C3 changes nothing and is counted', () => {
    const rig = new DriverRig();
    rig.control.words.store(CMD_REG, REPORT_STOP);
    rig.port.writeConfig(CMD_REG_OFFSET, BALLOONING, ExitFeature.shared);
    expect(rig.pending).toBe(REPORT_STOP);
    expect(rig.device.registers.unrequestedAcks).toBe(1);
  });

  it('C3 beside one that was: that one counts', () => {
    const rig = new DriverRig();
    rig.control.words.store(CMD_REG, REPORT_STOP);
    rig.port.writeConfig(CMD_REG_OFFSET, REPORT_STOP | REPORT_START, ExitFeature.shared);
    expect(rig.pending).toBe(0);
    expect(rig.device.registers.unrequestedAcks).toBe(1);
  });

  it("C3 writes to the host's own registers change nothing either", () => {
    const rig = new DriverRig();
    const id = rig.openSession();
    rig.device.setBalloonTarget(3);
    rig.port.writeConfig(CMD_ID_REG_OFFSET, 99, ExitFeature.other);
    rig.port.writeConfig(NUM_PAGES_OFFSET, 99, ExitFeature.other);
    expect(rig.port.readConfig(CMD_ID_REG_OFFSET, ExitFeature.other)).toBe(id);
    expect(rig.control.words.load(NUM_PAGES)).toBe(3);
    expect(rig.device.registers.unrequestedAcks).toBe(0);
  });

  it('C3 a well-behaved driver never makes one', () => {
    const rig = new DriverRig();
    for (let i = 0; i < 5; i += 1) {
      rig.openSession();
      rig.settle();
      rig.closeSession();
      rig.settle();
    }
    expect(rig.device.registers.unrequestedAcks).toBe(0);
  });
});

describe('C4 registers are read only when they are asked for', () => {
  const SHARED_ONCE = { configReads: 1, configWrites: 1, kicks: 0 };

  it('C4 a report costs the shared read and acknowledgement, a read of the id, and its kicks', () => {
    const machine = machineAtRest();
    const exits = exitsOf(machine, () => machine.device.openSession(new Collector(), machine.clock.now));
    expect(exits).toEqual({
      setup: NO_EXITS,
      shared: SHARED_ONCE,
      reporting: { configReads: 1, configWrites: 0, kicks: 3 }, // the id, the ranges, the stop sign
      ballooning: NO_EXITS,
      other: NO_EXITS,
    });
  });

  it('C4 a balloon request causes no read of cmd_id_reg', () => {
    const machine = machineAtRest();
    const exits = exitsOf(machine, () => machine.device.setBalloonTarget(10));
    expect(exits).toEqual({
      setup: NO_EXITS,
      shared: SHARED_ONCE,
      reporting: NO_EXITS,
      ballooning: { configReads: 1, configWrites: 1, kicks: 1 }, // num_pages, actual, a chunk
      other: NO_EXITS,
    });
  });

  it('C4 a stop reads no register but cmd_reg', () => {
    const machine = machineAtRest();
    exitsOf(machine, () => machine.device.openSession(new Collector(), machine.clock.now));
    const exits = exitsOf(machine, () => machine.device.closeSession(machine.clock.now));
    expect(exits).toEqual({
      setup: NO_EXITS,
      shared: SHARED_ONCE,
      reporting: NO_EXITS,
      ballooning: NO_EXITS,
      other: NO_EXITS,
    });
  });

  it('C4 two requests that are pending together share one read and one acknowledgement', () => {
    const machine = machineAtRest();
    const exits = exitsOf(machine, () => {
      machine.device.openSession(new Collector(), machine.clock.now);
      machine.device.setBalloonTarget(10);
    });
    expect(exits.shared).toEqual(SHARED_ONCE);
    expect(exits.reporting.configReads).toBe(1);
    expect(exits.ballooning.configReads).toBe(1);
  });

  it('C4 a config interrupt that asks for nothing costs one read', () => {
    const machine = machineAtRest();
    const exits = exitsOf(machine, () => machine.control.interrupt(INTERRUPT_CONFIG));
    expect(exits.shared).toEqual({ configReads: 1, configWrites: 0, kicks: 0 });
    expect(exits.reporting).toEqual(NO_EXITS);
    expect(exits.ballooning).toEqual(NO_EXITS);
  });
});

describe('C5 the order on the queue', () => {
  it('C5 the id as a 4-byte outbuf, each free range as an inbuf, 0 as a 4-byte outbuf', () => {
    const machine = machineAtRest();
    const history = machine.watchRing();
    const collector = new Collector();
    const id = machine.device.openSession(collector, machine.clock.now);
    machine.settle();
    const outbuf = { direction: 'out', lengthBytes: 4, gpa: expect.any(Number) };
    expect(history.entries).toEqual([
      { ...outbuf, value: id },
      ...DEFAULT_FREE.map(([pfn, pageCount]) => ({
        direction: 'in',
        gpa: pfn * PAGE_SIZE,
        lengthBytes: pageCount * PAGE_SIZE,
        value: -1,
      })),
      { ...outbuf, value: 0 },
    ]);
    expect(collector.pages).toHaveLength(FREE_PAGES);
  });

  it('C5 nothing is on the queue before the acknowledgement', () => {
    const rig = new DriverRig({ ringSize: 64 });
    rig.openSession();
    while (rig.pending !== 0) {
      expect(rig.ring()).toEqual([]);
      rig.guestStep();
    }
    rig.guestRuns();
    expect(rig.ring()[0]).toBe(2);
  });
});

describe('C6 after 0', () => {
  it('C6 nothing is sent before it, nothing is waited for after it, and what goes is what is not free', () => {
    const machine = Machine.boot(FRAGMENTED_GUEST);
    const migration = new TestMigration(machine, { schedule: 'wait', hintTimeoutMs: 5000 });
    let firstFrameAt = Number.NaN;
    migration.tap.onFrame = () => {
      expect(migration.count('session-done')).toBeGreaterThan(0);
      firstFrameAt = Number.isNaN(firstFrameAt) ? machine.clock.now : firstFrameAt;
    };
    migration.run();
    const session = migration.source.sessions[0]!;
    expect(firstFrameAt - session.doneAt).toBeLessThan(0.1);
    expect(session.doneAt).toBeGreaterThan(session.requestedAt);
    expect(expectSameGuest(migration)).toBe(pagesIn(FRAGMENTED));
    expect(migration.source.sent.pages).toBeLessThan(2048 - pagesIn(FRAGMENTED) + 64);
    for (const [pfn] of FRAGMENTED) {
      expect(migration.wasSent(pfn)).toBe(false);
    }
  });
});

describe('C7 a stop ends a report early', () => {
  it('C7 it is acknowledged, no range follows, and 0 still does', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 20 });
    const id = rig.openSession();
    while (rig.applied.length < 3) {
      rig.guestStep();
      rig.poll();
    }
    rig.closeSession();
    expect(rig.pending).toBe(REPORT_STOP);
    expect(rig.control.words.load(CMD_ID_REG)).toBe(0);
    rig.guestRuns();
    expect(rig.pending).toBe(0);
    expect(rig.ring()).toEqual([id, 'range', 'range', 'range', 0]);
    rig.poll();
    expect(rig.applied).toHaveLength(3);
  });

  it('C7 in the built-in guest: a report that a small ring holds up ends within a slice', () => {
    const machine = machineAtRest(FRAGMENTED_GUEST);
    machine.device.openSession(new Collector(), machine.clock.now);
    machine.step();
    machine.step();
    const { ranges } = machine.guest!.report.counts;
    expect(ranges).toBeGreaterThan(0);
    machine.device.closeSession(machine.clock.now);
    machine.settle();
    expect(machine.guest!.report.counts.ranges).toBe(ranges);
    expect(machine.guest!.report.phase).toBe(0);
    expect(machine.device.session.counts.staleMarkers).toBe(2); // the id and 0, both read after the close
  });
});

describe('C8 start and stop together', () => {
  it('C8 a stop before the guest has looked: no report, both acknowledged', () => {
    const rig = new DriverRig();
    rig.openSession();
    rig.closeSession();
    expect(rig.pending).toBe(REPORT_START | REPORT_STOP);
    rig.guestRuns();
    expect(rig.pending).toBe(0);
    expect(rig.ring()).toEqual([]);
    expect(rig.device.registers.unrequestedAcks).toBe(0);
  });

  it('C8 a stop after the guest has read cmd_reg, before it has acknowledged', () => {
    const rig = new DriverRig();
    rig.openSession();
    rig.guestStep();
    rig.closeSession();
    rig.guestRuns();
    expect(rig.pending).toBe(0);
    expect(rig.ring()).toEqual([]);
  });

  it('C8 a stop between the acknowledgement and the read of the id: the id reads as the stop sign', () => {
    const rig = new DriverRig();
    rig.openSession();
    rig.guestStep();
    rig.guestStep();
    rig.closeSession();
    rig.guestRuns();
    expect(rig.port.exits).toContain('read cmd_id_reg = 0');
    expect(rig.ring()).toEqual([]);
  });

  it('C8 a start right after a stop: the old report ends with 0, the new one is complete', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 3 });
    const first = rig.openSession();
    while (rig.applied.length < 1) {
      rig.guestStep();
      rig.poll();
    }
    rig.closeSession();
    const second = rig.openSession();
    rig.settle();
    expect(rig.ring()).toEqual([first, 'range', 0, second, 'range', 'range', 'range', 0]);
    expect(rig.device.session.state).toBe(HintState.done);
    expect(rig.applied.map(({ pfn, sessionId }) => [rig.declaredUnder.get(pfn), sessionId])).toEqual([
      [first, first],
      [second, second],
      [second, second],
      [second, second],
    ]);
  });

  it('C8 a start withdraws a stop that was not acknowledged, so that it is not taken for one of its own', () => {
    const rig = new DriverRig();
    rig.openSession();
    rig.settle();
    rig.closeSession();
    rig.openSession();
    expect(rig.pending).toBe(REPORT_START);
  });

  it('C8 two stops in a row: the second one ends nothing more and adds no second 0', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 9 });
    rig.openSession();
    rig.guestRuns();
    rig.closeSession();
    rig.guestRuns();
    const ring = rig.ring();
    rig.device.registers.requestStop();
    expect(rig.pending).toBe(REPORT_STOP);
    rig.guestRuns();
    expect(rig.pending).toBe(0);
    expect(rig.ring()).toEqual(ring);
    expect(rig.device.registers.unrequestedAcks).toBe(0);
  });

  it('C8 two stops before the guest looks: one acknowledgement for both', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 9 });
    rig.openSession();
    for (let i = 0; i < 5; i += 1) {
      rig.guestStep();
    }
    rig.port.exits.length = 0;
    rig.device.registers.requestStop();
    rig.device.registers.requestStop();
    rig.guestRuns();
    expect(rig.port.exits.filter((exit) => exit.startsWith('write'))).toEqual([
      `write cmd_reg = ${REPORT_STOP}`,
    ]);
    expect(rig.ring().at(-1)).toBe(0);
    expect(rig.ring().filter((entry) => entry === 0)).toHaveLength(1);
  });

  it('C8 both bits in one interrupt: the old report ends, then the register says what is next', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 2 });
    const first = rig.openSession();
    while (!rig.ring().includes('range')) {
      rig.guestStep();
    }
    rig.port.exits.length = 0;
    rig.control.words.store(CMD_ID_REG, 99);
    rig.forceRequest(REPORT_START | REPORT_STOP);
    rig.guestRuns();
    expect(rig.ring()).toEqual([first, 'range', 0, 99, 'range', 'range', 0]);
    expect(rig.port.exits.slice(0, 3)).toEqual([
      `read cmd_reg = ${REPORT_START | REPORT_STOP}`,
      `write cmd_reg = ${REPORT_START | REPORT_STOP}`,
      'read cmd_id_reg = 99',
    ]);
  });

  it('C8 both bits in one interrupt and 0 in the register: the old report ends and none begins', () => {
    const rig = new DriverRig({ ringSize: 64, rangesPerReport: 5 });
    const first = rig.openSession();
    while (!rig.ring().includes('range')) {
      rig.guestStep();
    }
    rig.control.words.store(CMD_ID_REG, 0);
    rig.forceRequest(REPORT_START | REPORT_STOP);
    rig.guestRuns();
    expect(rig.ring()).toEqual([first, 'range', 0]);
  });
});

describe('C9 ids', () => {
  it('C9 no report has the id of another, and none is 0 or 1', () => {
    const rig = new DriverRig();
    const ids = Array.from({ length: 6 }, () => {
      const id = rig.openSession();
      rig.settle();
      rig.closeSession();
      rig.settle();
      return id;
    });
    expect(ids).toEqual([2, 3, 4, 5, 6, 7]);
  });

  it('C9 the counter wraps past 0 and 1, and reports go on across the wrap', () => {
    const rig = new DriverRig({ ringSize: 64, firstId: LAST_COMMAND_ID - 1 });
    const ids = Array.from({ length: 4 }, () => {
      const id = rig.openSession();
      rig.settle();
      expect(rig.device.session.state).toBe(HintState.done);
      rig.closeSession();
      rig.settle();
      return id;
    });
    expect(ids).toEqual([LAST_COMMAND_ID - 1, LAST_COMMAND_ID, 2, 3]);
    expect(rig.ring().filter((entry) => entry !== 'range' && entry !== 0)).toEqual(ids);
    expect(rig.applied).toHaveLength(8);
    for (const { pfn, sessionId } of rig.applied) {
      expect(rig.declaredUnder.get(pfn)).toBe(sessionId);
    }
  });

  it('C9 the guest reads ids as unsigned', () => {
    const { machine, driver } = Machine.bare({ firstId: LAST_COMMAND_ID });
    machine.device.openSession(new Collector(), 0);
    expect(driver.takeStart()).toBe(LAST_COMMAND_ID);
  });

  it('C9 a range under an old id is never applied, whatever stands around it', () => {
    const { machine, driver } = Machine.bare();
    const collector = new Collector();
    const { device } = machine;
    const oldId = device.openSession(new Collector(), 0);
    driver.marker(oldId);
    driver.range(100 * PAGE_SIZE, PAGE_SIZE);
    device.poll(0, 64);
    device.closeSession(0);
    const newId = device.openSession(collector, 0);
    driver.range(101 * PAGE_SIZE, PAGE_SIZE); // goes on as if nothing had happened
    driver.marker(0);
    driver.marker(oldId);
    driver.range(102 * PAGE_SIZE, PAGE_SIZE);
    driver.marker(0);
    device.poll(0, 64);
    expect(collector.pages).toEqual([]);
    expect(device.session.counts.stale).toBe(2);
    driver.marker(newId);
    driver.range(103 * PAGE_SIZE, PAGE_SIZE);
    driver.marker(oldId); // ends what counts
    driver.range(104 * PAGE_SIZE, PAGE_SIZE);
    driver.marker(newId); // and the session's own id does not open it again
    driver.range(105 * PAGE_SIZE, PAGE_SIZE);
    device.poll(0, 64);
    expect(collector.pages).toEqual([103]);
  });
});

describe.each(['walk', 'hold'] as const)('C10 ballooning, %s', (reportMode) => {
  it('C10 inflates to a larger target, deflates to a smaller one, and writes actual', () => {
    const machine = machineAtRest({ reportMode });
    const state = () => ({
      actual: machine.device.registers.actual,
      inflated: machine.device.inflated.count(),
      ballooned: machine.guest!.ballooned.count(),
      free: machine.freePages,
    });
    machine.device.setBalloonTarget(300); // more than a chunk of 256
    machine.settle();
    expect(state()).toEqual({ actual: 300, inflated: 300, ballooned: 300, free: FREE_PAGES - 300 });
    machine.device.setBalloonTarget(20);
    machine.settle();
    expect(state()).toEqual({ actual: 20, inflated: 20, ballooned: 20, free: FREE_PAGES - 20 });
    machine.device.setBalloonTarget(0);
    machine.settle();
    expect(state()).toEqual({ actual: 0, inflated: 0, ballooned: 0, free: FREE_PAGES });
    expect(machine.guest!.selfCheck().badPfn).toBe(-1);
  });

  it('C10 says what it has when it can not give all that is asked for', () => {
    const machine = machineAtRest({ reportMode });
    machine.device.setBalloonTarget(5000);
    machine.settle();
    expect(machine.device.registers.actual).toBe(HELD_PAGES); // 256 stay with the guest
    expect(machine.pending).toBe(0);
  });

  it.each([
    ['inflate', 0, 60],
    ['deflate', 60, 5],
  ] as const)('C10 %s with a report under way: both come to their end', (_, from, to) => {
    const machine = machineAtRest({ reportMode, ...FRAGMENTED_GUEST });
    machine.device.setBalloonTarget(from);
    machine.settle();
    const collector = new Collector();
    machine.device.openSession(collector, machine.clock.now);
    machine.step();
    machine.device.poll(machine.clock.now, 4);
    expect(machine.device.session.state).toBe(HintState.reporting);
    machine.device.setBalloonTarget(to);
    machine.settle();
    expect(machine.device.registers.actual).toBe(to);
    expect(machine.device.session.state).toBe(HintState.done);
    expect(collector.pages.length).toBeGreaterThan(100);
    expect(machine.pending).toBe(0);
  });

  it('C10 a resize while the guest is migrated and reports: it arrives whole, and its balloon goes on', () => {
    const machine = Machine.boot({ reportMode, ...FRAGMENTED_GUEST });
    machine.device.setBalloonTarget(30);
    machine.settle();
    const migration = new TestMigration(machine, { schedule: 'wait' });
    migration.until(() => migration.count('session-started') === 1);
    machine.device.setBalloonTarget(90);
    migration.run();
    expect(expectSameGuest(migration)).toBeGreaterThan(0);
    migration.destination.settle();
    expect(migration.destination.device.registers.actual).toBe(90);
    expect(migration.destination.device.inflated.count()).toBe(90);
    migration.destination.device.setBalloonTarget(0);
    migration.destination.settle();
    expect(migration.destination.freePages).toBe(pagesIn(FRAGMENTED));
  });

  it('C10 a resize is served while a migration without hints is under way', () => {
    const machine = Machine.boot({ reportMode });
    const migration = new TestMigration(machine, { hints: false, bytesPerSecond: 5e6 });
    migration.until(() => migration.count('round') === 1);
    machine.device.setBalloonTarget(30);
    migration.until(() => migration.source.rounds.length === 2);
    expect(machine.device.registers.actual).toBe(30);
  });
});

describe('C11 a feature more', () => {
  const feature = (served: number[][]): CommandFeature => ({
    name: 'FUTURE',
    bit: FUTURE_BIT,
    registers: [16, 20],
    exitFeature: ExitFeature.other,
    requested: (values) => served.push([...values]),
  });

  const request = {
    start: (rig: DriverRig) => rig.openSession(),
    stop: (rig: DriverRig) => rig.device.registers.requestStop(),
    balloon: (rig: DriverRig) => rig.device.setBalloonTarget(9),
  };

  it.each(Object.keys(request) as (keyof typeof request)[])(
    'C11 costs a %s request no extra exit',
    (name) => {
      const exits = (features: CommandFeature[]): ExitTable => {
        const rig = new DriverRig({ features });
        const before = readExits(rig.control.words);
        request[name](rig);
        rig.settle();
        return exitsBetween(before, readExits(rig.control.words));
      };
      const served: number[][] = [];
      const withIt = exits([feature(served)]);
      expect(withIt).toEqual(exits([]));
      expect(withIt.shared).toEqual({ configReads: 1, configWrites: 1, kicks: 0 });
      expect(withIt.other).toEqual(NO_EXITS);
      expect(served).toEqual([]);
    },
  );

  it('C11 and is served by the same read and acknowledgement when it is asked for', () => {
    const served: number[][] = [];
    const rig = new DriverRig({ features: [feature(served)] });
    const before = readExits(rig.control.words);
    rig.forceRequest(FUTURE_BIT);
    rig.settle();
    const exits = exitsBetween(before, readExits(rig.control.words));
    expect(served).toEqual([[0, 0]]);
    expect(exits.shared).toEqual({ configReads: 1, configWrites: 1, kicks: 0 });
    expect(exits.other).toEqual({ configReads: 2, configWrites: 0, kicks: 0 });
    expect(exits.reporting).toEqual(NO_EXITS);
    expect(rig.pending).toBe(0);
  });
});

describe('C12 a guest that does not answer in time', () => {
  const SLOW = { bytesPerSecond: 5e6, hintTimeoutMs: 100, hintDeadlineMs: 300 } as const;

  it.each(['wait', 'overlap', 'adaptive'] as const)(
    'C12 never: the migration goes on at the deadline and completes, schedule %s',
    (schedule) => {
      const { machine } = Machine.bare();
      const migration = new TestMigration(machine, { schedule, hintTimeoutMs: 100 }).run();
      expectSameGuest(migration);
      expect(migration.count('session-expired')).toBe(schedule === 'wait' ? 1 : 0);
      // 4 MiB at 100 MB/s are 42 ms; the rest is what was waited.
      expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(100 + 42 + 10);
      expect(migration.source.sessions).toHaveLength(1); // and it is not asked again
    },
  );

  it('C12 never: a guest that starts a report and falls silent has a deadline too', () => {
    const { machine, driver } = Machine.bare();
    driver.script = () => {
      const id = driver.takeInterrupt() ? driver.takeStart() : 0;
      if (id !== 0) {
        driver.marker(id);
        driver.declare(id, 300, 4);
      }
      return Number.POSITIVE_INFINITY;
    };
    const migration = new TestMigration(machine, { schedule: 'wait', hintTimeoutMs: 100 }).run();
    expect(migration.count('session-started')).toBe(1);
    expect(migration.count('session-expired')).toBe(1);
    expect(expectSameGuest(migration)).toBe(4);
    expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(100 + 42 + 10);
  });

  it('C12 a guest that dribbles ranges for ever: the deadline of the whole report holds', () => {
    const { machine, driver } = Machine.bare({ ringSize: 1024 });
    let next = 192;
    driver.script = () => {
      const id = driver.takeInterrupt() ? driver.takeStart() : 0;
      if (id !== 0) {
        driver.marker(id);
      } else if (next < 320 && machine.device.session.state !== HintState.closed) {
        driver.declare(machine.device.session.id, next, 1);
        next += 1;
      }
      return 20; // ms: well within the timeout of a silence
    };
    const migration = new TestMigration(machine, {
      schedule: 'wait',
      hintTimeoutMs: 100,
      hintDeadlineMs: 300,
    }).run();
    expect(expectSameGuest(migration)).toBeGreaterThan(10);
    expect(migration.source.sessions[0]!.expired).toBe(true);
    expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(300 + 42 + 10);
  });

  it('C12 late, while its round is still sent: not waited for, but its hints are taken', () => {
    const machine = Machine.boot();
    const guest = machine.actor!;
    machine.actor = { step: (now) => (now < 1250 ? 1250 - now : guest.step(now)) };
    const migration = new TestMigration(machine, { schedule: 'wait', ...SLOW }).run();
    expect(migration.count('session-expired')).toBe(1);
    expect(migration.source.accounts.hints.applied).toBeGreaterThan(100);
    expect(expectSameGuest(migration)).toBeGreaterThan(100);
  });

  it('C12 late, after the session was closed: all of it is stale', () => {
    const { machine, driver } = Machine.bare();
    let id = 0;
    driver.script = (now) => {
      id ||= driver.takeStart();
      if (id !== 0 && machine.device.session.state === HintState.closed && driver.queue.idle) {
        driver.marker(id);
        driver.range(100 * PAGE_SIZE, 64 * PAGE_SIZE); // not even free
        driver.marker(0);
      }
      driver.write(900, now & 0xff); // keeps the migration busy with another round
      return 1;
    };
    const migration = new TestMigration(machine, { schedule: 'wait', ...SLOW }).run();
    expect(migration.source.accounts.hints.hinted).toBe(0);
    expect(expectSameGuest(migration)).toBe(0);
    expect(migration.source.endedAt - migration.source.startedAt).toBeLessThan(300 + 2000);
  });

  it('C12 after the migration ended: at the destination it finds the stop sign, and reports nothing', () => {
    const machine = Machine.boot({ reportMode: 'hold' });
    machine.actor = undefined; // it hangs, and is migrated as it hangs
    const migration = new TestMigration(machine, { schedule: 'wait', hintTimeoutMs: 100 }).run();
    expectSameGuest(migration);
    const { destination } = migration;
    expect(destination.pending).toBe(REPORT_START | REPORT_STOP);
    destination.settle();
    expect(destination.pending).toBe(0);
    expect(destination.guest!.report.counts.ranges).toBe(0);
    expect(destination.heldPages).toBe(0);
    expect(destination.device.session.counts).toEqual({ ranges: 0, stale: 0, rejected: 0, staleMarkers: 0 });
  });

  it('C12 after the migration was cancelled: at the source it finds the stop sign, and reports nothing', () => {
    const machine = Machine.boot({ reportMode: 'hold' });
    const guest = machine.actor;
    machine.actor = undefined;
    const migration = new TestMigration(machine, { schedule: 'wait' });
    migration.until(() => migration.source.phase === 'round');
    migration.cancel();
    machine.actor = guest;
    expectGuestKept(migration, FREE_PAGES);
    expect(machine.guest!.report.counts.ranges).toBe(0);
  });
});

describe('C13 blocks that hold took come back', () => {
  const holding = (): Machine => {
    const machine = machineAtRest({ reportMode: 'hold' });
    expect(machine.freePages).toBe(FREE_PAGES);
    return machine;
  };

  it('C13 on STOP in the midst of a report', () => {
    const machine = machineAtRest({ reportMode: 'hold', ...FRAGMENTED_GUEST });
    machine.device.openSession(new Collector(), machine.clock.now);
    machine.step();
    machine.step();
    machine.device.poll(machine.clock.now, 4);
    expect(machine.device.session.state).toBe(HintState.reporting);
    expect(machine.heldPages).toBeGreaterThan(0);
    machine.device.closeSession(machine.clock.now);
    machine.settle();
    expect(machine.heldPages).toBe(0);
    expect(machine.freePages).toBe(pagesIn(FRAGMENTED));
    expect(machine.guest!.allocator.inconsistency()).toBeUndefined();
  });

  it('C13 on cancel', () => {
    const machine = holding();
    const migration = new TestMigration(machine, { schedule: 'wait' });
    migration.until(() => machine.heldPages === HELD_PAGES);
    migration.cancel();
    expectGuestKept(migration, FREE_PAGES);
  });

  it('C13 on completion, at the destination', () => {
    const machine = holding();
    const migration = new TestMigration(machine, { schedule: 'wait' });
    migration.until(() => migration.count('session-done') === 1);
    machine.actor = undefined; // it does not come to answer the STOP before it is stopped itself
    migration.run();
    expect(expectSameGuest(migration)).toBe(HELD_PAGES);
    const { destination } = migration;
    expect(destination.heldPages).toBe(HELD_PAGES);
    destination.settle();
    expect(destination.heldPages).toBe(0);
    expect(destination.freePages).toBe(FREE_PAGES);
    expect(destination.guest!.selfCheck().badPfn).toBe(-1);
  });

  it('C13 after a report that ended by itself, and not before the host needs it no more', () => {
    const machine = holding();
    machine.device.openSession(new Collector(), machine.clock.now);
    machine.settle();
    expect(machine.device.session.state).toBe(HintState.done);
    expect(machine.heldPages).toBe(HELD_PAGES);
    machine.device.closeSession(machine.clock.now);
    machine.settle();
    expect(machine.heldPages).toBe(0);
    expect(machine.freePages).toBe(FREE_PAGES);
  });
});

/** A mapper that notes every change of some words. */
function watching(indices: readonly number[], changes: string[]): WordMapper {
  const wrap = (words: SharedWords): SharedWords => {
    const note = (index: number, value: number): void => {
      if (indices.includes(index) && value !== words.load(index)) {
        changes.push(`${index} = ${value}`);
      }
    };
    return {
      length: words.length,
      load: (index) => words.load(index),
      store: (index, value) => {
        note(index, value);
        words.store(index, value);
      },
      exchange: (index, value) => words.exchange(index, value),
      compareExchange: (index, expected, value) => words.compareExchange(index, expected, value),
      or: (index, bits) => {
        note(index, words.load(index) | bits);
        return words.or(index, bits);
      },
      and: (index, bits) => {
        note(index, words.load(index) & bits);
        return words.and(index, bits);
      },
      add: (index, value) => words.add(index, value),
      notify: () => {},
      wait: () => {},
      waitAsync: () => undefined,
    };
  };
  return {
    words: (buffer, byteOffset, length) => wrap(atomicMapper.words(buffer, byteOffset, length)),
    ownWords: (buffer, byteOffset, length) => wrap(atomicMapper.ownWords(buffer, byteOffset, length)),
    halfWords: (buffer, byteOffset, length) => atomicMapper.halfWords(buffer, byteOffset, length),
    plain16: (buffer, byteOffset, length) => atomicMapper.plain16(buffer, byteOffset, length),
    plain32: (buffer, byteOffset, length) => atomicMapper.plain32(buffer, byteOffset, length),
  };
}
