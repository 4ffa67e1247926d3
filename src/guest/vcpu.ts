import {
  CHECK_BAD_PAGES,
  CHECK_BAD_PFN,
  CHECK_DONE,
  CHECK_PAGES,
  CHECK_REQUEST,
  type ControlBuffer,
  VCPU_PAUSED_FOR,
  VCPU_REQUEST,
  VCPU_STATE,
  VcpuRequest,
  VcpuState,
  type VcpuStateValue,
  wantedOf,
} from '../memory/control-buffer.js';
import { epochMs } from '../memory/epoch.js';
import type { GuestRuntime, VcpuRegisters } from './runtime.js';
import { Throttle } from './throttle.js';

/** Of registers as bytes. */
export const REGISTERS_VERSION = 1;

/** Registers as bytes: opaque to the engine, versioned, written by the guest's thread alone. */
export function encodeRegisters(registers: VcpuRegisters): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ version: REGISTERS_VERSION, registers }));
}

export function decodeRegisters(bytes: Uint8Array): VcpuRegisters {
  const parsed = JSON.parse(new TextDecoder().decode(bytes)) as { version: number; registers: VcpuRegisters };
  if (parsed.version !== REGISTERS_VERSION) {
    throw new RangeError(
      `vCPU registers of version ${parsed.version}; this lacuna reads version ${REGISTERS_VERSION}`,
    );
  }
  return parsed.registers;
}

/** {@link Vcpu.step}: the host has ended the vCPU. */
export const EXITED = -1;

/**
 * The vCPU, a slice at a time. It begins stopped and ends when the host says so.
 *
 * ```
 *              run                         pause
 *   stopped ─────────▶ running: slices ─────────────▶ paused
 *     │  ▲ self-checks    │ nothing to do: halts until the doorbell rings or work is due
 *     │  └────────────────┘
 *     └── exit ──▶ exited
 * ```
 *
 * A guest that was booted brings its runtime along; for one that arrives, `arrive` makes it when it is first let
 * run, from the registers in the control buffer.
 */
export class Vcpu {
  readonly #control: ControlBuffer;
  readonly #arrive: () => GuestRuntime;
  #runtime: GuestRuntime | undefined;
  #doorbell = 0;
  /** How long it was kept from running, in ms. The guest's clock stands still then: no work falls due. */
  stolenMs = 0;

  constructor(control: ControlBuffer, booted: GuestRuntime | undefined, arrive: () => GuestRuntime) {
    this.#control = control;
    this.#runtime = booted;
    this.#arrive = arrive;
  }

  /** The doorbell's value before the last step looked for anything to do: wait on that. */
  get doorbell(): number {
    return this.#doorbell;
  }

  /** One look at what the host wants, and one slice. Milliseconds to halt for; 0: none; {@link EXITED}. */
  step(): number {
    const control = this.#control;
    const { words } = control;
    this.#doorbell = control.doorbell();
    const request = words.load(VCPU_REQUEST);
    const wanted = wantedOf(request);
    answerCheck(control, this.#runtime);
    if (wanted === VcpuRequest.exit) {
      setState(control, VcpuState.exited);
      return EXITED;
    }
    const state = words.load(VCPU_STATE);
    if (wanted === VcpuRequest.pause) {
      // A guest that has not arrived yet can't be paused: nothing of it is here.
      if (this.#runtime !== undefined && words.load(VCPU_PAUSED_FOR) !== request) {
        this.#pause(this.#runtime, request, state);
        return 0;
      }
      return Number.POSITIVE_INFINITY;
    }
    if (state !== VcpuState.running) {
      this.#runtime ??= this.#arrive();
      control.startedAt = epochMs();
      setState(control, VcpuState.running);
    } else if (wanted === VcpuRequest.runToSafePoint && this.#runtime !== undefined) {
      // The first safe point. The host's word becomes one to pause, unless it has changed its mind.
      const pause = request - VcpuRequest.runToSafePoint + VcpuRequest.pause;
      if (words.compareExchange(VCPU_REQUEST, request, pause) === request) {
        this.#pause(this.#runtime, pause, state);
      }
      return 0;
    }
    return wanted === VcpuRequest.run && this.#runtime !== undefined
      ? this.#runtime.step(epochMs() - this.stolenMs)
      : 0;
  }

  /** The share of the time for which it is to be kept from running. Its stopping is not held up: 0 unless it is to run. */
  get share(): number {
    const { throttle, words } = this.#control;
    return throttle > 0 && wantedOf(words.load(VCPU_REQUEST)) === VcpuRequest.run ? throttle : 0;
  }

  /** In place of {@link step} while it is kept from running: looks for what does not wait, and answers a self-check. */
  attend(): void {
    this.#doorbell = this.#control.doorbell();
    answerCheck(this.#control, this.#runtime);
  }

  /** The safe point: every write so far has its mark in the log (I2). */
  #pause(runtime: GuestRuntime, request: number, state: number): void {
    const control = this.#control;
    if (state !== VcpuState.paused) {
      control.writeState(encodeRegisters(runtime.saveRegisters()));
      control.stoppedAt = epochMs();
    }
    control.words.store(VCPU_PAUSED_FOR, request); // pairs with the load in ControlBuffer.paused
    setState(control, VcpuState.paused);
  }
}

/** The vCPU's loop, on the guest's own thread. `clock` in ms, for the throttle. */
export function runVcpu(
  control: ControlBuffer,
  booted: GuestRuntime | undefined,
  arrive: () => GuestRuntime,
  clock: () => number = epochMs,
): void {
  const vcpu = new Vcpu(control, booted, arrive);
  const throttle = new Throttle(clock);
  for (let haltMs = vcpu.step(); haltMs !== EXITED; haltMs = vcpu.step()) {
    const { share } = vcpu;
    const leftMs = throttle.sliceLeftMs(share);
    if (leftMs === 0) {
      vcpu.stolenMs += throttle.pause(share, (ms) => {
        vcpu.attend();
        const kept = vcpu.share > 0;
        if (kept) {
          control.waitForHost(vcpu.doorbell, ms); // any ring ends it, and it is looked what for
        }
        return kept;
      });
    } else if (haltMs > 0) {
      // A ring after the step's first read ends the wait at once.
      control.waitForHost(vcpu.doorbell, Math.min(haltMs, leftMs));
    }
  }
}

/** Last of what is written at a change of state: whoever sees it sees the registers and stamps too. */
function setState(control: ControlBuffer, state: VcpuStateValue): void {
  control.words.store(VCPU_STATE, state);
  control.words.notify(VCPU_STATE);
  control.ringHost();
}

function answerCheck(control: ControlBuffer, runtime: GuestRuntime | undefined): void {
  const { words } = control;
  const wanted = words.load(CHECK_REQUEST);
  if (runtime === undefined || wanted === words.load(CHECK_DONE)) {
    return;
  }
  const check = runtime.selfCheck();
  words.store(CHECK_PAGES, check.pages);
  words.store(CHECK_BAD_PAGES, check.badPages);
  words.store(CHECK_BAD_PFN, check.badPfn);
  words.store(CHECK_DONE, wanted); // last: publishes the results above
  control.ringHost();
}
