import {
  CHECK_BAD_PAGES,
  CHECK_BAD_PFN,
  CHECK_DONE,
  CHECK_PAGES,
  CHECK_REQUEST,
  type ControlBuffer,
  VCPU_REQUEST,
  VCPU_STATE,
  VcpuRequest,
  VcpuState,
  type VcpuStateValue,
} from '../memory/control-buffer.js';
import type { GuestRuntime, VcpuRegisters } from './runtime.js';

/** Registers as bytes: opaque to the engine, versioned, written by the guest's thread alone. */
export function encodeRegisters(registers: VcpuRegisters): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ version: 1, registers }));
}

export function decodeRegisters(bytes: Uint8Array): VcpuRegisters {
  const parsed = JSON.parse(new TextDecoder().decode(bytes)) as { version: number; registers: VcpuRegisters };
  if (parsed.version !== 1) {
    throw new RangeError(`vCPU registers of version ${parsed.version}; this lacuna reads version 1`);
  }
  return parsed.registers;
}

/** Milliseconds since the epoch, comparable between threads. */
export function epochMs(): number {
  return performance.timeOrigin + performance.now();
}

/**
 * The vCPU's loop, on the guest's own thread. It begins paused and ends when the host says so.
 *
 * ```
 *              run                         pause
 *   paused ──────────▶ running: slices ─────────────▶ paused
 *     │  ▲ self-checks    │ nothing to do: halts until the doorbell rings or work is due
 *     │  └────────────────┘
 *     └── exit ──▶ exited
 * ```
 *
 * A guest that was booted brings its runtime along; for one that arrives, `arrive` makes it when it is first let
 * run, from the registers in the control buffer.
 */
export function runVcpu(
  control: ControlBuffer,
  booted: GuestRuntime | undefined,
  arrive: () => GuestRuntime,
): void {
  const { words } = control;
  let runtime = booted;
  for (;;) {
    // Read before the requests are: a ring after this read ends the wait below at once.
    const doorbell = control.doorbell();
    const request = words.load(VCPU_REQUEST);
    answerCheck(control, runtime);
    if (request === VcpuRequest.exit) {
      setState(control, VcpuState.exited);
      return;
    }
    if (words.load(VCPU_STATE) !== VcpuState.running) {
      if (request === VcpuRequest.pause) {
        control.waitForHost(doorbell, Number.POSITIVE_INFINITY);
        continue;
      }
      runtime ??= arrive();
      control.startedAt = epochMs();
      setState(control, VcpuState.running);
    } else if (request !== VcpuRequest.run && runtime !== undefined) {
      // The safe point: every write so far has its mark in the log (I2).
      control.writeState(encodeRegisters(runtime.saveRegisters()));
      control.stoppedAt = epochMs();
      words.compareExchange(VCPU_REQUEST, VcpuRequest.runToSafePoint, VcpuRequest.pause);
      setState(control, VcpuState.paused);
      continue;
    }
    if (request === VcpuRequest.run && runtime !== undefined) {
      const idleMs = runtime.step(epochMs());
      if (idleMs > 0) {
        control.waitForHost(doorbell, idleMs);
      }
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
