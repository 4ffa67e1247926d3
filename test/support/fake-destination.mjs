// A child of `RemoteDestination` whose guests do not come over the network: whoever connects says in a word what happens.
import { createServer } from 'node:net';
import { serveParent } from '../../dist/src/cli/bench/destination-service.js';
import { atomicMapper, EventWord, RamLayout, syntheticImage, WorkerGuest } from '../../dist/src/index.js';

const image = syntheticImage(atomicMapper, { memoryBytes: 16 * 2 ** 20, freeShare: 0.5, freeRunPages: 24 });

async function arrive({ pool, holdAtStart, onRunning }) {
  const memory = pool.take(new RamLayout(image.blocks));
  const event = new EventWord(atomicMapper);
  const workload = { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 64 };
  const guest = await WorkerGuest.boot({ image, memory, event, workload });
  guest.run();
  if (holdAtStart) {
    await guest.pause();
  }
  onRunning({ guest, offer: { migrationId: 'f'.repeat(32) }, startedAt: 1234.5 });
}

const deeds = {
  arrive,
  discard: ({ onEvent }) => onEvent({ type: 'discarded', text: 'the source has called it off' }),
  throw: () => {
    throw new Error('nobody has caught this');
  },
  exit: () => process.exit(3),
  hang: () => {
    for (;;);
  },
};

serveParent(async (request) => {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', (word) => {
      socket.destroy();
      void deeds[word.toString()](request);
    });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return { port: server.address().port, close: () => new Promise((done) => server.close(done)) };
});
