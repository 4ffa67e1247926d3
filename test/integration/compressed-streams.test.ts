import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import {
  type GuestMemory,
  PrivateGuestMemory,
  SharedGuestMemory,
} from '../../dist/src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../dist/src/memory/page.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { SLOT_PAGES } from '../../dist/src/transport/network/compression-slots.js';
import { connectStreams, type StreamPair, untilWritable } from '../support/streams.js';

const PAGES = 3000;
const LAYOUT = new RamLayout([{ startGpa: 0, endGpa: gpaOf(PAGES) }]);
const PSK = { psk: { identity: 'test', key: randomBytes(32) } };

/** Pages that shrink well, but for every sixth run of eight, which is noise; others in each round. */
function fill(memory: GuestMemory, round: number): void {
  const noise = randomBytes(64 * PAGE_SIZE);
  for (let page = 0; page < PAGES; page += 1) {
    const text = Buffer.from(`page ${page} as it is in round ${round}, `.repeat(200)).subarray(0, PAGE_SIZE);
    memory
      .pages(page, 1)
      .set(
        Math.floor(page / 8) % 6 === 5
          ? noise.subarray((page % 64) * PAGE_SIZE, ((page % 64) + 1) * PAGE_SIZE)
          : text,
      );
  }
}

/** Sends all of memory, in runs of all lengths, some of them longer than a slot, every tenth of them as zeroes; how many long ones. */
async function sendRound(pair: StreamPair, source: GuestMemory, round: number): Promise<number> {
  let longRuns = 0;
  let runs = 0;
  for (let pfn = 0; pfn < PAGES; runs += 1) {
    const pageCount = Math.min([1, 8, 300, 2, 1, 1, 64, 17, 5, 3][runs % 10]!, PAGES - pfn);
    longRuns += pageCount > SLOT_PAGES ? 1 : 0;
    await untilWritable(pair);
    if (runs % 10 === 8) {
      source.pages(pfn, pageCount).fill(0);
      pair.sending.zeroRun(pfn, pageCount);
    } else {
      pair.sending.pageRun(pfn, pageCount, source.pages(pfn, pageCount));
    }
    pfn += pageCount;
  }
  pair.sending.roundEnd(round);
  return longRuns;
}

const shared = () => SharedGuestMemory.allocate(LAYOUT);
const own = () => new PrivateGuestMemory(LAYOUT);

it.each([
  ['on', 1, 'threads', undefined, shared, shared],
  ['on', 3, 'threads', undefined, shared, shared],
  ['auto', 2, 'threads', undefined, shared, shared],
  ['on', 2, 'threads and TLS', PSK, shared, shared],
  ['on', 2, 'this thread', undefined, own, own],
  ['auto', 1, 'this thread', undefined, own, own],
] as const)(
  'carries rounds of compressed runs: %s, %d streams, %s',
  async (compression, count, _, tls, from, to) => {
    const [source, destination] = [from(), to()];
    const pair = await connectStreams(source, destination, count, { compression, tls });
    try {
      let longRuns = 0;
      for (let round = 1; round <= 3; round += 1) {
        fill(source, round);
        longRuns += await sendRound(pair, source, round);
        await pair.changes.until(
          () => pair.receiving.endedRound === round || pair.receiving.failure !== undefined,
        );
        expect(pair.receiving.failure).toBeUndefined();
        expect(Buffer.compare(destination.pages(0, PAGES), source.pages(0, PAGES))).toBe(0);
        expect(pair.receiving.counts()).toEqual(pair.sending.counts());
        pair.receiving.release(round);
      }
      const counts = pair.sending.counts();
      const sum = (of: (c: (typeof counts)[number]) => number): number =>
        counts.reduce((all, c) => all + of(c), 0);
      expect(sum(({ pages }) => pages) + sum(({ zeroPages }) => zeroPages)).toBe(3 * PAGES);
      expect(pair.receiving.bytesReceived()).toBe(pair.sending.bytesSent());
      expect(pair.sending.unflushedBytes).toBe(0);
      const report = pair.sending.compression()!;
      const { runsCompressed, runsIncompressible, runsLinkFaster, runsLinkIdle, bytesBefore, bytesAfter } =
        report;
      expect(runsCompressed).toBeGreaterThan(0);
      expect(bytesAfter).toBeLessThan(bytesBefore / 4);
      // What was not sent is just what compression says that it saved.
      const headers =
        pair.sending.bytesSent() - (sum(({ pages }) => pages) * PAGE_SIZE - bytesBefore + bytesAfter);
      expect(headers % 32).toBe(0);
      expect(headers).toBeLessThan(3 * PAGES * 32);
      if (compression === 'on') {
        // The second pieces of long runs, where there was room for the first only.
        expect(runsLinkIdle).toBeLessThanOrEqual(longRuns);
        expect(runsLinkFaster).toBe(0);
        expect(runsIncompressible).toBeGreaterThan(0);
        expect(pair.sending.bytesSent()).toBeLessThan(3 * PAGES * PAGE_SIZE * 0.4);
      }
    } finally {
      await pair.close();
    }
  },
);

it('the end of a round waits for what is being compressed, and what follows waits for it', async () => {
  const [source, destination] = [shared(), shared()];
  const pair = await connectStreams(source, destination, 2, { compression: 'on' });
  try {
    fill(source, 1);
    // All in one turn of the event loop: nothing can be done by the time the round is ended.
    pair.sending.pageRun(0, 200, source.pages(0, 200));
    pair.sending.roundEnd(1);
    expect(pair.sending.writable).toBe(false);
    expect(pair.sending.unflushedBytes).toBeGreaterThanOrEqual(200 * PAGE_SIZE);
    pair.sending.zeroRun(0, 100);
    pair.sending.fillRun(100, 50, 0x0101_0101);
    pair.sending.pageRun(150, 50, source.pages(100, 50)); // not what is there: that nothing else sets it
    pair.sending.roundEnd(2);
    pair.sending.pageRun(300, 1, source.pages(300, 1));
    pair.sending.roundEnd(3);
    await pair.changes.until(() => pair.receiving.endedRound === 1);
    expect(Buffer.compare(destination.pages(0, 200), source.pages(0, 200))).toBe(0);
    expect(destination.pages(300, 1).every((byte) => byte === 0)).toBe(true);
    pair.receiving.release(1);
    await pair.changes.until(() => pair.receiving.endedRound === 2);
    expect(destination.pages(0, 100).every((byte) => byte === 0)).toBe(true);
    expect(destination.pages(100, 50).every((byte) => byte === 1)).toBe(true);
    pair.receiving.release(2);
    await pair.changes.until(() => pair.receiving.endedRound === 3);
    expect(Buffer.compare(destination.pages(300, 1), source.pages(300, 1))).toBe(0);
    expect(pair.receiving.counts()).toEqual(pair.sending.counts());
    expect(pair.sending.writable).toBe(true);
  } finally {
    await pair.close();
  }
});

it('is closed while runs are being compressed, and while they are on their way', async () => {
  const [source, destination] = [shared(), shared()];
  fill(source, 1);
  for (let pages = 1; pages <= PAGES; pages *= 5) {
    const pair = await connectStreams(source, destination, 2, { compression: 'on' });
    for (let pfn = 0; pfn < pages; pfn += 25) {
      await untilWritable(pair);
      pair.sending.pageRun(pfn, 25, source.pages(pfn, 25));
    }
    pair.sending.roundEnd(1);
    await pair.close();
  }
});
