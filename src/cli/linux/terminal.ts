import type { ReadStream } from 'node:tty';
import type { GuestConsole } from './console.js';

/** Ctrl-], as telnet and virsh have it: what follows is for lacuna, not for the guest. */
const ESCAPE = '\x1d';

/** What may follow: a key, and what it does. */
export type EscapeKeys = Readonly<Record<string, () => void>>;

/**
 * Connects this process's standard input and output with a guest's console, until the returned function is called. At a
 * terminal every key is the guest's, Ctrl-C too; Ctrl-] and then a key of `keys` is for lacuna. What comes by a pipe
 * is typed as it is.
 */
export function attachTerminal(console: GuestConsole, keys: EscapeKeys): () => void {
  const { stdin, stdout } = process;
  const terminal = stdin.isTTY ? (stdin as ReadStream) : undefined;
  const show = (): void => {
    stdout.write(console.drain());
  };
  show(); // what the guest has said before anybody listened
  const endOutput = console.onText(show);
  let isEscaped = false;
  const onInput = (chunk: Buffer): void => {
    let typed = '';
    for (const key of chunk.toString('utf8')) {
      if (isEscaped) {
        isEscaped = false;
        keys[key.toLowerCase()]?.();
      } else if (key === ESCAPE && terminal !== undefined) {
        isEscaped = true;
      } else {
        typed += key;
      }
    }
    if (typed !== '') {
      console.send(typed);
    }
  };
  terminal?.setRawMode(true);
  stdin.on('data', onInput);
  return () => {
    endOutput();
    stdin.off('data', onInput).pause();
    terminal?.setRawMode(false);
  };
}
