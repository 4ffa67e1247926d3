// @ts-check
import { Op } from './cpu.mjs';

/**
 * What the machine computes: a list of pages, most of which it gives back again; then, generation after generation, a
 * page is added and one is taken out, and a checksum runs over what every page of the list holds. Were one page wrong
 * after a migration, the result would be too.
 */

/** Registers by what they are for. */
const R = {
  zero: 0,
  head: 1,
  random: 2,
  checksum: 3,
  page: 4,
  at: 5,
  end: 6,
  next: 7,
  count: 8,
  limit: 9,
  generation: 10,
  value: 11,
  cursor: 12,
};

/** Where the result is when the machine has halted. */
export const RESULT = R.checksum;
/** How far it has come; 0 until its memory is set up. */
export const GENERATION = R.generation;

const PAGE_BYTES = 4096;
/** A word of the page that gets a value, and then the one so many bytes after it. */
const STRIDE_BYTES = 64;

/**
 * @param {{ pages: number, keepOneIn: number, generations: number }} size
 * @returns {Int32Array} code, to be put at address 0
 */
export function program({ pages, keepOneIn, generations }) {
  const code = new Assembler();
  code.op(Op.set, R.random, 0, 0, 1);

  // A list of `pages` pages, full of numbers.
  code.op(Op.set, R.limit, 0, 0, pages);
  code.label('grow');
  push(code, 'fill');
  code.op(Op.addImmediate, R.count, R.count, 0, 1);
  code.jumpIf(Op.ifLess, R.count, R.limit, 'grow');

  // Of every `keepOneIn` pages the others are given back, with what they hold.
  code.op(Op.add, R.page, R.head, R.zero);
  code.label('thin out');
  for (let i = 1; i < keepOneIn; i += 1) {
    takeOutNext(code, 'work');
  }
  code.op(Op.load, R.page, R.page, 0, 0);
  code.jumpIf(Op.ifEqual, R.page, R.zero, 'work');
  code.jump('thin out');

  code.label('work');
  code.op(Op.add, R.cursor, R.head, R.zero);
  code.op(Op.set, R.limit, 0, 0, generations);
  code.label('generation');
  code.op(Op.addImmediate, R.generation, R.generation, 0, 1);
  push(code, 'fill again');
  // One goes where the cursor is, which goes round the list.
  code.op(Op.add, R.page, R.cursor, R.zero);
  takeOutNext(code, 'from the head again');
  code.op(Op.load, R.cursor, R.page, 0, 0);
  code.jumpIf(Op.ifLess, R.zero, R.cursor, 'sum');
  code.label('from the head again');
  code.op(Op.add, R.cursor, R.head, R.zero);
  code.label('sum');
  code.op(Op.add, R.page, R.head, R.zero);
  code.label('add up');
  code.op(Op.load, R.value, R.page, 0, STRIDE_BYTES);
  code.op(Op.multiply, R.checksum, R.checksum, 0, 31);
  code.op(Op.add, R.checksum, R.checksum, R.value);
  code.op(Op.load, R.page, R.page, 0, 0);
  code.jumpIf(Op.ifEqual, R.page, R.zero, 'next generation');
  code.jump('add up');
  code.label('next generation');
  code.jumpIf(Op.ifLess, R.generation, R.limit, 'generation');
  code.op(Op.halt, 0, 0, 0, 0);
  return code.words();
}

/**
 * A page of numbers at the head of the list. Its first word is the address of the next page.
 * @param {Assembler} code
 * @param {string} loop the name of its loop
 */
function push(code, loop) {
  code.op(Op.allocate, R.page, 0, 0, 0);
  code.op(Op.store, R.head, R.page, 0, 0);
  code.op(Op.add, R.head, R.page, R.zero);
  code.op(Op.addImmediate, R.at, R.page, 0, STRIDE_BYTES);
  code.op(Op.addImmediate, R.end, R.page, 0, PAGE_BYTES);
  code.label(loop);
  code.op(Op.multiply, R.random, R.random, 0, 1_103_515_245);
  code.op(Op.addImmediate, R.random, R.random, 0, 12_345);
  code.op(Op.store, R.random, R.at, 0, 0);
  code.op(Op.addImmediate, R.at, R.at, 0, STRIDE_BYTES);
  code.jumpIf(Op.ifLess, R.at, R.end, loop);
}

/**
 * The page after `R.page` leaves the list and is given back; if there is none, on to `otherwise`.
 * @param {Assembler} code
 * @param {string} otherwise
 */
function takeOutNext(code, otherwise) {
  code.op(Op.load, R.next, R.page, 0, 0);
  code.jumpIf(Op.ifEqual, R.next, R.zero, otherwise);
  code.op(Op.load, R.value, R.next, 0, 0);
  code.op(Op.store, R.value, R.page, 0, 0);
  code.op(Op.release, R.next, 0, 0, 0);
}

/** Instructions, and places in them by name. */
class Assembler {
  /** @type {number[]} */
  #words = [];
  /** @type {Map<string, number>} */
  #labels = new Map();
  /** Where an address is still to be put: index of the word, name of the place. */
  /** @type {[number, string][]} */
  #jumps = [];

  /**
   * @param {number} op
   * @param {number} a
   * @param {number} b
   * @param {number} c
   * @param {number} immediate
   */
  op(op, a = 0, b = 0, c = 0, immediate = 0) {
    this.#words.push(op | (a << 8) | (b << 16) | (c << 24), immediate);
  }

  /** @param {string} name */
  label(name) {
    this.#labels.set(name, this.#words.length * 4);
  }

  /**
   * @param {number} op
   * @param {number} a
   * @param {number} b
   * @param {string} name
   */
  jumpIf(op, a, b, name) {
    this.#jumps.push([this.#words.length + 1, name]);
    this.op(op, a, b, 0, 0);
  }

  /** @param {string} name */
  jump(name) {
    this.jumpIf(Op.ifEqual, R.zero, R.zero, name);
  }

  words() {
    for (const [index, name] of this.#jumps) {
      const address = this.#labels.get(name);
      if (address === undefined) {
        throw new Error(`no place called "${name}"`);
      }
      this.#words[index] = address;
    }
    return Int32Array.from(this.#words);
  }
}
