import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import pc from 'picocolors';
import { LacunaError } from '../../errors.js';
import { MIB } from '../../memory/page.js';
import { thisMachine } from '../../report/machine.js';
import { ExitCode } from '../bench/bench.js';
import { checkWritable, writeReport } from '../report-file.js';
import { parseEndpoint } from '../units.js';
import { GuestConsole } from './console.js';
import type { LinuxImage } from './image/linux-image.js';
import type { LinuxMachine } from './machine.js';
import { Move } from './move.js';
import { moveTable } from './move-table.js';
import { startMachine } from './snapshot.js';

/** What `lacuna linux` was asked for. */
export interface DemoRequest {
  readonly image: LinuxImage;
  readonly memoryBytes: number;
  readonly hints: boolean;
  /** Boot, although a booted machine is in the cache. */
  readonly fresh: boolean;
  readonly json: string | undefined;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** What the counter prints. */
const COUNT = /counter (\d+) uptime ([\d.]+)/;
/** Lines of the counter that are shown at either end. */
const LINES_SHOWN = 8;
/** The file that is checked at the destination. */
const CHECKSUM_MIB = 8;
/** Of the memory that is free, what is filled and freed again. */
const OLD_DATA_SHARE = 0.75;

/**
 * Starts Linux here, moves it to another process of this machine while it counts, and says what that came to. Returns the
 * exit code: 1 if the guest did not arrive, or not whole.
 */
export async function demo(request: DemoRequest, signal: AbortSignal): Promise<number> {
  checkWritable(request.json);
  const { image, memoryBytes, hints, fresh } = request;
  say(`Linux ${image.kernelVersion} in v86, ${memoryBytes / MIB} MiB, hints ${hints ? 'on' : 'off'}`);
  const machine = await startMachine({ image, memoryBytes, fresh, log: (line) => say(pc.dim(line)) });
  const destination = new DestinationProcess(signal);
  try {
    return await new Demo(request, machine, destination, signal).run();
  } finally {
    await destination.close();
    await machine.close();
  }
}

class Demo {
  readonly #request: DemoRequest;
  readonly #machine: LinuxMachine;
  readonly #destination: DestinationProcess;
  readonly #signal: AbortSignal;

  constructor(
    request: DemoRequest,
    machine: LinuxMachine,
    destination: DestinationProcess,
    signal: AbortSignal,
  ) {
    this.#request = request;
    this.#machine = machine;
    this.#destination = destination;
    this.#signal = signal;
  }

  async run(): Promise<number> {
    const { console: here, guest } = this.#machine;
    guest.resume();
    await this.#prepare(here);
    const to = parseEndpoint(await this.#destination.listening);
    const move = await Move.connect({
      machine: this.#machine,
      name: `linux-${this.#request.memoryBytes / MIB}m`,
      to,
      tls: undefined,
      streams: 1,
      compression: 'off',
      options: { hints: this.#request.hints },
      signal: this.#signal,
      onEvent: () => {},
    });
    try {
      const left = new Counted('source');
      const stopListening = here.onText((text) => left.take(text));
      here.send('counter\n');
      await left.lines(LINES_SHOWN);
      heading(`moving it to process ${this.#destination.pid}, by TCP, while it counts`);
      const { source, report } = await move.run();
      stopListening();
      if (source.phase !== 'completed') {
        throw source.error ?? new LacunaError('ILLEGAL_STATE', `the migration ended as ${source.phase}`);
      }
      heading(`it runs in process ${this.#destination.pid}: its console there`);
      const isWhole = await this.#arrived(left);
      heading('what it came to');
      say(moveTable(report));
      say(
        this.#request.hints
          ? pc.dim('compare: lacuna linux --hints off')
          : pc.dim('compare: lacuna linux --hints on'),
      );
      this.#write(report);
      return isWhole ? ExitCode.ok : ExitCode.verificationFailed;
    } finally {
      await move.close();
    }
  }

  /** Old data in free memory, which is what hints save the sending of, and a file to check. */
  async #prepare(here: GuestConsole): Promise<void> {
    const told = async (command: string): Promise<string> => {
      const answer = await here.run(command);
      shown('source', `${pc.bold(`# ${command}`)}  ${answer}`);
      return answer;
    };
    const free = Number(/MemFree (\d+) kB/.exec(await told('memfree'))?.[1]) / 1024;
    await told(`use ${Math.floor(free * OLD_DATA_SHARE)}`);
    await told('unuse');
    await told(`checksum make demo ${CHECKSUM_MIB}`);
  }

  /** What the guest says where it is now. False if it has lost anything. */
  async #arrived(left: Counted): Promise<boolean> {
    const there = this.#destination.console;
    const come = new Counted('destination', left.rest); // it may have been stopped in mid-line
    come.take(there.unread);
    const stopListening = there.onText((text) => come.take(text));
    await come.lines(LINES_SHOWN);
    stopListening();
    there.interrupt();
    await there.expect(/guest# $/);
    const verdict = await there.run('checksum verify demo').catch(String);
    shown('destination', `${pc.bold('# checksum verify demo')}  ${verdict}`);
    shown('destination', `${pc.bold('# memfree')}  ${await there.run('memfree')}`);
    const isCounting =
      come.first !== undefined && left.last !== undefined && come.first.count === left.last.count + 1;
    const isWhole = verdict.includes(' ok ') && isCounting;
    say(
      isWhole
        ? `${pc.green('✔')} the counter went on from ${left.last?.count} to ${come.first?.count}, ` +
            `${((come.first!.uptime - left.last!.uptime) * 1000).toFixed(0)} ms of its own clock later, and the file is intact`
        : pc.red(
            `the guest has lost something: the counter went from ${left.last?.count} to ${come.first?.count}, the file: ${verdict}`,
          ),
    );
    return isWhole;
  }

  #write(migration: object): void {
    const { json, version, command, memoryBytes, image } = this.#request;
    if (json !== undefined) {
      writeReport(json, {
        schema: 1,
        createdAt: new Date().toISOString(),
        command,
        machine: thisMachine(version),
        guest: { memoryBytes, kernel: image.kernelVersion, cmdline: image.cmdline },
        migration,
      });
    }
  }
}

/** A line of the counter. */
interface Count {
  readonly count: number;
  readonly uptime: number;
}

/** Shows lines of the counter as they come, and knows the first and the last of them. */
class Counted {
  first: Count | undefined;
  last: Count | undefined;
  readonly #where: Where;
  #text: string;
  #lines = 0;
  #wanted: { readonly lines: number; readonly resolve: () => void } | undefined;

  /** `begun` is what there is of the first line already. */
  constructor(where: Where, begun = '') {
    this.#where = where;
    this.#text = begun;
  }

  /** What there is of the next line. */
  get rest(): string {
    return this.#text;
  }

  take(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf('\n'); end !== -1; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end).trimEnd();
      this.#text = this.#text.slice(end + 1);
      const [, count, uptime] = COUNT.exec(line) ?? [];
      if (count !== undefined) {
        this.last = { count: Number(count), uptime: Number(uptime) };
        this.first ??= this.last;
        this.#lines += 1;
        shown(this.#where, line);
      }
    }
    this.#meet();
  }

  #meet(): void {
    if (this.#wanted !== undefined && this.#lines >= this.#wanted.lines) {
      this.#wanted.resolve();
    }
  }

  /** Resolves when so many have come. */
  lines(lines: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new LacunaError('GUEST_FAILED', `the guest does not count at the ${this.#where}`)),
        GUEST_DEADLINE_MS,
      );
      this.#wanted = {
        lines,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      };
      this.#meet();
    });
  }
}

const GUEST_DEADLINE_MS = 120_000;

/** A `lacuna receive --vmm v86` of its own, whose standard input and output are the guest's console. */
class DestinationProcess {
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

type Where = 'source' | 'destination';

function shown(where: Where, line: string): void {
  const label = where.padEnd('destination'.length);
  say(`${where === 'source' ? pc.cyan(label) : pc.magenta(label)} ${pc.dim('│')} ${line}`);
}

function heading(text: string): void {
  say(`\n${pc.bold(`── ${text} ──`)}`);
}

function say(line: string): void {
  console.log(line);
}
