import { type ChildProcess, spawn } from 'node:child_process';
import { CLI } from './cli.js';

interface Waiting {
  readonly pattern: RegExp;
  readonly found: (match: RegExpExecArray) => void;
  readonly gone: (error: Error) => void;
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

  /** `on`: the network namespace that it is run in. */
  constructor(
    folder: string,
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
    on?: string,
  ) {
    const within = on === undefined ? [] : ['ip', 'netns', 'exec', on];
    const [command, ...rest] = [...within, process.execPath, CLI, ...args];
    const child = spawn(command!, rest, {
      cwd: folder,
      env: { ...process.env, NO_COLOR: '1', XDG_RUNTIME_DIR: folder, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
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
