import { beforeEach, describe, expect, it } from 'vitest';
import {
  CommandDriver,
  type CommandDriverState,
  type CommandFeature,
  mailFeatures,
} from '../../../src/balloon/command-driver.js';
import { VcpuTraps } from '../../../src/balloon/registers.js';
import {
  CMD_ID_REG,
  CMD_REG,
  CONTROL_BYTES,
  ControlBuffer,
  EventWord,
  NUM_PAGES,
} from '../../../src/memory/control-buffer.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { BALLOONING, REPORT_START, REPORT_STOP } from '../../../src/spec/command-register.js';
import { NotingPort } from '../../support/machine.js';

const UNKNOWN_BIT = 32;

let control: ControlBuffer;
let port: NotingPort;
let served: string[];
let features: CommandFeature[];
let driver: CommandDriver;

beforeEach(() => {
  control = new ControlBuffer(atomicMapper, new ArrayBuffer(CONTROL_BYTES), new EventWord(atomicMapper));
  port = new NotingPort(new VcpuTraps(control));
  served = [];
  features = mailFeatures(
    { start: (id) => served.push(`start ${id}`), stop: () => served.push('stop') },
    { setTarget: (pages) => served.push(`balloon ${pages}`) },
  );
  driver = new CommandDriver(port, features);
  control.words.store(CMD_ID_REG, 5);
  control.words.store(NUM_PAGES, 100);
});

function request(bits: number): void {
  control.words.or(CMD_REG, bits);
  driver.interrupt();
}

/** Steps until it has nothing to do; returns how many that took. */
function run(which: CommandDriver = driver): number {
  let steps = 0;
  for (; which.busy; steps += 1) {
    which.step();
  }
  return steps;
}

describe('the order of its steps', () => {
  it('does nothing without an interrupt', () => {
    control.words.store(CMD_REG, REPORT_START);
    expect(driver.busy).toBe(false);
    driver.step();
    expect(port.exits).toEqual([]);
  });

  it('reads, acknowledges, then reads the parameters: an exit a step', () => {
    request(REPORT_START);
    const seen: string[][] = [];
    while (driver.busy) {
      port.exits.length = 0;
      driver.step();
      seen.push([...port.exits]);
    }
    expect(seen).toEqual([['read cmd_reg = 1'], ['write cmd_reg = 1'], ['read cmd_id_reg = 5']]);
    expect(served).toEqual(['start 5']);
  });

  it('serves several bits in one go: the stop first, then the start, then the balloon', () => {
    request(BALLOONING | REPORT_START | REPORT_STOP);
    expect(run()).toBe(2 + 3);
    expect(port.exits.filter((exit) => exit.includes('cmd_reg'))).toEqual([
      'read cmd_reg = 7',
      'write cmd_reg = 7',
    ]);
    expect(served).toEqual(['stop', 'start 5', 'balloon 100']);
  });

  it('ignores bits that it does not know, and does not acknowledge them', () => {
    request(UNKNOWN_BIT);
    run();
    expect(port.exits).toEqual(['read cmd_reg = 32']);
    request(REPORT_STOP);
    run();
    expect(port.exits.slice(1)).toEqual(['read cmd_reg = 34', 'write cmd_reg = 2']);
    expect(control.words.load(CMD_REG)).toBe(UNKNOWN_BIT);
  });

  it('reads the newest parameters: a host that asks again meanwhile is heard', () => {
    request(REPORT_START);
    driver.step();
    driver.step();
    control.words.store(CMD_ID_REG, 6);
    request(REPORT_START);
    run();
    expect(served).toEqual(['start 6', 'start 6']);
    expect(control.words.load(CMD_REG)).toBe(0);
  });

  it('an interrupt in the midst of an answer is answered after it', () => {
    request(REPORT_START);
    driver.step();
    request(BALLOONING);
    run();
    expect(served).toEqual(['start 5', 'balloon 100']);
    expect(control.words.load(CMD_REG)).toBe(0);
  });
});

describe('its state travels', () => {
  it.each([0, 1, 2, 3])('after %i steps: every request is served once, here or there', (steps) => {
    request(REPORT_START | BALLOONING);
    for (let i = 0; i < steps; i += 1) {
      driver.step();
    }
    const saved = JSON.parse(JSON.stringify(driver.saveState())) as CommandDriverState;
    const there = new CommandDriver(port, features, saved);
    if (control.words.load(CMD_REG) !== 0) {
      there.interrupt(); // as HostRegisters.restore does
    }
    run(there);
    expect(served).toEqual(['start 5', 'balloon 100']);
    expect(control.words.load(CMD_REG)).toBe(0);
  });

  it('an interrupt that was not looked at is not forgotten', () => {
    request(REPORT_STOP);
    expect(driver.saveState()).toEqual({ phase: 'read', bits: 0 });
    run(new CommandDriver(port, features, driver.saveState()));
    expect(served).toEqual(['stop']);
  });
});
