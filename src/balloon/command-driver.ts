import {
  BALLOONING,
  CMD_ID_REG_OFFSET,
  CMD_REG_OFFSET,
  NUM_PAGES_OFFSET,
  REPORT_START,
  REPORT_STOP,
} from '../spec/command-register.js';
import { ExitFeature, type ExitFeatureValue } from './exits.js';
import type { DevicePort } from './registers.js';

/**
 * A feature that the host can request through the command register. The interrupt path knows no more of it than
 * this: its bit, and which registers of its own to read once the bit was seen. (C11)
 */
export interface CommandFeature {
  readonly name: string;
  readonly bit: number;
  /** Config-space offsets that are read, in this order, only when the bit was seen. */
  readonly registers: readonly number[];
  /** On whose account those reads go. */
  readonly exitFeature: ExitFeatureValue;
  /** Serves the request; `values` are those of {@link registers}. Called after the acknowledgement. */
  requested(values: readonly number[]): void;
}

/** What the reporting half of the driver does on command. */
export interface ReportCommands {
  /** A report under `id` is asked for; any other that is under way ends first. */
  start(id: number): void;
  /** The report that is under way, if any, ends; blocks that were held come back (C13). */
  stop(): void;
}

/** What the ballooning half does. */
export interface BalloonCommands {
  setTarget(pages: number): void;
}

/** The mail's features, in the order in which one interrupt's bits are served: the old report ends first (C8). */
export function mailFeatures(report: ReportCommands, balloon: BalloonCommands): CommandFeature[] {
  return [
    {
      name: 'REPORT_STOP',
      bit: REPORT_STOP,
      registers: [],
      exitFeature: ExitFeature.reporting,
      requested: () => report.stop(),
    },
    {
      name: 'REPORT_START',
      bit: REPORT_START,
      registers: [CMD_ID_REG_OFFSET],
      exitFeature: ExitFeature.reporting,
      requested: ([id = 0]) => report.start(id),
    },
    {
      name: 'BALLOONING',
      bit: BALLOONING,
      registers: [NUM_PAGES_OFFSET],
      exitFeature: ExitFeature.ballooning,
      requested: ([pages = 0]) => balloon.setTarget(pages),
    },
  ];
}

type Phase = 'idle' | 'read' | 'acknowledge' | 'parameters';

/** What of the interrupt path is in flight; part of the vCPU's state. */
export interface CommandDriverState {
  phase: Phase;
  bits: number;
}

/**
 * The guest's answer to the one shared config interrupt, an exit a step:
 *
 * ```
 *   idle ──interrupt──▶ read cmd_reg ──▶ acknowledge the bits that are handled ──▶ read each one's parameters ──▶ idle
 *                           │ none of ours                                         and serve it
 *                           └──────────▶ idle
 * ```
 *
 * First the acknowledgement, then the parameters (C2): a host that asks again after the acknowledgement has its
 * bit set again and is heard; one that asked again before it has already put the newer id in its register.
 */
export class CommandDriver {
  readonly #port: DevicePort;
  readonly #features: readonly CommandFeature[];
  readonly #handled: number;
  #phase: Phase = 'idle';
  /** Bits that were seen and still have to be served. */
  #bits = 0;
  #interrupted = false;

  constructor(port: DevicePort, features: readonly CommandFeature[], restored?: CommandDriverState) {
    this.#port = port;
    this.#features = features;
    this.#handled = features.reduce((bits, feature) => bits | feature.bit, 0);
    if (restored !== undefined) {
      this.#phase = restored.phase;
      this.#bits = restored.bits;
    }
  }

  /** The config interrupt was raised. It carries nothing: the register says what is wanted. */
  interrupt(): void {
    this.#interrupted = true;
  }

  /** Whether {@link step} has something to do. */
  get busy(): boolean {
    return this.#interrupted || this.#phase !== 'idle';
  }

  saveState(): CommandDriverState {
    // An interrupt that was not looked at yet is kept by having its register read once more.
    return this.#phase === 'idle' && this.#interrupted
      ? { phase: 'read', bits: 0 }
      : { phase: this.#phase, bits: this.#bits };
  }

  /** One exit, or nothing. */
  step(): void {
    switch (this.#phase) {
      case 'idle':
        if (this.#interrupted) {
          this.#interrupted = false;
          this.#phase = 'read';
          this.step();
        }
        return;
      case 'read':
        this.#bits = this.#port.readConfig(CMD_REG_OFFSET, ExitFeature.shared) & this.#handled;
        this.#phase = this.#bits === 0 ? 'idle' : 'acknowledge';
        return;
      case 'acknowledge':
        this.#port.writeConfig(CMD_REG_OFFSET, this.#bits, ExitFeature.shared);
        this.#phase = 'parameters';
        return;
      case 'parameters': {
        const feature = this.#features.find(({ bit }) => (bit & this.#bits) !== 0);
        if (feature !== undefined) {
          feature.requested(
            feature.registers.map((offset) => this.#port.readConfig(offset, feature.exitFeature)),
          );
          this.#bits &= ~feature.bit;
        }
        if (this.#bits === 0) {
          this.#phase = 'idle';
        }
        return;
      }
    }
  }
}
