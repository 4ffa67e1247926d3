import { expect, it } from 'vitest';
import type { PrecopySource } from '../../../src/migration/precopy.js';
import { Timeline } from '../../../src/migration/timeline.js';
import { Machine, TestMigration } from '../../support/machine.js';

it('keeps between 256 and 512 samples of a migration of any length, evenly, and its end', () => {
  for (const lengthMs of [100, 700, 5000, 123_456]) {
    const timeline = new Timeline();
    const source = { startedAt: 50, transferredBytes: 0, done: false, accounts: { hints: { applied: 3 } } };
    for (let ms = 0; ms < lengthMs; ms += 0.25) {
      source.transferredBytes = ms * 1000;
      timeline.look(source as unknown as PrecopySource, 50 + ms);
    }
    source.done = true;
    timeline.look(source as unknown as PrecopySource, 50 + lengthMs);
    const { samples } = timeline;
    const last = samples.at(-1)!;
    expect(last[0]).toBe(lengthMs);
    expect(samples.length).toBeLessThanOrEqual(513);
    expect(samples.length).toBeGreaterThanOrEqual(Math.min(256, lengthMs));
    const gaps = samples.slice(1, -1).map(([ms], i) => ms - samples[i]![0]);
    expect(Math.max(...gaps)).toBeLessThanOrEqual(Math.min(...gaps) * 2);
    expect(samples.every(([ms, bytes, pages]) => pages === 3 && bytes <= ms * 1000)).toBe(true);
  }
});

it('has the events of a migration in their order, with the id and the round that they are about', () => {
  const timeline = new Timeline();
  const migration = new TestMigration(Machine.boot()).run();
  for (const [i, event] of migration.events.entries()) {
    timeline.event(i, event);
  }
  expect(timeline.events.map(({ type }) => type)).toEqual(migration.events.map(({ type }) => type));
  const id = migration.source.sessions[0]!.id;
  for (const type of ['session-issued', 'session-started', 'session-done'] as const) {
    expect(timeline.events.find((event) => event.type === type)).toMatchObject({ id });
  }
  const rounds = timeline.events.filter(({ type }) => type === 'round-end').map(({ round }) => round);
  expect(rounds).toEqual(migration.source.rounds.map(({ round }) => round));
});
