import type { HintSession, HintSink } from '../balloon/hint-session.js';
import type { LacunaError } from '../errors.js';
import type { DirtySink } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { PageBitmap } from '../memory/page-bitmap.js';
import type { QueueFault } from '../virtqueue/device-queue.js';

/** The balloon device's side of hinting, whatever its dialect. All calls are made on the host's thread. */
export interface HintDevice {
  readonly session: HintSession;
  /** The id that the next {@link openSession} will issue. */
  readonly upcomingId: number;
  /** Pages in the balloon: they are not sent, and filled at the destination (V14). */
  readonly inflated: PageBitmap;
  /**
   * Where page poisoning was negotiated, what the guest expects pages to read as that it has freed: a le32, over and
   * over. Pages left out because of a hint are made to read so at the destination (P5); as zeroes where it is undefined.
   */
  readonly poison?: number | undefined;
  /** Set when the guest has corrupted a ring: there will be no more hints (I6). */
  readonly fault: QueueFault | undefined;
  openSession(sink: HintSink, now: number): number;
  closeSession(now: number): void;
  poll(now: number, limit: number): number;
  suppressNotifications(): void;
  armNotifications(): boolean;
  freeze(): void;
  unfreeze(): void;
}

/** A virtual machine that can be migrated away. */
export interface SourceVm {
  readonly memory: GuestMemory;
  /** A migration begins: from here on it, and nobody else, polls the device. */
  migrationBegins(): void;
  /** It is over, however it ended. */
  migrationEnds(): void;
  /** The balloon, if the guest has a driver for one that hints. */
  readonly device: HintDevice | undefined;
  /** Contents to send: a live view of guest RAM, or of a shadow of it (I9). Pages of one segment. */
  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike>;
  /** Takes a slice of the dirty log; true when the whole log was passed over. */
  drainDirty(sink: DirtySink): boolean;
  /** Asks the vCPU to stop at its next safe point. {@link paused} says when it has. */
  requestPause(): void;
  readonly paused: boolean;
  /** When the vCPU last stopped, in ms since the epoch. */
  readonly stoppedAt: number;
  /** Lets it go on, or takes a request to pause back. */
  resume(): void;
  /** Set when the guest died by itself. */
  readonly failure: LacunaError | undefined;
  /** All state apart from RAM, opaque to the engine. Called while the guest is paused. */
  saveDeviceState(): Uint8Array;
}

/** A virtual machine that is being received. */
export interface DestinationVm {
  readonly memory: GuestMemory;
  /** Takes the device state; throws DEVICE_STATE_INVALID. The guest does not run yet. */
  loadDeviceState(state: Uint8Array): void;
  /** Starts the guest. Returns when it runs, in ms since the epoch; throws if it does not. */
  start(): number;
}
