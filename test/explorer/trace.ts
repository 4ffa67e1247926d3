import Table from 'cli-table3';
import type { Counterexample, World } from './search.js';
import { Violation } from './search.js';

/** A counterexample as a table: who does what, and the state after it. The world must be as it was at the start. */
export function traceTable(world: World, counterexample: Counterexample): string {
  const table = new Table({
    head: ['', 'who', 'does', ...world.columns],
    style: { head: [], border: [], compact: true },
  });
  table.push(['0', '', 'start', ...world.cells()]);
  counterexample.actions.forEach((action, i) => {
    const { who, what } = world.describe(action);
    try {
      world.perform(action);
    } catch (thrown) {
      if (!(thrown instanceof Violation)) {
        throw thrown;
      }
    }
    table.push([String(i + 1), who, what, ...world.cells()]);
  });
  return `${counterexample.message}\n${table.toString()}`;
}
