import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LacunaError } from '../../src/errors.js';
import { MIB } from '../../src/memory/page.js';
import type { ListenOptions } from '../../src/transport/network/migration-listener.js';
import type { ConnectOptions } from '../../src/transport/network/network-channel.js';
import type { TlsSettings } from '../../src/transport/network/tls.js';
import type { PageCounts } from '../../src/wire/channel.js';
import { FrameDecoder } from '../../src/wire/decoder.js';
import { encodeFrame, FrameType } from '../../src/wire/frames.js';
import {
  decodeHello,
  encodeCounts,
  encodeWelcome,
  type Hello,
  type Welcome,
  type WelcomeStatus,
} from '../../src/wire/hello.js';
import {
  CuttableNetwork,
  DEVICE_STATE,
  Ends,
  GUEST_LAYOUT,
  HandMade,
  sameMemory,
  TestDestination,
  TestSource,
  until,
} from '../support/network.js';
import { certificateOf, sharedKey } from '../support/tls-settings.js';

let ends: Ends;
beforeEach(() => {
  ends = new Ends();
});
afterEach(() => ends.end());

async function listen(options: Partial<ListenOptions> = {}): Promise<TestDestination> {
  return ends.add(await TestDestination.listen(options), ({ listener }) => listener.close());
}

async function connect(port: number, options: Partial<ConnectOptions> = {}): Promise<TestSource> {
  return ends.add(await TestSource.connect(port, options), ({ channel }) => channel.close());
}

async function proxyTo(port: number): Promise<CuttableNetwork> {
  return ends.add(await CuttableNetwork.to(port), (proxy) => proxy.close());
}

const PAGES = GUEST_LAYOUT.pageCount;

/** Sends everything and hands the guest over. */
async function move(
  destination: TestDestination,
  port = destination.port,
  options: Partial<ConnectOptions> = {},
): Promise<TestSource> {
  const source = await connect(port, options);
  source.send(0, PAGES, 0x5a);
  await source.finish(1);
  source.channel.commit();
  expect(await source.message()).toMatchObject({ type: 'started' });
  const guest = destination.guests.at(-1)!;
  expect(sameMemory(source.memory, guest.memory)).toBe(true);
  expect(guest.deviceState).toEqual(DEVICE_STATE);
  expect(guest.starts).toBe(1);
  await source.channel.close();
  return source;
}

describe('a migration', () => {
  it.each([1, 2, 5])('goes over %i streams, and another after it', async (streams) => {
    const destination = await listen();
    const source = await move(destination, destination.port, { streams });
    expect(source.channel.migrationId).toMatch(/^[0-9a-f]{32}$/);
    expect(source.channel.bytesOnWire()).toBeGreaterThan(GUEST_LAYOUT.memoryBytes);
    await move(destination, destination.port, { streams });
    expect(destination.outcomes).toEqual(['started', 'started']);
    expect(destination.events.map(({ type }) => type)).toEqual(
      Array.from({ length: 2 }, () => ['offered', 'receiving', 'round', 'ready', 'started']).flat(),
    );
    expect(new Set(destination.events.map(({ migrationId }) => migrationId)).size).toBe(2);
  });

  it('is counted stream by stream', async () => {
    const destination = await listen();
    const source = await connect(destination.port, { streams: 3 });
    source.send(0, 9, 1);
    source.channel.zeroRun(16, 8);
    source.channel.fillRun(32, 4, 0x01020304);
    source.channel.roundEnd(1);
    source.channel.roundEnd(2);
    source.channel.deviceState(DEVICE_STATE);
    source.channel.finish();
    expect(await source.message()).toEqual({ type: 'applied', round: 1 });
    expect(await source.message()).toEqual({ type: 'applied', round: 2 });
    expect(await source.message()).toEqual({
      type: 'ready',
      counts: { pages: 9, zeroPages: 8, filledPages: 4, rounds: 2 },
    });
    expect([...destination.guests[0]!.memory.pages(33, 1).subarray(0, 4)]).toEqual([4, 3, 2, 1]);
  });

  it('waits for a destination that takes a while to find memory, and hears meanwhile that it lives', async () => {
    const destination = await listen({ timeouts: { silenceMs: 300 } });
    destination.admissionMs = 1000;
    await move(destination, destination.port, { silenceMs: 300 });
  });

  it('whose source goes before anything has come is not waited for', async () => {
    const destination = await listen();
    const source = await HandMade.connect(destination.port);
    await source.hello();
    source.close();
    expect(await destination.event('discarded')).toMatchObject({
      text: expect.stringMatching(/before anything had come/),
    });
    expect(destination.events.map(({ type }) => type)).toEqual(['offered', 'discarded']);
    await move(destination);
  });

  it('cuts runs that are longer than the destination takes', async () => {
    const destination = await listen();
    const source = await connect(destination.port);
    expect(() => source.channel.zeroRun(0, 40_000)).toThrow(/maxRunPages/);
  });

  it('that is called off is discarded, and the next one is taken', async () => {
    const destination = await listen();
    const source = await connect(destination.port);
    source.send(0, 3, 1);
    source.channel.cancel();
    expect(await destination.event('discarded')).toMatchObject({
      text: expect.stringMatching(/called it off/),
    });
    expect(destination.outcomes).toEqual(['voided']);
    expect(source.channel.poll()).toBeUndefined();
    await move(destination);
  });

  it('whose guest does not start is not started, for ever', async () => {
    const destination = await listen();
    destination.refusal = 'no room';
    const source = await connect(destination.port);
    await source.finish(1);
    source.channel.commit();
    expect(await source.message()).toEqual({ type: 'not-started', reason: 'no room' });
    await until(() => destination.outcomes.length > 0, 'the end');
    expect(destination.outcomes).toEqual(['voided']);
  });

  it('whose commit is taken back is not started', async () => {
    const destination = await listen();
    const source = await connect(destination.port);
    await source.finish(1);
    source.channel.withdraw();
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'not-started' });
    expect(destination.guests[0]!.starts).toBe(0);
  });

  it('of another source is refused while one is received, and taken afterwards', async () => {
    const destination = await listen();
    const first = await connect(destination.port);
    await expect(connect(destination.port)).rejects.toMatchObject({
      code: 'BUSY',
      message: expect.stringMatching(/receiving another guest/),
    });
    await first.finish(1);
    first.channel.commit();
    expect(await first.message()).toMatchObject({ type: 'started' });
    await until(() => destination.outcomes.length === 1, 'the end of the first');
    await move(destination);
  });

  it('that is refused by whoever decides is told why', async () => {
    const destination = await listen({
      admit: () => Promise.reject(new LacunaError('OUT_OF_MEMORY', 'this machine is full')),
    });
    await expect(connect(destination.port)).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
      message: 'this machine is full',
    });
    expect(await destination.event('refused')).toMatchObject({ text: 'this machine is full' });
  });

  it('larger than the destination takes is refused before anybody is asked', async () => {
    const destination = await listen({ limits: { memoryBytes: 4096, streams: 2 } });
    await expect(connect(destination.port)).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' });
    const small = await listen({ limits: { streams: 2 } });
    await expect(connect(small.port, { streams: 3 })).rejects.toMatchObject({ code: 'UNSUPPORTED' });
    expect(destination.guests.length + small.guests.length).toBe(0);
  });
});

describe('a link that breaks before the commit', () => {
  it('is not one on a machine that is too busy to listen', async () => {
    const destination = await listen({ timeouts: { silenceMs: 200 } });
    const source = await connect(destination.port, { silenceMs: 200 });
    for (let i = 0; i < 5; i += 1) {
      const until = performance.now() + 300; // both ends hear nothing meanwhile, and say nothing
      while (performance.now() < until) {}
      await new Promise(setImmediate);
    }
    await source.finish(1);
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
    expect(destination.events.map(({ type }) => type)).not.toContain('lost');
  });

  it('is restored, and what was applied is kept', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    source.send(0, 100, 1);
    source.channel.roundEnd(1);
    expect(await source.message()).toEqual({ type: 'applied', round: 1 });
    proxy.cut();
    expect(await source.message()).toMatchObject({ type: 'lost' });
    expect(await source.message()).toEqual({ type: 'restored', kept: true });
    source.send(100, PAGES - 100, 2);
    source.channel.zeroRun(0, 10);
    source.memory.pages(0, 10).fill(0);
    await source.finish(1);
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
    expect(sameMemory(source.memory, destination.guests[0]!.memory)).toBe(true);
    expect(destination.guests).toHaveLength(1);
    expect(destination.events.map(({ type }) => type)).toContain('restored');
  });

  it('once *ready* was said makes it ready no more', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    await source.finish(1);
    proxy.cut();
    expect(await source.message()).toMatchObject({ type: 'lost' });
    expect(await source.message()).toEqual({ type: 'restored', kept: true });
    source.channel.commit(); // which no source would
    expect(await source.messageBut('lost')).toMatchObject({ type: 'error' });
    expect(destination.guests[0]!.starts).toBe(0);
  });

  it('drops what is sent until the restored link was heard of', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    proxy.cut();
    await destination.event('restored');
    source.send(0, 5, 1);
    source.channel.roundEnd(7);
    expect(source.channel.writable).toBe(true);
    expect(await source.message()).toMatchObject({ type: 'lost' });
    source.channel.roundEnd(8);
    expect(await source.message()).toEqual({ type: 'restored', kept: true });
    await source.finish(1);
    expect(destination.guests[0]!.memory.pages(0, 1)[0]).toBe(0);
  });

  it('by the loss of a stream alone is broken as a whole', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    // Control goes straight there, the streams by way of what is cut.
    const source = await connect(proxy.port);
    proxy.refuses = true;
    proxy.cut();
    expect(await source.message()).toMatchObject({ type: 'lost' });
    await until(() => proxy.connections > 6, 'several attempts');
    proxy.refuses = false;
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
  });

  it('is not restored when the destination has given the guest up: it begins anew', async () => {
    const destination = await listen({ timeouts: { keepMs: 10 } });
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    source.send(0, 5, 1);
    source.channel.roundEnd(1);
    expect(await source.message()).toEqual({ type: 'applied', round: 1 });
    proxy.refuses = true;
    proxy.cut();
    expect(await destination.event('discarded')).toMatchObject({
      text: expect.stringMatching(/did not come back/),
    });
    proxy.refuses = false;
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: false });
    expect(destination.guests).toHaveLength(2);
    source.send(0, PAGES, 3);
    await source.finish(1);
    expect(sameMemory(source.memory, destination.guests[1]!.memory)).toBe(true);
  });

  it('to another destination in its place begins anew', async () => {
    const first = await listen();
    const second = await listen();
    const proxy = await proxyTo(first.port);
    const source = await connect(proxy.port);
    proxy.target = second.port;
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: false });
    // And back: what the first one kept is of no use any more.
    proxy.target = first.port;
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: false });
    expect(first.guests).toHaveLength(2);
    await source.finish(1);
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
    expect(first.guests.map(({ starts }) => starts)).toEqual([0, 1]);
  });

  it('that goes silent is given up by both ends, and restored', async () => {
    const destination = await listen({ timeouts: { silenceMs: 1000 } });
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port, { silenceMs: 1000 });
    proxy.swallows = 'everything';
    expect(await source.message()).toMatchObject({ type: 'lost' }); // whoever notices first closes
    await destination.event('lost');
    proxy.swallows = 'nothing';
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
  });

  it('before a commit could be sent answers it by itself', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    await source.finish(1);
    proxy.refuses = true;
    proxy.cut();
    await destination.event('lost');
    await until(() => proxy.connections > 3, 'an attempt');
    source.channel.commit();
    expect(await source.messageBut('lost')).toMatchObject({ type: 'not-started' });
    expect(destination.guests[0]!.starts).toBe(0);
  });
});

describe('a link that breaks after the commit', () => {
  it('before it arrived: it is given again', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    await source.finish(1);
    proxy.swallows = 'to-destination';
    source.channel.commit();
    await new Promise((resolve) => {
      setTimeout(resolve, 20);
    });
    const connections = proxy.connections;
    proxy.swallows = 'nothing';
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
    expect(proxy.connections).toBe(connections + 1); // no streams
    expect(destination.guests[0]!.starts).toBe(0);
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
    expect(destination.guests[0]!.starts).toBe(1);
  });

  it('before the answer arrived: the answer is given again, and the guest not started again', async () => {
    const destination = await listen();
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    await source.finish(1);
    proxy.swallows = 'to-source';
    source.channel.commit();
    await destination.event('started');
    proxy.swallows = 'nothing';
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
    source.channel.withdraw();
    expect(await source.message()).toEqual({ type: 'started', startedAt: 1_700_000_000_001 });
    expect(destination.guests[0]!.starts).toBe(1);
  });

  it('and whose destination has given the guest up is not started', async () => {
    const destination = await listen({ timeouts: { keepMs: 10 } });
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port);
    await source.finish(1);
    proxy.swallows = 'to-destination';
    source.channel.commit();
    proxy.refuses = true;
    proxy.cut();
    await destination.event('discarded');
    proxy.swallows = 'nothing';
    proxy.refuses = false;
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'not-started' });
  });

  it('to another destination in its place is no answer', async () => {
    const first = await listen();
    const second = await listen();
    const proxy = await proxyTo(first.port);
    const source = await connect(proxy.port);
    await source.finish(1);
    proxy.swallows = 'to-source';
    source.channel.commit();
    await first.event('started');
    proxy.target = second.port;
    proxy.swallows = 'nothing';
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: false });
    expect(await source.message()).toEqual({ type: 'unknown-migration' });
    source.channel.commit();
    expect(await source.message()).toEqual({ type: 'unknown-migration' });
    expect(second.guests).toEqual([]);
    // The one that was asked before still knows.
    proxy.target = first.port;
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
  });
});

describe('a destination that is not what it says', () => {
  /** Answers hellos with what it is told to. */
  async function liar(
    answer: (hello: Hello) => { status: WelcomeStatus; nonce: number },
    ready: PageCounts[] = [],
  ): Promise<number> {
    const server = createServer((socket) => {
      let sequence = 0;
      const reply = (epoch: number, type: number, payload?: Uint8Array): void => {
        socket.write(encodeFrame({ type, sequence, epoch }, payload));
        sequence += 1;
      };
      const decoder = new FrameDecoder(
        {
          header: () => undefined,
          frame: ({ type, epoch }, payload) => {
            if (type === FrameType.hello) {
              const hello = decodeHello(payload);
              const { status, nonce } = answer(hello);
              const tickets = status === 'fresh' || status === 'kept' ? hello.streams : 0;
              const welcome: Welcome = {
                features: 0,
                status,
                longestRunPages: 4096,
                longestDeviceStateBytes: 4096,
                nonce: new Uint8Array(16).fill(nonce),
                tickets: Array.from({ length: tickets }, () => new Uint8Array(16)),
              };
              reply(epoch, FrameType.welcome, encodeWelcome(welcome));
            } else if (type === FrameType.join) {
              reply(epoch, FrameType.go);
              streams.push(socket);
            } else if (type === FrameType.finish) {
              reply(epoch, FrameType.ready, encodeCounts(ready));
            } else if (type === FrameType.commit) {
              socket.destroy();
            }
          },
        },
        { keptPayloadBytes: MIB },
      );
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('data', (bytes) => decoder.push(bytes));
    });
    const sockets = new Set<Socket>();
    ends.add(server, () => {
      server.close();
      for (const socket of sockets) {
        socket.destroy();
      }
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    cut = (): void => {
      for (const socket of sockets) {
        socket.destroy();
      }
    };
    return (server.address() as AddressInfo).port;
  }
  let cut: () => void;
  let streams: Socket[];
  beforeEach(() => {
    streams = [];
  });

  it('and closes a stream has broken the link', async () => {
    const port = await liar(() => ({ status: 'fresh', nonce: 1 }));
    const source = await connect(port);
    streams[1]!.destroy();
    expect(await source.message()).toMatchObject({ type: 'lost', reason: expect.stringMatching(/stream/) });
  });

  it('has kept nothing if it is another instance, whatever it says', async () => {
    let nonce = 1;
    const port = await liar(({ resumes }) => ({ status: resumes ? 'kept' : 'fresh', nonce }));
    const source = await connect(port);
    cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
    nonce = 2;
    cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: false });
  });

  it('does not know what became of a commit if it is another instance, whatever it says (I10)', async () => {
    const counts = [{ pages: 0, zeroPages: 0, filledPages: 0, rounds: 1 }];
    const port = await liar(
      ({ committed }) => ({ status: committed ? 'settled' : 'fresh', nonce: committed ? 2 : 1 }),
      counts,
    );
    const source = await connect(port, { streams: 1 });
    await source.finish(1);
    source.channel.commit();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: false });
    expect(await source.message()).toEqual({ type: 'unknown-migration' });
  });

  it('is not ready if a stream applied something else than was sent, though the sums are right', async () => {
    const port = await liar(
      () => ({ status: 'fresh', nonce: 1 }),
      [
        { pages: 2, zeroPages: 0, filledPages: 0, rounds: 1 },
        { pages: 0, zeroPages: 0, filledPages: 0, rounds: 1 },
      ],
    );
    const source = await connect(port);
    source.send(0, 2, 1); // one by each stream
    await expect(source.finish(1)).rejects.toThrow(/stream 0: it applied/);
  });

  it('that takes too little of a device state is not sent it', async () => {
    const port = await liar(() => ({ status: 'fresh', nonce: 1 }));
    const source = await connect(port);
    expect(() => source.channel.deviceState(new Uint8Array(4097))).toThrow(/takes 4096/);
  });

  it.each<WelcomeStatus>(['settled', 'unknown'])('and begins with "%s" is refused', async (status) => {
    const port = await liar(() => ({ status, nonce: 1 }));
    await expect(connect(port)).rejects.toMatchObject({ code: 'DESTINATION_FAILED' });
  });
});

describe('secured', () => {
  const ways: [string, TlsSettings, TlsSettings][] = [
    ['certificates', certificateOf('source'), certificateOf('destination')],
    ['a pre-shared key', sharedKey(), sharedKey()],
  ];

  it.each(ways)('by %s a migration goes through, and is restored', async (_how, tls, theirs) => {
    const destination = await listen({ tls: theirs });
    const proxy = await proxyTo(destination.port);
    const source = await connect(proxy.port, { endpoint: { host: 'localhost', port: proxy.port, tls } });
    source.send(0, PAGES, 1);
    source.channel.roundEnd(1);
    expect(await source.message()).toEqual({ type: 'applied', round: 1 });
    proxy.cut();
    expect(await source.messageBut('lost')).toEqual({ type: 'restored', kept: true });
    await source.finish(1);
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
    expect(sameMemory(source.memory, destination.guests[0]!.memory)).toBe(true);
  });

  it.each<[string, TlsSettings | undefined, TlsSettings | undefined, RegExp]>([
    ['a source in clear', undefined, sharedKey(), /takes TLS only/],
    ['a destination in clear', sharedKey(), undefined, /does not speak TLS/],
    ['another key', sharedKey('tests', 1), sharedKey(), /pre-shared key/],
    ['another identity', sharedKey('others'), sharedKey(), /pre-shared key/],
    [
      "another authority's source",
      certificateOf('foreign', 'authority'),
      certificateOf('destination'),
      /refuses this end's certificate/,
    ],
    [
      'a destination of another name',
      certificateOf('source'),
      certificateOf('elsewhere'),
      /not for "127\.0\.0\.1"/,
    ],
  ])('%s is refused in words', async (_who, tls, theirs, words) => {
    const destination = await listen({ tls: theirs });
    const endpoint = { host: '127.0.0.1', port: destination.port, tls };
    await expect(connect(destination.port, { endpoint })).rejects.toMatchObject({
      code: 'AUTHENTICATION_FAILED',
      message: expect.stringMatching(words),
    });
    expect(await destination.event('refused')).toHaveProperty('text');
    expect(destination.guests).toEqual([]);
  });
});

describe('what can not be connected to', () => {
  const endpoint = { host: '127.0.0.1', port: 1 };

  it('is nobody', async () => {
    const unused = await listen();
    const { port } = unused;
    await unused.listener.close();
    await expect(connect(port)).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/nobody listens at 127\.0\.0\.1:\d+/),
    });
  });

  it.each([
    [
      'speaks something else',
      'HTTP/1.1 400 Bad Request\r\n\r\n'.padEnd(100),
      /is not a destination of lacuna/,
    ],
    ['speaks TLS', '\x15\x03\x03\x00\x02\x02\x28'.padEnd(64), /takes TLS only/],
    ['says nothing and closes', '', /closed the connection without an answer/],
  ])('is somebody who %s', async (_what, answer, words) => {
    const stranger = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => socket.end(answer, 'latin1'));
    });
    ends.add(stranger, () => stranger.close());
    stranger.listen(0, '127.0.0.1');
    await once(stranger, 'listening');
    const { port } = stranger.address() as AddressInfo;
    await expect(connect(port)).rejects.toMatchObject({ message: expect.stringMatching(words) });
  });

  it('is given up when that is asked for', async () => {
    const silent = createServer((socket) => socket.on('error', () => undefined));
    ends.add(silent, () => silent.close());
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const abort = new AbortController();
    const connected = connect((silent.address() as AddressInfo).port, { signal: abort.signal });
    await once(silent, 'connection');
    abort.abort();
    await expect(connected).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it.each<[string, Partial<ConnectOptions>]>([
    ['streams', { streams: 0 }],
    ['streams', { streams: 17 }],
    ['port', { endpoint: { ...endpoint, port: 0 } }],
    ['TLS', { endpoint: { ...endpoint, tls: {} } }],
  ])('is nothing that can be asked for: %s', async (_what, options) => {
    await expect(connect(1, options)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('listening', () => {
  it.each(['0.0.0.0', '::', '192.0.2.1', 'example.org'])('at %s wants TLS', async (host) => {
    await expect(listen({ host })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/TLS|tls/),
    });
  });

  it('elsewhere goes with TLS, or when it is said to be meant', async () => {
    await listen({ host: '0.0.0.0', tls: sharedKey() });
    const open = await listen({ host: '0.0.0.0', insecure: true });
    await move(open);
  });

  it('on a port that is taken fails, in words', async () => {
    const { port } = await listen();
    await expect(listen({ port })).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/is taken/),
    });
  });

  it('ends although a source that was answered stays', async () => {
    const destination = await listen();
    const source = await connect(destination.port);
    await source.finish(1);
    source.channel.commit();
    expect(await source.message()).toMatchObject({ type: 'started' });
    await destination.listener.close();
    expect(source.channel.poll()).toBeUndefined(); // nothing that concerns it
  });

  it('ends with a migration under way, and leaves nothing behind', async () => {
    const before = process
      .getActiveResourcesInfo()
      .filter((name) => /TCP|TLS|Timeout/.test(name))
      .toSorted();
    const destination = await listen({ tls: sharedKey() });
    const source = await connect(destination.port, {
      endpoint: { host: '127.0.0.1', port: destination.port, tls: sharedKey() },
    });
    await destination.listener.close();
    expect(destination.outcomes).toEqual(['voided']);
    expect(await source.message()).toEqual({ type: 'error', reason: 'the destination has ended' });
    await source.channel.close();
    const left = (): string[] =>
      process
        .getActiveResourcesInfo()
        .filter((name) => /TCP|TLS|Timeout/.test(name))
        .toSorted();
    await until(() => left().length <= before.length, `nothing to be left: ${left().join(', ')}`);
  });
});
