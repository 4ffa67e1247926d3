import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { FrameType } from '../../src/wire/frames.js';
import { LinkProxy } from '../support/link-proxy.js';
import type { Terminal } from '../support/terminal.js';
import { useTerminals } from '../support/terminals.js';

/*
 * docs/HANDOVER.md with real processes: who dies or is cut, and when. The moments are those of the frames on the wire: a
 * proxy holds one back, and whatever is killed then is killed just there.
 */

const SMALL = ['--memory', '32MiB'];

let link: LinkProxy;
let receiver: Terminal;
afterEach(() => link.close());
const terminals = useTerminals('lacuna-ho-');
const { start, startReceive } = terminals;

/** A receiver, a link to it, and a sender over that; `arrange` has the link in its hand before anything is sent. */
async function passage(
  receiveArgs: readonly string[],
  sendArgs: readonly string[],
  arrange: (proxy: LinkProxy) => Promise<void> | undefined,
): Promise<{ sender: Terminal; held: Promise<void> | undefined }> {
  const started = await startReceive(...receiveArgs);
  receiver = started.receiver;
  link = await LinkProxy.open(started.port);
  const held = arrange(link);
  return { sender: start('send', '--to', link.address, ...SMALL, ...sendArgs), held };
}

async function migrationOf(sender: Terminal): Promise<string> {
  const [, id] = await sender.says(/migration ([0-9a-f]{32})/);
  return id!;
}

async function resume(...args: string[]): Promise<{ code: number | NodeJS.Signals; text: string }> {
  const terminal = start('send', '--resume', ...args);
  return { code: await terminal.ended, text: terminal.text };
}

const holding =
  (type: (typeof FrameType)[keyof typeof FrameType]) =>
  (proxy: LinkProxy): Promise<void> =>
    proxy.hold(type);

describe('the sender is killed', () => {
  it.each([
    ['before ready', FrameType.finish],
    ['between ready and the commit', FrameType.ready],
    ['after the commit, which does not arrive', FrameType.commit],
  ])('%s: the guest died with it, and the receiver discards what it has', async (_when, frame) => {
    const { sender, held } = await passage(['--keep', '0.5'], [], holding(frame));
    await held;
    await sender.kill();
    await receiver.says(/lost: .*kept for 500 ms/);
    await receiver.says(/discarded: synthetic-32m does not run here \(.*did not come back within 500 ms\)/);
    expect(receiver.text).not.toContain('runs here since');
    const next = start('send', '--to', link.address, '--memory', '16MiB');
    expect(await next.ended, next.text).toBe(0);
    await receiver.says(/synthetic-16m: self-check passed/);
  });

  it('after the commit has arrived: the guest runs at the receiver', async () => {
    const { sender, held } = await passage(['--once'], [], holding(FrameType.started));
    await held;
    await sender.kill();
    expect(await receiver.ended, receiver.text).toBe(0);
    expect(receiver.text).toMatch(/synthetic-32m: self-check passed/);
  });
});

describe('the receiver is killed', () => {
  it.each([
    ['before ready', FrameType.finish],
    ['between ready and the commit', FrameType.ready],
  ])('%s: the guest goes on at the source', async (_when, frame) => {
    const { sender, held } = await passage(
      [],
      ['--recovery-timeout', '0.5', '--json', 'sent.json'],
      holding(frame),
    );
    await held;
    await receiver.kill();
    expect(await sender.ended, sender.text).toBe(1);
    expect(sender.text).toMatch(/the link broke: .*it is tried again/);
    expect(sender.text).toMatch(
      /LINK_LOST.*not restored within 500 ms[\s\S]*goes on here; self-check: passed/,
    );
    const [run] = (
      JSON.parse(readFileSync(join(terminals.folder, 'sent.json'), 'utf8')) as { runs: object[] }
    ).runs;
    expect(run).toMatchObject({
      status: 'failed',
      error: { code: 'LINK_LOST' },
      verified: { guestSelfCheck: 'passed' },
    });
  });

  it('and another takes its place before the commit: all of the guest goes again, to that one', async () => {
    const { sender, held } = await passage([], [], holding(FrameType.ready));
    await held;
    const other = await startReceive('--once');
    link.target = other.port;
    await receiver.kill();
    expect(await sender.ended, sender.text).toBe(0);
    expect(sender.text).toMatch(/a destination that knows nothing of the guest: all of it goes again/);
    expect(await other.receiver.ended, other.receiver.text).toBe(0);
    expect(other.receiver.text).toMatch(/synthetic-32m: self-check passed/);
  });

  it('after the commit: the sender keeps the guest stopped; there is no answer, and only an override lets it go on', async () => {
    const { sender, held } = await passage([], [], holding(FrameType.commit));
    const id = await migrationOf(sender);
    await held;
    await receiver.kill();
    await sender.says(/the link broke/);

    const asked = await resume(id, '--wait', '0.5');
    expect(asked.code).toBe(3);
    expect(asked.text).toMatch(/no answer from 127\.0\.0\.1:\d+ within 500 ms.*may run there/);
    expect(asked.text).toContain(`lacuna send --resume ${id} --override`);
    // Somebody else at that address knows nothing of it, and that is not "not started".
    const other = await startReceive();
    link.target = other.port;
    await sender.says(/knows nothing of this migration/);
    const again = await resume(id, '--wait', '0.5');
    expect(again.code).toBe(3);
    expect(sender.text).not.toContain('goes on here');

    const overridden = await resume(id, '--override');
    expect(overridden.code, overridden.text).toBe(0);
    expect(overridden.text).toMatch(/synthetic-32m goes on here, in process \d+/);
    await sender.says(
      /an operator's word[\s\S]*synthetic-32m goes on here; self-check: passed.*until Ctrl-C/,
    );
    sender.signal('SIGINT');
    expect(await sender.ended).toBe(3);
  });

  it('after it has started the guest: Ctrl-C explains, and again gives the guest up', async () => {
    const { sender, held } = await passage([], [], holding(FrameType.started));
    const id = await migrationOf(sender);
    await held;
    await receiver.says(/synthetic-32m: self-check passed/);
    await receiver.kill();
    await sender.says(/the link broke/);
    sender.signal('SIGINT');
    await sender.says(/can't be called off from here[\s\S]*Ctrl-C again/);
    expect((await resume()).text).toMatch(new RegExp(`${id}  process ${sender.pid}, .*was not answered`));
    sender.signal('SIGINT');
    expect(await sender.ended).toBe(3);
    expect(sender.text).toMatch(/synthetic-32m is lost here.*may run at 127\.0\.0\.1/);
    expect(readdirSync(join(terminals.folder, 'lacuna'))).toEqual([]); // its socket went with it
  });
});

describe('the link is cut', () => {
  it('in the middle of the data: it is made again, what had arrived counts, and the guest arrives', async () => {
    const { sender, held } = await passage(
      ['--once', '--json', 'received.json'],
      ['--no-hints', '--no-zero-detection', '--channels', '2'],
      (proxy) => proxy.cutAfter(20 * 1024 * 1024),
    );
    await held;
    expect(await sender.ended, sender.text).toBe(0);
    expect(sender.text).toMatch(
      /the link broke[\s\S]*the link is there again, and what had arrived is still there/,
    );
    expect(await receiver.ended, receiver.text).toBe(0);
    expect(receiver.text).toMatch(/lost: [\s\S]*restored: [\s\S]*self-check passed/);
    const { guests } = JSON.parse(readFileSync(join(terminals.folder, 'received.json'), 'utf8')) as {
      guests: object[];
    };
    expect(guests).toEqual([expect.objectContaining({ linksLost: 1, outcome: 'runs' })]);
  });

  it('between ready and the commit: the guest goes on at the source meanwhile, and arrives in the end', async () => {
    const { sender, held } = await passage(['--once'], [], holding(FrameType.ready));
    await held;
    link.cut();
    expect(await sender.ended, sender.text).toBe(0);
    expect(sender.text.match(/the guest is stopped/g)).toHaveLength(2);
    expect(await receiver.ended, receiver.text).toBe(0);
  });

  it('after the commit: the destination is asked again, and answers', async () => {
    const { sender, held } = await passage([], [], holding(FrameType.started));
    await held;
    link.cut();
    expect(await sender.ended, sender.text).toBe(0);
    expect(sender.stdout).toMatch(/synthetic-32m runs at/);
    await receiver.says(/synthetic-32m: self-check passed/);
    await receiver.says(/answered: the guest was started/);
  });

  it('before the commit arrives: an operator has it voided, and the guest goes on at the source', async () => {
    const { sender, held } = await passage([], [], holding(FrameType.commit));
    const id = await migrationOf(sender);
    await held;
    link.refusing = true;
    link.cut();
    const asked = await resume(id, '--wait', '0.1');
    expect(asked.code, asked.text).toBe(3);
    link.refusing = false;
    await sender.says(/did not start the guest[\s\S]*goes on here; self-check: passed.*until Ctrl-C/);
    expect(receiver.text).not.toContain('runs here since');
    const there = await resume(id);
    expect(there.code, there.text).toBe(0);
    expect(there.text).toMatch(/synthetic-32m goes on here, in process \d+/);
    sender.signal('SIGINT');
    expect(await sender.ended).toBe(1);
  });
});

describe('lacuna send --resume', () => {
  it('a migration that has not been committed is left alone; what the dead have left behind is cleared away', async () => {
    const { sender } = await passage([], ['--no-hints', '--max-bandwidth', '8mbit'], () => undefined);
    const id = await migrationOf(sender);
    await sender.says(/round 1/);
    const early = await resume(id, '--override');
    expect(early.code).toBe(1);
    expect(early.text).toMatch(/the commit has not left\. There is nothing to resume/);
    expect((await resume()).text).toMatch(new RegExp(`${id}  process ${sender.pid}, .*on its way to`));
    await sender.kill();
    expect(existsSync(join(terminals.folder, 'lacuna', `${id}.sock`))).toBe(true);
    const late = await resume(id);
    expect(late.code).toBe(1);
    expect(late.text).toContain(`no process on this machine sends ${id}`);
    expect(readdirSync(join(terminals.folder, 'lacuna'))).toEqual([]);
  });

  it('what answers at a socket and is no lacuna is told apart, within a bound', async () => {
    link = await LinkProxy.open(1);
    mkdirSync(join(terminals.folder, 'lacuna'), { mode: 0o700 });
    const id = 'a'.repeat(32);
    const impostor = createServer((socket) => {
      socket.on('error', () => {});
      socket.write('x'.repeat(1_000_000));
    });
    await new Promise<void>((resolve) => {
      impostor.listen(join(terminals.folder, 'lacuna', `${id}.sock`), resolve);
    });
    const { code, text } = await resume(id);
    impostor.close();
    expect(code).toBe(1);
    expect(text).toMatch(/is there and does not answer: more than \d+ bytes/);
  });
});
