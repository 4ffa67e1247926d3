import type { GuestRuntime } from '../../src/guest/runtime.js';
import { EXITED, Vcpu } from '../../src/guest/vcpu.js';
import {
  CONTROL_BYTES,
  ControlBuffer,
  type EventWord,
  VCPU_STATE,
  VcpuRequest,
  VcpuState,
} from '../../src/memory/control-buffer.js';
import { type Activity, Gate, noActivity } from './gate.js';
import { Memento } from './memento.js';
import { Violation, type World } from './search.js';
import { type Sleeper, SleepyWords, sleepyMapper } from './sleepers.js';

// What can happen.
const HOST_RUNS = 1;
const HOST_PAUSES = 2;
const HOST_LOOKS = 3;
const VCPU_STEPS = 4;
const VCPU_HALTS = 5;

class State {
  readonly vcpu: Vcpu;
  readonly host: Activity = noActivity();
  readonly guest: Activity = noActivity();
  readonly sleeper: Sleeper;
  requestsLeft: number;
  /** What the host asked for last. */
  wanted = 'pause';
  /** The host has seen that the vCPU stands still, and has not let it run since. */
  believesPaused = false;
  /** A step of the vCPU had nothing to do: it is about to halt. */
  halting = false;

  constructor(vcpu: Vcpu, sleeper: Sleeper, requests: number) {
    this.vcpu = vcpu;
    this.sleeper = sleeper;
    this.requestsLeft = requests;
  }
}

/** A guest that is either stopped or not. */
class StillGuest {
  readonly #gate: Gate;
  readonly #runs: () => void;

  constructor(gate: Gate, runs: () => void) {
    this.#gate = gate;
    this.#runs = runs;
  }

  step(): number {
    this.#gate.access(this.#runs);
    return Number.POSITIVE_INFINITY;
  }

  saveRegisters(): object {
    return {};
  }
}

/**
 * The handshake between a host that starts and stops its guest and the vCPU's loop (the real `Vcpu` and
 * `ControlBuffer`), access by access: while the host believes that the guest stands still, no slice of it runs (I2,
 * I10), and what was asked for last comes about (nobody sleeps through a ring).
 */
export class VcpuWorld implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = ['wanted', 'vCPU', 'believed', 'asleep'];
  readonly #gate = new Gate();
  readonly #control: ControlBuffer;
  readonly #state: State;
  readonly #vcpuOwn: Memento;
  readonly #hostOwn: Memento;

  constructor(requests: number) {
    const sleeper: Sleeper = { asleep: false };
    const buffer = new ArrayBuffer(CONTROL_BYTES);
    const event = { ring: () => {} } as unknown as EventWord;
    this.#control = new ControlBuffer(sleepyMapper(this.#gate, sleeper), buffer, event);
    this.#control.request(VcpuRequest.pause);
    const guest = new StillGuest(this.#gate, () => this.#slice()) as unknown as GuestRuntime;
    const vcpu = new Vcpu(this.#control, guest, () => guest);
    this.#state = new State(vcpu, sleeper, requests);
    const constantClasses = [ControlBuffer, SleepyWords, StillGuest, Gate];
    this.memento = new Memento(this.#state, {
      constantClasses,
      // The words of the handshake; the stamps and the registers behind them are not acted on.
      memory: [{ words: new Int32Array(buffer, 0, 32) }],
    });
    const own = { constantClasses, memory: [], foreign: [buffer] };
    this.#vcpuOwn = new Memento(vcpu, own);
    this.#hostOwn = new Memento({}, own);
  }

  #slice(): void {
    if (this.#state.believesPaused) {
      throw new Violation('I2', 'the guest runs while its host believes that it stands still');
    }
  }

  actionsInto(out: number[]): void {
    const { host, guest, sleeper, requestsLeft, halting } = this.#state;
    if (host.what !== -1) {
      out.push(host.what);
    } else {
      if (requestsLeft > 0) {
        out.push(HOST_RUNS, HOST_PAUSES);
      }
      if (!this.#state.believesPaused) {
        out.push(HOST_LOOKS);
      }
    }
    if (halting && guest.what === -1) {
      out.push(VCPU_HALTS);
    } else if (!sleeper.asleep) {
      out.push(guest.what === -1 ? VCPU_STEPS : guest.what);
    }
  }

  perform(action: number): void {
    const state = this.#state;
    if (action === VCPU_STEPS || action === VCPU_HALTS) {
      this.#vcpuGoesOn(action);
      return;
    }
    const { host } = state;
    if (host.what === -1) {
      host.what = action;
      if (action !== HOST_LOOKS) {
        state.requestsLeft -= 1;
        state.wanted = action === HOST_RUNS ? 'run' : 'pause';
        state.believesPaused = false;
      }
    }
    let paused = false;
    const done = this.#gate.advance({ name: 'host', activity: host, own: this.#hostOwn }, () => {
      if (action === HOST_LOOKS) {
        ({ paused } = this.#control);
      } else {
        this.#control.request(action === HOST_RUNS ? VcpuRequest.run : VcpuRequest.pause);
      }
    });
    if (done && action === HOST_LOOKS) {
      state.believesPaused = paused;
    }
  }

  #vcpuGoesOn(action: number): void {
    const state = this.#state;
    const { guest, vcpu } = state;
    guest.what = action;
    state.halting = false;
    let haltMs = 0;
    const done = this.#gate.advance({ name: 'vCPU', activity: guest, own: this.#vcpuOwn }, () => {
      if (action === VCPU_HALTS) {
        this.#control.waitForHost(vcpu.doorbell, Number.POSITIVE_INFINITY);
      } else {
        haltMs = vcpu.step();
      }
    });
    state.halting = done && haltMs > 0 && haltMs !== EXITED;
  }

  checkEnd(): void {}

  /** Where nobody has anything left to do but look, what was asked for last has come about. */
  check(): void {
    const { wanted, sleeper, host, guest, requestsLeft, halting } = this.#state;
    if (!sleeper.asleep || halting || host.what !== -1 || guest.what !== -1 || requestsLeft > 0) {
      return;
    }
    const state = this.#control.words.load(VCPU_STATE);
    if (wanted === 'pause' ? !this.#control.paused : state !== VcpuState.running) {
      throw new Violation('Q7', `the vCPU sleeps in state ${state}, and its host wants it to ${wanted}`);
    }
  }

  describe(action: number): { who: string; what: string } {
    const names = [
      '',
      'asks it to run',
      'asks it to pause',
      'looks whether it stands still',
      'goes on',
      'halts',
    ];
    return { who: action < VCPU_STEPS ? 'host' : 'vCPU', what: names[action] ?? '' };
  }

  cells(): string[] {
    const { wanted, believesPaused, sleeper } = this.#state;
    return [
      wanted,
      String(this.#control.words.load(VCPU_STATE)),
      String(believesPaused),
      String(sleeper.asleep),
    ];
  }
}
