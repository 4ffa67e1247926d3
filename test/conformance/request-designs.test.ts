import { describe, expect, it } from 'vitest';
import { ExitFeature, type ExitTable, exitsBetween, readExits } from '../../src/balloon/exits.js';
import { saveGuestDevice } from '../../src/balloon/guest-device.js';
import { HintState } from '../../src/balloon/hint-session.js';
import { VcpuTraps } from '../../src/balloon/registers.js';
import { ReadToClearPort } from '../../src/balloon/request-driver.js';
import { REQUEST_DESIGNS, type RequestDesign } from '../../src/balloon/request-interface.js';
import { expectedExits } from '../../src/cli/exits/cost.js';
import {
  type Features,
  featuresOf,
  type Interrupt,
  MOST_FEATURES,
  type Request,
} from '../../src/cli/exits/mixes.js';
import { CMD_REG, FUTURE_REGISTERS, INTERRUPT_CONFIG } from '../../src/memory/control-buffer.js';
import {
  BALLOONING,
  CMD_REG_OFFSET,
  futureBit,
  futureOffset,
  MOST_FUTURE_FEATURES,
  REPORT_START,
  REPORT_STOP,
} from '../../src/spec/command-register.js';
import {
  Collector,
  DEFAULT_FREE,
  expectSameGuest,
  Machine,
  pagesIn,
  TestMigration,
} from '../support/machine.js';

/*
 * The mail's command register and the designs that it is measured against, on the built-in guest. The guest here runs in
 * this thread; `test/commands/exits.test.ts` has it on its own.
 */

const FREE_PAGES = pagesIn(DEFAULT_FREE);
const COUNTS = Array.from({ length: MOST_FEATURES }, (_, i) => i + 1);
const NO_EXITS = { configReads: 0, configWrites: 0, kicks: 0 };

/** A guest at rest that offers this, and whose kicks are never suppressed. */
function machineWith(design: RequestDesign, features: Features): Machine {
  const machine = Machine.boot({ eventIdx: false, requests: { ...features, design } });
  machine.settle();
  return machine;
}

function make(machine: Machine, { kind, feature }: Request, value: number): void {
  const { device, clock } = machine;
  switch (kind) {
    case 'balloon':
      device.setBalloonTarget(value);
      return;
    case 'report-start':
      device.openSession(new Collector(), clock.now);
      return;
    case 'report-stop':
      device.closeSession(clock.now);
      return;
    case 'future':
      device.registers.requestFuture(feature, value);
  }
}

let value = 10;

/** What the guest pays for the requests of one interrupt, and all that comes of them. */
function exitsOf(machine: Machine, interrupt: Interrupt): ExitTable {
  const before = readExits(machine.control.words);
  for (const request of interrupt) {
    value += 1;
    make(machine, request, value);
  }
  machine.settle();
  return exitsBetween(before, readExits(machine.control.words));
}

function pathOf(exits: ExitTable): { reads: number; acknowledgements: number } {
  const { shared, reporting, ballooning, other } = exits;
  return {
    reads: shared.configReads + reporting.configReads + ballooning.configReads + other.configReads,
    acknowledgements: shared.configWrites,
  };
}

const ONE = (kind: Request['kind'], feature = 0): Interrupt => [{ kind, feature }];

/** A request of every feature, for themselves; a report comes before its stop. */
function everyRequest({ ballooning, reporting, futureFeatures }: Features): Request[] {
  return [
    ...(ballooning ? ONE('balloon') : []),
    ...(reporting ? [...ONE('report-start'), ...ONE('report-stop')] : []),
    ...Array.from({ length: futureFeatures }, (_, feature) => ({ kind: 'future' as const, feature })),
  ];
}

describe.each(REQUEST_DESIGNS)('%s', (design) => {
  it.each(COUNTS)('with %i features: a request alone costs what the formula says', (count) => {
    for (const mix of ['balloon', 'reports'] as const) {
      const features = featuresOf(mix, count);
      const machine = machineWith(design, features);
      for (const request of everyRequest(features)) {
        expect({ request, ...pathOf(exitsOf(machine, [request])) }).toEqual({
          request,
          ...expectedExits(design, features, [request]),
        });
      }
    }
  });

  it.each(COUNTS)('with %i features: so do requests that are pending together', (count) => {
    const features = featuresOf('random', count);
    const machine = machineWith(design, features);
    const all = everyRequest(features);
    for (const report of ['report-start', 'report-stop'] as const) {
      const interrupt = all.filter(({ kind }) => kind !== 'report-start' && kind !== 'report-stop');
      const together = features.reporting ? [...interrupt, ...ONE(report)] : interrupt;
      expect(pathOf(exitsOf(machine, together))).toEqual(expectedExits(design, features, together));
    }
  });

  it('the balloon grows and shrinks, reports begin and end, and each feature has its own parameter', () => {
    const features = featuresOf('random', MOST_FEATURES);
    const machine = machineWith(design, features);
    for (const pages of [20, 5, 0]) {
      machine.device.setBalloonTarget(pages);
      machine.settle();
      expect(machine.device.registers.actual).toBe(pages);
    }
    for (let report = 0; report < 3; report += 1) {
      const collector = new Collector();
      machine.device.openSession(collector, machine.clock.now);
      machine.settle();
      expect(machine.device.session.state).toBe(HintState.done);
      expect(collector.pages).toHaveLength(FREE_PAGES);
      machine.device.closeSession(machine.clock.now);
      machine.settle();
    }
    expect(machine.device.session.counts).toMatchObject({ stale: 0, staleMarkers: 0, rejected: 0 });
    for (let k = 0; k < MOST_FUTURE_FEATURES; k += 1) {
      machine.device.registers.requestFuture(k, 1000 + k);
    }
    const read = (offset: number): number => machine.traps.readConfig(offset, ExitFeature.other);
    const parameters = Array.from({ length: MOST_FUTURE_FEATURES + 2 }, (_, i) => read(futureOffset(i - 1)));
    expect(parameters.slice(1, -1)).toEqual([1000, 1001, 1002, 1003, 1004, 1005]);
    expect(parameters.at(-1)).toBe(0); // behind the last there is nothing
    machine.settle();
    expect(machine.device.registers.pending).toBe(0);
    expect(machine.device.registers.unrequestedAcks).toBe(0);
  });

  it('a feature that is not offered is neither heard nor paid for', () => {
    const machine = machineWith(design, featuresOf('balloon', 1));
    machine.device.openSession(new Collector(), machine.clock.now);
    machine.device.registers.requestFuture(0, 5);
    const before = readExits(machine.control.words);
    machine.settle();
    const exits = exitsBetween(before, readExits(machine.control.words));
    expect(machine.device.session.state).toBe(HintState.requested);
    expect(exits.reporting).toEqual(NO_EXITS);
    expect(exits.other).toEqual(NO_EXITS);
    expect(exits.shared.configWrites).toBe(0);
  });

  it('a stop in mid-report ends it, and held blocks come back (C13)', () => {
    const machine = Machine.boot({
      eventIdx: false,
      reportMode: 'hold',
      ringSize: 8,
      requests: { ...featuresOf('random', 3), design },
    });
    machine.settle();
    machine.device.openSession(new Collector(), machine.clock.now);
    for (let i = 0; i < 100 && machine.heldPages === 0; i += 1) {
      machine.step();
    }
    expect(machine.heldPages).toBeGreaterThan(0);
    machine.device.closeSession(machine.clock.now);
    machine.settle();
    expect(machine.heldPages).toBe(0);
    expect(machine.freePages).toBe(FREE_PAGES);
  });

  it('a guest is migrated with it, which takes reports, and goes on', () => {
    const features = featuresOf('random', 4);
    const machine = machineWith(design, features);
    machine.device.registers.requestFuture(1, 77);
    machine.device.setBalloonTarget(9);
    machine.settle();
    const migration = new TestMigration(machine, { schedule: 'wait' }).run();
    expect(expectSameGuest(migration)).toBeGreaterThan(100); // hints were taken
    const { destination } = migration;
    const before = readExits(destination.control.words);
    destination.settle();
    // What was served at the source is not served again: no report, no resize.
    const exits = exitsBetween(before, readExits(destination.control.words));
    expect(exits.reporting.kicks).toBe(0);
    expect(exits.ballooning).toMatchObject({ configWrites: 0, kicks: 0 });
    expect(destination.control.words.load(FUTURE_REGISTERS + 1)).toBe(77);
    expect(destination.device.registers.actual).toBe(9);
    for (const request of everyRequest(features)) {
      expect(pathOf(exitsOf(destination, [request]))).toEqual(expectedExits(design, features, [request]));
    }
    expect(destination.device.registers.actual).toBeGreaterThan(9);
  });

  it('a request that the source did not live to see answered is answered at the destination', () => {
    const machine = machineWith(design, featuresOf('random', 2));
    const guest = machine.actor!;
    machine.actor = { step: () => 1 }; // it takes no interrupt
    machine.device.setBalloonTarget(9);
    const migration = new TestMigration(machine, { schedule: 'wait', hintTimeoutMs: 20 }).run();
    expect(guest).toBe(machine.guest);
    const { destination } = migration;
    destination.settle();
    expect(destination.device.registers.actual).toBe(9);
    expect(destination.device.registers.pending).toBe(0);
  });
});

describe.each(['command-register', 'read-to-clear'] as const)('C11 a feature more, %s', (design) => {
  it.each(['balloon', 'report-start', 'report-stop'] as const)(
    'C11 costs a %s request no extra exit',
    (kind) => {
      const costs = COUNTS.filter((count) => count >= 2).map((count) => {
        const machine = machineWith(design, featuresOf('random', count));
        if (kind === 'report-stop') {
          exitsOf(machine, ONE('report-start'));
        }
        return exitsOf(machine, ONE(kind));
      });
      for (const exits of costs) {
        expect(exits).toEqual(costs[0]);
        expect(exits.other).toEqual(NO_EXITS);
      }
    },
  );
});

describe('the default', () => {
  it('is the command register with the mail’s two features, exit by exit', () => {
    const plain = Machine.boot({ eventIdx: false });
    plain.settle();
    const named = machineWith('command-register', { ballooning: true, reporting: true, futureFeatures: 0 });
    for (const kind of ['balloon', 'report-start', 'report-stop'] as const) {
      expect(exitsOf(named, ONE(kind))).toEqual(exitsOf(plain, ONE(kind)));
    }
  });

  it('reads no register of a feature to come, and keeps none', () => {
    const machine = Machine.boot();
    machine.device.registers.requestFuture(0, 5);
    machine.settle();
    expect(readExits(machine.control.words).other).toEqual(NO_EXITS);
    expect(saveGuestDevice(machine.device).registers).not.toHaveProperty('offered');
  });
});

describe('reading to clear loses nothing', () => {
  it('takes what is set, once, and leaves what is set later', () => {
    const { control } = Machine.boot();
    const port = new ReadToClearPort(new VcpuTraps(control));
    control.words.store(CMD_REG, REPORT_START | BALLOONING);
    const before = readExits(control.words);
    expect(port.readConfig(CMD_REG_OFFSET, 1)).toBe(REPORT_START | BALLOONING);
    expect(control.words.load(CMD_REG)).toBe(0);
    control.words.or(CMD_REG, REPORT_STOP);
    port.writeConfig(CMD_REG_OFFSET, REPORT_START | BALLOONING | REPORT_STOP, 1); // no acknowledgement goes out
    expect(control.words.load(CMD_REG)).toBe(REPORT_STOP);
    expect(exitsBetween(before, readExits(control.words)).shared).toEqual({
      configReads: 1,
      configWrites: 0,
      kicks: 0,
    });
  });

  it('a request after the read is answered by the next', () => {
    const machine = machineWith('read-to-clear', featuresOf('random', 3));
    const { device, traps } = machine;
    const readConfig = traps.readConfig.bind(traps);
    let late = false;
    traps.readConfig = (offset, feature) => {
      const read = readConfig(offset, feature);
      if (!late) {
        late = true;
        device.registers.requestFuture(0, 9); // between the read and everything that follows from it
        device.setBalloonTarget(30);
      }
      return read;
    };
    device.setBalloonTarget(20);
    machine.settle();
    expect(device.registers.actual).toBe(30);
    expect(device.registers.pending).toBe(0);
  });

  it('an interrupt that asks for nothing costs one read', () => {
    const machine = machineWith('read-to-clear', featuresOf('random', 3));
    const before = readExits(machine.control.words);
    machine.control.interrupt(INTERRUPT_CONFIG);
    machine.settle();
    const exits = exitsBetween(before, readExits(machine.control.words));
    expect(pathOf(exits)).toEqual({ reads: 1, acknowledgements: 0 });
  });

  it('each feature has a bit of its own beside the mail’s', () => {
    const bits = [REPORT_START, REPORT_STOP, BALLOONING, ...COUNTS.slice(2).map((_, k) => futureBit(k))];
    expect(new Set(bits).size).toBe(3 + MOST_FUTURE_FEATURES);
    expect(bits.reduce((sum, bit) => sum | bit, 0)).toBe(2 ** bits.length - 1);
  });
});
