// @ts-check
/** @import { DirtyLog, GuestMemory } from 'lacuna' */

/**
 * A toy processor: 16 registers of 32 bits, and instructions of two words:
 *
 *     word 0   operation | a << 8 | b << 16 | c << 24        word 1   immediate
 */
export const Op = /** @type {const} */ ({
  halt: 0,
  /** a = immediate */
  set: 1,
  /** a = b + c */
  add: 2,
  /** a = b + immediate */
  addImmediate: 3,
  /** a = b * immediate */
  multiply: 4,
  /** a = the word at b + immediate */
  load: 5,
  /** the word at b + immediate = a */
  store: 6,
  /** if a = b, go to immediate */
  ifEqual: 7,
  /** if a < b, go to immediate */
  ifLess: 8,
  /** a = the address of a page of memory, whose contents are whatever they are; 0 if there is none */
  allocate: 9,
  /** gives the page at a back */
  release: 10,
});

/** What the processor asks of its machine. */
/** @typedef {{ allocatePage(): number, releasePage(gpa: number): void }} Heap */

export class Cpu {
  registers = new Int32Array(16);
  /** Guest-physical address of the next instruction. */
  pc = 0;
  halted = false;
  /** Instructions carried out, here. */
  executed = 0;
  #words;
  #log;
  #heap;

  /**
   * @param {GuestMemory} memory one segment from address 0
   * @param {DirtyLog} log
   * @param {Heap} heap
   */
  constructor(memory, log, heap) {
    const [segment] = memory.segments;
    if (segment === undefined || segment.startGpa !== 0) {
      throw new RangeError('this processor wants its memory to begin at address 0');
    }
    // Memory that may be replaced (a WebAssembly memory that grows) has `generation` count; take the view anew then.
    this.#words = new Int32Array(segment.bytes.buffer, segment.bytes.byteOffset, segment.lengthBytes / 4);
    this.#log = log;
    this.#heap = heap;
  }

  /**
   * Carries out up to `count` instructions. Where it returns is a safe point: every write has its mark (I2).
   * @param {number} count
   */
  run(count) {
    const { registers } = this;
    for (let i = 0; i < count && !this.halted; i += 1) {
      const word = this.#read(this.pc);
      const immediate = this.#read(this.pc + 4);
      const a = (word >>> 8) & 15;
      const b = (word >>> 16) & 15;
      const c = (word >>> 24) & 15;
      this.pc += 8;
      this.executed += 1;
      switch (word & 0xff) {
        case Op.halt:
          this.halted = true;
          break;
        case Op.set:
          registers[a] = immediate;
          break;
        case Op.add:
          registers[a] = this.#register(b) + this.#register(c);
          break;
        case Op.addImmediate:
          registers[a] = this.#register(b) + immediate;
          break;
        case Op.multiply:
          registers[a] = Math.imul(this.#register(b), immediate);
          break;
        case Op.load:
          registers[a] = this.#read(this.#register(b) + immediate);
          break;
        case Op.store:
          this.#write(this.#register(b) + immediate, this.#register(a));
          break;
        case Op.ifEqual:
          this.pc = registers[a] === registers[b] ? immediate : this.pc;
          break;
        case Op.ifLess:
          this.pc = this.#register(a) < this.#register(b) ? immediate : this.pc;
          break;
        case Op.allocate:
          registers[a] = this.#heap.allocatePage();
          break;
        case Op.release:
          this.#heap.releasePage(this.#register(a));
          break;
        default:
          throw new RangeError(`no such operation: ${word & 0xff} at ${this.pc - 8}`);
      }
    }
  }

  /** @param {number} index */
  #register(index) {
    return this.registers[index] ?? 0;
  }

  /** @param {number} gpa */
  #read(gpa) {
    const value = this.#words[gpa / 4];
    if (value === undefined) {
      throw new RangeError(`address ${gpa} is no word of RAM`);
    }
    return value;
  }

  /**
   * @param {number} gpa
   * @param {number} value
   */
  #write(gpa, value) {
    this.#read(gpa); // throws if it is no word of RAM
    this.#words[gpa / 4] = value;
    this.#log.markBytes(gpa, 4); // I1: the write, then the mark
  }
}
