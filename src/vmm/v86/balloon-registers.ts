import type { BalloonRegisters } from '../../balloon/balloon-registers.js';
import { type ExitTable, noExits } from '../../balloon/exits.js';
import { COMMAND_ID_BYTES } from '../../spec/command-register.js';
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CMD_ID_STOP,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_STATS_VQ,
} from '../../spec/virtio-balloon.js';
import { VIRTIO_CONFIG_S_DRIVER_OK } from '../../spec/virtio-ring.js';
import type { QueueAddresses } from '../../virtqueue/layout.js';
import { ISR_QUEUE, type V86Cpu, type V86VirtIO, type V86VirtIOOptions } from './emulator.js';

/** What the device wants to hear of what its driver does. */
export interface DriverListener {
  /** A queue was kicked. Called on the vCPU, which goes on when this returns (I9). */
  kicked(queue: number): void;
  /** The driver, or a reboot, has reset the device (V12). */
  reset(): void;
  /** The host has changed a register, and is about to interrupt the guest. */
  requested?(register: RegisterName, value: number): void;
  /** The driver has read or written one. */
  accessed?(register: RegisterName, how: 'read' | 'write', value: number): void;
}

/** § 6: the device is no legacy device. */
const VIRTIO_F_VERSION_1 = 32;
/**
 * What it offers. The statistics queue always: Linux before 2024 numbers queues without gaps (V13). And that it is to be told
 * of a page before the guest uses it again: one that still counts as ballooned is not sent.
 */
const FEATURES = [
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_STATS_VQ,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_F_VERSION_1,
] as const;

/** Most that a queue takes. Linux hints 4 MiB a piece, and each kick empties the queue. */
const QUEUE_SIZE = 128;
/** The queues, and on whose account a kick of each goes. */
const QUEUES = ['ballooning', 'ballooning', 'other', 'reporting'] as const;
/** The same of the registers. `num_pages` is read at every config interrupt, whatever that was raised for. */
const REGISTERS = {
  num_pages: 'ballooning',
  actual: 'ballooning',
  free_page_hint_cmd_id: 'reporting',
  poison_val: 'setup',
} as const;
/** A register of the config space, § 5.5.4. */
export type RegisterName = keyof typeof REGISTERS;

/**
 * The registers of a balloon on v86's virtio transport, in VIRTIO's dialect: `num_pages`, `actual`,
 * `free_page_hint_cmd_id` and `poison_val`, and one interrupt. A change of the host's and the interrupt is all there is to
 * a request.
 *
 * v86 keeps the transport's registers (features, status, queue addresses) and saves them; these here are saved with them.
 */
export class V86BalloonRegisters implements BalloonRegisters {
  readonly virtio: V86VirtIO;
  /** Since the machine was made. */
  readonly exits: ExitTable = noExits();
  readonly #listener: DriverListener;
  #numPages = 0;
  #actual = 0;
  #cmdId: number = VIRTIO_BALLOON_CMD_ID_STOP;
  #poisonVal = 0;
  /** Writes of `poison_val` that came too late to count (P3). */
  latePoisons = 0;

  /** Puts a device in the place of v86's own balloon: in the same slot, behind the same ports. */
  constructor(cpu: V86Cpu, replaced: V86VirtIO, listener: DriverListener) {
    this.#listener = listener;
    const VirtIO = replaced.constructor as new (cpu: V86Cpu, options: V86VirtIOOptions) => V86VirtIO;
    this.virtio = new VirtIO(cpu, this.#options());
    const { virtio } = this;
    const reset = virtio.reset.bind(virtio);
    virtio.reset = (): void => {
      reset();
      this.#forget();
      listener.reset();
    };
  }

  // ── BalloonRegisters ──────────────────────────────────────────────────────────────────────────────────────

  requestReport(id: number): void {
    this.#changeId(id);
  }

  requestStop(): void {
    this.#changeId(VIRTIO_BALLOON_CMD_ID_STOP);
  }

  requestDone(): void {
    this.#changeId(VIRTIO_BALLOON_CMD_ID_DONE);
  }

  withdrawDone(): void {
    this.#changeId(VIRTIO_BALLOON_CMD_ID_STOP);
  }

  requestBallooning(pages: number): void {
    this.#numPages = pages >>> 0;
    this.#changed('num_pages', this.#numPages);
  }

  interruptQueue(): void {
    this.virtio.raise_irq(ISR_QUEUE); // all queues share it: there is no MSI-X
  }

  needsReset(): void {
    this.virtio.needs_reset();
  }

  reset(): void {
    this.#forget();
  }

  /** Kicks are served when they come. */
  takeNotified(): number {
    return 0;
  }

  queue(index: number): QueueAddresses | undefined {
    const queue = this.virtio.queues[index];
    if (queue === undefined || !queue.enabled || !this.driven) {
      return undefined;
    }
    return {
      descGpa: queue.desc_addr >>> 0,
      availGpa: queue.avail_addr >>> 0,
      usedGpa: queue.used_addr >>> 0,
      size: queue.size,
    };
  }

  get poison(): number | undefined {
    return this.driven && this.#negotiated(VIRTIO_BALLOON_F_PAGE_POISON) ? this.#poisonVal : undefined;
  }

  get actual(): number {
    return this.#actual;
  }

  // ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────

  /** The driver has set the device up. */
  get driven(): boolean {
    return (this.virtio.device_status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  }

  /** Whether the guest's driver hints. */
  get hints(): boolean {
    return this.driven && this.#negotiated(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
  }

  /** What the host last asked the balloon to hold, in pages. */
  get numPages(): number {
    return this.#numPages;
  }

  /** The command id as the driver reads it: 0 STOP, 1 DONE, or a session's. */
  get cmdId(): number {
    return this.#cmdId;
  }

  /** The registers' values, to be saved beside the transport's. */
  save(): number[] {
    return [this.#numPages, this.#actual, this.#cmdId, this.#poisonVal];
  }

  /** Puts saved values in place. An interrupt that was pending is in the transport's state, and in the controller's. */
  restore([numPages = 0, actual = 0, cmdId = 0, poisonVal = 0]: readonly number[]): void {
    this.#numPages = numPages >>> 0;
    this.#actual = actual >>> 0;
    this.#cmdId = cmdId >>> 0;
    this.#poisonVal = poisonVal >>> 0;
  }

  #changeId(id: number): void {
    this.#cmdId = id;
    this.#changed('free_page_hint_cmd_id', id);
  }

  /** The register first, then the interrupt. */
  #changed(register: RegisterName, value: number): void {
    this.#listener.requested?.(register, value);
    if (this.driven) {
      this.virtio.notify_config_changes();
    }
  }

  #forget(): void {
    this.restore([]);
  }

  #negotiated(feature: number): boolean {
    return ((this.virtio.driver_feature[feature >>> 5]! >>> (feature & 31)) & 1) === 1;
  }

  #options(): V86VirtIOOptions {
    const register = (
      name: RegisterName,
      read: () => number,
      write: (value: number) => void = () => {
        // the host's
      },
    ): V86VirtIOOptions['device_specific']['struct'][number] => ({
      bytes: COMMAND_ID_BYTES,
      name,
      read: () => {
        const value = read();
        this.exits[REGISTERS[name]].configReads += 1;
        this.#listener.accessed?.(name, 'read', value);
        return value | 0; // as v86's ports have it
      },
      write: (value) => {
        this.exits[REGISTERS[name]].configWrites += 1;
        this.#listener.accessed?.(name, 'write', value >>> 0);
        write(value >>> 0);
      },
    });
    return {
      name: 'virtio-balloon',
      pci_id: 0x58,
      device_id: 0x1045,
      subsystem_device_id: 5,
      common: {
        initial_port: 0xd800,
        queues: QUEUES.map((_, index) => ({ size_supported: QUEUE_SIZE, notify_offset: index })),
        features: FEATURES,
        on_driver_ok: () => {
          // v86 has stored the status by the time that it compares the two, and so never calls this
        },
      },
      notification: {
        initial_port: 0xd900,
        single_handler: false,
        // By where was written, not by what: the value is the guest's word.
        handlers: QUEUES.map((account, index) => (): void => {
          this.exits[account].kicks += 1;
          this.#listener.kicked(index);
        }),
      },
      isr_status: { initial_port: 0xd700 },
      device_specific: {
        initial_port: 0xd600,
        struct: [
          register('num_pages', () => this.#numPages),
          register(
            'actual',
            () => this.#actual,
            (value) => {
              this.#actual = value;
            },
          ),
          register('free_page_hint_cmd_id', () => this.#cmdId),
          register(
            'poison_val',
            () => this.#poisonVal,
            (value) => {
              if (this.driven) {
                this.latePoisons += 1; // pages were left out, or will be, in the belief of the first (P3)
              } else {
                this.#poisonVal = value;
              }
            },
          ),
        ],
      },
    };
  }
}
