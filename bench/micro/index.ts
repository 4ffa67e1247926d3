/**
 * The hot paths in one thread, each beside its naive twin in the same run.
 *
 * ```
 * npm run build && node dist/bench/micro/index.js
 * ```
 */
import { Bench } from 'tinybench';
import { loadCapture } from '../../src/cli/captures.js';
import { BuddyAllocator } from '../../src/guest/buddy-allocator.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { imageBitmaps } from '../../src/guest/image.js';
import { layOutMetadata } from '../../src/guest/metadata.js';
import { mapDirtyLog } from '../../src/guest/runtime.js';
import { equalBytes, isZeroPage } from '../../src/memory/byte-ops.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf, MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { bitmapWords, PageBitmap, type PageRun } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { DeviceQueue, NextElement, QueueElement } from '../../src/virtqueue/device-queue.js';
import { DriverQueue } from '../../src/virtqueue/driver-queue.js';
import { packQueue } from '../../src/virtqueue/layout.js';
import { NaiveBuddy } from '../../test/support/naive-buddy.js';
import { naiveEqualBytes, naiveIsZeroPage } from '../../test/support/naive-zero-scan.js';
import { count, printMachine, printTable } from './figures.js';
import { NaiveRing } from './naive-ring.js';

/** One thing done in two ways. Both return a number that depends on all of the work, and must agree on it. */
interface Comparison {
  readonly name: string;
  /** What one operation is, and how many of them a call does. */
  readonly unit: string;
  readonly perCall: number;
  readonly ours: () => number;
  readonly naive: () => number;
}

const RING_SIZE = 1024;
const BATCH = 64;
const RANGE_PAGES = 8;
const TIME_MS = 1000;

function machine(pageCount: number) {
  const layout = new RamLayout([{ startGpa: 0, endGpa: gpaOf(pageCount) }]);
  const memory = SharedGuestMemory.allocate(layout);
  const log = mapDirtyLog(atomicMapper, new SharedArrayBuffer(bitmapWords(pageCount) * 4), pageCount);
  return { memory, log, ram: new GuestRam(memory, atomicMapper, log) };
}

function ringInBatches(): Comparison {
  const { memory, log } = machine(1024);
  const addresses = packQueue(0, RING_SIZE);
  const driver = new DriverQueue(memory, atomicMapper, log, addresses, true);
  const device = new DeviceQueue(memory, atomicMapper, log, addresses, true);
  const element = new QueueElement(RING_SIZE);
  driver.disableInterrupts();
  device.disableNotifications();
  const twin = new NaiveRing(RING_SIZE);
  return {
    name: `ring: add, publish, take, return, reclaim; batches of ${BATCH}`,
    unit: 'range',
    perCall: BATCH,
    ours: () => {
      let sum = 0;
      for (let i = 0; i < BATCH; i += 1) {
        driver.tryAddInbuf(gpaOf(i * RANGE_PAGES), RANGE_PAGES * PAGE_SIZE);
      }
      driver.publish();
      driver.needsNotification();
      device.refresh();
      while (device.next(element) === NextElement.element) {
        sum += element.gpa[0]! + element.lengthBytes[0]!;
        device.pushUsed(element.head, 0);
      }
      device.publishUsed();
      device.needsInterrupt();
      driver.reclaim();
      return sum;
    },
    naive: () => {
      let sum = 0;
      for (let i = 0; i < BATCH; i += 1) {
        twin.tryAdd({ gpa: BigInt(i * RANGE_PAGES) * 4096n, lengthBytes: RANGE_PAGES * PAGE_SIZE });
      }
      for (let taken = twin.take(); taken !== undefined; taken = twin.take()) {
        sum += Number(taken.gpa) + taken.lengthBytes;
      }
      twin.reclaim();
      return sum;
    },
  };
}

function bitmapRuns(): Comparison {
  const { free } = imageBitmaps(atomicMapper, loadCapture('fragmented-2g'));
  const run: PageRun = { pfn: 0, pageCount: 0 };
  const ours = (): number => {
    let runs = 0;
    for (let from = 0; free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
      runs += 1;
    }
    return runs;
  };
  return {
    name: 'bitmap: runs of free pages, fragmented-2g',
    unit: 'run',
    perCall: ours(),
    ours,
    naive: () => {
      let runs = 0;
      let before = false;
      for (let pfn = 0; pfn < free.pageCount; pfn += 1) {
        const now = free.test(pfn);
        runs += now && !before ? 1 : 0;
        before = now;
      }
      return runs;
    },
  };
}

function allocating(): Comparison {
  const pfnSpan = (8 * MIB) / PAGE_SIZE;
  const { ram } = machine(1024);
  const { allocator: addresses } = layOutMetadata(0, { pfnSpan, ringSize: 8 });
  const allocator = new BuddyAllocator(ram, addresses, pfnSpan);
  const free = PageBitmap.allocate(atomicMapper, pfnSpan);
  const flags = Array.from({ length: pfnSpan }, (_, pfn) => pfn % 64 < 48);
  for (const [pfn, isFree] of flags.entries()) {
    if (isFree) {
      free.set(pfn);
    }
  }
  allocator.initialise(free);
  const twin = new NaiveBuddy(flags);
  const work = (buddy: BuddyAllocator | NaiveBuddy): number => {
    let sum = 0;
    for (let i = 0; i < BATCH; i += 1) {
      const order = i & 3;
      const pfn = buddy.allocate(order);
      sum += pfn;
      buddy.release(pfn, order);
    }
    return sum;
  };
  return {
    name: 'allocator: allocate and release, orders 0–3, 8 MiB',
    unit: 'operation',
    perCall: BATCH * 2,
    ours: () => work(allocator),
    naive: () => work(twin),
  };
}

const PAGES = 1024;

function zeroScan(): Comparison {
  const bytes = new Uint8Array(new SharedArrayBuffer(PAGES * PAGE_SIZE));
  const scan = (isZero: (bytes: Uint8Array, byteOffset: number) => boolean): number => {
    let zero = 0;
    for (let page = 0; page < PAGES; page += 1) {
      zero += isZero(bytes, page * PAGE_SIZE) ? 1 : 0;
    }
    return zero;
  };
  return {
    name: 'zero scan: pages that are all zero, 4 MiB',
    unit: 'page',
    perCall: PAGES,
    ours: () => scan(isZeroPage),
    naive: () => scan(naiveIsZeroPage),
  };
}

function pageCompare(): Comparison {
  const pages = (): Uint8Array[] => {
    const bytes = new Uint8Array(new SharedArrayBuffer(PAGES * PAGE_SIZE)).fill(7);
    return Array.from({ length: PAGES }, (_, i) => bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
  };
  const [ones, others] = [pages(), pages()];
  const compare = (equal: (a: Uint8Array, b: Uint8Array) => boolean): number => {
    let same = 0;
    for (let page = 0; page < PAGES; page += 1) {
      same += equal(ones[page]!, others[page]!) ? 1 : 0;
    }
    return same;
  };
  return {
    name: 'compare: equal pages, 4 MiB with 4 MiB',
    unit: 'page',
    perCall: PAGES,
    ours: () => compare(equalBytes),
    naive: () => compare(naiveEqualBytes),
  };
}

async function main(): Promise<void> {
  printMachine();
  const comparisons = [ringInBatches(), bitmapRuns(), allocating(), zeroScan(), pageCompare()];
  const bench = new Bench({
    time: TIME_MS,
    warmupTime: TIME_MS / 4,
    timestampProvider: 'hrtimeNow',
    throws: true,
  });
  for (const { name, ours, naive } of comparisons) {
    if (ours() !== naive()) {
      throw new Error(`${name}: the twins do not agree`);
    }
    bench.add(name, ours).add(`${name} (naive)`, naive);
  }
  await bench.run();
  const perSecond = (name: string, perCall: number): number => {
    const result = bench.getTask(name)?.result;
    if (result?.state !== 'completed') {
      throw new Error(`${name}: ${result?.state}`);
    }
    return (perCall * 1000) / result.latency.p50;
  };
  printTable(
    ['what', 'one', 'ours, a second', 'ns', 'naive, a second', 'ratio'],
    comparisons.map(({ name, unit, perCall }) => {
      const ours = perSecond(name, perCall);
      const naive = perSecond(`${name} (naive)`, perCall);
      return [
        name,
        unit,
        count(ours),
        (1e9 / ours).toFixed(1),
        count(naive),
        `${(ours / naive).toFixed(1)}×`,
      ];
    }),
  );
  console.log(`Medians of samples of ${TIME_MS} ms each.`);
}

await main();
