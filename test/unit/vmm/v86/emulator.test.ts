import { describe, expect, it } from 'vitest';
import { openEmulator } from '../../../../src/vmm/v86/emulator.js';
import { V86Guest } from '../../../../src/vmm/v86/v86-guest.js';
import { FakeMachine } from '../../../support/fake-v86.js';

/** An emulator without one of its parts. */
function without(path: readonly string[]): object {
  const { v86 } = new FakeMachine(16).emulator;
  const whole: Record<string, unknown> = { v86: copy(v86) };
  let at = whole;
  for (const name of path.slice(0, -1)) {
    at[name] = copy(at[name] as object);
    at = at[name] as Record<string, unknown>;
  }
  delete at[path.at(-1)!];
  return whole;
}

/** With what is inherited, and with what can't be deleted there. */
function copy(part: object): Record<string, unknown> {
  const all: Record<string, unknown> = {};
  for (let level: object | null = part; level !== null && level !== Object.prototype; ) {
    for (const name of Object.getOwnPropertyNames(level)) {
      all[name] ??= (part as Record<string, unknown>)[name];
    }
    level = Object.getPrototypeOf(level) as object | null;
  }
  return all;
}

describe('an emulator', () => {
  it('is one', () => {
    const { emulator } = new FakeMachine(16);
    expect(openEmulator(emulator)).toBe(emulator);
  });

  it.each([{}, { v86: undefined }, { v86: null }, { v86: { bus: {} } }])('is not: %j', (object) => {
    expect(() => openEmulator(object)).toThrow(
      expect.objectContaining({
        code: 'UNSUPPORTED',
        message: expect.stringMatching(/emulator-loaded.*0\.5\.462/),
      }),
    );
  });

  const parts = [
    ...['bus.send', 'run', 'do_tick', 'next_tick', 'running', 'stopping', 'idle', 'tick_counter'],
    ...['save_state', 'restore_state', 'cpu.wasm_memory', 'cpu.mem8.byteOffset', 'cpu.memory_size.0'],
    ...['cpu.zero_memory', 'cpu.jit_dirty_cache', 'cpu.pack_memory', 'cpu.unpack_memory'],
    ...['cpu.reboot_internal', 'cpu.devices', 'cpu.option_roms'],
  ];
  it.each(parts)('is not what it was without %s', (part) => {
    expect(() => openEmulator(without(['v86', ...part.split('.')]))).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringContaining(`v86.${part}`) }),
    );
  });

  it('has to have a balloon', () => {
    expect(() => openEmulator(without(['v86', 'cpu', 'devices', 'virtio_balloon']))).toThrow(
      expect.objectContaining({
        code: 'UNSUPPORTED',
        message: expect.stringContaining('virtio_balloon: true'),
      }),
    );
  });

  const ofVirtio = [
    ...['queues', 'driver_feature', 'device_status', 'isr_status', 'reset', 'notify_config_changes'],
    ...['raise_irq', 'needs_reset', 'get_state', 'set_state'],
  ];
  it.each(ofVirtio)('has to have a balloon with %s', (part) => {
    expect(() => openEmulator(without(['v86', 'cpu', 'devices', 'virtio_balloon', 'virtio', part]))).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringContaining(part) }),
    );
  });

  it('is not opened while it runs', () => {
    const machine = new FakeMachine(16);
    machine.run();
    expect(() => V86Guest.open(machine.emulator)).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED', message: expect.stringContaining('runs already') }),
    );
  });
});
