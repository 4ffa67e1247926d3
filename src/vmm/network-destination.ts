import { LacunaError, messageOf } from '../errors.js';
import type { GuestTrace } from '../guest/trace.js';
import { decodeRegisters } from '../guest/vcpu.js';
import type { WorkloadSpec } from '../guest/workload.js';
import { EventWord, VCPU_STATE, VcpuRequest, VcpuState } from '../memory/control-buffer.js';
import type { SharedGuestMemory } from '../memory/guest-memory.js';
import type { MemoryPool } from '../memory/memory-pool.js';
import { MIB } from '../memory/page.js';
import { RamLayout } from '../memory/ram-layout.js';
import { atomicMapper } from '../memory/shared-words.js';
import { macrotask, wakeOrTimeout } from '../migration/migrate.js';
import { Receiver } from '../migration/receiver.js';
import type { DestinationVm } from '../migration/vm.js';
import type { Admission, MigrationOffer, ReceivedTotals } from '../transport/network/incoming-migration.js';
import {
  type ListenOptions,
  listenForMigrations,
  type MigrationListener,
} from '../transport/network/migration-listener.js';
import {
  type ConnectOptions,
  connectMigration,
  type NetworkChannel,
} from '../transport/network/network-channel.js';
import { ReceivingStreams } from '../transport/network/receiving-streams.js';
import { SendingStreams } from '../transport/network/sending-streams.js';
import type { DestinationMessage, FrameSink, PageCounts } from '../wire/channel.js';
import { type ArrivalPlace, parseDeviceState, prepareDeviceState } from './device-state.js';
import { newThreads, type ThreadSource } from './threads.js';
import { loadIntoControl, REFUSED, type Refusal, START_TIMEOUT_MS } from './worker-destination.js';
import { type HostingOptions, WorkerGuest } from './worker-guest.js';

/** What `guest` says in the hello of a built-in guest. */
const KIND = 'lacuna-worker';

/** A guest of lacuna's own that has arrived over the network. */
export interface Arrival {
  readonly guest: WorkerGuest;
  readonly offer: MigrationOffer;
  /** ms since the epoch. */
  readonly startedAt: number;
  /** What it does. */
  readonly workload: WorkloadSpec;
}

/** Where built-in guests are received, and what becomes of them. Threads of their streams come from `threads` too. */
export interface ReceiveOptions extends Omit<ListenOptions, 'admit'>, Omit<HostingOptions, 'trace'> {
  /** Where their memory comes from; it says whether there is enough. What was taken for nothing is given back. */
  readonly pool: MemoryPool;
  /** The trace that a guest replays, by its name, or undefined. The name is the peer's: it is no path. */
  readonly traceOf?: (name: string) => GuestTrace | undefined;
  /** Guests stop again at their first safe point, for whoever wants to compare; `run` lets them go on. */
  readonly holdAtStart?: boolean;
  /** An offer was accepted; `received` says from now on what has come. */
  readonly onAdmitted?: (offer: MigrationOffer, received: () => ReceivedTotals) => void;
  readonly refuses?: Refusal | undefined;
  /** The guest runs here, and its source knows: it is the caller's from here on, memory included. */
  readonly onRunning: (arrival: Arrival) => void;
}

/** Listens for built-in guests, one at a time, and hosts those that arrive. Throws as {@link listenForMigrations} does. */
export function receiveGuests(options: ReceiveOptions): Promise<MigrationListener> {
  const { threads = newThreads } = options;
  return listenForMigrations(
    {
      ...options,
      admit: async (offer, reply, applied, received) => {
        const admission = await admitGuest(options, offer, reply, applied);
        options.onAdmitted?.(offer, received);
        return admission;
      },
    },
    (how) => new ReceivingStreams({ ...how, threads }),
  );
}

/** How a built-in guest is connected; threads of its streams come from `threads`. */
export interface ConnectGuestOptions extends Omit<ConnectOptions, 'memory' | 'event' | 'guest'> {
  readonly threads?: ThreadSource;
}

/** Connects a built-in guest to a destination that receives such guests. Rejects as {@link connectMigration} does. */
export function connectGuest(guest: WorkerGuest, options: ConnectGuestOptions): Promise<NetworkChannel> {
  const { memory, event, trace } = guest;
  const { threads = newThreads } = options;
  return connectMigration({ ...options, memory, event, guest: describeGuest(trace) }, (how) =>
    SendingStreams.open({ ...how, threads }),
  );
}

/** What a destination has to know of a built-in guest (`ConnectOptions.guest`), before there is one. */
export function describeGuest(trace: GuestTrace | undefined): string {
  return JSON.stringify({ kind: KIND, ...(trace === undefined ? {} : { trace: trace.name }) });
}

async function admitGuest(
  options: ReceiveOptions,
  offer: MigrationOffer,
  reply: (message: DestinationMessage) => void,
  applied: () => PageCounts,
): Promise<Admission> {
  const trace = traceFor(options, offer);
  prepareDeviceState(); // while there is time: a guest that arrives stands still
  const memory = await cleanMemory(options.pool, offer.layout);
  const { oracle = false, faults, threads } = options;
  const hosting: HostingOptions = { oracle, faults, threads, trace };
  const guest = WorkerGuest.incoming(memory, new EventWord(atomicMapper), hosting);
  const leave = async (): Promise<void> => {
    await guest.kill();
    options.pool.giveBack(memory);
  };
  try {
    await guest.up;
  } catch (thrown) {
    await leave();
    throw thrown;
  }
  const vm = new ArrivingGuest(guest, options);
  return {
    memory,
    sink: new StartingReceiver(vm, reply, applied),
    ended: (outcome) => {
      if (outcome === 'voided') {
        return leave();
      }
      options.onRunning({ guest, offer, startedAt: vm.start(), workload: vm.workload() });
      return undefined;
    },
  };
}

/** Which trace goes with the guest. Throws UNSUPPORTED for a guest that can't be run here. */
function traceFor({ traceOf }: ReceiveOptions, offer: MigrationOffer): GuestTrace | undefined {
  let described: unknown;
  try {
    described = JSON.parse(offer.guest);
  } catch (cause) {
    throw new LacunaError('UNSUPPORTED', 'the source does not say what kind of guest it sends', { cause });
  }
  const { kind, trace: name } = (described ?? {}) as { kind?: unknown; trace?: unknown };
  if (kind !== KIND) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the guest is of another kind than "${KIND}", which is what runs here`,
    );
  }
  if (name === undefined) {
    return undefined;
  }
  const trace = typeof name === 'string' ? traceOf?.(name) : undefined;
  if (trace === undefined) {
    throw new LacunaError('UNSUPPORTED', 'the guest replays a trace that this destination does not have');
  }
  if (!offer.layout.equals(new RamLayout(trace.blocks))) {
    throw new LacunaError('UNSUPPORTED', "the guest's memory does not lie where that of its trace does");
  }
  return trace;
}

/** What is zeroed before the event loop has its turn: some milliseconds' worth. */
const SLICE_BYTES: number = 16 * MIB;

/** Memory that is all zero. What the pool makes anew is; the rest is filled, a slice at a time. */
async function cleanMemory(pool: MemoryPool, layout: RamLayout): Promise<SharedGuestMemory> {
  const before = pool.heldBytes;
  const memory = pool.take(layout);
  if (pool.heldBytes - before === layout.memoryBytes) {
    return memory;
  }
  for (const { bytes } of memory.segments) {
    for (let at = 0; at < bytes.length; at += SLICE_BYTES) {
      const words = Math.min(SLICE_BYTES, bytes.length - at) / 8;
      new Float64Array(bytes.buffer, bytes.byteOffset + at, words).fill(0);
      await macrotask();
    }
  }
  return memory;
}

/** The guest on its way, on the thread of its host. */
class ArrivingGuest implements DestinationVm {
  readonly memory: SharedGuestMemory;
  readonly #guest: WorkerGuest;
  readonly #holdAtStart: boolean;
  readonly #refuses: Refusal | undefined;
  #state: Uint8Array = new Uint8Array(0);
  #failure = new LacunaError('GUEST_FAILED', 'the guest was not started');

  constructor(
    guest: WorkerGuest,
    { holdAtStart = false, refuses }: Pick<ReceiveOptions, 'holdAtStart' | 'refuses'>,
  ) {
    this.memory = guest.memory;
    this.#guest = guest;
    this.#holdAtStart = holdAtStart;
    this.#refuses = refuses;
  }

  loadDeviceState(bytes: Uint8Array): void {
    if (this.#refuses === 'device-state') {
      throw new LacunaError('DEVICE_STATE_INVALID', `${REFUSED} the device state`);
    }
    loadIntoControl(this.#guest.control, bytes, this.#place);
    this.#state = bytes;
  }

  /** What a guest that has arrived does. */
  workload(): WorkloadSpec {
    const { vcpu } = parseDeviceState(this.#state, this.#place);
    return decodeRegisters(new TextEncoder().encode(vcpu)).config.workload;
  }

  get #place(): ArrivalPlace {
    return { layout: this.memory.layout, trace: this.#guest.trace };
  }

  /**
   * Starts the guest's thread and waits for it, without holding up the event loop. Whether it has: {@link start} says. If
   * not, the thread was ended, so that it never does (I10).
   */
  async launch(): Promise<void> {
    const { control, event } = this.#guest;
    try {
      if (this.#refuses === 'start') {
        throw new LacunaError('GUEST_FAILED', `${REFUSED} to start the guest`);
      }
      // First, so that what the source made up of a device is found out while the guest can still be refused.
      this.#guest.adopt(this.#state, !this.#holdAtStart);
      control.request(this.#holdAtStart ? VcpuRequest.runToSafePoint : VcpuRequest.run);
      const deadline = performance.now() + START_TIMEOUT_MS;
      for (let seen = event.value(); control.startedAt === 0; seen = event.value()) {
        const left = deadline - performance.now();
        if (left <= 0 || this.#guest.failure !== undefined || this.#hasFailed()) {
          throw this.#guest.failure ?? new LacunaError('GUEST_FAILED', "the guest's thread did not start it");
        }
        if (control.startedAt === 0) {
          await wakeOrTimeout(event, seen, Math.min(left, POLL_MS));
        }
      }
    } catch (thrown) {
      await this.#guest.kill();
      const cause = this.#guest.failure ?? thrown; // of what it died, if that was heard meanwhile
      this.#failure = new LacunaError('GUEST_FAILED', messageOf(cause), { cause });
    }
  }

  /** Says since when it runs; throws if it does not. */
  start(): number {
    const { startedAt } = this.#guest.control;
    if (startedAt === 0) {
      throw this.#failure;
    }
    return startedAt;
  }

  #hasFailed(): boolean {
    return this.#guest.control.words.load(VCPU_STATE) === VcpuState.failed;
  }
}

/** The guest's thread rings when it runs; should that be missed, it is looked at again. */
const POLL_MS = 100;

/**
 * A receiver whose guest takes a while to start: the commit reaches it when it is known whether the guest runs. Until
 * then nothing else does, for it could not be decided.
 */
class StartingReceiver implements FrameSink {
  readonly #vm: ArrivingGuest;
  readonly #receiver: Receiver;
  #isStarting = false;

  constructor(vm: ArrivingGuest, reply: (message: DestinationMessage) => void, applied: () => PageCounts) {
    this.#vm = vm;
    this.#receiver = new Receiver(vm, reply, applied);
  }

  get discarded(): boolean {
    return this.#receiver.discarded;
  }

  pageRun(pfn: number, pageCount: number, payload: Uint8Array): void {
    this.#receiver.pageRun(pfn, pageCount, payload);
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#receiver.zeroRun(pfn, pageCount);
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#receiver.fillRun(pfn, pageCount, value);
  }

  roundEnd(round: number): void {
    this.#receiver.roundEnd(round);
  }

  deviceState(state: Uint8Array): void {
    this.#receiver.deviceState(state);
  }

  finish(): void {
    this.#receiver.finish();
  }

  commit(): void {
    if (this.#isStarting) {
      return; // it is answered when the first one is
    }
    if (this.#receiver.state !== 'ready') {
      this.#receiver.commit();
      return;
    }
    this.#isStarting = true;
    void this.#vm.launch().then(() => {
      this.#isStarting = false;
      this.#receiver.commit();
    });
  }

  withdraw(): void {
    if (!this.#isStarting) {
      this.#receiver.withdraw();
    }
  }

  restart(): void {
    if (!this.#isStarting) {
      this.#receiver.restart();
    }
  }

  cancel(): void {
    if (!this.#isStarting) {
      this.#receiver.cancel();
    }
  }

  fail(thrown: unknown): void {
    if (!this.#isStarting) {
      this.#receiver.fail(thrown);
    }
  }
}
