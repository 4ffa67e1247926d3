import pc from 'picocolors';
import { LacunaError } from '../../errors.js';
import { MIB } from '../../memory/page.js';
import { ExitCode } from '../exit-code.js';
import { checkWritable } from '../report-file.js';
import { parseEndpoint } from '../units.js';
import type { GuestConsole } from './console.js';
import { Counted } from './counted.js';
import { DestinationProcess } from './destination-process.js';
import type { LinuxMachine } from './machine.js';
import { Move, type MoveReportRequest, writeMoveReport } from './move.js';
import { moveTable } from './move-table.js';
import { startMachine } from './snapshot.js';

/** What `lacuna linux` was asked for. */
export interface DemoRequest extends MoveReportRequest {
  readonly hints: boolean;
  /** Boot, although a booted machine is in the cache. */
  readonly fresh: boolean;
}

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
      const left = new Counted((line) => shown('source', line));
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
      writeMoveReport(this.#request, report);
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
    const come = new Counted((line) => shown('destination', line), left.rest); // it may have been stopped in mid-line
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
