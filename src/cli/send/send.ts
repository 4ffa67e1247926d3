import pc from 'picocolors';
import { isLacunaError, messageOf } from '../../errors.js';
import { isClean } from '../../guest/runtime.js';
import { EventWord } from '../../memory/control-buffer.js';
import { MemoryPool } from '../../memory/memory-pool.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { MigrationOptions } from '../../migration/options.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { formatMib, formatMs } from '../../report/format.js';
import { availableMemory, reportHead } from '../../report/machine.js';
import type { BenchReport, BenchRun, RunReport } from '../../report/schema.js';
import { summarise } from '../../report/summary.js';
import type { CompressionMode } from '../../transport/network/compression-policy.js';
import { connectMigration, type NetworkChannel } from '../../transport/network/network-channel.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { describeGuest } from '../../vmm/network-destination.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import { deliver } from '../bench/bench.js';
import { planOf } from '../bench/plan.js';
import {
  bootGuest,
  describeRun,
  heldBytes,
  letRun,
  type Measured,
  type RunSpec,
  timedMigration,
  withReplay,
} from '../bench/run.js';
import { ExitCode } from '../exit-code.js';
import { type MetricsServer, serveMetrics } from '../metrics-server.js';
import { makeProgress, type Progress } from '../progress.js';
import { checkWritable } from '../report-file.js';
import { describeTls } from '../tls-options.js';
import { formatEndpoint, type HostPort } from '../units.js';
import { type Control, serveControl } from './control.js';
import { Handover } from './handover.js';
import { exitCodeOf, SendInterrupts } from './outcome.js';
import { ProgressLine } from './progress-line.js';

/** What `lacuna send` was asked for. */
export interface SendRequest {
  readonly to: HostPort;
  readonly tls: TlsSettings | undefined;
  readonly streams: number;
  readonly compression: CompressionMode;
  readonly spec: RunSpec;
  /** Beyond what {@link spec} says. */
  readonly options: Partial<MigrationOptions>;
  /** The guest is not ended with the command if it does not arrive. */
  readonly stay: boolean;
  readonly metrics: HostPort | undefined;
  readonly json: string | undefined;
  readonly html: string | undefined;
  readonly quiet: boolean;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** Boots a guest and sends it to a `lacuna receive`. Returns the exit code. */
export async function send(request: SendRequest, signal: AbortSignal): Promise<number> {
  for (const file of [request.json, request.html]) {
    checkWritable(file);
  }
  const progress = await makeProgress(request.quiet);
  const metrics = request.metrics === undefined ? undefined : await serveMetrics(request.metrics);
  if (metrics !== undefined) {
    progress.log(pc.dim(metricsLine(metrics)));
  }
  const sending = new Sending(request, signal, progress);
  try {
    return await sending.run();
  } finally {
    progress.done();
    await sending.close();
    await metrics?.close();
  }
}

/** How often progress is drawn. */
const DRAW_MS = 100;

/** Where a command's metrics are. */
export function metricsLine({ endpoint }: MetricsServer): string {
  return `metrics at http://${formatEndpoint(endpoint)}/metrics`;
}

/** One guest on its way. */
class Sending {
  readonly #request: SendRequest;
  readonly #spec: RunSpec;
  readonly #signal: AbortSignal;
  readonly #progress: Progress;
  readonly #line: ProgressLine;
  readonly #to: string;
  #guest: WorkerGuest | undefined;
  #channel: NetworkChannel | undefined;
  #control: Control | undefined;
  #handover: Handover | undefined;
  /** Ends the hosting of a guest that stays. */
  #leave: (() => void) | undefined;
  readonly #interrupts: SendInterrupts;
  /** Draws the progress: not within the migration's own time, which it would slow down. */
  readonly #drawing: ReturnType<typeof setInterval>;
  #drawn = '';

  constructor(request: SendRequest, signal: AbortSignal, progress: Progress) {
    this.#request = request;
    this.#spec = withReplay(request.spec);
    this.#signal = signal;
    this.#progress = progress;
    this.#to = formatEndpoint(request.to);
    this.#line = new ProgressLine(this.#spec.image.name, this.#to);
    this.#interrupts = new SendInterrupts({
      signal,
      handover: () => this.#handover,
      leave: () => this.#leave,
      tidy: () => this.#finishDrawing(),
    });
    this.#drawing = setInterval(() => this.#draw(), DRAW_MS);
  }

  async run(): Promise<number> {
    const layout = new RamLayout(this.#spec.image.blocks);
    const event = new EventWord(atomicMapper);
    const pool = new MemoryPool(availableMemory);
    const memory =
      this.#spec.image.sparse === true
        ? pool.takeFresh(layout, heldBytes(this.#spec, 'source'))
        : pool.take(layout);
    let measured: Measured;
    try {
      // Before the guest is made of what may be many GiB: a wrong address shows at once.
      const channel = await this.#connect(memory, event);
      this.#show('booting the guest');
      this.#guest = await bootGuest(this.#spec, memory, event, false);
      await letRun(this.#guest, this.#spec);
      measured = await this.#migrate(this.#guest, channel);
    } catch (thrown) {
      return this.#broken(thrown);
    }
    const { source } = measured;
    if (source.phase === 'completed') {
      this.#report(describeRun(this.#spec, layout), measured, 'unseen');
      console.log(this.#arrived(source));
      return ExitCode.ok;
    }
    const passed = await this.#check();
    this.#report(describeRun(this.#spec, layout), measured, passed ? 'passed' : 'failed');
    await this.#stayed(this.#whyHere(source), passed);
    return passed ? exitCodeOf(source) : ExitCode.verificationFailed;
  }

  /** Whatever happened, nothing of it is left behind. */
  async close(): Promise<void> {
    clearInterval(this.#drawing);
    this.#interrupts.close();
    this.#control?.close();
    await this.#guest?.stop();
    await this.#channel?.close();
  }

  async #connect(
    memory: Parameters<typeof connectMigration>[0]['memory'],
    event: EventWord,
  ): Promise<NetworkChannel> {
    const { to, tls, streams, compression } = this.#request;
    this.#show(`connecting to ${this.#to}`);
    const { image } = this.#spec;
    const channel = await connectMigration({
      endpoint: { ...to, tls },
      streams,
      memory,
      event,
      label: image.name,
      guest: describeGuest(image.trace),
      compression,
      signal: this.#signal,
    });
    this.#channel = channel;
    const handover = new Handover({ migration: channel.migrationId, guest: image.name, to: this.#to });
    this.#handover = handover;
    this.#control = await serveControl(channel.migrationId, (asked) => handover.answer(asked));
    this.#progress.log(
      `connected to ${this.#to} (${describeTls(tls)}; ${streams} ${streams === 1 ? 'channel' : 'channels'}), ` +
        `migration ${channel.migrationId}`,
    );
    return channel;
  }

  #migrate(guest: WorkerGuest, channel: NetworkChannel): Promise<Measured> {
    return timedMigration(
      this.#spec,
      {
        signal: this.#signal,
        onPhase: () => {},
        onProgress: (now) => this.#line.look(now),
      },
      guest,
      { channel, cpuMs: () => Number.NaN },
      {
        name: `${this.#spec.image.name} ${channel.migrationId.slice(0, 8)}`,
        onControls: (controls) => {
          this.#handover!.controls = controls;
        },
        onEvent: (happened) => this.#happened(happened),
        // Where the guest is, only the destination or an operator knows after the commit: they are waited for.
        options: { ...this.#request.options, startTimeoutMs: Number.POSITIVE_INFINITY },
      },
    );
  }

  #draw(): void {
    const block = this.#line.block();
    if (block !== this.#drawn) {
      this.#drawn = block;
      this.#progress.update(block);
    }
  }

  #happened(event: MigrationEvent): void {
    this.#handover!.event(event);
    const { step, log } = this.#line.event(event);
    if (step !== undefined) {
      this.#progress.step(step);
    }
    if (log !== undefined) {
      this.#progress.log(log);
    }
    this.#interrupts.happened(event);
  }

  // ── how it ends ───────────────────────────────────────────────────────────────────────────────────────────

  #report(run: ReturnType<typeof describeRun>, { report }: Measured, selfCheck: SelfCheckWord): void {
    const { json, html } = this.#request;
    this.#finishDrawing();
    const verified: RunReport['verified'] = {
      pagesCompared: 0,
      pagesDifferent: 0,
      pagesLeftBehind: 0,
      guestSelfCheck: selfCheck,
    };
    const { image, baseline, seed } = this.#spec;
    const point = { position: 0, group: 0, series: image.name, value: null };
    const runs: BenchRun[] = [{ ...run, ...report, verified, point }];
    const whole: BenchReport = {
      schema: 1,
      ...reportHead(this.#request),
      plan: planOf({
        guests: [image],
        baselines: [baseline],
        runs: 1,
        seed,
        spec: this.#spec,
        sweep: undefined,
      }).report,
      sweep: null,
      parts: [],
      runs,
      summary: summarise(runs),
    };
    deliver(whole, { json, html, svg: undefined });
  }

  #arrived(source: PrecopySource): string {
    const { image } = this.#spec;
    const { streams } = this.#request;
    const at = new Date(source.guestStartedAt).toISOString().slice(11, 23);
    return (
      `${pc.green('✔')} ${image.name} runs at ${this.#to} since ${at} UTC: moved in ` +
      `${formatMs(source.endedAt - source.startedAt)}, stopped for ` +
      `${formatMs(source.guestStartedAt - source.guestStoppedAt)}, ` +
      `${formatMib(this.#channel!.bytesOnWire())} MiB sent over ${streams} ${streams === 1 ? 'channel' : 'channels'}`
    );
  }

  #whyHere(source: PrecopySource): string {
    const why = source.error?.message ?? source.phase;
    return source.phase === 'cancelled' ? why : `${pc.red(source.error?.code ?? 'failed')}: ${why}`;
  }

  /** It came to no migration, or one that was broken off by an exception: then the engine has given the guest back. */
  async #broken(thrown: unknown): Promise<number> {
    const guest = this.#guest;
    this.#channel?.cancel();
    if (guest === undefined || !guest.running) {
      if (this.#signal.aborted) {
        console.error('interrupted: nothing was sent');
        return ExitCode.interrupted;
      }
      if (isLacunaError(thrown, 'INVALID_ARGUMENT') || !isLacunaError(thrown)) {
        throw thrown;
      }
      console.error(`${pc.red('lacuna:')} ${thrown.message}`); // what the destination says is no usage of ours
      return ExitCode.verificationFailed;
    }
    const passed = await this.#check();
    await this.#stayed(isLacunaError(thrown, 'CANCELLED') ? thrown.message : messageOf(thrown), passed);
    return this.#signal.aborted ? ExitCode.interrupted : ExitCode.verificationFailed;
  }

  /** Whether the guest, which goes on here, has lost nothing. */
  async #check(): Promise<boolean> {
    this.#show('the guest checks itself');
    try {
      return isClean(await this.#guest!.selfCheck());
    } catch {
      return false; // it died
    }
  }

  /** Says that the guest goes on here, and keeps it for as long as it is to stay. */
  async #stayed(why: string, passed: boolean): Promise<void> {
    const { image } = this.#spec;
    const stays = this.#request.stay || this.#handover?.isOperated === true;
    this.#finishDrawing();
    console.error(
      `${why}\n${image.name} goes on here; self-check: ${passed ? pc.green('passed') : pc.red('FAILED')}. ` +
        (stays
          ? `It runs in this process (${process.pid}) until Ctrl-C.`
          : 'It ends with this command (--stay keeps it running).'),
    );
    if (stays) {
      await new Promise<void>((resolve) => {
        this.#leave = resolve; // the guest's thread keeps the process alive
      });
    }
  }

  #finishDrawing(): void {
    clearInterval(this.#drawing);
    this.#progress.done();
  }

  #show(what: string): void {
    this.#progress.update(pc.dim(what));
    this.#progress.step(what);
  }
}

type SelfCheckWord = RunReport['verified']['guestSelfCheck'];
