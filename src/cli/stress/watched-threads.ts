import { ControlBuffer, EventWord } from '../../memory/control-buffer.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { Thread, ThreadSource } from '../../vmm/threads.js';
import type { GuestThreadData } from '../../vmm/worker-guest.js';

type ThreadName = Parameters<ThreadSource['start']>[0];

/**
 * Threads of one migration, whoever starts them: which of them have not ended, and which guests among them were ever
 * started. It is asked what nobody says: guests that were to arrive and did not, too.
 */
export class WatchedThreads implements ThreadSource {
  readonly #source: ThreadSource;
  readonly #running = new Map<Thread, ThreadName>();
  readonly #guests: ControlBuffer[] = [];

  constructor(source: ThreadSource) {
    this.#source = source;
  }

  /** Guests that have run. */
  get guestsStarted(): number {
    return this.#guests.filter(({ startedAt }) => startedAt !== 0).length;
  }

  /** Threads that have not ended, by what they are. */
  get running(): ThreadName[] {
    return [...this.#running.values()];
  }

  start(name: ThreadName, work: unknown, onEnd: () => void): Thread {
    if (name === 'guest') {
      const { control, event } = work as GuestThreadData;
      this.#guests.push(new ControlBuffer(atomicMapper, control, new EventWord(atomicMapper, event)));
    }
    const thread = this.#source.start(name, work, () => {
      this.#running.delete(thread);
      onEnd();
    });
    this.#running.set(thread, name);
    return thread;
  }
}
