import type { SharedHalfWords, SharedWords, WordMapper } from '../../src/memory/shared-words.js';
import type { Memento } from './memento.js';

/** Thrown through the real code to stop it before its next access to something shared. Never seen outside. */
const SUSPEND = new Error('a piece of work was stopped before an access');

/**
 * One actor's piece of work, stopped between two accesses. JavaScript can't halt a function half-way, so the piece is
 * run again from its start each time: accesses that it has made already are answered from `answers`, the next one is
 * made in earnest, and at the one after that it is stopped. What the actor keeps to itself is put back to how it was
 * at the start, so nothing happens twice.
 */
export interface Activity {
  /** What is being done, by the world's own numbers; -1: nothing. */
  what: number;
  /** What each access so far has answered. */
  answers: unknown[];
  /** What its own memory was when it began; empty: it has none, or has not begun. */
  start: Int32Array;
}

export function noActivity(): Activity {
  return { what: -1, answers: [], start: NO_WORDS };
}

const NO_WORDS = new Int32Array(0);

export interface Actor {
  readonly name: string;
  readonly activity: Activity;
  /** What the actor alone reads and writes. Undefined: its pieces of work are never stopped. */
  readonly own: Memento | undefined;
}

/**
 * The door through which the code under test reaches what other actors see. Closed, it lets one access through at a
 * time; between two of them anything may happen. `once` is for effects that nobody can observe half-way.
 */
export class Gate {
  #actor: Actor | undefined;
  #at = 0;
  #passed = false;

  /** Goes on with the actor's activity by one access. True: the piece of work is done. */
  advance(actor: Actor, body: () => void): boolean {
    const { activity, own } = actor;
    if (own === undefined) {
      body();
      activity.what = -1;
      return true;
    }
    // What it has written to its own memory so far stays there, for others may read it; but it runs again from what
    // was there at its start.
    if (activity.start.length === 0) {
      activity.start = own.memory();
    } else {
      own.putMemory(activity.start);
    }
    const before = own.save();
    this.#actor = actor;
    this.#at = 0;
    this.#passed = false;
    try {
      body();
    } catch (thrown) {
      if (thrown !== SUSPEND) {
        throw thrown;
      }
      const written = own.memory();
      own.restore(before);
      own.putMemory(written);
      return false;
    } finally {
      this.#actor = undefined;
    }
    activity.what = -1;
    activity.answers = [];
    activity.start = NO_WORDS;
    return true;
  }

  /** An access to something shared: a point at which others may come in between. */
  access<T>(body: () => T): T {
    const actor = this.#actor;
    if (actor === undefined) {
      return body();
    }
    const { answers } = actor.activity;
    if (this.#at < answers.length) {
      this.#at += 1;
      return answers[this.#at - 1] as T;
    }
    if (this.#passed) {
      throw SUSPEND;
    }
    this.#passed = true;
    return this.#inEarnest(actor, body);
  }

  /** An effect that happens once however often the piece of work is run again. */
  once<T>(body: () => T): T {
    const actor = this.#actor;
    if (actor === undefined) {
      return body();
    }
    const { answers } = actor.activity;
    if (this.#at < answers.length) {
      this.#at += 1;
      return answers[this.#at - 1] as T;
    }
    return this.#inEarnest(actor, body);
  }

  /** What the body itself comes by is part of this one access. */
  #inEarnest<T>(actor: Actor, body: () => T): T {
    this.#actor = undefined;
    const answer = body();
    this.#actor = actor;
    this.#at += 1;
    actor.activity.answers.push(answer);
    return answer;
  }
}

/** Words whose accesses go through a gate. */
class GatedWords implements SharedWords {
  readonly length: number;
  readonly #words: SharedWords;
  readonly #gate: Gate;
  readonly #quiet: ReadonlySet<number>;

  constructor(words: SharedWords, gate: Gate, quiet: ReadonlySet<number>) {
    this.#words = words;
    this.#gate = gate;
    this.#quiet = quiet;
    this.length = words.length;
  }

  #through(index: number, access: () => number): number {
    return this.#quiet.has(index) ? access() : this.#gate.access(access);
  }

  load(index: number): number {
    return this.#through(index, () => this.#words.load(index));
  }

  store(index: number, value: number): void {
    this.#through(index, () => {
      this.#words.store(index, value);
      return 0;
    });
  }

  exchange(index: number, value: number): number {
    return this.#through(index, () => this.#words.exchange(index, value));
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    return this.#through(index, () => this.#words.compareExchange(index, expected, replacement));
  }

  or(index: number, bits: number): number {
    return this.#through(index, () => this.#words.or(index, bits));
  }

  and(index: number, bits: number): number {
    return this.#through(index, () => this.#words.and(index, bits));
  }

  add(index: number, value: number): number {
    return this.#through(index, () => this.#words.add(index, value));
  }

  notify(): void {}

  wait(): void {
    throw new Error('nobody waits in an explored world: whoever has nothing to do is not stepped');
  }

  waitAsync(): undefined {
    throw new Error('nobody waits in an explored world: whoever has nothing to do is not stepped');
  }
}

class GatedHalfWords implements SharedHalfWords {
  readonly #words: SharedHalfWords;
  readonly #gate: Gate;

  constructor(words: SharedHalfWords, gate: Gate) {
    this.#words = words;
    this.#gate = gate;
  }

  load(index: number): number {
    return this.#gate.access(() => this.#words.load(index));
  }

  store(index: number, value: number): void {
    this.#gate.access(() => this.#words.store(index, value));
  }
}

/**
 * `map` with every shared word behind the gate; words of one thread are as they were. Words of a buffer in `quiet`
 * that it names (counters that nobody acts on) are no point at which others come in between.
 */
export function gatedMapper(
  map: WordMapper,
  gate: Gate,
  quiet: { readonly buffer: ArrayBufferLike; readonly words: ReadonlySet<number> },
): WordMapper {
  const none: ReadonlySet<number> = new Set();
  return {
    words: (buffer, byteOffset, length) =>
      new GatedWords(
        map.words(buffer, byteOffset, length),
        gate,
        buffer === quiet.buffer ? quiet.words : none,
      ),
    halfWords: (buffer, byteOffset, length) =>
      new GatedHalfWords(map.halfWords(buffer, byteOffset, length), gate),
    ownWords: (buffer, byteOffset, length) => map.ownWords(buffer, byteOffset, length),
    plain16: (buffer, byteOffset, length) => map.plain16(buffer, byteOffset, length),
    plain32: (buffer, byteOffset, length) => map.plain32(buffer, byteOffset, length),
  };
}
