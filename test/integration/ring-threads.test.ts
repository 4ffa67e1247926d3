import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { DirtyLog } from '../../src/memory/dirty-log.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { MIB } from '../../src/memory/page.js';
import { bitmapWords, PageBitmap } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { DeviceQueue, NextElement, QueueElement } from '../../src/virtqueue/device-queue.js';
import { packQueue } from '../../src/virtqueue/layout.js';

/** The words that both threads share beside guest RAM. */
const WORDS = { HOST_DOORBELL: 0, GUEST_DOORBELL: 1, START: 2, DRIVER_SLEEPS: 3 } as const;

const RANGES = 1_000_000;
const GPA_STEP = 8;
/** RAM for a million addresses of 8 bytes each, and the ring before them. */
const RAM_BYTES = 9 * MIB;
const FIRST_GPA = MIB;

/** What test/support/ring-driver.mjs says when it is done. */
interface DriverTold {
  readonly sleeps: number;
  readonly notifications: number;
  readonly reclaimed: number;
  readonly batches: number;
}

/** Starts the driver's thread, and is the device until every range has come. */
async function carry(eventIdx: boolean, size: number) {
  const blocks = [{ startGpa: 0, endGpa: RAM_BYTES }];
  const memory = SharedGuestMemory.allocate(new RamLayout(blocks));
  const logBuffer = new SharedArrayBuffer(bitmapWords(memory.layout.pfnSpan) * 4);
  const log = new DirtyLog(
    new PageBitmap(atomicMapper.words(logBuffer, 0, logBuffer.byteLength / 4), memory.layout.pfnSpan),
  );
  const control = new SharedArrayBuffer(Object.keys(WORDS).length * 4);
  const words = atomicMapper.words(control, 0, control.byteLength / 4);
  const addresses = packQueue(0, size);
  const worker = new Worker(new URL('../support/ring-driver.mjs', import.meta.url), {
    workerData: {
      blocks,
      buffers: memory.buffers,
      logBuffer,
      control,
      words: WORDS,
      addresses,
      eventIdx,
      ranges: RANGES,
      firstGpa: FIRST_GPA,
      gpaStep: GPA_STEP,
    },
  });
  // A driver that dies must not leave the device asleep.
  const died = once(worker, 'exit').then(([code]) => {
    throw new Error(`the driver's thread ended with ${code}`);
  });
  died.catch(() => undefined);
  try {
    await Promise.race([once(worker, 'message'), died]);
    const device = new DeviceQueue(memory, atomicMapper, log, addresses, eventIdx);
    const element = new QueueElement(size);
    const told = once(worker, 'message') as Promise<[DriverTold]>;
    const host = { received: 0, sleeps: 0, interrupts: 0 };

    const takeBatch = (): void => {
      while (device.next(element) === NextElement.element) {
        const expectedGpa = FIRST_GPA + host.received * GPA_STEP;
        const expectedBytes = 1 + (host.received % GPA_STEP);
        if (element.gpa[0] !== expectedGpa || element.lengthBytes[0] !== expectedBytes) {
          const sequence = (element.gpa[0]! - FIRST_GPA) / GPA_STEP;
          throw new Error(
            `range ${host.received} was to come and ${sequence} came: lost, doubled or reordered`,
          );
        }
        host.received += 1;
        device.pushUsed(element.head, 0);
      }
      device.publishUsed();
      if (device.needsInterrupt()) {
        host.interrupts += 1;
        words.add(WORDS.GUEST_DOORBELL, 1);
        words.notify(WORDS.GUEST_DOORBELL);
      }
      if (device.fault !== undefined) {
        throw new Error(device.fault.message);
      }
    };

    while (host.received < RANGES) {
      device.disableNotifications();
      while (device.refresh()) {
        if (host.received === 0) {
          // The first batch is left lying until the driver has filled the ring and has gone to sleep, too.
          await Promise.race([words.waitAsync(WORDS.DRIVER_SLEEPS, 0), died]);
        }
        takeBatch();
      }
      const seen = words.load(WORDS.HOST_DOORBELL);
      if (host.received < RANGES && !device.enableNotifications()) {
        const woken = words.waitAsync(WORDS.HOST_DOORBELL, seen);
        if (host.sleeps === 0) {
          words.store(WORDS.START, 1);
          words.notify(WORDS.START);
        }
        host.sleeps += 1;
        await Promise.race([woken, died]);
      }
    }
    const [driver] = await Promise.race([told, died]);
    return { host, driver, usedIdx: device.saveState().usedIdx, log };
  } finally {
    await worker.terminate();
  }
}

it.each([
  ['flags', false, 256],
  ['EVENT_IDX', true, 256],
  ['EVENT_IDX', true, 8],
] as const)(
  'carries a million ranges between threads, in order, and sleeps on the doorbell (%s, %s, ring of %d)',
  async (_, eventIdx, size) => {
    const { host, driver, usedIdx, log } = await carry(eventIdx, size);
    expect(host.received).toBe(RANGES);
    expect(driver.reclaimed).toBe(RANGES);
    expect(usedIdx).toBe(RANGES & 0xffff);
    // Both sides slept, and were woken by the other.
    expect(host.sleeps).toBeGreaterThan(0);
    expect(driver.notifications).toBeGreaterThan(0);
    expect(driver.sleeps).toBeGreaterThan(0);
    expect(host.interrupts).toBeGreaterThan(0);
    // What both wrote is in the log: the ring's pages, and no others.
    expect(log.bitmap.nextSet(0)).toBe(0);
    expect(log.bitmap.nextSet(packQueue(0, size).usedGpa / 4096 + 2)).toBe(log.bitmap.pageCount);
  },
);
