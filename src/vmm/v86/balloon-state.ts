import type { BalloonDevice, BalloonDeviceState } from '../../balloon/balloon-device.js';
import type { RamLayout } from '../../memory/ram-layout.js';
import { FIRST_COMMAND_ID, LAST_COMMAND_ID } from '../../spec/command-register.js';
import type { DeviceQueueState } from '../../virtqueue/device-queue.js';
import { invalid, isWhole } from './state-checks.js';

/** Of {@link saveBalloonState}. */
const VERSION = 1;
/** Values of the registers. */
const REGISTERS = 4;

/** What of a balloon was saved with the machine. */
export interface SavedBalloon {
  /** The transport's own, for v86. */
  readonly transport: unknown[];
  readonly values: readonly number[];
  readonly state: BalloonDeviceState;
  /** Runs of pages in the balloon: pfn, count, pfn, count, … */
  readonly inflated: readonly number[];
}

/** The balloon's part of a machine's state, as v86 can save it: arrays of numbers. */
export function saveBalloonState(values: readonly number[], balloon: BalloonDevice): unknown[] {
  const { queues, nextId, owesDone } = balloon.saveState();
  return [
    VERSION,
    [...values],
    queues.map((queue) => (queue === null ? null : [queue.lastAvailIdx, queue.usedIdx])),
    nextId,
    owesDone ? 1 : 0,
    balloon.inflated.runs(),
  ];
}

/**
 * The same, read. It may come from a peer, who is not trusted; where a queue lies is the guest's word anyhow, and not
 * believed by the device (I6). Throws DEVICE_STATE_INVALID.
 */
export function parseBalloonState(saved: unknown, layout: RamLayout): SavedBalloon {
  if (!Array.isArray(saved) || !Array.isArray(saved[0]) || !Array.isArray(saved[1])) {
    throw invalid("it was saved with v86's own balloon: open the machine with lacuna before it is saved");
  }
  const [version, values, queues, nextId, owesDone, inflated] = saved[1] as unknown[];
  if (version !== VERSION) {
    throw invalid(`its balloon is of version ${String(version)}, and this is version ${VERSION}`);
  }
  if (
    !isNumbers(values, 0xffff_ffff) ||
    values.length !== REGISTERS ||
    !Array.isArray(queues) ||
    queues.length > 8 ||
    !isWhole(nextId, LAST_COMMAND_ID) ||
    nextId < FIRST_COMMAND_ID ||
    !isNumbers(inflated, layout.pfnSpan)
  ) {
    throw invalid('its balloon has values out of range');
  }
  checkRuns(inflated, layout);
  const state: BalloonDeviceState = {
    queues: queues.map(parseQueue),
    nextId,
    eventIdx: false,
    owesDone: owesDone === 1,
  };
  return { transport: saved[0] as unknown[], values, state, inflated };
}

function parseQueue(queue: unknown): DeviceQueueState | null {
  if (queue === null) {
    return null;
  }
  if (!isNumbers(queue, 0xffff) || queue.length !== 2) {
    throw invalid('its balloon has a queue with indices out of range');
  }
  return { lastAvailIdx: queue[0]!, usedIdx: queue[1]! };
}

function checkRuns(runs: readonly number[], layout: RamLayout): void {
  for (let i = 0; i < runs.length; i += 2) {
    const pfn = runs[i]!;
    const pageCount = runs[i + 1] ?? 0;
    if (pageCount === 0 || pfn + pageCount > layout.pfnSpan) {
      throw invalid('its balloon holds pages that are not RAM');
    }
  }
}

function isNumbers(values: unknown, atMost: number): values is number[] {
  return Array.isArray(values) && values.every((value) => isWhole(value, atMost));
}
