import { workerData } from 'node:worker_threads';
import { CompressionSlots } from '../src/transport/network/compression-slots.js';
import type { CompressorThreadData, CompressTask } from '../src/transport/network/compressor.js';

const slots = new CompressionSlots((workerData as CompressorThreadData).slots);

export default function compress({ slot, runCount }: CompressTask): number {
  const from = performance.now();
  slots.compress(slot, runCount);
  return performance.now() - from;
}
