import pc from 'picocolors';
import { isLacunaError, messageOf } from '../../errors.js';
import { MemoryPool } from '../../memory/memory-pool.js';
import { formatMs } from '../../report/format.js';
import { availableMemory, reportHead } from '../../report/machine.js';
import { ThreadPool } from '../../vmm/threads.js';
import { Verifier } from '../../vmm/verifier.js';
import { ExitCode } from '../exit-code.js';
import { bar, makeProgress, type Progress } from '../progress.js';
import { checkWritable, writeReport } from '../report-file.js';
import { describeGuest, describeHop } from './describe.js';
import { bootGuest, endGuest, readCaptures } from './guests.js';
import { runHop, type StressServices } from './hop.js';
import { type CasePlan, type FaultKind, faultsOf, planCase, type StressTransport } from './plan.js';
import { reportOf, resultLines, resultTable, type StressFailure } from './report.js';
import { Tally } from './tally.js';

/** What `lacuna stress` was asked for. */
export interface StressRequest {
  readonly seed: number;
  readonly transport: StressTransport;
  /** All of them {@link faultsOf} the transport. */
  readonly faults: readonly FaultKind[];
  /** Whichever comes first ends the run; undefined: not by this. */
  readonly seconds: number | undefined;
  readonly migrations: number | undefined;
  /** Only these cases, first and last: once, or again and again if seconds or migrations are given. */
  readonly cases: { readonly first: number; readonly last: number } | undefined;
  /** Guests that are moved at the same time. */
  readonly jobs: number;
  readonly json: string | undefined;
  readonly quiet: boolean;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** How often the display is redrawn, and how often a line is written where there is no terminal. */
const DRAW_MS = 100;
const LOG_MS = 10_000;
/** Memory that a case may take: this many times the guest's size has to be there, for source, destination and slack. */
const MEMORY_NEEDED = 3;

/**
 * Moves guests until the time is up, the migrations are done, or something is wrong. Prints the results on standard
 * output and writes the report. Returns the exit code.
 *
 * `compare` is there for tests: a verification that finds what is not there.
 */
export async function stress(
  request: StressRequest,
  signal: AbortSignal,
  compare?: StressServices['compare'],
): Promise<number> {
  checkWritable(request.json);
  const verifier = new Verifier();
  const run = new StressRun(
    request,
    await makeProgress(request.quiet),
    signal,
    compare ?? ((here, there) => verifier.compare(here, there)),
  );
  try {
    await run.run();
  } finally {
    await verifier.close();
  }
  return finish(request, run, signal.aborted);
}

/** A case that is being run. */
interface Current {
  readonly plan: CasePlan;
  /** From 1; 0: the guest is being booted. */
  hop: number;
}

class StressRun {
  readonly tally = new Tally();
  readonly failures: StressFailure[] = [];
  durationMs = 0;
  readonly #request: StressRequest;
  readonly #failed = new AbortController();
  readonly #services: StressServices;
  readonly #threads = new ThreadPool();
  readonly #progress: Progress;
  readonly #current = new Map<number, Current>();
  readonly #startedAt = performance.now();
  #loggedAt = performance.now();
  #nextCase: number;
  /** Migrations that were begun. */
  #begun = 0;

  constructor(
    request: StressRequest,
    progress: Progress,
    signal: AbortSignal,
    compare: StressServices['compare'],
  ) {
    this.#request = request;
    this.#services = {
      pool: new MemoryPool(availableMemory),
      threads: this.#threads,
      compare,
      signal: AbortSignal.any([signal, this.#failed.signal]),
      tally: this.tally,
    };
    this.#progress = progress;
    this.#nextCase = request.cases?.first ?? 1;
  }

  async run(): Promise<void> {
    const { jobs, seed, transport, faults } = this.#request;
    this.#progress.log(
      `${pc.bold(`seed ${seed}`)}, ${transport === 'memory' ? '' : `by ${transport}, `}faults: ${faults.length === faultsOf(transport).length ? 'all' : faults.join(', ') || 'none'}`,
    );
    readCaptures();
    const drawing = setInterval(() => this.#draw(), DRAW_MS);
    // An error that nobody waits for (a device that is polled between migrations, say) must not end the run silently.
    process.on('unhandledRejection', this.#stray);
    process.on('uncaughtException', this.#stray);
    try {
      await Promise.all(Array.from({ length: jobs }, (_, job) => this.#work(job)));
    } finally {
      process.off('unhandledRejection', this.#stray);
      process.off('uncaughtException', this.#stray);
      clearInterval(drawing);
      this.durationMs = performance.now() - this.#startedAt;
      await this.#threads.close();
      this.#progress.done();
    }
  }

  async #work(job: number): Promise<void> {
    for (let caseNumber = this.#takeCase(); caseNumber !== undefined; caseNumber = this.#takeCase()) {
      const { seed, transport, faults } = this.#request;
      await this.#runCase(job, planCase(seed, caseNumber, faults, transport));
    }
  }

  #takeCase(): number | undefined {
    const { cases, seconds, migrations } = this.#request;
    if (!this.#goesOn()) {
      return undefined;
    }
    if (cases !== undefined && this.#nextCase > cases.last) {
      if (seconds === undefined && migrations === undefined) {
        return undefined;
      }
      this.#nextCase = cases.first;
    }
    this.#nextCase += 1;
    return this.#nextCase - 1;
  }

  /** Whether another migration may begin. */
  #goesOn(): boolean {
    const { seconds = Number.POSITIVE_INFINITY, migrations = Number.POSITIVE_INFINITY } = this.#request;
    return (
      !this.#services.signal.aborted &&
      this.#begun < migrations &&
      performance.now() - this.#startedAt < seconds * 1000
    );
  }

  async #runCase(job: number, plan: CasePlan): Promise<void> {
    const current: Current = { plan, hop: 0 };
    this.#current.set(job, current);
    const { pool, threads } = this.#services;
    if (
      plan.guest.image.from === 'whole-capture' &&
      availableMemory() < plan.guest.memoryBytes * MEMORY_NEEDED
    ) {
      this.tally.skippedCases += 1;
      return;
    }
    try {
      const travelling = await bootGuest(plan.guest, pool, threads);
      this.tally.cases += 1;
      try {
        for (const hop of plan.hops) {
          if (!this.#goesOn()) {
            break;
          }
          this.#begun += 1;
          current.hop += 1;
          if ((await runHop(travelling, hop, this.#services)) === 'lost') {
            break;
          }
        }
      } finally {
        await endGuest(travelling.guest);
        pool.giveBack(travelling.memory);
      }
    } catch (thrown) {
      if (isLacunaError(thrown, 'OUT_OF_MEMORY')) {
        throw thrown;
      }
      if (!(isLacunaError(thrown, 'CANCELLED') && this.#services.signal.aborted)) {
        this.#fail(current, thrown);
      }
    }
  }

  /** The first failure is the run's; what others say while they are being called off may follow from it. */
  #fail(current: Current, thrown: unknown, notes: readonly string[] = []): void {
    if (this.#failed.signal.aborted) {
      return;
    }
    const { plan, hop } = current;
    this.failures.push({
      case: plan.caseNumber,
      hop,
      error: messageOf(thrown),
      stack: thrown instanceof Error ? (thrown.stack ?? '') : '',
      plan: [
        describeGuest(plan.guest),
        ...plan.hops.slice(0, hop).map((each, at) => describeHop(each, at + 1)),
        ...notes,
      ],
      command: reproduction(this.#request, plan.caseNumber),
    });
    this.#failed.abort();
  }

  /** Which of the guests under way it belongs to is not known. */
  readonly #stray = (thrown: unknown): void => {
    const [first, ...others] = this.#current.values();
    if (first === undefined) {
      throw thrown;
    }
    this.#fail(
      first,
      thrown,
      others.map(({ plan }) => `or it was the other guest: ${reproduction(this.#request, plan.caseNumber)}`),
    );
  };

  #draw(): void {
    const { tally } = this;
    const elapsedMs = performance.now() - this.#startedAt;
    const { seconds, migrations, seed } = this.#request;
    const rate = (tally.migrations / elapsedMs) * 1000;
    const share = Math.max(
      elapsedMs / 1000 / (seconds ?? Number.POSITIVE_INFINITY),
      this.#begun / (migrations ?? Number.POSITIVE_INFINITY),
    );
    const listed = (counts: Iterable<[string, number]>): string =>
      [...counts]
        .filter(([, times]) => times > 0)
        .map(([name, times]) => `${name} ${times}`)
        .join(', ') || 'none yet';
    const summary = `${tally.migrations} migrations in ${formatMs(elapsedMs)}, ${rate.toFixed(1)} a second`;
    const cases = [...this.#current.values()]
      .map(({ plan, hop }) => `${plan.caseNumber}.${hop}`)
      .join(' and ');
    this.#progress.update(
      [
        `${bar(share, 24)} ${summary}; seed ${seed}, case ${cases}`,
        `${pc.dim('ended ')} ${listed(tally.outcomes)}`,
        `${pc.dim('faults')} ${listed(tally.faults)}`,
      ].join('\n'),
    );
    if (!process.stderr.isTTY && performance.now() - this.#loggedAt >= LOG_MS) {
      this.#loggedAt = performance.now();
      this.#progress.log(`${summary}, ${tally.faultsInjected} faults; case ${cases}`);
    }
  }
}

/** A command that does the same again. */
export function reproduction(
  request: Pick<StressRequest, 'seed' | 'transport' | 'faults'>,
  caseNumber: number,
): string {
  const { seed, transport, faults } = request;
  // The plan of a case follows from the kinds of faults too.
  const all = faults.length === faultsOf(transport).length;
  const by = transport === 'memory' ? '' : ` --transport ${transport}`;
  return `lacuna stress${by} --seed ${seed} --case ${caseNumber}${all ? '' : ` --faults ${faults.join(',') || 'none'}`}`;
}

function finish(request: StressRequest, run: StressRun, interrupted: boolean): number {
  const { tally, failures, durationMs } = run;
  const report = reportOf(tally, {
    ...reportHead(request),
    seed: request.seed,
    transport: request.transport,
    faults: request.faults,
    durationMs,
    interrupted,
    failures,
  });
  console.log(resultTable(report));
  console.log(pc.dim([`seed ${request.seed}`, ...resultLines(report)].join('\n')));
  for (const failure of failures) {
    console.error(
      [
        `${pc.red('FAILED')} case ${failure.case}, migration ${failure.hop}: ${pc.bold(failure.error)}`,
        ...failure.plan.map((line) => `  ${line}`),
        pc.dim(failure.stack),
        `to run it again: ${pc.bold(failure.command)}`,
        `(threads are never timed the same twice: add --seconds 60 to repeat the case until it fails)`,
      ].join('\n'),
    );
  }
  if (request.json !== undefined) {
    writeReport(request.json, report);
  }
  if (failures.length > 0) {
    return ExitCode.verificationFailed;
  }
  if (interrupted) {
    console.error(
      'interrupted: every migration under way was called off, and its guest went on at its source',
    );
    return ExitCode.interrupted;
  }
  return ExitCode.ok;
}
