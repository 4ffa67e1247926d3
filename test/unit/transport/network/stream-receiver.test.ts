import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type { LacunaError } from '../../../../src/errors.js';
import {
  type GuestMemory,
  PrivateGuestMemory,
  SharedGuestMemory,
} from '../../../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../../../src/memory/page.js';
import { PageBitmap } from '../../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../../src/memory/shared-words.js';
import { StreamReceiver } from '../../../../src/transport/network/stream-receiver.js';
import { encodeFrame, encodeHeader, FrameType } from '../../../../src/wire/frames.js';

const EPOCH = 4;
const RUN_LIMIT = 16;
const PAGES = 64;
/** RAM is pages 0–63 and 80–143. */
const LAYOUT = new RamLayout([
  { startGpa: 0, endGpa: gpaOf(PAGES) },
  { startGpa: gpaOf(80), endGpa: gpaOf(80 + PAGES) },
]);
const KINDS: readonly (readonly [string, () => GuestMemory])[] = [
  ['shared', () => SharedGuestMemory.allocate(LAYOUT)],
  ['private', () => new PrivateGuestMemory(LAYOUT)],
];

function receiverInto(memory: GuestMemory) {
  const ended: number[] = [];
  const failures: LacunaError[] = [];
  const written = PageBitmap.allocate(atomicMapper, LAYOUT.pfnSpan);
  const receiver = new StreamReceiver({
    index: 2,
    epoch: EPOCH,
    memory,
    written,
    longestRunPages: RUN_LIMIT,
    features: 0,
    received: () => undefined,
    ended: (round) => ended.push(round),
    failed: (error) => failures.push(error),
  });
  return { receiver, ended, failures, written };
}

/** Frames of a stream, numbered from 1. */
class Frames {
  readonly bytes: Uint8Array[] = [];

  add(
    fields: {
      type: number;
      pfn?: number;
      pageCount?: number;
      value?: number;
      sequence?: number;
      epoch?: number;
    },
    payload?: Uint8Array,
  ): this {
    this.bytes.push(encodeFrame({ sequence: this.bytes.length + 1, epoch: EPOCH, ...fields }, payload));
    return this;
  }

  pages(pfn: number, pageCount: number, byte: number): this {
    return this.add(
      { type: FrameType.pages, pfn, pageCount },
      new Uint8Array(pageCount * PAGE_SIZE).fill(byte),
    );
  }

  all(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.bytes));
  }
}

/** Feeds bytes as a socket with `onread` would, so many at a time at the most. */
function feed(receiver: StreamReceiver, bytes: Uint8Array, most: number): void {
  const onread = receiver.onread();
  let target = (onread.buffer as () => Uint8Array)();
  for (let at = 0; at < bytes.length; ) {
    expect(target.length).toBeGreaterThan(0); // Node would take an empty one for ENOBUFS
    const count = Math.min(most, target.length, bytes.length - at);
    target.set(bytes.subarray(at, at + count));
    at += count;
    const goesOn = onread.callback(count, target);
    target = (onread.buffer as () => Uint8Array)();
    if (!goesOn) {
      receiver.release(1_000_000); // as if every round had ended elsewhere
    }
  }
}

const firstByte = (memory: GuestMemory, pfn: number): number => memory.pages(pfn, 1)[0]!;

describe.each(KINDS)('StreamReceiver, %s memory', (kind, makeMemory) => {
  const rounds = (): Frames =>
    new Frames()
      .pages(3, 2, 7)
      .add({ type: FrameType.fill, pfn: 80, pageCount: 3, value: 0x0101_0101 })
      .add({ type: FrameType.roundEnd, value: 1 })
      .pages(90, 16, 9)
      .add({ type: FrameType.zero, pfn: 3, pageCount: 1 })
      .add({ type: FrameType.roundEnd, value: 2 });

  it.each([1, 31, 33, 4095, 4096, 4097, 65_536, 1e9])(
    'applies frames that come %d bytes at a time',
    (most) => {
      const memory = makeMemory();
      const { receiver, ended, failures, written } = receiverInto(memory);
      feed(receiver, rounds().all(), most);
      expect(failures).toEqual([]);
      expect(ended).toEqual([1, 2]);
      expect(receiver.counts).toEqual({ pages: 18, zeroPages: 1, filledPages: 3, rounds: 2 });
      expect([2, 3, 4, 5, 80, 82, 83, 89, 90, 105, 106].map((pfn) => firstByte(memory, pfn))).toEqual([
        0, 0, 7, 0, 1, 1, 0, 0, 9, 9, 0,
      ]);
      expect([3, 4, 80, 83, 90, 105].map((pfn) => written.test(pfn))).toEqual([
        false,
        true,
        true,
        false,
        true,
        true,
      ]);
      expect(receiver.receivedBytes).toBe(rounds().all().length);
    },
  );

  it('applies nothing of the next round before it is released, and reads no more', () => {
    const memory = makeMemory();
    const { receiver, ended } = receiverInto(memory);
    const onread = receiver.onread();
    const target = (onread.buffer as () => Uint8Array)();
    const bytes = new Frames()
      .pages(1, 1, 5)
      .add({ type: FrameType.roundEnd, value: 1 })
      .pages(1, 1, 6)
      .add({ type: FrameType.roundEnd, value: 2 })
      .all();
    target.set(bytes); // all in one read
    expect(onread.callback(bytes.length, target)).toBe(false);
    expect(ended).toEqual([1]);
    expect(firstByte(memory, 1)).toBe(5);
    receiver.release(0);
    expect(firstByte(memory, 1)).toBe(5);
    receiver.release(1);
    expect(firstByte(memory, 1)).toBe(6);
    expect(ended).toEqual([1, 2]);
  });

  it('takes the same from a stream that brings its own buffers', async () => {
    const memory = makeMemory();
    const { receiver, ended, failures } = receiverInto(memory);
    const socket = new PassThrough();
    receiver.receive(socket);
    for (const frame of rounds().bytes) {
      socket.write(frame);
    }
    await new Promise(setImmediate);
    expect(ended).toEqual([1]);
    expect(firstByte(memory, 90)).toBe(0);
    receiver.release(1);
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(ended).toEqual([1, 2]);
    expect(firstByte(memory, 90)).toBe(9);
    expect(failures).toEqual([]);
    await receiver.close();
    expect(socket.destroyed).toBe(true);
    expect(failures).toEqual([]);
  });

  const header = (fields: {
    type: number;
    payloadLength: number;
    pfn?: number;
    pageCount?: number;
  }): Uint8Array => {
    const bytes = new Uint8Array(32);
    const { type, payloadLength, pfn = 0, pageCount = 0 } = fields;
    encodeHeader(new DataView(bytes.buffer), 0, {
      type,
      payloadLength,
      pfn,
      pageCount,
      value: 0,
      sequence: 1,
      epoch: EPOCH,
    });
    return bytes;
  };

  it.each([
    ['something else', new Uint8Array(64).fill(0x47)],
    ['an older epoch', new Frames().add({ type: FrameType.zero, pfn: 0, pageCount: 1, epoch: 3 }).all()],
    [
      'a frame that is missing',
      new Frames().add({ type: FrameType.zero, pfn: 0, pageCount: 1, sequence: 2 }).all(),
    ],
    ['a second join', new Frames().add({ type: FrameType.join }, new Uint8Array(16)).all()],
    ['a commit', new Frames().add({ type: FrameType.commit }).all()],
    ['a type that nobody knows', new Frames().add({ type: 99 }).all()],
    [
      'pages in the hole',
      header({ type: FrameType.pages, pfn: 70, pageCount: 2, payloadLength: 2 * PAGE_SIZE }),
    ],
    [
      'pages across the end of RAM',
      header({ type: FrameType.pages, pfn: 62, pageCount: 4, payloadLength: 4 * PAGE_SIZE }),
    ],
    [
      'pages beyond',
      header({ type: FrameType.pages, pfn: 2 ** 32 - 1, pageCount: 1, payloadLength: PAGE_SIZE }),
    ],
    ['no pages', header({ type: FrameType.pages, payloadLength: 0 })],
    [
      'a run that is too long',
      header({ type: FrameType.pages, pageCount: 17, payloadLength: 17 * PAGE_SIZE }),
    ],
    [
      'a payload that is too short',
      header({ type: FrameType.pages, pageCount: 2, payloadLength: PAGE_SIZE }),
    ],
    ['a payload of 4 GiB', header({ type: FrameType.pages, pageCount: 1, payloadLength: 2 ** 32 - 1 })],
    ['a long payload that would be skipped', header({ type: 0x8001, payloadLength: 2 ** 32 - 1 })],
    [
      'a compressed run that was not agreed on',
      header({ type: FrameType.compressedPages, pageCount: 2, payloadLength: 100 }),
    ],
    ['zeroes in the hole', new Frames().add({ type: FrameType.zero, pfn: 64, pageCount: 1 }).all()],
    [
      'a fill across the end',
      new Frames().add({ type: FrameType.fill, pfn: 63, pageCount: 2, value: 9 }).all(),
    ],
    ['a round too many', new Frames().add({ type: FrameType.roundEnd, value: 2 }).all()],
  ])('refuses %s, and nothing that follows is applied', async (what, bytes) => {
    const memory = makeMemory();
    const { receiver, failures, ended } = receiverInto(memory);
    const socket = new PassThrough();
    receiver.receive(socket);
    socket.write(bytes);
    socket.write(new Frames().add({ type: FrameType.fill, pfn: 0, pageCount: 16, value: 9 }).all());
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(
      failures.map(({ code }) => code),
      what,
    ).toEqual(['PROTOCOL_VIOLATION']);
    expect(failures[0]!.message).toMatch(/^stream 2: /);
    expect(socket.destroyed).toBe(true);
    expect(ended).toEqual([]);
    expect(memory.segments.every(({ bytes: ram }) => ram.every((byte) => byte === 0))).toBe(true);
    // The socket of a thread may deliver what it has read already: it is dropped, into a buffer that isn't empty.
    const onread = receiver.onread();
    const spare = (onread.buffer as () => Uint8Array)();
    expect(spare.length).toBeGreaterThan(0);
    onread.callback(1, spare);
    expect(failures).toHaveLength(1);
    await receiver.close();
  });

  it('says what a cut leaves behind: a run that was begun counts as written', async () => {
    const { receiver, failures, written } = receiverInto(makeMemory());
    const socket = new PassThrough();
    receiver.receive(socket);
    socket.write(
      new Frames()
        .pages(8, 8, 3)
        .all()
        .subarray(0, 3 * PAGE_SIZE),
    );
    await new Promise(setImmediate);
    socket.destroy();
    await new Promise(setImmediate);
    expect(failures.map(({ code }) => code)).toEqual(['LINK_LOST']);
    expect(receiver.counts.pages).toBe(0);
    // Memory that isn't shared is written when a run is complete, and so was not.
    expect(written.count()).toBe(kind === 'shared' ? 8 : 0);
  });
});

it('does not write memory that was replaced while a run was on its way', () => {
  const memory = new PrivateGuestMemory(LAYOUT);
  const { receiver, failures } = receiverInto(memory);
  const old = memory.pages(0, 16);
  const bytes = new Frames().pages(0, 16, 1).all();
  feed(receiver, bytes.subarray(0, 20_000), 1e9);
  memory.replaceBuffers(memory.segments.map(({ lengthBytes }) => new ArrayBuffer(lengthBytes)));
  feed(receiver, bytes.subarray(20_000), 1e9);
  expect(failures).toEqual([]);
  expect(memory.pages(0, 16).every((byte) => byte === 1)).toBe(true);
  expect(old.every((byte) => byte === 0)).toBe(true);
});
