import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { inflateRun } from '../../dist/src/transport/network/compressed-run.js';
import { type CompressedBatch, Compressor } from '../../dist/src/transport/network/compressor.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { SLOT_PAGES } from '../../src/transport/network/compression-slots.js';
import { runProcess } from '../support/cli.js';
import { LONG } from '../support/long.js';

/*
 * The real pool of threads. What is asserted holds however fast or slow a machine is.
 */

const MEMORY_PAGES = 4096;

/** Guest memory: a third zeroes, a third text, a third noise, in turns of 16 pages. */
function guestMemory(): Uint8Array<SharedArrayBuffer> {
  const memory = new Uint8Array(new SharedArrayBuffer(MEMORY_PAGES * PAGE_SIZE));
  const text = Buffer.from('a page that compresses well, as most do; '.repeat(100)).subarray(0, PAGE_SIZE);
  const noise = new Uint32Array(PAGE_SIZE / 4);
  let state = 1;
  for (let page = 0; page < MEMORY_PAGES; page += 1) {
    const kind = Math.floor(page / 16) % 3;
    if (kind === 1) {
      memory.set(text, page * PAGE_SIZE);
      memory[page * PAGE_SIZE] = page & 0xff;
    } else if (kind === 2) {
      for (let i = 0; i < noise.length; i += 1) {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
        noise[i] = state ^ (state >>> 15);
      }
      memory.set(new Uint8Array(noise.buffer), page * PAGE_SIZE);
    }
  }
  return memory;
}

/** A compressor, the batches that it is through with, and a way to wait for more of them. */
function compressorOf(threads: number, slots?: number) {
  const batches: CompressedBatch[] = [];
  let wake: (() => void) | undefined;
  const compressor = new Compressor(
    (batch) => {
      batches.push(batch);
      wake?.();
    },
    threads,
    slots,
  );
  return {
    compressor,
    batches,
    more: () =>
      new Promise<void>((resolve) => {
        wake = resolve;
      }),
  };
}

const memory = guestMemory();
const pagesOf = (pfn: number, pageCount: number): Uint8Array =>
  memory.subarray(pfn * PAGE_SIZE, (pfn + pageCount) * PAGE_SIZE);

/** Runs of all lengths, in no order, that cover all of memory. */
function allRuns(): { pfn: number; pageCount: number }[] {
  const runs: { pfn: number; pageCount: number }[] = [];
  const lengths = [1, 7, SLOT_PAGES, 2, 40, 1, 1, 255, 16, 3];
  for (let pfn = 0; pfn < MEMORY_PAGES; ) {
    const pageCount = Math.min(lengths[runs.length % lengths.length]!, MEMORY_PAGES - pfn);
    runs.push({ pfn, pageCount });
    pfn += pageCount;
  }
  return runs.sort((a, b) => Math.imul(a.pfn, 0x9e37_79b1) - Math.imul(b.pfn, 0x9e37_79b1));
}

it.each([
  [1, 1],
  [1, 6],
  [2, 8],
])('every run is done once, as it was, by %i threads in %i slots', async (threads, slots) => {
  const { compressor, batches, more } = compressorOf(threads, slots);
  const arrived = new Uint8Array(memory.length).fill(0xa5);
  const seen = new Set<number>();
  let compressed = 0;
  let raw = 0;
  const take = (): void => {
    for (const { slot, runs, busyMs } of batches.splice(0)) {
      expect(busyMs).toBeGreaterThan(0);
      for (const { pfn, pageCount, pages, payload } of runs) {
        expect(seen.has(pfn)).toBe(false);
        seen.add(pfn);
        const into = arrived.subarray(pfn * PAGE_SIZE, (pfn + pageCount) * PAGE_SIZE);
        if (payload === undefined) {
          raw += pageCount;
          into.set(pages);
        } else {
          compressed += pageCount;
          expect(payload.length).toBeLessThanOrEqual((pageCount * PAGE_SIZE * 7) / 8);
          inflateRun(payload, into, pageCount);
        }
      }
      compressor.release(slot);
    }
  };
  try {
    const runs = allRuns();
    for (const { pfn, pageCount } of runs) {
      while (!compressor.hasRoom) {
        const next = more();
        if (batches.length === 0) {
          await next;
        }
        take();
      }
      compressor.add(pfn, pageCount, pagesOf(pfn, pageCount));
    }
    while (compressor.pendingPages > 0) {
      await more();
      take();
    }
    take();
    expect(seen.size).toBe(runs.length);
    expect(Buffer.compare(arrived, memory)).toBe(0);
    expect(compressed).toBeGreaterThan(MEMORY_PAGES / 2);
    expect(raw).toBeGreaterThan(0);
    expect(compressor.failure).toBeUndefined();
  } finally {
    await compressor.close();
  }
});

it('what is compressed is the copy: a thread that scribbles over the pages meanwhile changes nothing of it', async () => {
  const pages = 64;
  const shared = new SharedArrayBuffer(pages * PAGE_SIZE + PAGE_SIZE);
  const words = new Int32Array(shared);
  const stop = words.length - 1;
  const scribbler = new Worker(
    `const { workerData } = require('node:worker_threads');
     const words = new Int32Array(workerData);
     const stop = words.length - 1;
     for (let round = 1; Atomics.load(words, stop) === 0; round += 1) {
       words.fill(round % 3 === 0 ? 0 : Math.imul(round, 0x9e3779b1) & 0x0f0f0f0f, 0, words.length - 1024);
     }`,
    { eval: true, workerData: shared },
  );
  const { compressor, batches, more } = compressorOf(2, 4);
  const into = new Uint8Array(pages * PAGE_SIZE);
  const live = new Uint8Array(shared, 0, pages * PAGE_SIZE);
  let compressed = 0;
  let torn = 0;
  try {
    for (let run = 0; run < 300; run += 1) {
      while (!compressor.hasRoom) {
        const next = more();
        if (batches.length === 0) {
          await next;
        }
        for (const { slot, runs } of batches.splice(0)) {
          for (const { pageCount, payload } of runs) {
            if (payload !== undefined) {
              // Throws if it is no stream of just so many bytes.
              inflateRun(payload, into.subarray(0, pageCount * PAGE_SIZE), pageCount);
              compressed += 1;
              // Every byte is one that the scribbler wrote, at some time.
              expect(into.findIndex((byte) => (byte & 0xf0) !== 0)).toBe(-1);
              torn += new Int32Array(into.buffer, 0, pageCount * 1024).some((word, _, all) => word !== all[0])
                ? 1
                : 0;
            }
          }
          compressor.release(slot);
        }
      }
      compressor.add(run * pages, pages, live);
    }
    expect(compressed).toBeGreaterThan(150);
    expect(torn).toBeGreaterThan(0); // it did scribble meanwhile
  } finally {
    Atomics.store(words, stop, 1);
    await Promise.all([compressor.close(), scribbler.terminate()]);
  }
});

it('is closed with work in hand: nothing is heard of it any more', async () => {
  const { compressor, batches } = compressorOf(1, 4);
  for (let i = 0; compressor.hasRoom; i += 1) {
    compressor.add(i * SLOT_PAGES, SLOT_PAGES, pagesOf(i * SLOT_PAGES, SLOT_PAGES));
  }
  expect(compressor.pendingPages).toBe(4 * SLOT_PAGES);
  await compressor.close();
  await compressor.close();
  expect(batches).toEqual([]);
});

it('says what it can not take', async () => {
  const { compressor } = compressorOf(1, 1);
  try {
    expect(() => compressor.add(0, SLOT_PAGES + 1, pagesOf(0, SLOT_PAGES + 1))).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
    compressor.add(0, SLOT_PAGES, pagesOf(0, SLOT_PAGES));
    expect(compressor.hasRoom).toBe(false);
    expect(() => compressor.add(0, 1, pagesOf(0, 1))).toThrow(
      expect.objectContaining({ code: 'ILLEGAL_STATE' }),
    );
  } finally {
    await compressor.close();
  }
});

it('is closed when its threads are through with what they have in hand, for else they take the process with them', async () => {
  const { compressor } = compressorOf(1, 4);
  compressor.add(0, SLOT_PAGES, pagesOf(0, SLOT_PAGES));
  compressor.add(SLOT_PAGES, SLOT_PAGES, pagesOf(SLOT_PAGES, SLOT_PAGES));
  await expect.poll(() => compressor.isBusy, { interval: 0, timeout: 20_000 }).toBe(true);
  await compressor.close();
  expect(compressor.isBusy).toBe(false);
  // The thread takes down what has become of a run when zlib has done it, which one that is ended never comes to.
  expect(compressor.slots.runs(3, 1)[0]!.payload?.length).toBeGreaterThan(0);
});

it('a thread that fails hands its runs back, to go raw, and no more are taken', async () => {
  const { compressor, batches, more } = compressorOf(1, 4);
  try {
    compressor.add(0, SLOT_PAGES, pagesOf(0, SLOT_PAGES));
    compressor.add(0x0123_4567, 3, pagesOf(0, 3)); // gathered: the thread is busy
    const words = new Uint32Array(
      compressor.slots.buffer,
      0,
      Math.floor(compressor.slots.buffer.byteLength / 4),
    );
    words[words.indexOf(0x0123_4567) + 1] = 0; // no run has so few pages
    while (compressor.pendingPages > 0) {
      await more();
    }
    expect(batches.map(({ runs }) => runs.map(({ pfn }) => pfn))).toEqual([[0], [0x0123_4567]]);
    expect(batches[1]!.runs[0]!.payload).toBeUndefined();
    expect(compressor.failure).toMatch('a thread that compresses has failed: ');
    expect(compressor.hasRoom).toBe(false);
  } finally {
    await compressor.close();
  }
});

it('closed at any moment, ends its threads and not the process', async () => {
  const times = LONG ? '3000' : '20'; // once in some 700 times it did
  const { stdout, code } = await runProcess(
    process.execPath,
    ['test/support/close-compressors.mjs', times],
    process.cwd(),
  );
  expect(stdout).toBe(`${times} closed\n`);
  expect(code).toBe(0);
});
