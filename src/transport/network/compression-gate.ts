import { atomicMapper, type SharedWords } from '../../memory/shared-words.js';

const CLOSED = 0;
const INSIDE = 1;
const WORDS = 2;

/**
 * Where threads pass before they compress and after it: once it is closed they don't, so that a compressor that is closed
 * does not wait for all that it was given.
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
    // In this order: whoever has closed it and finds nobody inside knows that nobody will be.
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
