// Moves a guest from one piece of memory to another within this process, and asks it afterwards whether it is sound.
//   node migrate.mjs        (in a project with lacuna installed)
import {
  atomicMapper,
  EventWord,
  migrate,
  RamLayout,
  SharedGuestMemory,
  syntheticImage,
  WorkerDestination,
  WorkerGuest,
} from 'lacuna';

// A made-up machine of 64 MiB, half of it free in runs of 8 pages. `parseCapture` makes one from a real machine's map.
const image = syntheticImage(atomicMapper, { memoryBytes: 64 * 2 ** 20, freeShare: 0.5, freeRunPages: 8 });
const layout = new RamLayout(image.blocks);
const event = new EventWord(atomicMapper); // rung by whoever has news for this thread

const guest = await WorkerGuest.boot({
  image,
  event,
  memory: SharedGuestMemory.allocate(layout),
  freeMemory: 'data',
});
guest.run();

const destination = await WorkerDestination.prepare(guest, SharedGuestMemory.allocate(layout));
const source = await migrate({
  vm: guest,
  channel: destination.channel,
  event,
  options: { schedule: 'wait', zeroDetection: false },
  onEvent: ({ type }) => console.error(type),
});
const arrived = destination.adopt();
const check = await arrived.selfCheck();
console.log(
  `${source.phase}: ${source.accounts.hints.applied} free pages left behind, ${check.badPages} pages bad`,
);

await Promise.all([guest.stop(), arrived.stop(), destination.close()]);
