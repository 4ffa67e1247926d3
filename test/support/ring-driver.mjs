/**
 * The driver of test/integration/ring-threads.test.ts: a worker that puts a given number of ranges on a ring, each
 * with its sequence number for an address. Plain JavaScript, since Node 20 can't load TypeScript as a worker.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { DirtyLog } from '../../dist/src/memory/dirty-log.js';
import { SharedGuestMemory } from '../../dist/src/memory/guest-memory.js';
import { PageBitmap } from '../../dist/src/memory/page-bitmap.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { atomicMapper } from '../../dist/src/memory/shared-words.js';
import { DriverQueue } from '../../dist/src/virtqueue/driver-queue.js';

const { blocks, buffers, logBuffer, control, words, addresses, eventIdx, ranges, firstGpa, gpaStep } =
  workerData;
const memory = new SharedGuestMemory(new RamLayout(blocks), buffers);
const log = new DirtyLog(
  new PageBitmap(atomicMapper.words(logBuffer, 0, logBuffer.byteLength / 4), memory.layout.pfnSpan),
);
const shared = atomicMapper.words(control, 0, control.byteLength / 4);
const driver = new DriverQueue(memory, atomicMapper, log, addresses, eventIdx);

/** Pairs with the wait of the device's thread. */
function ringHost() {
  shared.add(words.HOST_DOORBELL, 1);
  shared.notify(words.HOST_DOORBELL);
}

const told = { sleeps: 0, notifications: 0, reclaimed: 0, batches: 0 };

function reclaim() {
  let count = 0;
  for (let some = driver.reclaim(); some > 0; some = driver.reclaim()) {
    count += some;
  }
  told.reclaimed += count;
  return count;
}

/** Until something came back: asks for an interrupt, looks once more, and only then sleeps. */
function waitForUsed() {
  for (;;) {
    const seen = shared.load(words.GUEST_DOORBELL);
    if (!driver.enableInterrupts()) {
      told.sleeps += 1;
      shared.store(words.DRIVER_SLEEPS, 1);
      shared.notify(words.DRIVER_SLEEPS);
      shared.wait(words.GUEST_DOORBELL, seen, Number.POSITIVE_INFINITY);
    }
    driver.disableInterrupts();
    if (reclaim() > 0) {
      return;
    }
  }
}

driver.disableInterrupts();
// The device's thread sleeps before the first range is put on the ring: it has to be woken.
parentPort.postMessage('ready');
shared.wait(words.START, 0, Number.POSITIVE_INFINITY);

for (let sequence = 0; sequence < ranges; ) {
  // Batches of every length up to the ring's.
  told.batches += 1;
  for (let room = 1 + (told.batches % addresses.size); room > 0 && sequence < ranges; room -= 1) {
    if (driver.tryAddInbuf(firstGpa + sequence * gpaStep, 1 + (sequence % gpaStep)) === -1) {
      break;
    }
    sequence += 1;
  }
  driver.publish();
  if (driver.needsNotification()) {
    told.notifications += 1;
    ringHost();
  }
  if (driver.freeCount === 0 && reclaim() === 0) {
    waitForUsed();
  }
}
while (!driver.idle) {
  if (reclaim() === 0) {
    waitForUsed();
  }
}
parentPort.postMessage(told);
