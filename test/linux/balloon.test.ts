import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  atBlock,
  BOOT_TIMEOUT_MS,
  eventOf,
  Hold,
  hop,
  LINUX,
  type Linux,
  memFree,
  memFreeReaches,
  reboot,
  restoreLinux,
  startLinux,
} from '../support/linux-migration.js';

const PAGES_PER_MIB = 256;
const SLACK_MIB = 4;

describe.skipIf(!LINUX)("Linux's balloon, while it is migrated", () => {
  let booted: ArrayBuffer;
  let machine: Linux | undefined;

  beforeAll(async () => {
    const fresh = await startLinux();
    fresh.guest.requestPause();
    booted = await fresh.emulator.save_state();
    await fresh.close();
  });

  afterEach(async () => {
    await machine?.close();
    machine = undefined;
  });

  /** The guest brings its balloon to so many pages, as it is told to. */
  async function balloonReaches(there: Linux, pages: number): Promise<void> {
    await expect.poll(() => there.guest.balloonPages, { timeout: 60_000 }).toBe(pages);
  }

  it('V8, V14 is resized in mid-report; its pages are not sent, and come back at the destination', async () => {
    const from = await restoreLinux(booted);
    machine = from;
    const free = await memFree(from);
    from.guest.setBalloonTarget(32 * PAGES_PER_MIB);
    await balloonReaches(from, 32 * PAGES_PER_MIB);

    const hold = new Hold();
    const done = eventOf('session-done');
    atBlock(from.guest, 3, () => from.guest.setBalloonTarget(40 * PAGES_PER_MIB));
    const moving = hop(from, { hold, onEvent: done.onEvent });
    await done.happened;
    await balloonReaches(from, 40 * PAGES_PER_MIB);
    hold.release(from.guest);
    const moved = await moving;
    machine = moved.machine;
    const { source } = moved;
    expect(source.phase).toBe('completed');
    expect(moved.differing).toEqual([]);
    // The report was neither ended by the other request nor begun again.
    expect(source.sessions).toHaveLength(1);
    expect(source.sessions[0]!.ranges).toBeGreaterThan(20);
    expect(source.sent.filledPages).toBeGreaterThanOrEqual(40 * PAGES_PER_MIB);

    expect(machine.guest.balloonPages).toBe(40 * PAGES_PER_MIB);
    machine.guest.setBalloonTarget(0);
    await balloonReaches(machine, 0);
    await memFreeReaches(machine, free - SLACK_MIB);
  });

  it('has no driver, and has one again; ids go on from where they were', async () => {
    const hinted = await hop(await restoreLinux(booted));
    machine = hinted.machine;
    await machine.console.run('rmmod virtio_balloon');
    expect(machine.guest.device).toBeUndefined();
    const without = await hop(machine);
    machine = without.machine;
    expect(without.source.phase).toBe('completed');
    expect(without.differing).toEqual([]);
    expect(without.source.sessions).toEqual([]);
    await machine.console.run('insmod /lib/modules/virtio_balloon.ko');
    const again = await hop(machine);
    machine = again.machine;
    expect(again.source.phase).toBe('completed');
    expect(again.differing).toEqual([]);
    expect(again.source.accounts.hints.applied).toBeGreaterThan(10_000);
    // The guest answers on its statistics queue, too, here as there.
    expect(machine.guest.requestStatistics()).toBe(true);
    await expect
      .poll(() => machine!.guest.statistics?.freeBytes, { timeout: 60_000 })
      .toBeGreaterThan(2 ** 27);
    const ids = [hinted, without, again].map(({ source }) => source.sessions.map(({ id }) => id));
    expect(ids).toEqual([[2], [], [3]]);
  });

  it(
    'V12 is reset by a reboot in mid-report; the migration goes on, and the next one has hints again',
    async () => {
      const from = await restoreLinux(booted);
      machine = from;
      const hold = new Hold();
      let openAfterwards: unknown;
      const rebooted = new Promise<void>((resolve) => {
        atBlock(from.guest, 3, () => {
          const session = from.guest.device!.session;
          expect(session.state).toBe('reporting');
          reboot(from);
          openAfterwards = session.state;
          resolve();
        });
      });
      const moving = hop(from, { hold, options: { hintTimeoutMs: 100 } });
      await rebooted;
      expect(openAfterwards).toBe('closed');
      expect(from.guest.device).toBeUndefined();
      hold.release(from.guest);
      const moved = await moving;
      machine = moved.machine;
      expect(moved.source.phase).toBe('completed');
      expect(moved.differing).toEqual([]);
      await machine.console.booted({ deadlineMs: BOOT_TIMEOUT_MS });
      const again = await hop(machine);
      machine = again.machine;
      expect(again.source.phase).toBe('completed');
      expect(again.differing).toEqual([]);
      expect(again.source.sessions.map(({ id }) => id)).toEqual([3]);
      expect(again.source.accounts.hints.applied).toBeGreaterThan(10_000);
      expect(await machine.console.run('echo on')).toBe('on');
    },
    BOOT_TIMEOUT_MS,
  );
});
