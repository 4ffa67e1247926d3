import { describe, expect, it } from 'vitest';
import { readExits } from '../../../src/balloon/exits.js';
import { LacunaError } from '../../../src/errors.js';
import { migrate } from '../../../src/migration/migrate.js';
import { type MigrationOptions, resolveOptions } from '../../../src/migration/options.js';
import { type MigrationEvent, PrecopySource } from '../../../src/migration/precopy.js';
import { reportOf } from '../../../src/migration/report.js';
import { Timeline } from '../../../src/migration/timeline.js';
import type { SourceVm } from '../../../src/migration/vm.js';
import { LoopbackChannel } from '../../../src/transport/loopback.js';
import { migrateLive } from '../../support/live-migration.js';
import {
  expectGuestKept,
  expectSameGuest,
  type Faults,
  Machine,
  TestMigration,
} from '../../support/machine.js';

/** Writes 20 MB/s over 256 pages, on a link that carries 12 MB/s: as fast as it can under a throttle of 0.4. */
const BUSY = { workload: { kind: 'dirty', bytesPerSecond: 20e6, workingSetBytes: 256 * 4096 } } as const;
const SLOW = {
  hints: false,
  zeroDetection: false,
  bytesPerSecond: 12e6,
  downtimeLimitMs: 20,
  stallRounds: 2,
} as const;
/** Pages that are free when a machine of 1024 is booted with them. */
const FREE_PAGES = Machine.boot(BUSY).freePages;

function busyMigration(options: Partial<MigrationOptions>, faults: Faults = {}): TestMigration {
  return new TestMigration(Machine.boot(BUSY), { ...SLOW, ...options }, faults);
}

function sharesOf(events: readonly MigrationEvent[]): number[] {
  return events.flatMap((event) => (event.type === 'throttled' ? [event.share] : []));
}

describe('a guest that writes faster than the link carries', () => {
  it('is stopped where that is all that is left, with more downtime than is allowed', () => {
    const migration = busyMigration({}).run();
    expectSameGuest(migration);
    expect(migration.source.switchover).toBe('stalled');
    expect(migration.machine.throttles).toEqual([]);
  });

  it('is throttled step by step until it fits, and runs freely from when it is stopped', () => {
    const migration = busyMigration({ onStall: 'throttle' });
    migration.until(() => migration.source.phase === 'pausing');
    const { machine, source } = migration;
    expect(source.switchover).toBe('downtime-limit');
    expect(machine.throttles.length).toBeGreaterThan(2);
    expect(machine.throttles).toEqual(machine.throttles.map((_, i) => (2 + i) / 10));
    const highest = machine.share;
    expect(highest).toBeGreaterThan(0.4);
    migration.until(() => source.phase === 'final-sync');
    expect(machine.share).toBe(0);
    migration.run();
    expectSameGuest(migration);
    expect(source.highestThrottle).toBe(highest);
    expect(sharesOf(migration.events)).toEqual(machine.throttles);
    expect(migration.destination.throttles).toEqual([]);
  });

  it('is stopped as ever where the highest throttle does not help', () => {
    const migration = busyMigration({ onStall: 'throttle', throttleMax: 0.3 }).run();
    expectSameGuest(migration);
    expect(migration.source.switchover).toBe('stalled');
    expect(migration.machine.throttles).toEqual([0.2, 0.3, 0]);
  });

  it('stays where it is if that is asked for', () => {
    const migration = busyMigration({ onStall: 'cancel' }).run();
    const { phase, error, switchover } = migration.source;
    expect({ phase, code: error?.code, switchover }).toEqual({
      phase: 'failed',
      code: 'NOT_CONVERGING',
      switchover: undefined,
    });
    expect(error?.message).toMatch(/after \d+ rounds its downtime would be \d+ ms, and 20 are allowed/);
    expect(migration.receiver.discarded).toBe(true);
    expect(migration.machine.throttles).toEqual([]);
    expectGuestKept(migration, FREE_PAGES);
  });

  it('at the round limit, too', () => {
    const { source } = busyMigration({ onStall: 'cancel', maxRounds: 2 }).run();
    expect({ code: source.error?.code, rounds: source.rounds.length }).toEqual({
      code: 'NOT_CONVERGING',
      rounds: 2,
    });
  });

  it('can only be throttled by a VM that can do it', () => {
    const machine: SourceVm = Machine.boot(BUSY);
    Object.defineProperty(machine, 'throttle', { value: undefined });
    const options = {
      ...resolveOptions({ onStall: 'throttle' }),
      clock: () => 0,
      onEvent: (): void => undefined,
    };
    expect(() => new PrecopySource(machine, new LoopbackChannel(), options)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
    expect(
      () => new PrecopySource(machine, new LoopbackChannel(), { ...options, onStall: 'switch' }),
    ).not.toThrow();
  });
});

describe('the downtime that is expected', () => {
  // The guest writes 256 pages over and over: 87 ms of the link, and 20 are allowed.
  it.each([
    ['of a faster switchover', { switchoverBytesPerSecond: 100e6 }, 'downtime-limit'],
    ['of a switchover that is not fast enough', { switchoverBytesPerSecond: 50e6 }, 'stalled'],
    ['of a slower one', { switchoverBytesPerSecond: 6e6, downtimeLimitMs: 100 }, 'stalled'],
    ['of the same', { downtimeLimitMs: 100 }, 'downtime-limit'],
    // It may be faster than the rounds were; nobody knows.
    ['of one without a cap', { switchoverBytesPerSecond: Number.POSITIVE_INFINITY }, 'stalled'],
  ] as const)('is that %s', (_name, options, reason) => {
    const migration = busyMigration(options).run();
    expect(migration.source.switchover).toBe(reason);
    expectSameGuest(migration);
  });

  it('is not that of the switchover if the link itself is slower than the cap of the rounds', () => {
    const machine = Machine.boot({ pages: 4096, ...BUSY });
    const migration = new TestMigration(machine, {
      ...SLOW,
      bytesPerSecond: 1e9,
      switchoverBytesPerSecond: 2e9,
      downtimeLimitMs: 5,
    });
    const { clock } = machine;
    migration.tap.onFrame = ({ bytes }) => {
      clock.now += bytes / 12_000; // what carries the frames takes 12 MB/s
    };
    migration.run();
    expect(migration.source.rounds[0]!.bytes).toBeGreaterThan(4 * 1024 * 1024); // enough to be measured
    expect(migration.source.switchover).not.toBe('downtime-limit');
  });
});

it('the report has the highest throttle, in percent', () => {
  const { source, machine } = busyMigration({ onStall: 'throttle', throttleInitial: 0.55 }).run();
  const report = reportOf(source, {
    memoryBytes: machine.memory.layout.memoryBytes,
    exits: readExits(machine.control.words),
    stalePages: 0,
    rejectedRanges: 0,
    droppedPages: 0,
  });
  expect(report['cpu-throttle-percentage']).toBe(55);
});

describe('the throttle is undone', () => {
  const dropped = (type: string): Faults => ({
    reply: (message) => (message.type === type ? undefined : message),
  });
  /** Brought to where it is throttled. */
  function throttled(options: Partial<MigrationOptions> = {}, faults: Faults = {}): TestMigration {
    const migration = busyMigration({ onStall: 'throttle', ...options }, faults);
    return migration.until(() => migration.machine.share === 0.3);
  }
  function expectUnthrottled({ machine, events }: TestMigration): void {
    expect(machine.throttles.at(-1)).toBe(0);
    expect(machine.throttles.filter((share) => share === 0)).toHaveLength(1);
    expect(sharesOf(events)).toEqual(machine.throttles);
  }

  it('by a cancel in the midst of a round', () => {
    const migration = throttled();
    migration.cancel();
    expect(migration.source.phase).toBe('cancelled');
    expectUnthrottled(migration);
    expectGuestKept(migration, FREE_PAGES);
  });

  it('by a failure of the destination', () => {
    const migration = throttled();
    migration.channel.reply({ type: 'error', reason: 'the test says so' });
    migration.run();
    expect(migration.source.phase).toBe('failed');
    expectUnthrottled(migration);
    expectGuestKept(migration, FREE_PAGES);
  });

  it('where the vCPU can not be stopped', () => {
    const migration = throttled();
    migration.machine.stuck = true;
    migration.run();
    expect(migration.source.error?.code).toBe('VCPU_STUCK');
    expectUnthrottled(migration);
  });

  it('where the guest dies by itself', () => {
    const migration = throttled();
    migration.machine.failure = new LacunaError('GUEST_FAILED', 'the test says so');
    migration.run();
    expect(migration.source.error?.code).toBe('GUEST_FAILED');
    expectUnthrottled(migration);
  });

  it('before the guest goes on here because it did not start there', () => {
    const migration = throttled({}, { failToStart: true });
    migration.run();
    expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
    expectUnthrottled(migration);
    expectGuestKept(migration, FREE_PAGES);
  });

  it('where nobody knows where it runs', () => {
    const migration = throttled({ startTimeoutMs: 100 }, dropped('started'));
    migration.run();
    expect(migration.source.phase).toBe('unknown');
    expectUnthrottled(migration);
    expect(migration.machine.paused).toBe(true);
  });

  it('by an exception of the VM, and of what is called to end the migration', async () => {
    const machine = Machine.boot();
    const drain = machine.drainDirty.bind(machine);
    machine.drainDirty = (sink) => {
      machine.log.markRange(64, 64); // in real time no guest is sure to be fast enough
      return drain(sink);
    };
    const mistake = new Error('a mistake of the VM');
    machine.onPayload = () => {
      if (machine.share > 0) {
        throw mistake;
      }
    };
    const options = { ...SLOW, bytesPerSecond: 200e6, downtimeLimitMs: 0, onStall: 'throttle' } as const;
    const { rejection } = await migrateLive(machine, (request) => {
      request.channel.cancel = () => {
        throw new Error('this fails, too');
      };
      return migrate({ ...request, options: { ...options, maxRounds: 1000 } });
    });
    expect(rejection).toBe(mistake);
    expect(machine.throttles).toEqual([0.2, 0]);
  });
});

it('is on the timeline', () => {
  const timeline = new Timeline();
  timeline.event(5, { type: 'throttled', share: 0.2 });
  expect(timeline.events).toEqual([{ ms: 5, type: 'throttled', share: 0.2 }]);
});
