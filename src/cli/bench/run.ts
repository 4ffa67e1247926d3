import { monitorEventLoopDelay } from 'node:perf_hooks';
import { exitsBetween } from '../../balloon/exits.js';
import { PageContent } from '../../guest/content.js';
import {
  type FreeMemoryMode,
  findMetadataPlace,
  type GuestImage,
  imageBitmaps,
  refillFreeMemory,
} from '../../guest/image.js';
import { layOutMetadata } from '../../guest/metadata.js';
import type { ReportMode, SelfCheck } from '../../guest/runtime.js';
import { epochMs } from '../../guest/vcpu.js';
import { pagesPerSecond, type WorkloadSpec } from '../../guest/workload.js';
import { EventWord } from '../../memory/control-buffer.js';
import type { SharedGuestMemory } from '../../memory/guest-memory.js';
import { type MemoryPool, zeroMemory } from '../../memory/memory-pool.js';
import { PAGE_SIZE, pfnOf } from '../../memory/page.js';
import { bitmapWords, PageBitmap } from '../../memory/page-bitmap.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { type MigrationProgress, migrate, wakeOrTimeout } from '../../migration/migrate.js';
import type { Schedule } from '../../migration/options.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { reportOf } from '../../migration/report.js';
import type { Baseline, RunReport } from '../../report/schema.js';
import { threadCpuMs } from '../../vmm/threads.js';
import type { Verifier } from '../../vmm/verifier.js';
import { WorkerDestination } from '../../vmm/worker-destination.js';
import { WorkerGuest } from '../../vmm/worker-guest.js';
import { describeWorkload } from '../workload-option.js';

/** One migration of a benchmark. */
export interface RunSpec {
  readonly image: GuestImage;
  readonly freeMemory: FreeMemoryMode;
  readonly workload: WorkloadSpec;
  readonly baseline: Baseline;
  readonly schedule: Schedule;
  readonly minOrder: number;
  readonly reportMode: ReportMode;
  /** Size of the free page queue. */
  readonly ringSize: number;
  readonly initOnAlloc: boolean;
  /** What the guest fills pages with that it frees; null: it leaves them as they are. */
  readonly pagePoison: number | null;
  readonly link: { readonly name: string; readonly bytesPerSecond: number };
  readonly downtimeLimitMs: number;
  readonly destination: 'touched' | 'untouched';
  readonly seed: number;
}

/** What all runs of a benchmark share. */
export interface RunServices {
  readonly pool: MemoryPool;
  readonly verifier: Verifier;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: MigrationProgress) => void;
  readonly onPhase: (phase: string) => void;
}

/** Reports before the one that is measured, so that the guest's driver is compiled code. */
const REHEARSALS = 3;
/** How long a guest at the destination is given to show that it works there. */
const WORK_TIMEOUT_MS = 20_000;

/**
 * Boots a guest from its memory map, migrates it, compares every page, and lets it go on at the destination until
 * it has worked and checked itself there. Only the migration is timed.
 */
export async function runOnce(spec: RunSpec, services: RunServices): Promise<RunReport> {
  const { pool, onPhase } = services;
  const layout = new RamLayout(spec.image.blocks);
  const event = new EventWord(atomicMapper);
  onPhase('booting');
  const sourceMemory = pool.take(layout);
  let destinationMemory: SharedGuestMemory | undefined;
  const guests: WorkerGuest[] = [];
  let destination: WorkerDestination | undefined;
  try {
    const touched = spec.destination === 'touched';
    destinationMemory = touched ? pool.take(layout) : pool.takeFresh(layout);
    const booting = WorkerGuest.boot({
      image: spec.image,
      memory: sourceMemory,
      event,
      freeMemory: spec.freeMemory,
      workload: spec.workload,
      minOrder: spec.minOrder,
      reportMode: spec.reportMode,
      ringSize: spec.ringSize,
      initOnAlloc: spec.initOnAlloc,
      pagePoison: spec.pagePoison ?? undefined,
      seed: spec.seed,
      oracle: true,
    });
    if (touched) {
      zeroMemory(destinationMemory); // while the guest's thread fills the other
    }
    const guest = await booting;
    guests.push(guest);
    destination = await WorkerDestination.prepare(guest, destinationMemory, { holdAtStart: true });
    guests.push(destination.guest);
    guest.run();
    await guest.rehearseReports(REHEARSALS);
    if (spec.initOnAlloc && spec.pagePoison === null && spec.reportMode === 'hold') {
      await refill(guest, spec);
    }
    const measured = await timedMigration(spec, services, guest, destination);
    onPhase('verifying');
    const verified = await verify(measured.source, spec, services, guest, destination);
    return { ...describe(spec, layout), ...measured.report, verified };
  } finally {
    await Promise.all(guests.map((guest) => guest.stop()));
    await destination?.close();
    pool.giveBack(sourceMemory);
    if (destinationMemory !== undefined && spec.destination === 'touched') {
      pool.giveBack(destinationMemory);
    }
  }
}

/** The rehearsals have zeroed what was held in them: what is measured is the first report since the memory was filled. */
async function refill(guest: WorkerGuest, { image, ringSize, freeMemory, seed }: RunSpec): Promise<void> {
  await guest.pause();
  const { memory } = guest;
  const { pfnSpan } = memory.layout;
  const gpa = findMetadataPlace(atomicMapper, image, ringSize);
  const { freeGpa } = layOutMetadata(gpa, { pfnSpan, ringSize }).allocator;
  const bytes = bitmapWords(pfnSpan) * 4;
  const { buffer, byteOffset } = memory.pages(pfnOf(freeGpa), Math.ceil(bytes / PAGE_SIZE));
  const stillFree = new PageBitmap(atomicMapper.words(buffer, byteOffset, bytes / 4), pfnSpan);
  refillFreeMemory(atomicMapper, memory, image, stillFree, new PageContent(seed), freeMemory);
  guest.resume();
}

function describe(spec: RunSpec, layout: RamLayout): Omit<RunReport, 'verified' | keyof Measured['report']> {
  return {
    guest: spec.image.name,
    memoryBytes: layout.memoryBytes,
    freePages: imageBitmaps(atomicMapper, spec.image).free.count(),
    freeMemory: spec.freeMemory,
    workload: describeWorkload(spec.workload),
    baseline: spec.baseline,
    schedule: spec.schedule,
    minOrder: spec.minOrder,
    reportMode: spec.reportMode,
    ringSize: spec.ringSize,
    initOnAlloc: spec.initOnAlloc,
    pagePoison: spec.pagePoison,
    dialect: 'command-register',
    link: spec.link.name,
    linkBytesPerSecond: Number.isFinite(spec.link.bytesPerSecond) ? spec.link.bytesPerSecond : null,
    transport: 'memory',
    destination: spec.destination,
    downtimeLimit: spec.downtimeLimitMs,
    seed: spec.seed,
  };
}

interface Measured {
  readonly source: PrecopySource;
  readonly report: ReturnType<typeof reportOf> & Pick<RunReport, 'cpu' | 'guestWork' | 'eventLoop'>;
}

async function timedMigration(
  spec: RunSpec,
  services: RunServices,
  guest: WorkerGuest,
  destination: WorkerDestination,
): Promise<Measured> {
  services.onPhase('migrating');
  const onEvent = (event: MigrationEvent): void => {
    if (event.type === 'session-issued') {
      guest.oracle?.sessionIssued(event.id);
    }
  };
  const before = { exits: guest.exits(), counters: guest.counters() };
  const cpuBefore = {
    guest: guest.cpuMs(),
    destination: destination.cpuMs(),
    coordinator: threadCpuMs(process.pid),
  };
  const began = epochMs();
  const eventLoop = monitorEventLoopDelay({ resolution: 1 });
  eventLoop.enable();
  const source = await migrate({
    vm: guest,
    channel: destination.channel,
    event: guest.event,
    signal: services.signal,
    onEvent,
    onProgress: services.onProgress,
    options: {
      hints: spec.baseline === 'hints' || spec.baseline === 'both',
      zeroDetection: spec.baseline === 'zero' || spec.baseline === 'both',
      schedule: spec.schedule,
      downtimeLimitMs: spec.downtimeLimitMs,
      bytesPerSecond: spec.link.bytesPerSecond,
    },
  });
  eventLoop.disable();
  const counts = guest.device?.session.counts;
  const counters = guest.counters();
  const pages = counters.pagesWritten - before.counters.pagesWritten;
  const ranMs = (Number.isNaN(source.guestStoppedAt) ? epochMs() : source.guestStoppedAt) - began;
  return {
    source,
    report: {
      ...reportOf(source, {
        memoryBytes: guest.memory.layout.memoryBytes,
        exits: exitsBetween(before.exits, guest.exits()),
        stalePages: counts?.stale ?? 0,
        rejectedRanges: counts?.rejected ?? 0,
        droppedPages: counters.pagesDropped - before.counters.pagesDropped,
      }),
      cpu: {
        coordinator: threadCpuMs(process.pid) - cpuBefore.coordinator,
        guest: guest.cpuMs() - cpuBefore.guest,
        destination: destination.cpuMs() - cpuBefore.destination,
      },
      guestWork: {
        pagesWritten: pages,
        pagesPerSecond: (pages / ranMs) * 1000,
        askedPagesPerSecond: pagesPerSecond(spec.workload),
      },
      eventLoop: {
        p50: eventLoop.percentile(50) / 1e6,
        p99: eventLoop.percentile(99) / 1e6,
        max: eventLoop.max / 1e6,
      },
    },
  };
}

/** Outside the timed part: every page by the oracle, then the guest itself, where it now runs. */
async function verify(
  source: PrecopySource,
  spec: RunSpec,
  services: RunServices,
  guest: WorkerGuest,
  destination: WorkerDestination,
): Promise<RunReport['verified']> {
  if (source.phase !== 'completed') {
    const passed = source.phase !== 'unknown' && isClean(await guest.selfCheck());
    return {
      pagesCompared: 0,
      pagesDifferent: 0,
      pagesLeftBehind: 0,
      guestSelfCheck: passed ? 'passed' : 'failed',
    };
  }
  const { pagesCompared, pagesDifferent, pagesLeftBehind } = await services.verifier.compare(
    guest,
    destination.guest,
  );
  const arrived = destination.adopt();
  arrived.resume();
  const passed = (await works(arrived, spec.workload)) && isClean(await arrived.selfCheck());
  return { pagesCompared, pagesDifferent, pagesLeftBehind, guestSelfCheck: passed ? 'passed' : 'failed' };
}

function isClean(check: SelfCheck): boolean {
  return check.badPages === 0 && check.badPfn === -1;
}

/** The guest goes on at the destination: whether its workload has written there in time. */
async function works(guest: WorkerGuest, workload: WorkloadSpec): Promise<boolean> {
  const deadline = performance.now() + WORK_TIMEOUT_MS;
  while (guest.counters().pagesWritten === 0 && workload.kind !== 'halt') {
    if (performance.now() > deadline || guest.failure !== undefined) {
      return false;
    }
    // A workload rings nobody when it has written, so its counter is looked at every few milliseconds.
    await wakeOrTimeout(guest.event, guest.event.value(), 5);
  }
  return true;
}
