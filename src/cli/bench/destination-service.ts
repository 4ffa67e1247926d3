import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { isLacunaError, LacunaError, type LacunaErrorCode, messageOf } from '../../errors.js';
import type { SelfCheck } from '../../guest/runtime.js';
import type { GuestTrace } from '../../guest/trace.js';
import { MemoryPool, zeroMemory } from '../../memory/memory-pool.js';
import { type RamBlock, RamLayout } from '../../memory/ram-layout.js';
import { wakeOrTimeout } from '../../migration/migrate.js';
import { availableMemory } from '../../report/machine.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { PageDigester } from '../../vmm/page-digester.js';
import type { GuestCounters, WorkerGuest } from '../../vmm/worker-guest.js';
import { loadGuest } from '../captures.js';

/*
 * A destination in a process of its own, and what the process that made it may ask of it.
 *
 *   RemoteDestination (the benchmark's process)          DestinationService (the child)
 *   call(name, ask) ── { id, name, ask } ──────────────▶ serve
 *        answer     ◀─ { id, answer } or { id, error } ─
 *                        the channel closes ───────────▶ the process ends
 */

/** What is to be received, and how. */
export interface PrepareRequest {
  /** Where the guest's RAM lies. */
  readonly blocks: readonly RamBlock[];
  /** Its memory is written beforehand, so that nothing of the migration is the system's finding pages for it. */
  readonly touched: boolean;
  /** The guest stops at its first safe point, for whoever wants to compare. */
  readonly holdAtStart: boolean;
  readonly tls: TlsSettings | undefined;
  /** The name or the folder of the trace that the guest replays. */
  readonly trace: string | undefined;
}

/** What a process has used since it was last told to measure. */
export interface ProcessUsage {
  /** Processor time of all its threads. */
  readonly cpuMs: number;
  /** Resident now, and at the most since the process began; guest RAM is part of it. */
  readonly rssBytes: number;
  readonly peakRssBytes: number;
  /** Delay of its event loop, in ms. */
  readonly eventLoop: { readonly p50: number; readonly p99: number; readonly max: number };
}

/** The calls, by name. */
export interface DestinationCalls {
  /** Listens on loopback for one guest after the other; what was prepared or received before is given up. */
  readonly prepare: { readonly ask: PrepareRequest; readonly answer: { readonly port: number } };
  /** Answered when the guest has been started here. `startedAt` in ms since the epoch. */
  readonly arrival: {
    readonly ask: undefined;
    readonly answer: { readonly migrationId: string; readonly startedAt: number };
  };
  /** Digests of all pages of the guest that is held (`PageDigester`). */
  readonly digests: { readonly ask: undefined; readonly answer: Uint8Array };
  /** Lets the guest that is held go on. */
  readonly resume: { readonly ask: undefined; readonly answer: undefined };
  readonly selfCheck: { readonly ask: undefined; readonly answer: SelfCheck };
  readonly counters: { readonly ask: undefined; readonly answer: GuestCounters };
  /** {@link ProcessUsage} counts from here. */
  readonly measure: { readonly ask: undefined; readonly answer: undefined };
  readonly usage: { readonly ask: undefined; readonly answer: ProcessUsage };
  /** Gives up what was prepared or received. */
  readonly release: { readonly ask: undefined; readonly answer: undefined };
}
export type CallName = keyof DestinationCalls;

/** What the child is sent. */
export interface CallMessage {
  readonly id: number;
  readonly name: CallName;
  readonly ask: unknown;
}

/** What it sends back. */
export type AnswerMessage =
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly error: { readonly code: LacunaErrorCode; readonly message: string } };

/** A guest that runs here. */
interface Arrived {
  readonly guest: WorkerGuest;
  readonly offer: { readonly migrationId: string };
  readonly startedAt: number;
}

/** What is asked of whoever receives guests. */
export interface ReceiveRequest {
  readonly host: string;
  readonly port: number;
  readonly tls: TlsSettings | undefined;
  readonly pool: MemoryPool;
  readonly traceOf: (name: string) => GuestTrace | undefined;
  readonly holdAtStart: boolean;
  readonly onRunning: (arrived: Arrived) => void;
  readonly onEvent: (event: { readonly type: string; readonly text: string }) => void;
}

/** Receives guests over the network, as `receiveGuests` does. */
export type Receive = (request: ReceiveRequest) => Promise<{ readonly port: number; close(): Promise<void> }>;

/** How long a guest that is to be held may take to its first safe point. */
const HOLD_TIMEOUT_MS = 20_000;

/** Carries out the calls, in the child. */
export class DestinationService {
  readonly #receive: Receive;
  readonly #digester = new PageDigester();
  /** Its buffers have been touched; memory that is to be untouched comes from a new one each time. */
  readonly #touched = new MemoryPool(availableMemory);
  #pool: MemoryPool = this.#touched;
  #listener: Awaited<ReturnType<Receive>> | undefined;
  #arrival: Promise<Arrived> = Promise.reject(nothingPrepared());
  #giveUp: (error: LacunaError) => void = () => {};
  #arrived: Arrived | undefined;
  #cpu: NodeJS.CpuUsage = process.cpuUsage();
  readonly #eventLoop: IntervalHistogram = monitorEventLoopDelay({ resolution: 1 });

  constructor(receive: Receive) {
    this.#receive = receive;
    this.#arrival.catch(() => undefined);
    this.#eventLoop.enable();
  }

  /** Carries out one call. */
  async serve({ id, name, ask }: CallMessage): Promise<AnswerMessage> {
    try {
      return { id, answer: await this.#call(name, ask) };
    } catch (thrown) {
      const code = isLacunaError(thrown) ? thrown.code : 'DESTINATION_FAILED';
      return { id, error: { code, message: messageOf(thrown) } };
    }
  }

  async #call(name: CallName, ask: unknown): Promise<DestinationCalls[CallName]['answer']> {
    switch (name) {
      case 'prepare':
        return this.#prepare(ask as PrepareRequest);
      case 'arrival': {
        const { offer, startedAt } = await this.#arrival;
        return { migrationId: offer.migrationId, startedAt };
      }
      case 'digests':
        return this.#digests();
      case 'resume':
        this.#guest().run(); // with its device, which nobody served while it was held
        return undefined;
      case 'selfCheck':
        return this.#guest().selfCheck();
      case 'counters':
        return this.#guest().counters();
      case 'measure':
        this.#cpu = process.cpuUsage();
        this.#eventLoop.reset();
        return undefined;
      case 'usage':
        return this.#usage();
      case 'release':
        return this.#release();
    }
  }

  async #prepare({
    blocks,
    touched,
    holdAtStart,
    tls,
    trace: name,
  }: PrepareRequest): Promise<{ port: number }> {
    await this.#release();
    const layout = new RamLayout(blocks);
    this.#pool = touched ? this.#touched : new MemoryPool(availableMemory);
    if (touched) {
      const memory = this.#pool.take(layout);
      zeroMemory(memory);
      this.#pool.giveBack(memory);
    }
    const trace = name === undefined ? undefined : loadGuest(name).trace;
    let arrived: (guest: Arrived) => void = () => {};
    this.#arrival = new Promise((resolve, reject) => {
      arrived = resolve;
      this.#giveUp = reject;
    });
    this.#arrival.catch(() => undefined); // whoever asks for it sees it; nobody has to
    this.#listener = await this.#receive({
      host: '127.0.0.1',
      port: 0,
      tls,
      pool: this.#pool,
      traceOf: (asked) => (asked === trace?.name ? trace : undefined),
      holdAtStart,
      onRunning: (guest) => {
        this.#arrived = guest;
        arrived(guest);
      },
      onEvent: ({ type, text }) => {
        if (type === 'discarded' || type === 'not-started') {
          this.#giveUp(new LacunaError('DESTINATION_FAILED', text));
        }
      },
    });
    return { port: this.#listener.port };
  }

  #guest(): WorkerGuest {
    if (this.#arrived === undefined) {
      throw new LacunaError('ILLEGAL_STATE', 'no guest has arrived here');
    }
    return this.#arrived.guest;
  }

  async #digests(): Promise<Uint8Array> {
    const guest = this.#guest();
    const deadline = performance.now() + HOLD_TIMEOUT_MS;
    for (let seen = guest.event.value(); !guest.paused; seen = guest.event.value()) {
      const left = deadline - performance.now();
      if (left <= 0 || guest.failure !== undefined) {
        throw guest.failure ?? new LacunaError('VCPU_STUCK', 'the guest that arrived does not stand still');
      }
      await wakeOrTimeout(guest.event, seen, left);
    }
    // A copy: what is shared between threads can't be sent to another process.
    return new Uint8Array(await this.#digester.digest(guest.memory));
  }

  #usage(): ProcessUsage {
    const { user, system } = process.cpuUsage(this.#cpu);
    // A histogram without a sample has percentiles all the same.
    const ms = (nanoseconds: number): number => (this.#eventLoop.count === 0 ? 0 : nanoseconds / 1e6);
    return {
      cpuMs: (user + system) / 1000,
      rssBytes: process.memoryUsage.rss(),
      peakRssBytes: process.resourceUsage().maxRSS * 1024,
      eventLoop: {
        p50: ms(this.#eventLoop.percentile(50)),
        p99: ms(this.#eventLoop.percentile(99)),
        max: ms(this.#eventLoop.max),
      },
    };
  }

  async #release(): Promise<undefined> {
    this.#giveUp(nothingPrepared());
    this.#arrival = Promise.reject(nothingPrepared());
    this.#arrival.catch(() => undefined);
    const listener = this.#listener;
    this.#listener = undefined;
    await listener?.close();
    const arrived = this.#arrived;
    this.#arrived = undefined;
    if (arrived !== undefined) {
      await arrived.guest.kill();
      this.#pool.giveBack(arrived.guest.memory);
    }
    return undefined;
  }
}

function nothingPrepared(): LacunaError {
  return new LacunaError('ILLEGAL_STATE', 'the destination is prepared to receive nothing');
}

/** Serves the process that has forked this one, and ends with it. */
export function serveParent(receive: Receive): void {
  const service = new DestinationService(receive);
  process.on('message', (message: CallMessage) => {
    // Where it can't be sent there is nobody who waits for it.
    void service
      .serve(message)
      .then((answer) => process.send?.(answer, undefined, undefined, () => undefined));
  });
  // The parent is gone, or wants it to be: there is nobody for whom to keep a guest.
  process.on('disconnect', () => process.exit(0));
  // Ctrl-C is for all processes of a terminal; what becomes of this one is the parent's to say.
  process.on('SIGINT', () => undefined);
}
