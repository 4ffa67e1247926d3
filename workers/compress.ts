import { workerData } from 'node:worker_threads';
import { CompressionGate } from '../src/transport/network/compression-gate.js';
import { CompressionSlots } from '../src/transport/network/compression-slots.js';
import type { CompressorThreadData, CompressTask } from '../src/transport/network/compressor.js';

const shared = workerData as CompressorThreadData;
const slots = new CompressionSlots(shared.slots);
const gate = new CompressionGate(shared.gate);

export default function compress(task: CompressTask | undefined): number {
  if (task === undefined || !gate.enter()) {
    return 0; // nobody waits for it
  }
  try {
    const from = performance.now();
    slots.compress(task.slot, task.runCount);
    return performance.now() - from;
  } finally {
    gate.leave();
  }
}
