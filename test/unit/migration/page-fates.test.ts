import { describe, expect, it } from 'vitest';
import { SCHEDULES } from '../../../src/migration/options.js';
import { countFates, PAGE_FATES, type PageFate, PageFates } from '../../../src/migration/page-fates.js';
import { Machine, type MachineOptions, TestMigration } from '../../support/machine.js';

/** What became of each page, by the frames that the destination got: slowly, and by another way. */
function fatesByFrames(migration: TestMigration): PageFate[] {
  const { layout } = migration.machine.memory;
  const { skipped } = migration.source.accounts;
  return Array.from({ length: layout.pfnSpan }, (_, pfn): PageFate => {
    const frames = migration.frames.filter(
      (frame) => 'pfn' in frame && pfn >= frame.pfn && pfn < frame.pfn + frame.pageCount,
    );
    const of = (type: string): number => frames.filter((frame) => frame.type === type).length;
    if (of('pages') + of('zero') > 1) {
      return 'resent';
    }
    if (of('pages') === 1) {
      return 'sent';
    }
    if (of('fill') > 0) {
      return 'filled';
    }
    return of('zero') === 1 ? 'zero' : skipped.test(pfn) ? 'skipped' : 'absent';
  });
}

const guests: readonly (readonly [string, MachineOptions])[] = [
  ['rests', { zero: [[700, 20]] }],
  ['writes', { workload: { kind: 'dirty', bytesPerSecond: 40e6, workingSetBytes: 64 * 4096 } }],
  ['allocates', { workload: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 30 }, zero: [[700, 20]] }],
];

describe.each(SCHEDULES)('with the schedule %s', (schedule) => {
  it.each(guests)('of a guest that %s says what became of each page', (_name, options) => {
    const machine = Machine.boot(options);
    const fates = new PageFates(machine.memory.layout);
    const migration = new TestMigration(machine, { schedule, fates }).run();
    const { accounts, phase } = migration.source;
    expect(phase).toBe('completed');
    const said = [...fates.fates(accounts.skipped)].map((fate) => PAGE_FATES[fate]!);
    const expected = fatesByFrames(migration);
    let vain = 0;
    for (const [pfn, fate] of said.entries()) {
      vain += fate === 'vain' ? 1 : 0;
      expect(['sent', 'resent'].includes(expected[pfn]!) || fate !== 'vain').toBe(true);
      expect(fate === 'vain' ? expected[pfn] : fate, `page ${pfn}`).toBe(expected[pfn]);
    }
    expect(vain).toBe(accounts.hints.sentInVain);
    const counts = countFates(fates.fates(accounts.skipped));
    expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(
      machine.memory.layout.pageCount,
    );
    expect(counts.skipped).toBeGreaterThan(0);
  });
});

it('of a page that was sent before the guest said that it is free says that it was in vain', () => {
  // Nothing is waited for, so the host sends what is free before the guest has had its turn.
  const machine = Machine.boot();
  const fates = new PageFates(machine.memory.layout);
  const migration = new TestMigration(machine, {
    schedule: 'overlap',
    maxRunPages: 32,
    bytesPerSecond: Number.POSITIVE_INFINITY,
    fates,
  });
  migration.until(() => migration.source.phase === 'round');
  for (let i = 0; i < 20; i += 1) {
    migration.source.step();
  }
  migration.run();
  const { sentInVain } = migration.source.accounts.hints;
  expect(sentInVain).toBeGreaterThan(0);
  expect(countFates(fates.fates(migration.source.accounts.skipped)).vain).toBe(sentInVain);
});

it('tells frames without RAM, and pages that a migration never came to, from those that were left behind', () => {
  const machine = Machine.boot({
    blocks: [
      { startGpa: 0, endGpa: 1024 * 4096 },
      { startGpa: 2048 * 4096, endGpa: 2080 * 4096 },
    ],
  });
  const fates = new PageFates(machine.memory.layout);
  const migration = new TestMigration(machine, { hints: false, fates });
  migration.until(() => migration.source.sent.pages > 100);
  migration.cancel();
  const counts = countFates(fates.fates(migration.source.accounts.skipped));
  expect(counts.sent).toBe(migration.source.sent.pages);
  expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(
    migration.source.sent.pages + migration.source.sent.zeroPages,
  );
});
