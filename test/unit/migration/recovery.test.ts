import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LacunaError } from '../../../src/errors.js';
import { xorshift32 } from '../../../src/guest/content.js';
import { LEDGER_ZERO } from '../../../src/guest/ledger.js';
import type { MigrationOptions } from '../../../src/migration/options.js';
import type { SourcePhase } from '../../../src/migration/precopy.js';
import type { DestinationMessage } from '../../../src/wire/channel.js';
import { type Cut, CutMigration, type LinkOptions } from '../../support/cuttable-link.js';
import { effort } from '../../support/long.js';
import {
  DEFAULT_FREE,
  expectBalanced,
  expectGuestKept,
  expectSameGuest,
  type HandDriver,
  Machine,
  type MachineOptions,
  pagesIn,
  TestMigration,
} from '../../support/machine.js';

/** 352 of 448 pages are free: what *hold* and the balloon leave to the guest is a part of them. */
const SMALL: MachineOptions = {
  pages: 448,
  free: [
    [64, 96],
    [176, 256],
  ],
  zero: [[40, 12]],
  workload: { kind: 'churn', pagesPerSecond: 15_000, keepBlocks: 12 },
};
const OPTIONS: Partial<MigrationOptions> = { schedule: 'overlap', maxRounds: 4, maxRunPages: 24 };

/** A guest that writes, frees, reuses, zeroes and balloons, the same way each time. */
function livelyGuest(seed: number, options: MachineOptions = {}): Machine {
  const machine = Machine.boot({ ...SMALL, seed, ...options });
  let state = seed * 104_729;
  const random = (below: number): number => {
    state = xorshift32(state) >>> 0;
    return state % below;
  };
  const owned: number[] = [];
  machine.beforeStep = () => {
    const { allocator, ledger } = machine.guest!;
    const what = random(24);
    if (what < 4 && allocator.freePages > 300) {
      owned.push(machine.allocateAndWrite(2 + random(50)));
    } else if (what < 8 && owned.length > 0) {
      allocator.release(owned.splice(random(owned.length), 1)[0]!, 0);
    } else if (what < 11 && owned.length > 0) {
      ledger.write(owned[random(owned.length)]!, random(3) === 0 ? LEDGER_ZERO : 2 + random(50));
    } else if (what === 11) {
      machine.device.setBalloonTarget(random(3) * 12);
    }
  };
  return machine;
}

function started(machine: Machine, options: Partial<MigrationOptions>, link: LinkOptions): CutMigration {
  return new CutMigration(machine, { ...OPTIONS, ...options }, link);
}

/** Frames of a migration over a link that holds. */
function framesOf(machine: Machine, options: Partial<MigrationOptions> = {}): number {
  const migration = started(machine, options, { window: 3 }).run();
  expectSameGuest(migration);
  return migration.link.applied.length;
}

/** Says where it went wrong. */
function at(where: string, check: () => void): void {
  try {
    check();
  } catch (cause) {
    throw new Error(`${where}: ${String(cause)}`, { cause });
  }
}

/** Ends as it must: the guest runs there, all of it, and every page of every round went one way. */
function expectArrived(migration: CutMigration): void {
  migration.run();
  expectSameGuest(migration);
  const { source, link } = migration;
  expect(link.destination.starts).toBe(1);
  const total = (key: 'sent' | 'zero' | 'filled'): number =>
    source.rounds.reduce((sum, record) => sum + record[key], 0);
  expect([total('sent'), total('zero'), total('filled')]).toEqual([
    source.sent.pages,
    source.sent.zeroPages,
    source.sent.filledPages,
  ]);
  expect(source.rounds.map(({ round }) => round)).toEqual(source.rounds.map((_, i) => i + 1));
}

const WORLDS: readonly (readonly [string, MachineOptions, Partial<MigrationOptions>])[] = [
  ['walk, overlap', {}, {}],
  ['walk, wait', {}, { schedule: 'wait' }],
  ['hold, adaptive', { reportMode: 'hold', minOrder: 1 }, { schedule: 'adaptive' }],
  ['walk, poisoned', { pagePoison: 0xaaaa_aaaa }, {}],
];

describe.each(WORLDS)(
  'I7 I10 a cut at every frame before the commit, and within each, %s',
  (_, machine, options) => {
    const points: readonly (readonly [string, Omit<Cut, 'afterFrames'>])[] = [
      ['within the next frame, the same destination', { bytes: 6000, next: 'kept' }],
      [
        'between two frames, the same destination, which was not heard',
        { atOnce: true, losesReplies: true, next: 'kept' },
      ],
      ['within the next frame, another destination', { bytes: 6000, next: 'fresh' }],
    ];

    it.each(points)('%s', (__, point) => {
      const commitAt = framesOf(livelyGuest(3, machine), options) - 1;
      for (let afterFrames = 0; afterFrames < commitAt; afterFrames += 1) {
        const migration = started(livelyGuest(3, machine), options, {
          window: 3,
          cuts: [{ ...point, afterFrames }],
          acknowledges: () => afterFrames % 3 > 0,
        });
        at(`cut after ${afterFrames} frames`, () => {
          expectArrived(migration);
          expect([migration.count('lost'), migration.count('restored')]).toEqual([1, 1]);
        });
      }
    });
  },
);

it('I8 a link that breaks for good at any frame before the commit: the guest runs here, with its memory back', () => {
  const guest = (): Machine =>
    Machine.boot({ ...SMALL, reportMode: 'hold', workload: { kind: 'idle', pagesPerSecond: 5000 } });
  const commitAt = framesOf(guest()) - 1;
  for (let afterFrames = 0; afterFrames < commitAt; afterFrames += 1) {
    const cuts: readonly Cut[] = [{ afterFrames, bytes: 5000, next: 'never' }];
    const migration = started(guest(), { recoveryTimeoutMs: 80 }, { window: 3, cuts }).run();
    at(`cut after ${afterFrames} frames`, () => {
      expect(migration.source.error?.code).toBe('LINK_LOST');
      expectBalanced(migration.source);
      expectGuestKept(migration, 352);
    });
  }
});

it('I7 I10 links that break again and again', () => {
  const cut: fc.Arbitrary<Cut> = fc.record({
    afterFrames: fc.nat(60),
    atOnce: fc.boolean(),
    bytes: fc.nat(24 * 4096),
    losesReplies: fc.boolean(),
    next: fc.constantFrom('kept', 'kept', 'fresh'),
    downMs: fc.constantFrom(0, 1, 30),
  });
  const plans = fc.record({
    seed: fc.integer({ min: 1, max: 1000 }),
    cuts: fc.array(cut, { minLength: 1, maxLength: 4 }),
    window: fc.integer({ min: 1, max: 6 }),
    lostAcknowledgements: fc.uniqueArray(fc.nat(12)),
    reportMode: fc.constantFrom('walk', 'hold'),
    schedule: fc.constantFrom('wait', 'overlap', 'adaptive'),
    pagePoison: fc.constantFrom(undefined, undefined, 0xaaaa_aaaa),
    initOnAlloc: fc.boolean(),
  });
  fc.assert(
    fc.property(
      plans,
      ({ seed, cuts, window, lostAcknowledgements, reportMode, schedule, pagePoison, initOnAlloc }) => {
        const machine = livelyGuest(seed, {
          reportMode,
          minOrder: seed % 3,
          pagePoison: pagePoison!,
          initOnAlloc,
        });
        const lost = new Set(lostAcknowledgements);
        const migration = started(
          machine,
          { schedule },
          { window, cuts, acknowledges: (round) => !lost.has(round) },
        );
        // Not after the commit: what becomes of a guest whose destination has died then is handover.test.ts.
        migration.until(() => migration.source.phase === 'commit-wait');
        migration.link.cuts.length = 0;
        expectArrived(migration);
        const ids = migration.source.sessions.map(({ id }) => id);
        expect(ids).toEqual([...new Set(ids)].toSorted((a, b) => a - b)); // I4: none is used again
      },
    ),
    effort(40, 5000),
  );
});

// ── what goes again, and what does not ────────────────────────────────────────────────────────────────────────

/** A guest of 64 used pages and 64 free ones; `report` declares pages in each session, by its number from 0. */
function scripted(report: (session: number, declare: (pfn: number, pageCount: number) => void) => void): {
  machine: Machine;
  driver: HandDriver;
} {
  const { machine, driver } = Machine.bare({ pages: 256, free: [[128, 64]] });
  let sessions = 0;
  driver.script = () => {
    if (driver.takeInterrupt()) {
      const id = driver.takeStart();
      if (id !== 0) {
        driver.marker(id);
        report(sessions, (pfn, pageCount) => driver.declare(id, pfn, pageCount));
        driver.marker(0);
        sessions += 1;
      }
    }
    return 0.1;
  };
  return { machine, driver };
}

/** Slow enough that each round is worth a report, and that what is written is not sent at once. */
const SLOW: Partial<MigrationOptions> = {
  schedule: 'wait',
  bytesPerSecond: 10e6,
  maxRounds: 3,
  downtimeLimitMs: 0,
};

describe('what goes again after a break', () => {
  /** A migration whose first round has been applied, and its end too; `pages` were written since they were sent. */
  function afterRoundOne(
    report: Parameters<typeof scripted>[0],
    pages: Readonly<Record<number, number>>,
    link: LinkOptions = {},
    options: Partial<MigrationOptions> = {},
  ): CutMigration {
    const { machine, driver } = scripted(report);
    const migration = started(machine, { ...SLOW, ...options }, link);
    migration.until(() => migration.source.rounds.length === 1 && migration.source.pendingPages === 0);
    for (const [pfn, byte] of Object.entries(pages)) {
      driver.write(Number(pfn), byte);
    }
    return migration.until(() => migration.count('round-end') === 1 && migration.link.pending === 0);
  }

  /** Which pages go out again, over the second link. */
  function resent(acknowledges: boolean): number[] {
    const options = { hints: false, zeroDetection: false };
    const migration = afterRoundOne(() => {}, { 20: 7 }, { acknowledges: () => acknowledges }, options);
    migration.link.cuts.push({ next: 'kept' });
    migration.until(() => migration.count('lost') === 1);
    const pages: number[] = [];
    const pageRun = migration.link.pageRun.bind(migration.link);
    migration.link.pageRun = (pfn, pageCount, payload) => {
      pages.push(...Array.from({ length: pageCount }, (_, i) => pfn + i));
      pageRun(pfn, pageCount, payload);
    };
    expectArrived(migration);
    return [...new Set(pages)];
  }

  it('only what was sent since the last round that the destination has acknowledged', () => {
    const pages = resent(true);
    expect(pages).toContain(20);
    expect(pages.length).toBeLessThan(40); // the pages that the device's rings are in go in any case
  });

  it('everything, if it has not acknowledged any', () => {
    expect(resent(false)).toHaveLength(256);
  });

  it('a fill that was lost: the page was freed, and the destination holds what it was before', () => {
    const migration = afterRoundOne((session, declare) => session === 1 && declare(100, 2), {
      100: 7,
      101: 7,
    });
    migration.link.cuts.push({ before: 'fillRun', next: 'kept' });
    migration.until(() => migration.count('lost') === 1);
    expect(migration.source.accounts.skipped.count()).toBe(2);
    expect(migration.source.sent.filledPages).toBe(2);
    expectArrived(migration);
  });

  it('a fill that was due and not sent yet', () => {
    const migration = afterRoundOne((session, declare) => session === 1 && declare(100, 2), {
      20: 7,
      100: 7,
      101: 7,
    });
    migration.link.cuts.push({ next: 'kept' });
    migration.until(() => migration.source.accounts.fillsLeft === 2);
    migration.until(() => migration.count('lost') === 1);
    expect(migration.source.sent.filledPages).toBe(0);
    expectArrived(migration);
  });

  it('zeroes that were lost leave an older copy there: a page that is hinted then is filled', () => {
    const migration = afterRoundOne((session, declare) => session === 2 && declare(100, 2), {
      100: 0,
      101: 0,
    });
    migration.link.cuts.push({ before: 'zeroRun', next: 'kept' });
    migration.until(() => migration.count('lost') === 1);
    const { filledPages } = migration.source.sent;
    migration.run();
    expect(migration.source.sent.filledPages).toBe(filledPages + 2);
    expect(expectSameGuest(migration)).toBe(0);
  });

  it.each([
    ['kept', 0],
    ['fresh', 64],
  ] as const)(
    'not what was skipped and never sent, if the destination is the same: %s',
    (next, sentAfterwards) => {
      const { machine } = scripted((session, declare) => session === 0 && declare(128, 64));
      const migration = started(
        machine,
        { ...SLOW, hintDeadlineMs: 50 },
        { cuts: [{ afterFrames: 6, next }] },
      );
      migration.until(() => migration.count('lost') === 1);
      expect(migration.source.accounts.skipped.count()).toBe(64);
      let pages = 0;
      migration.until(() => migration.count('restored') === 1);
      machine.onPayload = (pfn, pageCount) => {
        pages += Math.max(0, Math.min(pfn + pageCount, 192) - Math.max(pfn, 128));
      };
      migration.run();
      expect(Math.sign(pages)).toBe(Math.sign(sentAfterwards));
      expectSameGuest(migration);
    },
  );
});

// ── while it is down ──────────────────────────────────────────────────────────────────────────────────────────

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
const LOST = { type: 'lost', reason: 'the test says so' } as const;

/** A migration whose link has just broken in a phase; the log takes several steps to drain. */
function lostIn(phase: SourcePhase, options: Partial<MigrationOptions> = {}): TestMigration {
  const machine = Machine.boot({ reportMode: 'hold', workload: { kind: 'idle', pagesPerSecond: 5000 } });
  machine.drainDirty = (sink) => machine.log.drainSlice(sink, 5);
  const migration = new TestMigration(machine, { schedule: 'wait', ...options });
  migration.until(() => migration.source.phase === phase);
  for (let i = 0; i < 2 && phase.endsWith('sync'); i += 1) {
    migration.source.step(); // half of the log is drained
  }
  expect(migration.source.phase).toBe(phase);
  migration.channel.reply(LOST);
  for (let heard = 0; heard < 2 && migration.count('lost') === 0; heard += 1) {
    migration.source.step(); // "ready" comes first
  }
  return migration;
}

function restore(migration: TestMigration, kept = true): void {
  migration.receiver.restart();
  migration.channel.reply({ type: 'restored', kept });
}

describe.each(BEFORE_COMMIT)('a link that breaks in %s', (phase) => {
  it('I8 the guest runs here and works meanwhile, its session is closed, its balloon is served', () => {
    const migration = lostIn(phase);
    const { machine, source } = migration;
    expect(source.phase).toBe('recovering');
    expect(migration.events.at(-1)).toEqual(LOST);
    expect([source.canCancel, source.switchover]).toEqual([true, undefined]);
    expectBalanced(source);
    expect(machine.paused).toBe(false);
    expect(machine.device.session.state).toBe('closed');
    machine.device.setBalloonTarget(5);
    const end = machine.clock.now + 20;
    migration.until(() => machine.clock.now >= end);
    expect(machine.device.registers.actual).toBe(5);
    expect(machine.heldPages).toBe(0);
    expect(machine.log.bitmap.count()).toBeGreaterThan(5);
    restore(migration);
    migration.run();
    expectSameGuest(migration);
  });

  it('I8 it is given up by a deadline', () => {
    const migration = lostIn(phase, { recoveryTimeoutMs: 70 });
    const since = migration.machine.clock.now;
    migration.run();
    expect(migration.source.error?.code).toBe('LINK_LOST');
    expect(migration.source.error?.message).toContain('the test says so');
    const waited = migration.machine.clock.now - since;
    expect([waited >= 69.9, waited < 72]).toEqual([true, true]);
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
    expect(migration.receiver.discarded).toBe(true); // the channel was told, so that it stops trying
  });

  it('I8 at once if nothing is to be waited for', () => {
    const migration = lostIn(phase, { recoveryTimeoutMs: 0 });
    expect(migration.source.phase).toBe('failed');
    expect(migration.source.error?.code).toBe('LINK_LOST');
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
  });

  it('I8 it can be cancelled meanwhile', () => {
    const migration = lostIn(phase);
    migration.cancel();
    expect(migration.source.phase).toBe('cancelled');
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
  });
});

describe('while a link is down', () => {
  it('a guest that stood still when the migration began is left so', () => {
    const machine = Machine.boot();
    machine.requestPause();
    const migration = new TestMigration(machine, { schedule: 'wait' });
    migration.until(() => migration.source.phase === 'final-send');
    migration.channel.reply(LOST);
    migration.source.step();
    expect([migration.source.phase, machine.paused, machine.resumes]).toEqual(['recovering', true, 0]);
    restore(migration);
    migration.run();
    expectSameGuest(migration);
  });

  it('its break is not told twice, and the deadline stays', () => {
    const migration = lostIn('round', { recoveryTimeoutMs: 70 });
    const since = migration.machine.clock.now;
    migration.until(() => migration.machine.clock.now > since + 50);
    migration.channel.reply(LOST);
    migration.run();
    expect(migration.count('lost')).toBe(1);
    expect(migration.machine.clock.now - since).toBeLessThan(72);
  });

  it('an error of the destination ends the migration', () => {
    const migration = lostIn('round');
    migration.channel.reply({ type: 'error', reason: 'it is busy' });
    migration.run();
    expect(migration.source.error?.code).toBe('DESTINATION_FAILED');
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
  });

  it.each([
    { type: 'ready', counts: { pages: 0, zeroPages: 0, filledPages: 0, rounds: 0 } },
    { type: 'started', startedAt: 1 },
    { type: 'unknown-migration' },
  ] as const)('$type is out of turn', (message) => {
    const migration = lostIn('round');
    migration.channel.reply(message);
    migration.run();
    expect(migration.source.error?.code).toBe('PROTOCOL_VIOLATION');
    expectGuestKept(migration, pagesIn(DEFAULT_FREE));
  });

  it('a guest that dies ends the migration', () => {
    const migration = lostIn('round');
    migration.machine.failure = new LacunaError('GUEST_FAILED', 'it died');
    migration.run();
    expect(migration.source.error?.code).toBe('GUEST_FAILED');
  });
});

describe('rounds', () => {
  it('are numbered and counted anew on a new link, at both ends; reports count on', () => {
    const cuts: readonly Cut[] = [{ afterFrames: 40, next: 'kept' }];
    const migration = started(livelyGuest(3), {}, { window: 3, cuts });
    migration.until(() => migration.count('restored') === 1);
    const before = { ...migration.source.sent };
    const ended: number[] = [];
    const roundEnd = migration.link.roundEnd.bind(migration.link);
    migration.link.roundEnd = (round) => {
      ended.push(round);
      roundEnd(round);
    };
    expectArrived(migration);
    expect(ended.slice(0, 2)).toEqual([1, 2]);
    expect(migration.source.sent.rounds).toBe(before.rounds + ended.length);
    expect(migration.link.destination.receiver.counts).toEqual({
      pages: migration.source.sent.pages - before.pages,
      zeroPages: migration.source.sent.zeroPages - before.zeroPages,
      filledPages: migration.source.sent.filledPages - before.filledPages,
      rounds: ended.length,
    });
  });

  it('a round that was lost is neither progress nor a stall, and does not count towards the limit', () => {
    const busy: MachineOptions = {
      workload: { kind: 'dirty', bytesPerSecond: 60e6, workingSetBytes: 400_000 },
    };
    const migration = new TestMigration(Machine.boot(busy), {
      hints: false,
      bytesPerSecond: 50e6,
      maxRounds: 3,
      stallRounds: 2,
    });
    for (let breaks = 1; breaks <= 5; breaks += 1) {
      migration.until(() => migration.source.rounds.length === breaks * 2);
      migration.channel.reply(LOST);
      migration.until(() => migration.count('lost') === breaks);
      restore(migration);
      migration.until(() => migration.count('restored') === breaks);
    }
    expect(migration.count('stopping')).toBe(0);
    migration.run();
    expect(migration.source.rounds).toHaveLength(10 + 3 + 1);
    expectSameGuest(migration);
  });

  it.each([1, 2, 99])('one that the destination can not have applied is a violation: %i', (round) => {
    const migration = new TestMigration(Machine.boot(), { schedule: 'wait' });
    migration.until(() => migration.source.phase === 'round');
    migration.channel.reply({ type: 'applied', round });
    migration.run();
    expect(migration.source.error?.code).toBe('PROTOCOL_VIOLATION');
    expect(migration.source.error?.message).toContain(`round ${round}, of 0`);
  });

  it('what comes behind one is heard in the same step: it has rung before, and will not again', () => {
    let ready: DestinationMessage | undefined;
    const migration = new TestMigration(
      Machine.boot(),
      { schedule: 'wait' },
      {
        reply: (message) => {
          ready = message.type === 'ready' ? message : ready;
          return message.type === 'ready' ? undefined : message;
        },
      },
    );
    migration.until(() => ready !== undefined);
    const { rounds } = migration.source.sent;
    migration.channel.reply({ type: 'applied', round: rounds - 1 });
    migration.channel.reply({ type: 'applied', round: rounds });
    migration.channel.reply(ready!);
    migration.source.step();
    expect(migration.count('ready')).toBe(1);
  });
});
