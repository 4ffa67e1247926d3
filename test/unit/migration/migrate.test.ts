import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../../src/errors.js';
import { type MigrateRequest, migrate } from '../../../src/migration/migrate.js';
import type { MigrationEvent, PrecopySource } from '../../../src/migration/precopy.js';
import { type LiveMigration, migrateLive } from '../../support/live-migration.js';
import { expectHealthy, Machine } from '../../support/machine.js';

/** Slow enough for progress to be reported: 1024 pages in some 200 ms. */
const SLOW = { bytesPerSecond: 20e6, zeroDetection: false, hints: false } as const;
const MISTAKE = new Error("a mistake in the embedder's code");

/** I8: the guest runs at the source, and is whole. */
function expectGivenBack(machine: Machine, { arrived }: LiveMigration): void {
  expect(arrived, 'the guest runs at the destination').toBeUndefined();
  expect({ paused: machine.paused, migrating: machine.migrating }).toEqual({
    paused: false,
    migrating: false,
  });
  machine.settle();
  expect(machine.heldPages).toBe(0);
  expectHealthy(machine);
}

function withEvents(onEvent: (event: MigrationEvent) => void, options: MigrateRequest['options'] = {}) {
  return (request: MigrateRequest): Promise<PrecopySource> => migrate({ ...request, options, onEvent });
}

it('tells of progress while it is under way', async () => {
  const seen: number[] = [];
  const { source } = await migrateLive(Machine.boot(), (request) =>
    migrate({
      ...request,
      options: SLOW,
      onProgress: ({ phase, round, transferredBytes, sentPages }) => {
        expect(phase).not.toBe('completed');
        expect(round).toBeGreaterThanOrEqual(0); // a busy machine has not come to the first round yet
        expect(transferredBytes).toBeGreaterThanOrEqual(sentPages * 4096);
        seen.push(sentPages);
      },
    }),
  );
  expect(source?.phase).toBe('completed');
  expect(seen.length).toBeGreaterThan(0);
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
});

describe('I8 a handler that throws', () => {
  it.each(['started', 'round', 'session-issued', 'round-end', 'stopping', 'stopped', 'ready'] as const)(
    'at "%s": the guest runs here, and the promise is rejected with what it threw',
    async (type) => {
      const machine = Machine.boot({ reportMode: 'hold' });
      let calls = 0;
      const migration = await migrateLive(
        machine,
        withEvents((event) => {
          calls += event.type === type ? 1 : 0;
          if (calls > 0) {
            calls += 1;
            throw MISTAKE;
          }
        }),
      );
      expect(migration.rejection).toBe(MISTAKE);
      expect(calls, 'it is not called again').toBe(2);
      expectGivenBack(machine, migration);
    },
  );

  it('onProgress too', async () => {
    const machine = Machine.boot();
    const migration = await migrateLive(machine, (request) =>
      migrate({
        ...request,
        options: SLOW,
        onProgress: () => {
          throw MISTAKE;
        },
      }),
    );
    expect(migration.rejection).toBe(MISTAKE);
    expectGivenBack(machine, migration);
  });

  it.each(['committed', 'completed'] as const)(
    'at "%s" it comes too late: the guest runs there, and never here (I10)',
    async (type) => {
      const machine = Machine.boot();
      const { rejection, arrived } = await migrateLive(
        machine,
        withEvents((event) => {
          if (event.type === type) {
            throw MISTAKE;
          }
        }),
      );
      expect(rejection).toBe(MISTAKE);
      expect(arrived).toBeDefined();
      expect(machine.paused).toBe(true);
      expect(machine.resumes).toBe(0);
    },
  );
});

describe('I8 a VM that throws', () => {
  it('in payload: the guest runs here', async () => {
    const machine = Machine.boot({ reportMode: 'hold' });
    machine.onPayload = (pfn) => {
      if (pfn >= 512) {
        throw MISTAKE;
      }
    };
    const migration = await migrateLive(machine, migrate);
    expect(migration.rejection).toBe(MISTAKE);
    expectGivenBack(machine, migration);
  });

  it('in saveDeviceState, when it was stopped already: the guest runs here', async () => {
    const machine = Machine.boot();
    machine.saveDeviceState = () => {
      throw MISTAKE;
    };
    const migration = await migrateLive(machine, migrate);
    expect(migration.rejection).toBe(MISTAKE);
    expect(machine.resumes).toBe(1);
    expectGivenBack(machine, migration);
  });

  it('and again when it is to go on: the first exception is told of', async () => {
    const machine = Machine.boot();
    machine.onPayload = () => {
      throw MISTAKE;
    };
    machine.resume = () => {
      throw new Error('the second');
    };
    expect((await migrateLive(machine, migrate)).rejection).toBe(MISTAKE);
  });
});

it('does nothing to the guest if it was cancelled before it began', async () => {
  const machine = Machine.boot();
  machine.requestPause();
  const migration = await migrateLive(machine, (request) =>
    migrate({ ...request, signal: AbortSignal.abort('no') }),
  );
  expect(isLacunaError(migration.rejection, 'CANCELLED')).toBe(true);
  expect(machine.paused).toBe(true);
  expect(machine.resumes).toBe(0);
});
