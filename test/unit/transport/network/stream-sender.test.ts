import { Duplex } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type { LacunaError } from '../../../../src/errors.js';
import { MIB, PAGE_SIZE } from '../../../../src/memory/page.js';
import { StreamSender } from '../../../../src/transport/network/stream-sender.js';
import { FrameDecoder } from '../../../../src/wire/decoder.js';
import { type FrameHeader, FrameType } from '../../../../src/wire/frames.js';

/** A socket that keeps what it was given to write, and has written when it is told to. */
class HeldSocket extends Duplex {
  readonly writes: Uint8Array[][] = [];
  #done: ((error?: Error) => void) | undefined;

  override _writev(chunks: { chunk: Uint8Array }[], done: (error?: Error) => void): void {
    this.writes.push(chunks.map(({ chunk }) => chunk));
    this.#done = done;
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error) => void): void {
    this._writev([{ chunk }], done);
  }

  override _read(): void {}

  async written(error?: Error): Promise<void> {
    const done = this.#done;
    this.#done = undefined;
    done?.(error);
    await new Promise(setImmediate); // streams call back later
  }
}

function senderTo(socket: Duplex) {
  const flushed: number[] = [];
  const failures: LacunaError[] = [];
  const sender = new StreamSender(socket, {
    index: 5,
    epoch: 9,
    flushed: (bytes) => flushed.push(bytes),
    failed: (error) => failures.push(error),
  });
  return { sender, flushed, failures };
}

/** What a peer makes of the writes. */
function decode(
  writes: readonly Uint8Array[][],
): (Omit<FrameHeader, 'sequence' | 'epoch'> & { first: number })[] {
  const frames: (Omit<FrameHeader, 'sequence' | 'epoch'> & { first: number })[] = [];
  const decoder = new FrameDecoder(
    {
      header: () => undefined,
      frame: ({ type, pfn, pageCount, value, payloadLength }, payload) => {
        frames.push({ type, pfn, pageCount, value, payloadLength, first: payload[0] ?? -1 });
      },
    },
    { keptPayloadBytes: 4 * MIB, epoch: 9, firstSequence: 1, connection: 'stream-from-source' },
  );
  for (const chunk of writes.flat()) {
    decoder.push(chunk);
  }
  expect(decoder.isBetweenFrames).toBe(true);
  return frames;
}

describe('StreamSender', () => {
  it('sends small frames in one piece, and pages as views of where they are', async () => {
    const socket = new HeldSocket();
    const { sender, flushed } = senderTo(socket);
    const ram = new Uint8Array(new SharedArrayBuffer(8 * PAGE_SIZE)).fill(7);
    for (let i = 0; i < 100; i += 1) {
      sender.zeroRun(i, 1);
    }
    sender.pageRun(200, 8, ram);
    sender.fillRun(300, 2, 0xffff_fff0);
    sender.roundEnd(1);
    expect(socket.writes).toHaveLength(0);
    sender.flush();
    sender.flush();
    expect(socket.writes).toHaveLength(1);
    const [chunks] = socket.writes as [Uint8Array[]];
    // 64 headers, 37 headers, the pages, two headers.
    expect(chunks.map(({ length }) => length)).toEqual([64 * 32, 37 * 32, 8 * PAGE_SIZE, 2 * 32]);
    expect(chunks[2]!.buffer).toBe(ram.buffer);
    ram[0] = 8; // until it is flushed the socket reads what is there
    const frames = decode(socket.writes);
    expect(frames.slice(0, 100).map(({ type, pfn }) => ({ type, pfn }))).toEqual(
      Array.from({ length: 100 }, (_, pfn) => ({ type: FrameType.zero, pfn })),
    );
    expect(frames.slice(100)).toEqual([
      { type: FrameType.pages, pfn: 200, pageCount: 8, value: 0, payloadLength: 8 * PAGE_SIZE, first: 8 },
      { type: FrameType.fill, pfn: 300, pageCount: 2, value: 0xffff_fff0, payloadLength: 0, first: -1 },
      { type: FrameType.roundEnd, pfn: 0, pageCount: 0, value: 1, payloadLength: 0, first: -1 },
    ]);
    expect(flushed).toEqual([]);
    await socket.written();
    expect(flushed).toEqual([103 * 32 + 8 * PAGE_SIZE]);
  });

  it('has no room while 8 MiB are on their way', async () => {
    const socket = new HeldSocket();
    const { sender } = senderTo(socket);
    const run = new Uint8Array(4 * MIB);
    sender.pageRun(0, 1024, run);
    expect(sender.hasRoom).toBe(true);
    sender.pageRun(1024, 1024, run);
    expect(sender.hasRoom).toBe(false);
    sender.flush();
    await socket.written();
    expect(sender.hasRoom).toBe(true);
  });

  it.each([
    ['an error of the write', (socket: HeldSocket) => socket.written(new Error('ECONNRESET')), 'LINK_LOST'],
    ['an error of the socket', (socket: HeldSocket) => socket.destroy(new Error('EPIPE')), 'LINK_LOST'],
    ['its being closed', (socket: HeldSocket) => socket.destroy(), 'LINK_LOST'],
    ['its end', (socket: HeldSocket) => socket.push(null), 'LINK_LOST'],
    ['anything that comes', (socket: HeldSocket) => socket.push(new Uint8Array(1)), 'PROTOCOL_VIOLATION'],
  ] as const)('fails once, by %s', async (_, happen, code) => {
    const socket = new HeldSocket();
    const { sender, failures, flushed } = senderTo(socket);
    sender.zeroRun(0, 1);
    sender.flush();
    await happen(socket);
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(failures.map((failure) => failure.code)).toEqual([code]);
    expect(failures[0]!.message).toContain('stream 5');
    expect(socket.destroyed).toBe(true);
    expect(sender.hasRoom).toBe(false);
    sender.zeroRun(1, 1);
    sender.flush(); // goes nowhere, and does not throw
    await sender.close();
    expect(flushed).toEqual([]);
    expect(failures).toHaveLength(1);
  });

  it('is silent after it was closed', async () => {
    const socket = new HeldSocket();
    const { sender, failures } = senderTo(socket);
    await sender.close();
    expect(socket.destroyed).toBe(true);
    expect(failures).toEqual([]);
  });
});
