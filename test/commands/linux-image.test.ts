import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runCli, runHere } from '../support/cli.js';
import { linuxForTests } from '../support/linux.js';

const image = await linuxForTests();
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-linux-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

it('says what is missing and what to do, where there is no apt', async () => {
  const env = { PATH: folder, XDG_CACHE_HOME: folder };
  const { code, stdout, stderr } = await runCli(folder, ['linux', 'image'], { env });
  expect(code).toBe(1);
  expect(stdout).toBe('');
  expect(stderr).toContain('there is no apt-get here');
  expect(stderr).toContain('Or bring your own: --kernel FILE --initrd FILE --bios FILE --vga-bios FILE');
});

it('refuses what can’t be, with what to do', async () => {
  const refused = await runHere(folder, ['linux', 'image', '--kernel', 'vmlinuz']);
  expect(refused.code).toBe(2);
  expect(refused.stderr).toContain('--kernel without --initrd');
  expect((await runHere(folder, ['linux', 'image', '--init-on-alloc', '2'])).code).toBe(2);
  expect((await runHere(folder, ['linux', 'imag'])).code).toBe(2);
});

it.skipIf(image === undefined)('says what there is, and fetches nothing again', async () => {
  const { code, stdout, stderr } = await runCli(folder, ['linux', 'image', '--append', 'debug']);
  expect(code).toBe(0);
  expect(stderr).toContain('nothing to fetch');
  expect(stdout).toContain(`Linux ${image!.kernelVersion}\n`);
  expect(stdout).toMatch(/^ {2}initrd +2\.\d\d MiB {2}built here/m);
  expect(stdout).toContain(`command line: ${image!.cmdline} debug\n`);
});

it('ends a fetch that is called off, and keeps nothing of it', async () => {
  // An apt-get that never comes back.
  writeFileSync(join(folder, 'apt-get'), '#!/bin/sh\nexec sleep 1000\n', { mode: 0o755 });
  const env = { PATH: `${folder}:/bin:/usr/bin`, XDG_CACHE_HOME: join(folder, 'cache'), TMPDIR: folder };
  const onStderr = (line: string, kill: (signal: NodeJS.Signals) => void): void => {
    if (line.startsWith('asking')) {
      kill('SIGINT');
    }
  };
  const { code, stderr } = await runCli(folder, ['linux', 'image'], { env, onStderr });
  expect(code).toBe(130);
  expect(stderr).toContain('called off');
  expect(readdirSync(folder)).toEqual(['apt-get']);
});
