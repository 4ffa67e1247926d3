import { atomicMapper, type SharedWords } from '../../memory/shared-words.js';

const CLOSED = 0;
const INSIDE = 1;
const WORDS = 2;

/**
 * Who may end a thread that compresses, and when. One that is ended while it makes one of zlib's streams takes the process
 * with it, guest and all: Node frees what was not initialised yet ("close before init"). So threads pass here before they
 * compress and after it, and none is ended while one is inside.
 */
export class CompressionGate {
  readonly buffer: SharedArrayBuffer;
  readonly #words: SharedWords;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(WORDS * 4)) {
    this.buffer = buffer;
    this.#words = atomicMapper.words(buffer, 0, WORDS);
  }

  /** Whether a thread is inside. After {@link close} none comes in any more. */
  get isBusy(): boolean {
    return this.#words.load(INSIDE) !== 0;
  }

  /** False: nothing is to be compressed any more. If not, {@link leave} has to follow. */
  enter(): boolean {
    // In this order, and `close` in the opposite one: either this end sees that it is closed, or the other that it is busy.
    this.#words.add(INSIDE, 1);
    if (this.#words.load(CLOSED) !== 0) {
      this.leave();
      return false;
    }
    return true;
  }

  leave(): void {
    this.#words.add(INSIDE, -1);
  }

  close(): void {
    this.#words.store(CLOSED, 1);
  }
}
