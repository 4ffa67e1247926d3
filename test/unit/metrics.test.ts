import diagnostics from 'node:diagnostics_channel';
import * as promClient from 'prom-client';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readExits } from '../../src/balloon/exits.js';
import {
  IncomingObserver,
  MIGRATION_CHANNELS,
  type MigrationEnded,
  type MigrationStarted,
  migrateObserved,
  publishRefusal,
  subscribeToMigrations,
} from '../../src/diagnostics.js';
import { collectMigrationMetrics } from '../../src/metrics.js';
import type { MigrationReport } from '../../src/migration/report.js';
import { migrateLive } from '../support/live-migration.js';
import { type Faults, Machine, type MachineOptions } from '../support/machine.js';

let registry: promClient.Registry;
let stop: () => void;
const reports: MigrationReport[] = [];
let stopReports: () => void;

beforeEach(() => {
  registry = new promClient.Registry();
  stop = collectMigrationMetrics(promClient, { registry });
  reports.length = 0;
  stopReports = subscribeToMigrations({
    end: ({ report }: MigrationEnded) => {
      if (report !== undefined) {
        reports.push(report);
      }
    },
  });
});
afterEach(() => {
  stop();
  stopReports();
});

/** Samples by name and labels, in the text that Prometheus reads. */
async function scrape(): Promise<Map<string, number>> {
  const samples = new Map<string, number>();
  for (const line of (await registry.metrics()).split('\n')) {
    const match = /^([a-z_]+(?:\{[^}]*\})?) (\S+)$/.exec(line);
    if (match !== null) {
      samples.set(match[1]!, Number(match[2]));
    }
  }
  return samples;
}

async function move(options: MachineOptions = {}, faults: Faults = {}): Promise<void> {
  const machine = Machine.boot(options);
  const exits = (): ReturnType<typeof readExits> => readExits(machine.control.words);
  await migrateLive(machine, (request) => migrateObserved({ ...request, name: 'db', exits }), faults);
}

const sum = (pick: (report: MigrationReport) => number): number =>
  reports.reduce((total, report) => total + pick(report), 0);

it('says of two migrations what their reports say', async () => {
  await move({ workload: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 20 }, zero: [[700, 40]] });
  await move({ free: [] });
  expect(reports.map(({ status }) => status)).toEqual(['completed', 'completed']);
  const samples = await scrape();
  const expected: [string, number][] = [
    ['lacuna_migrations_total{status="completed"}', 2],
    ['lacuna_migration_transferred_bytes_total', sum(({ ram }) => ram.transferred)],
    ['lacuna_migration_pages_total{fate="sent"}', sum(({ ram }) => ram.normal)],
    ['lacuna_migration_pages_total{fate="zero"}', sum(({ ram }) => ram.duplicate)],
    ['lacuna_migration_pages_total{fate="filled"}', sum(({ ram }) => ram.filled)],
    ['lacuna_migration_pages_total{fate="skipped"}', sum(({ ram }) => ram.skipped)],
    ['lacuna_migration_dirtied_pages_total', sum(({ ram }) => ram.dirtied)],
    ['lacuna_migration_rounds_total', sum(({ rounds }) => rounds.length)],
    ['lacuna_hint_sessions_total{outcome="done"}', sum(({ hints }) => hints.sessions.length)],
    ['lacuna_hint_ranges_total{outcome="accepted"}', sum(({ hints }) => hints.ranges)],
    ['lacuna_hint_ranges_total{outcome="rejected"}', 0],
    ['lacuna_hint_pages_total{outcome="applied"}', sum(({ hints }) => hints.applied)],
    ['lacuna_hint_pages_total{outcome="already_sent"}', sum(({ hints }) => hints.alreadySent)],
    ['lacuna_hint_pages_total{outcome="not_pending"}', sum(({ hints }) => hints.notPending)],
    ['lacuna_hint_pages_total{outcome="stale"}', sum(({ hints }) => hints.stale)],
    ['lacuna_hint_pages_total{outcome="ring_full"}', 0],
    ['lacuna_hint_redirtied_pages_total', sum(({ hints }) => hints.reDirtied)],
    ['lacuna_hint_sent_in_vain_pages_total', sum(({ hints }) => hints.sentInVain)],
    [
      'lacuna_vm_exits_total{feature="reporting",kind="config_read"}',
      sum(({ exits }) => exits.byFeature.reporting.configReads),
    ],
    [
      'lacuna_vm_exits_total{feature="shared",kind="config_write"}',
      sum(({ exits }) => exits.byFeature.shared.configWrites),
    ],
    [
      'lacuna_vm_exits_total{feature="reporting",kind="kick"}',
      sum(({ exits }) => exits.byFeature.reporting.kicks),
    ],
    ['lacuna_migration_duration_seconds_count', 2],
    ['lacuna_migration_downtime_seconds_count', 2],
  ];
  expect(expected.map(([name]) => [name, samples.get(name)])).toEqual(expected);
  expect(samples.get('lacuna_migration_duration_seconds_sum')).toBeCloseTo(
    sum((report) => report['total-time']) / 1000,
    9,
  );
  expect(samples.get('lacuna_migration_downtime_seconds_sum')).toBeCloseTo(
    sum(({ downtime }) => downtime ?? 0) / 1000,
    9,
  );
  // The comparison means something only if there was something to count.
  expect(sum(({ ram }) => ram.normal)).toBeGreaterThan(0);
  expect(sum(({ ram }) => ram.duplicate)).toBeGreaterThanOrEqual(40);
  expect(sum(({ hints }) => hints.applied)).toBeGreaterThan(0);
  expect(sum(({ exits }) => exits.byFeature.shared.configWrites)).toBeGreaterThan(0);
});

it('tells failures and rejections apart, and puts no time of theirs into the histograms', async () => {
  await move({}, { refuseState: true });
  await migrateLive(Machine.boot(), (request) =>
    migrateObserved({ ...request, signal: AbortSignal.abort() }),
  );
  const samples = await scrape();
  expect(samples.get('lacuna_migrations_total{status="failed"}')).toBe(1);
  expect(samples.get('lacuna_migrations_total{status="rejected"}')).toBe(1);
  expect(samples.get('lacuna_migration_errors_total{code="DESTINATION_FAILED"}')).toBe(1);
  expect(samples.get('lacuna_migration_duration_seconds_count')).toBe(0);
  expect(samples.get('lacuna_migration_transferred_bytes_total')).toBe(reports[0]?.ram.transferred);
});

it('shows a migration under way, and nothing of it afterwards', async () => {
  const during: Map<string, number>[] = [];
  await migrateLive(Machine.boot(), (request) =>
    migrateObserved({
      ...request,
      name: 'db',
      options: { bytesPerSecond: 20e6, hints: false, zeroDetection: false },
      onProgress: () => {
        void scrape().then((samples) => during.push(samples)); // the subscribers were told before
      },
    }),
  );
  const seen = during[0]!;
  expect(seen.get('lacuna_migrations_running{phase="round"}')).toBe(1);
  expect(seen.get('lacuna_migrations_running{phase="setup"}')).toBe(0);
  expect(seen.get('lacuna_migration_round{migration="db"}')).toBe(1);
  expect(seen.get('lacuna_migration_sent_bytes{migration="db"}')).toBeGreaterThan(0);
  expect(seen.get('lacuna_migration_pending_bytes{migration="db"}')).toBeGreaterThan(0);
  const after = await scrape();
  expect(after.get('lacuna_migrations_running{phase="round"}')).toBe(0);
  expect([...after.keys()].filter((name) => name.includes('migration="db"'))).toEqual([]);
});

it('says where a guest is that comes in, and what it came to', async () => {
  const counts =
    (bytes: number) => (): { bytes: number; pages: number; zeroPages: number; filledPages: number } => ({
      bytes,
      pages: 2,
      zeroPages: 3,
      filledPages: 1,
    });
  const states = async (): Promise<[string, number][]> =>
    [...(await scrape())].filter(
      ([name, value]) => name.startsWith('lacuna_incoming_migrations_running') && value > 0,
    );
  const observer = new IncomingObserver({ name: 'db', migration: '01', peer: '10.0.0.7:40000' }, 4096, 1);
  expect(await states()).toEqual([['lacuna_incoming_migrations_running{state="receiving"}', 1]]);
  observer.progress(counts(4000));
  expect((await scrape()).get('lacuna_incoming_received_bytes{migration="db"}')).toBe(4000);
  observer.event({ type: 'lost', reason: 'cut' });
  expect(await states()).toEqual([['lacuna_incoming_migrations_running{state="lost"}', 1]]);
  observer.event({ type: 'restored', kept: true });
  expect(await states()).toEqual([['lacuna_incoming_migrations_running{state="receiving"}', 1]]);
  observer.event({ type: 'ready' });
  expect(await states()).toEqual([['lacuna_incoming_migrations_running{state="ready"}', 1]]);
  observer.end('started', counts(9000));
  new IncomingObserver({ name: 'web', migration: '02', peer: '10.0.0.7:40001' }, 4096, 1).end(
    'discarded',
    counts(100),
    'called off',
  );
  publishRefusal('10.0.0.8:40002', 'no room');
  expect(await states()).toEqual([]);
  const samples = await scrape();
  const expected: [string, number | undefined][] = [
    ['lacuna_incoming_migrations_total{outcome="started"}', 1],
    ['lacuna_incoming_migrations_total{outcome="discarded"}', 1],
    ['lacuna_incoming_migrations_total{outcome="refused"}', 1],
    ['lacuna_incoming_bytes_total', 9100],
    ['lacuna_incoming_pages_total{fate="sent"}', 4],
    ['lacuna_incoming_pages_total{fate="zero"}', 6],
    ['lacuna_incoming_pages_total{fate="filled"}', 2],
    ['lacuna_link_losses_total{end="destination"}', 1],
    ['lacuna_link_recoveries_total{end="destination",kept="true"}', 1],
    ['lacuna_incoming_received_bytes{migration="db"}', undefined],
  ];
  expect(expected.map(([name]) => [name, samples.get(name)])).toEqual(expected);
});

it('counts links that break at the source, and come back', async () => {
  const { channel, subscribe, unsubscribe } = diagnostics;
  const breaks = (message: unknown): void => {
    const { id, name } = message as MigrationStarted;
    const events = channel(MIGRATION_CHANNELS.event);
    events.publish({ id, name, event: { type: 'lost', reason: 'cut' } });
    events.publish({ id, name, event: { type: 'lost', reason: 'cut' } });
    events.publish({ id, name, event: { type: 'restored', kept: false } });
  };
  subscribe(MIGRATION_CHANNELS.start, breaks);
  await move();
  unsubscribe(MIGRATION_CHANNELS.start, breaks);
  const samples = await scrape();
  expect(samples.get('lacuna_link_losses_total{end="source"}')).toBe(2);
  expect(samples.get('lacuna_link_recoveries_total{end="source",kept="false"}')).toBe(1);
  expect(samples.get('lacuna_link_losses_total{end="destination"}')).toBeUndefined();
});

it('follows the conventions for names: base units, counters that end in _total, help for each', async () => {
  for (const { name, help, type } of await registry.getMetricsAsJSON()) {
    expect(name).toMatch(/^lacuna_[a-z_]+$/);
    expect(help.length, name).toBeGreaterThan(20);
    expect(name.endsWith('_total'), name).toBe(String(type) === 'counter');
    expect(name).not.toMatch(/_ms|_milli|_mib|_kib/);
  }
});

it('takes its metrics out of the registry, counts no more, and may begin anew', async () => {
  stop();
  expect(await registry.getMetricsAsJSON()).toEqual([]);
  await move();
  stop = collectMigrationMetrics(promClient, { registry, downtimeBuckets: [1], durationBuckets: [2] });
  const samples = await scrape();
  expect(samples.get('lacuna_migrations_total{status="completed"}')).toBeUndefined();
  expect(samples.get('lacuna_migration_downtime_seconds_bucket{le="1"}')).toBe(0);
  expect(samples.get('lacuna_migration_duration_seconds_bucket{le="2"}')).toBe(0);
  expect(() => collectMigrationMetrics(promClient, { registry })).toThrow('already been registered');
});
