import {
  atomicMapper,
  type SharedHalfWords,
  type SharedWords,
  type WordMapper,
} from '../../src/memory/shared-words.js';
import type { Gate } from './gate.js';

/**
 * In which order the plain stores of one thread may reach the others. Atomic loads and stores are sequentially
 * consistent in all of them, as JavaScript's are; loads are made in program order.
 *
 * ```
 *         a thread's plain stores        its atomic stores                     its atomic changes (or, exchange, …)
 *   SC    at once                        at once                               at once
 *   TSO   later, one after the other     push out all that is before them      push out all that is before them
 *   PSO   later, in any order            push out all that is before them      push out all that is before them
 *   ARM   later, in any order            later, behind all that is before      push out all that is before them
 *                                        them; plain stores may overtake them
 * ```
 *
 * TSO is x86. PSO stands for what a compiler or a weaker processor may do between two atomic accesses. ARM is the
 * store-release of ARMv8: nothing before it comes after it, but what comes after it may come before it; an atomic load
 * waits for it, which is what makes it sequentially consistent.
 */
export const MEMORY_MODELS = ['SC', 'TSO', 'PSO', 'ARM'] as const;
export type MemoryModel = (typeof MEMORY_MODELS)[number];

/** What one thread has stored and the others do not see yet. Part of a world's state. */
export class StoreBuffer {
  /** Place and value, place and value, …, the oldest first. */
  readonly pending: number[] = [];
  /** Pages to which a store of this thread has come since they were marked last, a bit each: I1 as a ghost. */
  unmarked = 0;
}

// A place is a byte address, times 4, and two bits.
const IS_WORD = 1;
const IS_RELEASE = 2;

/** The access that was made last, for a trace. */
export interface LastAccess {
  does: 'loads' | 'stores' | 'marks' | 'takes' | 'clears' | 'nothing';
  /** A byte address of guest RAM; for another word -1 less its number. */
  at: number;
  value: number;
}

const PAGE_SHIFT = 12;

/** RAM that threads reach through store buffers. */
export class WeakMemory {
  readonly model: MemoryModel;
  /** Not part of a state. */
  readonly last: LastAccess = { does: 'nothing', at: 0, value: 0 };
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;

  constructor(model: MemoryModel, ram: ArrayBufferLike) {
    this.model = model;
    this.#halves = new Uint16Array(ram);
    this.#words = new Uint32Array(ram);
  }

  static place(address: number, widthBytes: number): number {
    return address * 4 + (widthBytes === 4 ? IS_WORD : 0);
  }

  /** A plain load: what the thread has stored itself it sees at once. */
  load({ pending }: StoreBuffer, place: number): number {
    for (let i = pending.length - 2; i >= 0; i -= 2) {
      if ((pending[i]! | IS_RELEASE) === (place | IS_RELEASE)) {
        return pending[i + 1]!;
      }
    }
    return (place & IS_WORD) !== 0 ? this.#words[place >>> 4]! : this.#halves[place >>> 3]!;
  }

  storePlain(buffer: StoreBuffer, place: number, value: number): void {
    if (this.model === 'SC') {
      this.#land(buffer, place, value);
    } else {
      buffer.pending.push(place, value);
    }
  }

  /** An atomic load comes after the atomic stores before it. */
  beforeAtomicLoad(buffer: StoreBuffer): void {
    const { pending } = buffer;
    for (let i = pending.length - 2; i >= 0; i -= 2) {
      if ((pending[i]! & IS_RELEASE) !== 0) {
        this.#landUpTo(buffer, i + 2);
        return;
      }
    }
  }

  storeAtomic(buffer: StoreBuffer, place: number, value: number): void {
    if (this.model === 'ARM') {
      buffer.pending.push(place | IS_RELEASE, value);
    } else {
      this.landAll(buffer);
      this.#land(buffer, place, value);
    }
  }

  landAll(buffer: StoreBuffer): void {
    this.#landUpTo(buffer, buffer.pending.length);
  }

  /** Which of the thread's stores may come next, by their number; `base` is added to each. */
  landableInto(out: number[], { pending }: StoreBuffer, base: number): void {
    for (let i = 0; i < pending.length; i += 2) {
      if (i === 0 || (this.model !== 'TSO' && this.#overtakes(pending, i))) {
        out.push(base + i / 2);
      }
      if (this.model === 'TSO') {
        return;
      }
    }
  }

  landOne(buffer: StoreBuffer, number: number): void {
    const [place, value] = buffer.pending.splice(number * 2, 2);
    this.#land(buffer, place!, value!);
  }

  /** Whether the store at `at` may come before all that are older. */
  #overtakes(pending: readonly number[], at: number): boolean {
    const place = pending[at]!;
    if ((place & IS_RELEASE) !== 0) {
      return false;
    }
    for (let i = 0; i < at; i += 2) {
      if ((pending[i]! & ~IS_RELEASE) === place) {
        return false; // stores to one place keep their order
      }
    }
    return true;
  }

  #landUpTo(buffer: StoreBuffer, end: number): void {
    const { pending } = buffer;
    for (let i = 0; i < end; i += 2) {
      this.#land(buffer, pending[i]!, pending[i + 1]!);
    }
    pending.splice(0, end);
  }

  #land(buffer: StoreBuffer, place: number, value: number): void {
    if ((place & IS_WORD) !== 0) {
      this.#words[place >>> 4] = value;
    } else {
      this.#halves[place >>> 3] = value;
    }
    buffer.unmarked |= 1 << (place >>> (PAGE_SHIFT + 2));
  }
}

export interface WeakMapperParts {
  readonly gate: Gate;
  readonly memory: WeakMemory;
  /** The store buffer of the thread that uses the mapper. */
  readonly buffer: StoreBuffer;
  /** Every thread's: a mark covers whatever has come to the page by then. */
  readonly everyBuffer: readonly StoreBuffer[];
  /** A mistake to be found: flags, indices and events are stored as if they were plain. */
  readonly plainHalfWords: boolean;
}

/**
 * The mapper of one thread: each access, plain or atomic, is a point at which others come in between. Half words and
 * plain views lie in guest RAM; `words` are those of the dirty log, whose changes are its marks.
 */
export function weakMapper(parts: WeakMapperParts): WordMapper {
  return {
    ...atomicMapper,
    words: (buffer, byteOffset, length) =>
      new WeakWords(atomicMapper.words(buffer, byteOffset, length), parts),
    halfWords: (_, byteOffset) => new WeakHalfWords(byteOffset, parts),
    plain16: (_, byteOffset, length) => plainView(byteOffset, 2, length, parts) as unknown as Uint16Array,
    plain32: (_, byteOffset, length) => plainView(byteOffset, 4, length, parts) as unknown as Uint32Array,
  };
}

/** Looks like a typed array to whoever loads and stores its elements. */
class PlainView {
  readonly length: number;

  constructor(length: number) {
    this.length = length;
  }
}

function plainView(
  byteOffset: number,
  widthBytes: number,
  length: number,
  parts: WeakMapperParts,
): PlainView {
  const { gate, memory, buffer } = parts;
  const view = new PlainView(length);
  for (let i = 0; i < length; i += 1) {
    const address = byteOffset + i * widthBytes;
    const place = WeakMemory.place(address, widthBytes);
    Object.defineProperty(view, i, {
      get: () =>
        gate.access(() => {
          const value = memory.load(buffer, place);
          note(memory, 'loads', address, value);
          return value;
        }),
      set: (value: number) => {
        const stored = widthBytes === 4 ? value >>> 0 : value & 0xffff;
        gate.access(() => {
          memory.storePlain(buffer, place, stored);
          note(memory, 'stores', address, stored);
        });
      },
    });
  }
  return view;
}

class WeakHalfWords implements SharedHalfWords {
  readonly #parts: WeakMapperParts;
  readonly #byteOffset: number;

  constructor(byteOffset: number, parts: WeakMapperParts) {
    this.#byteOffset = byteOffset;
    this.#parts = parts;
  }

  load(index: number): number {
    const { gate, memory, buffer } = this.#parts;
    const address = this.#byteOffset + index * 2;
    return gate.access(() => {
      memory.beforeAtomicLoad(buffer);
      const value = memory.load(buffer, WeakMemory.place(address, 2));
      note(memory, 'loads', address, value);
      return value;
    });
  }

  store(index: number, value: number): void {
    const { gate, memory, buffer, plainHalfWords } = this.#parts;
    const address = this.#byteOffset + index * 2;
    gate.access(() => {
      const place = WeakMemory.place(address, 2);
      if (plainHalfWords) {
        memory.storePlain(buffer, place, value & 0xffff);
      } else {
        memory.storeAtomic(buffer, place, value & 0xffff);
      }
      note(memory, 'stores', address, value);
    });
  }
}

/** Words outside guest RAM, of which nobody has plain views. A change of one pushes out what its thread has stored. */
class WeakWords implements SharedWords {
  readonly length: number;
  readonly #words: SharedWords;
  readonly #parts: WeakMapperParts;

  constructor(words: SharedWords, parts: WeakMapperParts) {
    this.#words = words;
    this.#parts = parts;
    this.length = words.length;
  }

  load(index: number): number {
    const { gate, memory, buffer } = this.#parts;
    return gate.access(() => {
      memory.beforeAtomicLoad(buffer);
      const value = this.#words.load(index);
      note(memory, 'loads', -1 - index, value);
      return value;
    });
  }

  or(index: number, bits: number): number {
    return this.#change('marks', index, bits, () => {
      for (const buffer of this.#parts.everyBuffer) {
        buffer.unmarked &= ~bits;
      }
      return this.#words.or(index, bits);
    });
  }

  exchange(index: number, value: number): number {
    return this.#change('takes', index, value, () => this.#words.exchange(index, value));
  }

  store(index: number, value: number): void {
    this.#change('stores', index, value, () => {
      this.#words.store(index, value);
      return 0;
    });
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    return this.#change('stores', index, replacement, () =>
      this.#words.compareExchange(index, expected, replacement),
    );
  }

  and(index: number, bits: number): number {
    return this.#change('clears', index, ~bits, () => this.#words.and(index, bits));
  }

  add(index: number, value: number): number {
    return this.#change('stores', index, value, () => this.#words.add(index, value));
  }

  notify(): void {}

  wait(): void {
    throw new Error('nobody waits in an explored world: whoever has nothing to do is not stepped');
  }

  waitAsync(): undefined {
    throw new Error('nobody waits in an explored world: whoever has nothing to do is not stepped');
  }

  #change(does: LastAccess['does'], index: number, value: number, change: () => number): number {
    const { gate, memory, buffer } = this.#parts;
    return gate.access(() => {
      memory.landAll(buffer);
      note(memory, does, -1 - index, value);
      return change();
    });
  }
}

function note({ last }: WeakMemory, does: LastAccess['does'], at: number, value: number): void {
  last.does = does;
  last.at = at;
  last.value = value;
}

/** Never change once they are made. */
export const WEAK_CONSTANTS = [WeakMemory, PlainView, WeakHalfWords, WeakWords];
