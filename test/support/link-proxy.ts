import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { FRAME_HEADER_BYTES } from '../../src/wire/channel.js';
import { decodeHeader, emptyHeader, type FrameHeader, type FrameType } from '../../src/wire/frames.js';

type FrameTypeCode = (typeof FrameType)[keyof typeof FrameType];

/** The first byte of a frame; of anything else (TLS) a proxy knows nothing, and passes it on. */
const FRAMES_BEGIN_WITH = 0x56;

/**
 * A link between a source and a destination that a test has in its hand: it passes on what comes, frame by frame, holds
 * a frame of some type back when it comes, breaks, and refuses to be made again.
 */
export class LinkProxy {
  /** Where connections go from now on. */
  target: number;
  /** Connections that come are closed at once. */
  refusing = false;
  /** Bytes of the source that were passed on. */
  bytesPassed = 0;
  readonly #server: Server;
  readonly #pipes = new Set<Pipe>();
  #held: { readonly type: number; readonly seen: () => void } | undefined;
  #cutAt = Number.POSITIVE_INFINITY;
  #wasCut: () => void = () => {};

  private constructor(server: Server, target: number) {
    this.#server = server;
    this.target = target;
    server.on('connection', (socket) => this.#connected(socket));
  }

  /** A proxy before whoever listens at `target` of this machine. */
  static async open(target: number): Promise<LinkProxy> {
    const server = createServer();
    const proxy = new LinkProxy(server, target);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** HOST:PORT */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Holds back the next frame of this type and what follows it on its connection. Resolves when it has come. */
  hold(type: FrameTypeCode): Promise<void> {
    return new Promise((resolve) => {
      this.#held = { type, seen: resolve };
    });
  }

  /** Breaks everything once the source has sent so many bytes more. Resolves when that has happened. */
  cutAfter(bytes: number): Promise<void> {
    return new Promise((resolve) => {
      this.#cutAt = this.bytesPassed + bytes;
      this.#wasCut = resolve;
    });
  }

  /** Breaks all connections; what was held back is lost with them. */
  cut(): void {
    for (const pipe of [...this.#pipes]) {
      pipe.destroy();
    }
  }

  close(): Promise<void> {
    this.refusing = true;
    this.cut();
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #connected(source: Socket): void {
    source.on('error', () => {});
    if (this.refusing) {
      source.destroy();
      return;
    }
    const destination = connect(this.target, '127.0.0.1');
    destination.on('error', () => {});
    const there = new Pipe(
      source,
      destination,
      (header) => this.#isHeld(header),
      (bytes) => this.#passed(bytes),
    );
    const back = new Pipe(
      destination,
      source,
      (header) => this.#isHeld(header),
      () => {},
    );
    for (const pipe of [there, back]) {
      this.#pipes.add(pipe);
    }
    const over = (): void => {
      source.destroy();
      destination.destroy();
      this.#pipes.delete(there);
      this.#pipes.delete(back);
    };
    source.once('close', over);
    destination.once('close', over);
  }

  #isHeld({ type }: Readonly<FrameHeader>): boolean {
    const held = this.#held;
    if (held?.type !== type) {
      return false;
    }
    this.#held = undefined;
    held.seen();
    return true;
  }

  #passed(bytes: number): void {
    this.bytesPassed += bytes;
    if (this.bytesPassed >= this.#cutAt) {
      this.#cutAt = Number.POSITIVE_INFINITY;
      this.cut();
      this.#wasCut();
    }
  }
}

/** One direction of a connection. */
class Pipe {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #isHeld: (header: Readonly<FrameHeader>) => boolean;
  readonly #passed: (bytes: number) => void;
  readonly #header: Buffer = Buffer.alloc(FRAME_HEADER_BYTES);
  readonly #fields: FrameHeader = emptyHeader();
  #headerBytes = 0;
  #payloadLeft = 0;
  /** Nothing of it is known to be frames. */
  #opaque: boolean | undefined;
  #holding = false;

  constructor(
    from: Socket,
    to: Socket,
    isHeld: (header: Readonly<FrameHeader>) => boolean,
    passed: (bytes: number) => void,
  ) {
    this.#from = from;
    this.#to = to;
    this.#isHeld = isHeld;
    this.#passed = passed;
    from.on('data', (chunk: Buffer) => this.#take(chunk));
    from.on('end', () => to.end());
    to.on('drain', () => from.resume());
  }

  destroy(): void {
    this.#from.destroy();
  }

  #take(chunk: Buffer): void {
    this.#opaque ??= chunk[0] !== FRAMES_BEGIN_WITH;
    if (this.#holding) {
      return; // it is never passed on: whoever holds a frame cuts the link, or kills an end of it
    }
    let at = 0;
    while (!this.#opaque && at < chunk.length) {
      if (this.#payloadLeft > 0) {
        const bytes = Math.min(this.#payloadLeft, chunk.length - at);
        this.#payloadLeft -= bytes;
        at += bytes;
        continue;
      }
      const bytes = Math.min(FRAME_HEADER_BYTES - this.#headerBytes, chunk.length - at);
      chunk.copy(this.#header, this.#headerBytes, at, at + bytes);
      this.#headerBytes += bytes;
      if (this.#headerBytes < FRAME_HEADER_BYTES) {
        at += bytes;
        break;
      }
      const { buffer, byteOffset } = this.#header;
      decodeHeader(new DataView(buffer, byteOffset), 0, this.#fields);
      if (this.#isHeld(this.#fields)) {
        this.#holding = true;
        this.#pass(chunk.subarray(0, at)); // of its header some bytes may have gone before: no frame without the rest
        return;
      }
      this.#headerBytes = 0;
      this.#payloadLeft = this.#fields.payloadLength;
      at += bytes;
    }
    this.#pass(chunk);
  }

  #pass(bytes: Buffer): void {
    if (bytes.length > 0 && !this.#to.destroyed) {
      if (!this.#to.write(bytes)) {
        this.#from.pause();
      }
      this.#passed(bytes.length);
    }
  }
}
