import {
  ACTUAL,
  CMD_ID_REG,
  CMD_REG,
  type ControlBuffer,
  DEVICE_STATUS,
  DRIVER_FEATURES,
  FUTURE_REGISTERS,
  INTERRUPT_CONFIG,
  interruptOfQueue,
  LATE_POISONS,
  NUM_PAGES,
  POISON_VAL,
  QUEUE_COUNT,
  QUEUE_NOTIFIED,
  QUEUE_WORDS,
  QUEUES,
  UNREQUESTED_ACKS,
} from '../memory/control-buffer.js';
import {
  ACTUAL_OFFSET,
  BALLOONING,
  CMD_ID_REG_OFFSET,
  CMD_REG_OFFSET,
  CMD_REG_READ_TO_CLEAR_OFFSET,
  futureBit,
  futureOffset,
  MOST_FUTURE_FEATURES,
  NUM_PAGES_OFFSET,
  POISON_VAL_OFFSET,
  REPORT_START,
  REPORT_STOP,
  STOP_SIGN,
} from '../spec/command-register.js';
import { VIRTIO_BALLOON_F_PAGE_POISON } from '../spec/virtio-balloon.js';
import { VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET } from '../spec/virtio-ring.js';
import type { QueueAddresses } from '../virtqueue/layout.js';
import type { BalloonRegisters } from './balloon-registers.js';
import type { Dialect } from './dialect.js';
import { countExit, ExitFeature, type ExitFeatureValue, ExitKind } from './exits.js';
import type { RequestInterface } from './request-interface.js';

/**
 * What a driver can do to its device. Each call is a VM exit: it is carried out by host code, and costs the
 * guest a trap. `feature` says on whose account the exit goes.
 */
export interface DevicePort {
  readConfig(offset: number, feature: ExitFeatureValue): number;
  writeConfig(offset: number, value: number, feature: ExitFeatureValue): void;
  kick(queue: number, feature: ExitFeatureValue): void;
  setQueue(queue: number, addresses: QueueAddresses): void;
  /** Ends the set-up: `features` are the bits that the driver accepts, of those that the device offers. */
  driverOk(features: number): void;
}

/** Features that the device offers; reports and the balloon itself are what it is, and not negotiated. */
const OFFERED_FEATURES: number = 1 << VIRTIO_BALLOON_F_PAGE_POISON;

/**
 * The trap handlers: host code that runs on the vCPU's own thread, as QEMU's does, so that an exit costs no
 * trip to the main thread.
 *
 * "All the writes to the register are performed in QEMU, and we can keep things work in a correct way there":
 * an acknowledgement clears, in one atomic step, those of its bits that were requested, and leaves a bit that
 * the host sets a moment later alone.
 */
export class VcpuTraps implements DevicePort {
  protected readonly offeredFeatures: number = OFFERED_FEATURES;
  readonly #control: ControlBuffer;

  constructor(control: ControlBuffer) {
    this.#control = control;
  }

  readConfig(offset: number, feature: ExitFeatureValue): number {
    const { words } = this.#control;
    countExit(words, feature, ExitKind.configRead);
    switch (offset) {
      case CMD_REG_OFFSET:
        return words.load(CMD_REG);
      case CMD_ID_REG_OFFSET:
        return words.load(CMD_ID_REG) >>> 0;
      case NUM_PAGES_OFFSET:
        return words.load(NUM_PAGES) >>> 0;
      case ACTUAL_OFFSET:
        return words.load(ACTUAL) >>> 0;
      case CMD_REG_READ_TO_CLEAR_OFFSET:
        // One step, so that a bit that the host sets meanwhile is either taken here or left standing.
        return words.exchange(CMD_REG, 0); // pairs with the host's `or` in HostRegisters
      case POISON_VAL_OFFSET:
        return words.load(POISON_VAL) >>> 0;
      default:
        return this.#futureRegister(offset);
    }
  }

  writeConfig(offset: number, value: number, feature: ExitFeatureValue): void {
    const { words } = this.#control;
    countExit(words, feature, ExitKind.configWrite);
    if (offset === CMD_REG_OFFSET) {
      const requested = words.and(CMD_REG, ~value); // pairs with the host's `or` in HostRegisters
      if ((value & ~requested) !== 0) {
        words.add(UNREQUESTED_ACKS, 1);
      }
    } else if (offset === ACTUAL_OFFSET) {
      words.store(ACTUAL, value | 0);
      this.#control.ringHost();
    } else if (offset === POISON_VAL_OFFSET) {
      if ((words.load(DEVICE_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK) === 0) {
        words.store(POISON_VAL, value | 0);
      } else {
        words.add(LATE_POISONS, 1); // pages were skipped, or will be, in the belief of the first (P3)
      }
    }
    // cmd_id_reg and num_pages are the host's: a guest's write to them changes nothing.
  }

  kick(queue: number, feature: ExitFeatureValue): void {
    countExit(this.#control.words, feature, ExitKind.kick);
    this.#control.words.or(QUEUE_NOTIFIED, 1 << queue);
    this.#control.ringHost();
  }

  /** A register of a feature to come; 0 where there is none. */
  #futureRegister(offset: number): number {
    const k = (offset - futureOffset(0)) / 4;
    return Number.isInteger(k) && k >= 0 && k < MOST_FUTURE_FEATURES
      ? this.#control.words.load(FUTURE_REGISTERS + k) >>> 0
      : 0;
  }

  setQueue(queue: number, addresses: QueueAddresses): void {
    const { words } = this.#control;
    for (let write = 0; write < QUEUE_SETUP_WRITES; write += 1) {
      countExit(words, ExitFeature.setup, ExitKind.configWrite);
    }
    storeQueue(words, queue, addresses);
  }

  driverOk(features: number): void {
    const { words } = this.#control;
    for (let write = 0; write < DRIVER_OK_WRITES; write += 1) {
      countExit(words, ExitFeature.setup, ExitKind.configWrite);
    }
    words.store(DRIVER_FEATURES, features & this.offeredFeatures);
    words.or(DEVICE_STATUS, VIRTIO_CONFIG_S_DRIVER_OK); // what was written before it counts from here on (P2)
  }
}

/** Three addresses, and the size. */
const QUEUE_SETUP_WRITES = 4;
/** The features, and the status. */
const DRIVER_OK_WRITES = 2;

/** Registers that travel with the device state. */
export interface RegisterState {
  dialect: Dialect;
  cmdReg: number;
  cmdId: number;
  numPages: number;
  actual: number;
  status: number;
  features: number;
  poisonVal: number;
  queues: (QueueAddresses | null)[];
  /** Of a device that takes other requests than the mail's: what it offers, and those features' registers. */
  offered?: { readonly requests: RequestInterface; readonly futureRegisters: readonly number[] };
}

/** The host's own access to the registers; no exit, it is the host's memory. */
export class HostRegisters implements BalloonRegisters {
  readonly dialect: Dialect = 'command-register';
  readonly #control: ControlBuffer;

  constructor(control: ControlBuffer) {
    this.#control = control;
  }

  /**
   * "host requests the guest to start reporting": the id first, then the bit, then the interrupt (C1).
   *
   * A stop that was not acknowledged yet is withdrawn: the new id supersedes it. Were it left standing, a guest
   * that acknowledges an older start, and so reads the new id, would take that stop for one of this report.
   */
  requestReport(id: number): void {
    this.#control.words.and(CMD_REG, ~REPORT_STOP);
    this.#control.words.store(CMD_ID_REG, id | 0);
    this.#request(REPORT_START);
  }

  /** "host requests the guest to stop reporting" (C7). A guest that reads the id from now on finds the stop sign. */
  requestStop(): void {
    this.invalidateId();
    this.#request(REPORT_STOP);
  }

  /** The mail has no DONE: its STOP has given the guest's blocks back already (C13). */
  requestDone(): void {}

  withdrawDone(): void {}

  /** No report under any id is wanted any more. The first step of closing a session (I4). */
  invalidateId(): void {
    this.#control.words.store(CMD_ID_REG, STOP_SIGN);
  }

  /** "host requests the guest to start ballooning" (C10); `pages` is what the balloon shall hold. */
  requestBallooning(pages: number): void {
    this.#control.words.store(NUM_PAGES, pages | 0);
    this.#request(BALLOONING);
  }

  /** Requests the `k`th of the features to come, with its parameter. */
  requestFuture(k: number, value: number): void {
    this.#control.words.store(FUTURE_REGISTERS + k, value | 0);
    this.#request(futureBit(k));
  }

  #request(bit: number): void {
    this.#control.words.or(CMD_REG, bit);
    this.#control.interrupt(INTERRUPT_CONFIG);
  }

  interruptQueue(queue: number): void {
    this.#control.interrupt(interruptOfQueue(queue));
  }

  /** § 2.1.2: tells the driver that the device can't go on by itself. */
  needsReset(): void {
    this.#control.words.or(DEVICE_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
    this.#control.interrupt(INTERRUPT_CONFIG);
  }

  reset(): void {
    const { words } = this.#control;
    for (const word of [CMD_REG, DEVICE_STATUS, DRIVER_FEATURES, POISON_VAL, ACTUAL, QUEUE_NOTIFIED]) {
      words.store(word, 0);
    }
    this.invalidateId();
    for (let word = QUEUES; word < QUEUES + QUEUE_COUNT * QUEUE_WORDS; word += 1) {
      words.store(word, 0);
    }
  }

  /** Takes the set of queues that were kicked since the last call, a bit each. */
  takeNotified(): number {
    return this.#control.words.exchange(QUEUE_NOTIFIED, 0);
  }

  /** Bits that the guest has not acknowledged yet. */
  get pending(): number {
    return this.#control.words.load(CMD_REG);
  }

  /** Pages that it was asked to hold. */
  get target(): number {
    return this.#control.words.load(NUM_PAGES) >>> 0;
  }

  /** Pages that the guest's balloon holds, as it last said. */
  get actual(): number {
    return this.#control.words.load(ACTUAL) >>> 0;
  }

  get unrequestedAcks(): number {
    return this.#control.words.load(UNREQUESTED_ACKS) >>> 0;
  }

  /** `poison_val`, as 32 bits without a sign; undefined where page poisoning was not negotiated. 0 is a value (P5). */
  get poison(): number | undefined {
    const { words } = this.#control;
    const negotiated = ((words.load(DRIVER_FEATURES) >>> VIRTIO_BALLOON_F_PAGE_POISON) & 1) === 1;
    const driven = (words.load(DEVICE_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
    return negotiated && driven ? words.load(POISON_VAL) >>> 0 : undefined;
  }

  /** Writes of `poison_val` that came too late to count (P3). */
  get latePoisons(): number {
    return this.#control.words.load(LATE_POISONS) >>> 0;
  }

  /** Where the driver has put a queue; undefined until it has. */
  queue(queue: number): QueueAddresses | undefined {
    const { words } = this.#control;
    const at = QUEUES + queue * QUEUE_WORDS;
    if (words.load(at + 7) === 0) {
      return undefined;
    }
    const gpa = (index: number) => (words.load(index) >>> 0) + (words.load(index + 1) >>> 0) * 0x1_0000_0000;
    return { descGpa: gpa(at), availGpa: gpa(at + 2), usedGpa: gpa(at + 4), size: words.load(at + 6) };
  }

  save(queueCount: number): RegisterState {
    const { words } = this.#control;
    return {
      dialect: this.dialect,
      cmdReg: words.load(CMD_REG),
      cmdId: words.load(CMD_ID_REG) >>> 0,
      numPages: words.load(NUM_PAGES) >>> 0,
      actual: words.load(ACTUAL) >>> 0,
      status: words.load(DEVICE_STATUS),
      features: words.load(DRIVER_FEATURES),
      poisonVal: words.load(POISON_VAL) >>> 0,
      queues: Array.from({ length: queueCount }, (_, i) => this.queue(i) ?? null),
    };
  }

  /** Puts a saved state in place. A request that was pending at the source is pending here, interrupt included. */
  restore(state: RegisterState): void {
    const { words } = this.#control;
    words.store(CMD_ID_REG, state.cmdId | 0);
    words.store(NUM_PAGES, state.numPages | 0);
    words.store(ACTUAL, state.actual | 0);
    words.store(DRIVER_FEATURES, state.features);
    words.store(POISON_VAL, state.poisonVal | 0);
    words.store(DEVICE_STATUS, state.status);
    words.store(CMD_REG, state.cmdReg);
    state.queues.forEach((addresses, queue) => {
      if (addresses !== null) {
        storeQueue(words, queue, addresses);
      }
    });
    if (state.cmdReg !== 0) {
      this.#control.interrupt(INTERRUPT_CONFIG);
    }
  }
}

/** Puts a queue's addresses into its words of the control buffer. */
function storeQueue(words: ControlBuffer['words'], queue: number, addresses: QueueAddresses): void {
  const at = QUEUES + queue * QUEUE_WORDS;
  [addresses.descGpa, addresses.availGpa, addresses.usedGpa].forEach((gpa, i) => {
    const high = Math.floor(gpa / 0x1_0000_0000);
    words.store(at + i * 2, (gpa - high * 0x1_0000_0000) | 0);
    words.store(at + i * 2 + 1, high);
  });
  words.store(at + 6, addresses.size);
  words.store(at + 7, 1);
}
