import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BenchReport } from '../../dist/src/index.js';
import { parseBenchReport } from '../../src/report/parse.js';
import { runHere } from '../support/cli.js';
import { useTerminals } from '../support/terminals.js';

const CERTIFICATES = resolve('test/support/certificates');
const SMALL = ['--memory', '32MiB'];

const terminals = useTerminals('lacuna-send-');
const { start, startReceive } = terminals;

function certificates(name: string): string[] {
  return [
    ...['--tls-cert', join(CERTIFICATES, `${name}.pem`)],
    ...['--tls-key', join(CERTIFICATES, `${name}.key`)],
    ...['--tls-ca', join(CERTIFICATES, 'authority.pem')],
  ];
}

function sharedKey(name: string, byte: string, mode = 0o600): string {
  const file = join(terminals.folder, name);
  writeFileSync(file, `tests:${byte.repeat(32)}\n`);
  chmodSync(file, mode);
  return file;
}

function json<T>(name: string): T {
  return JSON.parse(readFileSync(join(terminals.folder, name), 'utf8')) as T;
}

describe('two commands', () => {
  it('move a guest, and both report on it', async () => {
    const { receiver, to } = await startReceive('--once', '--json', 'received.json');
    const dialect = ['--dialect', 'virtio'];
    const sender = start(
      'send',
      '--to',
      to,
      ...SMALL,
      ...dialect,
      '--json',
      'sent.json',
      '--html',
      'sent.html',
    );
    expect(await sender.ended, sender.text).toBe(0);
    expect(await receiver.ended, receiver.text).toBe(0);
    expect(sender.stdout).toMatch(
      /synthetic-32m runs at 127\.0\.0\.1:\d+ since [\d:.]+ UTC: moved in .* over 1 channel/,
    );
    expect(sender.stdout).toMatch(/│ synthetic-32m │.*│ both .*│ there/); // whole or not is for the receiver to say
    expect(receiver.text).toMatch(/synthetic-32m: self-check passed, \d+ pages/);
    expect(sender.text + receiver.text).not.toContain('\u001b'); // no colours without a terminal

    const report = json<BenchReport>('sent.json');
    expect(parseBenchReport(report).runs).toHaveLength(1); // `lacuna report` reads it
    const [run] = report.runs;
    expect(run).toMatchObject({
      status: 'completed',
      error: null,
      dialect: 'virtio',
      transport: 'tcp',
      link: 'unlimited',
      verified: { pagesCompared: 0, guestSelfCheck: 'unseen' },
    });
    expect(run!.ram.skipped).toBeGreaterThan(1000);
    expect(readFileSync(join(terminals.folder, 'sent.html'), 'utf8')).toContain('synthetic-32m');

    const { guests } = json<{ guests: Record<string, unknown>[] }>('received.json');
    expect(guests).toHaveLength(1);
    const [guest] = guests;
    expect(guest).toMatchObject({
      guest: 'synthetic-32m',
      memoryBytes: 32 * 1024 * 1024,
      channels: 1,
      outcome: 'runs',
      reason: null,
      linksLost: 0,
      rounds: run!.rounds.length,
      selfCheck: { passed: true, badPages: 0 },
      workload: 'idle:50',
    });
    // What was sent is what came: pages by both ends' accounts, and their contents with a header to each run.
    expect(guest!['pages']).toBe(run!.ram.normal);
    expect(guest!['zeroPages']).toBe(run!.ram.duplicate);
    expect(guest!['bytes']).toBeGreaterThan(run!.ram['normal-bytes']);
    expect(guest!['bytes']).toBeLessThanOrEqual(run!.ram.transferred);
  });

  it('with a pre-shared key, over two channels, while metrics are served; further guests come while one runs', async () => {
    const key = sharedKey('key', '5a');
    const metrics = ['--metrics', '127.0.0.1:0'];
    const { receiver, to } = await startReceive('--tls-psk', key, ...metrics, '--json', 'received.json');
    const [, receiverMetrics] = await receiver.says(/metrics at (http\S+)/);
    const args = ['send', '--to', to, '--tls-psk', key, '--channels', '2', ...SMALL];
    const first = start(
      ...args,
      ...metrics,
      '--max-bandwidth',
      '100mbit',
      '--no-hints',
      '--json',
      'sent.json',
    );
    const [, senderMetrics] = await first.says(/metrics at (http\S+)/);
    await first.says(/round 1: 8192 pages/);
    const during = await (await fetch(senderMetrics!)).text();
    expect(during).toMatch(/lacuna_migrations_running\{phase="[a-z-]+"\} 1/);
    expect(await first.ended, first.text).toBe(0);
    await receiver.says(/synthetic-32m: self-check passed/);
    const second = start(...args, '--seed', '2', '--compress', 'on');
    expect(await second.ended, second.text).toBe(0);
    expect(second.stdout).toContain('over 2 channels');
    await receiver.says(/(self-check passed[\s\S]*){2}/);
    const scraped = await (await fetch(receiverMetrics!)).text();
    expect(scraped).toContain('lacuna_incoming_migrations_total{outcome="started"} 2');
    expect(json<BenchReport>('sent.json').runs[0]).toMatchObject({
      transport: 'tls',
      baseline: 'zero',
      link: '100mbit',
    });
    receiver.signal('SIGTERM');
    expect(await receiver.ended, receiver.text).toBe(0);
    expect(receiver.text.match(/it ends with this command/g)).toHaveLength(2);
    const { guests } = json<{ guests: { selfCheck: unknown; pagesWritten: number }[] }>('received.json');
    expect(guests.map(({ selfCheck }) => selfCheck)).toEqual([
      expect.objectContaining({ passed: true }),
      expect.objectContaining({ passed: true }),
    ]);
    expect(guests[0]!.pagesWritten).toBeGreaterThan(0); // it did what it is there for
  });

  it('with certificates; who has none, or another key, gets in words that he is not let in, and nothing is booted', async () => {
    const { receiver, to } = await startReceive('--once', ...certificates('destination'));
    const stranger = start('send', '--to', to, ...SMALL);
    expect(await stranger.ended).toBe(1);
    expect(stranger.text).toContain('TLS');
    expect(stranger.text).not.toContain('booting');
    const keyed = start('send', '--to', to, ...SMALL, '--tls-psk', sharedKey('key', '5a'));
    expect(await keyed.ended).toBe(1);
    await receiver.says(/refused[\s\S]*refused/);
    const sender = start('send', '--to', to, ...SMALL, ...certificates('source'));
    expect(await sender.ended, sender.text).toBe(0);
    expect(await receiver.ended, receiver.text).toBe(0);
  });

  it('a guest that is too large is refused, in words and before it is booted', async () => {
    const { receiver, to } = await startReceive('--max-memory', '16MiB', '--max-channels', '1');
    const large = start('send', '--to', to, ...SMALL);
    expect(await large.ended).toBe(1);
    expect(large.text).toMatch(/32 MiB; this destination takes 16 MiB/);
    const wide = start('send', '--to', to, '--memory', '16MiB', '--channels', '2');
    expect(await wide.ended).toBe(1);
    expect(wide.text).toMatch(/2 streams; this destination takes 1/);
    expect(large.text + wide.text).not.toContain('booting');
    receiver.signal('SIGINT');
    expect(await receiver.ended).toBe(0);
  });
});

describe('Ctrl-C', () => {
  /** So slow that it lasts until somebody ends it. */
  const SLOWLY = [...SMALL, '--no-hints', '--no-zero-detection', '--max-bandwidth', '8mbit'];

  it('at the source calls the migration off: the guest goes on there, whole, and ends with the command', async () => {
    const { receiver, to } = await startReceive('--once');
    const sender = start('send', '--to', to, ...SLOWLY);
    await sender.says(/round 1/);
    sender.signal('SIGINT');
    expect(await sender.ended).toBe(130);
    expect(sender.text).toMatch(
      /cancelled[\s\S]*synthetic-32m goes on here; self-check: passed.*ends with this command/,
    );
    expect(await receiver.ended).toBe(1);
    expect(receiver.text).toMatch(
      /discarded: synthetic-32m does not run here \(its source has called it off\)/,
    );
  });

  it('at the destination discards what has come: the guest goes on at the source, with --stay until Ctrl-C', async () => {
    const { receiver, to } = await startReceive();
    const sender = start('send', '--to', to, ...SLOWLY, '--stay', '--recovery-timeout', '0');
    await sender.says(/round 1/);
    receiver.signal('SIGINT');
    expect(await receiver.ended).toBe(0);
    expect(receiver.text).toMatch(/discarded: synthetic-32m does not run here/);
    await sender.says(/goes on here; self-check: passed\. It runs in this process \(\d+\) until Ctrl-C/);
    sender.signal('SIGINT');
    expect(await sender.ended).toBe(1);
  });
});

describe('wrong usage ends with exit code 2 and says what to do', () => {
  it.each([
    [['send'], /--to HOST:PORT is missing/],
    [['send', '--to', 'nowhere'], /There is no port/],
    [['send', '--to', ':7000', '--guest', 'no-such-guest'], /no guest "no-such-guest".*build-2g/],
    [['send', '--to', ':7000', '--channels', '17'], /from 1 to 16/],
    [['send', '--to', ':7000', '--workload', 'often'], /one of halt, idle/],
    [['send', '--to', ':7000', '--tls-cert', 'x.pem'], /belong together/],
    [['send', '--to', ':7000', '--tls-name', 'host'], /--tls-name is of a certificate/],
    [['send', '--to', ':7000', '--tls-psk', 'missing'], /--tls-psk missing: ENOENT/],
    [['send', '--to', ':7000', '--tls-psk', 'open'], /chmod 600/],
    [['send', '--to', ':7000', '--tls-psk', 'short'], /16 to 64 bytes/],
    [['send', '--to', ':7000', '--tls-psk', 'words'], /one line, an identity, a colon and the key in hex/],
    [['send', '--to', ':7000', '--json', 'no/such/folder.json'], /can't be written/],
    [['send', '--resume', 'that-one'], /32 hexadecimal digits/],
    [['send', '--resume', '--override'], /--resume ID --override/],
    [['send', '--to', ':7000', '--override'], /--resume ID --override/],
    [['send', '--resume', 'f'.repeat(32), '--to', ':7000'], /cannot be used with/],
    [['receive', '--listen', '0.0.0.0:0'], /TLS|insecure/],
    [['receive', '--listen', '127.0.0.1'], /There is no port/],
    [['receive', '--keep', 'long'], /A time in seconds/],
    [['receive', '--max-memory', '1'], /at least 8MiB/],
    [['receive', '--tls-psk', 'open'], /chmod 600/],
  ])('%j', async (args, message) => {
    sharedKey('open', '5a', 0o644);
    writeFileSync(join(terminals.folder, 'short'), 'tests:5a5a\n', { mode: 0o600 });
    writeFileSync(join(terminals.folder, 'words'), 'secret\n', { mode: 0o600 });
    const { code, stdout, stderr } = await runHere(terminals.folder, args);
    expect(stderr).toMatch(message);
    expect(stdout).toBe('');
    expect(code).toBe(2);
  });

  it('nobody listens there: it shows before anything is booted', async () => {
    const { code, stderr } = await runHere(terminals.folder, ['send', '--to', '127.0.0.1:1', ...SMALL]);
    expect(stderr).toMatch(/127\.0\.0\.1:1/);
    expect(stderr).not.toContain('booting');
    expect(code).toBe(1);
  });

  it('helps, with examples and exit codes', async () => {
    const send = await runHere(terminals.folder, ['send', '--help']);
    expect(send.stdout).toMatch(
      /--override.*[\s\S]*does not run at the destination, and never will[\s\S]*Exit codes/,
    );
    const receive = await runHere(terminals.folder, ['receive', '--help']);
    expect(receive.stdout).toMatch(/--insecure[\s\S]*Examples:[\s\S]*Exit codes/);
    expect([send.code, receive.code]).toEqual([0, 0]);
  });
});
