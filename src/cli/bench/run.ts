import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Dialect } from '../../balloon/dialect.js';
import { exitsBetween } from '../../balloon/exits.js';
import { migrateObserved, type ObservedRequest } from '../../diagnostics.js';
import { LacunaError } from '../../errors.js';
import { PageContent } from '../../guest/content.js';
import {
  type FreeMemoryMode,
  findMetadataPlace,
  imageBitmaps,
  pagesHeld,
  refillFreeMemory,
} from '../../guest/image.js';
import { layOutMetadata } from '../../guest/metadata.js';
import { isClean, type ReportMode } from '../../guest/runtime.js';
import { traceImage, traceWrites } from '../../guest/trace-player.js';
import { traceWorkload } from '../../guest/trace-replay.js';
import { pagesPerSecond, type WorkloadSpec } from '../../guest/workload.js';
import { EventWord } from '../../memory/control-buffer.js';
import { epochMs } from '../../memory/epoch.js';
import type { SharedGuestMemory } from '../../memory/guest-memory.js';
import { type MemoryPool, zeroMemory } from '../../memory/memory-pool.js';
import { PAGE_SIZE, pfnOf } from '../../memory/page.js';
import { bitmapWords, PageBitmap } from '../../memory/page-bitmap.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { MigrationProgress } from '../../migration/migrate.js';
import type { Schedule } from '../../migration/options.js';
import { countFates, PageFates } from '../../migration/page-fates.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { reportOf } from '../../migration/report.js';
import { Timeline } from '../../migration/timeline.js';
import { encodePageMap } from '../../report/page-map.js';
import type { Baseline, ReplayReport, RunReport, Transport } from '../../report/schema.js';
import { NETWORK_RUN_PAGES } from '../../transport/network/network-channel.js';
import { threadCpuMs } from '../../vmm/threads.js';
import type { Verifier } from '../../vmm/verifier.js';
import { type ReplayProgress, WorkerGuest } from '../../vmm/worker-guest.js';
import type { StoredGuest } from '../captures.js';
import { describeWorkload } from '../workload-option.js';
import {
  type Destination,
  type DestinationHost,
  type RunDestination,
  ThreadDestination,
} from './run-destination.js';

/** One migration of a benchmark. */
export interface RunSpec {
  /** One with a trace is booted in the trace's state at {@link traceAtMs} and replays it; `workload` is not used. */
  readonly image: StoredGuest;
  /** ms since the trace's first sample. */
  readonly traceAtMs: number;
  /** ms of the trace for each ms of the guest. */
  readonly traceSpeed: number;
  readonly freeMemory: FreeMemoryMode;
  readonly workload: WorkloadSpec;
  readonly baseline: Baseline;
  readonly schedule: Schedule;
  readonly minOrder: number;
  readonly reportMode: ReportMode;
  readonly dialect: Dialect;
  /** Size of the free page queue. */
  readonly ringSize: number;
  readonly initOnAlloc: boolean;
  /** What the guest fills pages with that it frees; null: it leaves them as they are. */
  readonly pagePoison: number | null;
  readonly link: { readonly name: string; readonly bytesPerSecond: number };
  readonly transport: Transport;
  readonly downtimeLimitMs: number;
  readonly destination: 'touched' | 'untouched';
  readonly seed: number;
}

/** What all runs of a benchmark share. */
export interface RunServices {
  readonly pool: MemoryPool;
  readonly verifier: Verifier;
  /** For runs over TCP or TLS. */
  readonly host?: DestinationHost;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: MigrationProgress) => void;
  readonly onPhase: (phase: string) => void;
}

/** Reports before the one that is measured, so that the guest's driver is compiled code. */
const REHEARSALS = 3;

/**
 * Boots a guest from its memory map, migrates it, compares every page, and lets it go on at the destination until
 * it has worked and checked itself there. Only the migration is timed.
 */
export async function runOnce(asked: RunSpec, services: RunServices): Promise<RunReport> {
  const spec = withReplay(asked);
  const { pool, onPhase } = services;
  const layout = new RamLayout(spec.image.blocks);
  const event = new EventWord(atomicMapper);
  onPhase('booting');
  const { sparse = false } = spec.image;
  const sourceMemory = sparse ? pool.takeFresh(layout, heldBytes(spec, 'source')) : pool.take(layout);
  let destinationMemory: SharedGuestMemory | undefined;
  let guest: WorkerGuest | undefined;
  let destination: RunDestination | undefined;
  try {
    const touched = isTouched(spec);
    const booting = bootGuest(spec, sourceMemory, event, true);
    if (spec.transport === 'memory') {
      destinationMemory = touched
        ? pool.take(layout)
        : pool.takeFresh(layout, sparse ? heldBytes(spec, 'destination') : layout.memoryBytes);
      if (touched) {
        zeroMemory(destinationMemory); // while the guest's thread fills the other
      }
    }
    guest = await booting;
    destination =
      spec.transport === 'memory'
        ? await ThreadDestination.prepare(guest, destinationMemory!, services.verifier)
        : await hostOf(services, spec).prepare(guest, spec.transport, touched);
    await letRun(guest, spec);
    await destination.measure();
    const { source, report } = await timedMigration(spec, services, guest, destination);
    const there = await destination.measured();
    const cpu = there === undefined ? report.cpu : { ...report.cpu, destination: there };
    onPhase('verifying');
    const verified =
      source.phase === 'completed'
        ? await destination.verify(guest, spec.workload)
        : await verifyHere(source, guest);
    return { ...describeRun(spec, layout), ...report, cpu, verified };
  } finally {
    await guest?.stop();
    await destination?.close();
    if (!sparse) {
      pool.giveBack(sourceMemory);
    }
    if (destinationMemory !== undefined && isTouched(spec)) {
      pool.giveBack(destinationMemory);
    }
  }
}

function hostOf({ host }: RunServices, { image, transport }: RunSpec): DestinationHost {
  if (image.sparse === true) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${image.name} has more memory than is there, and another process can't know of which it is: use --transport memory`,
    );
  }
  if (host === undefined) {
    throw new LacunaError('ILLEGAL_STATE', `a run over ${transport} without a process to receive the guest`);
  }
  return host;
}

/** A new guest, paused before its first instruction; with an oracle it can be verified page by page. */
export function bootGuest(
  spec: RunSpec,
  memory: SharedGuestMemory,
  event: EventWord,
  oracle: boolean,
): Promise<WorkerGuest> {
  return WorkerGuest.boot({
    image: spec.image,
    memory,
    event,
    freeMemory: spec.freeMemory,
    workload: spec.workload,
    minOrder: spec.minOrder,
    reportMode: spec.reportMode,
    dialect: spec.dialect,
    ringSize: spec.ringSize,
    initOnAlloc: spec.initOnAlloc,
    pagePoison: spec.pagePoison ?? undefined,
    seed: spec.seed,
    oracle,
    trace: spec.image.trace,
  });
}

/** Lets a booted guest run until its driver is as one that has run for long. */
export async function letRun(guest: WorkerGuest, spec: RunSpec): Promise<void> {
  guest.run();
  await guest.rehearseReports(REHEARSALS);
  if (spec.initOnAlloc && spec.pagePoison === null && spec.reportMode === 'hold') {
    await refill(guest, spec);
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
  const stillFree = PageBitmap.over(atomicMapper, buffer, pfnSpan, byteOffset);
  refillFreeMemory(atomicMapper, memory, image, stillFree, new PageContent(seed), freeMemory);
  guest.resume();
}

/** Whether the destination's memory is touched beforehand. A sparse guest's can't be: there may not be that much. */
function isTouched({ destination, image }: RunSpec): boolean {
  return destination === 'touched' && image.sparse !== true;
}

/** What of a sparse guest's memory will be resident. Without zero detection every page that is sent is written there. */
export function heldBytes({ image, freeMemory, baseline }: RunSpec, side: 'source' | 'destination'): number {
  const held = pagesHeld(atomicMapper, image, freeMemory);
  if (side === 'source' || baseline === 'zero' || baseline === 'both') {
    return held * PAGE_SIZE;
  }
  const { pageCount } = new RamLayout(image.blocks);
  return (
    PAGE_SIZE * (baseline === 'none' ? pageCount : pageCount - imageBitmaps(atomicMapper, image).free.count())
  );
}

/** The run with the image and the workload of its trace, if it has one. */
export function withReplay(spec: RunSpec): RunSpec {
  const { trace } = spec.image;
  return trace === undefined
    ? spec
    : {
        ...spec,
        image: { ...traceImage(atomicMapper, trace, spec.traceAtMs), trace },
        workload: traceWorkload(trace, spec.traceAtMs, spec.traceSpeed),
      };
}

/** What is known of a run before it is made. */
export function describeRun(
  spec: RunSpec,
  layout: RamLayout,
): Omit<RunReport, 'verified' | keyof Measured['report']> {
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
    dialect: spec.dialect,
    link: spec.link.name,
    linkBytesPerSecond: Number.isFinite(spec.link.bytesPerSecond) ? spec.link.bytesPerSecond : null,
    transport: spec.transport,
    destination: isTouched(spec) ? 'touched' : 'untouched',
    downtimeLimit: spec.downtimeLimitMs,
    seed: spec.seed,
  };
}

/** A migration that is over, and what it came to. */
export interface Measured {
  readonly source: PrecopySource;
  readonly report: ReturnType<typeof reportOf> &
    Pick<RunReport, 'cpu' | 'guestWork' | 'replay' | 'eventLoop' | 'timeline' | 'pages'>;
}

/** What a command wants of a migration beyond what {@link RunSpec} says. */
export type MigrationExtras = Pick<ObservedRequest, 'name' | 'onEvent' | 'onControls' | 'options'>;

/** Migrates a guest that runs, and measures that. Rejects as `migrate` does. */
export async function timedMigration(
  spec: RunSpec,
  services: Pick<RunServices, 'signal' | 'onProgress' | 'onPhase'>,
  guest: WorkerGuest,
  destination: Destination,
  extras: MigrationExtras = {},
): Promise<Measured> {
  services.onPhase('migrating');
  const onEvent = (event: MigrationEvent): void => {
    if (event.type === 'session-issued') {
      guest.oracle?.sessionIssued(event.id);
    }
    extras.onEvent?.(event);
  };
  const before = { exits: guest.exits(), counters: guest.counters(), replay: guest.replay() };
  const cpuBefore = {
    guest: guest.cpuMs(),
    destination: destination.cpuMs(),
    coordinator: threadCpuMs(process.pid),
  };
  const { layout } = guest.memory;
  const fates = new PageFates(layout);
  const timeline = new Timeline();
  const began = epochMs();
  const eventLoop = monitorEventLoopDelay({ resolution: 1 });
  eventLoop.enable();
  const source = await migrateObserved({
    name: extras.name ?? `${spec.image.name} ${spec.baseline}`,
    exits: () => guest.exits(),
    droppedPages: () => guest.counters().pagesDropped,
    vm: guest,
    channel: destination.channel,
    event: guest.event,
    signal: services.signal,
    onEvent,
    onControls: extras.onControls,
    onProgress: services.onProgress,
    fates,
    timeline,
    options: {
      hints: spec.baseline === 'hints' || spec.baseline === 'both',
      zeroDetection: spec.baseline === 'zero' || spec.baseline === 'both',
      schedule: spec.schedule,
      downtimeLimitMs: spec.downtimeLimitMs,
      bytesPerSecond: spec.link.bytesPerSecond,
      ...(spec.transport === 'memory' ? {} : { maxRunPages: NETWORK_RUN_PAGES }),
      ...extras.options,
    },
  });
  eventLoop.disable();
  const cpuMs = {
    coordinator: threadCpuMs(process.pid) - cpuBefore.coordinator,
    guest: guest.cpuMs() - cpuBefore.guest,
    destination: destination.cpuMs() - cpuBefore.destination,
  };
  const counts = guest.device?.session.counts;
  const counters = guest.counters();
  const pageFates = fates.fates(source.accounts.skipped);
  const replayed = replayReport(spec, before.replay, guest.replay());
  const pages = counters.pagesWritten - before.counters.pagesWritten;
  const ranMs = (Number.isNaN(source.guestStoppedAt) ? epochMs() : source.guestStoppedAt) - began;
  return {
    source,
    report: {
      ...reportOf(source, {
        memoryBytes: layout.memoryBytes,
        exits: exitsBetween(before.exits, guest.exits()),
        stalePages: counts?.stale ?? 0,
        rejectedRanges: counts?.rejected ?? 0,
        droppedPages: counters.pagesDropped - before.counters.pagesDropped,
      }),
      cpu: cpuMs,
      guestWork: {
        pagesWritten: pages,
        pagesPerSecond: (pages / ranMs) * 1000,
        askedPagesPerSecond: replayed?.askedPagesPerSecond ?? pagesPerSecond(spec.workload),
      },
      replay: replayed?.replay ?? null,
      eventLoop: {
        p50: eventLoop.percentile(50) / 1e6,
        p99: eventLoop.percentile(99) / 1e6,
        max: eventLoop.max / 1e6,
      },
      timeline: { events: timeline.events, samples: timeline.samples },
      pages: {
        counts: countFates(pageFates),
        pfnSpan: layout.pfnSpan,
        map: encodePageMap(pageFates),
      },
    },
  };
}

/** Where in the trace the migration took place, and what the trace asks for there. */
function replayReport(
  spec: RunSpec,
  before: ReplayProgress | undefined,
  after: ReplayProgress | undefined,
): { readonly replay: ReplayReport; readonly askedPagesPerSecond: number } | undefined {
  const { trace } = spec.image;
  if (trace === undefined || before === undefined || after === undefined) {
    return undefined;
  }
  const { traceSpeed: speed } = spec;
  const pages = traceWrites(trace, before.atMs, after.atMs);
  const ms = (after.atMs - before.atMs) / speed;
  return {
    replay: {
      speed,
      beganAt: before.atMs,
      stoppedAt: after.atMs,
      skipped: after.skipped - before.skipped,
      ended: after.ended,
    },
    askedPagesPerSecond: ms === 0 ? 0 : (pages / ms) * 1000,
  };
}

/** The guest has not arrived: whether it is whole here. */
async function verifyHere(source: PrecopySource, guest: WorkerGuest): Promise<RunReport['verified']> {
  const passed = source.phase !== 'unknown' && isClean(await guest.selfCheck());
  return {
    pagesCompared: 0,
    pagesDifferent: 0,
    pagesLeftBehind: 0,
    guestSelfCheck: passed ? 'passed' : 'failed',
  };
}
