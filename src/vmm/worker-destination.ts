import { HostRegisters } from '../balloon/registers.js';
import { LacunaError } from '../errors.js';
import {
  ControlBuffer,
  EventWord,
  VCPU_REQUEST,
  VCPU_STATE,
  VcpuRequest,
  VcpuState,
} from '../memory/control-buffer.js';
import { SharedGuestMemory } from '../memory/guest-memory.js';
import { type RamBlock, RamLayout } from '../memory/ram-layout.js';
import { atomicMapper } from '../memory/shared-words.js';
import type { DestinationVm } from '../migration/vm.js';
import { MemoryChannel } from '../transport/memory.js';
import { startThread, type Thread } from './threads.js';
import { parseDeviceState, WorkerGuest } from './worker-guest.js';

/** What the destination's thread is given. */
export interface DestinationThreadData {
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  /** The source's memory, out of which this transport copies. */
  readonly sourceBuffers: readonly SharedArrayBuffer[];
  readonly control: SharedArrayBuffer;
  readonly event: SharedArrayBuffer;
  readonly channel: SharedArrayBuffer;
  readonly holdAtStart: boolean;
}

/** How long the guest's thread may take to start: generous, for it may have to share a processor. */
const START_TIMEOUT_MS = 20_000;

/** The receiving guest, seen from the destination's own thread. Used in `workers/destination.ts`. */
export class ReceivedGuest implements DestinationVm {
  readonly memory: SharedGuestMemory;
  readonly #control: ControlBuffer;
  readonly #holdAtStart: boolean;

  constructor(data: DestinationThreadData) {
    this.memory = new SharedGuestMemory(new RamLayout(data.blocks), data.buffers);
    this.#control = new ControlBuffer(atomicMapper, data.control, new EventWord(atomicMapper, data.event));
    this.#holdAtStart = data.holdAtStart;
  }

  loadDeviceState(bytes: Uint8Array): void {
    const state = parseDeviceState(bytes);
    new HostRegisters(this.#control).restore(state.device.registers);
    if (!this.#control.writeState(new TextEncoder().encode(state.vcpu))) {
      throw new LacunaError(
        'DEVICE_STATE_INVALID',
        `vCPU registers of ${state.vcpu.length} bytes are too long`,
      );
    }
  }

  start(): number {
    const { words } = this.#control;
    words.store(VCPU_REQUEST, this.#holdAtStart ? VcpuRequest.runToSafePoint : VcpuRequest.run);
    this.#control.ringGuest();
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (this.#control.startedAt === 0) {
      if (performance.now() > deadline || words.load(VCPU_STATE) === VcpuState.failed) {
        words.store(VCPU_REQUEST, VcpuRequest.exit); // it must not start after all (I10)
        this.#control.ringGuest();
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

  private constructor(channel: MemoryChannel, guest: WorkerGuest, thread: Thread) {
    this.channel = channel;
    this.guest = guest;
    this.#thread = thread;
  }

  /**
   * Prepares to receive a guest from `source` into `memory`, which must be zero and of the same layout.
   * With `holdAtStart` the guest stops again at its first safe point, for whoever wants to compare.
   */
  static async prepare(
    source: WorkerGuest,
    memory: SharedGuestMemory,
    options: { holdAtStart?: boolean; oracle?: boolean } = {},
  ): Promise<WorkerDestination> {
    if (!memory.layout.equals(source.memory.layout)) {
      throw new LacunaError('INVALID_ARGUMENT', "the destination's RAM does not lie where the guest's does");
    }
    const { event } = source;
    const guest = WorkerGuest.incoming(memory, event, options.oracle);
    const channel = new MemoryChannel(atomicMapper);
    const data: DestinationThreadData = {
      blocks: memory.layout.blocks,
      buffers: memory.buffers,
      sourceBuffers: source.memory.buffers,
      control: guest.control.buffer as SharedArrayBuffer,
      event: event.buffer,
      channel: channel.buffer,
      holdAtStart: options.holdAtStart ?? false,
    };
    const thread = startThread('destination', data, () => {
      if (thread.failure !== undefined) {
        channel.fail(thread.failure.message);
      }
      event.ring();
    });
    await Promise.all([guest.up, thread.up]);
    return new WorkerDestination(channel, guest, thread);
  }

  /** The guest that has arrived, served by this host from here on. Call it after a completed migration. */
  adopt(): WorkerGuest {
    this.guest.adopt(this.channel.sentDeviceState());
    return this.guest;
  }

  cpuMs(): number {
    return this.#thread.cpuMs();
  }

  /** Ends the receiving thread. The guest, if it has arrived, is not touched. */
  async close(): Promise<void> {
    this.channel.close();
    await this.#thread.ended;
  }
}
