import { isLacunaError } from '../../errors.js';
import { reportedPages, zeroPages } from '../../guest/booted-memory.js';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import type { FreeMemoryMode, GuestImage } from '../../guest/image.js';
import type { MemoryMap } from '../../guest/memory-map.js';
import { IDLE_WORKLOAD, pagesPerSecond } from '../../guest/workload.js';
import { PAGE_SIZE } from '../../memory/page.js';
import type { PageBitmap } from '../../memory/page-bitmap.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { estimateMigration } from '../../migration/estimate.js';
import type { Baseline } from '../../report/schema.js';
import { DEFAULT_RING_SIZE } from '../../vmm/worker-guest.js';
import type { AssumedFreeMemory, OrderReport, Prediction } from './report.js';

/** The housekeeping of an idle guest, as `bench` has it unless it is told otherwise. */
export const IDLE_DIRTY: { readonly pagesPerSecond: number; readonly setPages: number } = {
  pagesPerSecond: pagesPerSecond(IDLE_WORKLOAD),
  setPages: 64,
};

/** What predictions are made for. */
export interface Assumptions {
  readonly bytesPerSecond: number;
  readonly minOrder: number;
  /** What free pages hold; undefined: what the capture says, or both bounds where nothing says. */
  readonly freeMemory: FreeMemoryMode | undefined;
  readonly zeroScanBytesPerSecond: number;
  /** The built-in guest's tables lie on top of the memory map, as when `bench` boots it. */
  readonly builtInGuest: boolean;
}

export function orderReports(map: MemoryMap): OrderReport[] {
  const { blocks, pagesFrom, rangesFrom } = map.freeByOrder;
  return blocks.map((of, order) => ({
    order,
    blocks: of,
    bytes: pagesFrom[order]! * PAGE_SIZE,
    ranges: rangesFrom[order]!,
    shareOfFree: map.use.free === 0 ? 0 : pagesFrom[order]! / map.use.free,
    shareOfMemory: pagesFrom[order]! / map.use.pages,
  }));
}

/**
 * The four baselines; those with hints once more with the largest order, the only one that Linux reports; those with
 * zero detection once for each thing that free pages may hold.
 */
export function predict(image: GuestImage, assumed: Assumptions): Prediction[] {
  const layout = new RamLayout(image.blocks);
  const modes: readonly FreeMemoryMode[] =
    assumed.freeMemory === undefined
      ? image.zeroUnknown === true
        ? ['zero', 'data']
        : ['captured']
      : [assumed.freeMemory];
  const zeroes = modes.map((mode) => ({ mode, zero: zeroPagesOf(image, mode, assumed.builtInGuest) }));
  const predictions: Prediction[] = [];
  const add = (
    baseline: Baseline,
    freeMemory: AssumedFreeMemory,
    minOrder: number | null,
    reported: PageBitmap | undefined,
    zero: PageBitmap | undefined,
  ): void => {
    const result = estimateMigration(atomicMapper, {
      layout,
      reported,
      zero,
      bytesPerSecond: assumed.bytesPerSecond,
      zeroScanBytesPerSecond: assumed.zeroScanBytesPerSecond,
      dirty: IDLE_DIRTY,
    });
    const none = predictions[0];
    predictions.push({
      baseline,
      freeMemory,
      minOrder,
      'total-time': result.totalMs,
      transferred: result.transferredBytes,
      normal: result.pages,
      duplicate: result.zeroPages,
      skipped: result.skippedPages,
      timeSaved:
        none === undefined || none['total-time'] === null || result.totalMs === null
          ? null
          : 1 - result.totalMs / none['total-time'],
      bytesSaved: none === undefined ? 0 : none.transferred - result.transferredBytes,
    });
  };
  add('none', 'any', null, undefined, undefined);
  for (const { mode, zero } of zeroes) {
    add('zero', mode, null, undefined, zero);
  }
  for (const minOrder of new Set([assumed.minOrder, MAX_ORDER])) {
    const { pages } = reportedPages(atomicMapper, image, minOrder);
    add('hints', 'any', minOrder, pages, undefined);
    for (const { mode, zero } of zeroes) {
      add('both', mode, minOrder, pages, zero);
    }
  }
  return predictions;
}

function zeroPagesOf(image: GuestImage, mode: FreeMemoryMode, builtInGuest: boolean): PageBitmap {
  try {
    return zeroPages(atomicMapper, image, mode, builtInGuest ? DEFAULT_RING_SIZE : undefined);
  } catch (thrown) {
    if (!isLacunaError(thrown, 'GUEST_TOO_SMALL')) {
      throw thrown;
    }
    return zeroPages(atomicMapper, image, mode); // bench can't boot it, but its map can still be judged
  }
}
