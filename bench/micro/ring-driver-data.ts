import type { RamBlock } from '../../src/memory/ram-layout.js';
import type { QueueAddresses } from '../../src/virtqueue/layout.js';

/** What the worker of `ring-threads` is given. */
export interface RingDriverData {
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  readonly log: SharedArrayBuffer;
  readonly control: SharedArrayBuffer;
  readonly addresses: QueueAddresses;
}

/** Words of the control buffer: counts up when a run begins; how many ranges it has, or {@link END}. */
export const GO = 0;
export const RANGES = 1;
export const END = -1;
