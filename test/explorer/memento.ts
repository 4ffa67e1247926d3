import { READONLY_FIELDS } from './see-through.js';

/**
 * Saves, restores and fingerprints everything that can be reached from one object.
 *
 * Objects keep their identity: a state is the values of the fields that can change, object by object, and to go back to
 * it is to put the values back. Who points to whom is thereby kept too. Private fields of the code under test are in
 * view (see-through.ts), so a state is *all* of its state; what can't be looked into (a Map, a closure's variables)
 * must not be in it, and is refused where it can be told.
 *
 * ```
 *   root ── readonly ──▶ … ── readonly ──▶   the fixed part: found once, looked at in the same order ever after
 *    │                        │
 *    └── fields that change ──┴──────────▶   the loose part: objects that come and go (a frame, a record)
 * ```
 */
export interface MementoOptions {
  /** Objects of these classes never change: they are passed over. */
  readonly constantClasses: readonly (abstract new (
    ...args: never[]
  ) => object)[];
  /** Fields, of any object, whose contents never change though TypeScript does not know it. */
  readonly constantFields?: readonly string[];
  /**
   * Fields that are saved and restored but are not part of a state's identity: counters and stamps that are reported and
   * never acted on, and scratch. `'Class.field'`.
   */
  readonly notIdentity?: readonly string[];
  /** Memory that views are taken of: saved here, and the views are passed over. */
  readonly memory: readonly MemoryRange[];
  /** Memory of which somebody else takes care: views of it are passed over. */
  readonly foreign?: readonly ArrayBufferLike[];
}

/** Words of a buffer that belong to the state. The rest of the buffer must not change, or not matter. */
export interface MemoryRange {
  readonly words: Int32Array;
  /** Of those, the ones that are not part of a state's identity. */
  readonly notIdentity?: ReadonlySet<number>;
  /** Whether nobody will read the words before they are written again: then they are not part of the identity. */
  readonly dead?: () => boolean;
}

/** A state. */
export interface Snapshot {
  readonly loose: readonly Described[];
  readonly later: readonly Described[];
  readonly values: readonly unknown[];
  readonly words: Int32Array;
}

/** What is known of an object once it was met. */
interface Described {
  readonly object: Record<string, unknown>;
  readonly kind: 'array' | 'int32' | 'float64' | 'bytes' | 'fixed-list' | 'record';
  readonly fields: readonly string[];
  /** Of those, how many, from the first, are part of the identity. */
  readonly identity: number;
  readonly access: FieldAccess;
  readonly restAccess: FieldAccess;
  /** Primitive fields that never change in this object; of two loose objects they may differ. */
  readonly fixed: readonly unknown[];
  /** This object and what its readonly fields lead to, without what can't change. */
  reach: readonly Described[];
  /** Whether its values are part of a state's identity: not if only a field that is not leads to it. */
  named: boolean;
  /** The look in which it was met last, and its number there. */
  met: number;
  number: number;
}

/** Reads and writes some fields of objects of one shape. */
interface FieldAccess {
  read(object: object, values: unknown[], at: number): void;
  write(object: object, values: readonly unknown[], at: number): void;
}

const accesses = new Map<string, FieldAccess>();

/** Written out field by field and compiled: access by computed name takes five times as long, and it is most of a search. */
function fieldAccess(shape: string, fields: readonly string[]): FieldAccess {
  const key = `${shape}:${fields.join()}`;
  let access = accesses.get(key);
  if (access === undefined) {
    const reads = fields.map((field, i) => `values[at + ${i}] = object.${field};`);
    const writes = fields.map((field, i) => `object.${field} = values[at + ${i}];`);
    access = {
      // oxlint-disable-next-line typescript/no-implied-eval -- of field names of this project's own classes
      read: new Function('object', 'values', 'at', reads.join('\n')) as FieldAccess['read'],
      // oxlint-disable-next-line typescript/no-implied-eval -- the same
      write: new Function('object', 'values', 'at', writes.join('\n')) as FieldAccess['write'],
    };
    accesses.set(key, access);
  }
  return access;
}

/** Longest array of numbers that is taken for part of a state rather than for memory. */
const MOST_NUMBERS = 256;

export class Memento {
  readonly #constantClasses: ReadonlySet<unknown>;
  readonly #constantFields: ReadonlySet<string>;
  readonly #notIdentity: ReadonlySet<string>;
  readonly #memory: readonly MemoryRange[];
  readonly #buffers: ReadonlySet<unknown>;
  readonly #memoryWords: number;
  readonly #described: WeakMap<object, Described | null> = new WeakMap();
  readonly #strings: Map<string, number> = new Map();
  readonly #float: Float64Array = new Float64Array(1);
  readonly #floatWords: Int32Array = new Int32Array(this.#float.buffer);
  readonly #fixedPart: readonly Described[];
  /** Of the fixed part, what is not part of the identity. */
  readonly #unnamedPart: readonly Described[];
  // The look in hand.
  #look = 0;
  #loose: Described[] = [];
  /** Loose objects that are not part of the identity. */
  #later: Described[] = [];
  #values: unknown[] = [];
  #count = 0;
  #a = 0;
  #b = 0;

  constructor(root: object, options: MementoOptions) {
    this.#constantClasses = new Set(options.constantClasses);
    this.#constantFields = new Set(options.constantFields);
    this.#notIdentity = new Set(options.notIdentity);
    this.#memory = options.memory;
    this.#buffers = new Set<unknown>([
      ...options.memory.map(({ words }) => words.buffer),
      ...(options.foreign ?? []),
    ]);
    this.#memoryWords = options.memory.reduce((sum, { words }) => sum + words.length, 0);
    const fixed = this.#describe(root)?.reach ?? [];
    this.#fixedPart = fixed.filter(({ named }) => named);
    this.#unnamedPart = fixed.filter(({ named }) => !named);
  }

  /** Looks at the present state and names it. What it finds is kept until the next look; {@link saved} copies it. */
  look(): number {
    this.#look += 1;
    this.#loose.length = 0;
    this.#later.length = 0;
    this.#count = 0;
    this.#a = 0x9e37_79b9 | 0;
    this.#b = 0x7f4a_7c15 | 0;
    this.#mixMemory();
    const fixed = this.#fixedPart;
    for (let i = 0; i < fixed.length; i += 1) {
      fixed[i]!.met = this.#look;
      fixed[i]!.number = i;
    }
    const unnamed = this.#unnamedPart;
    for (let i = 0; i < unnamed.length; i += 1) {
      unnamed[i]!.met = this.#look;
    }
    for (let i = 0; i < fixed.length; i += 1) {
      this.#lookAt(fixed[i]!, true);
    }
    // The list grows while it is gone through. What only fields outside the identity lead to comes last.
    for (let i = 0; i < this.#loose.length; i += 1) {
      this.#mixFixed(this.#loose[i]!);
      this.#lookAt(this.#loose[i]!, true);
    }
    for (let i = 0; i < fixed.length; i += 1) {
      this.#lookAtRest(fixed[i]!);
    }
    for (let i = 0; i < this.#loose.length; i += 1) {
      this.#lookAtRest(this.#loose[i]!);
    }
    for (let i = 0; i < unnamed.length; i += 1) {
      this.#lookAt(unnamed[i]!, false);
      this.#lookAtRest(unnamed[i]!);
    }
    for (let i = 0; i < this.#later.length; i += 1) {
      this.#lookAt(this.#later[i]!, false);
      this.#lookAtRest(this.#later[i]!);
    }
    return (this.#a >>> 0) * 0x20_0000 + (this.#b >>> 11);
  }

  /** A copy of what the last {@link look} found. */
  saved(): Snapshot {
    return {
      loose: this.#loose.slice(),
      later: this.#later.slice(),
      values: this.#values.slice(0, this.#count),
      words: this.memory(),
    };
  }

  save(): Snapshot {
    this.look();
    return this.saved();
  }

  /** A copy of the memory's words alone. */
  memory(): Int32Array {
    const copy = new Int32Array(this.#memoryWords);
    let from = 0;
    for (const { words } of this.#memory) {
      for (let i = 0; i < words.length; i += 1) {
        copy[from + i] = words[i]!;
      }
      from += words.length;
    }
    return copy;
  }

  /** Puts the memory's words back, and nothing else. */
  putMemory(copy: Int32Array): void {
    let from = 0;
    for (const { words } of this.#memory) {
      for (let i = 0; i < words.length; i += 1) {
        words[i] = copy[from + i]!;
      }
      from += words.length;
    }
  }

  restore(snapshot: Snapshot): void {
    this.putMemory(snapshot.words);
    const { loose, later } = snapshot;
    const fixed = this.#fixedPart;
    this.#at = 0;
    for (let i = 0; i < fixed.length; i += 1) {
      this.#put(fixed[i]!, snapshot.values);
    }
    for (let i = 0; i < loose.length; i += 1) {
      this.#put(loose[i]!, snapshot.values);
    }
    for (let i = 0; i < fixed.length; i += 1) {
      this.#putRest(fixed[i]!, snapshot.values);
    }
    for (let i = 0; i < loose.length; i += 1) {
      this.#putRest(loose[i]!, snapshot.values);
    }
    for (const unnamed of this.#unnamedPart) {
      this.#put(unnamed, snapshot.values);
      this.#putRest(unnamed, snapshot.values);
    }
    for (let i = 0; i < later.length; i += 1) {
      this.#put(later[i]!, snapshot.values);
      this.#putRest(later[i]!, snapshot.values);
    }
  }

  #at = 0;

  #put({ object, kind, identity, access }: Described, values: readonly unknown[]): void {
    let at = this.#at;
    switch (kind) {
      case 'record':
        access.write(object, values, at);
        at += identity;
        break;
      case 'array': {
        const list = object as unknown as unknown[];
        const length = values[at] as number;
        if (list.length !== length) {
          list.length = length;
        }
        at += 1;
        for (let i = 0; i < length; i += 1) {
          list[i] = values[at + i];
        }
        at += length;
        break;
      }
      case 'int32': {
        const list = object as unknown as Int32Array;
        for (let i = 0; i < list.length; i += 1) {
          list[i] = values[at + i] as number;
        }
        at += list.length;
        break;
      }
      case 'float64':
      case 'bytes': {
        const list = object as unknown as Float64Array;
        for (let i = 0; i < list.length; i += 1) {
          list[i] = values[at + i] as number;
        }
        at += list.length;
        break;
      }
      case 'fixed-list':
        break;
    }
    this.#at = at;
  }

  #putRest({ object, fields, identity, restAccess }: Described, values: readonly unknown[]): void {
    if (fields.length > identity) {
      restAccess.write(object, values, this.#at);
      this.#at += fields.length - identity;
    }
  }

  #mixMemory(): void {
    let from = 0;
    for (const { words, notIdentity, dead } of this.#memory) {
      const length = dead?.() === true ? 0 : words.length;
      for (let i = 0; i < length; i += 1) {
        const word = words[i]!;
        if (word !== 0 && (notIdentity === undefined || !notIdentity.has(i))) {
          this.#mix(from + i);
          this.#mix(word);
        }
      }
      from += words.length;
    }
  }

  #mixFixed({ fixed }: Described): void {
    for (const value of fixed) {
      this.#mixValue(value);
    }
  }

  #lookAt({ object, kind, identity, access }: Described, mixed: boolean): void {
    const values = this.#values;
    const from = this.#count;
    switch (kind) {
      case 'record':
        access.read(object, values, from);
        this.#count += identity;
        this.#follow(from, mixed);
        return;
      case 'array': {
        const list = object as unknown as unknown[];
        values[from] = list.length;
        for (let i = 0; i < list.length; i += 1) {
          values[from + 1 + i] = list[i];
        }
        this.#count += 1 + list.length;
        this.#follow(from, mixed);
        return;
      }
      case 'int32': {
        const list = object as unknown as Int32Array;
        for (let i = 0; i < list.length; i += 1) {
          const word = list[i]!;
          values[from + i] = word;
          if (mixed) {
            this.#mix(word);
          }
        }
        this.#count += list.length;
        return;
      }
      case 'float64':
      case 'bytes': {
        const list = object as unknown as Float64Array;
        for (let i = 0; i < list.length; i += 1) {
          values[from + i] = list[i];
        }
        this.#count += list.length;
        this.#follow(from, mixed);
        return;
      }
      case 'fixed-list':
    }
  }

  #lookAtRest({ object, fields, identity, restAccess }: Described): void {
    if (fields.length > identity) {
      const from = this.#count;
      restAccess.read(object, this.#values, from);
      this.#count += fields.length - identity;
      this.#follow(from, false);
    }
  }

  /** Goes through the values from `from` on: names them, and meets the objects among them. */
  #follow(from: number, mixed: boolean): void {
    const values = this.#values;
    for (let i = from; i < this.#count; i += 1) {
      const value = values[i];
      if (typeof value === 'object' && value !== null) {
        const number = this.#enter(value, mixed);
        if (mixed) {
          this.#mix(0x6a09 + number);
        }
      } else if (mixed) {
        this.#mixValue(value);
      }
    }
  }

  /** The number of an object in this state; -1 for one that never changes. */
  #enter(object: object, named: boolean): number {
    const described = this.#describe(object);
    if (described === null) {
      return -1;
    }
    if (described.met !== this.#look) {
      for (const reached of described.reach) {
        if (reached.met !== this.#look) {
          reached.met = this.#look;
          if (named && reached.named) {
            reached.number = 1000 + this.#loose.length;
            this.#loose.push(reached);
          } else {
            this.#later.push(reached);
          }
        }
      }
    }
    return described.number;
  }

  #mixValue(value: unknown): void {
    switch (typeof value) {
      case 'number':
        if ((value | 0) === value) {
          this.#mix(value);
        } else {
          this.#float[0] = value;
          this.#mix(this.#floatWords[0]!);
          this.#mix(this.#floatWords[1]! ^ 0x1234_5678);
        }
        return;
      case 'boolean':
        this.#mix(value ? 0x5bd1 : 0x1b87);
        return;
      case 'undefined':
        this.#mix(0x2c1b);
        return;
      case 'string':
        this.#mix(this.#stringHash(value));
        return;
      case 'object':
        this.#mix(0x3c6e); // null
        return;
      case 'function':
        return; // code; what it closes over must be in view elsewhere
      default:
        throw new TypeError(`a ${typeof value} can't be part of an explored state`);
    }
  }

  #stringHash(text: string): number {
    let hash = this.#strings.get(text);
    if (hash === undefined) {
      hash = 0x811c_9dc5 | 0;
      for (let i = 0; i < text.length; i += 1) {
        hash = Math.imul(hash ^ text.charCodeAt(i), 0x0100_0193);
      }
      if (this.#strings.size < 10_000) {
        this.#strings.set(text, hash);
      }
    }
    return hash;
  }

  /** Two 32-bit lanes of multiply-and-rotate; 53 bits of them name a state. */
  #mix(word: number): void {
    let a = Math.imul(this.#a ^ word, 0x85eb_ca6b);
    a = (a << 13) | (a >>> 19);
    this.#a = (Math.imul(a, 5) + 0x6b64_e654) | 0;
    let b = Math.imul(this.#b + word, 0xc2b2_ae35 | 0);
    b = (b << 15) | (b >>> 17);
    this.#b = (Math.imul(b, 9) ^ a) | 0;
  }

  // ── objects, when they are first met ──────────────────────────────────────────────────────────────────────

  #describe(object: object): Described | null {
    const known = this.#described.get(object);
    return known === undefined ? this.#meet(object, false) : known;
  }

  /** `fixedList`: an array that always has the same elements. */
  #meet(object: object, fixedList: boolean): Described | null {
    const kind = fixedList ? 'fixed-list' : this.#kindOf(object);
    if (kind === undefined) {
      this.#described.set(object, null);
      return null;
    }
    if (kind !== 'record' && kind !== 'fixed-list') {
      const described: Described = {
        object: object as Record<string, unknown>,
        kind,
        fields: [],
        identity: 0,
        access: NO_ACCESS,
        restAccess: NO_ACCESS,
        fixed: [],
        reach: [],
        named: true,
        met: 0,
        number: -1,
      };
      described.reach = [described];
      this.#described.set(object, described);
      return described;
    }
    const readonly = kind === 'record' ? this.#readonlyOf(object) : NO_FIELDS;
    const names = Object.keys(object).filter((name) => !this.#constantFields.has(name));
    const isReadonly = (name: string): boolean => fixedList || readonly.has(name) || readonly.has(`${name}*`);
    const changing = names.filter((name) => !isReadonly(name));
    const className = object.constructor.name;
    const isRest = (name: string): boolean => this.#notIdentity.has(`${className}.${name}`);
    const identity = changing.filter((name) => !isRest(name));
    const record = object as Record<string, unknown>;
    const rest = changing.filter(isRest);
    const described: Described = {
      object: record,
      kind,
      fields: [...identity, ...rest],
      identity: identity.length,
      access: fieldAccess(className, identity),
      restAccess: fieldAccess(className, rest),
      fixed: names
        .filter((name) => isReadonly(name) && typeof record[name] !== 'object')
        .map((name) => record[name]),
      reach: [],
      named: true,
      met: 0,
      number: -1,
    };
    this.#described.set(object, described);
    const reach = new Set<Described>(changing.length > 0 ? [described] : []);
    for (const name of names) {
      const value = record[name];
      if (isReadonly(name) && typeof value === 'object' && value !== null) {
        const list = Array.isArray(value) && readonly.has(`${name}*`) && !this.#described.has(value);
        for (const further of (list ? this.#meet(value, true) : this.#describe(value))?.reach ?? []) {
          reach.add(further);
          further.named &&= !isRest(name);
        }
      }
    }
    described.reach = [...reach];
    if (described.reach.length === 0) {
      this.#described.set(object, null); // nothing in it or behind it changes
      return null;
    }
    return described;
  }

  #readonlyOf(object: object): ReadonlySet<string> {
    const of = (globalThis as unknown as Record<string, Record<string, string[]>>)[READONLY_FIELDS] ?? {};
    const names = new Set<string>();
    for (
      let prototype = Object.getPrototypeOf(object) as object;
      prototype !== Object.prototype;
      prototype = Object.getPrototypeOf(prototype) as object
    ) {
      for (const name of of[prototype.constructor.name] ?? []) {
        names.add(name);
      }
    }
    return names;
  }

  /** Undefined for what never changes, or is saved as memory. */
  #kindOf(object: object): Described['kind'] | undefined {
    if (Array.isArray(object)) {
      return 'array';
    }
    if (ArrayBuffer.isView(object)) {
      if (this.#buffers.has(object.buffer)) {
        return undefined;
      }
      if (object instanceof DataView || object.byteLength / 2 > MOST_NUMBERS * 4) {
        throw new TypeError('a view of memory that the explorer was not told of');
      }
      return object instanceof Int32Array ? 'int32' : object instanceof Uint8Array ? 'bytes' : 'float64';
    }
    if (
      this.#constantClasses.has(object.constructor) ||
      object instanceof Error ||
      object instanceof ArrayBuffer ||
      object instanceof SharedArrayBuffer
    ) {
      return undefined;
    }
    if (object instanceof Map || object instanceof Set || object instanceof Promise) {
      throw new TypeError(`a ${object.constructor.name} can't be part of an explored state`);
    }
    return 'record';
  }
}

const NO_FIELDS: ReadonlySet<string> = new Set();
const NO_ACCESS: FieldAccess = { read: () => {}, write: () => {} };
