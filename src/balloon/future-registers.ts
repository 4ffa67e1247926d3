import {
  CMD_ID_REG,
  type ControlBuffer,
  FUTURE_REGISTERS,
  INTERRUPT_CONFIG,
  NUM_PAGES,
} from '../memory/control-buffer.js';
import { MOST_FUTURE_FEATURES, STOP_SIGN } from '../spec/command-register.js';
import { HostRegisters, type RegisterState } from './registers.js';
import type { RequestInterface } from './request-interface.js';

/** The host's access to the registers of a device that has features beside the mail's: theirs travel too. */
export class FutureRegisters extends HostRegisters {
  readonly #control: ControlBuffer;
  readonly #requests: RequestInterface;

  constructor(control: ControlBuffer, requests: RequestInterface) {
    super(control);
    this.#control = control;
    this.#requests = requests;
  }

  override save(queueCount: number): RegisterState {
    const { words } = this.#control;
    const futureRegisters = Array.from(
      { length: MOST_FUTURE_FEATURES },
      (_, k) => words.load(FUTURE_REGISTERS + k) >>> 0,
    );
    return { ...super.save(queueCount), offered: { requests: this.#requests, futureRegisters } };
  }

  override restore(state: RegisterState): void {
    state.offered?.futureRegisters.forEach((value, k) => {
      this.#control.words.store(FUTURE_REGISTERS + k, value | 0);
    });
    super.restore(state); // last: it raises the interrupt
  }
}

/**
 * The same of a device whose features are polled: a request is a register that has changed, and the interrupt.
 * Nothing tells the host that it was seen, and a request for what a register says already is none.
 */
export class PolledRegisters extends FutureRegisters {
  readonly #control: ControlBuffer;
  readonly #pollsBalloon: boolean;

  constructor(control: ControlBuffer, requests: RequestInterface) {
    super(control, requests);
    this.#control = control;
    this.#pollsBalloon = requests.design === 'polling';
  }

  override requestReport(id: number): void {
    this.#change(CMD_ID_REG, id);
  }

  override requestStop(): void {
    this.#change(CMD_ID_REG, STOP_SIGN);
  }

  override requestBallooning(pages: number): void {
    if (this.#pollsBalloon) {
      this.#change(NUM_PAGES, pages);
    } else {
      super.requestBallooning(pages);
    }
  }

  override requestFuture(k: number, value: number): void {
    this.#change(FUTURE_REGISTERS + k, value);
  }

  /** No bit says whether the guest has seen everything at the source, so it looks again. */
  override restore(state: RegisterState): void {
    super.restore(state);
    this.#control.interrupt(INTERRUPT_CONFIG);
  }

  #change(word: number, value: number): void {
    this.#control.words.store(word, value | 0);
    this.#control.interrupt(INTERRUPT_CONFIG);
  }
}
