import { connect, type Socket } from 'node:net';
import { asLacunaError, LacunaError, messageOf } from '../../errors.js';
import { FIRST_BYTE, FrameType } from '../../wire/frames.js';
import { decodeError, decodeWelcome, encodeHello, type Hello, type Welcome } from '../../wire/hello.js';
import type { Endpoint } from './connect-stream.js';
import { ControlConnection, type ControlHandler } from './control-connection.js';
import { secureClient, TlsRecord } from './tls.js';

/** How a control connection is opened. */
export interface OpenControl {
  readonly endpoint: Endpoint;
  readonly epoch: number;
  readonly hello: Hello;
  readonly connectTimeoutMs: number;
  readonly silenceMs: number;
  /** Aborted: the attempt is given up, with CANCELLED. */
  readonly signal: AbortSignal;
  /** What comes after the welcome. */
  readonly handler: ControlHandler;
}

/** A destination may have to find memory for the guest before it can answer. */
const WELCOME_TIMEOUT_MS = 30_000;

/**
 * Connects to a destination and says hello. Rejects with CONNECTION_FAILED, AUTHENTICATION_FAILED, UNSUPPORTED,
 * PROTOCOL_VIOLATION, CANCELLED, or with what the destination answers; nothing is left open then.
 */
export async function openControl(
  options: OpenControl,
): Promise<{ connection: ControlConnection; welcome: Welcome }> {
  const { endpoint, signal } = options;
  const { host, port, tls } = endpoint;
  const socket = await connected(endpoint, options.connectTimeoutMs, signal);
  const stop = (): void => void socket.destroy();
  signal.addEventListener('abort', stop, { once: true });
  try {
    const secured = tls === undefined ? socket : await secureClient(socket, { serverName: host, ...tls });
    return await greeted(secured, options);
  } catch (thrown) {
    socket.destroy();
    throw signal.aborted ? cancelled() : asLacunaError(thrown, 'CONNECTION_FAILED', `${host}:${port}: `);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

function connected({ host, port }: Endpoint, timeoutMs: number, signal: AbortSignal): Promise<Socket> {
  if (signal.aborted) {
    return Promise.reject(cancelled());
  }
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const settle = (error?: LacunaError): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      socket.off('error', onError);
      if (error === undefined) {
        resolve(socket);
      } else {
        socket.on('error', () => undefined);
        socket.destroy();
        reject(error);
      }
    };
    const onError = (cause: unknown): void => settle(connectError(cause, host, port));
    const onAbort = (): void => settle(cancelled());
    const timer = setTimeout(
      () =>
        settle(
          new LacunaError(
            'CONNECTION_FAILED',
            `${host}:${port} did not answer within ${timeoutMs} ms: is the address right, and does a firewall let it through?`,
          ),
        ),
      timeoutMs,
    );
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', onError).once('connect', () => settle());
  });
}

/** Why there is no connection, and what to do about it. */
export function connectError(cause: unknown, host: string, port: number): LacunaError {
  const { code } = (cause ?? {}) as { code?: unknown };
  const where = `${host}:${port}`;
  const words: Record<string, string> = {
    ECONNREFUSED: `nobody listens at ${where}: is the destination ready to receive (lacuna receive), there and on that port?`,
    ENOTFOUND: `there is no host of the name ${host}`,
    EAI_AGAIN: `the name ${host} can't be looked up now: does this machine reach its name server?`,
    EHOSTUNREACH: `${host} can't be reached: no route leads there, or nobody has that address`,
    ENETUNREACH: `${host} can't be reached: this machine has no route to its network`,
    ETIMEDOUT: `${where} did not answer: is the address right, and does a firewall let it through?`,
    ECONNRESET: `${where} broke the connection off`,
  };
  const known = typeof code === 'string' ? words[code] : undefined;
  return new LacunaError('CONNECTION_FAILED', known ?? `can't connect to ${where}: ${messageOf(cause)}`, {
    cause,
  });
}

/** Says hello and waits for the welcome; from then on the connection is its handler's. */
function greeted(
  socket: Socket,
  { endpoint, epoch, hello, silenceMs, handler, signal }: OpenControl,
): Promise<{ connection: ControlConnection; welcome: Welcome }> {
  const { host, port, tls } = endpoint;
  return new Promise((resolve, reject) => {
    let isWelcome = false;
    const settle = (error: LacunaError): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      connection.destroy();
      reject(error);
    };
    const onAbort = (): void => settle(cancelled());
    const connection = new ControlConnection(
      socket,
      { kind: 'control-from-destination', epoch, silenceMs, pings: true },
      {
        frame: (header, payload) => {
          if (isWelcome) {
            handler.frame(header, payload);
          } else if (header.type === FrameType.error) {
            settle(decodeError(header.value, payload));
          } else if (header.type === FrameType.welcome) {
            const welcome = decodeWelcome(payload, hello);
            clearTimeout(timer);
            signal.removeEventListener('abort', onAbort);
            isWelcome = true;
            resolve({ connection, welcome });
          } else {
            throw new LacunaError('PROTOCOL_VIOLATION', 'the destination did not begin with a welcome');
          }
        },
        ended: (error) => {
          if (isWelcome) {
            handler.ended(error);
          } else {
            settle(notWelcome(error, connection.firstByte, `${host}:${port}`, tls !== undefined));
          }
        },
      },
    );
    const timer = setTimeout(
      () =>
        settle(
          new LacunaError(
            'CONNECTION_FAILED',
            `${host}:${port} did not answer the hello within ${WELCOME_TIMEOUT_MS} ms: is it a destination of lacuna?`,
          ),
        ),
      WELCOME_TIMEOUT_MS,
    );
    signal.addEventListener('abort', onAbort, { once: true });
    connection.send(FrameType.hello, 0, encodeHello(hello));
  });
}

/** What kind of peer does not answer a hello by a welcome. */
function notWelcome(
  error: LacunaError,
  firstByte: number | undefined,
  where: string,
  isSecured: boolean,
): LacunaError {
  if (error.code === 'LINK_LOST') {
    // With TLS 1.3 this is how a source learns that its certificate is refused.
    return isSecured
      ? new LacunaError(
          'AUTHENTICATION_FAILED',
          `${where} closed the connection after the TLS handshake, as it does if it refuses this end's certificate (see ` +
            'there why), or if it ends',
          { cause: error },
        )
      : new LacunaError(
          'CONNECTION_FAILED',
          `${where} closed the connection without an answer: is it a destination of lacuna, and not TLS's?`,
          { cause: error },
        );
  }
  if (!isSecured && (firstByte === TlsRecord.alert || firstByte === TlsRecord.handshake)) {
    return new LacunaError(
      'AUTHENTICATION_FAILED',
      `${where} takes TLS only: give this end a certificate or the pre-shared key`,
      { cause: error },
    );
  }
  return error.code === 'PROTOCOL_VIOLATION' && firstByte !== FIRST_BYTE
    ? new LacunaError('CONNECTION_FAILED', `${where} is not a destination of lacuna: ${error.message}`, {
        cause: error,
      })
    : error;
}

function cancelled(): LacunaError {
  return new LacunaError('CANCELLED', 'the connection was given up before it was made');
}
