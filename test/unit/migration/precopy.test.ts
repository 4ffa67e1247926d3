import { describe, expect, it } from 'vitest';
import { HintState } from '../../../src/balloon/hint-session.js';
import { LacunaError } from '../../../src/errors.js';
import type { SourcePhase } from '../../../src/migration/precopy.js';
import type { DestinationMessage, PageCounts } from '../../../src/wire/channel.js';
import {
  DEFAULT_FREE,
  expectBalanced,
  expectGuestKept,
  expectHealthy,
  expectSameGuest,
  type Faults,
  Machine,
  migrated,
  pagesIn,
  TestMigration,
} from '../../support/machine.js';

const FREE_PAGES = pagesIn(DEFAULT_FREE);
const WAIT = { schedule: 'wait' } as const;

/** All phases in which the guest can still be kept, in their order. */
const BEFORE_COMMIT: readonly SourcePhase[] = [
  'setup',
  'sync',
  'round',
  'fills',
  'pausing',
  'final-sync',
  'final-send',
  'ready-wait',
];

/** A migration of a guest that works and *holds*, brought to a phase. */
function inPhase(phase: SourcePhase, faults: Faults = {}): TestMigration {
  const machine = Machine.boot({
    reportMode: 'hold',
    workload: { kind: 'idle', pagesPerSecond: 5000 },
  });
  const migration = new TestMigration(machine, WAIT, faults);
  return migration.until(() => migration.source.phase === phase);
}

/** Drops some of what the destination says. */
function without(type: DestinationMessage['type']): Faults {
  return { reply: (message) => (message.type === type ? undefined : message) };
}

describe('a migration', () => {
  it('goes through its phases and events in order', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    const phases: SourcePhase[] = [];
    migration.until(() => {
      if (phases.at(-1) !== migration.source.phase) {
        phases.push(migration.source.phase);
      }
      return migration.source.done;
    });
    expect(phases).toEqual([
      'setup',
      'sync',
      'round',
      'fills',
      'sync',
      'pausing',
      'final-sync',
      'final-send',
      'ready-wait',
      'commit-wait',
      'completed',
    ]);
    expect(migration.events.map(({ type }) => type)).toEqual([
      'started',
      'round',
      'session-issued',
      'session-started',
      'session-done',
      'round-end',
      'stopping',
      'stopped',
      'round-end',
      'ready',
      'committed',
      'completed',
    ]);
    expectSameGuest(migration);
  });

  it('keeps the order that I2 and I4 ask for: drained before an id is issued, closed before the log is drained', () => {
    const machine = Machine.boot({
      workload: { kind: 'dirty', bytesPerSecond: 40e6, workingSetBytes: 400_000 },
    });
    const migration = new TestMigration(machine, { ...WAIT, maxRounds: 5 });
    const drain = machine.drainDirty.bind(machine);
    let drains = 0;
    machine.drainDirty = (sink) => {
      expect(machine.device.session.state).toBe(HintState.closed);
      drains += 1;
      return drain(sink);
    };
    migration.tap.onFrame = ({ type }) => type !== 'round-end' && expect(drains).toBeGreaterThan(0);
    migration.until(() => {
      expect(migration.count('session-issued')).toBeLessThanOrEqual(drains);
      return migration.source.done;
    });
    expect(drains).toBe(migration.source.rounds.length + (migration.count('stopping') === 1 ? 1 : 0));
    expect(migration.source.sessions.length).toBeGreaterThan(1);
    expectSameGuest(migration);
  });

  it('I5 claims every page before it looks at its contents', () => {
    const machine = Machine.boot({ zero: [[100, 40]] });
    const migration = new TestMigration(machine, { schedule: 'overlap' });
    let looked = 0;
    machine.onPayload = (pfn, pageCount) => {
      const { send, claimed } = migration.source.accounts;
      for (let page = pfn; page < pfn + pageCount; page += 1) {
        looked += 1;
        if (send.test(page) || !claimed.test(page)) {
          expect.fail(`page ${page} was read before it was claimed`);
        }
      }
    };
    migration.run();
    expect(looked).toBeGreaterThan(300);
    expectSameGuest(migration);
  });

  it('I5 a page that is written while it is read goes out again', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, WAIT);
    let version = 5;
    machine.onPayload = (pfn, pageCount) => {
      if (pfn <= 100 && 100 < pfn + pageCount && version < 8) {
        // What the sender goes on to copy is new bytes here and old ones there; the mark follows.
        machine.write(100, version);
        version += 1;
      }
    };
    migration.run();
    const sent = migration.frames.filter(
      ({ type, pfn, pageCount }) => type === 'pages' && pfn <= 100 && 100 < pfn + pageCount,
    );
    expect(sent.length).toBeGreaterThanOrEqual(2);
    expectSameGuest(migration);
  });

  it.each([1, 7, 64])('makes no run longer than %i pages', (maxRunPages) => {
    const migration = migrated(Machine.boot(), { ...WAIT, maxRunPages });
    for (const { type, pageCount } of migration.frames) {
      expect(type === 'pages' ? pageCount : 0).toBeLessThanOrEqual(maxRunPages);
    }
  });

  it('sends zero pages without contents, and with them where detection is off', () => {
    const zero = [[100, 40]] as const;
    const found = migrated(Machine.boot({ zero }), { hints: false, zeroDetection: true });
    const blind = migrated(Machine.boot({ zero }), { hints: false, zeroDetection: false });
    expect(found.source.sent.zeroPages).toBeGreaterThanOrEqual(40);
    expect(blind.source.sent.zeroPages).toBe(0);
    expect(found.wasSent(120)).toBe(false);
    expect(blind.wasSent(120)).toBe(true);
    expect(blind.source.transferredBytes).toBeGreaterThan(found.source.transferredBytes + 40 * 4096);
  });

  it('moves memory of several segments with a hole between them', () => {
    const blocks = [
      { startGpa: 0, endGpa: 700 * 4096 },
      { startGpa: 1000 * 4096, endGpa: 1400 * 4096 },
    ];
    const free = [
      [300, 400],
      [1000, 200],
    ] as const;
    const migration = migrated(Machine.boot({ blocks, free }), WAIT);
    expect(migration.source.accounts.hints.applied).toBe(600);
    expect(migration.source.rounds[0]!.pending).toBe(1100);
  });

  it('takes no less time than its link needs', () => {
    const { source } = migrated(Machine.boot(), { hints: false, bytesPerSecond: 10e6, downtimeLimitMs: 5 });
    expect(source.endedAt - source.startedAt).toBeGreaterThan(source.transferredBytes / 10_000 - 8);
    expect(source.endedAt - source.startedAt).toBeLessThan(source.transferredBytes / 10_000 + 8);
  });
});

describe('the books', () => {
  it.each([
    [{ kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 20 }, 'overlap'],
    [{ kind: 'pressure', pagesPerSecond: 20_000 }, 'adaptive'],
    [{ kind: 'dirty', bytesPerSecond: 40e6, workingSetBytes: 400_000 }, 'wait'],
  ] as const)('every page of every round went one way: %o, %s', (workload, schedule) => {
    const machine = Machine.boot({ workload, zero: [[60, 60]] });
    machine.device.setBalloonTarget(25);
    machine.settle();
    const { source } = migrated(machine, { schedule, maxRounds: 8 });
    expect(source.rounds.length).toBeGreaterThan(2);
    const total = (key: 'sent' | 'zero' | 'filled'): number =>
      source.rounds.reduce((sum, record) => sum + record[key], 0);
    expect(total('sent')).toBe(source.sent.pages);
    expect(total('zero')).toBe(source.sent.zeroPages);
    expect(total('filled')).toBe(source.sent.filledPages);
    expect(source.rounds.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(
      source.transferredBytes,
    );
    expect(source.rounds.at(-1)!.final).toBe(true);
    expect(source.rounds.at(-1)!.carried).toBe(0);
    const { hinted, applied, alreadySent, notPending } = source.accounts.hints;
    expect(applied + alreadySent + notPending).toBe(hinted);
    expect(source.rounds.reduce((sum, { skipped }) => sum + skipped, 0)).toBeLessThanOrEqual(applied);
  });

  it.each(['overlap', 'wait'] as const)('a cancel at any step leaves them balanced, %s', (schedule) => {
    for (let steps = 1; ; steps += 5) {
      const migration = new TestMigration(Machine.boot({ zero: [[60, 60]] }), { schedule });
      for (let i = 0; i < steps && !migration.source.done; i += 1) {
        migration.step();
      }
      if (migration.source.done) {
        return;
      }
      migration.cancel();
      migration.until(() => migration.source.done);
      expectBalanced(migration.source);
    }
  });

  it('counts what was cancelled', () => {
    const machine = Machine.boot();
    const migration = new TestMigration(machine, { hints: false, bytesPerSecond: 1e6 });
    migration.until(() => migration.source.sent.pages > 300);
    migration.cancel();
    expectBalanced(migration.source);
    const round = migration.source.rounds[0]!;
    expect(round.cancelled).toBe(1024 - round.sent - round.zero);
    expect(round.cancelled).toBeGreaterThan(300);
  });
});

describe('I8 a cancel', () => {
  it.each(BEFORE_COMMIT)('I8 in %s: the guest runs here, with its memory back', (phase) => {
    const migration = inPhase(phase);
    expect(migration.source.canCancel).toBe(true);
    migration.cancel();
    expect(migration.source.phase).toBe('cancelled');
    expect(migration.source.error?.code).toBe('CANCELLED');
    expectBalanced(migration.source);
    expectGuestKept(migration, FREE_PAGES);
    expect(migration.receiver.discarded).toBe(true);
    migration.machine.run(20);
    expectHealthy(migration.machine);
    migrated(migration.machine, WAIT);
  });

  it('I8 after the commit has left has no effect', () => {
    const migration = inPhase('commit-wait');
    expect(migration.source.canCancel).toBe(false);
    migration.source.cancel();
    migration.run();
    expectSameGuest(migration);
    expect(migration.machine.paused).toBe(true);
  });

  it('I8 and once it is over neither', () => {
    const migration = inPhase('completed');
    migration.cancel();
    migration.source.step();
    expect(migration.source.phase).toBe('completed');
    expect(migration.machine.resumes).toBe(0);
  });
});

describe('an error of the destination', () => {
  it.each(BEFORE_COMMIT)('in %s: the guest runs here', (phase) => {
    const migration = inPhase(phase);
    migration.channel.reply({ type: 'error', reason: 'the test says so' });
    migration.run();
    expect(migration.source.phase).toBe('failed');
    expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
    expect(migration.source.error?.message).toContain('the test says so');
    expectGuestKept(migration, FREE_PAGES);
  });

  it('in commit-wait it is no proof that the guest does not run there: the source waits, and does not start it', () => {
    const migration = inPhase('commit-wait', without('started'));
    migration.channel.reply({ type: 'error', reason: 'the link broke' });
    migration.run();
    expect(migration.source.phase).toBe('unknown');
    expect(migration.machine.paused).toBe(true);
  });

  it.each(['round', 'final-send'] as const)('a message out of turn in %s is a violation', (phase) => {
    const migration = inPhase(phase);
    migration.channel.reply({ type: 'started', startedAt: 1 });
    migration.run();
    expect(migration.source.error?.code).toBe('PROTOCOL_VIOLATION');
    expectGuestKept(migration, FREE_PAGES);
  });

  it('a device state that it refuses', () => {
    const migration = new TestMigration(Machine.boot(), WAIT, { refuseState: true }).run();
    expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
    expectGuestKept(migration, FREE_PAGES);
  });
});

describe('a guest that fails', () => {
  it.each(BEFORE_COMMIT.slice(0, 5))('in %s: its error ends the migration', (phase) => {
    const migration = inPhase(phase);
    migration.machine.failure = new LacunaError('GUEST_FAILED', 'it died');
    migration.run();
    expect(migration.source.phase).toBe('failed');
    expect(migration.source.error?.code).toBe('GUEST_FAILED');
    expect(migration.arrived).toBeUndefined();
  });

  it('VCPU_STUCK: one that reaches no safe point is left running, by a deadline', () => {
    const machine = Machine.boot({ reportMode: 'hold' });
    machine.stuck = true;
    const migration = new TestMigration(machine, { ...WAIT, pauseTimeoutMs: 70 });
    migration.until(() => migration.source.phase === 'pausing');
    const since = machine.clock.now;
    migration.run();
    expect(migration.source.error?.code).toBe('VCPU_STUCK');
    expect(machine.clock.now - since).toBeGreaterThanOrEqual(69);
    expect(machine.clock.now - since).toBeLessThan(80);
    expect(machine.resumes).toBe(1); // the request is taken back
    expectGuestKept(migration, FREE_PAGES);
  });
});

describe('the end of a migration', () => {
  it('DESTINATION_SILENT: no "ready" by the deadline, and the guest runs here', () => {
    const migration = new TestMigration(Machine.boot(), { ...WAIT, readyTimeoutMs: 40 }, without('ready'));
    migration.until(() => migration.source.phase === 'ready-wait');
    const since = migration.machine.clock.now;
    migration.run();
    expect(migration.source.error?.code).toBe('DESTINATION_SILENT');
    expect(migration.machine.clock.now - since).toBeLessThan(41);
    expectGuestKept(migration, FREE_PAGES);
  });

  it.each<SourcePhase>(['round', 'final-send'])(
    'DESTINATION_SILENT: a destination that takes nothing any more is given up (%s)',
    (phase) => {
      const migration = new TestMigration(Machine.boot(), { ...WAIT, sendTimeoutMs: 40 });
      migration.until(() => migration.source.phase === phase);
      Object.defineProperty(migration.channel, 'writable', { get: () => false });
      const since = migration.machine.clock.now;
      migration.run();
      expect(migration.source.error?.code).toBe('DESTINATION_SILENT');
      expect(migration.source.error?.message).toContain('taken nothing for 40 ms');
      expect(migration.machine.clock.now - since).toBeGreaterThanOrEqual(39);
      expectGuestKept(migration, FREE_PAGES);
    },
  );

  it.each<keyof PageCounts>(['pages', 'zeroPages', 'filledPages', 'rounds'])(
    'COUNT_MISMATCH: %s differ by one, and nothing is committed',
    (key) => {
      const faults: Faults = {
        reply: (message) =>
          message.type === 'ready'
            ? { ...message, counts: { ...message.counts, [key]: message.counts[key] + 1 } }
            : message,
      };
      const migration = new TestMigration(Machine.boot(), WAIT, faults).run();
      expect(migration.source.error?.code).toBe('COUNT_MISMATCH');
      expect(migration.frames.some(({ type }) => type === 'commit')).toBe(false);
      expectGuestKept(migration, FREE_PAGES);
    },
  );

  it('not started: the guest runs here again', () => {
    const migration = new TestMigration(Machine.boot(), WAIT, { failToStart: true }).run();
    expect(migration.source.phase).toBe('failed');
    expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
    expect(migration.receiver.state).toBe('discarded');
    expectGuestKept(migration, FREE_PAGES);
    migration.machine.run(20);
    expectHealthy(migration.machine);
  });

  it('COMMIT_UNCONFIRMED: silence after the commit, and the guest stays stopped here (I10)', () => {
    const migration = new TestMigration(Machine.boot(), { ...WAIT, startTimeoutMs: 60 }, without('started'));
    migration.until(() => migration.source.phase === 'commit-wait');
    const since = migration.machine.clock.now;
    migration.run();
    expect(migration.source.phase).toBe('unknown');
    expect(migration.source.error?.code).toBe('COMMIT_UNCONFIRMED');
    expect(migration.machine.clock.now - since).toBeLessThan(61);
    expect(migration.machine.paused).toBe(true);
    expect(migration.machine.resumes).toBe(0);
    expect(migration.arrived).toBeDefined(); // which is why
    expect(migration.frames.at(-1)?.type).toBe('commit'); // and no cancel after it
  });

  it('commits only once the modelled link has carried everything', () => {
    const migration = new TestMigration(Machine.boot(), { hints: false, bytesPerSecond: 2e6, maxRounds: 1 });
    let committedAt = Number.NaN;
    migration.tap.onFrame = ({ type }) => {
      committedAt = type === 'commit' ? migration.machine.clock.now : committedAt;
    };
    migration.run();
    const { startedAt, transferredBytes } = migration.source;
    expect(committedAt - startedAt).toBeGreaterThanOrEqual(transferredBytes / 2000 - 4.1);
  });
});

describe('I10 after the end nothing that arrives late changes it', () => {
  const late: readonly DestinationMessage[] = [
    { type: 'error', reason: 'late' },
    { type: 'not-started', reason: 'late' },
    { type: 'started', startedAt: 1 },
  ];

  it.each(late)('I10 completed, and then $type', (message) => {
    const migration = new TestMigration(Machine.boot(), WAIT).run();
    expectSameGuest(migration);
    migration.channel.reply(message);
    migration.source.step();
    expect(migration.source.phase).toBe('completed');
    expect(migration.machine.paused).toBe(true);
  });

  it('I10 completed, and then the thread of the guest here fails', () => {
    const migration = new TestMigration(Machine.boot(), WAIT).run();
    migration.machine.failure = new LacunaError('GUEST_FAILED', 'its thread was ended');
    migration.source.step();
    expect(migration.source.phase).toBe('completed');
    expect(migration.machine.paused).toBe(true);
  });

  it.each(late.filter(({ type }) => type !== 'not-started'))('I10 unknown, and then $type', (message) => {
    const migration = new TestMigration(
      Machine.boot(),
      { ...WAIT, startTimeoutMs: 60 },
      without('started'),
    ).run();
    expect(migration.source.phase).toBe('unknown');
    migration.channel.reply(message);
    migration.source.step();
    expect(migration.source.phase).toBe('unknown');
    expect(migration.machine.paused).toBe(true);
  });

  it('a cancelled migration stays cancelled', () => {
    const migration = inPhase('round');
    migration.cancel();
    migration.channel.reply({ type: 'error', reason: 'late' });
    migration.source.step();
    expect(migration.source.phase).toBe('cancelled');
    expect(migration.machine.resumes).toBe(1);
  });
});
