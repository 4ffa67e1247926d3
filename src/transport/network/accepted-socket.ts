import { type OnReadOpts, Socket } from 'node:net';
import { isMainThread } from 'node:worker_threads';

/**
 * The one place that reaches beneath a TCP socket (docs/adr/0010-data-streams.md). A server's sockets read into buffers
 * of Node's choice: `onread`, which has a socket read straight into memory, is for sockets that are made with it. So an
 * accepted socket is taken apart here, and a new one is made around its handle (on the same thread) or around its
 * descriptor (on another thread).
 *
 * ```
 *                    ┌─ rewrap(onread) ──▶ a socket of this thread around the same handle
 *   accepted socket ─┤
 *                    └─ lend() ──▶ fd ──▶ socketOf(fd, onread) in a thread, which closes it
 *                              └──▶ the handle: never read, written or closed again
 * ```
 */

/** What is used of a handle. It isn't documented: {@link detach} looks whether it is as expected. */
interface TcpHandle {
  readonly fd: number;
  reading: boolean;
  readStop(): number;
  unref(): void;
  close(): void;
}

/** The part of a socket that isn't documented. */
interface WithHandle {
  _handle: unknown;
}

/**
 * Handles whose descriptors are threads'. Closing one would close whatever has its number by then, and Node can't give
 * a descriptor up without closing it: so they stay, for as long as the process does.
 */
const lentHandles: TcpHandle[] = [];

/** A connection between two sockets: nothing reads it. */
export class DetachedSocket {
  readonly #handle: TcpHandle;

  constructor(handle: TcpHandle) {
    this.#handle = handle;
  }

  /** A socket of this thread that reads as `onread` says. */
  rewrap(onread: OnReadOpts): Socket {
    return new Socket({ handle: this.#handle, onread } as ConstructorParameters<typeof Socket>[0]);
  }

  /** The descriptor, for a thread of this process. From here on it is the thread's to close, and only the thread's. */
  lend(): number {
    lentHandles.push(this.#handle);
    this.#handle.unref();
    return this.#handle.fd;
  }

  /** Closes the connection; one that was lent only if the thread that it was lent to has not taken it, and never will. */
  close(): void {
    const at = lentHandles.indexOf(this.#handle);
    if (at !== -1) {
      lentHandles.splice(at, 1);
    }
    this.#handle.close();
  }
}

/**
 * Whether descriptors may be lent to other threads. The handles that stay behind are closed when the thread that
 * accepted them ends: at the end of the process that does no harm, before it would.
 */
export function canLend(): boolean {
  return isMainThread;
}

/** Whoever had the socket hears no more of it. */
export function removeListeners(socket: Socket): void {
  for (const event of ['data', 'readable', 'end', 'error', 'close', 'timeout']) {
    socket.removeAllListeners(event);
  }
}

/**
 * Takes an accepted socket apart. `socket` is of no more use, has lost its listeners, and counts as closed for its
 * server. What it had to write must have been written. Undefined if that can't be done, for it isn't made as expected or
 * more was read of it already than was asked for: nothing was done to it then.
 */
export function detach(socket: Socket): DetachedSocket | undefined {
  const holder = socket as unknown as WithHandle;
  const handle = holder._handle;
  if (socket.destroyed || socket.writableLength > 0 || socket.readableLength > 0 || !isTcpHandle(handle)) {
    return undefined;
  }
  handle.reading = false;
  handle.readStop(); // `pause` would have Node read on, into a buffer of its own
  holder._handle = null; // before it is destroyed, which would close the handle
  removeListeners(socket);
  socket.destroy();
  return new DetachedSocket(handle);
}

/** A socket around a descriptor that was lent to this thread. */
export function socketOf(fd: number, onread?: OnReadOpts): Socket {
  // `onread` of a socket that is made around a descriptor is missing from the types, and honoured.
  const options = { fd, readable: true, writable: true, ...(onread === undefined ? {} : { onread }) };
  return new Socket(options);
}

function isTcpHandle(handle: unknown): handle is TcpHandle {
  if (typeof handle !== 'object' || handle === null || handle.constructor?.name !== 'TCP') {
    return false;
  }
  const { fd, readStop, unref, close } = handle as Partial<Record<keyof TcpHandle, unknown>>;
  return (
    Number.isInteger(fd) &&
    (fd as number) > 2 &&
    [readStop, unref, close].every((method) => typeof method === 'function')
  );
}
