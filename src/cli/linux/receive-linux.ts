import pc from 'picocolors';
import { publishRefusal } from '../../diagnostics.js';
import { formatMib } from '../../report/format.js';
import { reportHead } from '../../report/machine.js';
import type {
  ListenerEvent,
  MigrationOffer,
  ReceivedTotals,
} from '../../transport/network/incoming-migration.js';
import { receiveV86Guests, type V86Arrival } from '../../vmm/v86/network.js';
import type { V86Guest } from '../../vmm/v86/v86-guest.js';
import { ExitCode } from '../exit-code.js';
import type { ReceiveRequest } from '../receive/receive.js';
import { checkWritable, writeReport } from '../report-file.js';
import { describeTls } from '../tls-options.js';
import { formatEndpoint } from '../units.js';
import type { LinuxImage } from './image/linux-image.js';
import { type LinuxMachine, makeMachine } from './machine.js';
import { MOST_MEMORY } from './machine-memory.js';
import { attachTerminal } from './terminal.js';
import { warmUp } from './warm-up.js';

/** What `lacuna receive --vmm v86` was asked for; without a limit, guests may have what v86 can give them. */
export interface ReceiveLinuxRequest extends Omit<ReceiveRequest, 'metrics'> {
  /** What the machine is made of; the same as at the source, or the guest can't reboot here. */
  readonly image: LinuxImage;
}

/** What became of a machine that was to come in, for `--json`. Times in ms since the epoch. */
interface IncomingMachineReport extends ReceivedTotals {
  readonly migration: string;
  readonly guest: string;
  readonly peer: string;
  readonly memoryBytes: number;
  outcome: 'receiving' | 'runs' | 'discarded' | 'died';
  reason: string | null;
  startedAt: number | null;
}

/** Takes machines of v86, one at a time, and shows the console of the one that runs. Returns the exit code. */
export async function receiveLinux(request: ReceiveLinuxRequest, signal: AbortSignal): Promise<number> {
  checkWritable(request.json);
  return new LinuxReception(request).run(signal);
}

/** How often a machine that runs is looked at. */
const LOOK_MS = 200;

class LinuxReception {
  readonly #request: ReceiveLinuxRequest;
  readonly #reports = new Map<string, IncomingMachineReport>();
  readonly #totals = new Map<string, () => ReceivedTotals>();
  readonly #machines = new Map<V86Guest, LinuxMachine>();
  /** The one whose console is shown. */
  #shown: { readonly machine: LinuxMachine; readonly report: IncomingMachineReport } | undefined;
  #detach: () => void = () => {};
  #end: () => void = () => {};

  constructor(request: ReceiveLinuxRequest) {
    this.#request = request;
  }

  async run(signal: AbortSignal): Promise<number> {
    const { listen, tls, insecure, mostMemoryBytes, mostStreams, keepMs } = this.#request;
    const ended = new Promise<void>((resolve) => {
      this.#end = resolve;
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
    await warmUp(this.#request.image, signal); // before anybody can come
    const listener = await receiveV86Guests({
      ...listen,
      tls,
      insecure,
      limits: { memoryBytes: Math.min(mostMemoryBytes ?? MOST_MEMORY, MOST_MEMORY), streams: mostStreams },
      timeouts: { keepMs },
      prepare: async (offer) => {
        const machine = await makeMachine({
          image: this.#request.image,
          memoryBytes: offer.layout.memoryBytes,
          role: 'incoming',
        });
        this.#machines.set(machine.guest, machine);
        return machine.guest;
      },
      onAdmitted: (offer, received) => this.#admitted(offer, received),
      onRunning: (arrival) => this.#arrived(arrival),
      onDiscarded: (guest) => void this.#forget(guest),
      onEvent: (event) => this.#happened(event),
    });
    const at = formatEndpoint({ host: listen.host, port: listener.port });
    this.#say(`listening at ${pc.bold(at)} (${describeTls(tls)}) for machines of v86`);
    const timer = setInterval(() => this.#look(), LOOK_MS);
    await ended;
    clearInterval(timer);
    this.#detach();
    await listener.close();
    await Promise.all([...this.#machines.values()].map((machine) => machine.close()));
    this.#write();
    return this.#code(signal);
  }

  #admitted(offer: MigrationOffer, received: () => ReceivedTotals): void {
    this.#totals.set(offer.migrationId, received);
    this.#reports.set(offer.migrationId, {
      migration: offer.migrationId,
      guest: offer.label,
      peer: offer.peer,
      memoryBytes: offer.layout.memoryBytes,
      outcome: 'receiving',
      reason: null,
      startedAt: null,
      ...received(),
    });
  }

  #arrived({ guest, offer, startedAt }: V86Arrival): void {
    const report = this.#reports.get(offer.migrationId)!;
    Object.assign(report, { outcome: 'runs', startedAt, ...this.#totals.get(offer.migrationId)!() });
    this.#say(
      `${pc.green('✔')} ${offer.label} runs here: ${formatMib(report.bytes)} MiB came for ` +
        `${formatMib(report.memoryBytes)} MiB of RAM. Its console follows${process.stdin.isTTY ? ' (Ctrl-] q ends it)' : ''}`,
    );
    this.#detach();
    const machine = this.#machines.get(guest)!;
    this.#shown = { machine, report };
    const end = (): void => this.#end();
    this.#detach = attachTerminal(machine.console, { q: end });
    this.#write();
    if (this.#request.once && !process.stdin.isTTY) {
      process.stdin.once('end', end);
    }
  }

  #happened({ type, migrationId, peer, text }: ListenerEvent): void {
    switch (type) {
      case 'offered':
        this.#say(`offered: ${text}, from ${peer}, migration ${migrationId}`);
        return;
      case 'refused':
        publishRefusal(peer, text);
        this.#say(`${pc.yellow('refused')} ${peer}: ${text}`);
        return;
      case 'lost':
      case 'restored':
      case 'answered':
        this.#say(`${pc.yellow(type)}: ${text}`);
        return;
      case 'not-started':
      case 'discarded':
        this.#discarded(migrationId, text);
        return;
      default:
    }
  }

  #discarded(migrationId: string | undefined, reason: string): void {
    const report = migrationId === undefined ? undefined : this.#reports.get(migrationId);
    if (report !== undefined) {
      Object.assign(report, { outcome: 'discarded', reason, ...this.#totals.get(report.migration)!() });
    }
    this.#say(
      `${pc.yellow('discarded')}: ${report?.guest ?? 'a guest'} does not run here (${reason}). It goes on at its source, if that lives.`,
    );
    this.#write();
    if (this.#request.once) {
      this.#end();
    }
  }

  async #forget(guest: V86Guest): Promise<void> {
    const machine = this.#machines.get(guest);
    this.#machines.delete(guest);
    await machine?.close();
  }

  #look(): void {
    const shown = this.#shown;
    const failure = shown?.machine.guest.failure;
    if (shown === undefined || failure === undefined || shown.report.outcome !== 'runs') {
      return;
    }
    Object.assign(shown.report, { outcome: 'died', reason: failure.message });
    this.#say(`${pc.red(`${shown.report.guest} has died`)}: ${failure.message}`);
    this.#end();
  }

  /** Beside the guest's console, on its own lines. */
  #say(line: string): void {
    if (!this.#request.quiet) {
      process.stderr.write(`${this.#shown === undefined ? '' : '\n'}${line}\n`);
    }
  }

  #code(signal: AbortSignal): number {
    const outcomes = [...this.#reports.values()].map(({ outcome }) => outcome);
    if (outcomes.includes('died')) {
      return ExitCode.verificationFailed;
    }
    if (!this.#request.once || outcomes.includes('runs')) {
      return ExitCode.ok;
    }
    return signal.aborted ? ExitCode.interrupted : ExitCode.verificationFailed;
  }

  #write(): void {
    const { json } = this.#request;
    if (json !== undefined) {
      writeReport(json, {
        schema: 1,
        ...reportHead(this.#request),
        guests: [...this.#reports.values()],
      });
    }
  }
}
