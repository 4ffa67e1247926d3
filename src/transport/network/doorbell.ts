import type { SharedWords } from '../../memory/shared-words.js';

/**
 * How the main thread wakes the thread of a stream, and ends it. Two of the words that they share:
 *
 * ```
 *  bell   main (add)   pairs with the thread's wait in turn(); the main thread rings it
 *  stop   main         pairs with the thread's load after a ring of the bell
 * ```
 */
export class Doorbell {
  readonly #words: SharedWords;
  readonly #bell: number;
  readonly #stop: number;

  /** `bell` and `stop` are the places of the two words. */
  constructor(words: SharedWords, bell: number, stop: number) {
    this.#words = words;
    this.#bell = bell;
    this.#stop = stop;
  }

  /** There is something for the thread to do. */
  ring(): void {
    this.#words.add(this.#bell, 1);
    this.#words.notify(this.#bell);
  }

  /** Has the thread close its socket and end. */
  stop(): void {
    this.#words.store(this.#stop, 1);
    this.ring();
  }

  /** The thread calls `work` at first and whenever the bell was rung, until it is told to stop. */
  async serve(work: () => void): Promise<void> {
    for (let turn = this.turn(work); turn !== undefined; turn = this.turn(work)) {
      await turn;
    }
  }

  /** One turn of that: resolves when there is to be another. Undefined: it is told to stop. */
  turn(work: () => void): Promise<void> | undefined {
    const seen = this.#words.load(this.#bell); // before what it is rung for is looked at
    if (this.#words.load(this.#stop) !== 0) {
      return undefined;
    }
    work();
    return this.#words.waitAsync(this.#bell, seen) ?? Promise.resolve(); // at once, if it was rung since
  }
}
