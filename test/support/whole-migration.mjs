// A process that moves a guest to itself over loopback, and must end when it has closed what it opened.
import {
  atomicMapper,
  connectGuest,
  EventWord,
  MemoryPool,
  migrate,
  RamLayout,
  receiveGuests,
  SharedGuestMemory,
  syntheticImage,
  WorkerGuest,
} from '../../dist/src/index.js';

const image = syntheticImage(atomicMapper, { memoryBytes: 2 ** 24, freeShare: 0.5, freeRunPages: 24 });
const guest = await WorkerGuest.boot({
  image,
  memory: SharedGuestMemory.allocate(new RamLayout(image.blocks)),
  event: new EventWord(atomicMapper),
});
guest.run();
let arrive;
const arrived = new Promise((resolve) => {
  arrive = resolve;
});
const listener = await receiveGuests({
  host: '127.0.0.1',
  port: 0,
  pool: new MemoryPool(),
  onRunning: arrive,
});
const channel = await connectGuest(guest, {
  endpoint: { host: '127.0.0.1', port: listener.port },
  streams: 2,
  label: 'a whole migration',
});
const { phase } = await migrate({ vm: guest, channel, event: guest.event });
await channel.close();
await (await arrived).guest.stop();
await guest.stop();
await listener.close();
console.log(phase);
