import pc from 'picocolors';
import { publishRefusal } from '../../diagnostics.js';
import type { GuestTrace } from '../../guest/trace.js';
import { MemoryPool } from '../../memory/memory-pool.js';
import { formatMib } from '../../report/format.js';
import { availableMemory, reportHead } from '../../report/machine.js';
import type { ListenerEvent } from '../../transport/network/incoming-migration.js';
import type { MigrationListener } from '../../transport/network/migration-listener.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { type Arrival, receiveGuests } from '../../vmm/network-destination.js';
import { loadGuest, traceNames } from '../captures.js';
import { ExitCode } from '../exit-code.js';
import { serveMetrics } from '../metrics-server.js';
import { makeProgress, type Progress } from '../progress.js';
import { checkWritable, writeReport } from '../report-file.js';
import { describeTls } from '../tls-options.js';
import { formatEndpoint, type HostPort } from '../units.js';
import { describeWorkload } from '../workload-option.js';
import { IncomingGuest } from './incoming-guest.js';

/** What `lacuna receive` was asked for. */
export interface ReceiveRequest {
  readonly listen: HostPort;
  readonly tls: TlsSettings | undefined;
  /** Other machines are listened to without TLS. */
  readonly insecure: boolean;
  /** undefined: what is available. */
  readonly mostMemoryBytes: number | undefined;
  readonly mostStreams: number;
  readonly keepMs: number;
  readonly once: boolean;
  readonly metrics: HostPort | undefined;
  readonly json: string | undefined;
  readonly quiet: boolean;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** How often what is shown is looked at anew. */
const LOOK_MS = 500;

/** Receives guests and runs them until `signal` is aborted, or with `once` until one is here. Returns the exit code. */
export async function receive(request: ReceiveRequest, signal: AbortSignal): Promise<number> {
  checkWritable(request.json);
  const progress = await makeProgress(request.quiet);
  const metrics = request.metrics === undefined ? undefined : await serveMetrics(request.metrics);
  const reception = new Reception(request, progress);
  try {
    return await reception.run(
      signal,
      metrics && `metrics at http://${formatEndpoint(metrics.endpoint)}/metrics`,
    );
  } finally {
    progress.done();
    await metrics?.close();
  }
}

/** All guests that have come or are to come, by their migrations. */
class Reception {
  readonly #request: ReceiveRequest;
  readonly #progress: Progress;
  readonly #guests = new Map<string, IncomingGuest>();
  /** Self-checks under way. */
  readonly #checks = new Set<Promise<void>>();
  #listener: MigrationListener | undefined;
  /** With `once`: one has come, or come to nothing. */
  #onOnce: () => void = () => {};

  constructor(request: ReceiveRequest, progress: Progress) {
    this.#request = request;
    this.#progress = progress;
  }

  async run(signal: AbortSignal, metricsLine: string | undefined): Promise<number> {
    const { listen, tls, insecure, mostMemoryBytes, mostStreams, keepMs } = this.#request;
    const listener = await receiveGuests({
      ...listen,
      tls,
      insecure,
      limits: { memoryBytes: mostMemoryBytes ?? Number.POSITIVE_INFINITY, streams: mostStreams },
      timeouts: { keepMs },
      pool: new MemoryPool(availableMemory),
      traceOf,
      onAdmitted: (offer, received) => {
        this.#guests.set(offer.migrationId, new IncomingGuest(offer, received));
      },
      onRunning: (arrival) => this.#arrived(arrival),
      onEvent: (event) => this.#happened(event),
    });
    this.#listener = listener;
    const at = formatEndpoint({ host: listen.host, port: listener.port });
    this.#progress.log(`listening at ${pc.bold(at)} (${describeTls(tls)})`);
    if (metricsLine !== undefined) {
      this.#progress.log(pc.dim(metricsLine));
    }
    const timer = setInterval(() => this.#look(), LOOK_MS);
    await this.#until(signal);
    clearInterval(timer);
    return this.#end(signal);
  }

  #arrived({ guest, offer, startedAt, workload }: Arrival): void {
    const incoming = this.#guests.get(offer.migrationId)!;
    incoming.started(guest, startedAt, describeWorkload(workload));
    const check = this.#welcome(incoming, startedAt);
    this.#checks.add(check);
    void check.then(() => this.#checks.delete(check));
  }

  /** It runs: whether it is whole is what it says itself. */
  async #welcome(incoming: IncomingGuest, startedAt: number): Promise<void> {
    const since = new Date(startedAt).toISOString().slice(11, 23);
    this.#progress.log(`${incoming.name} runs here since ${since} UTC; it checks itself`);
    const passed = await incoming.selfCheck();
    const { selfCheck } = incoming.report();
    this.#progress.log(
      passed
        ? `${pc.green('✔')} ${incoming.name}: self-check passed, ${selfCheck?.pages} pages are as it left them`
        : pc.red(
            `${incoming.name}: self-check FAILED, ${selfCheck?.badPages ?? 'all'} pages are not as it left them`,
          ),
    );
    this.#settled();
  }

  #happened(event: ListenerEvent): void {
    const { type, migrationId, peer, text } = event;
    const incoming = migrationId === undefined ? undefined : this.#guests.get(migrationId);
    incoming?.event(event);
    switch (type) {
      case 'offered':
        this.#progress.log(`offered: ${text}, from ${peer}, migration ${migrationId}`);
        return;
      case 'refused':
        publishRefusal(peer, text);
        this.#progress.log(`${pc.yellow('refused')} ${peer}: ${text}`);
        return;
      case 'round':
        this.#progress.step(`${text}: ${formatMib(incoming?.report().bytes ?? 0)} MiB have come so far`);
        return;
      case 'receiving':
      case 'ready':
        this.#progress.step(text);
        return;
      case 'started':
        return; // it is said when it is served here, too
      case 'lost':
      case 'restored':
      case 'answered':
        this.#progress.log(`${pc.yellow(type)}: ${text}`);
        return;
      case 'not-started':
      case 'discarded':
        incoming?.discarded(text);
        this.#progress.log(
          `${pc.yellow('discarded')}: ${incoming?.name ?? 'a guest'} does not run here (${text}). ` +
            'It goes on at its source, if that lives.',
        );
        this.#settled();
        return;
    }
  }

  /** A guest has come, or come to nothing. */
  #settled(): void {
    this.#write();
    if (this.#request.once) {
      this.#onOnce();
    }
  }

  #look(): void {
    const lines: string[] = [];
    for (const incoming of this.#guests.values()) {
      const change = incoming.look();
      if (change !== undefined) {
        this.#progress.step(change);
      }
      if (incoming.outcome === 'receiving' || incoming.outcome === 'runs') {
        lines.push(incoming.line());
      }
    }
    this.#progress.update(lines.join('\n'));
  }

  #until(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      this.#onOnce = resolve;
      signal.addEventListener('abort', () => resolve(), { once: true });
      if (signal.aborted) {
        resolve();
      }
    });
  }

  /** Listens no more; what is still coming in is discarded, what runs here is ended. */
  async #end(signal: AbortSignal): Promise<number> {
    const { once } = this.#request;
    await this.#listener?.close();
    await Promise.all(this.#checks);
    const hosted = [...this.#guests.values()].filter(({ outcome }) => outcome === 'runs');
    for (const incoming of hosted) {
      this.#progress.log(`${incoming.line()}; it ends with this command`);
    }
    this.#write();
    await Promise.all(hosted.map(async ({ guest }) => guest?.stop()));
    if (!once) {
      return ExitCode.ok;
    }
    const passed = [...this.#guests.values()].some((incoming) => incoming.passed === true);
    if (!passed && signal.aborted) {
      return ExitCode.interrupted;
    }
    return passed ? ExitCode.ok : ExitCode.verificationFailed;
  }

  #write(): void {
    const { json } = this.#request;
    if (json !== undefined) {
      writeReport(json, {
        schema: 1,
        ...reportHead(this.#request),
        guests: [...this.#guests.values()].map((incoming) => incoming.report()),
      });
    }
  }
}

/** Only those that come with lacuna: a name is a peer's, and must not become a path. */
function traceOf(name: string): GuestTrace | undefined {
  return traceNames().includes(name) ? loadGuest(name).trace : undefined;
}
