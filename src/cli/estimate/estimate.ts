import pc from 'picocolors';
import { isLacunaError } from '../../errors.js';
import type { FreeMemoryMode } from '../../guest/image.js';
import { PAGE_SIZE } from '../../memory/page.js';
import { reportHead } from '../../report/machine.js';
import { isGood } from '../../report/summary.js';
import { ExitCode } from '../exit-code.js';
import { makeProgress } from '../progress.js';
import { checkWritable, writeReport } from '../report-file.js';
import { check } from './check.js';
import { readMemory } from './memory.js';
import { IDLE_DIRTY, orderReports, predict } from './predict.js';
import type { EstimateReport } from './report.js';
import { printed } from './table.js';
import { measureZeroScan } from './zero-scan.js';

/** What `lacuna estimate` was asked for. */
export interface EstimateRequest {
  /** undefined: this machine. */
  readonly file: string | undefined;
  readonly proc: string;
  readonly link: { readonly name: string; readonly bytesPerSecond: number };
  readonly minOrder: number;
  readonly freeMemory: FreeMemoryMode | undefined;
  /** undefined: measured here. */
  readonly zeroScanBytesPerSecond: number | undefined;
  /** Migrations for each prediction, to see how close it comes; 0: none. */
  readonly checks: number;
  readonly json: string | undefined;
  readonly quiet: boolean;
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
}

/** Reads a memory map, predicts, and prints. Returns the exit code. */
export async function estimate(request: EstimateRequest, signal: AbortSignal): Promise<number> {
  checkWritable(request.json);
  const { link, minOrder } = request;
  const progress = await makeProgress(request.quiet);
  progress.update(pc.dim('reading'));
  let report: EstimateReport;
  try {
    const { image, map, kind, where, ramFrom } = await readMemory(request.file, request.proc);
    const zeroScan = request.zeroScanBytesPerSecond ?? measureZeroScan();
    const predictions = predict(image, {
      bytesPerSecond: link.bytesPerSecond,
      minOrder,
      freeMemory: request.freeMemory,
      zeroScanBytesPerSecond: zeroScan,
      builtInGuest: kind === 'capture' || request.checks > 0,
    });
    const measured =
      request.checks === 0
        ? {}
        : { checks: await check({ image, predictions, link, runs: request.checks }, progress, signal) };
    report = {
      schema: 1,
      ...reportHead(request),
      source: {
        name: image.name,
        kind,
        where,
        ramFrom,
        zeroPages: image.zeroUnknown === true ? 'unknown' : 'captured',
      },
      memory: {
        pfns: map.pfns,
        bytes: map.use.pages * PAGE_SIZE,
        blocks: map.blocks,
        use: map.use,
        pageCache: map.pageCache,
        freeRuns: map.freeRuns,
        longestFreeRunPages: map.longestFreeRunPages,
        orders: orderReports(map),
      },
      assumed: {
        link: link.name,
        linkBytesPerSecond: Number.isFinite(link.bytesPerSecond) ? link.bytesPerSecond : null,
        minOrder,
        zeroScanBytesPerSecond: zeroScan,
        zeroScan: request.zeroScanBytesPerSecond === undefined ? 'measured' : 'given',
        dirty: IDLE_DIRTY,
      },
      predictions,
      ...measured,
    };
  } catch (thrown) {
    if (!signal.aborted || !isLacunaError(thrown, 'CANCELLED')) {
      throw thrown;
    }
    console.error('interrupted');
    return ExitCode.interrupted;
  } finally {
    progress.done();
  }
  console.log(printed(report));
  if (request.json !== undefined) {
    writeReport(request.json, report);
  }
  const runs = (report.checks ?? []).flatMap((done) => done.runs);
  return runs.every(isGood) ? ExitCode.ok : ExitCode.verificationFailed;
}
