import type { SharedWords, WordMapper } from '../../src/memory/shared-words.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { type Gate, gatedMapper } from './gate.js';

/** Whether somebody sleeps on a word; part of a world's state. */
export interface Sleeper {
  asleep: boolean;
}

/**
 * Gated words on which one actor may sleep. `wait` compares and falls asleep in one access, as a futex does; a world
 * does not step an actor that is asleep. `notify` wakes it.
 */
export function sleepyMapper(gate: Gate, sleeper: Sleeper): WordMapper {
  const map = gatedMapper(atomicMapper, gate, { buffer: new ArrayBuffer(0), words: new Set() });
  return {
    ...map,
    words: (buffer, byteOffset, length) =>
      new SleepyWords(
        map.words(buffer, byteOffset, length),
        atomicMapper.words(buffer, byteOffset, length),
        gate,
        sleeper,
      ),
  };
}

export class SleepyWords implements SharedWords {
  readonly length: number;
  readonly #gated: SharedWords;
  readonly #plain: SharedWords;
  readonly #gate: Gate;
  readonly #sleeper: Sleeper;

  constructor(gated: SharedWords, plain: SharedWords, gate: Gate, sleeper: Sleeper) {
    this.#gated = gated;
    this.#plain = plain;
    this.#gate = gate;
    this.#sleeper = sleeper;
    this.length = gated.length;
  }

  load(index: number): number {
    return this.#gated.load(index);
  }

  store(index: number, value: number): void {
    this.#gated.store(index, value);
  }

  exchange(index: number, value: number): number {
    return this.#gated.exchange(index, value);
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    return this.#gated.compareExchange(index, expected, replacement);
  }

  or(index: number, bits: number): number {
    return this.#gated.or(index, bits);
  }

  and(index: number, bits: number): number {
    return this.#gated.and(index, bits);
  }

  add(index: number, value: number): number {
    return this.#gated.add(index, value);
  }

  notify(): void {
    this.#gate.access(() => {
      this.#sleeper.asleep = false;
    });
  }

  wait(index: number, expected: number): void {
    this.#gate.access(() => {
      this.#sleeper.asleep = this.#plain.load(index) === expected;
    });
  }

  /** The same: whoever is explored does not go on by a promise, but by the world's next step. */
  waitAsync(index: number, expected: number): undefined {
    this.wait(index, expected);
  }
}
