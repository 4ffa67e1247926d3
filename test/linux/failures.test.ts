import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  breakEmulator,
  eventOf,
  Hold,
  hop,
  LINUX,
  type Linux,
  LinuxReceiver,
  memFree,
  memFreeReaches,
  restoreLinux,
  startLinux,
} from '../support/linux-migration.js';

const SLACK_MIB = 4;

describe.skipIf(!LINUX)('Linux, when its migration fails', () => {
  let booted: ArrayBuffer;
  let machine: Linux | undefined;
  let receiver: LinuxReceiver | undefined;

  beforeAll(async () => {
    const fresh = await startLinux();
    await fresh.console.run('checksum make kept 1');
    fresh.guest.requestPause();
    booted = await fresh.emulator.save_state();
    await fresh.close();
  });

  afterEach(async () => {
    receiver?.kill();
    receiver = undefined;
    await machine?.close();
    machine = undefined;
  });

  it('I8 goes on at the source if the destination can make nothing of its device state', async () => {
    machine = await restoreLinux(booted);
    const hostile: readonly [string, (state: Uint8Array) => Uint8Array][] = [
      ['cut short', (state) => state.slice(0, -300)],
      ['of something else', (state) => state.map((byte, i) => (i < 4 ? byte ^ 1 : byte))],
      ['with values that are not', (state) => spoilt(state, '"buffer_infos"', '"buffer_inf0s"')],
      ['of a machine of another size', (state) => spoilt(state, '"state":[268435456', '"state":[134217728')],
    ];
    for (const [what, tamper] of hostile) {
      const { source, machine: here } = await hop(machine, { tamper });
      expect(source.phase, what).toBe('failed');
      expect(source.error?.code, what).toBe('DESTINATION_FAILED');
      expect(source.error?.message, what).toContain("the device state can't be used");
      expect(here).toBe(machine);
      expect(await machine.console.run('echo on')).toBe('on');
    }
    const moved = await hop(machine);
    machine = moved.machine;
    expect(moved.source.phase).toBe('completed');
    expect(moved.differing).toEqual([]);
    expect(await machine.console.run('checksum verify kept')).toContain('ok');
  });

  it('ends as GUEST_FAILED, and nothing else does, if v86 gives up', async () => {
    const from = await restoreLinux(booted);
    machine = from;
    const hold = new Hold();
    const done = eventOf('session-done');
    const moving = hop(from, { hold, onEvent: done.onEvent });
    await done.happened;
    breakEmulator(from, new Error('unreachable'));
    hold.release(from.guest);
    const { source } = await moving;
    expect(source.phase).toBe('failed');
    expect(source.error?.code).toBe('GUEST_FAILED');
    expect(source.error?.message).toContain('unreachable');
    expect(from.guest.paused).toBe(true);
    from.guest.resume();
    expect(from.guest.paused).toBe(true);
  });

  it('moves to another process over TCP', async () => {
    receiver = await LinuxReceiver.start();
    machine = await restoreLinux(booted);
    const before = uptime(await machine.console.run('cat /proc/uptime'));
    const source = await receiver.migrate(machine);
    expect(source.error).toBeUndefined();
    expect(source.phase).toBe('completed');
    expect(source.accounts.hints.applied).toBeGreaterThan(10_000);
    expect(await receiver.run('checksum verify kept')).toContain('ok');
    // The other process is of another age, and the guest's clock goes by neither.
    const after = uptime(await receiver.run('cat /proc/uptime'));
    expect(after).toBeGreaterThanOrEqual(before);
    expect(after).toBeLessThan(before + 120);
  });

  it('T3, V6 goes on with all its memory if the destination is killed in mid-migration', async () => {
    receiver = await LinuxReceiver.start();
    const from = await restoreLinux(booted);
    machine = from;
    const free = await memFree(from);
    const source = await receiver.migrate(from, {
      options: { bytesPerSecond: 4e6, recoveryTimeoutMs: 0 },
      onEvent: ({ type }) => {
        if (type === 'session-done') {
          receiver?.kill();
        }
      },
    });
    expect(source.phase).toBe('failed');
    expect(source.error?.code).toBe('LINK_LOST');
    expect(source.accounts.hints.applied).toBeGreaterThan(10_000);
    await memFreeReaches(from, free - SLACK_MIB);
    expect(await from.console.run('checksum verify kept')).toContain('ok');
  });
});

/** In seconds. */
function uptime(text: string): number {
  return Number(/^[\d.]+/.exec(text)![0]);
}

/** Other bytes in the place of some that are there. */
function spoilt(state: Uint8Array, from: string, to: string): Uint8Array {
  const bytes = Buffer.from(state);
  const at = bytes.indexOf(from);
  expect(at).toBeGreaterThan(0);
  bytes.write(to, at, 'latin1');
  return bytes;
}
