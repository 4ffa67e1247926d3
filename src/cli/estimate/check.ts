import pc from 'picocolors';
import type { FreeMemoryMode, GuestImage } from '../../guest/image.js';
import { syntheticImage } from '../../guest/image.js';
import { IDLE_WORKLOAD } from '../../guest/workload.js';
import { MemoryPool } from '../../memory/memory-pool.js';
import { MIB } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { DEFAULT_OPTIONS } from '../../migration/options.js';
import { availableMemory } from '../../report/machine.js';
import type { RunReport } from '../../report/schema.js';
import { isVerified, spreadOf } from '../../report/summary.js';
import { Verifier } from '../../vmm/verifier.js';
import { DEFAULT_RING_SIZE } from '../../vmm/worker-guest.js';
import { type RunServices, type RunSpec, runOnce } from '../bench/run.js';
import type { Progress } from '../progress.js';
import type { CheckReport, Prediction } from './report.js';

export interface CheckRequest {
  readonly image: GuestImage;
  readonly predictions: readonly Prediction[];
  readonly link: { readonly name: string; readonly bytesPerSecond: number };
  /** Migrations for each prediction. */
  readonly runs: number;
}

/** Does each predicted migration as `bench` would, and sets the two side by side. Memory: twice the guest's. */
export async function check(
  { image, predictions, link, runs }: CheckRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<CheckReport[]> {
  const verifier = new Verifier();
  const services: RunServices = {
    pool: new MemoryPool(availableMemory),
    verifier,
    signal,
    onPhase: () => {},
    onProgress: () => {},
  };
  const results: RunReport[][] = predictions.map(() => []);
  try {
    const small = syntheticImage(atomicMapper, { memoryBytes: 64 * MIB, freeShare: 0.5, freeRunPages: 4 });
    await runOnce({ ...specOf(predictions[0]!, image, link), image: small, baseline: 'both' }, services);
    // Predictions alternate, so that a machine that changes its speed does so to all of them.
    for (let round = 0; round < runs; round += 1) {
      for (const [i, prediction] of predictions.entries()) {
        progress.update(pc.dim(`migrating ${image.name}: ${labelOf(prediction)} (${round + 1}/${runs})`));
        const run = await runOnce(specOf(prediction, image, link), services);
        results[i]!.push(run);
        progress.log(
          `${image.name} ${labelOf(prediction)}: ${run.status} in ${run['total-time'].toFixed(1)} ms, ` +
            (isVerified(run) ? 'verified' : pc.red('NOT VERIFIED')),
        );
      }
    }
  } finally {
    progress.done();
    await verifier.close();
  }
  return predictions.map((predicted, i) => compare(predicted, results[i]!));
}

/** How a prediction is called in a table. */
export function labelOf({ baseline, minOrder, freeMemory }: Prediction): string {
  return [
    baseline,
    ...(minOrder === null ? [] : [`from order ${minOrder}`]),
    ...(freeMemory === 'zero' ? ['free memory zero'] : freeMemory === 'data' ? ['free memory old data'] : []),
  ].join(', ');
}

function specOf(
  { baseline, minOrder, freeMemory }: Prediction,
  image: GuestImage,
  link: RunSpec['link'],
): RunSpec {
  return {
    image,
    baseline,
    link,
    freeMemory: modeOf(freeMemory),
    workload: IDLE_WORKLOAD,
    traceAtMs: 0,
    traceSpeed: 1,
    schedule: DEFAULT_OPTIONS.schedule,
    minOrder: minOrder ?? 0,
    reportMode: 'walk',
    dialect: 'command-register',
    ringSize: DEFAULT_RING_SIZE,
    initOnAlloc: false,
    pagePoison: null,
    downtimeLimitMs: DEFAULT_OPTIONS.downtimeLimitMs,
    transport: 'memory',
    destination: 'touched',
    seed: 1,
  };
}

/** Without zero detection it makes no difference what pages hold. */
function modeOf(freeMemory: Prediction['freeMemory']): FreeMemoryMode {
  return freeMemory === 'any' ? 'captured' : freeMemory;
}

function compare(predicted: Prediction, runs: readonly RunReport[]): CheckReport {
  const time = spreadOf(runs.map((run) => run['total-time'])).median;
  const transferred = spreadOf(runs.map((run) => run.ram.transferred)).median;
  return {
    predicted,
    runs: runs.map((run) => ({ ...run, pages: { ...run.pages, map: null } })),
    'total-time': time,
    transferred,
    timeError: predicted['total-time'] === null ? null : predicted['total-time'] / time - 1,
    bytesError: predicted.transferred / transferred - 1,
  };
}
