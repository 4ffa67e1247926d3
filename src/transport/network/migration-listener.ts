import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer, isIPv4, type Server, type Socket } from 'node:net';
import { LacunaError, messageOf } from '../../errors.js';
import { equalBytes } from '../../memory/byte-ops.js';
import { MIB } from '../../memory/page.js';
import type { RamLayout } from '../../memory/ram-layout.js';
import type { DestinationMessage, PageCounts } from '../../wire/channel.js';
import { type FrameHeader, FrameType, ID_BYTES, MOST_STREAMS } from '../../wire/frames.js';
import { decodeHello, encodeStarted, encodeText, type Hello } from '../../wire/hello.js';
import { ControlConnection, peerOf } from './control-connection.js';
import {
  type Admission,
  IncomingMigration,
  type ListenerEvent,
  type MakeStreams,
  type MigrationOffer,
  type ReceivedTotals,
  welcomeTo,
} from './incoming-migration.js';
import { ReceivingStreams } from './receiving-streams.js';
import { SettledMigrations } from './settled-migrations.js';
import { checkTlsSettings, secureServer, TlsRecord, type TlsSettings } from './tls.js';

/** How long a destination waits for what; milliseconds. */
export interface ListenTimeouts {
  /** For a connection to say what it wants, TLS included; and for the streams to join. 10 s by default. */
  readonly handshakeMs: number;
  /** For a sign of life of a source. 10 s by default. */
  readonly silenceMs: number;
  /** For a source whose link broke to come back. 60 s by default. */
  readonly keepMs: number;
}

/** Where to listen, for whom, and what becomes of offers. */
export interface ListenOptions {
  /** An address or a name of this machine. */
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  /** Without, only this machine can be listened to. */
  readonly tls?: TlsSettings | undefined;
  /** Listens without TLS to whoever reaches `host`. They can send a guest, and see one on its way. */
  readonly insecure?: boolean;
  /** The largest guest and the most streams that are accepted. */
  readonly limits?: { readonly memoryBytes?: number; readonly streams?: number };
  readonly timeouts?: Partial<ListenTimeouts>;
  /**
   * Decides on an offer; its peer has been authenticated where TLS is used. Only now may memory be taken for it. What it is
   * rejected with is told to the source. `reply` and `applied` are for the `Receiver` that is made of it; `received` is for
   * people.
   */
  admit(
    offer: MigrationOffer,
    reply: (message: DestinationMessage) => void,
    applied: () => PageCounts,
    received: () => ReceivedTotals,
  ): Promise<Admission>;
  /** Called soon after something has happened, never from within a call. */
  readonly onEvent?: (event: ListenerEvent) => void;
}

const DEFAULT_TIMEOUTS: ListenTimeouts = { handshakeMs: 10_000, silenceMs: 10_000, keepMs: 60_000 };
/** Connections that have not shown what they are for; if more come, the oldest of them is closed. */
const MOST_STRANGERS = 16;
/** Connections that ask what became of a migration. */
const MOST_QUERIES = 16;
/** A source sends a ping every other second, and a handful of frames a migration. */
const MOST_FRAMES_PER_SECOND = 200;
/** Bitmaps have a bit for each page of a hole, too (`RamLayout`): 2 MiB each for so much. */
const MOST_HOLE_BYTES: number = 64 * 1024 * MIB;

/**
 * Listens for migrations, one at a time. Throws INVALID_ARGUMENT for an address that other machines reach, if neither TLS
 * nor `insecure` is given; CONNECTION_FAILED if it can't be listened at.
 */
export async function listenForMigrations(
  options: ListenOptions,
  makeStreams: MakeStreams = (how) => new ReceivingStreams(how),
): Promise<MigrationListener> {
  const { host, port, tls, insecure = false } = options;
  if (tls !== undefined) {
    checkTlsSettings(tls);
  } else if (!insecure && !isLoopback(host)) {
    throw exposed(host);
  }
  const server = createServer({ noDelay: true });
  const listener = new MigrationListener(server, options, makeStreams);
  try {
    server.listen(port, host);
    await once(server, 'listening');
  } catch (cause) {
    throw listenError(cause, host, port);
  }
  const { address } = server.address() as AddressInfo;
  if (tls === undefined && !insecure && !isLoopback(address)) {
    await listener.close();
    throw exposed(`${host} (${address})`);
  }
  return listener;
}

/** Who is at the other end of a control connection. */
interface Peer {
  readonly connection: ControlConnection;
  /** Once it has said hello. */
  id: string | undefined;
  /** The migration that its frames are for; undefined while it is only asked what became of one. */
  migration: IncomingMigration | undefined;
  /** It was welcomed to ask. */
  mayAsk: boolean;
}

/**
 * A destination that listens. A peer that misbehaves is told what it did, and loses its connection and the migration that
 * it has under way; everybody else goes on being served.
 */
export class MigrationListener {
  readonly #options: ListenOptions;
  readonly #timeouts: ListenTimeouts;
  readonly #server: Server;
  readonly #makeStreams: MakeStreams;
  /** Of this instance: a source that comes back knows by it whether it still speaks to whom it spoke before. */
  readonly #nonce: Uint8Array = new Uint8Array(randomBytes(ID_BYTES));
  readonly #strangers = new Set<Socket>();
  readonly #queries = new Set<ControlConnection>();
  readonly #settled = new SettledMigrations();
  #current: IncomingMigration | undefined;
  #closing = false;

  /** Made by {@link listenForMigrations}. */
  constructor(server: Server, options: ListenOptions, makeStreams: MakeStreams) {
    this.#server = server;
    this.#options = options;
    this.#makeStreams = makeStreams;
    const given = Object.entries(options.timeouts ?? {}).filter(([, ms]) => ms !== undefined);
    this.#timeouts = { ...DEFAULT_TIMEOUTS, ...Object.fromEntries(given) };
    server.on('connection', (socket) => this.#accept(socket));
  }

  /** Where it listens. */
  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0;
  }

  /**
   * Listens no more, and gives up what has not been committed. Resolves when no socket, timer or thread of it is left; a guest
   * that was committed before runs by then, or its source was told that it does not.
   */
  async close(): Promise<void> {
    this.#closing = true;
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    const current = this.#current;
    await current?.discard('the destination has ended');
    await current?.ended;
    for (const socket of this.#strangers) {
      socket.destroy();
    }
    for (const query of this.#queries) {
      query.end();
    }
    await closed;
  }

  // ── connections ───────────────────────────────────────────────────────────────────────────────────────────

  #accept(socket: Socket): void {
    socket.on('error', () => undefined); // it is closed then
    if (this.#closing) {
      socket.destroy();
      return;
    }
    if (this.#strangers.size >= MOST_STRANGERS) {
      // The oldest, for an honest peer is a stranger for no longer than it takes to answer it.
      const [oldest] = this.#strangers;
      this.#sayOf(oldest!, 'refused', 'it had not said what it wanted when others came');
      oldest!.destroy();
    }
    const { handshakeMs } = this.#timeouts;
    const timer = setTimeout(() => {
      this.#sayOf(socket, 'refused', `it had not said what it wanted after ${handshakeMs} ms`);
      socket.destroy();
    }, handshakeMs);
    const known = (): void => {
      clearTimeout(timer);
      this.#strangers.delete(socket);
    };
    this.#strangers.add(socket);
    socket.once('close', known);
    const look = (): void => {
      const bytes = socket.read() as Buffer | null;
      if (bytes === null) {
        socket.once('readable', look);
        return;
      }
      socket.unshift(bytes);
      this.#identify(socket, bytes[0]!, known);
    };
    socket.once('readable', look);
  }

  /** By its first byte: the beginning of TLS, which only control connections have, or a frame in clear. */
  #identify(socket: Socket, firstByte: number, known: () => void): void {
    const { tls } = this.#options;
    if (firstByte !== TlsRecord.handshake) {
      this.#control(socket, false, known);
    } else if (tls === undefined) {
      // In clear, which a TLS client takes for what it is: no TLS.
      const connection = this.#control(socket, false, known);
      connection.refuse(new LacunaError('AUTHENTICATION_FAILED', 'this destination does not use TLS'));
      this.#sayOf(socket, 'refused', 'it wants TLS, which this destination does not use');
    } else {
      secureServer(socket, tls, this.#timeouts.handshakeMs).then(
        (secured) => this.#control(secured, true, known),
        (thrown: unknown) => this.#sayOf(socket, 'refused', messageOf(thrown)),
      );
    }
  }

  #control(socket: Socket, isSecured: boolean, known: () => void): ControlConnection {
    const connection: ControlConnection = new ControlConnection(
      socket,
      {
        kind: 'accepted',
        silenceMs: this.#timeouts.silenceMs,
        pings: false,
        framesPerSecond: MOST_FRAMES_PER_SECOND,
      },
      {
        frame: (header, payload) => {
          const { migration } = peer;
          if (header.type === FrameType.join) {
            if (isSecured) {
              throw new LacunaError('PROTOCOL_VIOLATION', 'a stream joins in clear, and then begins TLS');
            }
            this.#join(connection, header, payload, known);
          } else if (header.type === FrameType.hello) {
            const hello = this.#readHello(payload, isSecured);
            connection.expect('control-from-source');
            known();
            peer.id = Buffer.from(hello.migrationId).toString('hex');
            this.#greet(peer, peer.id, header.epoch, hello);
          } else if (migration?.connection === connection && migration.phase !== 'over') {
            migration.frame(connection, header, payload);
          } else {
            this.#answer(peer, header.type);
          }
        },
        ended: (error) => {
          const { id, migration } = peer;
          if (migration?.connection === connection && migration.phase !== 'over') {
            migration.lost(error);
          } else if (error.code !== 'LINK_LOST') {
            this.#refuse(peer, error);
          } else if (id === undefined) {
            this.#sayOf(socket, 'refused', 'it went before it had said what it wanted');
          }
        },
      },
    );
    const peer: Peer = { connection, id: undefined, migration: undefined, mayAsk: false };
    socket.resume();
    return connection;
  }

  #refuse({ connection, id }: Peer, error: LacunaError): void {
    this.#say({ type: 'refused', migrationId: id, peer: connection.peer, text: error.message });
    connection.refuse(error);
  }

  #readHello(payload: Uint8Array, isSecured: boolean): Hello {
    if (this.#options.tls !== undefined && !isSecured) {
      throw new LacunaError(
        'AUTHENTICATION_FAILED',
        'this destination takes TLS only: give the source a certificate or the pre-shared key',
      );
    }
    return decodeHello(payload);
  }

  #join(
    connection: ControlConnection,
    { epoch, value }: Readonly<FrameHeader>,
    ticket: Uint8Array,
    known: () => void,
  ): void {
    if (this.#current?.join(value, epoch, ticket, connection) !== true) {
      throw new LacunaError(
        'AUTHENTICATION_FAILED',
        'this ticket is not good, or not any more: another connection of the migration has come since',
      );
    }
    known();
  }

  // ── hellos ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Throws to refuse. */
  #greet(peer: Peer, id: string, epoch: number, hello: Hello): void {
    if (this.#closing) {
      throw new LacunaError('BUSY', 'this destination is about to end');
    }
    const current = this.#current;
    const isOurs = this.#isOurs(hello);
    if (current?.id !== id) {
      if (hello.committed) {
        // Only whom the commit was sent to can know what became of it (I10).
        this.#welcomeToAsk(peer, hello, isOurs && this.#settled.get(id) !== undefined);
        return;
      }
      if (current?.phase === 'over') {
        this.#greetAfter(current, peer, id, epoch, hello); // in a moment there is room
        return;
      }
      if (current !== undefined) {
        throw busy(current);
      }
      this.#begin(peer, id, epoch, hello);
      return;
    }
    if (epoch <= current.epoch) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `epoch ${epoch} of this migration is over: a connection of epoch ${current.epoch} has come since`,
      );
    }
    if (current.phase === 'over') {
      this.#greetAfter(current, peer, id, epoch, hello); // in a moment it is known what became of it
      return;
    }
    if (!isOurs) {
      if (hello.committed) {
        this.#welcomeToAsk(peer, hello, false);
        return;
      }
      // Its source has spoken to another destination meanwhile: what is here is of no use to it.
      void current.discard('its source begins anew');
      this.#greetAfter(current, peer, id, epoch, hello);
      return;
    }
    if (!hello.committed) {
      if (current.phase === 'starting') {
        throw new LacunaError(
          'PROTOCOL_VIOLATION',
          'this migration was committed: its guest is being started',
        );
      }
      if (!hello.layout.equals(current.offer.layout)) {
        throw new LacunaError('PROTOCOL_VIOLATION', "the guest's memory does not lie where it lay before");
      }
      this.#check(hello);
    }
    peer.migration = current;
    void current.greet(peer.connection, epoch, hello);
  }

  /** The same, when what stands in the way is gone. */
  #greetAfter(current: IncomingMigration, peer: Peer, id: string, epoch: number, hello: Hello): void {
    this.#limitQueries(peer.connection);
    void current.ended.then(() => {
      if (!peer.connection.over) {
        try {
          this.#greet(peer, id, epoch, hello);
        } catch (thrown) {
          this.#refuse(peer, thrown as LacunaError);
        }
      }
    });
  }

  #begin(peer: Peer, id: string, epoch: number, hello: Hello): void {
    this.#check(hello);
    if (!this.#settled.reopen(id)) {
      throw new LacunaError('DESTINATION_FAILED', 'this migration is over here');
    }
    const { connection } = peer;
    const { label, guest, layout, streams } = hello;
    const offer: MigrationOffer = { migrationId: id, label, guest, layout, streams, peer: connection.peer };
    const incoming: IncomingMigration = new IncomingMigration(offer, {
      nonce: this.#nonce,
      tls: this.#options.tls,
      joinMs: this.#timeouts.handshakeMs,
      keepMs: this.#timeouts.keepMs,
      makeStreams: this.#makeStreams,
      admit: (...of) => this.#options.admit(...of),
      say: (type, text) => this.#say({ type, migrationId: id, peer: connection.peer, text }),
      settle: (outcome) => this.#settled.settle(id, outcome),
      answer: (to) => this.#tell(to, id),
      over: () => {
        this.#current = undefined;
        if (incoming.connection !== undefined) {
          this.#limitQueries(incoming.connection); // its source may still ask
        }
      },
    });
    this.#current = incoming;
    this.#say({
      type: 'offered',
      migrationId: id,
      peer: connection.peer,
      text: `"${label}", ${Math.round(layout.memoryBytes / MIB)} MiB, over ${streams} streams`,
    });
    peer.migration = incoming;
    void incoming.greet(connection, epoch, hello);
  }

  /** Whether what the source knows of us was said by this instance; true as well if it knows nothing of anybody. */
  #isOurs({ nonce, committed }: Hello): boolean {
    const isNone = nonce.every((byte) => byte === 0);
    return isNone ? !committed : equalBytes(nonce, this.#nonce);
  }

  /** Throws what the offer is refused with before anybody is asked. */
  #check({ layout, streams }: Hello): void {
    const { limits = {} } = this.#options;
    const { memoryBytes = Number.POSITIVE_INFINITY, streams: mostStreams = MOST_STREAMS } = limits;
    checkLayout(layout, memoryBytes);
    if (streams > mostStreams) {
      throw new LacunaError(
        'UNSUPPORTED',
        `${streams} streams; this destination takes ${mostStreams} at the most`,
      );
    }
  }

  // ── questions about migrations that are over ──────────────────────────────────────────────────────────────

  #welcomeToAsk(peer: Peer, hello: Hello, isSettled: boolean): void {
    const { connection } = peer;
    this.#limitQueries(connection);
    peer.mayAsk = true;
    const status = isSettled ? 'settled' : 'unknown';
    connection.send(FrameType.welcome, 0, welcomeTo(hello, status, this.#nonce));
  }

  #limitQueries(connection: ControlConnection): void {
    if (this.#queries.size >= MOST_QUERIES) {
      const [oldest] = this.#queries;
      oldest!.destroy();
    }
    this.#queries.add(connection);
    void connection.closed.then(() => this.#queries.delete(connection));
  }

  /** A commit or a withdrawal that comes again, or to one who knows nothing of it. */
  #answer({ connection, id, migration, mayAsk }: Peer, type: number): void {
    if (type === FrameType.cancel) {
      connection.end();
      return;
    }
    if (id === undefined || !(mayAsk || migration !== undefined)) {
      throw new LacunaError('PROTOCOL_VIOLATION', 'a frame came before the welcome');
    }
    if (type !== FrameType.commit && type !== FrameType.withdraw) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        'this migration is over: only its outcome can be asked for',
      );
    }
    this.#tell(connection, id);
  }

  #tell(connection: ControlConnection, id: string): void {
    const outcome = this.#settled.tell(id);
    if (outcome === undefined) {
      connection.send(FrameType.unknownMigration);
      this.#say({
        type: 'answered',
        migrationId: id,
        peer: connection.peer,
        text: 'this migration is unknown',
      });
    } else if (outcome.type === 'started') {
      connection.send(FrameType.started, 0, encodeStarted(outcome.startedAt));
      this.#say({ type: 'answered', migrationId: id, peer: connection.peer, text: 'the guest was started' });
    } else {
      connection.send(FrameType.notStarted, 0, encodeText(outcome.reason));
      this.#say({
        type: 'answered',
        migrationId: id,
        peer: connection.peer,
        text: `the guest was not started: ${outcome.reason}`,
      });
    }
  }

  #sayOf(socket: Socket, type: ListenerEvent['type'], text: string): void {
    this.#say({
      type,
      migrationId: undefined,
      peer: peerOf(socket),
      text,
    });
  }

  #say(event: ListenerEvent): void {
    const { onEvent } = this.#options;
    if (onEvent !== undefined) {
      queueMicrotask(() => onEvent(event)); // what it throws is not thrown into a connection
    }
  }
}

function busy(current: IncomingMigration): LacunaError {
  return new LacunaError(
    'BUSY',
    current.connection === undefined
      ? 'the destination keeps another guest, whose link broke, for its source to come back; try again later'
      : 'the destination is receiving another guest; try again later',
  );
}

/** Throws OUT_OF_MEMORY for a guest that is larger than is taken, PROTOCOL_VIOLATION for one with too much between its memory. */
function checkLayout({ memoryBytes, pfnSpan, pageCount }: RamLayout, mostBytes: number): void {
  if (memoryBytes > mostBytes) {
    throw new LacunaError(
      'OUT_OF_MEMORY',
      `the guest has ${Math.ceil(memoryBytes / MIB)} MiB; this destination takes ${Math.floor(mostBytes / MIB)} MiB at the most`,
    );
  }
  const holes = (pfnSpan - pageCount) * (memoryBytes / pageCount);
  if (holes > MOST_HOLE_BYTES) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the guest's memory has holes of ${Math.ceil(holes / MIB)} MiB; at most ${MOST_HOLE_BYTES / MIB} are taken`,
    );
  }
}

/** Whether only this machine reaches `host`. Another name than localhost may mean anything. */
function isLoopback(host: string): boolean {
  const mapped = host.toLowerCase().replace(/^::ffff:/, '');
  return host === 'localhost' || host === '::1' || (isIPv4(mapped) && mapped.startsWith('127.'));
}

function exposed(host: string): LacunaError {
  return new LacunaError(
    'INVALID_ARGUMENT',
    `other machines reach ${host}, and without TLS any of them could send a guest here, or read one on its way: give ` +
      'certificates or a pre-shared key (tls), listen on 127.0.0.1, or say that it is meant (insecure)',
  );
}

function listenError(cause: unknown, host: string, port: number): LacunaError {
  const { code } = (cause ?? {}) as { code?: unknown };
  const words: Record<string, string> = {
    EADDRINUSE: `port ${port} of ${host} is taken by another program: choose another`,
    EADDRNOTAVAIL: `${host} is not an address of this machine`,
    EACCES: `this user may not listen on port ${port}: choose one from 1024 on`,
    ENOTFOUND: `there is no host of the name ${host}`,
  };
  const known = typeof code === 'string' ? words[code] : undefined;
  return new LacunaError(
    'CONNECTION_FAILED',
    known ?? `can't listen on ${host}:${port}: ${messageOf(cause)}`,
    {
      cause,
    },
  );
}
