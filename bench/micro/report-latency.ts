/**
 * How long a guest takes to report its free pages: from the request to the stop sign, with every range applied to
 * a migration's page accounts on the way, as the engine does it. No migration, no oracle.
 *
 * Targets: idle-8g 5 ms, fragmented-2g 20 ms, every second page of 8 GiB 150 ms. Touches 8 GiB: run nothing else.
 *
 * ```
 * npm run build && node dist/bench/micro/report-latency.js [runs, 9] [guest …]
 * ```
 */
import { HintState } from '../../src/balloon/hint-session.js';
import { loadCapture } from '../../src/cli/captures.js';
import { type GuestImage, imageBitmaps, syntheticImage } from '../../src/guest/image.js';
import { EventWord } from '../../src/memory/control-buffer.js';
import { MemoryPool } from '../../src/memory/memory-pool.js';
import { GIB, MIB } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { macrotask } from '../../src/migration/migrate.js';
import { PageAccounts } from '../../src/migration/page-accounts.js';
import { WorkerGuest } from '../../src/vmm/worker-guest.js';
import { needMemory, printMachine, printTable, spread } from './figures.js';

const RUNS = Number(process.argv[2] ?? 9);
const WARM_UP_RUNS = 3;
/** As the engine polls. */
const POLL_LIMIT = 1024;

const GUESTS: Record<string, () => GuestImage> = {
  'idle-8g': () => loadCapture('idle-8g'),
  'fragmented-2g': () => loadCapture('fragmented-2g'),
  'every-second-page-8g': () =>
    syntheticImage(atomicMapper, { memoryBytes: 8 * GIB, freeShare: 0.5, freeRunPages: 1 }),
};

interface ReportTimes {
  readonly toStartMs: number;
  readonly toStopMs: number;
  readonly ranges: number;
}

/** One report. The clock stops when the stop sign was taken off the ring. */
async function report(guest: WorkerGuest, freePages: number): Promise<ReportTimes> {
  const device = guest.device!;
  const { session } = device;
  const accounts = new PageAccounts(guest.memory.layout);
  accounts.sendAll();
  accounts.beginRound();
  accounts.beginSession();
  const rangesBefore = session.counts.ranges;
  const requestedAt = performance.now();
  device.openSession(accounts, requestedAt);
  device.suppressNotifications();
  while (session.state !== HintState.done) {
    device.poll(performance.now(), POLL_LIMIT);
  }
  const doneAt = performance.now();
  const times = {
    toStartMs: session.times.startedAt - requestedAt,
    toStopMs: doneAt - requestedAt,
    ranges: session.counts.ranges - rangesBefore,
  };
  if (accounts.hints.applied !== freePages) {
    throw new Error(`${accounts.hints.applied} pages were hinted, and ${freePages} are free`);
  }
  device.closeSession(doneAt);
  while (device.registers.pending !== 0) {
    await macrotask();
  }
  return times;
}

async function reportsOf(image: GuestImage, pool: MemoryPool): Promise<ReportTimes[]> {
  const layout = new RamLayout(image.blocks);
  const memory = pool.take(layout);
  const guest = await WorkerGuest.boot({
    image,
    memory,
    event: new EventWord(atomicMapper),
    freeMemory: 'zero',
    ringDeadlineMs: 10_000, // nothing is dropped: every report is a whole one
  });
  try {
    guest.migrationBegins(); // from here on the device is polled by this program alone
    guest.run();
    const freePages = imageBitmaps(atomicMapper, image).free.count();
    const times: ReportTimes[] = [];
    for (let i = 0; i < WARM_UP_RUNS + RUNS; i += 1) {
      times.push(await report(guest, freePages));
    }
    return times.slice(WARM_UP_RUNS);
  } finally {
    await guest.stop();
    pool.giveBack(memory);
  }
}

const wanted = process.argv.slice(3);
const names = wanted.length === 0 ? Object.keys(GUESTS) : wanted;
printMachine();
needMemory(names.some((name) => name.endsWith('8g')) ? 8 * GIB + 512 * MIB : 2 * GIB + 512 * MIB);
const pool = new MemoryPool();
const rows: string[][] = [];
for (const name of names) {
  const times = await reportsOf(GUESTS[name]!(), pool);
  const toStop = times.map(({ toStopMs }) => toStopMs);
  const { ranges } = times[0]!;
  rows.push([
    name,
    String(ranges),
    spread(
      times.map(({ toStartMs }) => toStartMs),
      2,
    ),
    spread(toStop, 2),
    ((Math.min(...toStop) * 1e6) / ranges).toFixed(0),
    String(times.length),
  ]);
}
printTable(['guest', 'ranges', 'to the start, ms', 'to the stop sign, ms', 'ns a range, at best', 'n'], rows);
