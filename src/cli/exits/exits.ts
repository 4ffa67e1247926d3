import type { RequestDesign } from '../../balloon/request-interface.js';
import { LacunaError } from '../../errors.js';
import { syntheticImage } from '../../guest/image.js';
import { MemoryPool, zeroMemory } from '../../memory/memory-pool.js';
import { MIB } from '../../memory/page.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { availableMemory, reportHead } from '../../report/machine.js';
import { ThreadPool } from '../../vmm/threads.js';
import { ExitCode } from '../exit-code.js';
import { bar, makeProgress, type Progress } from '../progress.js';
import { checkWritable, writeReport, writeText } from '../report-file.js';
import { type Answer, MeasuredGuest } from './measured-guest.js';
import { featuresOf, leastFeatures, type Mix, planOf } from './mixes.js';
import { chart, tables } from './present.js';
import { breakEvens, type ExitsReport, type ExitsRun, runOf } from './report.js';

/** What `lacuna exits` was asked for. */
export interface ExitsRequest {
  /** Numbers of features, ascending. */
  readonly features: readonly number[];
  readonly mixes: readonly Mix[];
  readonly designs: readonly RequestDesign[];
  /** Requests of each run, at least. */
  readonly requests: number;
  readonly seed: number;
  readonly json: string | undefined;
  readonly svg: string | undefined;
  readonly quiet: boolean;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** Small, and with some two thousand free ranges: more than one slice of a report. */
const GUEST = { memoryBytes: 32 * MIB, freeShare: 0.5, freeRunPages: 2 } as const;

/** One run to be measured. */
interface Job {
  readonly mix: Mix;
  readonly design: RequestDesign;
  readonly features: number;
}

/** Measures, prints the tables, and writes what was asked for. Returns the exit code. */
export async function exits(request: ExitsRequest, signal: AbortSignal): Promise<number> {
  checkWritable(request.json);
  checkWritable(request.svg);
  for (const mix of request.mixes) {
    if (!request.features.some((count) => count >= leastFeatures(mix))) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `the mix "${mix}" needs ${leastFeatures(mix)} features: add some to --features, or leave it out of --mix`,
      );
    }
  }
  const progress = await makeProgress(request.quiet);
  let runs: ExitsRun[];
  try {
    runs = await measure(request, progress, signal);
  } finally {
    progress.done();
  }
  const report: ExitsReport = {
    schema: 1,
    kind: 'exits',
    ...reportHead(request),
    seed: request.seed,
    runs,
    breakEven: breakEvens(runs),
  };
  if (runs.length > 0) {
    console.log(tables(report));
  }
  if (request.json !== undefined) {
    writeReport(request.json, report);
  }
  if (request.svg !== undefined && runs.length > 0) {
    writeText(request.svg, chart(report));
  }
  if (signal.aborted) {
    console.error('interrupted: the tables show what was measured');
    return ExitCode.interrupted;
  }
  return runs.every(({ agrees }) => agrees) ? ExitCode.ok : ExitCode.verificationFailed;
}

function jobsOf({ mixes, features, designs }: ExitsRequest): Job[] {
  return mixes.flatMap((mix) =>
    features
      .filter((count) => count >= leastFeatures(mix))
      .flatMap((count) => designs.map((design) => ({ mix, design, features: count }))),
  );
}

async function measure(request: ExitsRequest, progress: Progress, signal: AbortSignal): Promise<ExitsRun[]> {
  const image = syntheticImage(atomicMapper, GUEST);
  const memory = new MemoryPool(availableMemory).take(new RamLayout(image.blocks));
  const threads = new ThreadPool();
  const jobs = jobsOf(request);
  const runs: ExitsRun[] = [];
  try {
    for (const [index, { mix, design, features }] of jobs.entries()) {
      if (signal.aborted) {
        break;
      }
      progress.update(
        `${bar(index / jobs.length, 24)} ${index + 1}/${jobs.length}  ${mix}, ${design}, ${features} features`,
      );
      const offered = featuresOf(mix, features);
      const plan = planOf(mix, features, request.requests, request.seed);
      zeroMemory(memory);
      const guest = await MeasuredGuest.boot(image, memory, { ...offered, design }, threads);
      try {
        const answers: Answer[] = [];
        for (const interrupt of plan) {
          if (signal.aborted) {
            break;
          }
          answers.push(await guest.answer(interrupt));
        }
        if (answers.length < plan.length) {
          break; // a part of a mix is another mix
        }
        runs.push(runOf({ mix, design, offered }, plan, answers));
        if (jobs[index + 1]?.mix !== mix) {
          progress.log(`${mix}: ${runs.filter((run) => run.mix === mix).length} runs`);
        }
      } finally {
        await guest.stop();
      }
    }
  } finally {
    await threads.close();
  }
  return runs;
}
