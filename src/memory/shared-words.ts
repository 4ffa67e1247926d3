/**
 * The only door to memory that more than one thread touches.
 *
 * Everything above is written against {@link SharedWords} and is given one, so that the explorer can put its
 * own in place and interleave the real code access by access. Every access here is sequentially consistent;
 * plain stores that precede one in program order are visible to whoever reads the value it published.
 *
 * `AtomicWords` works on SharedArrayBuffers and on ordinary ArrayBuffers alike (only `wait` needs a shared
 * one), so a VMM whose memory is not shared runs the same code.
 *
 * Measured on Node 20: the indirection costs 0–0.6 ns an access while a call site sees one implementation.
 */
export interface SharedWords {
  /** How many words there are. */
  readonly length: number;
  /** The word, as a signed 32-bit number. */
  load(index: number): number;
  /** Publishes `value` and every plain store before it. */
  store(index: number, value: number): void;
  /** Stores `value`. Like all that follow, it returns what was there before. */
  exchange(index: number, value: number): number;
  /** Stores `replacement` if the word held `expected`. */
  compareExchange(index: number, expected: number, replacement: number): number;
  /** Sets bits. */
  or(index: number, bits: number): number;
  /** Keeps only those bits that are set in `bits`. */
  and(index: number, bits: number): number;
  /** Adds, modulo 2^32. */
  add(index: number, value: number): number;
  /** Wakes every thread that waits on the word. */
  notify(index: number): void;
  /**
   * Blocks the thread while the word holds `expected`, at most `timeoutMs` (Infinity: no limit).
   * Pairs with a change of the word followed by `notify`. Never on guest RAM.
   */
  wait(index: number, expected: number, timeoutMs: number): void;
  /** The same without blocking: resolves once the word no longer holds `expected` and was notified. */
  waitAsync(index: number, expected: number): Promise<void> | undefined;
}

/** A ring index or flags word of a virtqueue: 16 bits, unsigned. */
export interface SharedHalfWords {
  /** The value, unsigned. */
  load(index: number): number;
  /** Publishes `value` and every plain store before it. */
  store(index: number, value: number): void;
}

/** How a range of bytes becomes shared words. Passed in wherever memory is mapped. */
export interface WordMapper {
  /** `length` 32-bit words from `byteOffset`, a multiple of 4. */
  words(buffer: ArrayBufferLike, byteOffset: number, length: number): SharedWords;
  /** `length` 16-bit words from `byteOffset`, a multiple of 2. */
  halfWords(buffer: ArrayBufferLike, byteOffset: number, length: number): SharedHalfWords;
  /**
   * Words that one thread has to itself: the same operations, without the price of atomicity (about 1 ns against
   * 5–9 ns for those that change a word). Nobody can wait on them.
   */
  ownWords(buffer: ArrayBufferLike, byteOffset: number, length: number): SharedWords;
  /**
   * Shared memory for plain access: real typed arrays in every real run. It is handed out here because the explorer
   * has to see plain accesses too, each of which is a step of its own there.
   */
  plain16(buffer: ArrayBufferLike, byteOffset: number, length: number): Uint16Array;
  /** {@link plain16} in 32 bits. */
  plain32(buffer: ArrayBufferLike, byteOffset: number, length: number): Uint32Array;
}

/** Node 20 has `Atomics.waitAsync`; no `lib` file that also suits Node 20 declares it. */
interface WaitAsync {
  waitAsync(
    array: Int32Array,
    index: number,
    value: number,
  ): { async: false; value: string } | { async: true; value: Promise<string> };
}

class AtomicWords implements SharedWords {
  readonly #words: Int32Array;
  readonly length: number;

  constructor(words: Int32Array) {
    this.#words = words;
    this.length = words.length;
  }

  load(index: number): number {
    return Atomics.load(this.#words, index);
  }

  store(index: number, value: number): void {
    Atomics.store(this.#words, index, value);
  }

  exchange(index: number, value: number): number {
    return Atomics.exchange(this.#words, index, value);
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    return Atomics.compareExchange(this.#words, index, expected, replacement);
  }

  or(index: number, bits: number): number {
    return Atomics.or(this.#words, index, bits);
  }

  and(index: number, bits: number): number {
    return Atomics.and(this.#words, index, bits);
  }

  add(index: number, value: number): number {
    return Atomics.add(this.#words, index, value);
  }

  notify(index: number): void {
    Atomics.notify(this.#words, index);
  }

  wait(index: number, expected: number, timeoutMs: number): void {
    Atomics.wait(this.#words, index, expected, timeoutMs);
  }

  waitAsync(index: number, expected: number): Promise<void> | undefined {
    const result = (Atomics as unknown as WaitAsync).waitAsync(this.#words, index, expected);
    return result.async ? result.value.then(() => undefined) : undefined;
  }
}

class AtomicHalfWords implements SharedHalfWords {
  readonly #words: Uint16Array;

  constructor(words: Uint16Array) {
    this.#words = words;
  }

  load(index: number): number {
    return Atomics.load(this.#words, index);
  }

  store(index: number, value: number): void {
    Atomics.store(this.#words, index, value);
  }
}

// Virtqueues are little-endian by the standard and typed arrays have the machine's order: refuse at once
// where the two differ instead of corrupting rings.
if (new Uint8Array(new Uint16Array([1]).buffer)[0] !== 1) {
  throw new Error('lacuna runs on little-endian machines only');
}

/** {@link WordMapper.ownWords}. */
class PlainWords implements SharedWords {
  readonly #words: Int32Array;
  readonly length: number;

  constructor(words: Int32Array) {
    this.#words = words;
    this.length = words.length;
  }

  load(index: number): number {
    return this.#words[index]!;
  }

  store(index: number, value: number): void {
    this.#words[index] = value;
  }

  exchange(index: number, value: number): number {
    const old = this.#words[index]!;
    this.#words[index] = value;
    return old;
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    const old = this.#words[index]!;
    if (old === expected) {
      this.#words[index] = replacement;
    }
    return old;
  }

  or(index: number, bits: number): number {
    const old = this.#words[index]!;
    this.#words[index] = old | bits;
    return old;
  }

  and(index: number, bits: number): number {
    const old = this.#words[index]!;
    this.#words[index] = old & bits;
    return old;
  }

  add(index: number, value: number): number {
    const old = this.#words[index]!;
    this.#words[index] = old + value;
    return old;
  }

  notify(): void {}

  wait(): void {
    throw new Error('words of one thread: nobody could end the wait');
  }

  waitAsync(): undefined {
    throw new Error('words of one thread: nobody could end the wait');
  }
}

/** The mapper of every real run. */
export const atomicMapper: WordMapper = {
  words: (buffer, byteOffset, length) => new AtomicWords(new Int32Array(buffer, byteOffset, length)),
  halfWords: (buffer, byteOffset, length) => new AtomicHalfWords(new Uint16Array(buffer, byteOffset, length)),
  ownWords: (buffer, byteOffset, length) => new PlainWords(new Int32Array(buffer, byteOffset, length)),
  plain16: (buffer, byteOffset, length) => new Uint16Array(buffer, byteOffset, length),
  plain32: (buffer, byteOffset, length) => new Uint32Array(buffer, byteOffset, length),
};
