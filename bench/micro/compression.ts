/**
 * Runs of pages over streams, raw, compressed and by `auto`, through links of several rates: where compression is worth it,
 * and whether `auto` sees that. All threads (the link's too, which is a proxy) share this machine's cores.
 *
 * ```
 * npm run bench:compression [-- streams, 1] [seconds for each link, 5]
 * ```
 */
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { deflateRawSync } from 'node:zlib';
import { PageContent } from '../../src/guest/content.js';
import { EventWord } from '../../src/memory/control-buffer.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf, MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { bitmapWords } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import type { CompressionMode } from '../../src/transport/network/compression-policy.js';
import { compressorThreads } from '../../src/transport/network/compressor.js';
import { ReceivingStreams } from '../../src/transport/network/receiving-streams.js';
import type { CompressionReport } from '../../src/transport/network/run-compression.js';
import { SendingStreams } from '../../src/transport/network/sending-streams.js';
import { FrameDecoder } from '../../src/wire/decoder.js';
import { encodeFrame, Feature, FrameType } from '../../src/wire/frames.js';
import { needMemory, printMachine, printTable } from './figures.js';
import type { SlowLinkData } from './slow-link.js';

const STREAMS = Number(process.argv[2] ?? 1);
const BYTES = 256 * MIB;
const PAGES: number = BYTES / PAGE_SIZE;
const RUN_PAGES = 256;
/** How long a link of each rate is kept busy with raw pages, and the most that is sent. */
const SECONDS = Number(process.argv[3] ?? 5);
const MOST_BYTES: number = 1024 * MIB;
const MBITS = [100, 500, 1000, 2000, Number.POSITIVE_INFINITY];
const EPOCH = 1;

/** What this process has in its heap and elsewhere, as far as it is not zero: pages of a real program. */
function ownMemory(): Uint8Array {
  const found = new Uint8Array(BYTES);
  const page = new Uint8Array(PAGE_SIZE);
  const memory = openSync('/proc/self/mem', 'r');
  let length = 0;
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const [, from, to, path] = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ \S+\s*(.*)$/.exec(line) ?? [];
    if (from === undefined || to === undefined || (path !== '' && path !== '[heap]')) {
      continue;
    }
    for (let at = Number.parseInt(from, 16); at < Number.parseInt(to, 16); at += PAGE_SIZE) {
      const isData =
        readSync(memory, page, 0, PAGE_SIZE, at) === PAGE_SIZE && page.some((byte) => byte !== 0);
      if (isData && length + PAGE_SIZE <= BYTES) {
        found.set(page, length);
        length += PAGE_SIZE;
      }
    }
  }
  closeSync(memory);
  return found.subarray(0, length);
}

function repeated(bytes: Uint8Array): Uint8Array<SharedArrayBuffer> {
  const memory = new Uint8Array(new SharedArrayBuffer(BYTES));
  const whole = bytes.subarray(0, bytes.length - (bytes.length % PAGE_SIZE));
  for (let at = 0; at < BYTES; at += whole.length) {
    memory.set(whole.subarray(0, BYTES - at), at);
  }
  return memory;
}

function builtInGuest(): Uint8Array<SharedArrayBuffer> {
  const memory = new Uint8Array(new SharedArrayBuffer(BYTES));
  const content = new PageContent(1);
  for (let pfn = 0; pfn < PAGES; pfn += 1) {
    content.writeInto(memory, pfn * PAGE_SIZE, pfn, 0);
  }
  return memory;
}

/** Starts a thread that is a link to `port`; the port that leads there. */
async function slowLink(bytesPerSecond: number, port: number): Promise<{ port: number; worker?: Worker }> {
  if (bytesPerSecond === Number.POSITIVE_INFINITY) {
    return { port };
  }
  const workerData: SlowLinkData = { bytesPerSecond, port };
  const worker = new Worker(new URL('./slow-link.js', import.meta.url), { workerData });
  const [nearPort] = (await once(worker, 'message')) as [number];
  return { port: nearPort, worker };
}

interface Outcome {
  readonly ms: number;
  readonly guestBytes: number;
  readonly wireBytes: number;
  readonly compression: CompressionReport | undefined;
}

const destination = SharedGuestMemory.allocate(new RamLayout([{ startGpa: 0, endGpa: gpaOf(PAGES) }]));
destination.pages(0, PAGES).fill(1); // touched

async function send(
  contents: Uint8Array<SharedArrayBuffer>,
  bytesPerSecond: number,
  mode: CompressionMode,
): Promise<Outcome> {
  const source = new SharedGuestMemory(destination.layout, [contents.buffer]);
  const event = new EventWord(atomicMapper);
  const receiving = new ReceivingStreams({
    count: STREAMS,
    epoch: EPOCH,
    memory: destination,
    written: new SharedArrayBuffer(bitmapWords(PAGES) * 4),
    longestRunPages: RUN_PAGES,
    features: Feature.compressedRuns,
    onChange: () => event.ring(),
  });
  const server = createServer((socket: Socket) => {
    const decoder = new FrameDecoder(
      {
        header: () => undefined,
        frame: ({ value }) => {
          socket.write(encodeFrame({ type: FrameType.go, sequence: 0, epoch: EPOCH }));
          receiving.adopt(value, socket);
        },
      },
      { keptPayloadBytes: 16, epoch: EPOCH, connection: 'accepted' },
    );
    socket.on('data', (bytes) => decoder.push(bytes));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const link = await slowLink(bytesPerSecond, (server.address() as AddressInfo).port);
  const sending = await SendingStreams.open({
    endpoint: { host: '127.0.0.1', port: link.port },
    tickets: Array.from({ length: STREAMS }, () => new Uint8Array(16)),
    epoch: EPOCH,
    memory: source,
    event,
    compression: mode,
  });
  const expectLinked = (): void => {
    const failure = sending.failure ?? receiving.failure;
    if (failure !== undefined) {
      throw failure;
    }
  };
  try {
    const runs = Math.ceil(Math.min(MOST_BYTES, bytesPerSecond * SECONDS) / (RUN_PAGES * PAGE_SIZE));
    const startedAt = performance.now();
    let sliceEnd = startedAt;
    for (let run = 0; run < runs; run += 1) {
      for (let seen = event.value(); !sending.writable; seen = event.value()) {
        expectLinked();
        await event.next(seen);
      }
      if (performance.now() > sliceEnd) {
        await new Promise(setImmediate);
        sliceEnd = performance.now() + 2;
      }
      const pfn = (run * RUN_PAGES) % PAGES;
      sending.pageRun(pfn, RUN_PAGES, source.pages(pfn, RUN_PAGES));
    }
    sending.roundEnd(1);
    for (let seen = event.value(); receiving.endedRound < 1; seen = event.value()) {
      expectLinked();
      await event.next(seen);
    }
    return {
      ms: performance.now() - startedAt,
      guestBytes: runs * RUN_PAGES * PAGE_SIZE,
      wireBytes: sending.bytesSent(),
      compression: sending.compression(),
    };
  } finally {
    await Promise.all([sending.close(), receiving.close()]);
    await link.worker?.terminate();
    server.close();
  }
}

printMachine();
needMemory(5 * BYTES);
const program = readFileSync(process.execPath);
const CONTENTS: readonly (readonly [string, Uint8Array<SharedArrayBuffer>])[] = [
  ["a process's own memory", repeated(ownMemory())],
  ['a program file', repeated(program)],
  ['the built-in guest', builtInGuest()],
];
for (const [name, contents] of CONTENTS) {
  let compressed = 0;
  for (let at = 0; at < 64 * MIB; at += 4 * MIB) {
    compressed += deflateRawSync(contents.subarray(at, at + MIB), { level: 1 }).length;
  }
  console.log(`${name}: level 1 makes ${((100 * compressed) / (16 * MIB)).toFixed(0)} % of it`);
  const rows: string[][] = [];
  for (const mbit of MBITS) {
    for (const mode of ['off', 'auto', 'on'] as const) {
      const { ms, guestBytes, wireBytes, compression } = await send(contents, mbit * 125_000, mode);
      const share = compression === undefined ? 0 : compression.bytesBefore / guestBytes;
      rows.push([
        `${mbit === Number.POSITIVE_INFINITY ? 'no limit' : `${mbit} Mbit/s`}, ${mode}`,
        (guestBytes / ms / 1000).toFixed(0),
        (wireBytes / ms / 1000).toFixed(0),
        (100 * share).toFixed(0),
        compression === undefined
          ? ''
          : ((100 * compression.compressMs) / ms / compressorThreads()).toFixed(0),
        compression === undefined ? '' : (compression.savedBytesPerSecond / 1e6).toFixed(0),
        compression === undefined ? '' : (compression.linkBytesPerSecond / 1e6).toFixed(0),
        mode === 'auto' ? (compression?.active === true ? 'on' : 'off') : '',
      ]);
    }
  }
  printTable(
    [
      'link, mode',
      "guest's MB/s",
      'wire MB/s',
      '% compressed',
      'pool busy, %',
      'pool saves, MB/s',
      'link takes, MB/s',
      'at the end',
    ],
    rows,
  );
}
