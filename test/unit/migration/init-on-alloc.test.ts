import { describe, expect, it } from 'vitest';
import { expectSameGuest, Machine, type Pages, TestMigration } from '../../support/machine.js';

/** 16 MiB, most of it free: more is hinted than the 4 MiB below which the engine learns nothing from it. */
const FREE: readonly Pages[] = [
  [512, 1024],
  [2048, 1536],
];
const FREE_PAGES = 2560;
/** *hold* leaves the last block of 512 to the guest, or less than 256 pages were left. */
const HELD_PAGES = 2048;
const CASES = [
  ['walk', false],
  ['walk', true],
  ['hold', false],
  ['hold', true],
] as const;

describe.each(CASES)('%s, init_on_alloc %s', (reportMode, initOnAlloc) => {
  const hinted = reportMode === 'walk' ? FREE_PAGES : HELD_PAGES;
  const isRewritten = reportMode === 'hold' && initOnAlloc;

  function migration(zeroDetection: boolean): TestMigration {
    const machine = Machine.boot({ pages: 4096, free: FREE, reportMode, initOnAlloc });
    return new TestMigration(machine, { schedule: 'wait', zeroDetection, bytesPerSecond: 400e6 });
  }

  it('hold has every block that it hints written again, and walk none', () => {
    const { source } = migration(false).run();
    expect(source.accounts.hints).toMatchObject({
      hinted,
      applied: hinted,
      reDirtied: isRewritten ? hinted : 0,
      sentInVain: 0,
    });
  });

  it('and they go in the next round after all: with their contents, or as the zero pages that they are', () => {
    const plain = migration(false).run();
    expectSameGuest(plain);
    // Beside what is not free: the tables that the report has written, a few times.
    const used = 4096 - hinted;
    expect(plain.source.sent.pages).toBeGreaterThanOrEqual(used + (isRewritten ? hinted : 0));
    expect(plain.source.sent.pages).toBeLessThan(used + (isRewritten ? hinted : 0) + 64);
    const zeroes = migration(true).run();
    expectSameGuest(zeroes);
    expect(zeroes.source.sent.pages).toBeLessThan(used + 64);
    expect(zeroes.source.sent.zeroPages >= hinted).toBe(isRewritten);
  });

  it('a report that was written again is not asked for again', () => {
    const { source } = migration(false).run();
    expect(source.sessions).toHaveLength(1);
  });
});

it('asks again where the guest has taken back less than half of what it reported', () => {
  const machine = Machine.boot({ pages: 4096, free: FREE });
  const migration = new TestMigration(machine, {
    schedule: 'wait',
    bytesPerSecond: 400e6,
    downtimeLimitMs: 0,
  });
  migration.until(() => migration.count('session-done') === 1);
  const taken = Array.from({ length: 1200 }, () => machine.allocateAndWrite(3));
  migration.until(() => migration.source.phase === 'fills');
  for (const pfn of taken) {
    machine.guest!.allocator.release(pfn, 0);
  }
  migration.run();
  expectSameGuest(migration);
  expect(migration.source.accounts.hints.reDirtied).toBeGreaterThanOrEqual(1200);
  expect(migration.source.sessions.length).toBeGreaterThan(1);
});
