import { LacunaError } from '../../errors.js';

/** What is wrong with a device state, for whoever sent it. */
export function invalid(why: string): LacunaError {
  return new LacunaError('DEVICE_STATE_INVALID', `the device state can't be used: ${why}`);
}

/** A whole number from 0. */
export function isWhole(value: unknown, atMost: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= atMost;
}
