import { hostRegisters, kindOf } from '../balloon/guest-registers.js';
import { LacunaError } from '../errors.js';
import type { GuestTrace } from '../guest/trace.js';
import { ControlBuffer, EventWord, VCPU_STATE, VcpuRequest, VcpuState } from '../memory/control-buffer.js';
import { SharedGuestMemory } from '../memory/guest-memory.js';
import { type RamBlock, RamLayout } from '../memory/ram-layout.js';
import { atomicMapper } from '../memory/shared-words.js';
import type { DestinationVm } from '../migration/vm.js';
import { MemoryChannel } from '../transport/memory.js';
import { type ArrivalPlace, parseDeviceState, prepareDeviceState } from './device-state.js';
import { newThreads, type Thread } from './threads.js';
import { type HostingOptions, WorkerGuest } from './worker-guest.js';

/** What a destination can be made to refuse: the device state, or to start the guest. */
export const REFUSALS = ['device-state', 'start'] as const;
export type Refusal = (typeof REFUSALS)[number];

/** What a destination that refuses says, whatever it is. */
export const REFUSED = 'it was told to refuse';

/** How a destination is prepared; its thread comes from where the arriving guest's does. */
export interface DestinationOptions extends HostingOptions {
  /** The guest stops again at its first safe point, for whoever wants to compare. */
  readonly holdAtStart?: boolean;
  readonly refuses?: Refusal | undefined;
}

/** What the destination's thread is given. */
export interface DestinationThreadData {
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  /** The source's memory, out of which this transport copies. */
  readonly sourceBuffers: readonly SharedArrayBuffer[];
  readonly control: SharedArrayBuffer;
  readonly event: SharedArrayBuffer;
  readonly channel: SharedArrayBuffer;
  readonly trace: GuestTrace | undefined;
  readonly holdAtStart: boolean;
  readonly refuses: Refusal | undefined;
}

/** How long the guest's thread may take to start: generous, for it may have to share a processor. */
export const START_TIMEOUT_MS = 20_000;

/** A destination that refuses what it was told to refuse, and says so. */
class RefusingDestination implements DestinationVm {
  readonly memory: SharedGuestMemory;
  readonly #inner: ReceivedGuest;
  readonly #refuses: Refusal;

  constructor(inner: ReceivedGuest, refuses: Refusal) {
    this.memory = inner.memory;
    this.#inner = inner;
    this.#refuses = refuses;
  }

  loadDeviceState(bytes: Uint8Array): void {
    if (this.#refuses === 'device-state') {
      throw new LacunaError('DEVICE_STATE_INVALID', `${REFUSED} the device state`);
    }
    this.#inner.loadDeviceState(bytes);
  }

  start(): number {
    if (this.#refuses === 'start') {
      throw new LacunaError('GUEST_FAILED', `${REFUSED} to start the guest`);
    }
    return this.#inner.start();
  }
}

/** What the destination's thread receives into. Used in `workers/destination.ts`. */
export function receivingVm(data: DestinationThreadData): DestinationVm {
  const guest = new ReceivedGuest(data);
  return data.refuses === undefined ? guest : new RefusingDestination(guest, data.refuses);
}

/** Puts a device state where the guest's thread will look for it. Throws DEVICE_STATE_INVALID. */
export function loadIntoControl(control: ControlBuffer, bytes: Uint8Array, place: ArrivalPlace): void {
  const state = parseDeviceState(bytes, place);
  const { registers } = state.device;
  hostRegisters(control, kindOf(registers)).restore(registers);
  if (!control.writeState(new TextEncoder().encode(state.vcpu))) {
    throw new LacunaError(
      'DEVICE_STATE_INVALID',
      `vCPU registers of ${state.vcpu.length} bytes are too long`,
    );
  }
}

/** The receiving guest, seen from the destination's own thread. */
class ReceivedGuest implements DestinationVm {
  readonly memory: SharedGuestMemory;
  readonly #control: ControlBuffer;
  readonly #place: ArrivalPlace;
  readonly #holdAtStart: boolean;

  constructor(data: DestinationThreadData) {
    this.memory = new SharedGuestMemory(new RamLayout(data.blocks), data.buffers);
    this.#control = new ControlBuffer(atomicMapper, data.control, new EventWord(atomicMapper, data.event));
    prepareDeviceState(); // while there is time: a guest that arrives stands still
    this.#place = { layout: this.memory.layout, trace: data.trace };
    this.#holdAtStart = data.holdAtStart;
  }

  loadDeviceState(bytes: Uint8Array): void {
    loadIntoControl(this.#control, bytes, this.#place);
  }

  start(): number {
    const { words } = this.#control;
    this.#control.request(this.#holdAtStart ? VcpuRequest.runToSafePoint : VcpuRequest.run);
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (this.#control.startedAt === 0) {
      if (performance.now() > deadline || words.load(VCPU_STATE) === VcpuState.failed) {
        this.#control.request(VcpuRequest.exit); // it must not start after all (I10)
        throw new LacunaError('GUEST_FAILED', "the guest's thread did not start it");
      }
      words.wait(VCPU_STATE, VcpuState.created, 100);
    }
    return this.#control.startedAt;
  }
}

/** The destination of a migration within one process: a thread and memory of its own. */
export class WorkerDestination {
  readonly channel: MemoryChannel;
  readonly guest: WorkerGuest;
  readonly #thread: Thread;
  #closing = false;

  private constructor(channel: MemoryChannel, guest: WorkerGuest, thread: Thread) {
    this.channel = channel;
    this.guest = guest;
    this.#thread = thread;
  }

  /**
   * Prepares to receive a guest from `source` into `memory`, which must be of the same layout, and zero by the time
   * that the first frame is sent.
   */
  static async prepare(
    source: WorkerGuest,
    memory: SharedGuestMemory,
    options: DestinationOptions = {},
  ): Promise<WorkerDestination> {
    if (!memory.layout.equals(source.memory.layout)) {
      throw new LacunaError('INVALID_ARGUMENT', "the destination's RAM does not lie where the guest's does");
    }
    const { event } = source;
    const guest = WorkerGuest.incoming(memory, event, { trace: source.trace, ...options });
    const channel = new MemoryChannel(atomicMapper);
    const data: DestinationThreadData = {
      blocks: memory.layout.blocks,
      buffers: memory.buffers,
      sourceBuffers: source.memory.buffers,
      control: guest.control.buffer as SharedArrayBuffer,
      event: event.buffer,
      channel: channel.buffer,
      trace: guest.trace,
      holdAtStart: options.holdAtStart ?? false,
      refuses: options.refuses,
    };
    const thread = (options.threads ?? newThreads).start('destination', data, () => destination.#ended());
    const destination = new WorkerDestination(channel, guest, thread);
    await Promise.all([guest.up, thread.up]);
    return destination;
  }

  /** The guest that has arrived, served by this host from here on. Call it after a completed migration. */
  adopt(): WorkerGuest {
    this.guest.adopt(this.channel.sentDeviceState());
    return this.guest;
  }

  /** Processor time of the receiving thread, in ms; NaN where the system does not say. */
  cpuMs(): number {
    return this.#thread.cpuMs();
  }

  /** Ends the receiving thread. The guest, if it has arrived, is not touched. */
  async close(): Promise<void> {
    this.#closing = true;
    this.channel.close();
    await this.#thread.ended;
  }

  /** Ends the receiving thread wherever it is, as a host that fails would. */
  async kill(): Promise<void> {
    await this.#thread.kill();
  }

  /** The thread has ended; unless it was told to, the source has to know. */
  #ended(): void {
    if (!this.#closing) {
      this.channel.fail(this.#thread.failure?.message ?? 'the destination thread ended');
    }
    this.guest.event.ring();
  }
}
