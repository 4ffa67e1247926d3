import type { HintSession, HintSink } from '../balloon/hint-session.js';
import type { LacunaError } from '../errors.js';
import type { DirtySink } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { PageBitmap } from '../memory/page-bitmap.js';
import type { QueueFault } from '../virtqueue/device-queue.js';

/**
 * Where hints come from: a balloon device's side of hinting, whatever its dialect, or a VMM's own knowledge of what is
 * free. All calls are made on the host's thread, none while a sync of the dirty log is under way (docs/EMBEDDING.md).
 */
export interface HintDevice {
  /** Where the session stands; hints go through it, so that those out of their time are dropped (I4). */
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
  /**
   * Opens {@link session} for `sink` under an id that was never used before, asks for free pages, and returns the id.
   * The dirty log was drained just before: only what is free from here on may be hinted (I2, I4).
   */
  openSession(sink: HintSink, now: number): number;
  /** Closes it: nothing is hinted after this returns, and what was lent for hints is given back (I4, C13). */
  closeSession(now: number): void;
  /** Does at most `limit` pieces of work, hints to the session included; returns how many. Must return soon (I6). */
  poll(now: number, limit: number): number;
  /** The host polls: it need not be rung. */
  suppressNotifications(): void;
  /** The host is about to sleep on the event word: ring it when there is work. True: there is some already (Q7). */
  armNotifications(): boolean;
  /**
   * The guest is stopped: from here on the device writes nothing to guest RAM (V14). A dialect that has DONE shows it here,
   * so that it is in the device state (V6, V9).
   */
  freeze(): void;
  /** The guest goes on here: the migration has failed, or its link broke. DONE, which it has not seen, is taken back (V5). */
  unfreeze(): void;
}

/** A virtual machine that can be migrated away. The contract of each member is in docs/EMBEDDING.md. */
export interface SourceVm {
  /** Where its RAM lies. The engine reads it through {@link payload} only. */
  readonly memory: GuestMemory;
  /** A migration begins: from here on it, and nobody else, polls the device. */
  migrationBegins(): void;
  /** It is over, however it ended. What the guest has lent for hints is its own again (V6). */
  migrationEnds(): void;
  /** The balloon, if the guest has a driver for one that hints. */
  readonly device: HintDevice | undefined;
  /** Contents to send: a live view of guest RAM, or of a shadow of it (I9). Pages of one segment. */
  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike>;
  /** Takes a slice of the dirty log; true when the whole log was passed over. */
  drainDirty(sink: DirtySink): boolean;
  /**
   * Pages were just left out because of a hint, bit `i` of `bits` being page `wordIndex * 32 + i`, and read as `value`, a
   * le32 over and over, at the destination. Called from within the session, as the hint is taken. Where the dirty log is a
   * comparison with a shadow, they have to read so here too before the guest runs on (I9); any other VM need not know.
   */
  leaveOut?(wordIndex: number, bits: number, value: number): void;
  /** Asks the vCPU to stop at its next safe point. {@link paused} says when it has. */
  requestPause(): void;
  /** Whether it stands still, with every write that it has made marked in the dirty log (I2). */
  readonly paused: boolean;
  /** When the vCPU last stopped, in ms since the epoch. */
  readonly stoppedAt: number;
  /** Lets it go on, or takes a request to pause back. */
  resume(): void;
  /**
   * Keeps the vCPU from running for a share of the time from now on: 0 (it runs freely), or more, below 1. It may hold
   * the guest's work up, never its stopping, and is not part of what is migrated. Only called for `onStall: 'throttle'`.
   */
  throttle?(share: number): void;
  /** Set when the guest died by itself. */
  readonly failure: LacunaError | undefined;
  /** All state apart from RAM, opaque to the engine. Called while the guest is paused. */
  saveDeviceState(): Uint8Array;
}

/** A virtual machine that is being received. */
export interface DestinationVm {
  /** Of the source's layout, and zero: a page that was never sent with contents is not written here. */
  readonly memory: GuestMemory;
  /** Takes the device state; throws DEVICE_STATE_INVALID. The guest does not run yet. */
  loadDeviceState(state: Uint8Array): void;
  /** Starts the guest. Returns when it runs, in ms since the epoch; throws if it does not. */
  start(): number;
}
