import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { LacunaError } from '../../errors.js';
import { GuestConsole } from './console.js';

/** A `lacuna receive --vmm v86` of its own, whose standard input and output are the guest's console. */
export class DestinationProcess {
  /** HOST:PORT, once it listens. */
  readonly listening: Promise<string>;
  /** The guest's, once it runs there. */
  readonly console: GuestConsole;
  readonly #child;
  readonly #closed: Promise<void>;

  constructor(signal: AbortSignal) {
    const main = fileURLToPath(new URL('../main.js', import.meta.url));
    this.#child = spawn(
      process.execPath,
      [main, 'receive', '--vmm', 'v86', '--listen', '127.0.0.1:0', '--once'],
      { stdio: ['pipe', 'pipe', 'pipe'], signal, env: { ...process.env, NO_COLOR: '1' } },
    );
    this.#closed = new Promise((resolve) => {
      this.#child.once('close', () => resolve()).on('error', () => {}); // of the signal
    });
    const said: string[] = [];
    this.listening = new Promise((resolve, reject) => {
      createInterface(this.#child.stderr).on('line', (line) => {
        said.push(line);
        const at = /listening at (\S+)/.exec(line)?.[1];
        if (at !== undefined) {
          resolve(at);
        }
      });
      this.#child.once('close', () =>
        reject(new LacunaError('DESTINATION_FAILED', `the destination's process ended: ${said.join('; ')}`)),
      );
    });
    this.listening.catch(() => {}); // whoever waits for it is told
    const { stdin, stdout } = this.#child;
    this.console = new GuestConsole({
      add_listener: (_, listener) => {
        stdout.on('data', (bytes: Buffer) => {
          for (const byte of bytes) {
            listener(byte);
          }
        });
      },
      remove_listener: () => stdout.removeAllListeners('data'),
      serial0_send: (text) => stdin.write(text),
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Ends it, and the guest with it. */
  async close(): Promise<void> {
    this.#child.stdin.end();
    this.#child.kill('SIGTERM');
    await this.#closed;
  }
}
