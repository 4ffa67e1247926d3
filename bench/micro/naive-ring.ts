/** A buffer on the naive ring. */
export interface NaiveDescriptor {
  readonly gpa: bigint;
  readonly lengthBytes: number;
}

/**
 * The naive twin of DriverQueue and DeviceQueue, over the same kind of memory: a `DataView`, an address as one
 * BigInt, an object for each descriptor, and both indices read and published atomically for each one.
 */
export class NaiveRing {
  readonly #size: number;
  readonly #view: DataView;
  /** avail index, used index. */
  readonly #indices: Int32Array;
  #reclaimed = 0;

  constructor(size: number) {
    const buffer = new SharedArrayBuffer(8 + size * 16);
    this.#size = size;
    this.#indices = new Int32Array(buffer, 0, 2);
    this.#view = new DataView(buffer, 8);
  }

  tryAdd(descriptor: NaiveDescriptor): boolean {
    const index = Atomics.load(this.#indices, 0);
    if (index - this.#reclaimed === this.#size) {
      return false;
    }
    const at = (index % this.#size) * 16;
    this.#view.setBigUint64(at, descriptor.gpa, true);
    this.#view.setUint32(at + 8, descriptor.lengthBytes, true);
    Atomics.store(this.#indices, 0, index + 1);
    return true;
  }

  take(): NaiveDescriptor | undefined {
    const index = Atomics.load(this.#indices, 1);
    if (index === Atomics.load(this.#indices, 0)) {
      return undefined;
    }
    const at = (index % this.#size) * 16;
    const descriptor = {
      gpa: this.#view.getBigUint64(at, true),
      lengthBytes: this.#view.getUint32(at + 8, true),
    };
    Atomics.store(this.#indices, 1, index + 1);
    return descriptor;
  }

  reclaim(): number {
    const used = Atomics.load(this.#indices, 1);
    const count = used - this.#reclaimed;
    this.#reclaimed = used;
    return count;
  }
}
