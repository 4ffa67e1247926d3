/**
 * The free page queue across two threads: the driver's side in a worker (`ring-driver.ts`), the device's side here,
 * over shared guest memory with its dirty log on. Target: 20 million ranges a second.
 *
 * ```
 * npm run build && node dist/bench/micro/ring-threads.js [million ranges a run, 50] [runs, 5]
 * ```
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { mapDirtyLog } from '../../src/guest/runtime.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { bitmapWords } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { DeviceQueue, NextElement, QueueElement } from '../../src/virtqueue/device-queue.js';
import { packQueue } from '../../src/virtqueue/layout.js';
import { printMachine, printTable, spread } from './figures.js';
import { END, GO, RANGES, type RingDriverData } from './ring-driver-data.js';

const GUEST_BYTES = 64 * MIB;
const RANGES_A_RUN = Number(process.argv[2] ?? 50) * 1e6;
const RUNS = Number(process.argv[3] ?? 5);
/** As the balloon device returns them. */
const RETURN_BATCH = 128;
const WARM_UP_RANGES = 4e6;

async function rangesPerSecond(size: number): Promise<number[]> {
  const layout = new RamLayout([{ startGpa: 0, endGpa: GUEST_BYTES }]);
  const memory = SharedGuestMemory.allocate(layout);
  const { pfnSpan } = layout;
  const data: RingDriverData = {
    blocks: layout.blocks,
    buffers: memory.buffers,
    log: new SharedArrayBuffer(bitmapWords(pfnSpan) * 4),
    control: new SharedArrayBuffer(16),
    addresses: packQueue(0, size),
  };
  const control = atomicMapper.words(data.control, 0, 4);
  const worker = new Worker(new URL('./ring-driver.js', import.meta.url), { workerData: data });
  await once(worker, 'message');
  const device = new DeviceQueue(
    memory,
    atomicMapper,
    mapDirtyLog(atomicMapper, data.log, pfnSpan),
    data.addresses,
    true,
  );
  device.disableNotifications();
  const element = new QueueElement(size);

  const run = (ranges: number): number => {
    control.store(RANGES, ranges);
    const from = performance.now();
    control.add(GO, 1);
    control.notify(GO);
    let bytes = 0;
    for (let taken = 0; taken < ranges; ) {
      if (!device.refresh()) {
        continue;
      }
      for (let i = 0; i < RETURN_BATCH && device.next(element) === NextElement.element; i += 1) {
        bytes += element.lengthBytes[0]!;
        device.pushUsed(element.head, 0);
        taken += 1;
      }
      device.publishUsed();
      device.needsInterrupt();
    }
    const ms = performance.now() - from;
    if (device.fault !== undefined || bytes !== ranges * PAGE_SIZE) {
      throw new Error(`the ring carried ${bytes} bytes in ${ranges} ranges: ${device.fault?.message}`);
    }
    return (ranges * 1000) / ms;
  };

  run(WARM_UP_RANGES);
  const figures = Array.from({ length: RUNS }, () => run(RANGES_A_RUN));
  control.store(RANGES, END);
  control.add(GO, 1);
  control.notify(GO);
  await once(worker, 'exit');
  return figures;
}

printMachine();
const rows: string[][] = [];
for (const size of [1024, 4096]) {
  const figures = await rangesPerSecond(size);
  rows.push([
    String(size),
    spread(
      figures.map((figure) => figure / 1e6),
      1,
    ),
    String(figures.length),
  ]);
}
printTable(['ring size', 'million ranges a second', 'n'], rows);
