import { describe, expect, it } from 'vitest';
import type { LacunaErrorCode } from '../../../src/errors.js';
import { type MigrateRequest, type MigrationControls, migrate } from '../../../src/migration/migrate.js';
import type { MigrationOptions } from '../../../src/migration/options.js';
import type { SourcePhase } from '../../../src/migration/precopy.js';
import type { LoopbackChannel } from '../../../src/transport/loopback.js';
import { type Cut, CutMigration, type LinkOptions } from '../../support/cuttable-link.js';
import { migrateLive } from '../../support/live-migration.js';
import {
  DEFAULT_FREE,
  expectGuestKept,
  expectHealthy,
  expectSameGuest,
  Machine,
  pagesIn,
} from '../../support/machine.js';

/** The source asks for as long as it takes. */
const OPTIONS: Partial<MigrationOptions> = { schedule: 'wait', startTimeoutMs: Number.POSITIVE_INFINITY };
/** An answer that has not come by then does not come. */
const TEN_MINUTES = 600_000;

/** The commit is lost on its way. */
const COMMIT_LOST: Omit<Cut, 'next'> = { before: 'commit' };
/** It was acted upon, and what the destination said of it is lost. */
const ANSWER_LOST: Omit<Cut, 'next'> = { before: undefined, atOnce: true, losesReplies: true };

function committed(
  cuts: readonly Cut[],
  link: LinkOptions = {},
  options: Partial<MigrationOptions> = {},
): CutMigration {
  const machine = Machine.boot({ workload: { kind: 'idle', pagesPerSecond: 5000 } });
  const migration = new CutMigration(machine, { ...OPTIONS, ...options }, link);
  migration.until(() => migration.source.phase === 'commit-wait');
  // The commit is on its way: what is to break after it was applied breaks after one more frame.
  for (const cut of cuts) {
    const isFirst = migration.link.cuts.length === 0;
    const applied = isFirst ? migration.link.sinceRestored : 0;
    migration.link.cuts.push(cut.before === undefined ? { ...cut, afterFrames: applied + 1 } : cut);
  }
  return migration;
}

/** Nothing happens any more for a long time: the guest is stopped here, and nobody has given it up. */
function expectWaits(migration: CutMigration): void {
  const { machine, source } = migration;
  const end = machine.clock.now + TEN_MINUTES;
  for (let steps = 0; machine.clock.now < end; steps += 1) {
    migration.step();
    machine.clock.now += steps < 2000 ? 0 : 1000;
  }
  expect([source.phase, source.done, machine.paused]).toEqual(['commit-wait', false, true]);
  expect(migration.count('unconfirmed')).toBe(1);
}

type Where = 'there' | 'here' | 'unknown, and waits';

interface Row {
  readonly name: string;
  readonly cuts: readonly Cut[];
  readonly withdraws?: boolean;
  readonly refuses?: boolean;
  readonly where: Where;
  readonly error?: LacunaErrorCode;
  /** How often the guest was started, by the destination that was there first. */
  readonly starts: number;
  /** The destination says that it knows nothing of it. */
  readonly unknown?: boolean;
}

const ROWS: readonly Row[] = [
  {
    name: 'the commit is lost, and the link is restored: it comes again, and starts the guest',
    cuts: [{ ...COMMIT_LOST, next: 'kept' }],
    where: 'there',
    starts: 1,
  },
  {
    name: 'the commit is lost again and again',
    cuts: Array.from({ length: 4 }, () => ({ ...COMMIT_LOST, next: 'kept' }) as const),
    where: 'there',
    starts: 1,
  },
  {
    name: 'the answer is lost, and the link is restored: it is given again',
    cuts: [{ ...ANSWER_LOST, next: 'kept' }],
    where: 'there',
    starts: 1,
  },
  {
    name: 'the answer is lost again and again',
    cuts: Array.from({ length: 4 }, () => ({ ...ANSWER_LOST, next: 'kept' }) as const),
    where: 'there',
    starts: 1,
  },
  {
    name: 'the commit is lost and withdrawn: the guest goes on here, and can not start there any more',
    cuts: [{ ...COMMIT_LOST, next: 'kept' }],
    withdraws: true,
    where: 'here',
    error: 'DESTINATION_FAILED',
    starts: 0,
  },
  {
    name: 'the answer is lost and the commit withdrawn: it runs there',
    cuts: [{ ...ANSWER_LOST, next: 'kept' }],
    withdraws: true,
    where: 'there',
    starts: 1,
  },
  {
    name: 'the withdrawal is lost: it comes again, and not the commit',
    cuts: [
      { ...COMMIT_LOST, next: 'kept' },
      { before: 'withdraw', next: 'kept' },
    ],
    withdraws: true,
    where: 'here',
    error: 'DESTINATION_FAILED',
    starts: 0,
  },
  {
    name: 'the guest does not start, and the answer is lost: it is given again',
    cuts: [{ ...ANSWER_LOST, next: 'kept' }],
    refuses: true,
    where: 'here',
    error: 'DESTINATION_FAILED',
    starts: 1,
  },
  {
    name: 'the commit is lost, and the link for good',
    cuts: [{ ...COMMIT_LOST, next: 'never' }],
    where: 'unknown, and waits',
    starts: 0,
  },
  {
    name: 'the answer is lost, and the link for good',
    cuts: [{ ...ANSWER_LOST, next: 'never' }],
    where: 'unknown, and waits',
    starts: 1,
  },
  {
    name: 'the commit is lost, and withdrawn over a link that is lost for good',
    cuts: [{ ...COMMIT_LOST, next: 'never' }],
    withdraws: true,
    where: 'unknown, and waits',
    starts: 0,
  },
  {
    name: 'the commit is lost, and the destination is another',
    cuts: [{ ...COMMIT_LOST, next: 'fresh' }],
    where: 'unknown, and waits',
    starts: 0,
    unknown: true,
  },
  {
    name: 'the answer is lost, and the destination is another',
    cuts: [{ ...ANSWER_LOST, next: 'fresh' }],
    where: 'unknown, and waits',
    starts: 1,
    unknown: true,
  },
  {
    name: 'the commit is withdrawn, and the destination is another',
    cuts: [{ ...ANSWER_LOST, next: 'fresh' }],
    withdraws: true,
    where: 'unknown, and waits',
    starts: 1,
    unknown: true,
  },
];

describe('I10 after the commit', () => {
  it.each(ROWS.map((row) => [row.name, row] as const))('%s', (_, row) => {
    const { cuts, withdraws, refuses, where, error, starts, unknown } = row;
    const faults = refuses === true ? { failToStart: true } : {};
    const migration = committed(cuts, { faults: () => faults });
    const { source, machine, link } = migration;
    if (withdraws === true) {
      migration.until(() => migration.count('lost') === 1);
      source.withdraw();
    }
    if (where === 'unknown, and waits') {
      expectWaits(migration);
    } else {
      migration.run();
    }
    expect(link.destinations[0]!.starts).toBe(starts);
    expect(migration.count('unknown-migration')).toBe(unknown === true ? 1 : 0);
    expect(source.error?.code).toBe(error);
    if (where === 'there') {
      expectSameGuest(migration);
      expect(source.guestStartedAt).toBeLessThanOrEqual(machine.clock.now);
      expect(machine.resumes).toBe(0);
    } else if (where === 'here') {
      expectGuestKept(migration, pagesIn(DEFAULT_FREE));
      expect(link.destination.receiver.state).toBe('discarded');
    }
  });

  it('a guest that runs there was started when it was, whenever the answer came', () => {
    const migration = committed([{ ...ANSWER_LOST, next: 'kept', downMs: 5000 }]).run();
    const { guestStartedAt, endedAt } = migration.source;
    expect(endedAt - guestStartedAt).toBeGreaterThan(4900);
  });

  it('a "not started" that was said once holds: what comes late starts nothing', () => {
    const migration = committed([{ ...COMMIT_LOST, next: 'kept' }]);
    migration.until(() => migration.count('lost') === 1);
    migration.source.withdraw();
    migration.run();
    const { receiver, starts } = migration.link.destination;
    for (const late of [() => receiver.restart(), () => receiver.commit(), () => receiver.withdraw()]) {
      late();
      expect([receiver.state, starts]).toEqual(['discarded', 0]);
    }
  });

  it('a destination that was restarted by its transport is no reason to start twice, or never to answer', () => {
    const migration = committed([{ ...COMMIT_LOST, next: 'kept' }]);
    migration.until(() => migration.count('lost') === 1);
    migration.link.destination.restart(); // as if the commit had not left
    migration.until(() => migration.link.destination.receiver.state === 'discarded');
    expect(migration.machine.paused).toBe(true);
    migration.link.cuts.push({ atOnce: true, next: 'kept' });
    migration.run();
    expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
  });

  it('another destination is not asked to commit: it can not know', () => {
    const migration = committed([{ ...COMMIT_LOST, next: 'never' }]);
    migration.until(() => migration.count('lost') === 1);
    migration.link.say({ type: 'restored', kept: false });
    migration.step();
    expect(migration.count('restored')).toBe(1);
    expect(migration.link.sent.filter((type) => type === 'commit')).toHaveLength(1);
    expect(migration.source.phase).toBe('commit-wait');
  });

  it('by a deadline, if there is one, it ends as unknown, and is told of before', () => {
    const options = { startTimeoutMs: 900, confirmAfterMs: 200 };
    const migration = committed([{ ...COMMIT_LOST, next: 'never' }], {}, options);
    migration.run();
    const told = migration.events.find((event) => event.type === 'unconfirmed');
    expect(Math.round(told!.waitedMs)).toBe(200);
    expect([migration.source.phase, migration.source.error?.code]).toEqual(['unknown', 'COMMIT_UNCONFIRMED']);
    expect(migration.machine.paused).toBe(true);
    migration.source.withdraw();
    migration.source.override();
    migration.link.say({ type: 'not-started', reason: 'late' });
    migration.source.step();
    expect([migration.source.phase, migration.machine.paused]).toEqual(['unknown', true]);
  });
});

describe("an operator's override", () => {
  it.each(['never', 'fresh'] as const)('lets the guest go on here without an answer: %s', (next) => {
    const migration = committed([{ ...COMMIT_LOST, next }]);
    expectWaits(migration);
    migration.source.override();
    migration.run();
    expect([migration.source.phase, migration.source.error?.code]).toEqual(['failed', 'COMMIT_UNCONFIRMED']);
    expect(migration.source.error?.message).toContain("operator's word");
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
  });

  it('comes too late if the answer is there', () => {
    const migration = committed([]);
    migration.link.say({ type: 'started', startedAt: 1 });
    migration.source.override();
    migration.source.step();
    expect(migration.source.phase).toBe('completed');
    expect(migration.machine.resumes).toBe(0);
  });
});

const NOT_COMMITTED: readonly SourcePhase[] = [
  'setup',
  'sync',
  'round',
  'final-send',
  'ready-wait',
  'recovering',
  'completed',
];

it.each(NOT_COMMITTED)('in %s neither a withdrawal nor an override has an effect, then or later', (phase) => {
  const cuts: readonly Cut[] = phase === 'recovering' ? [{ afterFrames: 4, next: 'kept' }] : [];
  const migration = new CutMigration(Machine.boot(), OPTIONS, { cuts });
  migration.until(() => migration.source.phase === phase);
  migration.source.withdraw();
  migration.source.override();
  migration.until(() => migration.source.done);
  expectSameGuest(migration);
  expect(migration.link.sent).not.toContain('withdraw');
  expect(migration.machine.resumes).toBe(0);
});

describe('migrate() hands out what an operator can do', () => {
  /** The commit is lost; then the operator says something. */
  async function saying(
    what: keyof MigrationControls,
    whenCommitted: (channel: LoopbackChannel) => void,
  ): Promise<{ machine: Machine; migration: Awaited<ReturnType<typeof migrateLive>> }> {
    const machine = Machine.boot();
    let controls: MigrationControls | undefined;
    const migration = await migrateLive(machine, (request) => {
      const channel = request.channel as LoopbackChannel;
      whenCommitted(channel);
      const handlers: Partial<MigrateRequest> = {
        options: { ...OPTIONS, confirmAfterMs: 10 },
        onControls: (given) => {
          controls = given;
        },
        onEvent: ({ type }) => type === 'unconfirmed' && setTimeout(() => controls![what](), 5),
      };
      return migrate({ ...request, ...handlers });
    });
    return { machine, migration };
  }

  const loseCommit = (channel: LoopbackChannel): void => {
    channel.commit = () => {};
  };

  it.each([
    ['withdraw', 'DESTINATION_FAILED'],
    ['override', 'COMMIT_UNCONFIRMED'],
  ] as const)('%s: the guest goes on here', async (what, code) => {
    const { machine, migration } = await saying(what, loseCommit);
    expect(migration.source?.phase).toBe('failed');
    expect(migration.source?.error?.code).toBe(code);
    expect(migration.arrived).toBeUndefined();
    expect(machine.paused).toBe(false);
    expectHealthy(machine);
  });

  it('withdraw: it runs there already', async () => {
    const { machine, migration } = await saying('withdraw', (channel) => {
      const reply = channel.reply.bind(channel);
      let isLost = false;
      channel.reply = (message) => {
        if (message.type !== 'started' || isLost) {
          reply(message);
        }
        isLost ||= message.type === 'started';
      };
    });
    expect(migration.source?.phase).toBe('completed');
    expect(migration.arrived).toBeDefined();
    expect(machine.paused).toBe(true);
  });

  it('what the handler throws is what the promise is rejected with, and nothing was touched', async () => {
    const machine = Machine.boot();
    const mistake = new Error("a mistake in the embedder's code");
    machine.requestPause();
    const { rejection } = await migrateLive(machine, (request) =>
      migrate({
        ...request,
        onControls: () => {
          throw mistake;
        },
      }),
    );
    expect(rejection).toBe(mistake);
    expect([machine.paused, machine.migrating, machine.resumes]).toEqual([true, false, 0]);
  });
});
