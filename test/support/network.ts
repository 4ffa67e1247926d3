import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { LacunaError } from '../../src/errors.js';
import { EventWord } from '../../src/memory/control-buffer.js';
import { type GuestMemory, PrivateGuestMemory, SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { wakeOrTimeout } from '../../src/migration/migrate.js';
import { Receiver } from '../../src/migration/receiver.js';
import type { DestinationVm } from '../../src/migration/vm.js';
import type { ListenerEvent } from '../../src/transport/network/incoming-migration.js';
import {
  type ListenOptions,
  listenForMigrations,
  type MigrationListener,
} from '../../src/transport/network/migration-listener.js';
import {
  type ConnectOptions,
  connectMigration,
  type NetworkChannel,
} from '../../src/transport/network/network-channel.js';
import { ReceivingStreams } from '../../src/transport/network/receiving-streams.js';
import type { DestinationMessage } from '../../src/wire/channel.js';
import { FrameDecoder } from '../../src/wire/decoder.js';
import { encodeFrame, type FrameFields, FrameType } from '../../src/wire/frames.js';
import { decodeWelcome, encodeHello, type Hello, type Welcome } from '../../src/wire/hello.js';

/** How long anything may take that is waited for. Generous: a correct program never needs it. */
const PATIENCE_MS = 20_000;

/** What tests end when they are over. */
export class Ends {
  readonly #ends: (() => unknown)[] = [];

  add<T>(thing: T, end: (thing: T) => unknown): T {
    this.#ends.push(() => end(thing));
    return thing;
  }

  async end(): Promise<void> {
    for (const end of this.#ends.splice(0).toReversed()) {
      await end();
    }
  }
}

/** Resolves when `condition` holds; rejects if it never does. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!condition()) {
    if (performance.now() > deadline) {
      throw new Error(`waited for ${what}`);
    }
    await new Promise((resolve) => {
      setTimeout(resolve, 2);
    });
  }
}

export const GUEST_LAYOUT: RamLayout = new RamLayout([{ startGpa: 0, endGpa: MIB }]);
export const DEVICE_STATE: Uint8Array = new TextEncoder().encode('registers');

/** A guest that arrives, and what became of it. */
export class ArrivingVm implements DestinationVm {
  readonly memory: SharedGuestMemory;
  deviceState: Uint8Array | undefined;
  starts = 0;
  /** What `start` throws, if anything. */
  refusal: string | undefined;

  constructor(layout: RamLayout) {
    this.memory = SharedGuestMemory.allocate(layout);
  }

  loadDeviceState(state: Uint8Array): void {
    this.deviceState = state;
  }

  start(): number {
    if (this.refusal !== undefined) {
      throw new LacunaError('GUEST_FAILED', this.refusal);
    }
    this.starts += 1;
    return 1_700_000_000_000 + this.starts;
  }
}

/** A destination that listens, on this thread. */
export class TestDestination {
  readonly guests: ArrivingVm[] = [];
  readonly outcomes: string[] = [];
  readonly events: ListenerEvent[] = [];
  listener!: MigrationListener;
  /** What guests refuse to start with. */
  refusal: string | undefined;
  /** How long it takes to find memory for a guest. */
  admissionMs = 0;

  static async listen(options: Partial<ListenOptions> = {}): Promise<TestDestination> {
    const destination = new TestDestination();
    destination.listener = await listenForMigrations(
      {
        host: '127.0.0.1',
        port: 0,
        admit: async (offer, reply, applied) => {
          if (destination.admissionMs > 0) {
            await new Promise((resolve) => {
              setTimeout(resolve, destination.admissionMs);
            });
          }
          const guest = new ArrivingVm(offer.layout);
          guest.refusal = destination.refusal;
          destination.guests.push(guest);
          return {
            memory: guest.memory,
            sink: new Receiver(guest, reply, applied),
            ended: (outcome) => destination.outcomes.push(outcome),
          };
        },
        onEvent: (event) => destination.events.push(event),
        ...options,
      },
      (how) => new ReceivingStreams({ ...how, way: 'this-thread' }),
    );
    return destination;
  }

  get port(): number {
    return this.listener.port;
  }

  /** Waits for an event of this type, from the `from`th event on. */
  async event(type: ListenerEvent['type'], from = 0): Promise<ListenerEvent> {
    const find = (): ListenerEvent | undefined =>
      this.events.slice(from).find((event) => event.type === type);
    await until(() => find() !== undefined, `the event "${type}"`);
    return find()!;
  }
}

/** The source's end, driven by hand. */
export class TestSource {
  readonly memory: GuestMemory = new PrivateGuestMemory(GUEST_LAYOUT);
  readonly event: EventWord = new EventWord(atomicMapper);
  channel!: NetworkChannel;

  static async connect(port: number, options: Partial<ConnectOptions> = {}): Promise<TestSource> {
    const source = new TestSource();
    source.channel = await connectMigration({
      endpoint: { host: '127.0.0.1', port },
      streams: 2,
      memory: source.memory,
      event: source.event,
      label: 'a test',
      retry: { firstMs: 5, mostMs: 20 },
      ...options,
    });
    return source;
  }

  /** The next message. */
  async message(): Promise<DestinationMessage> {
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const seen = this.event.value();
      const message = this.channel.poll();
      if (message !== undefined) {
        return message;
      }
      if (performance.now() > deadline) {
        throw new Error('waited for a message');
      }
      await wakeOrTimeout(this.event, seen, 1000);
    }
  }

  /** The next message that is not of one of these types. */
  async messageBut(...types: DestinationMessage['type'][]): Promise<DestinationMessage> {
    for (;;) {
      const message = await this.message();
      if (!types.includes(message.type)) {
        return message;
      }
    }
  }

  /** Writes pages and sends them, one run a page. */
  send(pfn: number, pageCount: number, byte: number): void {
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      const bytes = this.memory.pages(page, 1);
      bytes.fill(byte);
      this.channel.pageRun(page, 1, bytes);
    }
  }

  /** Everything up to *ready*. */
  async finish(round: number): Promise<void> {
    this.channel.roundEnd(round);
    this.channel.deviceState(DEVICE_STATE);
    this.channel.finish();
    const ready = await this.messageBut('applied');
    if (ready.type !== 'ready') {
      throw new Error(`instead of ready: ${JSON.stringify(ready)}`);
    }
  }
}

/** Whether two guests' memory holds the same. */
export function sameMemory(a: GuestMemory, b: GuestMemory): boolean {
  return a.segments.every(({ bytes }, i) => Buffer.compare(bytes, b.segments[i]!.bytes) === 0);
}

/** What a hand-made peer was sent. */
export interface ReceivedFrame {
  readonly type: number;
  readonly value: number;
  readonly payload: Uint8Array;
}

/** A hello of the test guest. */
export function helloOf(changes: Partial<Hello> = {}): Hello {
  return {
    requiredFeatures: 0,
    optionalFeatures: 0,
    streams: 1,
    resumes: false,
    committed: false,
    longestRunPages: 4096,
    longestDeviceStateBytes: MIB,
    migrationId: new Uint8Array(16).fill(7),
    nonce: new Uint8Array(16),
    layout: GUEST_LAYOUT,
    label: 'hand-made',
    guest: '',
    ...changes,
  };
}

/** A peer made by hand, frame by frame or byte by byte. */
export class HandMade {
  readonly socket: Socket;
  readonly frames: ReceivedFrame[] = [];
  epoch: number;
  sequence = 0;
  closed = false;

  private constructor(socket: Socket, epoch: number) {
    this.socket = socket;
    this.epoch = epoch;
    const decoder = new FrameDecoder(
      {
        header: () => undefined,
        frame: ({ type, value }, payload) => {
          this.frames.push({ type, value, payload: new Uint8Array(payload) });
        },
      },
      { keptPayloadBytes: 64 * 1024 },
    );
    socket.on('data', (bytes) => decoder.push(bytes));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
    });
  }

  static async connect(port: number, epoch = 1): Promise<HandMade> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    await once(socket, 'connect');
    return new HandMade(socket, epoch);
  }

  bytes(bytes: Uint8Array | string): void {
    if (!this.socket.destroyed) {
      this.socket.write(bytes);
    }
  }

  send(type: number, fields: Partial<FrameFields> = {}, payload?: Uint8Array): void {
    const frame = encodeFrame({ sequence: this.sequence, epoch: this.epoch, ...fields, type }, payload);
    this.sequence += 1;
    this.bytes(frame);
  }

  /** The next frame that is not a pong. */
  async next(): Promise<ReceivedFrame> {
    for (;;) {
      await until(() => this.frames.length > 0 || this.closed, 'a frame');
      const frame = this.frames.shift();
      if (frame === undefined) {
        throw new Error('the connection was closed');
      }
      if (frame.type !== FrameType.pong) {
        return frame;
      }
    }
  }

  async hello(changes: Partial<Hello> = {}): Promise<Welcome> {
    const hello = helloOf(changes);
    this.send(FrameType.hello, {}, encodeHello(hello));
    const { type, payload } = await this.next();
    if (type !== FrameType.welcome) {
      throw new Error(`instead of a welcome: ${type}, ${new TextDecoder().decode(payload)}`);
    }
    return decodeWelcome(payload, hello);
  }

  /** What the connection was refused with; it is closed. */
  async refusal(): Promise<string> {
    let words = '';
    await until(() => this.closed, 'the connection to be closed');
    for (const { type, payload } of this.frames) {
      if (type === FrameType.error) {
        words = new TextDecoder().decode(payload);
      }
    }
    return words;
  }

  /** A stream of this migration, joined. */
  async join(ticket: Uint8Array, index = 0): Promise<HandMade> {
    const stream = await HandMade.connect(this.socket.remotePort!, this.epoch);
    stream.send(FrameType.join, { value: index }, ticket);
    const { type } = await stream.next();
    if (type !== FrameType.go) {
      throw new Error(`instead of go: ${type}`);
    }
    return stream;
  }

  page(pfn: number, byte: number): void {
    this.send(FrameType.pages, { pfn, pageCount: 1 }, new Uint8Array(PAGE_SIZE).fill(byte));
  }

  close(): void {
    this.socket.destroy();
  }
}

/** A network in between that can be cut, and that can swallow what is sent. */
export class CuttableNetwork {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Nothing arrives any more in this direction. */
  swallows: 'nothing' | 'to-destination' | 'to-source' | 'everything' = 'nothing';
  /** Connections are closed as soon as they are made. */
  refuses = false;
  target: number;
  connections = 0;

  private constructor(server: Server, target: number) {
    this.#server = server;
    this.target = target;
    server.on('connection', (source) => this.#connect(source));
  }

  static async to(port: number): Promise<CuttableNetwork> {
    const server = createServer({ noDelay: true });
    const proxy = new CuttableNetwork(server, port);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Breaks all connections. */
  cut(): void {
    for (const socket of this.#sockets) {
      socket.resetAndDestroy();
    }
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => {
      this.#server.close(resolve);
    });
  }

  #connect(source: Socket): void {
    this.connections += 1;
    source.on('error', () => undefined);
    if (this.refuses) {
      source.destroy();
      return;
    }
    const destination = connect({ port: this.target, host: '127.0.0.1', noDelay: true });
    this.#join(source, destination, 'to-destination');
    this.#join(destination, source, 'to-source');
  }

  #join(from: Socket, to: Socket, direction: 'to-destination' | 'to-source'): void {
    this.#sockets.add(from);
    from.on('error', () => undefined);
    from.on('data', (bytes) => {
      if (this.swallows !== direction && this.swallows !== 'everything' && !to.destroyed) {
        to.write(bytes);
      }
    });
    from.on('close', () => {
      this.#sockets.delete(from);
      to.destroy();
    });
    from.on('end', () => to.end());
  }
}
