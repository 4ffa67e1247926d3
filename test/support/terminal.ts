import { type ChildProcess, spawn } from 'node:child_process';
import { CLI } from './cli.js';

interface Waiting {
  readonly pattern: RegExp;
  readonly found: (match: RegExpExecArray) => void;
  readonly gone: (error: Error) => void;
}

/** Where a command is run. */
export interface TerminalOptions {
  /** Beside this process's own. */
  readonly env?: Readonly<Record<string, string>>;
  /** The network namespace. */
  readonly netns?: string;
  /** At a terminal (util-linux's `script`), not by pipes. */
  readonly tty?: boolean;
}

/** A lacuna that runs in a process of its own for a while, and what it says. */
export class Terminal {
  /** Both of its outputs, in the order in which they came. */
  text = '';
  stdout = '';
  /** How it ended: its exit code, or the signal. */
  readonly ended: Promise<number | NodeJS.Signals>;
  readonly #child: ChildProcess;
  #hasEnded = false;
  #waiting: Waiting[] = [];

  constructor(folder: string, args: readonly string[], { env, netns, tty = false }: TerminalOptions = {}) {
    const lacuna = [process.execPath, CLI, ...args];
    const [command, ...rest] = [
      ...(netns === undefined ? [] : ['ip', 'netns', 'exec', netns]),
      ...(tty ? ['script', '-qefc', lacuna.join(' '), '/dev/null'] : lacuna),
    ];
    const child = spawn(command!, rest, {
      cwd: folder,
      env: { ...process.env, NO_COLOR: '1', XDG_RUNTIME_DIR: folder, ...env },
      stdio: 'pipe',
    });
    child.stdin.on('error', () => {}); // it need not read
    this.#child = child;
    child.stdout.on('data', (chunk: Buffer) => {
      this.stdout += chunk.toString();
      this.#heard(chunk);
    });
    child.stderr.on('data', (chunk: Buffer) => this.#heard(chunk));
    this.ended = new Promise((resolve) => {
      child.on('close', (code, signal) => {
        this.#hasEnded = true;
        for (const { pattern, gone } of this.#waiting) {
          gone(this.#missing(pattern));
        }
        resolve(code ?? signal!);
      });
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Resolves when it has said something of that kind, now or before. Rejects if it ends without. */
  says(pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((found, gone) => {
      const match = pattern.exec(this.text);
      if (match !== null) {
        found(match);
      } else if (this.#hasEnded) {
        gone(this.#missing(pattern));
      } else {
        this.#waiting.push({ pattern, found, gone });
      }
    });
  }

  /** Types at it. */
  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** There is nothing more to type. */
  endInput(): void {
    this.#child.stdin?.end();
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Wherever it is, as a crash or the kernel would. */
  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.ended;
  }

  #heard(chunk: Buffer): void {
    this.text += chunk.toString();
    this.#waiting = this.#waiting.filter(({ pattern, found }) => {
      const match = pattern.exec(this.text);
      if (match !== null) {
        found(match);
      }
      return match === null;
    });
  }

  #missing(pattern: RegExp): Error {
    return new Error(`it ended, and never said ${pattern}; it said:\n${this.text}`);
  }
}
