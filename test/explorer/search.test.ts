import { describe, expect, it } from 'vitest';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { type Activity, Gate, gatedMapper, noActivity } from './gate.js';
import { Memento } from './memento.js';
import { explore, Violation, type World } from './search.js';
import { traceTable } from './trace.js';

/** Two actors that each add one to a shared word: in one access, or by a load and a store. */
class Counter implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = ['word'];
  readonly #buffer = new ArrayBuffer(4);
  readonly #state: {
    readonly activities: readonly Activity[];
    readonly done: boolean[];
    readonly own: { seen: number }[];
  };
  readonly #gate = new Gate();
  readonly #owns: readonly Memento[];
  readonly #atomic: boolean;

  constructor(atomic: boolean) {
    this.#atomic = atomic;
    this.#state = {
      activities: [noActivity(), noActivity()],
      done: [false, false],
      own: [{ seen: 0 }, { seen: 0 }],
    };
    const words = new Int32Array(this.#buffer);
    this.memento = new Memento(this.#state, { constantClasses: [], memory: [{ words }] });
    this.#owns = this.#state.own.map(
      (own) => new Memento(own, { constantClasses: [], memory: [], foreign: [this.#buffer] }),
    );
  }

  get word(): number {
    return new Int32Array(this.#buffer)[0]!;
  }

  actionsInto(out: number[]): void {
    this.#state.done.forEach((done, actor) => {
      if (!done) {
        out.push(actor);
      }
    });
  }

  perform(actor: number): void {
    const words = gatedMapper(atomicMapper, this.#gate, { buffer: this.#buffer, words: new Set() }).words(
      this.#buffer,
      0,
      1,
    );
    const own = this.#state.own[actor]!;
    const parts = { name: `${actor}`, activity: this.#state.activities[actor]!, own: this.#owns[actor] };
    this.#state.done[actor] = this.#gate.advance(parts, () => {
      if (this.#atomic) {
        words.add(0, 1);
        return;
      }
      own.seen += words.load(0) + 1; // what is its own is put back when it runs again, or this would add up
      words.store(0, own.seen);
    });
  }

  check(): void {}

  checkEnd(): void {
    if (this.word !== 2) {
      throw new Violation('sum', `two have added, and the word is ${this.word}`);
    }
  }

  describe(actor: number): { who: string; what: string } {
    return { who: `actor ${actor}`, what: 'goes on' };
  }

  cells(): string[] {
    return [String(this.word)];
  }
}

describe('the search', () => {
  it('finds the lost update of a load and a store, by the fewest steps', () => {
    const world = new Counter(false);
    const start = world.memento.save();
    const result = explore(world);
    expect(result.exhausted).toBe(false);
    expect(result.counterexample?.invariant).toBe('sum');
    expect(result.counterexample?.actions).toHaveLength(4);
    world.memento.restore(start);
    const table = traceTable(world, result.counterexample!);
    expect(table).toContain('sum: two have added, and the word is 1');
    expect(table.split('\n').filter((line) => line.includes('goes on'))).toHaveLength(4);
  });

  it('finds nothing wrong with one atomic operation each, and says how much there is', () => {
    expect(explore(new Counter(true))).toEqual({
      states: 4,
      transitions: 4,
      depth: 2,
      ends: 1,
      exhausted: true,
      counterexample: undefined,
    });
  });

  it('says when it has left states out', () => {
    expect(explore(new Counter(true), { mostStates: 3 })).toMatchObject({ states: 3, exhausted: false });
  });
});

describe('a memento', () => {
  it('refuses what it could not put back', () => {
    const memento = (root: object): number => new Memento(root, { constantClasses: [], memory: [] }).look();
    expect(() => memento({ seen: new Map() })).toThrow('a Map');
    expect(() => memento({ later: Promise.resolve() })).toThrow('a Promise');
    expect(() => memento({ big: 1n })).toThrow('a bigint');
    expect(() => memento({ view: new Uint8Array(100_000) })).toThrow('not told of');
  });

  it('keeps who points to whom, and what came and went', () => {
    const shared = { count: 1 };
    const root = { list: [shared], last: shared as { count: number } | undefined };
    const memento = new Memento(root, { constantClasses: [], memory: [] });
    const before = memento.save();
    root.list.push({ count: 5 });
    root.last = undefined;
    shared.count = 2;
    memento.restore(before);
    expect(root).toEqual({ list: [{ count: 1 }], last: { count: 1 } });
    expect(root.last).toBe(root.list[0]);
  });
});
