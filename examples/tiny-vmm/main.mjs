// @ts-check
// A VMM of one's own, moved while it runs: first as a machine about which nothing is known, then with hints.
//   node main.mjs             (in a project with lacuna installed)
//   node main.mjs --refuse    the destination takes nothing: the machine stays where it is, and goes on
import { atomicMapper, EventWord, LacunaError, LoopbackChannel, migrate, Receiver } from 'lacuna';
import { program } from './program.mjs';
import { TinyVm } from './vm.mjs';

const MEMORY_PAGES = 16_384; // 64 MiB
/** A link of 200 MB/s is modelled, so that the program has time to write to its memory meanwhile. */
const OPTIONS = { bytesPerSecond: 200e6, downtimeLimitMs: 5 };
const CODE = program({ pages: 12_000, keepOneIn: 4, generations: 1200 });

/** Refuses whatever arrives, as a host without room for it would. */
class FullHost extends TinyVm {
  /** @override */
  loadDeviceState() {
    throw new LacunaError('OUT_OF_MEMORY', 'this host is full');
  }
}

/**
 * @param {boolean} hints
 * @param {boolean} refuse
 */
async function moveWhileRunning(hints, refuse) {
  const event = new EventWord(atomicMapper); // rung when there is news for this event loop
  const options = { memoryPages: MEMORY_PAGES, hints, event };
  const here = new TinyVm(options);
  here.load(CODE);
  here.resume();
  while (here.generation === 0) {
    await new Promise((resolve) => {
      setTimeout(resolve, 1);
    });
  }

  const there = refuse ? new FullHost(options) : new TinyVm(options);
  const channel = new LoopbackChannel();
  channel.connect(new Receiver(there, (message) => channel.reply(message)));
  const source = await migrate({ vm: here, channel, event, options: OPTIONS });

  const arrived = source.phase === 'completed';
  const guest = arrived ? there : here;
  const ranOn = guest.cpu.halted ? 0 : guest.cpu.executed;
  await guest.halted();
  return { source, arrived, ranOn: guest.cpu.executed - ranOn, result: guest.result };
}

/** What the program computes if nobody moves it. */
function undisturbed() {
  const vm = new TinyVm({ memoryPages: MEMORY_PAGES, hints: false, event: new EventWord(atomicMapper) });
  vm.load(CODE);
  vm.cpu.run(Number.POSITIVE_INFINITY);
  return vm.result;
}

const refuse = process.argv.includes('--refuse');
const expected = undisturbed();
console.log(`not moved: result ${expected}`);
for (const hints of [false, true]) {
  const { source, arrived, ranOn, result } = await moveWhileRunning(hints, refuse);
  const { sent, accounts, rounds, error } = source;
  console.log(`${hints ? 'with hints' : 'without hints'}: ${source.phase}`);
  if (arrived) {
    const ms = source.endedAt - source.startedAt;
    const downtimeMs = source.guestStartedAt - source.guestStoppedAt;
    console.log(
      `  ${ms.toFixed(0)} ms, of which it stood still ${downtimeMs.toFixed(1)}; ${rounds.length} rounds: ` +
        `${sent.pages} pages sent, ${sent.zeroPages} as zeroes, ${accounts.hints.applied} free ones left behind`,
    );
  } else {
    console.log(`  ${error?.code}: ${error?.message}`);
  }
  console.log(`  ${ranOn} instructions ${arrived ? 'there' : 'here'} afterwards, result ${result}`);
  if (!arrived || result !== expected) {
    process.exitCode = 1;
  }
}
