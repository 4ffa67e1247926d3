import diagnostics from 'node:diagnostics_channel';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { exitsBetween, readExits } from '../../src/balloon/exits.js';
import {
  INCOMING_CHANNELS,
  IncomingObserver,
  MIGRATION_CHANNELS,
  type MigrationEnded,
  type MigrationHappened,
  type MigrationProgressed,
  type MigrationStarted,
  migrateObserved,
  publishRefusal,
  subscribeToIncoming,
  subscribeToMigrations,
} from '../../src/diagnostics.js';
import { isLacunaError } from '../../src/errors.js';
import { type MigrationEvent, PrecopySource } from '../../src/migration/precopy.js';
import { reportOf } from '../../src/migration/report.js';
import { migrateLive } from '../support/live-migration.js';
import { Machine } from '../support/machine.js';

/** Slow enough for progress to be reported. */
const SLOW = { bytesPerSecond: 20e6, zeroDetection: false } as const;

/** All messages, as a program of somebody else's sees them: by the channels' names. */
const heard: { channel: string; message: unknown }[] = [];
const listener = (message: unknown, name: string | symbol): void => {
  heard.push({ channel: String(name), message });
};
const of = <T>(channel: keyof typeof MIGRATION_CHANNELS): T[] =>
  heard.filter((entry) => entry.channel === MIGRATION_CHANNELS[channel]).map(({ message }) => message as T);

beforeEach(() => {
  heard.length = 0;
  for (const channel of Object.values(MIGRATION_CHANNELS)) {
    diagnostics.subscribe(channel, listener);
  }
});
afterEach(stopListening);

function stopListening(): void {
  for (const channel of Object.values(MIGRATION_CHANNELS)) {
    diagnostics.unsubscribe(channel, listener);
  }
}

it('has the names that its documentation gives', () => {
  expect(MIGRATION_CHANNELS).toEqual({
    start: 'lacuna:migration:start',
    event: 'lacuna:migration:event',
    progress: 'lacuna:migration:progress',
    end: 'lacuna:migration:end',
  });
});

it('publishes the start, all events in order, progress, and the end with a report', async () => {
  const machine = Machine.boot({ workload: { kind: 'churn', pagesPerSecond: 2000, keepBlocks: 8 } });
  const events: MigrationEvent[] = [];
  let progress = 0;
  const exitsBefore = readExits(machine.control.words);
  const { source } = await migrateLive(machine, (request) =>
    migrateObserved({
      ...request,
      name: 'web-1',
      exits: () => readExits(machine.control.words),
      droppedPages: () => 7,
      options: SLOW,
      onEvent: (event) => {
        events.push(event);
        request.onEvent?.(event);
      },
      onProgress: () => {
        progress += 1;
      },
    }),
  );
  expect(source?.error).toBeUndefined();
  const [start, ...others] = of<MigrationStarted>('start');
  expect(others).toEqual([]);
  const identity = { id: start!.id, name: 'web-1' };
  expect(start).toEqual({ ...identity, memoryBytes: 1024 * 4096, options: SLOW });
  expect(of<MigrationHappened>('event')).toEqual(events.map((event) => ({ ...identity, event })));
  expect(events.at(0)?.type).toBe('started');
  expect(events.at(-1)?.type).toBe('completed');
  const seen = of<MigrationProgressed>('progress');
  expect(seen.length).toBeGreaterThan(0);
  expect(seen).toHaveLength(progress);
  expect(seen[0]).toMatchObject(identity);
  const report = reportOf(source!, {
    memoryBytes: machine.memory.layout.memoryBytes,
    exits: exitsBetween(exitsBefore, readExits(machine.control.words)),
    stalePages: machine.device.session.counts.stale,
    rejectedRanges: machine.device.session.counts.rejected,
    droppedPages: 0,
  });
  expect(of<MigrationEnded>('end')).toEqual([{ ...identity, report, error: undefined }]);
  expect(report.exits.configReads).toBeGreaterThan(0);
  expect(heard.at(0)?.channel).toBe(MIGRATION_CHANNELS.start);
  expect(heard.at(-1)?.channel).toBe(MIGRATION_CHANNELS.end);
});

it('counts stale hints of this migration, not of those before it', async () => {
  const machine = Machine.boot();
  machine.device.session.counts.stale = 100;
  machine.device.session.counts.rejected = 10;
  await migrateLive(machine, migrateObserved);
  const report = of<MigrationEnded>('end')[0]!.report!;
  expect(report.hints.stale).toBeLessThan(100);
  expect(report.hints.rejected).toBe(0);
  expect(report.exits).toMatchObject({ configReads: 0, configWrites: 0, kicks: 0 });
});

it('numbers migrations, and names those that have no name by their number', async () => {
  await migrateLive(Machine.boot(), migrateObserved);
  await migrateLive(Machine.boot(), migrateObserved);
  const [first, second] = of<MigrationStarted>('start');
  expect(second!.id).toBe(first!.id + 1);
  expect(second!.name).toBe(String(second!.id));
  expect(of<MigrationEnded>('end').map(({ id }) => id)).toEqual([first!.id, second!.id]);
});

it('publishes how one ended that failed', async () => {
  const { source } = await migrateLive(Machine.boot(), migrateObserved, { refuseState: true });
  const [end] = of<MigrationEnded>('end');
  expect(end!.error).toBe(source!.error);
  expect(end!.report).toMatchObject({ status: 'failed', error: { code: 'DESTINATION_FAILED' } });
});

it('publishes the end of one that was rejected', async () => {
  const { rejection } = await migrateLive(Machine.boot(), (request) =>
    migrateObserved({ ...request, options: { maxRounds: 0 } }),
  );
  expect(isLacunaError(rejection, 'INVALID_ARGUMENT')).toBe(true);
  expect(of<MigrationStarted>('start')).toHaveLength(1);
  expect(of<MigrationEnded>('end')).toMatchObject([{ report: undefined, error: rejection }]);
});

it('tells a subscriber that comes in the midst of it, and none that has gone', async () => {
  diagnostics.unsubscribe(MIGRATION_CHANNELS.progress, listener);
  let late = 0;
  let takeBack = (): void => {};
  const { source } = await migrateLive(Machine.boot(), (request) =>
    migrateObserved({
      ...request,
      options: SLOW,
      onEvent: ({ type }) => {
        if (type === 'round') {
          takeBack = subscribeToMigrations({
            progress: () => {
              late += 1;
              takeBack();
            },
          });
        }
      },
    }),
  );
  expect(source?.phase).toBe('completed');
  expect(late).toBe(1);
});

it('works nothing out for nobody: without subscribers there is neither progress nor a report', async () => {
  stopListening();
  const pendingPages = vi.spyOn(PrecopySource.prototype, 'pendingPages', 'get');
  let exitsRead = 0;
  const machine = Machine.boot();
  const { source } = await migrateLive(machine, (request) =>
    migrateObserved({
      ...request,
      options: SLOW,
      exits: () => {
        exitsRead += 1;
        return readExits(machine.control.words);
      },
    }),
  );
  expect(source?.phase).toBe('completed');
  expect(heard).toEqual([]);
  expect(pendingPages).not.toHaveBeenCalled();
  expect(exitsRead, 'before the migration, for a subscriber that comes later').toBe(1);
  pendingPages.mockRestore();
});

const ORIGIN = { name: 'web-1', migration: '00ff', peer: '10.0.0.7:40000' };
const COUNTS = { bytes: 9000, pages: 2, zeroPages: 3, filledPages: 1 };

it('has the names of the incoming channels that its documentation gives', () => {
  expect(INCOMING_CHANNELS).toEqual({
    start: 'lacuna:incoming:start',
    event: 'lacuna:incoming:event',
    progress: 'lacuna:incoming:progress',
    end: 'lacuna:incoming:end',
    refused: 'lacuna:incoming:refused',
  });
});

it('publishes what becomes of a guest that comes in, and nothing after its end', () => {
  const seen: unknown[] = [];
  const hear = (message: unknown): void => void seen.push(message);
  const stop = subscribeToIncoming({ start: hear, event: hear, progress: hear, end: hear, refused: hear });
  publishRefusal('10.0.0.8:1', 'no room');
  const observer = new IncomingObserver(ORIGIN, 4096, 2);
  observer.event({ type: 'lost', reason: 'cut' });
  observer.progress(() => COUNTS);
  observer.end('started', () => COUNTS);
  observer.event({ type: 'ready' });
  observer.progress(() => COUNTS);
  observer.end('discarded', () => COUNTS, 'its link broke');
  stop();
  const { identity } = observer;
  expect(identity).toEqual({ ...ORIGIN, id: identity.id });
  expect(seen).toEqual([
    { peer: '10.0.0.8:1', reason: 'no room' },
    { ...identity, memoryBytes: 4096, streams: 2 },
    { ...identity, event: { type: 'lost', reason: 'cut' } },
    { ...identity, counts: COUNTS },
    { ...identity, outcome: 'started', counts: COUNTS, reason: undefined },
  ]);
  expect(new IncomingObserver(ORIGIN, 4096, 2).identity.id).toBe(identity.id + 1);
});

it('adds nothing up for nobody', () => {
  const observer = new IncomingObserver(ORIGIN, 4096, 2);
  const counts = vi.fn(() => COUNTS);
  observer.progress(counts);
  observer.end('started', counts);
  expect(counts).not.toHaveBeenCalled();
});
