import { describe, expect, it } from 'vitest';
import { loadCapture } from '../../dist/src/cli/captures.js';
import { reportedPages, zeroPages } from '../../dist/src/guest/booted-memory.js';
import {
  atomicMapper,
  EventWord,
  MemoryPool,
  migrate,
  RamLayout,
  WorkerDestination,
  WorkerGuest,
} from '../../dist/src/index.js';
import { zeroMemory } from '../../dist/src/memory/memory-pool.js';
import { estimateMigration } from '../../dist/src/migration/estimate.js';
import { DEFAULT_RING_SIZE } from '../../dist/src/vmm/worker-guest.js';
import { LONG } from '../support/long.js';

const BYTES_TOLERANCE = 0.002;
/** Longer than any report takes, so that nothing in it depends on how busy the machine is. */
const PATIENCE_MS = 120_000;

describe.each(['build-2g', 'fragmented-2g'])(
  'the bytes that %s takes',
  (name) => {
    const image = loadCapture(name);
    const layout = new RamLayout(image.blocks);
    const pool = new MemoryPool();

    // What a capture is changes what hints find; the rest is the same for each.
    const runs = [
      ['zero', { hints: false, zeroDetection: true, minOrder: 0 }],
      ['both', { hints: true, zeroDetection: true, minOrder: 0 }],
      ['hints from order 4', { hints: true, zeroDetection: false, minOrder: 4 }],
    ] as const;
    it.each(LONG || name === 'build-2g' ? runs : runs.slice(-1))(
      'are those predicted: %s',
      async (_, { hints, zeroDetection, minOrder }) => {
        const predicted = estimateMigration(atomicMapper, {
          layout,
          reported: hints ? reportedPages(atomicMapper, image, minOrder).pages : undefined,
          zero: zeroDetection ? zeroPages(atomicMapper, image, 'captured', DEFAULT_RING_SIZE) : undefined,
          bytesPerSecond: Number.POSITIVE_INFINITY,
          zeroScanBytesPerSecond: 8e9,
          dirty: { pagesPerSecond: 0, setPages: 0 },
        });
        const memories = [pool.take(layout), pool.take(layout)] as const;
        zeroMemory(memories[1]);
        const guest = await WorkerGuest.boot({
          image,
          memory: memories[0],
          event: new EventWord(atomicMapper),
          freeMemory: 'captured',
          workload: { kind: 'halt' },
          minOrder,
          ringDeadlineMs: PATIENCE_MS,
        });
        const destination = await WorkerDestination.prepare(guest, memories[1], { holdAtStart: true });
        guest.run();
        const source = await migrate({
          vm: guest,
          channel: destination.channel,
          event: guest.event,
          options: {
            hints,
            zeroDetection,
            schedule: 'wait',
            hintTimeoutMs: PATIENCE_MS,
            hintDeadlineMs: PATIENCE_MS,
          },
        });
        await Promise.all([guest.stop(), destination.guest.stop()]);
        await destination.close();
        for (const memory of memories) {
          pool.giveBack(memory);
        }
        expect(source.error).toBeUndefined();
        expect(source.phase).toBe('completed');
        expect(source.accounts.hints.applied).toBe(predicted.skippedPages);
        const { pages, zeroPages: zero } = source.sent;
        expect(predicted.pages / pages).toBeGreaterThan(1 - BYTES_TOLERANCE);
        expect(predicted.pages / pages).toBeLessThan(1 + BYTES_TOLERANCE);
        expect(predicted.transferredBytes / source.transferredBytes).toBeGreaterThan(1 - BYTES_TOLERANCE);
        expect(predicted.transferredBytes / source.transferredBytes).toBeLessThan(1 + BYTES_TOLERANCE);
        expect(Math.abs(predicted.zeroPages - zero)).toBeLessThan(100); // the queues' pages, and a few more
      },
    );
  },
  300_000,
);
