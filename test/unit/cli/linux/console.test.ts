import { beforeEach, describe, expect, it } from 'vitest';
import { GuestConsole, PROMPT, type SerialPort } from '../../../../src/cli/linux/console.js';

/** A guest's terminal: echoes what is typed, and its shell says what `answer` makes of a command. */
class FakeGuest implements SerialPort {
  readonly typed: string[] = [];
  readonly #listeners = new Set<(byte: number) => void>();

  add_listener(_: string, listener: (byte: number) => void): void {
    this.#listeners.add(listener);
  }

  remove_listener(_: string, listener: (byte: number) => void): void {
    this.#listeners.delete(listener);
  }

  serial0_send(text: string): void {
    this.typed.push(text);
    this.print(text.replaceAll('\n', '\r\n'));
  }

  print(text: string | Uint8Array): void {
    for (const byte of Buffer.from(text)) {
      for (const listener of this.#listeners) {
        listener(byte);
      }
    }
  }

  /** What a shell makes of the last line that was typed, `output` being what its command prints. */
  answer(output: string, status = 0): void {
    const [, name] = /@E""ND (\S+)/.exec(this.typed.at(-1)!)!;
    this.print(`@BEGIN ${name}\r\n${output}@END ${name} ${status}\r\n${PROMPT}`);
  }

  get isHeard(): boolean {
    return this.#listeners.size > 0;
  }
}

let guest: FakeGuest;
let shell: GuestConsole;

beforeEach(() => {
  guest = new FakeGuest();
  shell = new GuestConsole(guest);
});

const SOON = { deadlineMs: 5 };

describe('expect', () => {
  it('takes what came before it was called, and what comes after, up to the end of what it expects', async () => {
    guest.print('one two');
    expect(await shell.expect('one')).toBe('one');
    const third = shell.expect(/th.ee/);
    guest.print(' thr');
    guest.print('ee four');
    expect(await third).toBe(' two three');
    expect(shell.unread).toBe(' four');
  });

  it('gives up at its deadline with the guest’s last words, which stay there', async () => {
    guest.print('a kernel panic');
    await expect(shell.expect('prompt', SOON)).rejects.toMatchObject({
      code: 'GUEST_FAILED',
      message: expect.stringMatching(/"prompt" in 5 ms.*a kernel panic/) as string,
    });
    expect(await shell.expect('panic')).toBe('a kernel panic');
  });

  it('waits for one thing at a time', async () => {
    const first = shell.expect('first');
    await expect(shell.expect('second')).rejects.toMatchObject({ code: 'ILLEGAL_STATE' });
    guest.print('first');
    await first;
  });

  it('puts characters together that come in pieces', async () => {
    const bytes = Buffer.from('gästehaus');
    guest.print(bytes.subarray(0, 2));
    await Promise.resolve();
    guest.print(bytes.subarray(2));
    expect(await shell.expect('haus')).toBe('gästehaus');
  });
});

it('tells listeners what is printed, until they have heard enough', async () => {
  let heard = '';
  const end = shell.onText((text) => {
    heard += text;
  });
  guest.print('some');
  await Promise.resolve();
  end();
  guest.print('more');
  await Promise.resolve();
  expect(heard).toBe('some');
});

describe('run', () => {
  it('resolves with what a command printed, and not with the terminal’s echo of it', async () => {
    const output = shell.run("echo 'a b'; date");
    expect(guest.typed[0]).toContain(`eval 'echo '\\''a b'\\''; date'`);
    guest.answer('a b\r\ntoday\r\n');
    expect(await output).toBe('a b\ntoday');
    const nothing = shell.run('true');
    guest.answer('');
    expect(await nothing).toBe('');
  });

  it('leaves the shell at its prompt, and no text of a command to the next', async () => {
    for (const text of ['first', 'second']) {
      const output = shell.run('command');
      guest.answer(`${text}\r\n`);
      expect(await output).toBe(text);
      expect(shell.unread).toBe('');
    }
  });

  it('fails with what a command that failed has printed', async () => {
    const output = shell.run('ls nowhere');
    guest.answer('no such file\r\n', 1);
    await expect(output).rejects.toMatchObject({
      code: 'GUEST_FAILED',
      message: expect.stringMatching(/status 1 .*no such file/) as string,
    });
  });
});

describe('a guest that moves', () => {
  it('finishes its command at the destination, on the same console', async () => {
    const output = shell.run('count');
    const name = /@E""ND (\S+)/.exec(guest.typed[0]!)![1]!;
    guest.print(`@BEGIN ${name}\r\none\r\nt`);
    const destination = new FakeGuest();
    shell.attach(destination);
    expect(guest.isHeard).toBe(false);
    destination.print(`wo\r\n@END ${name} 0\r\n${PROMPT}`);
    expect(await output).toBe('one\ntwo');
    shell.send('more\n');
    expect(destination.typed).toEqual(['more\n']);
  });

  it('finishes its command in another process, on a console that begins with what was unread', async () => {
    const name = shell.start('count');
    guest.print(`@BEGIN ${name}\r\none\r\n`);
    shell.detach();
    const destination = new FakeGuest();
    const other = new GuestConsole(destination, shell.unread);
    destination.print(`two\r\n@END ${name} 0\r\n${PROMPT}`);
    expect(await other.finish(name)).toBe('one\ntwo');
    expect(() => shell.send('x')).toThrow(/attached to no emulator/);
  });

  it('is not taken for finished if the beginning is nowhere', async () => {
    const name = shell.start('count');
    const other = new GuestConsole(guest);
    guest.print(`two\r\n@END ${name} 0\r\n${PROMPT}`);
    await expect(other.finish(name)).rejects.toMatchObject({ code: 'ILLEGAL_STATE' });
  });
});
