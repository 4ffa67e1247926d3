/**
 * The memory transport against the same copy by one `TypedArray.set`: a 2 GiB guest with all of its pages in use,
 * neither hints nor zero detection, a destination whose memory was touched before. Target: 70 % of `set`.
 *
 * ```
 * npm run build && node dist/bench/micro/transport-throughput.js [runs, 5]
 * ```
 */
import { syntheticImage } from '../../src/guest/image.js';
import { EventWord } from '../../src/memory/control-buffer.js';
import type { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { MemoryPool, zeroMemory } from '../../src/memory/memory-pool.js';
import { GIB, MIB } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { migrate } from '../../src/migration/migrate.js';
import { WorkerDestination } from '../../src/vmm/worker-destination.js';
import { WorkerGuest } from '../../src/vmm/worker-guest.js';
import { median, needMemory, printMachine, printTable, spread } from './figures.js';

const RUNS = Number(process.argv[2] ?? 5);
const GUEST_BYTES = 2 * GIB;
const image = syntheticImage(atomicMapper, { memoryBytes: GUEST_BYTES, freeShare: 0, freeRunPages: 1 });

/** Bytes a second of a whole migration, from its start to the guest running at the destination. */
async function migrationRate(source: SharedGuestMemory, target: SharedGuestMemory): Promise<number> {
  const event = new EventWord(atomicMapper);
  const guest = await WorkerGuest.boot({ image, memory: source, event, workload: { kind: 'halt' } });
  zeroMemory(target);
  const destination = await WorkerDestination.prepare(guest, target);
  guest.run();
  const result = await migrate({
    vm: guest,
    channel: destination.channel,
    event,
    options: { hints: false, zeroDetection: false },
  });
  await Promise.all([guest.stop(), destination.guest.stop()]);
  await destination.close();
  if (result.phase !== 'completed') {
    throw new Error(`the migration ended ${result.phase}: ${result.error?.message}`);
  }
  return (result.transferredBytes * 1000) / (result.endedAt - result.startedAt);
}

function copyRate(source: SharedGuestMemory, target: SharedGuestMemory): number {
  const from = performance.now();
  for (const [i, { bytes }] of source.segments.entries()) {
    target.segments[i]!.bytes.set(bytes);
  }
  return (GUEST_BYTES * 1000) / (performance.now() - from);
}

printMachine();
needMemory(2 * GUEST_BYTES + 512 * MIB);
const pool = new MemoryPool();
const layout = new RamLayout(image.blocks);
const source = pool.take(layout);
const target = pool.take(layout);
const migrated: number[] = [];
const copied: number[] = [];
await migrationRate(source, target); // warm-up
for (let run = 0; run < RUNS; run += 1) {
  migrated.push(await migrationRate(source, target));
  copied.push(copyRate(source, target));
}
const gigabytes = (rates: readonly number[]): string =>
  spread(
    rates.map((rate) => rate / 1e9),
    2,
  );
printTable(
  ['', 'GB/s', 'n'],
  [
    ['migration over the memory transport', gigabytes(migrated), String(RUNS)],
    ['TypedArray.set of the same buffers', gigabytes(copied), String(RUNS)],
    ['ratio of medians', (median(migrated) / median(copied)).toFixed(2), ''],
  ],
);
