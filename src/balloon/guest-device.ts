import type { ControlBuffer } from '../memory/control-buffer.js';
import { QUEUE_COUNT } from '../memory/control-buffer.js';
import { BalloonDevice, type BalloonDeviceOptions, type BalloonDeviceState } from './balloon-device.js';
import type { Dialect } from './dialect.js';
import { hostRegisters, kindOf } from './future-registers.js';
import type { HostRegisters, RegisterState } from './registers.js';
import type { RequestInterface } from './request-interface.js';

/** The balloon of a guest whose registers are words of a control buffer: of the built-in guest. */
export type GuestDevice = BalloonDevice<HostRegisters>;

/** The same on its way to another host, its registers included. */
export interface GuestDeviceState extends BalloonDeviceState {
  readonly registers: RegisterState;
}

export interface GuestDeviceOptions
  extends Omit<BalloonDeviceOptions<HostRegisters>, 'registers' | 'hasStatistics'> {
  readonly control: ControlBuffer;
  /** `command-register` if nothing is said. Of a device that was restored it is in its registers. */
  readonly dialect?: Dialect;
  /** What it offers, where that is not the mail's register and features. */
  readonly requests?: RequestInterface | undefined;
  /** What another host has left. Its registers are in the control buffer already. */
  readonly restored?: GuestDeviceState;
}

export function makeGuestDevice(given: GuestDeviceOptions): GuestDevice {
  const { control, dialect = 'command-register', requests, ...options } = given;
  const { restored } = options;
  const registers = hostRegisters(
    control,
    restored === undefined ? { dialect, requests } : kindOf(restored.registers),
  );
  return new BalloonDevice({ ...options, registers, hasStatistics: registers.dialect === 'virtio' });
}

export function saveGuestDevice(device: GuestDevice): GuestDeviceState {
  return { registers: device.registers.save(QUEUE_COUNT), ...device.saveState() };
}
