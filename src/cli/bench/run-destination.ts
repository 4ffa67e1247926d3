import { randomBytes } from 'node:crypto';
import { LacunaError } from '../../errors.js';
import { isClean } from '../../guest/runtime.js';
import type { WorkloadSpec } from '../../guest/workload.js';
import type { SharedGuestMemory } from '../../memory/guest-memory.js';
import { macrotask, wakeOrTimeout } from '../../migration/migrate.js';
import type { RunReport, Transport } from '../../report/schema.js';
import type { NetworkChannel } from '../../transport/network/network-channel.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { connectGuest } from '../../vmm/network-destination.js';
import { PageDigester } from '../../vmm/page-digester.js';
import type { Verifier } from '../../vmm/verifier.js';
import { WorkerDestination } from '../../vmm/worker-destination.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import type { SourceChannel } from '../../wire/channel.js';
import { traceNames } from '../captures.js';
import { RemoteDestination } from './remote-destination.js';

/** Where a guest is sent. */
export interface Destination {
  readonly channel: SourceChannel;
  /** Processor time that receiving has taken, in ms; NaN where nobody says. */
  cpuMs(): number;
}

/** Where the guest of a benchmark's run is sent, and how it is seen what has become of it. */
export interface RunDestination extends Destination {
  /** The timed part is about to begin. */
  measure(): Promise<void>;
  /** It is over: {@link cpuMs} of it, where that has to be asked for. */
  measured(): Promise<number | undefined>;
  /** After a completed migration: compares every page, and sees that the guest goes on there, works and is whole. */
  verify(guest: WorkerGuest, workload: WorkloadSpec): Promise<RunReport['verified']>;
  /** Ends it, and the guest if it has arrived. */
  close(): Promise<void>;
}

/** How long a guest at the destination is given to show that it works there. */
const WORK_TIMEOUT_MS = 20_000;
/** A workload rings nobody when it has written, so its counter is looked at every few milliseconds. */
const LOOK_MS = 5;

/** A thread of this process, with memory of its own. */
export class ThreadDestination implements RunDestination {
  readonly #inner: WorkerDestination;
  readonly #verifier: Verifier;

  private constructor(inner: WorkerDestination, verifier: Verifier) {
    this.#inner = inner;
    this.#verifier = verifier;
  }

  /** Prepares to receive `guest` into `memory`, which is zero. */
  static async prepare(
    guest: WorkerGuest,
    memory: SharedGuestMemory,
    verifier: Verifier,
  ): Promise<ThreadDestination> {
    return new ThreadDestination(
      await WorkerDestination.prepare(guest, memory, { holdAtStart: true }),
      verifier,
    );
  }

  get channel(): SourceChannel {
    return this.#inner.channel;
  }

  cpuMs(): number {
    return this.#inner.cpuMs();
  }

  async measure(): Promise<void> {}

  async measured(): Promise<undefined> {}

  async verify(guest: WorkerGuest, workload: WorkloadSpec): Promise<RunReport['verified']> {
    const pages = await this.#verifier.compare(guest, this.#inner.guest);
    const arrived = this.#inner.adopt();
    arrived.resume();
    const works = await hasWorked(
      workload.kind === 'halt',
      () => {
        if (arrived.failure !== undefined) {
          throw arrived.failure;
        }
        return Promise.resolve(arrived.counters().pagesWritten > 0 || arrived.replay()?.ended === true);
      },
      () => wakeOrTimeout(arrived.event, arrived.event.value(), LOOK_MS),
    );
    return verdict(pages, works && isClean(await arrived.selfCheck()));
  }

  async close(): Promise<void> {
    await this.#inner.guest.stop();
    await this.#inner.close();
  }
}

/** The process in which guests are received, for all runs of a benchmark; there is none before it is needed. */
export class DestinationHost {
  readonly #digester = new PageDigester();
  /** Of this benchmark alone. */
  readonly #tls: TlsSettings = { psk: { identity: 'lacuna bench', key: randomBytes(32) } };
  #process: RemoteDestination | undefined;

  /** Prepares it to receive `guest` over loopback, and connects. */
  async prepare(
    guest: WorkerGuest,
    transport: Exclude<Transport, 'memory'>,
    touched: boolean,
  ): Promise<RunDestination> {
    const { trace, memory } = guest;
    if (trace !== undefined && !traceNames().includes(trace.name)) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `${trace.name} is a trace of yours, which another process does not have: use --transport memory`,
      );
    }
    this.#process ??= new RemoteDestination();
    const there = this.#process;
    const tls = transport === 'tls' ? this.#tls : undefined;
    const { blocks } = memory.layout;
    const { port } = await there.call('prepare', {
      blocks,
      touched,
      holdAtStart: true,
      tls,
      trace: trace?.name,
    });
    const endpoint = { host: '127.0.0.1', port, tls };
    const channel = await connectGuest(guest, { endpoint, streams: 1, label: 'lacuna bench' });
    return new ProcessDestination(there, channel, this.#digester);
  }

  /** Ends the process. */
  async close(): Promise<void> {
    await this.#process?.stop();
    await this.#digester.close();
  }
}

/** A process of its own, over TCP or TLS. */
class ProcessDestination implements RunDestination {
  readonly channel: NetworkChannel;
  readonly #process: RemoteDestination;
  readonly #digester: PageDigester;

  constructor(process: RemoteDestination, channel: NetworkChannel, digester: PageDigester) {
    this.#process = process;
    this.channel = channel;
    this.#digester = digester;
  }

  cpuMs(): number {
    return 0; // it has to be asked: see measured()
  }

  async measure(): Promise<void> {
    await this.#process.call('measure', undefined);
  }

  async measured(): Promise<number> {
    return (await this.#process.call('usage', undefined)).cpuMs;
  }

  async verify(guest: WorkerGuest, workload: WorkloadSpec): Promise<RunReport['verified']> {
    await this.#process.call('arrival', undefined);
    const pages = await this.#digester.compare(guest, await this.#process.call('digests', undefined));
    await this.#process.call('resume', undefined);
    const works = await hasWorked(
      workload.kind === 'halt' || guest.replay()?.ended === true,
      async () => (await this.#process.call('counters', undefined)).pagesWritten > 0,
      macrotask,
    );
    return verdict(pages, works && isClean(await this.#process.call('selfCheck', undefined)));
  }

  async close(): Promise<void> {
    await this.channel.close();
    await this.#process.call('release', undefined);
  }
}

/** The guest goes on at the destination: whether its workload has written there in time. */
async function hasWorked(
  isIdle: boolean,
  written: () => Promise<boolean>,
  pause: () => Promise<void>,
): Promise<boolean> {
  const deadline = performance.now() + WORK_TIMEOUT_MS;
  while (!isIdle && !(await written())) {
    if (performance.now() > deadline) {
      return false;
    }
    await pause();
  }
  return true;
}

function verdict(
  { pagesCompared, pagesDifferent, pagesLeftBehind }: Awaited<ReturnType<Verifier['compare']>>,
  passed: boolean,
): RunReport['verified'] {
  return { pagesCompared, pagesDifferent, pagesLeftBehind, guestSelfCheck: passed ? 'passed' : 'failed' };
}
