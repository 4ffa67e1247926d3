import { type GuestDevice, saveGuestDevice } from '../../src/balloon/guest-device.js';
import { encodeRegisters } from '../../src/guest/vcpu.js';
import { STATE_VERSION } from '../../src/vmm/device-state.js';
import type { BootedGuest } from '../unit/guest/booted.js';
import { runsIn } from '../unit/guest/small-guest.js';

/** A value of JSON. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
/** Where in a device state something is. Below `vcpu` it goes on in the registers that are text there. */
export type Path = readonly (string | number)[];

/** The device state of a guest that stands still, as `WorkerGuest.saveDeviceState` makes it; its vCPU's registers unpacked. */
export function unpackedState({ runtime }: BootedGuest, device: GuestDevice): Json {
  const state = {
    version: STATE_VERSION,
    device: saveGuestDevice(device),
    inflated: runsIn(device.inflated).flat(),
    vcpu: JSON.parse(new TextDecoder().decode(encodeRegisters(runtime.saveRegisters()))),
  };
  return JSON.parse(JSON.stringify(state)) as Json;
}

/** As it goes over the wire. */
export function packState(unpacked: Json): Uint8Array {
  const isState = typeof unpacked === 'object' && unpacked !== null && !Array.isArray(unpacked);
  const packed =
    isState && 'vcpu' in unpacked ? { ...unpacked, vcpu: JSON.stringify(unpacked['vcpu']) } : unpacked;
  return new TextEncoder().encode(JSON.stringify(packed));
}

/** All places of a value, its own (which is empty) included. */
export function pathsOf(value: Json): Path[] {
  if (typeof value !== 'object' || value === null) {
    return [[]];
  }
  const inner = Array.isArray(value)
    ? value.flatMap((element, i) => pathsOf(element).map((path) => [i, ...path]))
    : Object.entries(value).flatMap(([key, element]) => pathsOf(element).map((path) => [key, ...path]));
  return [[], ...inner];
}

/** As errors write it. */
export function nameOf(path: Path): string {
  return path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i === 0 ? '' : '.'}${key}`))
    .join('');
}

export function at(value: Json, path: Path): Json | undefined {
  return path.reduce<Json | undefined>(
    (inner, key) => (inner as Record<string | number, Json> | undefined)?.[key],
    value,
  );
}

/** A copy with another value at a place; undefined takes the place away. */
export function withValue(value: Json, path: Path, replacement: Json | undefined): Json {
  const [key, ...rest] = path;
  if (key === undefined) {
    return replacement ?? null;
  }
  const copy = structuredClone(value) as Record<string | number, Json>;
  if (rest.length === 0 && replacement === undefined) {
    if (Array.isArray(copy)) {
      copy.splice(key as number, 1);
    } else {
      delete copy[key];
    }
  } else {
    const inner = withValue(copy[key] as Json, rest, replacement);
    Object.defineProperty(copy, key, { value: inner, enumerable: true, writable: true, configurable: true });
  }
  return copy as Json;
}
