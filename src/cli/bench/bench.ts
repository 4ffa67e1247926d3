import pc from 'picocolors';
import { isLacunaError } from '../../errors.js';
import { type GuestImage, syntheticImage } from '../../guest/image.js';
import { MemoryPool } from '../../memory/memory-pool.js';
import { MIB } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { MigrationProgress } from '../../migration/migrate.js';
import { availableMemory, thisMachine } from '../../report/machine.js';
import { BASELINES, type Baseline, type BenchReport, type RunReport } from '../../report/schema.js';
import { isVerified, summarise } from '../../report/summary.js';
import { formatMib, formatMs, machineLine, summaryTable } from '../../report/table.js';
import { Verifier } from '../../vmm/verifier.js';
import { bar, makeProgress, type Progress } from '../progress.js';
import { writeReport } from '../report-file.js';
import { type RunServices, type RunSpec, runOnce } from './run.js';

/** What `lacuna bench` was asked for. */
export interface BenchRequest {
  readonly guests: readonly GuestImage[];
  readonly baselines: readonly Baseline[];
  readonly runs: number;
  readonly spec: Omit<RunSpec, 'image' | 'baseline' | 'seed'>;
  readonly json: string | undefined;
  readonly quiet: boolean;
  readonly seed: number;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** Exit codes of the command, as its help says. */
export const ExitCode = { ok: 0, verificationFailed: 1, usage: 2, interrupted: 130 } as const;

/** Runs the benchmark; prints the table on standard output and writes the report. Returns the exit code. */
export async function bench(request: BenchRequest, signal: AbortSignal): Promise<number> {
  const progress = makeProgress(request.quiet);
  const verifier = new Verifier();
  const pool = new MemoryPool(availableMemory);
  const runs: RunReport[] = [];
  const plan = planOf(request);
  try {
    progress.update(pc.dim('warming up'));
    await warmUp(plan[0], { pool, verifier, signal, onPhase: () => {}, onProgress: () => {} });
    for (const [index, spec] of plan.entries()) {
      if (signal.aborted) {
        break;
      }
      const label = `${spec.image.name} ${spec.baseline}`;
      const position = `${String(index + 1).padStart(String(plan.length).length)}/${plan.length}`;
      const show = (line: string): void =>
        progress.update(`${bar(index / plan.length, 24)} ${position}  ${label}\n  ${line}`);
      const run = await runOnce(spec, {
        pool,
        verifier,
        signal,
        onPhase: (phase) => show(pc.dim(phase)),
        onProgress: (now) => show(describeProgress(now, spec)),
      });
      runs.push(run);
      logRun(progress, position, run);
    }
  } catch (thrown) {
    if (!signal.aborted || !isLacunaError(thrown, 'CANCELLED')) {
      throw thrown;
    }
  } finally {
    progress.done();
    await verifier.close();
  }
  return finish(request, runs, signal.aborted);
}

/** A small guest's migration that is not reported, so that the first one that is runs compiled code. */
async function warmUp(first: RunSpec | undefined, services: RunServices): Promise<void> {
  if (first !== undefined) {
    const image = syntheticImage(atomicMapper, { memoryBytes: 64 * MIB, freeShare: 0.5, freeRunPages: 4 });
    await runOnce({ ...first, image, baseline: 'both' }, services);
  }
}

/** Baselines alternate, so that a machine that changes its speed does so to all of them. */
function planOf(request: BenchRequest): RunSpec[] {
  const plan: RunSpec[] = [];
  for (const image of request.guests) {
    for (let run = 0; run < request.runs; run += 1) {
      for (const baseline of BASELINES.filter((name) => request.baselines.includes(name))) {
        plan.push({ ...request.spec, image, baseline, seed: request.seed });
      }
    }
  }
  return plan;
}

function describeProgress(now: MigrationProgress, spec: RunSpec): string {
  const mib = formatMib(now.transferredBytes);
  const rate = now.elapsedMs > 0 ? formatMib((now.transferredBytes / now.elapsedMs) * 1000) : '0';
  return (
    `${now.phase}, round ${now.round}: ${mib} MiB sent (${rate} MiB/s), ${now.pendingPages} pages to go` +
    (spec.baseline === 'hints' || spec.baseline === 'both' ? `, ${now.skippedPages} skipped` : '')
  );
}

function logRun(progress: Progress, position: string, run: RunReport): void {
  const verdict = isVerified(run) ? pc.green('verified') : pc.red('NOT VERIFIED');
  const hinted = run.hints.sessions.length > 0;
  const [session] = run.hints.sessions;
  const stop = session?.['to-stop'] ?? null;
  progress.log(
    [
      `${pc.dim(position)} ${run.guest} ${run.baseline}: ${run.status} in ${pc.bold(formatMs(run['total-time']))}`,
      `downtime ${formatMs(run.downtime ?? Number.NaN)}`,
      `${formatMib(run.ram.transferred)} MiB sent`,
      ...(hinted
        ? [`${run.ram.skipped} pages skipped, ${run.hints.ranges} ranges in ${formatMs(stop ?? Number.NaN)}`]
        : []),
      verdict,
      ...(run.error === null ? [] : [pc.red(`${run.error.code}: ${run.error.message}`)]),
    ].join(', '),
  );
}

function finish(request: BenchRequest, runs: readonly RunReport[], interrupted: boolean): number {
  const report: BenchReport = {
    schema: 1,
    createdAt: new Date().toISOString(),
    command: request.command,
    machine: thisMachine(request.version),
    runs,
    summary: summarise(runs),
  };
  if (report.summary.length > 0) {
    console.log(summaryTable(report.summary));
    console.log(notes(request, report));
  }
  if (request.json !== undefined) {
    writeReport(request.json, report);
    console.log(`${runs.length === 1 ? '1 run' : `${runs.length} runs`} in ${request.json}`);
  }
  if (interrupted) {
    console.error('interrupted: the guest of the last run went on at its source');
    return ExitCode.interrupted;
  }
  return runs.every((run) => isVerified(run) && run.status === 'completed')
    ? ExitCode.ok
    : ExitCode.verificationFailed;
}

/** What one has to know to read the table. */
function notes(request: BenchRequest, report: BenchReport): string {
  const { spec, runs } = request;
  const expired = report.summary.reduce((sum, row) => sum + row.deadlinesExpired, 0);
  return pc.dim(
    [
      `median${runs > 1 ? ' (min–max)' : ''} of n = ${runs}; link ${spec.link.name}, schedule ${spec.schedule}, smallest order ${spec.minOrder}, ` +
        `downtime limit ${spec.downtimeLimitMs} ms, destination memory ${spec.destination} beforehand`,
      `saved: against none. in vain: pages sent although reported free. hint deadlines expired: ${expired}`,
      ...guestNotes(spec),
      machineLine(report.machine),
    ].join('\n'),
  );
}

/** How the guest differs from the one that is measured if nothing is said. */
function guestNotes({ reportMode, initOnAlloc, pagePoison }: BenchRequest['spec']): string[] {
  return [
    ...(reportMode === 'walk' ? [] : [`the guest reports by ${reportMode}`]),
    ...(initOnAlloc ? ['the guest zeroes every page that it allocates'] : []),
    ...(pagePoison === null
      ? []
      : [
          `the guest fills every page that it frees with 0x${pagePoison.toString(16).padStart(8, '0')}` +
            (pagePoison === 0
              ? ''
              : ': pages that hints leave out are filled with it and count as that, not as skipped'),
        ]),
  ];
}
