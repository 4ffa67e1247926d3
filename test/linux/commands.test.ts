import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { MoveReport } from '../../dist/src/cli/linux/move.js';
import { runHere } from '../support/cli.js';
import { LINUX, USUAL } from '../support/linux-migration.js';
import { useTerminals } from '../support/terminals.js';

const MEMORY = `${USUAL.memoryMiB}MiB`;
/** util-linux's; without it there is no terminal to be had here. */
const SCRIPT = spawnSync('script', ['--version']).status === 0;
if (!SCRIPT) {
  console.warn('\n*** NOT TESTED at a terminal: there is no `script` (util-linux). ***\n');
}

describe.skipIf(!LINUX)('lacuna with Linux, as it is used', () => {
  const terminals = useTerminals('lacuna-linux-');
  const { start, startIn, startReceive } = terminals;

  function read(file: string): unknown {
    return JSON.parse(readFileSync(join(terminals.folder, file), 'utf8'));
  }

  it.skipIf(!SCRIPT)(
    'shows the guest at a terminal, moves it at Ctrl-] m, and the other terminal has it',
    async () => {
      const { receiver, to } = await startReceive('--vmm', 'v86', '--once', '--json', 'received.json');
      const sender = startIn(
        { tty: true },
        ...['send', '--vmm', 'v86', '--memory', MEMORY, '--to', to, '--json', 'sent.json'],
      );
      await sender.says(/Ctrl-\] m moves it[\s\S]*guest# /);
      sender.type('kept=42; echo at the source $((kept + 1))\r');
      await sender.says(/at the source 43/);
      sender.type('sleep 1000\r\x03'); // the guest's, not lacuna's
      await sender.says(/\^C/);
      sender.type('\x1dm');
      await sender.says(/✔ linux-256m runs at /);
      expect(await sender.ended).toBe(0);

      await receiver.says(/✔ linux-256m runs here/);
      receiver.type('echo at the destination $((kept + 2))\n');
      await receiver.says(/at the destination 44/);
      receiver.endInput();
      expect(await receiver.ended).toBe(0);

      const sent = read('sent.json') as { migration: MoveReport };
      expect(sent.migration).toMatchObject({ status: 'completed', error: null });
      expect(sent.migration.hints.sessions).toHaveLength(1);
      expect(read('received.json')).toMatchObject({ guests: [{ guest: 'linux-256m', outcome: 'runs' }] });
    },
  );

  it.skipIf(!SCRIPT)(
    'ends at the terminal’s Ctrl-] q with the guest, and leaves the other end waiting for another',
    async () => {
      const { receiver, to } = await startReceive('--vmm', 'v86');
      const sender = startIn({ tty: true }, 'send', '--vmm', 'v86', '--memory', MEMORY, '--to', to);
      await sender.says(/Ctrl-\] q ends it[\s\S]*guest# /);
      sender.type('\x1dq');
      expect(await sender.ended).toBe(130);
      expect(sender.text).toContain('It ends with this command');
      await receiver.says(/discarded: linux-256m does not run here/);
      receiver.signal('SIGINT');
      expect(await receiver.ended).toBe(0);
    },
  );

  it('moves a guest that counts, and says what came of it', async () => {
    const demo = start('linux', '--memory', MEMORY, '--json', 'demo.json');
    expect(await demo.ended).toBe(0);
    expect(demo.text).toMatch(/source +│ counter \d+ uptime[\s\S]*destination │ counter \d+ uptime/);
    expect(demo.text).toMatch(/✔ the counter went on from \d+ to \d+, .* and the file is intact/);
    expect(demo.text).toMatch(/left out because of hints │ \d+ MiB/);
    expect(read('demo.json')).toMatchObject({ migration: { status: 'completed' } });
  });

  it('shows what passes between the balloon and Linux’s driver, from the id to DONE', async () => {
    const trace = start('linux', 'trace', '--memory', MEMORY, '--json', 'trace.json');
    expect(await trace.ended).toBe(0);
    expect(trace.stdout).toMatch(
      /free_page_hint_cmd_id becomes 2[\s\S]*reads free_page_hint_cmd_id: 2[\s\S]*outbuf of 4 bytes: id 2[\s\S]*inbuf 0x[\s\S]*more ranges[\s\S]*0, the stop sign[\s\S]*becomes 1 \(DONE\)[\s\S]*destination .*reads free_page_hint_cmd_id: 1 \(DONE\)/,
    );
    const { lines } = read('trace.json') as { lines: { entry?: { what: string; state?: string } }[] };
    const ranges = lines.filter(({ entry }) => entry?.what === 'range');
    expect(ranges.length).toBeGreaterThan(10);
    expect(new Set(ranges.map(({ entry }) => entry!.state))).toEqual(new Set(['reporting']));
  });

  it('refuses a machine that has no room for its initrd', async () => {
    const args = ['send', '--vmm', 'v86', '--memory', '65MiB', '--to', '127.0.0.1:9'];
    const { code, stderr } = await runHere(terminals.folder, args);
    expect(stderr).toMatch(/a machine of 65 MiB: v86 takes whole MiB, \d+ to 2048, with this initrd/);
    expect(code).toBe(2);
  });
});
