import { afterAll, describe, expect, it } from 'vitest';
import { LONG } from '../support/long.js';
import { MigrationWorld } from './migration-world.js';
import { explore } from './search.js';
import { traceTable } from './trace.js';
import { WORLDS } from './worlds.js';

/** Explores every `parts`-th world from `part` on: two files share them, so that two cores are used. */
export function exploreWorlds(part: number, parts: number): void {
  let states = 0;
  let transitions = 0;

  describe('no interleaving of the real steps breaks an invariant', () => {
    const worlds = WORLDS.filter(({ long }) => LONG || long !== true).filter((_, i) => i % parts === part);
    for (const { name, bounds, long: _long, ...counted } of worlds) {
      it(name, { timeout: 3_600_000 }, () => {
        const world = new MigrationWorld(bounds);
        const start = world.memento.save();
        const result = explore(world);
        if (result.counterexample !== undefined) {
          world.memento.restore(start);
          throw new Error(traceTable(world, result.counterexample));
        }
        const { counterexample: _none, ends, ...found } = result;
        expect(found).toEqual({ exhausted: true, ...counted });
        expect(ends).toBeGreaterThan(0);
        states += result.states;
        transitions += result.transitions;
      });
    }
    afterAll(() => {
      process.stdout.write(`explored ${states} states by ${transitions} steps\n`);
    });
  });
}
