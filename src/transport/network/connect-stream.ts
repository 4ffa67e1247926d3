import { connect, type Socket } from 'node:net';
import { LacunaError, messageOf } from '../../errors.js';
import { FrameDecoder } from '../../wire/decoder.js';
import { encodeFrame, FrameType, MOST_TEXT_BYTES } from '../../wire/frames.js';
import { decodeError } from '../../wire/hello.js';
import { secureClient, type TlsSettings } from './tls.js';

/** Where a destination listens. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
  readonly tls?: TlsSettings | undefined;
}

/** What a stream needs in order to join its migration. Can be cloned to a thread. */
export interface StreamJoin {
  readonly endpoint: Endpoint;
  /** Which of the migration's streams it is. */
  readonly index: number;
  /** What the destination has given out for it: 16 bytes. */
  readonly ticket: Uint8Array;
  readonly epoch: number;
}

/**
 * Connects a stream: TCP, *join*, the destination's *go*, and then TLS where it is used. Rejects with CONNECTION_FAILED,
 * AUTHENTICATION_FAILED, PROTOCOL_VIOLATION, with what the destination says, or with CANCELLED; it has left no socket open then.
 */
export async function connectStream(join: StreamJoin, signal: AbortSignal): Promise<Socket> {
  const { host, port, tls } = join.endpoint;
  if (signal.aborted) {
    throw cancelled();
  }
  const socket = connect({ host, port, noDelay: true });
  let secured: Socket | undefined;
  const stop = (): void => {
    socket.destroy();
    secured?.destroy();
  };
  signal.addEventListener('abort', stop, { once: true });
  try {
    await joined(socket, join);
    secured = tls === undefined ? socket : await secureClient(socket, { serverName: host, ...tls });
    if (signal.aborted) {
      throw cancelled();
    }
    return secured;
  } catch (thrown) {
    stop();
    throw signal.aborted ? cancelled() : thrown;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Resolves when the destination has said *go*, and nothing but that. */
function joined(socket: Socket, join: StreamJoin): Promise<void> {
  const { endpoint, index, ticket, epoch } = join;
  return new Promise((resolve, reject) => {
    const settle = (error?: unknown): void => {
      socket.off('data', onData).off('error', onError).off('close', onClose).off('connect', onConnect);
      socket.pause();
      if (error === undefined) {
        resolve();
      } else {
        socket.on('error', () => undefined); // it is destroyed, and this was why
        reject(error);
      }
    };
    const decoder = new FrameDecoder(
      {
        header: () => undefined,
        frame: ({ type, value }, payload) => {
          if (type === FrameType.error) {
            throw decodeError(value, payload);
          }
        },
      },
      { keptPayloadBytes: MOST_TEXT_BYTES, epoch, connection: 'stream-from-destination' },
    );
    const onData = (bytes: Uint8Array): void => {
      try {
        decoder.push(bytes);
        if (decoder.nextSequence === 0) {
          return;
        }
        if (!decoder.isBetweenFrames) {
          throw new LacunaError('PROTOCOL_VIOLATION', 'the destination went on after its "go"');
        }
        settle();
      } catch (thrown) {
        settle(thrown);
      }
    };
    const onConnect = (): void => {
      socket.write(encodeFrame({ type: FrameType.join, sequence: 0, epoch, value: index }, ticket));
    };
    const onError = (cause: unknown): void =>
      settle(
        new LacunaError(
          'CONNECTION_FAILED',
          `stream ${index} can't be connected to ${endpoint.host}:${endpoint.port}: ${messageOf(cause)}`,
          { cause },
        ),
      );
    const onClose = (): void =>
      settle(
        new LacunaError('CONNECTION_FAILED', `the destination closed stream ${index} before it had joined`),
      );
    socket.on('data', onData).on('error', onError).on('close', onClose).on('connect', onConnect);
  });
}

function cancelled(): LacunaError {
  return new LacunaError('CANCELLED', 'the streams were closed while they were being connected');
}
