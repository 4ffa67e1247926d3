import type { GuestMemory } from '../memory/guest-memory.js';
import {
  VIRTIO_BALLOON_ARRAY_PFNS_MAX,
  VIRTIO_BALLOON_VQ_DEFLATE,
  VIRTIO_BALLOON_VQ_INFLATE,
} from '../spec/virtio-balloon.js';
import type { DriverQueue } from '../virtqueue/driver-queue.js';
import type { BalloonCommands } from './command-driver.js';
import { ExitFeature } from './exits.js';
import type { DevicePort } from './registers.js';

/** The guest's pages, as the balloon sees them. */
export interface BalloonPages {
  /** Pages that the balloon holds now. */
  readonly held: number;
  /** Takes a page from the allocator into the balloon; -1 if there is none to spare. */
  take(): number;
  /** A page that the balloon holds, other than those already chosen since the last {@link giveBack}; -1: none. */
  choose(after: number): number;
  /** Gives a page of the balloon back to the allocator. */
  giveBack(pfn: number): void;
}

export interface BalloonDriverState {
  phase: number;
  target: number;
  chunkPages: number;
  settled: boolean;
}

export interface BalloonDriverOptions {
  readonly port: DevicePort;
  /** Where in the config space `actual` is, which is up to the dialect. */
  readonly actualOffset: number;
  readonly inflateQueue: DriverQueue;
  readonly deflateQueue: DriverQueue;
  readonly memory: GuestMemory;
  /** Guest-physical address of an array of {@link VIRTIO_BALLOON_ARRAY_PFNS_MAX} le32. */
  readonly arrayGpa: number;
  readonly wrote: (gpa: number, lengthBytes: number) => void;
  readonly pages: BalloonPages;
  readonly restored?: BalloonDriverState | undefined;
}

const Phase = { settled: 0, inflating: 1, deflating: 2 } as const;

/**
 * The ballooning half of the driver. Pages go into the balloon and out of it in chunks; a chunk is done only
 * when the host has returned its buffer, so a page that comes back is used only after the host knows of it.
 * `actual` is written when the target is reached or no more pages can be had (C10).
 */
export class BalloonDriver implements BalloonCommands {
  readonly #options: BalloonDriverOptions;
  #phase: number = Phase.settled;
  #target = 0;
  #chunkPages = 0;
  #settled = true;

  constructor(options: BalloonDriverOptions) {
    this.#options = options;
    const { restored } = options;
    if (restored !== undefined) {
      this.#phase = restored.phase;
      this.#target = restored.target;
      this.#chunkPages = restored.chunkPages;
      this.#settled = restored.settled;
    }
  }

  /** Whether {@link step} has something to do. */
  get busy(): boolean {
    return !this.#settled;
  }

  setTarget(pages: number): void {
    this.#target = pages;
    this.#settled = false;
  }

  saveState(): BalloonDriverState {
    return { phase: this.#phase, target: this.#target, chunkPages: this.#chunkPages, settled: this.#settled };
  }

  /** A chunk's worth of work; false: it waits for the host (an interrupt of the queue will come). */
  step(): boolean {
    const { inflateQueue, deflateQueue } = this.#options;
    switch (this.#phase) {
      case Phase.inflating:
        if (!this.#returned(inflateQueue)) {
          return false;
        }
        this.#phase = Phase.settled;
        return true;
      case Phase.deflating:
        if (!this.#returned(deflateQueue)) {
          return false;
        }
        this.#giveChunkBack();
        this.#phase = Phase.settled;
        return true;
      default:
        this.#next();
        return true;
    }
  }

  #next(): void {
    const { pages, port, actualOffset } = this.#options;
    const difference = this.#target - pages.held;
    if (difference > 0) {
      this.#chunkPages = this.#fillArray(difference, () => pages.take());
      if (this.#chunkPages > 0) {
        this.#phase = Phase.inflating;
        this.#send(this.#options.inflateQueue, VIRTIO_BALLOON_VQ_INFLATE);
        return;
      }
    } else if (difference < 0) {
      let last = -1;
      this.#chunkPages = this.#fillArray(-difference, () => {
        last = pages.choose(last);
        return last;
      });
      if (this.#chunkPages > 0) {
        this.#phase = Phase.deflating;
        this.#send(this.#options.deflateQueue, VIRTIO_BALLOON_VQ_DEFLATE);
        return;
      }
    }
    this.#settled = true;
    port.writeConfig(actualOffset, pages.held, ExitFeature.ballooning);
  }

  #array(): Uint32Array {
    const { memory, arrayGpa } = this.#options;
    const segment = memory.segmentOf(arrayGpa, VIRTIO_BALLOON_ARRAY_PFNS_MAX * 4)!;
    return new Uint32Array(
      segment.bytes.buffer,
      segment.bytes.byteOffset + arrayGpa - segment.startGpa,
      VIRTIO_BALLOON_ARRAY_PFNS_MAX,
    );
  }

  #fillArray(most: number, nextPfn: () => number): number {
    const array = this.#array();
    const limit = Math.min(most, VIRTIO_BALLOON_ARRAY_PFNS_MAX);
    let count = 0;
    while (count < limit) {
      const pfn = nextPfn();
      if (pfn === -1) {
        break;
      }
      array[count] = pfn;
      count += 1;
    }
    this.#options.wrote(this.#options.arrayGpa, VIRTIO_BALLOON_ARRAY_PFNS_MAX * 4);
    return count;
  }

  #giveChunkBack(): void {
    const array = this.#array();
    for (let i = 0; i < this.#chunkPages; i += 1) {
      this.#options.pages.giveBack(array[i]!);
    }
  }

  #send(queue: DriverQueue, index: number): void {
    queue.tryAddOutbuf(this.#options.arrayGpa, this.#chunkPages * 4);
    queue.publish();
    if (queue.needsNotification()) {
      this.#options.port.kick(index, ExitFeature.ballooning);
    }
  }

  /** Whether the chunk's buffer has come back; if not, an interrupt has been asked for. */
  #returned(queue: DriverQueue): boolean {
    queue.reclaim();
    if (queue.idle) {
      queue.disableInterrupts();
      return true;
    }
    if (queue.enableInterrupts()) {
      queue.reclaim();
    }
    return queue.idle;
  }
}
