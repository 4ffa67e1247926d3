import type { ControlBuffer } from '../memory/control-buffer.js';
import type { Dialect } from './dialect.js';
import { FutureRegisters, PolledRegisters } from './future-registers.js';
import { HostRegisters, type RegisterState, VcpuTraps } from './registers.js';
import type { RequestKind } from './request-driver.js';
import { VirtioRegisters, VirtioTraps } from './virtio-registers.js';

/** The host's access to the registers of a device that takes a kind of requests; by default the mail's and no others. */
export function hostRegisters(
  control: ControlBuffer,
  { dialect, requests }: RequestKind = { dialect: 'command-register' },
): HostRegisters {
  if (dialect === 'virtio') {
    return new VirtioRegisters(control);
  }
  if (requests === undefined) {
    return new HostRegisters(control);
  }
  return requests.design === 'polling' || requests.design === 'register-and-polling'
    ? new PolledRegisters(control, requests)
    : new FutureRegisters(control, requests);
}

/** The trap handlers of a dialect's device. */
export function trapsOf(control: ControlBuffer, dialect: Dialect): VcpuTraps {
  return dialect === 'virtio' ? new VirtioTraps(control) : new VcpuTraps(control);
}

/** What kind of requests the device takes whose registers were saved. */
export function kindOf({ dialect, offered }: RegisterState): RequestKind {
  return { dialect, requests: offered?.requests };
}
