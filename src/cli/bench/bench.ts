import pc from 'picocolors';
import { isLacunaError } from '../../errors.js';
import { syntheticImage } from '../../guest/image.js';
import { MemoryPool } from '../../memory/memory-pool.js';
import { MIB } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { MigrationProgress } from '../../migration/migrate.js';
import { formatMib, formatMs } from '../../report/format.js';
import { htmlReport } from '../../report/html/render.js';
import { availableMemory, reportHead } from '../../report/machine.js';
import type { BenchReport, BenchRun, RunReport, Shard } from '../../report/schema.js';
import { isGood, isVerified, summarise, withMedianMaps, withoutMap } from '../../report/summary.js';
import { sweepCharts } from '../../report/sweep.js';
import { reportText } from '../../report/text.js';
import { Verifier } from '../../vmm/verifier.js';
import { ExitCode } from '../exit-code.js';
import { bar, makeProgress, type Progress } from '../progress.js';
import { checkWritable, writeReport, writeText } from '../report-file.js';
import { largestLayout, type Plan, type PlanRequest, planLine, planOf, planTable, shardOf } from './plan.js';
import { type RunServices, type RunSpec, runOnce } from './run.js';
import { DestinationHost } from './run-destination.js';

/** What `lacuna bench` was asked for. */
export interface BenchRequest extends PlanRequest {
  /** null: the whole plan. */
  readonly shard: Shard | null;
  /** Only to show the plan. */
  readonly dryRun: boolean;
  readonly json: string | undefined;
  /** Where the page with charts goes. */
  readonly html: string | undefined;
  /** Where the charts of a sweep go. */
  readonly svg: string | undefined;
  readonly quiet: boolean;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** Runs the benchmark; prints the table on standard output and writes the report. Returns the exit code. */
export async function bench(request: BenchRequest, signal: AbortSignal): Promise<number> {
  const plan = shardOf(planOf(request), request.shard);
  if (request.dryRun) {
    console.log(`${planTable(plan)}\n${planLine(plan)}`);
    return ExitCode.ok;
  }
  for (const file of [request.json, request.html, request.svg]) {
    checkWritable(file);
  }
  const progress = await makeProgress(request.quiet);
  const verifier = new Verifier();
  const host = new DestinationHost();
  const pool = new MemoryPool(availableMemory);
  const runs: BenchRun[] = [];
  const total = plan.runs.length;
  try {
    progress.log(pc.dim(planLine(plan)));
    reserve(pool, plan);
    progress.update(pc.dim('warming up'));
    const services = { pool, verifier, host, signal };
    await warmUp(plan.runs[0]?.spec, { ...services, onPhase: () => {}, onProgress: () => {} });
    for (const [index, { spec, point }] of plan.runs.entries()) {
      if (signal.aborted) {
        break;
      }
      const at = point.value === null ? '' : `, ${plan.sweep?.axis.label} ${point.value}`;
      const label = `${spec.image.name} ${spec.baseline}${at}`;
      const position = `${String(index + 1).padStart(String(total).length)}/${total}`;
      const show = (line: string): void =>
        progress.update(`${bar(index / total, 24)} ${position}  ${label}\n  ${line}`);
      const run = await runOnce(spec, {
        ...services,
        onPhase: (phase) => show(pc.dim(phase)),
        onProgress: (now) => show(describeProgress(now, spec)),
      });
      runs.push({ ...run, point });
      logRun(progress, `${position} ${label}`, run);
    }
  } catch (thrown) {
    if (!signal.aborted || !isLacunaError(thrown, 'CANCELLED')) {
      if (runs.length > 0) {
        finish(request, plan, runs, false); // what was measured is not lost
      }
      throw thrown;
    }
  } finally {
    progress.done();
    await host.close();
    await verifier.close();
  }
  return finish(request, plan, runs, signal.aborted);
}

/** A small guest's migration that is not reported, so that the first one that is runs compiled code. */
async function warmUp(first: RunSpec | undefined, services: RunServices): Promise<void> {
  if (first !== undefined) {
    const image = syntheticImage(atomicMapper, { memoryBytes: 64 * MIB, freeShare: 0.5, freeRunPages: 4 });
    await runOnce({ ...first, image, baseline: 'both' }, services);
  }
}

/** Memory for the largest guest and its destination, before hours are spent on smaller ones. Throws OUT_OF_MEMORY. */
function reserve(pool: MemoryPool, plan: Plan): void {
  const layout = largestLayout(plan);
  if (layout !== undefined) {
    // Sparse guests have fresh memory each. A destination that nobody has touched before is not out of the pool.
    const touched = plan.runs.some(({ spec }) => spec.destination === 'touched');
    const here = touched && plan.runs.some(({ spec }) => spec.transport === 'memory');
    pool.reserve(layout, here ? 2 : 1, here ? 0 : layout.memoryBytes);
  }
}

function describeProgress(now: MigrationProgress, spec: RunSpec): string {
  const mib = formatMib(now.transferredBytes);
  const rate = now.elapsedMs > 0 ? formatMib((now.transferredBytes / now.elapsedMs) * 1000) : '0';
  return (
    `${now.phase}, round ${now.round}: ${mib} MiB sent (${rate} MiB/s), ${now.pendingPages} pages to go` +
    (spec.baseline === 'hints' || spec.baseline === 'both' ? `, ${now.skippedPages} skipped` : '')
  );
}

function logRun(progress: Progress, label: string, run: RunReport): void {
  const verdict = isVerified(run) ? pc.green('verified') : pc.red('NOT VERIFIED');
  const hinted = run.hints.sessions.length > 0;
  const [session] = run.hints.sessions;
  const stop = session?.['to-stop'] ?? null;
  progress.log(
    [
      `${label}: ${run.status} in ${pc.bold(formatMs(run['total-time']))}`,
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

function finish(request: BenchRequest, plan: Plan, runs: readonly BenchRun[], interrupted: boolean): number {
  const report: BenchReport = {
    schema: 1,
    ...reportHead(request),
    plan: plan.report,
    sweep: plan.sweep,
    parts: [],
    runs: plan.sweep === null ? withMedianMaps(runs) : runs.map(withoutMap),
    summary: summarise(runs),
  };
  deliver(report, request);
  if (interrupted) {
    console.error('interrupted: the guest of the last run went on at its source');
    return ExitCode.interrupted;
  }
  return report.runs.every(isGood) ? ExitCode.ok : ExitCode.verificationFailed;
}

/** Files that a report goes to. */
export interface Destinations {
  readonly json: string | undefined;
  readonly html: string | undefined;
  readonly svg: string | undefined;
}

/** Shows a report, and writes what was asked for: the JSON first, so that nothing is lost. */
export function deliver(report: BenchReport, { json, html, svg }: Destinations): void {
  const { runs, sweep } = report;
  if (runs.length === 0) {
    console.log('no runs');
  } else if (report.summary.length > 0) {
    console.log(reportText(report));
  }
  if (json !== undefined) {
    writeReport(json, report);
    console.log(`${runs.length === 1 ? '1 run' : `${runs.length} runs`} in ${json}`);
  }
  if (html !== undefined) {
    writeText(html, htmlReport(report));
    console.log(`with charts: ${html}`);
  }
  if (svg !== undefined && sweep !== null) {
    const charts = sweepCharts(report, sweep);
    if (charts === undefined) {
      console.error(`no run gives a point: ${svg} is not written`);
    } else {
      writeText(svg, charts);
      console.log(`charts in ${svg}`);
    }
  }
}
