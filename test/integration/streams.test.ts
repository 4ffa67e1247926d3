import { createHash, randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import { fillWords } from '../../dist/src/memory/byte-ops.js';
import {
  type GuestMemory,
  PrivateGuestMemory,
  SharedGuestMemory,
} from '../../dist/src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../dist/src/memory/page.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { connectStreams, type StreamPair, untilWritable } from '../support/streams.js';

const PSK = { psk: { identity: 'test', key: randomBytes(32) } };
const PAGES = 4096;
/** A hole, and a segment that ends in the middle of nowhere. */
const LAYOUT = new RamLayout(
  [
    { startGpa: 0, endGpa: gpaOf(PAGES) },
    { startGpa: gpaOf(PAGES + 100), endGpa: gpaOf(2 * PAGES) },
  ],
  gpaOf(3000),
);

function hash(memory: GuestMemory): string {
  const sum = createHash('sha256');
  for (const { bytes } of memory.segments) {
    sum.update(bytes);
  }
  return sum.digest('hex');
}

/** Numbers below `limit`, the same for the same seed. */
function randomNumbers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

function scribble(memory: GuestMemory, random: (limit: number) => number): void {
  for (const { bytes } of memory.segments) {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let i = 0; i < words.length; i += 1 + random(64)) {
      words[i] = random(2 ** 32);
    }
  }
}

/** Sends every page once, in a random order of runs: with contents, as zeroes, or filled; the source is made to match. */
async function sendRound(
  pair: StreamPair,
  source: GuestMemory,
  round: number,
  random: (limit: number) => number,
): Promise<void> {
  const runs: { pfn: number; pageCount: number }[] = [];
  for (const { firstPfn, pageCount } of source.layout.segments) {
    for (let pfn = firstPfn; pfn < firstPfn + pageCount; ) {
      const most = random(3) === 0 ? 1024 : 8;
      const length = Math.min(1 + random(most), firstPfn + pageCount - pfn);
      runs.push({ pfn, pageCount: length });
      pfn += length;
    }
  }
  for (let i = runs.length - 1; i > 0; i -= 1) {
    const j = random(i + 1);
    [runs[i], runs[j]] = [runs[j]!, runs[i]!];
  }
  for (const { pfn, pageCount } of runs) {
    await untilWritable(pair);
    const bytes = source.pages(pfn, pageCount);
    switch (random(4)) {
      case 0:
        bytes.fill(0);
        pair.sending.zeroRun(pfn, pageCount);
        break;
      case 1: {
        const value = random(2) === 0 ? 0 : random(2 ** 32);
        fillWords(bytes, 0, bytes.length, value);
        pair.sending.fillRun(pfn, pageCount, value);
        break;
      }
      default:
        pair.sending.pageRun(pfn, pageCount, bytes);
    }
  }
  pair.sending.roundEnd(round);
}

const shared = () => SharedGuestMemory.allocate(LAYOUT);
const own = () => new PrivateGuestMemory(LAYOUT);

it.each([
  ['threads', 1, undefined, shared, shared],
  ['threads', 2, undefined, shared, shared],
  ['threads', 4, undefined, shared, shared],
  ['threads', 1, PSK, shared, shared],
  ['threads', 4, PSK, shared, shared],
  ['this-thread', 2, undefined, shared, shared],
  ['copying', 2, undefined, shared, shared],
  ['copying', 2, PSK, shared, shared],
  [undefined, 1, undefined, own, own],
  [undefined, 4, undefined, own, own],
  [undefined, 2, PSK, own, own],
  [undefined, 2, undefined, own, shared],
  [undefined, 2, undefined, shared, own],
] as const)(
  'carries rounds of runs, zeroes and fills: way %s, %d streams, TLS %o',
  async (way, count, tls, from, to) => {
    const [source, destination] = [from(), to()];
    const pair = await connectStreams(source, destination, count, { way, tls });
    try {
      const random = randomNumbers(count * 7 + 1);
      for (let round = 1; round <= 4; round += 1) {
        scribble(source, random);
        await sendRound(pair, source, round, random);
        await pair.changes.until(
          () => pair.receiving.endedRound === round || pair.receiving.failure !== undefined,
        );
        expect(pair.receiving.failure).toBeUndefined();
        expect(hash(destination)).toBe(hash(source));
        expect(pair.receiving.counts()).toEqual(pair.sending.counts());
        pair.receiving.release(round);
      }
      expect(pair.receiving.bytesReceived()).toBe(pair.sending.bytesSent());
      expect(pair.sending.failure).toBeUndefined();
      const pages = pair.receiving.counts().map((c) => c.pages + c.zeroPages + c.filledPages);
      expect(pages.reduce((a, b) => a + b)).toBe(4 * LAYOUT.pageCount);
      expect(Math.min(...pages)).toBeGreaterThan(0);
    } finally {
      await pair.close();
    }
    expect(PAGE_SIZE).toBe(4096);
  },
);
