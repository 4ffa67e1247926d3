import pc from 'picocolors';
import { messageOf } from '../../errors.js';
import { MIB } from '../../memory/page.js';
import type { MigrationOptions } from '../../migration/options.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import type { CompressionMode } from '../../transport/network/compression-policy.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { ExitCode } from '../exit-code.js';
import { checkWritable } from '../report-file.js';
import { exitCodeOf, SendInterrupts } from '../send/outcome.js';
import { ProgressLine } from '../send/progress-line.js';
import { describeTls } from '../tls-options.js';
import { formatEndpoint, type HostPort } from '../units.js';
import type { LinuxMachine } from './machine.js';
import { Move, type MoveReport, type MoveReportRequest, writeMoveReport } from './move.js';
import { movedIn } from './move-table.js';
import { startMachine } from './snapshot.js';
import { attachTerminal } from './terminal.js';

/** What `lacuna send --vmm v86` was asked for. */
export interface SendLinuxRequest extends MoveReportRequest {
  readonly to: HostPort;
  readonly tls: TlsSettings | undefined;
  readonly streams: number;
  readonly compression: CompressionMode;
  readonly options: Partial<MigrationOptions>;
  /** How long the guest runs here first, in ms; undefined: until a key says so, or 3 s without a terminal. */
  readonly afterMs: number | undefined;
  /** The guest is not ended with the command if it does not arrive. */
  readonly stay: boolean;
  readonly quiet: boolean;
}

/** Starts Linux, shows its console, and moves it to a `lacuna receive --vmm v86`. Returns the exit code. */
export async function sendLinux(request: SendLinuxRequest, signal: AbortSignal): Promise<number> {
  checkWritable(request.json);
  const sending = new SendingLinux(request, signal);
  try {
    return await sending.run();
  } finally {
    await sending.close();
  }
}

const DEFAULT_AFTER_MS = 3000;

class SendingLinux {
  readonly #request: SendLinuxRequest;
  readonly #signal: AbortSignal;
  readonly #name: string;
  readonly #line: ProgressLine;
  readonly #interrupts: SendInterrupts;
  #machine: LinuxMachine | undefined;
  #move: Move | undefined;
  #detach: () => void = () => {};
  /** Ends the hosting of a guest that stays. */
  #leave: (() => void) | undefined;
  /** Aborted by the signal, and by the key that ends the command. */
  readonly #quit = new AbortController();

  constructor(request: SendLinuxRequest, signal: AbortSignal) {
    this.#request = request;
    this.#name = `linux-${request.memoryBytes / MIB}m`;
    this.#line = new ProgressLine(this.#name, formatEndpoint(request.to));
    this.#signal = AbortSignal.any([signal, this.#quit.signal]);
    this.#interrupts = new SendInterrupts({
      signal: this.#signal,
      handover: () => this.#move?.handover,
      leave: () => this.#leave,
      tidy: () => this.#detach(),
    });
  }

  async run(): Promise<number> {
    const { to, tls, image, memoryBytes, streams, compression, options } = this.#request;
    this.#machine = await startMachine({ image, memoryBytes, log: (line) => this.#say(pc.dim(line)) });
    const machine = this.#machine;
    let moved: { readonly source: PrecopySource; readonly report: MoveReport };
    try {
      this.#move = await Move.connect({
        machine,
        name: this.#name,
        to,
        tls,
        streams,
        compression,
        options,
        signal: this.#signal,
        onEvent: (event) => this.#happened(event),
      });
      this.#say(
        `connected to ${formatEndpoint(to)} (${describeTls(tls)}), migration ${this.#move.channel.migrationId}`,
      );
      await this.#letRun(machine);
      moved = await this.#move.run();
    } catch (thrown) {
      return this.#broken(machine, thrown);
    }
    const { source, report } = moved;
    writeMoveReport(this.#request, report);
    this.#detach();
    if (source.phase === 'completed') {
      console.log(`\n${pc.green('✔')} ${this.#name} runs at ${formatEndpoint(to)}: ${movedIn(report)}`);
      return ExitCode.ok;
    }
    const why = `${source.error?.code ?? source.phase}: ${source.error?.message ?? source.phase}`;
    await this.#stayed(machine, why);
    return exitCodeOf(source);
  }

  async close(): Promise<void> {
    this.#interrupts.close();
    this.#detach();
    await this.#move?.close();
    await this.#machine?.close();
  }

  /** Until it is to be moved. */
  async #letRun(machine: LinuxMachine): Promise<void> {
    const { afterMs } = this.#request;
    const isTerminal = process.stdin.isTTY;
    let moveNow: () => void = () => {};
    const asked = new Promise<void>((resolve) => {
      moveNow = resolve;
    });
    if (isTerminal) {
      this.#say("the guest's console; Ctrl-] m moves it, Ctrl-] q ends it");
    }
    this.#detach = attachTerminal(machine.console, { m: moveNow, q: () => this.#quitNow() });
    machine.guest.resume();
    machine.console.send('\n'); // for a prompt
    let timer: NodeJS.Timeout | undefined;
    const aborted = new Promise<void>((resolve) => {
      this.#signal.addEventListener('abort', () => resolve(), { once: true });
    });
    const over = new Promise<void>((resolve) => {
      if (afterMs !== undefined || !isTerminal) {
        timer = setTimeout(resolve, afterMs ?? DEFAULT_AFTER_MS);
      }
    });
    await Promise.race([asked, over, aborted]);
    clearTimeout(timer);
  }

  #quitNow(): void {
    this.#quit.abort();
    this.#interrupts.interrupted();
  }

  #happened(event: MigrationEvent): void {
    const { step, log } = this.#line.event(event);
    if (log !== undefined || step !== undefined) {
      this.#say(log ?? pc.dim(step!));
    }
    this.#interrupts.happened(event);
  }

  /** It came to no migration, or one that was broken off by an exception: then the engine has given the guest back. */
  async #broken(machine: LinuxMachine, thrown: unknown): Promise<number> {
    this.#detach();
    if (this.#move === undefined) {
      throw thrown; // nothing ran
    }
    this.#move.channel.cancel(); // the destination need not wait
    await this.#stayed(machine, messageOf(thrown));
    return this.#signal.aborted ? ExitCode.interrupted : ExitCode.verificationFailed;
  }

  async #stayed(machine: LinuxMachine, why: string): Promise<void> {
    const stays =
      (this.#request.stay || this.#move?.handover.isOperated === true) &&
      machine.guest.failure === undefined &&
      !machine.guest.paused;
    console.error(
      `\n${why}\n${this.#name} goes on here. ${
        stays
          ? `It runs in this process (${process.pid}) until ${process.stdin.isTTY ? 'Ctrl-] q' : 'Ctrl-C'}.`
          : 'It ends with this command (--stay keeps it running).'
      }`,
    );
    if (stays) {
      this.#detach = attachTerminal(machine.console, { q: () => this.#leave?.() });
      await new Promise<void>((resolve) => {
        this.#leave = resolve;
      });
    }
  }

  /** Beside the guest's console, on a line of its own. */
  #say(line: string): void {
    if (!this.#request.quiet) {
      process.stderr.write(`${line}\n`);
    }
  }
}
