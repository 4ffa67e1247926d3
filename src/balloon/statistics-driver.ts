import type { GuestMemory } from '../memory/guest-memory.js';
import { VIRTIO_BALLOON_VQ_STATS } from '../spec/virtio-balloon.js';
import type { DriverQueue } from '../virtqueue/driver-queue.js';
import { ExitFeature } from './exits.js';
import type { DevicePort } from './registers.js';
import { encodeStatistics, type GuestStatistics } from './statistics.js';

export interface StatisticsDriverOptions {
  readonly port: DevicePort;
  readonly queue: DriverQueue;
  readonly memory: GuestMemory;
  /** Guest-physical address of a buffer for all statistics that {@link collect} gives. */
  readonly bufferGpa: number;
  /** Called after bytes at a gpa were written (I1). */
  readonly wrote: (gpa: number, lengthBytes: number) => void;
  /** The same statistics each time (§ 5.5.6.3). */
  readonly collect: () => GuestStatistics;
}

/**
 * The statistics half of the driver (§ 5.5.6.3). It is the device that asks, by returning the one buffer that it has:
 *
 * ```
 *   driver: fills the buffer, puts it on the queue ──▶ device: reads it, and keeps it until it wants to know more
 *     ▲                                                                     │
 *     └──────────────── the buffer comes back, and an interrupt ────────────┘
 * ```
 */
export class StatisticsDriver {
  readonly #options: StatisticsDriverOptions;

  constructor(options: StatisticsDriverOptions) {
    this.#options = options;
  }

  /** Puts the first buffer on the queue; the device was set up, and is told of it. */
  begin(): void {
    this.#fill();
  }

  /** Answers, if it was asked. One load, where it was not. */
  step(): void {
    if (this.#options.queue.reclaim() > 0) {
      this.#fill();
    }
  }

  #fill(): void {
    const { port, queue, memory, bufferGpa, wrote, collect } = this.#options;
    const segment = memory.segmentOf(bufferGpa, 1)!;
    const { buffer, byteOffset } = segment.bytes;
    const offset = byteOffset + bufferGpa - segment.startGpa;
    const lengthBytes = encodeStatistics(collect(), new DataView(buffer), offset);
    wrote(bufferGpa, lengthBytes);
    // Before the device can return the buffer: so no interrupt is missed.
    queue.enableInterrupts();
    queue.tryAddOutbuf(bufferGpa, lengthBytes);
    queue.publish();
    if (queue.needsNotification()) {
      port.kick(VIRTIO_BALLOON_VQ_STATS, ExitFeature.other);
    }
  }
}
