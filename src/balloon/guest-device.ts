import type { ControlBuffer } from '../memory/control-buffer.js';
import { QUEUE_COUNT } from '../memory/control-buffer.js';
import { BalloonDevice, type BalloonDeviceOptions, type BalloonDeviceState } from './balloon-device.js';
import { hostRegisters } from './future-registers.js';
import type { HostRegisters, RegisterState } from './registers.js';
import type { RequestInterface } from './request-interface.js';

/** The balloon of a guest whose registers are words of a control buffer: of the built-in guest. */
export type GuestDevice = BalloonDevice<HostRegisters>;

/** The same on its way to another host, its registers included. */
export interface GuestDeviceState extends BalloonDeviceState {
  readonly registers: RegisterState;
}

export interface GuestDeviceOptions extends Omit<BalloonDeviceOptions<HostRegisters>, 'registers'> {
  readonly control: ControlBuffer;
  /** What it offers, where that is not the mail's register and features. */
  readonly requests?: RequestInterface | undefined;
  /** What another host has left. Its registers are in the control buffer already. */
  readonly restored?: GuestDeviceState;
}

export function makeGuestDevice({ control, requests, ...options }: GuestDeviceOptions): GuestDevice {
  const registers = hostRegisters(control, requests ?? options.restored?.registers.offered?.requests);
  return new BalloonDevice({ ...options, registers });
}

export function saveGuestDevice(device: GuestDevice): GuestDeviceState {
  return { registers: device.registers.save(QUEUE_COUNT), ...device.saveState() };
}
