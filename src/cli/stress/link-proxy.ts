import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** The two ways through a link. */
export const DIRECTIONS = ['to-destination', 'to-source'] as const;
export type Direction = (typeof DIRECTIONS)[number];

/**
 * - `swallows`: what comes is gone, for good on each connection that there is meanwhile.
 * - `holds`: what comes waits, and arrives when it is over.
 */
export const SILENCES = ['swallows', 'holds'] as const;
export type SilenceKind = (typeof SILENCES)[number];

interface Silence {
  readonly kind: SilenceKind;
  readonly directions: readonly Direction[];
}

/**
 * The network between the two ends of a migration, in this process: it passes on what comes until it is cut, refuses to be
 * connected to, or falls silent, as a network does from one moment to the next.
 */
export class LinkProxy {
  /** Where connections go from now on: a port of this machine. */
  target: number;
  /** Connections that come are closed at once. */
  refusing = false;
  /** Bytes that the source has sent and that were passed on. */
  bytesPassed = 0;
  /** Connections that were passed on. */
  connections = 0;
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #alarms: { readonly atBytes: number; readonly act: () => void }[] = [];
  #silence: Silence | undefined;

  private constructor(server: Server, target: number) {
    this.#server = server;
    this.target = target;
    server.on('connection', (socket) => this.#connected(socket));
  }

  /** A link to whoever listens at port `target` of this machine. */
  static async open(target: number): Promise<LinkProxy> {
    const server = createServer({ noDelay: true });
    const proxy = new LinkProxy(server, target);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Connections that are there now. */
  get openConnections(): number {
    return this.#pairs.size;
  }

  /** Calls `act` when the source has sent so many bytes more, from within the handling of the bytes that it is. */
  afterBytes(bytes: number, act: () => void): void {
    this.#alarms.push({ atBytes: this.bytesPassed + bytes, act });
  }

  /** Breaks all connections: by a reset, or by their ends. */
  cut(withReset: boolean): void {
    for (const pair of [...this.#pairs]) {
      pair.destroy(withReset);
    }
  }

  /** Nothing arrives any more in these directions, not even that a connection was closed. */
  fallSilent(kind: SilenceKind, directions: readonly Direction[]): void {
    this.#silence = { kind, directions };
    for (const pair of this.#pairs) {
      pair.fallSilent(this.#silence);
    }
  }

  /** What was held goes on; what was swallowed is gone, and its connections are of no more use to anybody. */
  speakAgain(): void {
    this.#silence = undefined;
    for (const pair of [...this.#pairs]) {
      pair.speakAgain();
    }
  }

  /** Resolves when no socket of it is left. */
  async close(): Promise<void> {
    this.refusing = true;
    this.#alarms = [];
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    this.cut(false);
    await closed;
  }

  #connected(source: Socket): void {
    source.on('error', ignore);
    if (this.refusing) {
      source.destroy();
      return;
    }
    this.connections += 1;
    const pair = new Pair(
      source,
      connect({ port: this.target, host: '127.0.0.1', noDelay: true }),
      (bytes) => this.#passed(bytes),
      () => this.#pairs.delete(pair),
    );
    this.#pairs.add(pair);
    if (this.#silence !== undefined) {
      pair.fallSilent(this.#silence);
    }
  }

  #passed(bytes: number): void {
    this.bytesPassed += bytes;
    const due = this.#alarms.filter(({ atBytes }) => atBytes <= this.bytesPassed);
    if (due.length > 0) {
      this.#alarms = this.#alarms.filter((alarm) => !due.includes(alarm));
      for (const { act } of due) {
        act();
      }
    }
  }
}

/** A connection of the source's, and the one that it is passed on by. */
class Pair {
  readonly #ends: Readonly<Record<Direction, { readonly from: Socket; readonly to: Socket }>>;
  readonly #passed: (bytes: number) => void;
  readonly #over: () => void;
  readonly #silent: Record<Direction, SilenceKind | undefined> = {
    'to-destination': undefined,
    'to-source': undefined,
  };
  #isSwallowed = false;
  #open = 2;

  constructor(source: Socket, destination: Socket, passed: (bytes: number) => void, over: () => void) {
    this.#ends = {
      'to-destination': { from: source, to: destination },
      'to-source': { from: destination, to: source },
    };
    this.#passed = passed;
    this.#over = over;
    for (const direction of DIRECTIONS) {
      const { from, to } = this.#ends[direction];
      from.on('error', ignore);
      from.on('data', (bytes: Buffer) => this.#pass(direction, bytes));
      to.on('drain', () => {
        if (this.#silent[direction] !== 'holds') {
          from.resume();
        }
      });
      from.once('close', () => {
        this.#open -= 1;
        if (this.#open === 0) {
          this.#over();
        } else if (this.#silent[direction] === undefined) {
          to.destroySoon(); // what was written before goes first
        }
      });
    }
  }

  fallSilent({ kind, directions }: Silence): void {
    for (const direction of directions) {
      this.#silent[direction] = kind;
      this.#isSwallowed ||= kind === 'swallows';
      if (kind === 'holds') {
        this.#ends[direction].from.pause();
      }
    }
  }

  speakAgain(): void {
    if (this.#isSwallowed || this.#open < 2) {
      this.destroy(true);
      return;
    }
    for (const direction of DIRECTIONS) {
      if (this.#silent[direction] === 'holds') {
        this.#silent[direction] = undefined;
        this.#ends[direction].from.resume();
      }
    }
  }

  destroy(withReset: boolean): void {
    for (const { from } of Object.values(this.#ends)) {
      if (withReset) {
        from.resetAndDestroy();
      } else {
        from.destroy();
      }
    }
  }

  #pass(direction: Direction, bytes: Buffer): void {
    const { from, to } = this.#ends[direction];
    if (this.#silent[direction] !== 'swallows' && to.writable && !to.write(bytes)) {
      from.pause();
    }
    if (direction === 'to-destination') {
      this.#passed(bytes.length);
    }
  }
}

function ignore(): void {
  // The connection is closed then, and that is passed on.
}
