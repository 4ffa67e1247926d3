import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BOOT_TIMEOUT_MS, LINUX, type Linux, startLinux } from '../support/linux-migration.js';
import { LONG } from '../support/long.js';

describe.skipIf(!LINUX)('the Linux guest', () => {
  let guest: Linux;

  beforeAll(async () => {
    guest = await startLinux();
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await guest.close();
  });

  async function memFreeKib(): Promise<number> {
    return Number(/^MemFree (\d+) kB MemAvailable \d+ kB$/.exec(await guest.console.run('memfree'))![1]);
  }

  it('drives its balloon, with hinting', async () => {
    expect(await guest.console.run('ls /sys/bus/virtio/drivers/virtio_balloon')).toContain('virtio0');
    // VIRTIO_BALLOON_F_MUST_TELL_HOST, VIRTIO_BALLOON_F_STATS_VQ, VIRTIO_BALLOON_F_FREE_PAGE_HINT, VIRTIO_F_VERSION_1.
    const features = await guest.console.run('cat /sys/bus/virtio/devices/virtio0/features');
    const negotiated = features.split('').flatMap((bit, index) => (bit === '1' ? [index] : []));
    expect(negotiated).toEqual([0, 1, 3, 32]);
  });

  it('has a console without escape sequences, whose Ctrl-C ends what runs and not the shell', async () => {
    guest.console.send('sleep 1000\n');
    await guest.console.expect('sleep 1000\r\n');
    guest.console.interrupt();
    await guest.console.booted();
    guest.console.send('echo still here\n');
    const text = await guest.console.expect(/still here\r\nguest# $/);
    expect(text).not.toContain('\x1b');
  });

  it('uses memory, and leaves old data behind in it', async () => {
    const before = await memFreeKib();
    expect(await guest.console.run('use 8')).toBe('use: 8 MiB');
    expect(await memFreeKib()).toBeLessThan(before - 7 * 1024);
    expect(await guest.console.run('unuse')).toBe('unuse: freed');
    expect(await memFreeKib()).toBeGreaterThan(before - 4 * 1024);
  });

  it.skipIf(!LONG)('fills files with pages that are all different, or all alike', async () => {
    const differentOf = async (kind: string): Promise<number> => {
      const count =
        'i=0; while [ $i -lt 512 ]; do dd if=/tmp/f bs=4k skip=$i count=1 2>/dev/null | md5sum; i=$((i + 37)); done';
      await guest.console.run(`fill /tmp/f 2 ${kind}`);
      return Number(await guest.console.run(`(${count}) | sort -u | wc -l; rm /tmp/f`));
    };
    expect(await differentOf('0')).toBe(Math.ceil(512 / 37));
    expect(await differentOf('same')).toBe(1);
  });

  it('counts forwards, and says when', async () => {
    const lines = (await guest.console.run('timeout 1 counter 0.05 || true')).split('\n');
    const counted = lines.flatMap((line) => {
      const [, number, uptime] = /^counter (\d+) uptime ([\d.]+)$/.exec(line) ?? [];
      return number === undefined ? [] : [{ number: Number(number), uptime: Number(uptime) }];
    });
    expect(counted.map(({ number }) => number)).toEqual(counted.map((_, index) => index + 1));
    expect(counted.length).toBeGreaterThan(1);
    const uptimes = counted.map(({ uptime }) => uptime);
    expect(uptimes).toEqual([...uptimes].sort((a, b) => a - b));
  });

  it('knows its files again, and sees a few bytes that are different', async () => {
    expect(await guest.console.run('checksum make a 2')).toMatch(/^checksum: a 2 MiB [0-9a-f]{32}$/);
    expect(await guest.console.run('checksum verify a')).toMatch(/^checksum: a ok [0-9a-f]{32}$/);
    await guest.console.run(
      'printf other | dd of=/tmp/checksum-a bs=1 seek=1234567 conv=notrunc 2>/dev/null',
    );
    await expect(guest.console.run('checksum verify a')).rejects.toThrow(/a DIFFERENT/);
    await guest.console.run('rm /tmp/checksum-a*');
  });

  it.skipIf(!LONG)('comes under pressure, and out of it with nobody killed', async () => {
    const before = await memFreeKib();
    expect(await guest.console.run('pressure same')).toMatch(/^pressure: took \d+ MiB, MemFree \d+ kB$/);
    expect(await memFreeKib()).toBeLessThan(24 * 1024);
    await guest.console.run('pressure off');
    await expect.poll(memFreeKib, { timeout: 60_000 }).toBeGreaterThan(before - 4 * 1024);
    expect(await guest.console.run('dmesg | grep -ci "out of memory" || true')).toBe('0');
  });
});
