/**
 * The two threads of the ring's litmus test (test/integration/litmus.test.ts): message passing in both directions,
 * through the built driver and device queues.
 *
 * ```
 *   driver                                                device
 *   canaries into the buffer      plain                   idx ?                        refresh
 *   descriptor, ring entry        plain                   descriptor as sent?          next
 *   avail.idx                     publish, one store ──▶  canaries as sent?
 *                                                         answer into the buffer       plain
 *   used.idx ?                    reclaim            ◀──  used.idx                     publishUsed, one store
 *   answer as sent?
 * ```
 *
 * Every buffer belongs to a descriptor, so both are written over as soon as they have come back: whoever sees an index
 * before what it publishes sees an older message, or half of one. The device returns each batch last first, so that no
 * slot of a ring holds by chance what it held a turn before.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { DirtyLog } from '../../dist/src/memory/dirty-log.js';
import { SharedGuestMemory } from '../../dist/src/memory/guest-memory.js';
import { PageBitmap } from '../../dist/src/memory/page-bitmap.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { atomicMapper } from '../../dist/src/memory/shared-words.js';
import { DeviceQueue, NextElement, QueueElement } from '../../dist/src/virtqueue/device-queue.js';
import { DriverQueue } from '../../dist/src/virtqueue/driver-queue.js';

const { role, blocks, buffers, logBuffer, control, words, addresses, buffersGpa, messages } = workerData;
const memory = new SharedGuestMemory(new RamLayout(blocks), buffers);
const log = new DirtyLog(
  new PageBitmap(atomicMapper.words(logBuffer, 0, logBuffer.byteLength / 4), memory.layout.pfnSpan),
);
const shared = atomicMapper.words(control, 0, control.byteLength / 4);
const ram = new Uint32Array(memory.segments[0].bytes.buffer);

const BUFFER_WORDS = 16;
const SPINS = 20_000;
const told = { messages: 0, wrong: 0, firstWrong: undefined, batches: 0, longestBatch: 0 };

/** What message `n` is: words of its buffer, and whether the device answers in it. */
const lengthOf = (n) => 1 + (n % BUFFER_WORDS);
const isAnswered = (n) => n % 3 !== 0;
const canary = (n, i) => (Math.imul(n, 0x9e37_79b1) + i) >>> 0;
const answer = (n, i) => ~canary(n, i) >>> 0;
const gpaOfBuffer = (head) => buffersGpa + head * BUFFER_WORDS * 4;

function check(holds, what, n, ...seen) {
  if (!holds) {
    told.wrong += 1;
    told.firstWrong ??= `message ${n}: ${what}: ${seen.join(', ')}`;
  }
}

function checkWords(head, n, expected, what) {
  const at = gpaOfBuffer(head) / 4;
  for (let i = 0; i < lengthOf(n); i += 1) {
    const seen = ram[at + i];
    if (seen !== expected(n, i)) {
      check(false, what, n, i, seen);
    }
  }
}

/** Spins until there is something to do; then sleeps until the other side has published more. */
function untilNews(counter, hasNews) {
  for (;;) {
    const seen = shared.load(counter);
    for (let spins = 0; spins < SPINS; spins += 1) {
      if (hasNews()) {
        return;
      }
    }
    shared.wait(counter, seen, Number.POSITIVE_INFINITY);
  }
}

/** After an index was published: for a side that sleeps. Whoever spins looks at the ring alone. */
function wake(counter) {
  shared.add(counter, 1);
  shared.notify(counter);
}

function drive() {
  const driver = new DriverQueue(memory, atomicMapper, log, addresses, false);
  driver.disableInterrupts();
  const inBuffer = new Int32Array(driver.size).fill(-1); // by descriptor, the message that it carried last
  /** The descriptor is the driver's again: what it carried has been answered. */
  const checkAnswer = (head) => {
    const n = inBuffer[head];
    if (n !== -1) {
      checkWords(head, n, isAnswered(n) ? answer : canary, 'what came back');
      told.messages += 1;
      inBuffer[head] = -1;
    }
  };
  for (let n = 0; n < messages; ) {
    told.batches += 1;
    for (let room = 1 + (told.batches % driver.size); room > 0 && n < messages; room -= 1) {
      const head = driver.nextHead;
      if (head === -1) {
        break;
      }
      checkAnswer(head);
      const gpa = gpaOfBuffer(head);
      for (let i = 0; i < lengthOf(n); i += 1) {
        ram[gpa / 4 + i] = canary(n, i);
      }
      inBuffer[head] = n;
      if (isAnswered(n)) {
        driver.tryAddInbuf(gpa, lengthOf(n) * 4);
      } else {
        driver.tryAddOutbuf(gpa, lengthOf(n) * 4);
      }
      n += 1;
    }
    driver.publish();
    wake(words.PUBLISHED);
    if (driver.freeCount === 0) {
      untilNews(words.RETURNED, () => driver.reclaim() > 0);
    }
  }
  while (!driver.idle) {
    untilNews(words.RETURNED, () => driver.reclaim() > 0);
  }
  for (let head = 0; head < driver.size; head += 1) {
    checkAnswer(head);
  }
}

function serve() {
  const device = new DeviceQueue(memory, atomicMapper, log, addresses, false);
  const element = new QueueElement(addresses.size);
  const heads = [];
  while (told.messages < messages && device.fault === undefined) {
    untilNews(words.PUBLISHED, () => device.refresh() || device.fault !== undefined);
    told.batches += 1;
    told.longestBatch = Math.max(told.longestBatch, device.batch);
    while (device.next(element) === NextElement.element) {
      const n = told.messages;
      const { head } = element;
      check(element.gpa[0] === gpaOfBuffer(head), 'its address', n, element.gpa[0]);
      check(element.lengthBytes[0] === lengthOf(n) * 4, 'its length', n, element.lengthBytes[0]);
      check((element.writable[0] !== 0) === isAnswered(n), 'its direction', n, element.writable[0]);
      checkWords(head, n, canary, 'its contents');
      if (isAnswered(n)) {
        for (let i = 0; i < lengthOf(n); i += 1) {
          ram[gpaOfBuffer(head) / 4 + i] = answer(n, i);
        }
      }
      told.messages += 1;
      heads.push(head);
    }
    while (heads.length > 0) {
      device.pushUsed(heads.pop(), 0);
    }
    device.publishUsed();
    wake(words.RETURNED);
  }
  if (device.fault !== undefined) {
    throw new Error(device.fault.message);
  }
}

if (role === 'driver') {
  drive();
} else {
  serve();
}
parentPort.postMessage(told);
