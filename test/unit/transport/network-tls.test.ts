import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isLacunaError, type LacunaErrorCode } from '../../../src/errors.js';
import {
  checkTlsSettings,
  secureClient,
  secureServer,
  type TlsSettings,
} from '../../../src/transport/network/tls.js';
import { certificateOf, sharedKey } from '../../support/tls-settings.js';

let server: Server;
const sockets = new Set<Socket>();

beforeEach(async () => {
  server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterEach(() => {
  for (const socket of sockets) {
    socket.destroy();
  }
  sockets.clear();
  server.close();
});

/** Two ends of a connection: the source's, and the destination's. */
async function pair(): Promise<[Socket, Socket]> {
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const source = connect((server.address() as AddressInfo).port, '127.0.0.1');
  await once(source, 'connect');
  const [destination] = await accepted;
  for (const socket of [source, destination]) {
    socket.on('error', () => undefined);
    sockets.add(socket);
  }
  return [source, destination];
}

type Outcome = TLSSocket | { readonly code: LacunaErrorCode; readonly message: string };

async function outcome(handshake: Promise<TLSSocket>): Promise<Outcome> {
  try {
    return await handshake;
  } catch (thrown) {
    expect(isLacunaError(thrown), String(thrown)).toBe(true);
    return thrown as Outcome;
  }
}

async function handshake(source: TlsSettings, destination: TlsSettings): Promise<[Outcome, Outcome]> {
  const [client, accepted] = await pair();
  return Promise.all([outcome(secureClient(client, source)), outcome(secureServer(accepted, destination))]);
}

function socketOf(end: Outcome): TLSSocket {
  expect(end, (end as { message?: string }).message).toHaveProperty('encrypted', true);
  return end as TLSSocket;
}

describe('both ends are proven and bytes pass', () => {
  it.each([
    ['by certificates', certificateOf('source'), certificateOf('destination')],
    [
      'by a name of its own',
      { ...certificateOf('source'), serverName: 'elsewhere.test' },
      certificateOf('elsewhere'),
    ],
    ['by a pre-shared key', sharedKey(), sharedKey()],
  ])('%s', async (_how, source, destination) => {
    const [client, accepted] = await handshake(source, destination);
    const read = once(socketOf(accepted), 'data') as Promise<[Buffer]>;
    socketOf(client).write('hello');
    expect((await read)[0].toString()).toBe('hello');
    expect(socketOf(client).getCipher().name).toMatch(/GCM|POLY1305/);
    expect(socketOf(client).getProtocol()).toBe('TLSv1.3');
  });

  it('when the first byte was read and put back', async () => {
    const [client, accepted] = await pair();
    const secured = secureClient(client, sharedKey());
    await once(accepted, 'readable');
    accepted.unshift(accepted.read() as Buffer);
    await Promise.all([secured, secureServer(accepted, sharedKey())]);
  });
});

describe('an end that is not who it should be is refused, in words', () => {
  it.each([
    [
      'an expired destination',
      certificateOf('source'),
      certificateOf('expired'),
      /destination's certificate has expired/,
    ],
    [
      "another authority's destination",
      certificateOf('source'),
      certificateOf('foreign'),
      /not signed by the authority/,
    ],
    [
      'a destination of another name',
      certificateOf('source'),
      certificateOf('elsewhere'),
      /not for "127\.0\.0\.1".*serverName/,
    ],
    ['another key', sharedKey(), sharedKey('tests', 8), /pre-shared key, or its identity/],
    ['another identity', sharedKey(), sharedKey('others'), /pre-shared key, or its identity/],
    ['a certificate where a key was asked for', sharedKey(), certificateOf('destination'), /pre-shared key/],
  ])('%s, by the source', async (_what, source, destination, words) => {
    const [client] = await handshake(source, destination);
    expect(client).toMatchObject({ code: 'AUTHENTICATION_FAILED', message: expect.stringMatching(words) });
  });

  it.each([
    [
      'an expired source',
      certificateOf('expired'),
      certificateOf('destination'),
      /source's certificate has expired/,
    ],
    [
      "another authority's source",
      certificateOf('foreign'),
      certificateOf('destination'),
      /not signed by the authority/,
    ],
    ['another key', sharedKey(), sharedKey('tests', 8), /pre-shared key, or its identity/],
    ['another identity', sharedKey('others'), sharedKey(), /pre-shared key, or its identity/],
  ])('%s, by the destination', async (_what, source, destination, words) => {
    const [, accepted] = await handshake(source, destination);
    expect(accepted).toMatchObject({ code: 'AUTHENTICATION_FAILED', message: expect.stringMatching(words) });
  });

  it('an unknown identity fails as a wrong key does, word for word', async () => {
    const [wrongKey] = await handshake(sharedKey('tests', 8), sharedKey());
    const [wrongIdentity] = await handshake(sharedKey('others'), sharedKey());
    expect(wrongKey).toHaveProperty('message', (wrongIdentity as { message?: string }).message);
  });
});

/** What the destination makes of a client that is Node's, not ours. */
async function refusalOf(options: ConnectionOptions, destination: TlsSettings): Promise<Outcome> {
  const [client, accepted] = await pair();
  const secured = connectTls({ ...options, socket: client, rejectUnauthorized: false });
  secured.on('error', () => undefined);
  return outcome(secureServer(accepted, destination));
}

describe('a destination takes no less than it asks for', () => {
  const { ca, cert, key } = certificateOf('source');

  it('a source without a certificate is refused', async () => {
    expect(await refusalOf({ ca }, certificateOf('destination'))).toMatchObject({
      code: 'AUTHENTICATION_FAILED',
      message: expect.stringMatching(/showed no certificate/),
    });
  });

  it.each([
    ['CBC', 'ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA'],
    ['no encryption', 'NULL-SHA256:@SECLEVEL=0'],
    ['no authentication', 'ADH-AES128-GCM-SHA256:@SECLEVEL=0'],
  ])('suites with %s are refused', async (_what, ciphers) => {
    const offered = { ca, cert, key, ciphers, maxVersion: 'TLSv1.2' } as const;
    expect(await refusalOf(offered, certificateOf('destination'))).toMatchObject({
      code: 'AUTHENTICATION_FAILED',
      message: expect.stringMatching(/nothing that both can do|AEAD/),
    });
  });

  it('a CBC suite is refused with a pre-shared key', async () => {
    const { psk } = sharedKey();
    const offered: ConnectionOptions = {
      ciphers: 'PSK-AES128-CBC-SHA256',
      maxVersion: 'TLSv1.2',
      pskCallback: () => ({ psk: psk!.key, identity: psk!.identity }),
    };
    expect(await refusalOf(offered, sharedKey())).toMatchObject({ code: 'AUTHENTICATION_FAILED' });
  });

  it('TLS 1.1 is refused', async () => {
    const offered = {
      ca,
      cert,
      key,
      minVersion: 'TLSv1.1',
      maxVersion: 'TLSv1.1',
      ciphers: 'ALL:@SECLEVEL=0',
    } as const;
    expect(await refusalOf(offered, certificateOf('destination'))).toMatchObject({
      code: 'AUTHENTICATION_FAILED',
      message: expect.stringMatching(/1\.2/),
    });
  });

  it.each([
    ['TLS 1.2 with certificates', certificateOf('destination'), { ca, cert, key }],
    [
      'TLS 1.2 with a pre-shared key',
      sharedKey(),
      {
        pskCallback: () => ({ psk: sharedKey().psk!.key, identity: 'tests' }),
        ciphers: 'ECDHE-PSK-CHACHA20-POLY1305',
        checkServerIdentity: () => undefined,
      },
    ],
  ] as const)('%s is taken', async (_what, destination, options) => {
    const accepted = socketOf(await refusalOf({ ...options, maxVersion: 'TLSv1.2' }, destination));
    expect(accepted.getProtocol()).toBe('TLSv1.2');
  });
});

describe('what is no TLS', () => {
  it('a destination that answers in clear is no TLS server', async () => {
    const [client, accepted] = await pair();
    accepted.write('SSH-2.0-OpenSSH_9.6\r\n');
    expect(await outcome(secureClient(client, sharedKey()))).toMatchObject({
      code: 'AUTHENTICATION_FAILED',
      message: expect.stringMatching(/does not speak TLS/),
    });
  });

  it('an end that closes is a connection that failed', async () => {
    const [client, accepted] = await pair();
    accepted.destroy();
    expect(await outcome(secureClient(client, sharedKey()))).toMatchObject({ code: 'CONNECTION_FAILED' });
  });

  it('an end that is silent is waited for until the deadline', async () => {
    const [client, accepted] = await pair();
    expect(await outcome(secureClient(client, sharedKey(), 20))).toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/did not finish the TLS handshake in time/),
    });
    expect(client.destroyed).toBe(true);
    accepted.destroy();
    const [, lonely] = await pair();
    expect(await outcome(secureServer(lonely, sharedKey(), 20))).toMatchObject({
      code: 'CONNECTION_FAILED',
      message: expect.stringMatching(/did not finish the TLS handshake in time/),
    });
    expect(lonely.destroyed).toBe(true);
  });
});

describe('settings', () => {
  const { ca, cert, key } = certificateOf('source') as Required<TlsSettings>;

  it.each<[string, TlsSettings, LacunaErrorCode, RegExp]>([
    ['nothing', {}, 'INVALID_ARGUMENT', /ca, cert, key missing/],
    ['no authority', { cert, key }, 'INVALID_ARGUMENT', /ca missing/],
    ['both ways', { ...sharedKey(), ca, cert, key }, 'INVALID_ARGUMENT', /not both/],
    ['a certificate that is none', { ca, cert: 'PEM', key }, 'INVALID_ARGUMENT', /can't use cert/],
    ['a key that is none', { ca, cert, key: 'PEM' }, 'INVALID_ARGUMENT', /can't use key/],
    ['an authority that is none', { ca: 'PEM', cert, key }, 'INVALID_ARGUMENT', /can't use ca/],
    [
      "another's key",
      { ca, cert, key: certificateOf('elsewhere').key! },
      'INVALID_ARGUMENT',
      /does not belong/,
    ],
    ['an expired certificate', certificateOf('expired'), 'AUTHENTICATION_FAILED', /expired on .* renew/],
    ['a short key', { psk: { identity: 'a', key: new Uint8Array(8) } }, 'INVALID_ARGUMENT', /16 to 64 bytes/],
    ['no identity', { psk: { identity: '', key: new Uint8Array(32) } }, 'INVALID_ARGUMENT', /identity/],
  ])('with %s are refused', (_what, settings, code, words) => {
    expect(() => checkTlsSettings(settings)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(words) }),
    );
  });

  it('that are right are taken, and can be cloned to a thread', () => {
    for (const settings of [certificateOf('source'), sharedKey()]) {
      checkTlsSettings(structuredClone(settings));
    }
  });
});
