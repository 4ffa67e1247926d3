import { xorshift32 } from '../../guest/content.js';

/** Murmur3's finaliser: neighbouring inputs have nothing in common afterwards. */
function mix(value: number): number {
  value = Math.imul(value ^ (value >>> 16), 0x85eb_ca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2_ae35);
  return (value ^ (value >>> 16)) >>> 0;
}

/** Reproducible randomness: the same seed and the same calls give the same numbers, on every machine. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = mix(seed ^ 0x9e37_79b9) || 1;
  }

  /** What case `caseNumber` of a run with `seed` draws from. */
  static ofCase(seed: number, caseNumber: number): Random {
    return new Random(mix(seed) ^ mix(Math.imul(caseNumber, 0x9e37_79b1) + 0x7f4a_7c15));
  }

  /** From 0 to below 1. */
  readonly next = (): number => {
    this.#state = xorshift32(this.#state);
    return this.#state / 0x1_0000_0000;
  };

  /** A whole number from `least` to `most`. */
  whole(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  /** The same, small ones as likely as large ones: every doubling has the same chance. `least` is 1 or more. */
  wholeByScale(least: number, most: number): number {
    return Math.min(most, Math.floor(least * ((most + 1) / least) ** this.next()));
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[Math.floor(this.next() * choices.length)]!;
  }

  /** A seed for something else; never 0. */
  seed(): number {
    this.#state = xorshift32(this.#state);
    return this.#state;
  }
}
