import { describe, expect, it } from 'vitest';
import type { Snapshot } from './memento.js';
import { MigrationWorld, SMALL_WORLD, type WorldBounds } from './migration-world.js';

/*
 * What the explorer's results rest on: that a state that is put back is the state it was, and that two states that are
 * taken for one go on alike though counters and stamps in them differ.
 */

const BOUNDS: WorldBounds = {
  ...SMALL_WORLD,
  reportMode: 'hold',
  schedule: 'overlap',
  window: 1,
  writes: 1,
  cancels: 1,
  ticks: 1,
  split: { guest: 'none', host: false, destination: false },
};

/** All actions that are possible now, with the state that each leads to. */
function successors(world: MigrationWorld, from: Snapshot): [action: number, state: number][] {
  world.memento.restore(from);
  const actions: number[] = [];
  world.actionsInto(actions);
  return actions.map((action) => {
    world.memento.restore(from);
    world.perform(action);
    return [action, world.memento.look()];
  });
}

describe('a state of an explored world', () => {
  it('is the same whether it was put back or come to from the start', () => {
    const walked = new MigrationWorld(BOUNDS);
    let random = 1;
    let compared = 0;
    for (let walk = 0; walk < 100; walk += 1) {
      const fresh = new MigrationWorld(BOUNDS);
      const start = walked.memento.save();
      let here = start;
      for (let step = 0; step < 150; step += 1) {
        const next = successors(walked, here); // leaves the world anywhere but here
        if (next.length === 0) {
          break;
        }
        // Seldom what ends it all.
        random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
        const [action, state] =
          next[(random >>> 8) % (random % 8 === 0 ? next.length : Math.min(2, next.length))]!;
        walked.memento.restore(here);
        walked.perform(action);
        here = walked.memento.save();
        fresh.perform(action);
        expect(fresh.memento.look()).toBe(state);
        compared += 1;
      }
      walked.memento.restore(start);
    }
    expect(compared).toBeGreaterThan(600);
  });

  it('goes on like any other that it is taken for', () => {
    const world = new MigrationWorld(BOUNDS);
    const known = new Map<number, string>();
    const twins: { state: number; snapshot: Snapshot }[] = [];
    const start = world.memento.save();
    const queue: { state: number; snapshot: Snapshot }[] = [{ state: world.memento.look(), snapshot: start }];
    const seen = new Set([queue[0]!.state]);
    for (let at = 0; at < queue.length && at < 6000; at += 1) {
      const { state, snapshot } = queue[at]!;
      const next = successors(world, snapshot);
      known.set(state, JSON.stringify(next));
      for (const [action, reached] of next) {
        world.memento.restore(snapshot);
        world.perform(action);
        const entry = { state: reached, snapshot: world.memento.save() };
        if (!seen.has(reached)) {
          seen.add(reached);
          queue.push(entry);
        } else if (twins.length < 4000) {
          twins.push(entry);
        }
      }
    }
    let compared = 0;
    for (const { state, snapshot } of twins) {
      const first = known.get(state);
      if (first !== undefined) {
        expect(JSON.stringify(successors(world, snapshot))).toBe(first);
        compared += 1;
      }
    }
    expect(compared).toBeGreaterThan(3000);
  });
});
