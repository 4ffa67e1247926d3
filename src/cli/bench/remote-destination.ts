import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { LacunaError } from '../../errors.js';
import type { AnswerMessage, CallMessage, CallName, DestinationCalls } from './destination-service.js';

/** How a {@link RemoteDestination} is made; nothing of it has to be said. */
export interface RemoteOptions {
  /** What the process runs: `destination-process.ts` by default. */
  readonly entry?: URL;
  /** How long a call may take that says nothing of its own. 60 s by default. */
  readonly deadlineMs?: number;
}

/** How long the process is given to end by itself. */
const STOP_MS = 5000;
const DEADLINE_MS = 60_000;
/** Of what the process has written to its standard error, what goes into a message. */
const TAIL_CHARACTERS = 2000;

/** A call that was not answered yet. */
interface Pending {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: LacunaError) => void;
  readonly timer: NodeJS.Timeout;
}

/**
 * A destination in a process of its own, for benchmarks. Whatever becomes of this process, that one ends with it: the
 * channel between the two closes.
 */
export class RemoteDestination {
  readonly #child: ChildProcess;
  readonly #deadlineMs: number;
  readonly #pending = new Map<number, Pending>();
  readonly #ended: Promise<void>;
  #failure: LacunaError | undefined;
  #stderr = '';
  #lastId = 0;

  constructor({
    entry = new URL('./destination-process.js', import.meta.url),
    deadlineMs = DEADLINE_MS,
  }: RemoteOptions = {}) {
    this.#deadlineMs = deadlineMs;
    this.#child = fork(fileURLToPath(entry), [], {
      serialization: 'advanced', // bytes as bytes
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
    });
    this.#child.on('message', (message: AnswerMessage) => this.#answered(message));
    this.#ended = this.#follow();
  }

  /** Resolves when the process has ended. Not by its `close` event: Node has none for a child that was disconnected. */
  #follow(): Promise<void> {
    const { stderr } = this.#child;
    const silent = new Promise<void>((done) => {
      stderr?.setEncoding('utf8').on('data', (text: string) => {
        this.#stderr = (this.#stderr + text).slice(-TAIL_CHARACTERS);
      });
      stderr?.on('close', done);
    });
    return new Promise((done) => {
      this.#child.on('error', (cause) => {
        if (this.#child.pid === undefined) {
          this.#fail(
            new LacunaError('DESTINATION_FAILED', `no process to receive: ${cause.message}`, { cause }),
          );
          done();
        }
      });
      this.#child.on('exit', (code, signal) => {
        const how = signal === null ? `with exit code ${code}` : `by ${signal}`;
        void silent.then(() => {
          const said = this.#stderr.trim();
          this.#fail(
            new LacunaError(
              'DESTINATION_FAILED',
              `the process that receives has ended ${how}${said === '' ? '' : `; it said: ${said}`}`,
            ),
          );
          done();
        });
      });
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /**
   * Has the process do something. Rejects with what it says, or DESTINATION_FAILED if it ends first, or DESTINATION_SILENT
   * after `deadlineMs`: then the process is ended, for nobody knows what it is at.
   */
  call<Name extends CallName>(
    name: Name,
    ask: DestinationCalls[Name]['ask'],
    deadlineMs: number = this.#deadlineMs,
  ): Promise<DestinationCalls[Name]['answer']> {
    if (this.#failure !== undefined) {
      return Promise.reject(this.#failure);
    }
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(
          new LacunaError(
            'DESTINATION_SILENT',
            `the process that receives has not answered "${name}" within ${deadlineMs} ms`,
          ),
        );
        this.#child.kill('SIGKILL');
      }, deadlineMs);
      this.#pending.set(id, { resolve: resolve as (answer: unknown) => void, reject, timer });
      // If it can't be sent the process has ended, or is about to: its end says why.
      this.#child.send({ id, name, ask } satisfies CallMessage, () => undefined);
    });
  }

  /** Ends the process, and whatever runs there. Resolves when it has ended. */
  async stop(): Promise<void> {
    this.#fail(new LacunaError('ILLEGAL_STATE', 'the process that received was told to end'));
    if (this.#child.connected) {
      this.#child.disconnect();
    }
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    await this.#ended;
    clearTimeout(timer);
  }

  #answered(message: AnswerMessage): void {
    const pending = this.#pending.get(message.id);
    if (pending !== undefined) {
      this.#pending.delete(message.id);
      clearTimeout(pending.timer);
      if ('error' in message) {
        pending.reject(new LacunaError(message.error.code, message.error.message));
      } else {
        pending.resolve(message.answer);
      }
    }
  }

  /** Nothing more will be answered. The first reason counts. */
  #fail(error: LacunaError): void {
    this.#failure ??= error;
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(this.#failure);
    }
    this.#pending.clear();
  }
}
