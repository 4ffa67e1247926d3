// Threads run the built files (Node 20 loads no .ts in a worker), and so must whoever starts them.
import { afterAll } from 'vitest';
import {
  atomicMapper,
  EventWord,
  type GuestImage,
  type GuestTrace,
  type MigrateRequest,
  migrate,
  type PrecopySource,
  RamLayout,
  SharedGuestMemory,
  type SyntheticOptions,
  syntheticImage,
  traceImage,
  traceWorkload,
  type Verification,
  Verifier,
  WorkerDestination,
  WorkerGuest,
  type WorkerGuestOptions,
} from '../../dist/src/index.js';
import { zeroMemory } from '../../dist/src/memory/memory-pool.js';
import { ThreadPool } from '../../dist/src/vmm/threads.js';

const MIB = 1024 * 1024;

export interface TestGuestOptions extends Partial<Omit<WorkerGuestOptions, 'image' | 'memory' | 'event'>> {
  readonly image?: Partial<SyntheticOptions>;
}

/** What the tests of a file share: a thread loads its modules once. */
const threads = new ThreadPool();
const verifier = new Verifier();
afterAll(async () => {
  await threads.close();
  await verifier.close();
});

/** Memory and guests of one test; all of it is ended by {@link close}, and used again. */
export class Bench {
  readonly verifier: Verifier = verifier;
  readonly #guests = new Set<WorkerGuest>();
  readonly #destinations = new Set<WorkerDestination>();
  /** Dropped SharedArrayBuffers stay resident for a while, so they are kept for the next guest. */
  static readonly #spare: SharedGuestMemory[] = [];
  readonly #taken: SharedGuestMemory[] = [];

  #memory(layout: RamLayout): SharedGuestMemory {
    const at = Bench.#spare.findIndex((spare) => spare.layout.equals(layout));
    const memory = at === -1 ? SharedGuestMemory.allocate(layout) : Bench.#spare.splice(at, 1)[0]!;
    zeroMemory(memory);
    this.#taken.push(memory);
    return memory;
  }

  /** A guest of 32 MiB (unless told otherwise), half of it free and full of old data, running. */
  async guest(options: TestGuestOptions = {}): Promise<WorkerGuest> {
    return this.#run(
      syntheticImage(atomicMapper, {
        memoryBytes: 32 * MIB,
        freeShare: 0.5,
        freeRunPages: 24,
        ...options.image,
      }),
      options,
    );
  }

  /** A guest that replays a trace from a moment of it on, running. */
  replaying(
    trace: GuestTrace,
    atMs: number,
    options: Omit<TestGuestOptions, 'image' | 'workload' | 'trace'> & { readonly speed?: number } = {},
  ): Promise<WorkerGuest> {
    const { speed, ...rest } = options;
    return this.#run(traceImage(atomicMapper, trace, atMs), {
      ...rest,
      trace,
      workload: traceWorkload(trace, atMs, speed),
    });
  }

  async #run(image: GuestImage, options: Omit<TestGuestOptions, 'image'>): Promise<WorkerGuest> {
    const guest = await WorkerGuest.boot({
      freeMemory: 'data',
      oracle: true,
      threads,
      ...options,
      image,
      memory: this.#memory(new RamLayout(image.blocks)),
      event: new EventWord(atomicMapper),
    });
    this.#guests.add(guest);
    guest.run();
    return guest;
  }

  async destinationFor(guest: WorkerGuest, oracle = false): Promise<WorkerDestination> {
    const destination = await WorkerDestination.prepare(guest, this.#memory(guest.memory.layout), {
      holdAtStart: true,
      oracle,
      threads,
    });
    this.#guests.add(destination.guest);
    this.#destinations.add(destination);
    return destination;
  }

  /** Migrates, with the oracle told of every session. */
  migrate(
    guest: WorkerGuest,
    destination: WorkerDestination,
    request: Partial<Omit<MigrateRequest, 'vm' | 'channel' | 'event'>> = {},
  ): Promise<PrecopySource> {
    return migrate({
      ...request,
      vm: guest,
      channel: destination.channel,
      event: guest.event,
      onEvent: (event) => {
        if (event.type === 'session-issued') {
          guest.oracle?.sessionIssued(event.id);
        }
        request.onEvent?.(event);
      },
    });
  }

  /** Compares every page; then lets the guest go on where it is now, and returns it. */
  async arrive(
    guest: WorkerGuest,
    destination: WorkerDestination,
  ): Promise<{ guest: WorkerGuest; pages: Verification }> {
    const pages = await this.verifier.compare(guest, destination.guest);
    const arrived = destination.adopt();
    arrived.resume();
    await guest.stop();
    await destination.close();
    this.#destinations.delete(destination);
    return { guest: arrived, pages };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#guests].map((guest) => guest.stop()));
    await Promise.all([...this.#destinations].map((destination) => destination.close()));
    Bench.#spare.push(...this.#taken);
  }
}
