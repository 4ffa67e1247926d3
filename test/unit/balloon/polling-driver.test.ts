import { beforeEach, describe, expect, it } from 'vitest';
import {
  type PolledRegister,
  PollingDriver,
  type PollingDriverState,
  polledBalloon,
  polledReport,
} from '../../../src/balloon/polling-driver.js';
import { VcpuTraps } from '../../../src/balloon/registers.js';
import {
  CMD_ID_REG,
  CONTROL_BYTES,
  ControlBuffer,
  EventWord,
  NUM_PAGES,
} from '../../../src/memory/control-buffer.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { LAST_COMMAND_ID } from '../../../src/spec/command-register.js';
import { NotingPort } from '../../support/machine.js';

let control: ControlBuffer;
let port: NotingPort;
let served: string[];
let registers: PolledRegister[];
let driver: PollingDriver;

beforeEach(() => {
  control = new ControlBuffer(atomicMapper, new ArrayBuffer(CONTROL_BYTES), new EventWord(atomicMapper));
  port = new NotingPort(new VcpuTraps(control));
  served = [];
  registers = [
    polledBalloon({ setTarget: (pages) => served.push(`balloon ${pages}`) }),
    polledReport({ start: (id) => served.push(`start ${id}`), stop: () => served.push('stop') }),
  ];
  driver = new PollingDriver(port, registers);
});

/** The host changes registers and interrupts. */
function change(words: { id?: number; pages?: number }): void {
  if (words.id !== undefined) {
    control.words.store(CMD_ID_REG, words.id | 0);
  }
  if (words.pages !== undefined) {
    control.words.store(NUM_PAGES, words.pages);
  }
  driver.interrupt();
}

/** Steps until it has nothing to do; what it served. */
function run(which: PollingDriver = driver): string[] {
  served.length = 0;
  for (let steps = 0; which.busy; steps += 1) {
    expect(steps).toBeLessThan(100);
    which.step();
  }
  return [...served];
}

describe('what it does', () => {
  it('does nothing without an interrupt', () => {
    control.words.store(CMD_ID_REG, 5);
    expect(driver.busy).toBe(false);
    driver.step();
    expect(port.exits).toEqual([]);
  });

  it('reads every register once an interrupt, an exit a step, and acknowledges nothing', () => {
    change({ pages: 100 });
    const seen: string[][] = [];
    while (driver.busy) {
      port.exits.length = 0;
      driver.step();
      seen.push([...port.exits]);
    }
    expect(seen).toEqual([['read num_pages = 100'], ['read cmd_id_reg = 0']]);
    expect(served).toEqual(['balloon 100']);
  });

  it('starts a report when the id changes, and stops it when it becomes 0', () => {
    change({ id: 2 });
    expect(run()).toEqual(['start 2']);
    change({ id: 0 });
    expect(run()).toEqual(['stop']);
    change({ id: 3 });
    expect(run()).toEqual(['start 3']);
    change({ id: 4 });
    expect(run()).toEqual(['start 4']); // the report driver ends the one under way
  });

  it('starts nothing when it sees the same id twice, nor stops twice', () => {
    change({ id: 2 });
    run();
    change({ id: 2 });
    expect(run()).toEqual([]);
    change({ id: 0 });
    run();
    change({ id: 0 });
    expect(run()).toEqual([]);
    expect(port.exits).toHaveLength(4 * 2); // the interrupts cost their reads all the same
  });

  it('resizes the balloon to a larger target and to a smaller one, and not to the same one again', () => {
    change({ pages: 100 });
    expect(run()).toEqual(['balloon 100']);
    change({ pages: 40 });
    expect(run()).toEqual(['balloon 40']);
    change({ pages: 40 });
    expect(run()).toEqual([]);
    change({ pages: 0 });
    expect(run()).toEqual(['balloon 0']);
  });

  it('serves both when both have changed, in one pass', () => {
    change({ id: 2, pages: 100 });
    expect(run()).toEqual(['balloon 100', 'start 2']);
    expect(port.exits).toHaveLength(2);
  });

  it('a resize in mid-report does not end the report', () => {
    change({ id: 2 });
    run();
    change({ pages: 100 });
    expect(run()).toEqual(['balloon 100']);
  });

  it('reads ids as unsigned', () => {
    change({ id: LAST_COMMAND_ID });
    expect(run()).toEqual([`start ${LAST_COMMAND_ID}`]);
  });

  it('of two changes between two reads sees the second', () => {
    change({ id: 2 });
    change({ id: 0 });
    change({ id: 3 });
    expect(run()).toEqual(['start 3']);
  });
});

describe('a request while it answers another', () => {
  it('a register that was read already is read again', () => {
    change({ id: 2 });
    driver.step(); // num_pages: nothing
    change({ pages: 100 });
    expect(run()).toEqual(['start 2', 'balloon 100']);
    expect(port.exits).toEqual([
      'read num_pages = 0',
      'read cmd_id_reg = 2',
      'read num_pages = 100',
      'read cmd_id_reg = 2',
    ]);
  });

  it('one that is still to be read is served once', () => {
    change({ pages: 100 });
    driver.step();
    change({ id: 2 });
    expect(run()).toEqual(['start 2']);
    expect(port.exits).toHaveLength(4); // and the interrupt has everything read once more
  });
});

describe('its state travels', () => {
  it.each([0, 1, 2])('after %i steps: every request is served once, here or there', (steps) => {
    change({ id: 2, pages: 100 });
    for (let i = 0; i < steps; i += 1) {
      driver.step();
    }
    const here = [...served];
    const saved = JSON.parse(JSON.stringify(driver.saveState())) as PollingDriverState;
    expect([...here, ...run(new PollingDriver(port, registers, saved))]).toEqual(['balloon 100', 'start 2']);
    expect(port.exits).toHaveLength(2);
  });

  it('knows there what it has served here', () => {
    change({ id: 2, pages: 100 });
    run();
    const there = new PollingDriver(port, registers, driver.saveState());
    there.interrupt();
    expect(run(there)).toEqual([]);
    expect(port.exits).toHaveLength(4);
  });

  it('an interrupt in mid-pass is not forgotten', () => {
    change({ id: 2 });
    driver.step();
    change({ pages: 100 });
    const there = new PollingDriver(port, registers, driver.saveState());
    expect(run(there)).toEqual(['start 2', 'balloon 100']);
  });

  it('is a copy: what happens later does not change it', () => {
    const saved = driver.saveState();
    change({ id: 2 });
    run();
    expect(saved.last).toEqual([0, 0]);
  });
});
