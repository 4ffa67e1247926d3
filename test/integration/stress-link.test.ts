import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LinkProxy } from '../../src/cli/stress/link-proxy.js';
import { openSockets } from '../../src/cli/stress/open-sockets.js';
import { until } from '../support/network.js';

/** The network that `lacuna stress` breaks: a test of what its tests of a network rely on. */
let server: Server;
let link: LinkProxy;
/** At the destination, one for each connection: what has come, and whether it was closed. */
let accepted: { readonly socket: Socket; text: string; closed: boolean }[];

beforeEach(async () => {
  accepted = [];
  server = createServer((socket) => {
    const peer = { socket, text: '', closed: false };
    accepted.push(peer);
    socket.on('error', () => undefined);
    socket.on('data', (bytes) => {
      peer.text += bytes.toString('latin1');
    });
    socket.on('close', () => {
      peer.closed = true;
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  link = await LinkProxy.open((server.address() as AddressInfo).port);
});
afterEach(async () => {
  await link.close();
  await new Promise((resolve) => {
    server.close(resolve);
  });
});

/** A source that has connected, and reached the destination. */
async function source(): Promise<{ readonly socket: Socket; readonly text: () => string }> {
  const before = accepted.length;
  const socket = connect({ port: link.port, host: '127.0.0.1' });
  let text = '';
  socket.on('error', () => undefined);
  socket.on('data', (bytes) => {
    text += bytes.toString('latin1');
  });
  await until(() => accepted.length > before, 'the connection to be passed on');
  return { socket, text: () => text };
}

/** Long enough for what would arrive to have arrived. */
async function aMoment(): Promise<void> {
  await new Promise((resolve) => {
    setTimeout(resolve, 50);
  });
}

describe('a link', () => {
  it('passes on what is said and that it is over, in both directions', async () => {
    const { socket, text } = await source();
    socket.write('there');
    accepted[0]!.socket.write('back');
    await until(() => accepted[0]!.text === 'there' && text() === 'back', 'both to arrive');
    expect(link.bytesPassed).toBe(5);
    socket.end('bye');
    await until(() => accepted[0]!.closed, 'the end');
    expect(accepted[0]!.text).toBe('therebye');
    await until(() => link.openConnections === 0, 'nothing to be left');
  });

  it.each([true, false])('breaks at a byte (by a reset: %s), and can be made again', async (withReset) => {
    const { socket } = await source();
    link.afterBytes(10_000, () => link.cut(withReset));
    socket.write(Buffer.alloc(1_000_000));
    await until(() => socket.destroyed && accepted[0]!.closed, 'the break at both ends');
    expect(accepted[0]!.text.length).toBeLessThan(1_000_000);
    const again = await source();
    again.socket.write('again');
    await until(() => accepted[1]!.text === 'again', 'what is said then');
  });

  it('is refused for as long as it is said to be', async () => {
    link.refusing = true;
    const socket = connect({ port: link.port, host: '127.0.0.1' });
    socket.on('error', () => undefined);
    await until(() => socket.destroyed, 'the refusal');
    expect(accepted).toEqual([]);
    link.refusing = false;
    await source();
  });

  it('holds what is said, and delivers it later', async () => {
    const { socket, text } = await source();
    link.fallSilent('holds', ['to-destination']);
    socket.write('late');
    accepted[0]!.socket.write('at once');
    await until(() => text() === 'at once', 'the other direction');
    await aMoment();
    expect(accepted[0]!.text).toBe('');
    link.speakAgain();
    await until(() => accepted[0]!.text === 'late', 'what was held');
  });

  it('swallows what is said, and does not even tell that it was closed', async () => {
    const { socket } = await source();
    link.fallSilent('swallows', ['to-destination', 'to-source']);
    const other = await source(); // it is connected to, and nothing more
    other.socket.write('lost too');
    socket.write('lost');
    socket.destroy();
    await aMoment();
    expect(accepted.map(({ text, closed }) => ({ text, closed }))).toEqual([
      { text: '', closed: false },
      { text: '', closed: false },
    ]);
    link.speakAgain();
    await until(() => accepted.every(({ closed }) => closed), 'it to be known');
    expect(accepted.map(({ text }) => text)).toEqual(['', '']);
  });

  it('leaves no socket behind, and those that are there are seen', async () => {
    const ports = new Set([link.port]);
    await source();
    expect(openSockets(ports).length).toBeGreaterThanOrEqual(3); // it listens, and both ends of the connection
    await link.close();
    for (const { socket } of accepted) {
      socket.destroy();
    }
    await until(() => openSockets(ports).length === 0, 'all of them to be closed');
  });
});
