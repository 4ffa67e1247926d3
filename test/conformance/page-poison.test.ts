import { afterEach, describe, expect, it, vi } from 'vitest';
import { ExitFeature } from '../../src/balloon/exits.js';
import { VcpuTraps } from '../../src/balloon/registers.js';
import { VIRTIO_OFFERED_FEATURES } from '../../src/balloon/virtio-registers.js';
import { REPORT_MODES } from '../../src/guest/runtime.js';
import { DRIVER_FEATURES } from '../../src/memory/control-buffer.js';
import { comparePages } from '../../src/migration/verify.js';
import { POISON_VAL_OFFSET } from '../../src/spec/command-register.js';
import {
  VIRTIO_BALLOON_CONFIG_POISON_VAL,
  VIRTIO_BALLOON_F_PAGE_POISON,
} from '../../src/spec/virtio-balloon.js';
import {
  DEFAULT_FREE,
  expectBalanced,
  expectGuestKept,
  expectHealthy,
  expectSameGuest,
  type HandDriver,
  isVirtio,
  Machine,
  type MachineOptions,
  migrated,
  pagesIn,
  readsAs,
  TestMigration,
} from '../support/machine.js';

/** What Linux's `page_poison=1` fills pages with. */
const POISON = 0xaaaa_aaaa;
const ACCEPTED = 1 << VIRTIO_BALLOON_F_PAGE_POISON;
/** What the built-in guest's driver accepts beside it. */
const OTHERS = isVirtio() ? VIRTIO_OFFERED_FEATURES & ~ACCEPTED : 0;
const POISON_OFFSET = isVirtio() ? VIRTIO_BALLOON_CONFIG_POISON_VAL : POISON_VAL_OFFSET;
const FREE_PAGES = pagesIn(DEFAULT_FREE);
const WAIT = { schedule: 'wait' } as const;

afterEach(() => {
  vi.restoreAllMocks();
});

function freePages(machine: Machine): number[] {
  const pages: number[] = [];
  const { free } = machine.guest!.allocator;
  for (let pfn = free.nextSet(0); pfn < free.pageCount; pfn = free.nextSet(pfn + 1)) {
    pages.push(pfn);
  }
  return pages;
}

function inflatedPages(machine: Machine): number[] {
  const { inflated } = machine.device;
  return Array.from({ length: inflated.pageCount }, (_, pfn) => pfn).filter((pfn) => inflated.test(pfn));
}

/** Balloons to `pages` and lets guest and host finish. */
function balloonTo(machine: Machine, pages: number): void {
  machine.device.setBalloonTarget(pages);
  machine.settle();
  expect(machine.device.registers.actual).toBe(pages);
}

/** A driver by hand that has negotiated page poisoning, and whose free pages hold old data all the same. */
function poisonedByHand(value: number): { machine: Machine; driver: HandDriver } {
  const { machine, driver } = Machine.bare();
  machine.traps.writeConfig(POISON_OFFSET, value, ExitFeature.setup);
  machine.traps.driverOk(ACCEPTED);
  return { machine, driver };
}

describe('P1 deflated pages', () => {
  it('P1 are filled with poison_val when the guest reuses them, and that write is logged', () => {
    const machine = Machine.boot({ pagePoison: POISON });
    balloonTo(machine, 300);
    const pages = inflatedPages(machine);
    expect(pages).toHaveLength(300);
    expect(pages.every((pfn) => readsAs(machine.page(pfn), 0))).toBe(true); // the host has discarded them
    machine.log.bitmap.clearAll();
    balloonTo(machine, 0);
    expect(pages.filter((pfn) => !readsAs(machine.page(pfn), POISON))).toEqual([]);
    expect(pages.filter((pfn) => !machine.log.bitmap.test(pfn))).toEqual([]);
    expectHealthy(machine);
  });

  it('P1 of a guest that was migrated with its balloon: zeroes while they are in it, poison behind it', () => {
    const machine = Machine.boot({ pagePoison: POISON });
    balloonTo(machine, 300);
    const { destination } = migrated(machine);
    const pages = inflatedPages(destination);
    expect(pages).toHaveLength(300);
    expect(pages.every((pfn) => readsAs(destination.page(pfn), 0))).toBe(true);
    balloonTo(destination, 0);
    expect(pages.filter((pfn) => !readsAs(destination.page(pfn), POISON))).toEqual([]);
    expectHealthy(destination);
  });
});

describe('P2, P3 when poison_val is written', () => {
  it('P2 before DRIVER_OK, by the guest; and it counts from then on', () => {
    const write = vi.spyOn(VcpuTraps.prototype, 'writeConfig');
    const ok = vi.spyOn(VcpuTraps.prototype, 'driverOk');
    const machine = Machine.boot({ pagePoison: POISON });
    // Of either dialect: VIRTIO's traps stand on the mail's.
    expect(write.mock.calls).toEqual([[POISON_VAL_OFFSET, POISON, ExitFeature.setup]]);
    expect(ok.mock.calls).toEqual([[ACCEPTED | OTHERS]]);
    expect(write.mock.invocationCallOrder[0]).toBeLessThan(ok.mock.invocationCallOrder[0]!);
    expect(machine.device.poison).toBe(POISON);
  });

  it('P2 a value without DRIVER_OK is none yet', () => {
    const { machine } = Machine.bare();
    machine.traps.writeConfig(POISON_OFFSET, POISON, ExitFeature.setup);
    expect(machine.device.poison).toBeUndefined();
    machine.traps.driverOk(ACCEPTED);
    expect(machine.device.poison).toBe(POISON);
  });

  it('P3 a later write changes nothing, and is counted', () => {
    const { machine } = poisonedByHand(POISON);
    machine.traps.writeConfig(POISON_OFFSET, 7, ExitFeature.other);
    machine.traps.writeConfig(POISON_OFFSET, 0, ExitFeature.other);
    expect(machine.device.poison).toBe(POISON);
    expect(machine.traps.readConfig(POISON_OFFSET, ExitFeature.other)).toBe(POISON);
    expect(machine.device.registers.latePoisons).toBe(2);
  });

  it('P3 not at the destination either, whose guest was set up elsewhere', () => {
    const { destination } = migrated(Machine.boot({ pagePoison: POISON }));
    destination.traps.writeConfig(POISON_OFFSET, 7, ExitFeature.other);
    expect(destination.device.poison).toBe(POISON);
    expect(destination.device.registers.latePoisons).toBe(1);
  });

  it('P3 the guest writes it once in its life, migrations included', () => {
    const write = vi.spyOn(VcpuTraps.prototype, 'writeConfig');
    const machine = Machine.boot({ pagePoison: POISON });
    balloonTo(machine, 5);
    const { destination } = migrated(machine);
    balloonTo(destination, 0);
    expect(write.mock.calls.filter(([offset]) => offset === POISON_VAL_OFFSET)).toHaveLength(1);
    expect(destination.device.registers.latePoisons).toBe(0);
  });
});

describe('P4 a driver that will not initialise deflated pages', () => {
  it('P4 clears the feature, writes no value, and leaves deflated pages as they are', () => {
    const machine = Machine.boot();
    expect(machine.control.words.load(DRIVER_FEATURES)).toBe(OTHERS);
    expect(machine.device.poison).toBeUndefined();
    expect(machine.traps.readConfig(POISON_OFFSET, ExitFeature.other)).toBe(0);
    balloonTo(machine, 50);
    const pages = inflatedPages(machine);
    machine.log.bitmap.clearAll();
    balloonTo(machine, 0);
    expect(pages.every((pfn) => readsAs(machine.page(pfn), 0))).toBe(true);
    expect(pages.filter((pfn) => machine.log.bitmap.test(pfn))).toEqual([]);
  });

  it('P4 its skipped pages read as zeroes, whatever it wrote into poison_val', () => {
    const { machine, driver } = Machine.bare();
    machine.traps.writeConfig(POISON_OFFSET, POISON, ExitFeature.setup);
    machine.traps.driverOk(0);
    expect(machine.device.poison).toBeUndefined();
    reports(driver, [[300, 8]]);
    const migration = new TestMigration(machine, WAIT).run();
    expectSameGuest(migration);
    expect(readsAs(migration.destination.memory.pages(300, 8), 0)).toBe(true);
    expect(migration.source.sent.filledPages).toBe(0);
  });

  it('P4 a feature that was not offered is not taken', () => {
    const { machine } = Machine.bare();
    machine.traps.driverOk(0xffff_ffff);
    expect(machine.control.words.load(DRIVER_FEATURES)).toBe(ACCEPTED | OTHERS);
  });
});

/** A driver that answers the first START with these ranges. */
function reports(driver: HandDriver, ranges: readonly (readonly [number, number])[]): void {
  driver.script = () => {
    const id = driver.takeInterrupt() ? driver.takeStart() : 0;
    if (id !== 0) {
      driver.marker(id);
      for (const [pfn, pageCount] of ranges) {
        driver.declare(id, pfn, pageCount);
      }
      driver.marker(0);
    }
    return Number.POSITIVE_INFINITY;
  };
}

describe.each(REPORT_MODES)('P5 a skipped page, %s', (reportMode) => {
  const options: MachineOptions = { reportMode };

  it.each([POISON, 0x1234_5678])(
    'P5 reads as poison_val (%i) at the destination, by few frames, and the guest finds it there',
    (pagePoison) => {
      const machine = Machine.boot({ ...options, pagePoison });
      const hinted = freePages(machine);
      const migration = migrated(machine, WAIT);
      const { destination, source } = migration;
      const wanted = reportMode === 'walk' ? FREE_PAGES : FREE_PAGES - 256;
      expect(source.accounts.hints).toMatchObject({ applied: wanted, reDirtied: 0, sentInVain: 0 });
      expect(source.sent.filledPages).toBe(wanted);
      expect(source.rounds.map(({ skipped }) => skipped)).toEqual(source.rounds.map(() => 0));
      expect(hinted.filter((pfn) => !readsAs(destination.page(pfn), pagePoison))).toEqual([]);
      const fills = migration.frames.filter(({ type }) => type === 'fill');
      expect(fills.length).toBeLessThanOrEqual(8);
      // The guest there takes every page that it has, looks at it, and uses it.
      destination.settle();
      expect(destination.freePages).toBe(FREE_PAGES);
      for (let i = 0; i < FREE_PAGES; i += 1) {
        destination.allocateAndWrite(5);
      }
      expectHealthy(destination);
    },
  );

  it('P5 0 is a value: pages that were never sent are zero already, and nothing is filled', () => {
    const machine = Machine.boot({ ...options, pagePoison: 0 });
    expect(machine.device.poison).toBe(0);
    const migration = migrated(machine, WAIT);
    expect(migration.source.sent.filledPages).toBe(0);
    expect(migration.source.accounts.hints.applied).toBeGreaterThan(300);
    expect(migration.destination.device.poison).toBe(0);
    migration.destination.allocateAndWrite(5);
    expectHealthy(migration.destination);
  });

  it('P5 goes on with the guest: its next migration poisons too', () => {
    const first = migrated(Machine.boot({ ...options, pagePoison: POISON }), WAIT);
    first.destination.settle();
    const second = migrated(first.destination, WAIT);
    expect(second.source.sent.filledPages).toBeGreaterThan(300);
    second.destination.settle();
    const pages = freePages(second.destination);
    expect(pages).toHaveLength(FREE_PAGES);
    expect(pages.filter((pfn) => !readsAs(second.destination.page(pfn), POISON))).toEqual([]);
  });

  it('P5 a migration that is cancelled between the hints and their fills leaves the guest as it was', () => {
    const machine = Machine.boot({ ...options, pagePoison: POISON });
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => migration.source.accounts.fillsLeft > 0).cancel();
    expect(migration.source.phase).toBe('cancelled');
    expectBalanced(migration.source);
    expectGuestKept(migration, FREE_PAGES);
  });

  it.each(['churn', 'pressure'] as const)(
    'P5 under %s every page that the guest takes holds its poison, here and there',
    (kind) => {
      const workload =
        kind === 'churn'
          ? ({ kind, pagesPerSecond: 40_000, keepBlocks: 40 } as const)
          : ({ kind, pagesPerSecond: 40_000 } as const);
      const machine = Machine.boot({ ...options, pagePoison: POISON, workload });
      machine.run(5);
      const { destination } = migrated(machine, { ...WAIT, maxRounds: 3 });
      destination.run(20);
      expectHealthy(destination);
    },
  );
});

describe('P5 whose fills come in between', () => {
  it('P5 what the guest took back and wrote after the hint arrives as written, not as poison', () => {
    const machine = Machine.boot({ pagePoison: POISON });
    const migration = new TestMigration(machine, WAIT);
    migration.until(() => migration.count('session-done') === 1);
    const pfn = machine.allocateAndWrite(9);
    expect(migration.source.accounts.skipped.test(pfn)).toBe(true);
    migration.run();
    expectSameGuest(migration);
    expect(migration.wasSent(pfn)).toBe(true);
    expect(migration.source.accounts.hints.reDirtied).toBeGreaterThan(0);
  });

  it('P5 a page that was sent, freed, and hinted in the next round reads as poison', () => {
    const machine = Machine.boot({ pagePoison: POISON });
    const migration = new TestMigration(machine, { ...WAIT, downtimeLimitMs: 0, maxRounds: 3 });
    const pfns: number[] = [];
    for (let i = 0; i < 600; i += 1) {
      pfns.push(machine.allocateAndWrite(3));
    }
    migration.until(() => migration.count('round-end') === 1 || migration.source.phase === 'fills');
    for (const pfn of pfns) {
      machine.guest!.allocator.release(pfn, 0);
    }
    migration.run();
    expectSameGuest(migration);
    expect(migration.source.sessions.length).toBeGreaterThan(1);
    expect(migration.source.rounds[1]!.filled).toBeGreaterThan(0);
    expect(pfns.filter((pfn) => !readsAs(migration.destination.page(pfn), POISON))).toEqual([]);
  });

  it('P5 pages are filled while the link is busy with others', () => {
    const machine = Machine.boot({ pagePoison: POISON });
    const migration = new TestMigration(machine, { ...WAIT, bytesPerSecond: 10e6, maxRunPages: 16 }).run();
    const kinds = migration.frames.map(({ type }) => type);
    expect(kinds.lastIndexOf('fill')).toBeLessThan(kinds.indexOf('round-end') - 2);
    expect(kinds.indexOf('pages')).toBeLessThan(kinds.indexOf('fill'));
    expectSameGuest(migration);
  });

  it('P5 and so are those that are hinted later, and lie below', () => {
    const { machine, driver } = poisonedByHand(POISON);
    let id = 0;
    driver.script = (now) => {
      if (id === 0 && driver.takeInterrupt()) {
        id = driver.takeStart();
        driver.marker(id);
        driver.declare(id, 500, 40);
      } else if (id > 1 && now > 1010) {
        driver.declare(id, 300, 8);
        driver.marker(0);
        id = 1;
      }
      return 1;
    };
    const options = { schedule: 'overlap', bytesPerSecond: 10e6, maxRunPages: 16 } as const;
    const migration = new TestMigration(machine, options).run();
    const { frames } = migration;
    const fills = frames.filter(({ type }) => type === 'fill').map(({ pfn }) => pfn);
    expect(fills).toEqual([500, 300]);
    const last = frames.findIndex(({ type, pfn }) => type === 'fill' && pfn === 300);
    expect(frames.slice(last, last + 5).filter(({ type }) => type === 'pages').length).toBeGreaterThan(2);
    expectSameGuest(migration);
  });

  it('P5 a driver whose free pages hold something else finds poison there, and only poison counts', () => {
    const { machine, driver } = poisonedByHand(POISON);
    reports(driver, [
      [300, 8],
      [500, 40],
    ]);
    const migration = new TestMigration(machine, WAIT).run();
    expect(expectSameGuest(migration)).toBe(48);
    const { destination } = migration;
    expect(readsAs(destination.memory.pages(500, 40), POISON)).toBe(true);
    const compare = (poison?: number) =>
      comparePages(machine.memory, destination.memory, machine.oracle, 300, 300, poison);
    expect(compare(POISON)).toMatchObject({ leftBehind: 48, different: 0 });
    expect(compare(0)).toMatchObject({ leftBehind: 0, different: 48, firstDifferentPfn: 300 });
    expect(compare()).toMatchObject({ leftBehind: 0, different: 48 });
    expect(compare(POISON ^ 1)).toMatchObject({ leftBehind: 0, different: 48 });
    destination.page(503).fill(0); // as it would be without the fill
    destination.page(504)[4095] = 0;
    expect(compare(POISON)).toMatchObject({ leftBehind: 46, different: 2, firstDifferentPfn: 503 });
  });

  it('P5 the guest fails its self-check if a free page does not hold its poison', () => {
    const machine = Machine.boot({ pagePoison: POISON });
    const [first, second] = freePages(machine);
    machine.page(second!)[100] = 0;
    expect(machine.guest!.selfCheck()).toMatchObject({ badPages: 1, badPfn: second });
    machine.page(second!)[100] = 0xaa;
    expectHealthy(machine);
    machine.page(first!).fill(0);
    const taken = Array.from({ length: FREE_PAGES }, () => machine.allocateAndWrite(4));
    expect(taken).toContain(first);
    expect(machine.guest!.selfCheck()).toMatchObject({ badPages: 1, badPfn: first }); // found when it was handed out
    const { destination } = new TestMigration(machine).run(); // and no migration washes it off
    expect(destination.guest!.selfCheck()).toMatchObject({ badPages: 1, badPfn: first });
  });
});
