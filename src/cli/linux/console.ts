import { LacunaError } from '../../errors.js';

/** The serial port of a v86 instance: what {@link GuestConsole} needs of it. */
export interface SerialPort {
  add_listener(event: 'serial0-output-byte', listener: (byte: number) => void): void;
  remove_listener(event: 'serial0-output-byte', listener: (byte: number) => void): void;
  serial0_send(text: string): void;
}

/** How long the console waits for what it expects. */
export interface Deadline {
  /** From now on; default two minutes, since an emulated guest is slow and a busy host makes it slower. */
  readonly deadlineMs?: number;
}

/** What the guest's shell says when it waits for a command. */
export const PROMPT = 'guest# ';

/** For a guest to answer, on a busy machine. */
export const GUEST_DEADLINE_MS = 120_000;
const ETX = '\x03';
/** So much of what the guest said last stands in the message of a deadline. */
const MOST_SHOWN = 400;

interface Expectation {
  readonly pattern: string | RegExp;
  readonly resolve: (text: string) => void;
}

/**
 * The guest's console on its serial port, for people and programs. What the guest prints is kept until something expects
 * it. It outlives an emulator: {@link attach} it to the one at the destination and a shell in mid-command goes on, with
 * what it has printed so far; in another process, give the new console {@link unread} of the old one.
 */
export class GuestConsole {
  #port: SerialPort | undefined;
  #unread: string;
  #expectation: Expectation | undefined;
  #commands = 0;
  readonly #decoder = new TextDecoder();
  readonly #bytes: number[] = [];
  readonly #listeners = new Set<(text: string) => void>();

  constructor(port?: SerialPort, unread = '') {
    this.#unread = unread;
    if (port !== undefined) {
      this.attach(port);
    }
  }

  /** What the guest has printed and nothing has expected yet. */
  get unread(): string {
    this.#flush();
    return this.#unread;
  }

  /** Takes what is {@link unread}: for whoever shows all of it, and expects nothing. */
  drain(): string {
    const text = this.unread;
    this.#unread = '';
    return text;
  }

  /** Listens to another emulator, and no longer to the one before. */
  attach(port: SerialPort): void {
    this.detach();
    this.#port = port;
    port.add_listener('serial0-output-byte', this.#onByte);
  }

  /** Leaves the emulator alone; what it printed so far stays here. */
  detach(): void {
    this.#flush();
    this.#port?.remove_listener('serial0-output-byte', this.#onByte);
    this.#port = undefined;
  }

  /** Calls `listener` with all text from now on, in pieces as the guest prints it. Returns what ends that. */
  onText(listener: (text: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Types text, as it is: at most 4 KiB at a time, which is what the guest's terminal has room for in a line. */
  send(text: string): void {
    if (this.#port === undefined) {
      throw new LacunaError('ILLEGAL_STATE', 'the console is attached to no emulator: call attach() first');
    }
    this.#port.serial0_send(text);
  }

  /** Types Ctrl-C. */
  interrupt(): void {
    this.send(ETX);
  }

  /**
   * Waits until the guest has printed `pattern`, and takes all text up to its end. One at a time.
   * Rejects with GUEST_FAILED if it has not by the deadline; the text stays unread then.
   */
  async expect(pattern: string | RegExp, { deadlineMs = GUEST_DEADLINE_MS }: Deadline = {}): Promise<string> {
    if (this.#expectation !== undefined) {
      throw new LacunaError(
        'ILLEGAL_STATE',
        `the console expects ${String(this.#expectation.pattern)} already`,
      );
    }
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        this.#expectation = { pattern, resolve };
        timer = setTimeout(() => {
          reject(
            new LacunaError(
              'GUEST_FAILED',
              `the guest has not printed ${JSON.stringify(String(pattern))} in ${deadlineMs} ms; its last words: ${JSON.stringify(this.#unread.slice(-MOST_SHOWN))}`,
            ),
          );
        }, deadlineMs);
        this.#meet();
      });
    } finally {
      clearTimeout(timer);
      this.#expectation = undefined;
    }
  }

  /** Waits for the shell's first prompt after a boot. */
  async booted(deadline?: Deadline): Promise<void> {
    await this.expect(PROMPT, deadline);
  }

  /**
   * Runs a command in the guest's shell, which has to be waiting for one. Resolves with what it printed, lines ending in \n
   * and without the last one's. Rejects with GUEST_FAILED if its exit status is not 0, or at the deadline.
   */
  run(command: string, deadline?: Deadline): Promise<string> {
    return this.finish(this.start(command), deadline);
  }

  /** The first half of {@link run}: types the command. Returns its name for {@link finish}, there or in another process. */
  start(command: string): string {
    this.#commands += 1;
    const name = `${Date.now().toString(36)}-${this.#commands}`;
    // The terminal echoes the line. Of the marks only what the guest makes of them is in one piece, so an echo is never
    // taken for one.
    const quoted = `'${command.replaceAll("'", `'\\''`)}'`;
    this.send(`echo "@BEG""IN ${name}"; eval ${quoted}; echo "@E""ND ${name} $?"\n`);
    return name;
  }

  /** The second half of {@link run}: waits for the end of a command. */
  async finish(name: string, deadline?: Deadline): Promise<string> {
    const text = await this.expect(new RegExp(`@END ${name} \\d+\\r?\\n[^]*?${PROMPT}`), deadline);
    const [, output, status] = new RegExp(`@BEGIN ${name}\\r?\\n([^]*?)@END ${name} (\\d+)`).exec(text) ?? [];
    if (output === undefined) {
      throw new LacunaError(
        'ILLEGAL_STATE',
        `the start of command ${name} is not in the text: give a new console what the old one had unread`,
      );
    }
    const lines = output.replaceAll('\r\n', '\n').replace(/\n$/, '');
    if (status !== '0') {
      throw new LacunaError('GUEST_FAILED', `a command ended with status ${status} in the guest: ${lines}`);
    }
    return lines;
  }

  readonly #onByte = (byte: number): void => {
    if (this.#bytes.length === 0) {
      // Once for all that the guest prints in one slice of its time.
      queueMicrotask(() => this.#flush());
    }
    this.#bytes.push(byte);
  };

  #flush(): void {
    if (this.#bytes.length === 0) {
      return;
    }
    const text = this.#decoder.decode(Uint8Array.from(this.#bytes), { stream: true });
    this.#bytes.length = 0;
    this.#unread += text;
    for (const listener of this.#listeners) {
      listener(text);
    }
    this.#meet();
  }

  #meet(): void {
    if (this.#expectation === undefined) {
      return;
    }
    const { pattern, resolve } = this.#expectation;
    const found = typeof pattern === 'string' ? this.#unread.indexOf(pattern) : this.#unread.search(pattern);
    if (found < 0) {
      return;
    }
    const length = typeof pattern === 'string' ? pattern.length : pattern.exec(this.#unread)![0].length;
    const text = this.#unread.slice(0, found + length);
    this.#unread = this.#unread.slice(found + length);
    this.#expectation = undefined;
    resolve(text);
  }
}
