/**
 * Streams over loopback TCP between two processes, against a bare pair of node:net sockets in the same two processes that
 * writes chunks of the same size from shared memory and reads them (`onread`) into shared memory. All memory is in use, and
 * the destination's was touched before. Target: 80 % of the bare pair.
 *
 * ```
 * npm run build && node dist/bench/micro/network-throughput.js [runs, 7] [GiB, 1] [pages in a run, 1024]
 * ```
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { EventWord } from '../../src/memory/control-buffer.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { GIB, MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { bitmapWords } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { ReceivingStreams } from '../../src/transport/network/receiving-streams.js';
import { SendingStreams } from '../../src/transport/network/sending-streams.js';
import type { TlsSettings } from '../../src/transport/network/tls.js';
import { FrameDecoder } from '../../src/wire/decoder.js';
import { encodeFrame, FrameType } from '../../src/wire/frames.js';
import { median, needMemory, printMachine, printTable, spread } from './figures.js';

const [RUNS, GUEST_GIB, RUN_PAGES] = [2, 3, 4].map((i, at) => Number(process.argv[i] ?? [7, 1, 1024][at]));
const GUEST_BYTES = GUEST_GIB! * GIB;
const CHUNK_BYTES = RUN_PAGES! * PAGE_SIZE;
/** The destination is this file in a process of its own. */
const IS_DESTINATION = process.send !== undefined;

const TLS: TlsSettings = { psk: { identity: 'bench', key: new Uint8Array(32).fill(7) } };

interface Case {
  readonly name: string;
  /** 0: the bare pair. */
  readonly streams: number;
  readonly tls?: TlsSettings;
}
const CASES: readonly Case[] = [
  { name: 'bare pair of sockets', streams: 0 },
  { name: '1 stream', streams: 1 },
  { name: '2 streams', streams: 2 },
  { name: '4 streams', streams: 4 },
  { name: '1 stream, TLS', streams: 1, tls: TLS },
  { name: '2 streams, TLS', streams: 2, tls: TLS },
  { name: '4 streams, TLS', streams: 4, tls: TLS },
];

/** How a process fared in a run. */
interface Told {
  readonly cpuMs: number;
  readonly lateMs: number;
  readonly beyondGuestMib: number;
}

const layout = new RamLayout([{ startGpa: 0, endGpa: GUEST_BYTES }]);

/** Memory of which every page was touched. */
function touchedMemory(): SharedGuestMemory {
  const memory = SharedGuestMemory.allocate(layout);
  for (const { bytes } of memory.segments) {
    new Float64Array(bytes.buffer).fill(Math.PI);
  }
  return memory;
}

const lateness = monitorEventLoopDelay({ resolution: 1 });
let cpuBefore = process.cpuUsage();

function beginRun(): void {
  cpuBefore = process.cpuUsage();
  lateness.reset();
}

function told(): Told {
  const beyondGuestMib = (process.memoryUsage.rss() - GUEST_BYTES) / MIB;
  const { user, system } = process.cpuUsage(cpuBefore);
  return {
    cpuMs: (user + system) / 1000,
    lateMs: Math.max(0, lateness.percentile(99) / 1e6 - 1),
    beyondGuestMib,
  };
}

async function listen(onSocket: (socket: Socket) => void): Promise<{ port: number; close: () => void }> {
  const server = createServer({ noDelay: true }, onSocket).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, close: () => server.close() };
}

/** Receives one migration's memory after the other, by streams or by a bare socket, as it is told. */
async function destination(): Promise<void> {
  const memory = touchedMemory();
  const say = (message: unknown): void => void process.send?.(message);
  let streams: ReceivingStreams | undefined;
  const server = await listen((socket) => {
    const decoder = new FrameDecoder(
      {
        header: () => undefined,
        frame: ({ value }) => {
          socket.write(encodeFrame({ type: FrameType.go, sequence: 0, epoch: 1 }));
          streams?.adopt(value, socket);
        },
      },
      { keptPayloadBytes: 16, connection: 'accepted' },
    );
    socket.on('data', (bytes) => decoder.push(bytes));
  });
  lateness.enable();
  const obey = async (order: { case: number; port?: number } | 'end' | 'over'): Promise<void> => {
    if (order === 'over') {
      server.close();
      process.disconnect();
      return;
    }
    if (order === 'end') {
      const news = told();
      await streams?.close();
      streams = undefined;
      say(news);
      return;
    }
    beginRun();
    const { streams: count, tls } = CASES[order.case]!;
    if (count === 0) {
      bareReceive(memory, order.port!, () => say('arrived'));
      return;
    }
    const receiving = new ReceivingStreams({
      count,
      epoch: 1,
      memory,
      written: new SharedArrayBuffer(bitmapWords(layout.pfnSpan) * 4),
      longestRunPages: RUN_PAGES!,
      features: 0,
      ...(tls === undefined ? {} : { tls }),
      onChange: () => {
        if (receiving.failure !== undefined) {
          throw receiving.failure;
        }
        if (receiving.endedRound === 1) {
          say('arrived');
        }
      },
    });
    streams = receiving;
    say('listens');
  };
  process.on('message', (order) => void obey(order as Parameters<typeof obey>[0]));
  say({ port: server.port });
}

/** A client's socket may read to where it is told. */
function bareReceive({ segments }: SharedGuestMemory, port: number, arrived: () => void): void {
  const bytes = segments[0]!.bytes;
  let at = 0;
  const target = (): Uint8Array =>
    bytes.subarray(at % GUEST_BYTES, (at % GUEST_BYTES) + CHUNK_BYTES - (at % CHUNK_BYTES));
  const socket = connect({
    host: '127.0.0.1',
    port,
    onread: {
      buffer: target,
      callback: (count) => {
        at += count;
        if (at === GUEST_BYTES) {
          arrived();
          socket.destroy();
        }
        return true;
      },
    },
  });
}

/** Writes chunk after chunk, two of them at a time. ms. */
async function bareSend(
  { segments }: SharedGuestMemory,
  order: (port: number) => void,
): Promise<() => number> {
  const bytes = segments[0]!.bytes;
  let start = 0;
  const server = await listen((socket) => {
    let at = 0;
    const next = (): void => {
      if (at < GUEST_BYTES) {
        socket.write(bytes.subarray(at, at + CHUNK_BYTES), next);
        at += CHUNK_BYTES;
      }
    };
    socket.on('error', () => undefined);
    server.close();
    start = performance.now();
    next();
    next();
  });
  order(server.port);
  return () => performance.now() - start;
}

class Source {
  readonly #child: ChildProcess;
  readonly #memory: SharedGuestMemory = touchedMemory();
  #port = 0;

  constructor() {
    this.#child = fork(fileURLToPath(import.meta.url), process.argv.slice(2));
    this.#child.once('exit', (code) => {
      if (code !== 0) {
        throw new Error(`the destination's process ended with ${code}`);
      }
    });
  }

  async start(): Promise<void> {
    this.#port = ((await this.#hear()) as { port: number }).port;
  }

  async #hear(): Promise<unknown> {
    return (await once(this.#child, 'message'))[0];
  }

  /** Moves all of the memory once: GB/s, and how the two processes fared. */
  async run(at: number): Promise<{ rate: number; here: Told; there: Told }> {
    const { streams: count, tls } = CASES[at]!;
    beginRun();
    let ms: number;
    let sending: SendingStreams | undefined;
    if (count === 0) {
      const arrived = this.#hear();
      const elapsed = await bareSend(this.#memory, (port) => this.#child.send({ case: at, port }));
      await arrived;
      ms = elapsed();
    } else {
      this.#child.send({ case: at });
      await this.#hear();
      const event = new EventWord(atomicMapper);
      sending = await SendingStreams.open({
        endpoint: { host: '127.0.0.1', port: this.#port, tls },
        tickets: Array.from({ length: count }, () => new Uint8Array(16)),
        epoch: 1,
        memory: this.#memory,
        event,
      });
      const start = performance.now();
      const arrived = this.#hear();
      await this.#send(sending, event);
      await arrived;
      ms = performance.now() - start;
    }
    const here = told();
    this.#child.send('end');
    const there = (await this.#hear()) as Told;
    await sending?.close();
    return { rate: GUEST_BYTES / ms / 1e6, here, there };
  }

  async #send(sending: SendingStreams, event: EventWord): Promise<void> {
    for (let pfn = 0; pfn < layout.pfnSpan; pfn += RUN_PAGES!) {
      for (let seen = event.value(); !sending.writable; seen = event.value()) {
        if (sending.failure !== undefined) {
          throw sending.failure;
        }
        await event.next(seen);
      }
      sending.pageRun(pfn, RUN_PAGES!, this.#memory.pages(pfn, RUN_PAGES!));
    }
    sending.roundEnd(1);
  }

  end(): void {
    this.#child.send('over');
  }
}

async function main(): Promise<void> {
  printMachine();
  needMemory(2 * GUEST_BYTES + 512 * MIB);
  const source = new Source();
  await source.start();
  lateness.enable();
  const runs = CASES.map((): Awaited<ReturnType<Source['run']>>[] => []);
  for (let run = -1; run < RUNS!; run += 1) {
    for (const at of CASES.keys()) {
      const figures = await source.run(at);
      if (run >= 0) {
        runs[at]!.push(figures); // the first of each is for warming up
      }
    }
  }
  source.end();
  const rates = (at: number): number[] => runs[at]!.map(({ rate }) => rate);
  const most = (values: readonly number[]): string => Math.max(...values).toFixed(1);
  const cpu = (values: readonly number[]): string => (median(values) / 1000 / GUEST_GIB!).toFixed(2);
  printTable(
    ['', 'GB/s', 'of the bare pair', 'CPU, s/GiB', 'loop late, p99 ms', 'beyond guest RAM, MiB', 'n'],
    CASES.map(({ name }, at) => [
      name,
      spread(rates(at), 2),
      `${((100 * median(rates(at))) / median(rates(0))).toFixed(0)} %`,
      `${cpu(runs[at]!.map(({ here }) => here.cpuMs))} / ${cpu(runs[at]!.map(({ there }) => there.cpuMs))}`,
      `${most(runs[at]!.map(({ here }) => here.lateMs))} / ${most(runs[at]!.map(({ there }) => there.lateMs))}`,
      `${most(runs[at]!.map(({ here }) => here.beyondGuestMib))} / ${most(runs[at]!.map(({ there }) => there.beyondGuestMib))}`,
      String(RUNS),
    ]),
  );
  console.log(
    `${GUEST_GIB} GiB, runs of ${RUN_PAGES} pages. Medians (min–max); lateness and memory: the worst run, source / destination.`,
  );
}

await (IS_DESTINATION ? destination() : main());
