/**
 * Adopts accepted sockets by threads over and over, while descriptors of the same numbers come and go on the main thread,
 * and ends without being told to. Says what happened as JSON. Plain JavaScript, for a process of its own: what is tested
 * is also that it ends.
 */
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { EventWord } from '../../dist/src/memory/control-buffer.js';
import { SharedGuestMemory } from '../../dist/src/memory/guest-memory.js';
import { bitmapWords } from '../../dist/src/memory/page-bitmap.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { atomicMapper } from '../../dist/src/memory/shared-words.js';
import { ReceivingStreams } from '../../dist/src/transport/network/receiving-streams.js';
import { SendingStreams } from '../../dist/src/transport/network/sending-streams.js';
import { ThreadPool } from '../../dist/src/transport/threads.js';
import { FrameDecoder } from '../../dist/src/wire/decoder.js';
import { encodeFrame, FrameType } from '../../dist/src/wire/frames.js';

const [MIGRATIONS, AT_ONCE] = process.argv.slice(2).map(Number);
const STREAMS = 2;
const PAGES = 64;
const layout = new RamLayout([{ startGpa: 0, endGpa: PAGES * 4096 }]);
const threads = new ThreadPool();
const failures = [];
const told = { adopted: 0, echoes: 0, files: 0, descriptors: 0, failures };
const descriptors = () => readdirSync('/proc/self/fd').length;

/** The migrations that are under way, by epoch. */
const underWay = new Map();
const server = createServer((socket) => {
  const decoder = new FrameDecoder(
    {
      header: () => undefined,
      frame: ({ value, epoch }) => {
        socket.write(encodeFrame({ type: FrameType.go, sequence: 0, epoch }));
        told.adopted += 1;
        underWay.get(epoch).adopt(value, socket);
      },
    },
    { keptPayloadBytes: 16, connection: 'accepted' },
  );
  socket.on('data', (bytes) => decoder.push(bytes));
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const { port } = server.address();

async function migrate(epoch) {
  const source = SharedGuestMemory.allocate(layout);
  const destination = SharedGuestMemory.allocate(layout);
  for (let pfn = 0; pfn < PAGES; pfn += 1) {
    source.pages(pfn, 1).fill(epoch + pfn * 7);
  }
  const event = new EventWord(atomicMapper);
  const receiving = new ReceivingStreams({
    count: STREAMS,
    epoch,
    memory: destination,
    written: new SharedArrayBuffer(bitmapWords(PAGES) * 4),
    longestRunPages: 1024,
    features: 0,
    onChange: () => event.ring(),
    threads,
    way: 'threads',
  });
  underWay.set(epoch, receiving);
  const sending = await SendingStreams.open({
    endpoint: { host: '127.0.0.1', port },
    tickets: Array.from({ length: STREAMS }, () => new Uint8Array(16)),
    epoch,
    memory: source,
    event,
    threads,
  });
  for (let pfn = 0; pfn < PAGES; pfn += 4) {
    sending.pageRun(pfn, 4, source.pages(pfn, 4));
  }
  sending.roundEnd(1);
  for (let seen = event.value(); receiving.endedRound < 1; seen = event.value()) {
    const failure = receiving.failure ?? sending.failure;
    if (failure instanceof Error) {
      throw failure;
    }
    await event.next(seen);
  }
  if (Buffer.compare(source.segments[0].bytes, destination.segments[0].bytes) !== 0) {
    throw new Error('what arrived is not what was sent');
  }
  // Now the one end first, now the other.
  await (epoch % 2 === 0 ? sending.close() : receiving.close());
  await Promise.all([sending.close(), receiving.close()]);
  underWay.delete(epoch);
}

// Whatever of the main thread has the number of a descriptor that a thread has closed: connections, and files.
const echo = createServer((socket) => socket.on('error', (e) => failures.push(`echo: ${e}`)).pipe(socket));
echo.listen(0, '127.0.0.1');
await once(echo, 'listening');
let isOver = false;
async function echoes() {
  while (!isOver) {
    const socket = connect(echo.address().port, '127.0.0.1');
    const sent = Buffer.alloc(20_000, told.echoes);
    socket.end(sent);
    const parts = [];
    for await (const part of socket) {
      parts.push(part);
    }
    if (!Buffer.concat(parts).equals(sent)) {
      failures.push('an echo is not what was sent');
    }
    told.echoes += 1;
  }
}
async function files() {
  while (!isOver) {
    const file = await open(new URL(import.meta.url));
    const { bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    await file.close(); // EBADF, had somebody else closed it
    told.files += bytesRead === 4 ? 1 : 0;
  }
}

const noise = [echoes(), echoes(), files(), files()].map((each) => each.catch((e) => failures.push(`${e}`)));
let next = 1;
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    while (next <= MIGRATIONS && failures.length === 0) {
      const epoch = next;
      next += 1;
      await migrate(epoch).catch((e) => failures.push(`${epoch}: ${e.stack}`));
    }
  }),
);
isOver = true;
await Promise.all(noise);
await threads.close();
server.close();
echo.close();
await Promise.all([once(server, 'close'), once(echo, 'close')]);
told.descriptors = descriptors();
console.log(JSON.stringify(told));
