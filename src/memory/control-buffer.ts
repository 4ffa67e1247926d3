import type { SharedWords, WordMapper } from './shared-words.js';

/**
 * The control buffer: what a guest's thread and its host share apart from guest RAM. One a guest.
 *
 * ```
 *  word  name              written by            pairs with
 *  ────  ────────────────  ────────────────────  ─────────────────────────────────────────────────────────────
 *     0  VCPU_REQUEST      host                  the guest's load at every safe point; number << 2 | what is wanted
 *     1  VCPU_STATE        guest                 the host's load after a ring of the event word
 *     2  GUEST_DOORBELL    host (add, notify)    the guest's wait while it is halted or paused
 *     3  INTERRUPTS        host or, guest take   guest: exchange 0 at every safe point
 *     4  QUEUE_NOTIFIED    guest or, host take   host: exchange 0 before it looks at the queues
 *     5  DEVICE_STATUS     host; guest by traps  VIRTIO device status: DRIVER_OK, NEEDS_RESET
 *     6  VCPU_PAUSED_FOR   guest                 the request (as in word 0) for which the vCPU stands still
 *     7  THROTTLE          host                  the guest's load after every slice: thousandths of the time in which it may not run
 *     8  CMD_REG           host; guest by traps  `Atomics.and` of the acknowledged bits in the trap
 *     9  CMD_ID_REG        host                  written before REPORT_START is set in CMD_REG
 *    10  NUM_PAGES         host                  written before BALLOONING is set in CMD_REG
 *    11  ACTUAL            guest by traps        –
 *    12  UNREQUESTED_ACKS  guest by traps        a count (C3)
 *    13  DRIVER_FEATURES   guest by traps        VIRTIO feature bits that the driver has accepted
 *    14  POISON_VAL        guest by traps        written before DRIVER_OK is set in DEVICE_STATUS (P2)
 *    15  LATE_POISONS      guest by traps        a count: writes of it after that (P3)
 *    16  CHECK_REQUEST     host                  sequence number of the self-check that is asked for
 *    17  CHECK_DONE        guest                 sequence number of the last one done; results before it
 *    18  CHECK_PAGES       guest                 pages looked at
 *    19  CHECK_BAD_PAGES   guest                 pages that do not hold what the ledger says
 *    20  CHECK_BAD_PFN     guest                 the first of those, or -1
 *    21  REPLAY_SAMPLE     guest                 the last sample of its trace that a guest that replays one has reached
 *    22  REPLAY_MS         guest                 where in the trace it is, whole ms
 *    23  REPLAY_SKIPPED    guest                 changes of the trace that could not be made (wraps)
 *    24  CMD_ID_SEEN       guest by traps        VIRTIO's dialect: CMD_ID_REG as the guest has last read it
 *    25  PAGES_WRITTEN     guest (add)           pages written by the workload (wraps)
 *    26  FREE_PAGES        guest                 pages that its allocator has free
 *    27  RANGES_REPORTED   guest (add)           ranges put on the free page queue (wraps)
 *    28  RANGES_DROPPED    guest (add)           ranges dropped because the ring stayed full (wraps)
 *    29  PAGES_DROPPED     guest (add)           pages in those
 *    30  NUM_PAGES_SEEN    guest by traps        the same of NUM_PAGES
 *    32  QUEUES            guest by traps        4 queues × 8 words: desc, avail, used (lo, hi each), size, ready
 *    64  EXITS             guest by traps (add)  features × kinds of VM exit (balloon/exits.ts)
 *    96  STOPPED_AT        guest                 float64: when the vCPU last stopped, ms since the epoch
 *    98  STARTED_AT        guest                 float64: when it last started
 *   100  STATE_LENGTH      guest, or the host    bytes of vCPU state below; 0: none
 *   104  FUTURE_REGISTERS  host                  6 words, 0 in a normal guest; written before the feature's bit in CMD_REG
 *   128  STATE             guest, or the host    16 KiB: the vCPU's registers, written while it is paused
 * ```
 */
export const VCPU_REQUEST = 0;
export const VCPU_STATE = 1;
export const GUEST_DOORBELL = 2;
export const INTERRUPTS = 3;
export const QUEUE_NOTIFIED = 4;
export const DEVICE_STATUS = 5;
export const VCPU_PAUSED_FOR = 6;
const THROTTLE = 7;
export const CMD_REG = 8;
export const CMD_ID_REG = 9;
export const NUM_PAGES = 10;
export const ACTUAL = 11;
export const UNREQUESTED_ACKS = 12;
export const DRIVER_FEATURES = 13;
export const POISON_VAL = 14;
export const LATE_POISONS = 15;
export const CHECK_REQUEST = 16;
export const CHECK_DONE = 17;
export const CHECK_PAGES = 18;
export const CHECK_BAD_PAGES = 19;
export const CHECK_BAD_PFN = 20;
export const REPLAY_SAMPLE = 21;
export const REPLAY_MS = 22;
export const REPLAY_SKIPPED = 23;
export const CMD_ID_SEEN = 24;
export const PAGES_WRITTEN = 25;
export const FREE_PAGES = 26;
export const RANGES_REPORTED = 27;
export const RANGES_DROPPED = 28;
export const PAGES_DROPPED = 29;
export const NUM_PAGES_SEEN = 30;
export const QUEUES = 32;
export const QUEUE_WORDS = 8;
export const QUEUE_COUNT = 4;
export const EXITS = 64;
export const EXIT_WORDS = 32;
const STOPPED_AT = 96;
const STARTED_AT = 98;
const STATE_LENGTH = 100;
export const FUTURE_REGISTERS = 104;
const STATE = 128;
const STATE_BYTES = 16 * 1024;

/** What the host wants of the vCPU. */
export const VcpuRequest = {
  run: 0,
  /** Stop at the next safe point. */
  pause: 1,
  /** End the thread at the next safe point. */
  exit: 2,
  /** Start, and stop again at the first safe point: a breakpoint at the first instruction. */
  runToSafePoint: 3,
} as const;
export type VcpuRequestValue = (typeof VcpuRequest)[keyof typeof VcpuRequest];

/** What is wanted, out of the word of a request. */
export function wantedOf(requestWord: number): number {
  return requestWord & 3;
}

/** Where the vCPU is. */
export const VcpuState = { created: 0, running: 1, paused: 2, exited: 3, failed: 4 } as const;
export type VcpuStateValue = (typeof VcpuState)[keyof typeof VcpuState];

/** Interrupt lines. One config interrupt is shared by all features; each queue has its own. */
export const INTERRUPT_CONFIG: number = 1 << 0;
export function interruptOfQueue(queue: number): number {
  return 2 << queue;
}

export const CONTROL_BYTES: number = STATE * 4 + STATE_BYTES;

/** A guest's control buffer, and the host's event word that the guest rings. */
export class ControlBuffer {
  /** What {@link writeState} takes at the most, in bytes. */
  static readonly MAX_STATE_BYTES: number = STATE_BYTES;
  readonly words: SharedWords;
  readonly buffer: ArrayBufferLike;
  readonly #event: EventWord;
  readonly #stamps: Float64Array;
  readonly #state: Uint8Array;

  constructor(map: WordMapper, buffer: ArrayBufferLike, event: EventWord) {
    this.buffer = buffer;
    this.words = map.words(buffer, 0, STATE);
    this.#stamps = new Float64Array(buffer, 0, STATE / 2);
    this.#state = new Uint8Array(buffer, STATE * 4, STATE_BYTES);
    this.#event = event;
  }

  /**
   * Host: what it wants of the vCPU. Each request has a number, so that the answer to an old one is never taken for the
   * answer to this one: a vCPU that was told to run, and told to stop again before it had woken up, still stands still
   * for the request before, and may be about to run.
   */
  request(what: VcpuRequestValue): void {
    const number = (this.words.load(VCPU_REQUEST) >>> 2) + 1;
    this.words.store(VCPU_REQUEST, (number << 2) | what);
    this.ringGuest();
  }

  /** Whether the vCPU stands still, and because of the request that is in force. Pairs with the store in `Vcpu`. */
  get paused(): boolean {
    const request = this.words.load(VCPU_REQUEST);
    return wantedOf(request) === VcpuRequest.pause && this.words.load(VCPU_PAUSED_FOR) === request;
  }

  /** Host: keeps the vCPU from running for a share of the time, 0 … below 1; to a thousandth. */
  set throttle(share: number) {
    this.words.store(THROTTLE, Math.min(999, Math.round(share * 1000)));
    this.ringGuest(); // a pause that is under way ends with the throttle
  }

  get throttle(): number {
    return this.words.load(THROTTLE) / 1000;
  }

  /** Host: something has changed for the guest. Pairs with {@link waitForHost}. */
  ringGuest(): void {
    this.words.add(GUEST_DOORBELL, 1);
    this.words.notify(GUEST_DOORBELL);
  }

  /** Host: raises interrupt lines. */
  interrupt(lines: number): void {
    this.words.or(INTERRUPTS, lines);
    this.ringGuest();
  }

  /** Guest: something has changed for the host. Pairs with the host's wait on its event word. */
  ringHost(): void {
    this.#event.ring();
  }

  /** Guest: the doorbell's value; read it before looking for work, then wait on it. */
  doorbell(): number {
    return this.words.load(GUEST_DOORBELL);
  }

  /** Guest: halts until the doorbell moves on from `seen`, at most `timeoutMs`. */
  waitForHost(seen: number, timeoutMs: number): void {
    this.words.wait(GUEST_DOORBELL, seen, timeoutMs);
  }

  get stoppedAt(): number {
    return this.#stamps[STOPPED_AT / 2]!;
  }

  set stoppedAt(ms: number) {
    this.#stamps[STOPPED_AT / 2] = ms;
  }

  get startedAt(): number {
    return this.#stamps[STARTED_AT / 2]!;
  }

  set startedAt(ms: number) {
    this.#stamps[STARTED_AT / 2] = ms;
  }

  /** The vCPU's registers, as its thread left them when it paused. A copy. */
  readState(): Uint8Array<ArrayBuffer> {
    return this.#state.slice(0, this.words.load(STATE_LENGTH));
  }

  /** Whoever calls is the only one that may touch the vCPU now: its own thread, or the host while it is paused. */
  writeState(state: Uint8Array): boolean {
    if (state.length > this.#state.length) {
      return false;
    }
    this.#state.set(state);
    this.words.store(STATE_LENGTH, state.length);
    return true;
  }
}

/**
 * The one word on which the host's main thread waits for all of its guests, channels and destinations:
 * whoever has news adds 1 and notifies.
 */
export class EventWord {
  readonly words: SharedWords;
  readonly buffer: SharedArrayBuffer;

  constructor(map: WordMapper, buffer: SharedArrayBuffer = new SharedArrayBuffer(4)) {
    this.buffer = buffer;
    this.words = map.words(buffer, 0, 1);
  }

  /** There is news: wakes whoever waits. Any thread may call it. */
  ring(): void {
    this.words.add(0, 1);
    this.words.notify(0);
  }

  /** Read before looking for news; pass what it gave to {@link next}. */
  value(): number {
    return this.words.load(0);
  }

  /** Resolves when the word has moved on from `seen`; undefined if it has already. */
  next(seen: number): Promise<void> | undefined {
    return this.words.load(0) === seen ? this.words.waitAsync(0, seen) : undefined;
  }
}
