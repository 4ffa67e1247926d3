import { CMD_ID_REG_OFFSET, NUM_PAGES_OFFSET, STOP_SIGN } from '../spec/command-register.js';
import type { BalloonCommands, ReportCommands } from './command-driver.js';
import { ExitFeature, type ExitFeatureValue } from './exits.js';
import type { DevicePort } from './registers.js';

/** A register that is read at every config interrupt. */
export interface PolledRegister {
  readonly name: string;
  /** Its offset in the config space. */
  readonly offset: number;
  /** On whose account the reads go. */
  readonly exitFeature: ExitFeatureValue;
  /** It holds something else than when it was read last. */
  changed(value: number): void;
}

/** The register of reporting: the id of the report that is wanted, or the stop sign. */
export function polledReport(report: ReportCommands): PolledRegister {
  return {
    name: 'cmd_id_reg',
    offset: CMD_ID_REG_OFFSET,
    exitFeature: ExitFeature.reporting,
    changed: (id) => (id === STOP_SIGN ? report.stop() : report.start(id)),
  };
}

/** The register of ballooning: the target. */
export function polledBalloon(balloon: BalloonCommands): PolledRegister {
  return {
    name: 'num_pages',
    offset: NUM_PAGES_OFFSET,
    exitFeature: ExitFeature.ballooning,
    changed: (pages) => balloon.setTarget(pages),
  };
}

/** Where the driver is, and what it knows; part of the vCPU's state. */
export interface PollingDriverState {
  /** The register that is read next; 0 also between interrupts. */
  next: number;
  /** Whether all of them are to be read. */
  reading: boolean;
  interrupted: boolean;
  /** What each register held when it was last read; 0 at first, as a device's registers do. */
  last: number[];
}

/**
 * The guest's answer to a config interrupt where there is no command register: it reads the register of every
 * feature, an exit a step, and acts on those that have changed.
 *
 * ```
 *   idle ──interrupt──▶ read register 0 ──▶ read register 1 ──▶ … ──▶ idle
 *                         │ changed: serve it
 * ```
 *
 * Registers say what is wanted now, not what was asked for: of two changes between two reads only the second is seen,
 * and a change and its undoing not at all. Nothing that is wanted is lost, because the host changes a register before
 * it raises the interrupt, and an interrupt in mid-pass has everything read once more.
 */
export class PollingDriver {
  readonly #port: DevicePort;
  readonly #registers: readonly PolledRegister[];
  readonly #last: number[];
  #next = 0;
  #reading = false;
  #interrupted = false;

  constructor(port: DevicePort, registers: readonly PolledRegister[], restored?: PollingDriverState) {
    this.#port = port;
    this.#registers = registers;
    this.#last = registers.map((_, i) => restored?.last[i] ?? 0);
    if (restored !== undefined) {
      this.#next = restored.next;
      this.#reading = restored.reading;
      this.#interrupted = restored.interrupted;
    }
  }

  /** The config interrupt was raised. It carries nothing. */
  interrupt(): void {
    this.#interrupted = true;
  }

  /** Whether {@link step} has something to do. */
  get busy(): boolean {
    return this.#interrupted || this.#reading;
  }

  saveState(): PollingDriverState {
    return {
      next: this.#next,
      reading: this.#reading,
      interrupted: this.#interrupted,
      last: [...this.#last],
    };
  }

  /** One exit, or nothing. */
  step(): void {
    if (!this.#reading) {
      if (!this.#interrupted) {
        return;
      }
      this.#interrupted = false;
      this.#reading = true;
    }
    const at = this.#next;
    const register = this.#registers[at];
    this.#next = at + 1 < this.#registers.length ? at + 1 : 0;
    this.#reading = this.#next !== 0;
    if (register !== undefined) {
      const value = this.#port.readConfig(register.offset, register.exitFeature);
      if (value !== this.#last[at]) {
        this.#last[at] = value;
        register.changed(value);
      }
    }
  }
}
