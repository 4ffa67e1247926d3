import {
  CMD_ID_REG,
  CMD_ID_SEEN,
  type ControlBuffer,
  INTERRUPT_CONFIG,
  NUM_PAGES,
  NUM_PAGES_SEEN,
} from '../memory/control-buffer.js';
import {
  ACTUAL_OFFSET,
  BALLOONING,
  CMD_ID_REG_OFFSET,
  NUM_PAGES_OFFSET,
  POISON_VAL_OFFSET,
  REPORT_START,
  REPORT_STOP,
} from '../spec/command-register.js';
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CMD_ID_STOP,
  VIRTIO_BALLOON_CONFIG_ACTUAL,
  VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID,
  VIRTIO_BALLOON_CONFIG_NUM_PAGES,
  VIRTIO_BALLOON_CONFIG_POISON_VAL,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_STATS_VQ,
} from '../spec/virtio-balloon.js';
import type { Dialect } from './dialect.js';
import type { ExitFeatureValue } from './exits.js';
import { HostRegisters, type RegisterState, VcpuTraps } from './registers.js';

/**
 * Features that a device of this dialect offers. The statistics queue is always among them: Linux before 2024 numbers
 * queues without gaps, and would put its hints on queue 2 without it (V13). MUST_TELL_HOST, because a page that the host
 * still takes for one of the balloon's does not travel (V14).
 */
export const VIRTIO_OFFERED_FEATURES: number =
  (1 << VIRTIO_BALLOON_F_MUST_TELL_HOST) |
  (1 << VIRTIO_BALLOON_F_STATS_VQ) |
  (1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT) |
  (1 << VIRTIO_BALLOON_F_PAGE_POISON);

/** The standard's layout of the config space, by the mail's: the words behind both are the same. */
const OFFSETS: ReadonlyMap<number, number> = new Map([
  [VIRTIO_BALLOON_CONFIG_NUM_PAGES, NUM_PAGES_OFFSET],
  [VIRTIO_BALLOON_CONFIG_ACTUAL, ACTUAL_OFFSET],
  [VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID, CMD_ID_REG_OFFSET],
  [VIRTIO_BALLOON_CONFIG_POISON_VAL, POISON_VAL_OFFSET],
]);

/** Of a place in the config space where there is nothing: it reads as 0, and a write to it is lost. */
const NOWHERE = -1;

/** The trap handlers of this dialect: § 5.5.4's config space. */
export class VirtioTraps extends VcpuTraps {
  protected override readonly offeredFeatures: number = VIRTIO_OFFERED_FEATURES;
  readonly #control: ControlBuffer;

  constructor(control: ControlBuffer) {
    super(control);
    this.#control = control;
  }

  override readConfig(offset: number, feature: ExitFeatureValue): number {
    const value = super.readConfig(OFFSETS.get(offset) ?? NOWHERE, feature);
    // Nothing is acknowledged in this dialect, so the host has no other way to know what the guest knows.
    if (offset === VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID) {
      this.#control.words.store(CMD_ID_SEEN, value | 0);
    } else if (offset === VIRTIO_BALLOON_CONFIG_NUM_PAGES) {
      this.#control.words.store(NUM_PAGES_SEEN, value | 0);
    }
    return value;
  }

  override writeConfig(offset: number, value: number, feature: ExitFeatureValue): void {
    super.writeConfig(OFFSETS.get(offset) ?? NOWHERE, value, feature);
  }
}

/**
 * The host's own access in this dialect: a request is a register that has changed, and the interrupt.
 *
 * ```
 *   free_page_hint_cmd_id:   0 STOP ──▶ id (2 …) ──▶ 0 STOP ──▶ another id ──▶ 0 STOP ──▶ 1 DONE ──▶ …
 *                                       hint         pause                     pause      give everything back
 * ```
 */
export class VirtioRegisters extends HostRegisters {
  override readonly dialect: Dialect = 'virtio';
  readonly #control: ControlBuffer;

  constructor(control: ControlBuffer) {
    super(control);
    this.#control = control;
  }

  override requestReport(id: number): void {
    this.#change(CMD_ID_REG, id);
  }

  override requestStop(): void {
    this.#change(CMD_ID_REG, VIRTIO_BALLOON_CMD_ID_STOP);
  }

  override requestDone(): void {
    this.#change(CMD_ID_REG, VIRTIO_BALLOON_CMD_ID_DONE);
  }

  override withdrawDone(): void {
    this.requestStop();
  }

  override requestBallooning(pages: number): void {
    this.#change(NUM_PAGES, pages);
  }

  /** What the guest has not read yet, in the mail's bits. */
  override get pending(): number {
    const { words } = this.#control;
    return (
      (words.load(CMD_ID_SEEN) === words.load(CMD_ID_REG) ? 0 : REPORT_START | REPORT_STOP) |
      (words.load(NUM_PAGES_SEEN) === words.load(NUM_PAGES) ? 0 : BALLOONING)
    );
  }

  /** Nothing says whether the guest has seen everything at the source, so it looks again. */
  override restore(state: RegisterState): void {
    super.restore(state);
    this.#control.interrupt(INTERRUPT_CONFIG);
  }

  #change(word: number, value: number): void {
    this.#control.words.store(word, value | 0);
    this.#control.interrupt(INTERRUPT_CONFIG);
  }
}
