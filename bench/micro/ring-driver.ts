/** The driver's side of `ring-threads`: puts ranges of a page on the ring as fast as they are taken off it. */
import { parentPort, workerData } from 'node:worker_threads';
import { mapDirtyLog } from '../../src/guest/runtime.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { DriverQueue } from '../../src/virtqueue/driver-queue.js';
import { END, GO, RANGES, type RingDriverData } from './ring-driver-data.js';

/** As many as a slice of the report driver adds. */
const RANGES_PER_STEP = 512;

const data = workerData as RingDriverData;
const layout = new RamLayout(data.blocks);
const control = atomicMapper.words(data.control, 0, 4);
const queue = new DriverQueue(
  new SharedGuestMemory(layout, data.buffers),
  atomicMapper,
  mapDirtyLog(atomicMapper, data.log, layout.pfnSpan),
  data.addresses,
  true,
);
queue.disableInterrupts();

function drive(ranges: number): void {
  let pfn = 0;
  for (let left = ranges; left > 0; ) {
    queue.reclaim();
    const batch = Math.min(left, queue.freeCount, RANGES_PER_STEP);
    for (let i = 0; i < batch; i += 1) {
      queue.tryAddInbuf(pfn * PAGE_SIZE, PAGE_SIZE);
      pfn = (pfn + 2) % layout.pfnSpan;
    }
    queue.publish();
    queue.needsNotification();
    left -= batch;
  }
  while (!queue.idle) {
    queue.reclaim();
  }
}

let runs = control.load(GO);
parentPort?.postMessage('up');
for (;;) {
  control.wait(GO, runs, Number.POSITIVE_INFINITY);
  if (control.load(GO) === runs) {
    continue;
  }
  runs += 1;
  const ranges = control.load(RANGES);
  if (ranges === END) {
    break;
  }
  drive(ranges);
}
