import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fillWords } from '../../dist/src/memory/byte-ops.js';
import { EventWord } from '../../dist/src/memory/control-buffer.js';
import {
  type GuestMemory,
  PrivateGuestMemory,
  SharedGuestMemory,
} from '../../dist/src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../dist/src/memory/page.js';
import { bitmapWords, PageBitmap } from '../../dist/src/memory/page-bitmap.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { atomicMapper } from '../../dist/src/memory/shared-words.js';
import { ReceivingStreams, type ReceivingWay } from '../../dist/src/transport/network/receiving-streams.js';
import { SendingStreams } from '../../dist/src/transport/network/sending-streams.js';
import type { TlsSettings } from '../../dist/src/transport/network/tls.js';
import { encodeFrame, FrameType } from '../../dist/src/wire/frames.js';
import {
  Changes,
  connectStreams,
  EPOCH,
  joinStream,
  listenForStreams,
  type StreamPair,
  untilWritable,
} from '../support/streams.js';

const PSK: TlsSettings = { psk: { identity: 'test', key: randomBytes(32) } };
const PAGES = 1024;
/** A hole, and segments that end in the middle of the first block. */
const LAYOUT = new RamLayout(
  [
    { startGpa: 0, endGpa: gpaOf(PAGES) },
    { startGpa: gpaOf(PAGES + 100), endGpa: gpaOf(2 * PAGES) },
  ],
  gpaOf(600),
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

/** Something else in every page. */
function scribble(memory: GuestMemory, random: (limit: number) => number): void {
  for (const { bytes } of memory.segments) {
    for (let at = 0; at < bytes.length; at += PAGE_SIZE) {
      bytes.fill(random(256), at, at + 8 + random(PAGE_SIZE - 8));
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
      const most = random(3) === 0 ? 600 : 8;
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
  ['threads', 1, 'plain', shared, shared],
  ['threads', 2, 'plain', shared, shared],
  ['threads', 4, 'plain', shared, shared],
  ['threads', 1, 'TLS', shared, shared],
  ['threads', 4, 'TLS', shared, shared],
  ['this-thread', 2, 'plain', shared, shared],
  ['copying', 2, 'plain', shared, shared],
  ['copying', 2, 'TLS', shared, shared],
  [undefined, 1, 'plain', own, own],
  [undefined, 4, 'plain', own, own],
  [undefined, 2, 'TLS', own, own],
  [undefined, 2, 'plain', own, shared],
  [undefined, 2, 'plain', shared, own],
] as const)(
  'carries rounds of runs, zeroes and fills: way %s, %d streams, %s',
  async (way, count, security, from, to) => {
    const [source, destination] = [from(), to()];
    const pair = await connectStreams(source, destination, count, {
      ...(way === undefined ? {} : { way }),
      ...(security === 'TLS' ? { tls: PSK } : {}),
    });
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
      expect(Math.min(...pages)).toBeGreaterThan(0); // each stream had its share
    } finally {
      await pair.close();
    }
  },
);

/** Resolves when a socket is closed, with or without an error. */
function closeOf(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket
      .on('error', () => undefined)
      .once('close', () => resolve())
      .resume();
  });
}

const WAYS = ['threads', 'this-thread', 'copying'] as const;

/** The destination's end of `count` streams whose source is the test: raw sockets that have joined. */
async function receiveFromTest(way: ReceivingWay, count: number) {
  const memory = shared();
  const changes = new Changes();
  const written = new SharedArrayBuffer(bitmapWords(LAYOUT.pfnSpan) * 4);
  const receiving = new ReceivingStreams({
    count,
    epoch: EPOCH,
    memory,
    written,
    longestRunPages: 1024,
    features: 0,
    onChange: () => changes.changed(),
    way,
  });
  const { server, port } = await listenForStreams((index, socket) => receiving.adopt(index, socket));
  const sockets = await Promise.all(Array.from({ length: count }, (_, index) => joinStream(port, index)));
  return {
    memory,
    changes,
    receiving,
    sockets,
    written: new PageBitmap(atomicMapper.words(written, 0, bitmapWords(LAYOUT.pfnSpan)), LAYOUT.pfnSpan),
    close: async () => {
      await receiving.close();
      for (const socket of sockets) {
        socket.destroy();
      }
      server.close();
      await once(server, 'close');
    },
  };
}

const pagesOf = (byte: number, pageCount: number): Uint8Array =>
  new Uint8Array(pageCount * PAGE_SIZE).fill(byte);
const frame = (sequence: number, type: number, fields: object = {}, payload?: Uint8Array): Uint8Array =>
  encodeFrame({ type, sequence, epoch: EPOCH, ...fields }, payload);

it.each(WAYS)(
  'a stream that is ahead applies nothing of the next round before its release: %s',
  async (way) => {
    const { memory, changes, receiving, sockets, close } = await receiveFromTest(way, 2);
    const [ahead, behind] = sockets as [Socket, Socket];
    const byteOfPage5 = (): number => memory.pages(5, 1)[0]!;
    try {
      // In one write, so that the end of round 1 and the page of round 2 arrive together.
      ahead.write(
        Buffer.concat([
          frame(1, FrameType.pages, { pfn: 9, pageCount: 1 }, pagesOf(1, 1)),
          frame(2, FrameType.roundEnd, { value: 1 }),
          frame(3, FrameType.pages, { pfn: 5, pageCount: 1 }, pagesOf(2, 1)),
          frame(4, FrameType.roundEnd, { value: 2 }),
        ]),
      );
      await changes.until(() => receiving.counts()[0]!.rounds >= 1);
      expect(receiving.endedRound).toBe(0);
      behind.write(
        Buffer.concat([
          frame(1, FrameType.pages, { pfn: 5, pageCount: 1 }, pagesOf(1, 1)),
          frame(2, FrameType.roundEnd, { value: 1 }),
        ]),
      );
      await changes.until(() => receiving.endedRound === 1);
      expect(byteOfPage5()).toBe(1);
      expect(receiving.counts().map(({ pages }) => pages)).toEqual([1, 1]);
      receiving.release(1);
      await changes.until(() => receiving.counts()[0]!.rounds === 2);
      expect(byteOfPage5()).toBe(2); // had it been applied at once, round 1 would have come after it
      behind.write(frame(3, FrameType.roundEnd, { value: 2 }));
      await changes.until(() => receiving.endedRound === 2);
      expect(receiving.failure).toBeUndefined();
    } finally {
      await close();
    }
  },
);

it.each(WAYS)(
  'a stream that is cut in the middle of a run fails, and what it had begun counts as written: %s',
  async (way) => {
    const { changes, receiving, sockets, written, close } = await receiveFromTest(way, 2);
    try {
      const run = frame(1, FrameType.pages, { pfn: 100, pageCount: 64 }, pagesOf(7, 64));
      const half = Math.floor(run.length / 2);
      sockets[1]!.write(run.subarray(0, half));
      sockets[1]!.end(); // after what was written
      await changes.until(() => receiving.failure !== undefined);
      expect(receiving.failure!.code).toBe('LINK_LOST');
      expect(receiving.failure!.message).toMatch(/stream 1/);
      expect(receiving.counts()[1]!.pages).toBe(0);
      expect(written.nextSet(0)).toBe(100);
      expect(written.count()).toBe(64);
    } finally {
      await close();
    }
  },
);

it.each(WAYS)(
  'a hostile source fails its stream, and the other one goes on until it is closed: %s',
  async (way) => {
    const { memory, changes, receiving, sockets, close } = await receiveFromTest(way, 2);
    try {
      const closed = closeOf(sockets[0]!);
      sockets[0]!.write(frame(1, FrameType.zero, { pfn: PAGES + 5, pageCount: 1 }));
      await changes.until(() => receiving.failure !== undefined);
      expect(receiving.failure!.code).toBe('PROTOCOL_VIOLATION');
      expect(receiving.failure!.message).toMatch(/^stream 0: .*not RAM/);
      await closed;
      sockets[1]!.write(frame(1, FrameType.pages, { pfn: 3, pageCount: 1 }, pagesOf(3, 1)));
      sockets[1]!.write(frame(2, FrameType.roundEnd, { value: 1 }));
      await changes.until(() => receiving.counts()[1]!.rounds === 1);
      expect(memory.pages(3, 1)[0]).toBe(3);
    } finally {
      await close();
    }
  },
);

it.each(WAYS)(
  'nothing writes memory any more when the streams are closed, whatever still comes: %s',
  async (way) => {
    const { memory, receiving, sockets, close } = await receiveFromTest(way, 2);
    try {
      let sequence = 1;
      const ended = sockets.map((socket) => closeOf(socket));
      const send = (): void => {
        // Without an end: each stream writes all of the first segment over and over, with what differs.
        for (const socket of sockets) {
          socket.write(
            frame(sequence, FrameType.pages, { pfn: 0, pageCount: 600 }, pagesOf(sequence & 255, 600)),
          );
        }
        sequence += 1;
        if (sockets.some(({ destroyed }) => !destroyed)) {
          setImmediate(send);
        }
      };
      send();
      while (memory.pages(599, 1)[0] === 0) {
        await new Promise(setImmediate);
      }
      await receiving.close();
      const before = hash(memory);
      await Promise.all(ended); // the flood has run into closed sockets by now
      expect(hash(memory)).toBe(before);
      expect(receiving.failure).toBeUndefined();
    } finally {
      await close();
    }
  },
);

it.each(['threads', 'this-thread'] as const)(
  'a destination that cuts a stream in the middle of a run fails the sending: %s',
  async (kind) => {
    const memory = kind === 'threads' ? shared() : own();
    const event = new EventWord(atomicMapper);
    const accepted: Socket[] = [];
    const { server, port } = await listenForStreams((_, socket) => {
      socket.pause();
      accepted.push(socket);
    });
    const sending = await SendingStreams.open({
      endpoint: { host: '127.0.0.1', port },
      tickets: [new Uint8Array(16), new Uint8Array(16)],
      epoch: EPOCH,
      memory,
      event,
    });
    const untilEvent = async (holds: () => boolean): Promise<void> => {
      for (let seen = event.value(); !holds(); seen = event.value()) {
        await event.next(seen);
      }
    };
    try {
      // Until the sockets of both ends are full: nobody reads.
      while (sending.writable) {
        sending.pageRun(0, 600, memory.pages(0, 600));
        await new Promise(setImmediate);
      }
      expect(sending.unflushedBytes).toBeGreaterThan(0);
      expect(sending.failure).toBeUndefined();
      accepted[1]!.resetAndDestroy();
      await untilEvent(() => sending.failure !== undefined);
      expect(sending.failure!.code).toBe('LINK_LOST');
      sending.roundEnd(1); // goes nowhere, and does not throw
      await sending.close();
    } finally {
      await sending.close();
      accepted[0]!.destroy();
      server.close();
      await once(server, 'close');
    }
  },
);

it('streams that can not be connected say so, and leave nothing behind', async () => {
  const event = new EventWord(atomicMapper);
  const { server, port } = await listenForStreams((index, socket) => {
    if (index === 1) {
      socket.destroy(); // after its go
    }
  });
  const refusing = createServer((socket) => {
    socket.on('error', () => undefined).resume();
    const words = new TextEncoder().encode('this ticket is not good');
    socket.end(encodeFrame({ type: FrameType.error, sequence: 0, epoch: EPOCH, value: 3 }, words));
  }).listen(0, '127.0.0.1');
  await once(refusing, 'listening');
  const silent = createServer((socket) => socket.on('error', () => undefined).resume()).listen(
    0,
    '127.0.0.1',
  );
  await once(silent, 'listening');
  const open = (to: number, options: object = {}): Promise<SendingStreams> =>
    SendingStreams.open({
      endpoint: { host: '127.0.0.1', port: to },
      tickets: [new Uint8Array(16), new Uint8Array(16)],
      epoch: EPOCH,
      memory: shared(),
      event,
      ...options,
    });
  const portOf = (of: Server): number => (of.address() as AddressInfo).port;
  const closedServer = createServer().listen(0, '127.0.0.1');
  await once(closedServer, 'listening');
  const closedPort = portOf(closedServer);
  closedServer.close();
  await once(closedServer, 'close');

  await expect(open(closedPort)).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
    message: expect.stringContaining('ECONNREFUSED'),
  });
  await expect(open(portOf(refusing))).rejects.toMatchObject({
    code: 'AUTHENTICATION_FAILED',
    message: 'this ticket is not good',
  });
  const abort = new AbortController();
  const waiting = open(portOf(silent), { signal: abort.signal });
  abort.abort();
  await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED' });
  await expect(open(port, { endpoint: { host: '127.0.0.1', port, tls: PSK } })).rejects.toMatchObject({
    code: expect.stringMatching(/CONNECTION_FAILED|AUTHENTICATION_FAILED/),
  });
  for (const each of [server, refusing, silent]) {
    each.close();
    await once(each, 'close'); // every connection was closed
  }
});

it.each(['threads', 'this-thread'] as const)(
  'a socket that is not made as expected is read by copying: %s',
  async (way) => {
    const memory = shared();
    const changes = new Changes();
    const receiving = new ReceivingStreams({
      count: 1,
      epoch: EPOCH,
      memory,
      written: new SharedArrayBuffer(bitmapWords(LAYOUT.pfnSpan) * 4),
      longestRunPages: 1024,
      features: 0,
      onChange: () => changes.changed(),
      way,
    });
    // A socket of another kind has another kind of handle.
    const folder = mkdtempSync(join(tmpdir(), 'lacuna-'));
    const path = join(folder, 'socket');
    const server = createServer((socket) => receiving.adopt(0, socket)).listen(path);
    await once(server, 'listening');
    const source = connect({ path });
    source.write(frame(1, FrameType.pages, { pfn: 3, pageCount: 2 }, pagesOf(9, 2)));
    source.write(frame(2, FrameType.roundEnd, { value: 1 }));
    await changes.until(() => receiving.endedRound === 1 || receiving.failure !== undefined);
    expect(receiving.failure).toBeUndefined();
    expect(memory.pages(4, 1)[0]).toBe(9);
    await receiving.close();
    source.destroy();
    server.close();
    await once(server, 'close');
    rmSync(folder, { recursive: true });
  },
);

it.each(WAYS)('a socket whose "go" has not left yet is adopted when it has: %s', async (way) => {
  const memory = shared();
  const changes = new Changes();
  const receiving = new ReceivingStreams({
    count: 1,
    epoch: EPOCH,
    memory,
    written: new SharedArrayBuffer(bitmapWords(LAYOUT.pfnSpan) * 4),
    longestRunPages: 1024,
    features: 0,
    onChange: () => changes.changed(),
    way,
  });
  const big = new Uint8Array(32 * 2 ** 20); // more than the kernel takes at once
  const server = createServer((socket) => {
    socket.write(big);
    expect(socket.writableLength).toBeGreaterThan(0);
    receiving.adopt(0, socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const source = connect((server.address() as AddressInfo).port, '127.0.0.1');
  source.write(frame(1, FrameType.pages, { pfn: 3, pageCount: 2 }, pagesOf(9, 2)));
  source.write(frame(2, FrameType.roundEnd, { value: 1 }));
  let count = 0;
  source.on('data', (bytes) => {
    count += bytes.length;
    changes.changed();
  });
  await changes.until(
    () => (receiving.endedRound === 1 && count === big.length) || receiving.failure !== undefined,
  );
  expect(receiving.failure).toBeUndefined();
  expect(memory.pages(4, 1)[0]).toBe(9);
  expect(count).toBe(big.length);
  await receiving.close();
  source.destroy();
  server.close();
  await once(server, 'close');
});

it('sockets that come too late, twice or to no stream are not taken', async () => {
  const { receiving, close } = await receiveFromTest('this-thread', 1);
  const socket = new Socket();
  expect(() => receiving.adopt(0, socket)).toThrow(/stream 0 of 1/);
  expect(() => receiving.adopt(1, socket)).toThrow(/stream 1 of 1/);
  await close();
});
