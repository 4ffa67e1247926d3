import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { EventWord } from '../../dist/src/memory/control-buffer.js';
import type { GuestMemory } from '../../dist/src/memory/guest-memory.js';
import { bitmapWords } from '../../dist/src/memory/page-bitmap.js';
import { atomicMapper } from '../../dist/src/memory/shared-words.js';
import type { CompressionMode } from '../../dist/src/transport/network/compression-policy.js';
import { ReceivingStreams, type ReceivingWay } from '../../dist/src/transport/network/receiving-streams.js';
import { SendingStreams } from '../../dist/src/transport/network/sending-streams.js';
import type { TlsSettings } from '../../dist/src/transport/network/tls.js';
import { FrameDecoder } from '../../dist/src/wire/decoder.js';
import { encodeFrame, Feature, FrameType } from '../../dist/src/wire/frames.js';

export const EPOCH = 3;

/** Changes that somebody waits for. */
export class Changes {
  #waiting: (() => void)[] = [];

  changed(): void {
    for (const resolve of this.#waiting.splice(0)) {
      resolve();
    }
  }

  /** Resolves when `holds` does, looking again whenever something has changed. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }
}

/** Reads a join, answers it with *go*, and hands the socket on in the same turn: what a listener does, without its checks. */
export function answerJoin(socket: Socket, joined: (index: number, ticket: Uint8Array) => void): void {
  const decoder = new FrameDecoder(
    {
      header: () => undefined,
      frame: ({ value }, ticket) => {
        const copy = ticket.slice();
        socket.write(encodeFrame({ type: FrameType.go, sequence: 0, epoch: EPOCH }));
        joined(value, copy);
      },
    },
    { keptPayloadBytes: 16, epoch: EPOCH, connection: 'accepted' },
  );
  socket.on('error', () => undefined);
  socket.on('data', (bytes) => {
    try {
      decoder.push(bytes);
    } catch {
      socket.destroy();
    }
  });
}

/** A server whose joined sockets go to `joined`. */
export async function listenForStreams(
  joined: (index: number, socket: Socket, ticket: Uint8Array) => void,
): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => {
    answerJoin(socket, (index, ticket) => joined(index, socket, ticket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port };
}

export interface StreamPair {
  readonly sending: SendingStreams;
  readonly receiving: ReceivingStreams;
  /** The word of the sending side. */
  readonly event: EventWord;
  /** Of the receiving side. */
  readonly changes: Changes;
  close(): Promise<void>;
}

/** Both ends of `count` streams, connected over loopback. */
export async function connectStreams(
  source: GuestMemory,
  destination: GuestMemory,
  count: number,
  options: {
    tls?: TlsSettings | undefined;
    way?: ReceivingWay | undefined;
    written?: SharedArrayBuffer;
    compression?: CompressionMode;
  } = {},
): Promise<StreamPair> {
  const changes = new Changes();
  const event = new EventWord(atomicMapper);
  const {
    tls,
    compression = 'off',
    written = new SharedArrayBuffer(bitmapWords(destination.layout.pfnSpan) * 4),
    way,
  } = options;
  const receiving = new ReceivingStreams({
    count,
    epoch: EPOCH,
    memory: destination,
    written,
    longestRunPages: 1024,
    features: compression === 'off' ? 0 : Feature.compressedRuns,
    onChange: () => changes.changed(),
    ...(tls === undefined ? {} : { tls }),
    ...(way === undefined ? {} : { way }),
  });
  const { server, port } = await listenForStreams((index, socket) => receiving.adopt(index, socket));
  const sending = await SendingStreams.open({
    endpoint: { host: '127.0.0.1', port, tls },
    tickets: Array.from({ length: count }, (_, i) => new Uint8Array(16).fill(i)),
    epoch: EPOCH,
    memory: source,
    event,
    compression,
  });
  return {
    sending,
    receiving,
    event,
    changes,
    close: async () => {
      await Promise.all([sending.close(), receiving.close()]);
      server.close();
      await once(server, 'close'); // and so every socket that it ever accepted has let go of it
    },
  };
}

/** Waits until another run may be sent. */
export async function untilWritable({ sending, event }: StreamPair): Promise<void> {
  for (let seen = event.value(); !sending.writable; seen = event.value()) {
    if (sending.failure !== undefined) {
      throw sending.failure;
    }
    await event.next(seen);
  }
}

/** A source's socket that has joined, for a test that writes the frames itself; the next is number 1. */
export async function joinStream(port: number, index: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.write(
    encodeFrame({ type: FrameType.join, sequence: 0, epoch: EPOCH, value: index }, new Uint8Array(16)),
  );
  await once(socket, 'data'); // go
  return socket;
}
