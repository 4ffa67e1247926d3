import type { Memento, Snapshot } from './memento.js';

/** Thrown by a world when an invariant does not hold. The message begins with the invariant's name. */
export class Violation extends Error {
  readonly invariant: string;

  constructor(invariant: string, message: string) {
    super(`${invariant}: ${message}`);
    this.name = 'Violation';
    this.invariant = invariant;
  }
}

/** Something whose states can be enumerated. */
export interface World {
  readonly memento: Memento;
  /** What may happen next, by the world's own numbers, into `out`. */
  actionsInto(out: number[]): void;
  /** Lets it happen. Throws {@link Violation}. */
  perform(action: number): void;
  /** Looks at the state. Throws {@link Violation}. */
  check(): void;
  /** Nothing can happen any more: looks at how it ended. Throws {@link Violation}. May change the state. */
  checkEnd(): void;
  /** Who does it, and what, in words. */
  describe(action: number): { readonly who: string; readonly what: string };
  /** The state in words, a cell for each of {@link columns}. */
  cells(): string[];
  readonly columns: readonly string[];
}

export interface SearchOptions {
  /** Stop after so many distinct states. Default: no limit. */
  readonly mostStates?: number;
  readonly onProgress?: (states: number, depth: number) => void;
}

export interface Counterexample {
  readonly invariant: string;
  readonly message: string;
  /** The actions that lead there, the fewest possible. */
  readonly actions: readonly number[];
}

export interface SearchResult {
  /** Distinct states. */
  readonly states: number;
  /** Steps taken from a state to a state, known or new. */
  readonly transitions: number;
  /** Steps to the state that is farthest from the start. */
  readonly depth: number;
  /** States in which nothing can happen any more. */
  readonly ends: number;
  /** No state was left out. */
  readonly exhausted: boolean;
  readonly counterexample: Counterexample | undefined;
}

/**
 * Visits every state that can be reached, nearest first, each once. So a counterexample is a shortest one.
 *
 * A state is known again by 53 bits of a hash: of 10⁷ states two are taken for one with a probability of 0.6 %.
 */
export function explore(world: World, options: SearchOptions = {}): SearchResult {
  const { memento } = world;
  const mostStates = options.mostStates ?? Number.POSITIVE_INFINITY;
  const known = new Set<number>();
  const parents: number[] = [];
  const actions: number[] = [];
  let transitions = 0;
  let depth = 0;
  let ends = 0;
  let cutShort = false;
  const result = (counterexample: Counterexample | undefined): SearchResult => ({
    states: known.size,
    transitions,
    depth,
    ends,
    exhausted: !cutShort && counterexample === undefined,
    counterexample,
  });
  const pathTo = (state: number, last?: number): number[] => {
    const path = last === undefined ? [] : [last];
    for (let at = state; at > 0; at = parents[at]!) {
      path.push(actions[at]!);
    }
    return path.reverse();
  };
  /** Runs `body`; a violation becomes the result of the search. */
  const guarded = (
    state: number,
    action: number | undefined,
    body: () => void,
  ): Counterexample | undefined => {
    try {
      body();
      return undefined;
    } catch (thrown) {
      if (!(thrown instanceof Violation)) {
        throw new Error(`the world broke after ${pathTo(state, action).length} steps: ${String(thrown)}`, {
          cause: thrown,
        });
      }
      return { invariant: thrown.invariant, message: thrown.message, actions: pathTo(state, action) };
    }
  };

  known.add(memento.look());
  parents.push(-1);
  actions.push(-1);
  let frontier: { number: number; snapshot: Snapshot }[] = [{ number: 0, snapshot: memento.saved() }];
  const possible: number[] = [];
  while (frontier.length > 0) {
    const next: typeof frontier = [];
    for (let f = 0; f < frontier.length; f += 1) {
      const { number, snapshot } = frontier[f]!;
      frontier[f] = undefined as never; // its memory is wanted for the next layer
      memento.restore(snapshot);
      possible.length = 0;
      world.actionsInto(possible);
      if (possible.length === 0) {
        ends += 1;
        const bad = guarded(number, undefined, () => world.checkEnd());
        if (bad !== undefined) {
          return result(bad);
        }
        continue;
      }
      for (let i = 0; i < possible.length; i += 1) {
        const action = possible[i]!;
        if (i > 0) {
          memento.restore(snapshot);
        }
        transitions += 1;
        const bad = guarded(number, action, () => {
          world.perform(action);
          world.check();
        });
        if (bad !== undefined) {
          return result(bad);
        }
        const hash = memento.look();
        if (known.has(hash)) {
          continue;
        }
        if (known.size >= mostStates) {
          cutShort = true;
          continue;
        }
        known.add(hash);
        next.push({ number: parents.length, snapshot: memento.saved() });
        parents.push(number);
        actions.push(action);
      }
    }
    frontier = next;
    if (frontier.length > 0) {
      depth += 1;
      options.onProgress?.(known.size, depth);
    }
  }
  return result(undefined);
}
