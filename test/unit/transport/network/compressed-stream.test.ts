import { Duplex } from 'node:stream';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { LacunaError } from '../../../../src/errors.js';
import { PrivateGuestMemory, SharedGuestMemory } from '../../../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../../../src/memory/page.js';
import { PageBitmap } from '../../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../../src/memory/shared-words.js';
import { StreamReceiver } from '../../../../src/transport/network/stream-receiver.js';
import { StreamSender } from '../../../../src/transport/network/stream-sender.js';
import { encodeFrame, Feature, FrameType } from '../../../../src/wire/frames.js';

/** What compressed runs are at the two ends of a stream. */

const EPOCH = 1;
const LAYOUT = new RamLayout([{ startGpa: 0, endGpa: gpaOf(64) }]);
const PAGES = Buffer.from('a page of text, '.repeat(PAGE_SIZE)).subarray(0, 8 * PAGE_SIZE);
const PAYLOAD = deflateRawSync(PAGES, { level: 1 });

class Socket extends Duplex {
  readonly written: Uint8Array[] = [];

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    this.written.push(chunk);
    done();
  }

  override _read(): void {}
}

function receiverOf(
  memory: SharedGuestMemory | PrivateGuestMemory,
  features: number = Feature.compressedRuns,
) {
  const failures: LacunaError[] = [];
  const receiver = new StreamReceiver({
    index: 0,
    epoch: EPOCH,
    memory,
    written: PageBitmap.allocate(atomicMapper, 64),
    longestRunPages: 16,
    features,
    received: () => undefined,
    ended: () => undefined,
    failed: (error) => failures.push(error),
  });
  const socket = new Socket();
  receiver.receive(socket);
  return {
    receiver,
    failures,
    /** A compressed run, in two pieces. */
    take: async (pfn: number, pageCount: number, payload: Uint8Array): Promise<void> => {
      const frame = encodeFrame(
        { type: FrameType.compressedPages, sequence: 1, epoch: EPOCH, pfn, pageCount, value: 1 },
        payload,
      );
      socket.push(frame.subarray(0, 40));
      socket.push(frame.subarray(40));
      await new Promise(setImmediate);
      await new Promise(setImmediate);
    },
  };
}

const memories = [
  ['shared', () => SharedGuestMemory.allocate(LAYOUT)],
  ['private', () => new PrivateGuestMemory(LAYOUT)],
] as const;

describe.each(memories)('a receiver into %s memory', (_, allocate) => {
  it('inflates a run to its place', async () => {
    const memory = allocate();
    const { receiver, failures, take } = receiverOf(memory);
    await take(3, 8, PAYLOAD);
    expect(failures).toEqual([]);
    expect(receiver.counts.pages).toBe(8);
    expect(Buffer.compare(memory.pages(3, 8), PAGES)).toBe(0);
    expect(memory.pages(0, 3).every((byte) => byte === 0)).toBe(true);
    expect(memory.pages(11, 53).every((byte) => byte === 0)).toBe(true);
  });

  it.each([
    ['that is longer than it says', 3, 7, PAYLOAD],
    ['that is shorter', 3, 9, PAYLOAD],
    ['with something behind it', 3, 8, Buffer.concat([PAYLOAD, Uint8Array.of(0)])],
    ['that is cut off', 3, 8, PAYLOAD.subarray(0, -4)],
    ['that is not RAM', 60, 8, PAYLOAD],
    ['longer than was agreed on', 3, 17, PAYLOAD],
    ['that is no shorter than its pages', 3, 1, new Uint8Array(PAGE_SIZE)],
    ['of nothing', 3, 8, new Uint8Array(0)],
  ])('fails the stream for a run %s, and writes nothing', async (_, pfn, pageCount, payload) => {
    const memory = allocate();
    const { receiver, failures, take } = receiverOf(memory);
    await take(pfn, pageCount, payload);
    expect(failures.map(({ code }) => code)).toEqual(['PROTOCOL_VIOLATION']);
    expect(receiver.counts.pages).toBe(0);
    expect(memory.pages(0, 64).every((byte) => byte === 0)).toBe(true);
  });

  it('fails the stream where compressed runs were not agreed on', async () => {
    const { failures, take } = receiverOf(allocate(), 0);
    await take(3, 8, PAYLOAD);
    expect(failures.map(({ code }) => code)).toEqual(['PROTOCOL_VIOLATION']);
  });
});

it('a sender says how a run was compressed, and counts what it takes on the wire', async () => {
  const socket = new Socket();
  const flushed: number[] = [];
  const sender = new StreamSender(socket, {
    index: 0,
    epoch: EPOCH,
    flushed: (bytes) => flushed.push(bytes),
    failed: (error) => {
      throw error;
    },
  });
  sender.compressedRun(3, 8, PAYLOAD);
  sender.flush();
  await new Promise(setImmediate);
  const frame = {
    type: FrameType.compressedPages,
    sequence: 1,
    epoch: EPOCH,
    pfn: 3,
    pageCount: 8,
    value: 1,
  };
  expect(Buffer.compare(Buffer.concat(socket.written), encodeFrame(frame, PAYLOAD))).toBe(0);
  expect(flushed).toEqual([32 + PAYLOAD.length]);
});
