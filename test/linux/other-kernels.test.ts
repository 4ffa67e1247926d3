import { describe, expect, it } from 'vitest';
import {
  BOOT_TIMEOUT_MS,
  hop,
  LINUX,
  memFree,
  memFreeReaches,
  startLinux,
} from '../support/linux-migration.js';
import { LONG } from '../support/long.js';

// Each takes a boot of its own.

describe.skipIf(!LINUX || !LONG)("Linux that zeroes what it allocates, Debian's default", () => {
  it(
    'moves with hints, twice, and what it was asked to report was not written again',
    async () => {
      let machine = await startLinux({ memoryMiB: 128, image: { initOnAlloc: true } });
      await machine.console.run('checksum make kept 2');
      await machine.console.run('use 48; unuse');
      const free = await memFree(machine);
      for (const id of [2, 3]) {
        const moved = await hop(machine);
        machine = moved.machine;
        expect(moved.source.phase).toBe('completed');
        expect(moved.differing).toEqual([]);
        expect(moved.source.sessions.map((session) => session.id)).toEqual([id]);
        const { applied, reDirtied } = moved.source.accounts.hints;
        expect(applied).toBeGreaterThan(2000);
        // The driver has the kernel zero a block before it reports it, not afterwards.
        expect(reDirtied).toBeLessThan(applied / 10);
        expect(await machine.console.run('checksum verify kept')).toContain('ok');
        await memFreeReaches(machine, free - 4);
      }
      await machine.close();
    },
    BOOT_TIMEOUT_MS,
  );
});

describe.skipIf(!LINUX || !LONG)('Linux that was booted without a driver for its balloon', () => {
  it(
    'moves without hints',
    async () => {
      const booted = await startLinux({ memoryMiB: 128, image: { balloonDriver: false } });
      await booted.console.run('checksum make kept 2');
      const { machine, source, differing } = await hop(booted);
      expect(source.phase).toBe('completed');
      expect(differing).toEqual([]);
      expect(source.sessions).toEqual([]);
      expect(await machine.console.run('checksum verify kept')).toContain('ok');
      await machine.close();
    },
    BOOT_TIMEOUT_MS,
  );
});
