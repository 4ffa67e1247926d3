import { BalloonDriver, type BalloonDriverState, type BalloonPages } from '../balloon/balloon-driver.js';
import type { Dialect } from '../balloon/dialect.js';
import { ExitFeature } from '../balloon/exits.js';
import type { DevicePort } from '../balloon/registers.js';
import { ReportDriver, type ReportDriverState, ReportStep } from '../balloon/report-driver.js';
import { makeRequestDriver, type RequestDriver, type RequestDriverState } from '../balloon/request-driver.js';
import type { RequestInterface } from '../balloon/request-interface.js';
import type { GuestStatistics } from '../balloon/statistics.js';
import { StatisticsDriver } from '../balloon/statistics-driver.js';
import {
  type ControlBuffer,
  FREE_PAGES,
  INTERRUPT_CONFIG,
  INTERRUPTS,
  PAGES_DROPPED,
  PAGES_WRITTEN,
  RANGES_DROPPED,
  RANGES_REPORTED,
  REPLAY_MS,
  REPLAY_SAMPLE,
  REPLAY_SKIPPED,
} from '../memory/control-buffer.js';
import { DirtyLog } from '../memory/dirty-log.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { PAGE_SIZE, pfnOf } from '../memory/page.js';
import { PageBitmap } from '../memory/page-bitmap.js';
import type { WordMapper } from '../memory/shared-words.js';
import type { WriteOracle } from '../memory/write-oracle.js';
import { ACTUAL_OFFSET, POISON_VAL_OFFSET } from '../spec/command-register.js';
import {
  VIRTIO_BALLOON_CONFIG_ACTUAL,
  VIRTIO_BALLOON_CONFIG_POISON_VAL,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_STATS_VQ,
  VIRTIO_BALLOON_VQ_DEFLATE,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
  VIRTIO_BALLOON_VQ_INFLATE,
  VIRTIO_BALLOON_VQ_STATS,
} from '../spec/virtio-balloon.js';
import { DriverQueue, type DriverQueueState } from '../virtqueue/driver-queue.js';
import { BuddyAllocator } from './buddy-allocator.js';
import type { PageContent } from './content.js';
import { type FaultyDriver, type FaultyGuest, Withheld } from './faulty-driver.js';
import { GuestRam } from './guest-ram.js';
import { FIRST_VERSION, type GuestImage, imageBitmaps } from './image.js';
import { InitialisingAllocator, type PoisonFailures } from './initialising-allocator.js';
import { LEDGER_METADATA, LEDGER_ZERO, Ledger } from './ledger.js';
import { type GuestMetadata, layOutMetadata, WORKLOAD_SLOTS } from './metadata.js';
import { HoldSource, WalkSource } from './range-sources.js';
import type { GuestTrace } from './trace.js';
import { type ReplayHost, type ReplayState, TraceReplay } from './trace-replay.js';
import { Workload, type WorkloadSpec, type WorkloadState } from './workload.js';

/** The two ways in which a guest finds its free pages. */
export const REPORT_MODES = ['walk', 'hold'] as const;
/** How the guest's driver finds its free pages: `walk` reads the allocator's bitmap, `hold` allocates the blocks. */
export type ReportMode = (typeof REPORT_MODES)[number];

/** How the guest is built and what it does. The same at the source and at the destination. */
export interface GuestConfig {
  /** Which its balloon driver speaks. */
  readonly dialect: Dialect;
  readonly metadataGpa: number;
  readonly ringSize: number;
  readonly eventIdx: boolean;
  readonly reportMode: ReportMode;
  /** Smallest order that is reported, 0 … 10. */
  readonly minOrder: number;
  /** How long a report waits for room in the ring, in all. */
  readonly ringDeadlineMs: number;
  readonly workload: WorkloadSpec;
  readonly seed: number;
  /** How it learns what the host wants, where that is not the mail's command register. */
  readonly requests?: RequestInterface;
  /** Every page that the allocator hands out is zeroed first, as Linux does with `init_on_alloc=1`. */
  readonly initOnAlloc: boolean;
  /** Every page that is freed is filled with this le32, and the driver negotiates page poisoning; see `PageInitialisation`. */
  readonly pagePoison?: number | undefined;
}

/** The vCPU's registers: what of the guest does not lie in its RAM. */
export interface VcpuRegisters {
  readonly config: GuestConfig;
  readonly command: RequestDriverState;
  readonly report: ReportDriverState;
  readonly balloon: BalloonDriverState;
  /** Of free pages, inflate, deflate; and of statistics, where there are any. */
  readonly queues: readonly DriverQueueState[];
  /** By the kind of the workload in `config`. */
  readonly workload: WorkloadState | ReplayState;
  /** Free blocks by order and pages in the balloon: they could be counted in RAM, but a guest that arrives has no time. */
  readonly blocksByOrder: readonly number[];
  readonly balloonedPages: number;
  /** Of a guest that initialises its pages. */
  readonly poisonFailures?: PoisonFailures | undefined;
}

export interface GuestRuntimeOptions {
  readonly map: WordMapper;
  readonly memory: GuestMemory;
  readonly log: DirtyLog;
  readonly control: ControlBuffer;
  readonly port: DevicePort;
  readonly config: GuestConfig;
  readonly content: PageContent;
  readonly oracle?: WriteOracle | undefined;
  /** Makes the driver misbehave when it is told to. */
  readonly faults?: FaultyDriver | undefined;
  /** What a guest replays, if that is its workload. */
  readonly trace?: GuestTrace | undefined;
}

/** The result of a self-check. */
export interface SelfCheck {
  readonly pages: number;
  readonly badPages: number;
  /** The first page that is not what it must be; -1: none, -2: the allocator's state is inconsistent. */
  readonly badPfn: number;
}

/** Whether a guest has found its memory as it left it. */
export function isClean(check: SelfCheck): boolean {
  return check.badPages === 0 && check.badPfn === -1;
}

/** Ranges that a slice of a report puts on the ring; the workload and interrupts get their turn in between. */
const RANGES_PER_STEP = 512;
/** Slices that look at a full ring again before the vCPU halts for an interrupt: about 100 µs. */
const SPIN_STEPS = 100;
/** Pages that *hold* writes, or looks at, in a slice of a report, where the allocator does: about 0.3 ms. */
const INITIALISED_PER_STEP = 1024;
/** Pages that *hold* and the balloon leave to the guest. */
const RESERVE_PAGES = 256;

/**
 * The built-in guest: one vCPU that answers interrupts, drives the balloon, and works. Each {@link step} is a
 * slice; between two of them the guest is at a safe point, where no write is without its mark (I2).
 */
export class GuestRuntime {
  readonly allocator: BuddyAllocator;
  readonly ledger: Ledger;
  readonly report: ReportDriver;
  readonly held: PageBitmap;
  readonly ballooned: PageBitmap;
  readonly #options: GuestRuntimeOptions;
  readonly #metadata: GuestMetadata;
  readonly #command: RequestDriver;
  readonly #balloon: BalloonDriver;
  readonly #balloonPages: BalloonPages;
  readonly #statistics: StatisticsDriver | undefined;
  readonly #workload: Workload | TraceReplay;
  readonly #queues: readonly DriverQueue[];
  readonly #hold: HoldSource | undefined;
  readonly #initialising: InitialisingAllocator | undefined;
  #shownPagesWritten = 0;
  #shownRanges = 0;
  #shownDropped = 0;
  #shownPagesDropped = 0;

  private constructor(
    options: GuestRuntimeOptions,
    image: GuestImage | undefined,
    registers: VcpuRegisters | undefined,
  ) {
    this.#options = options;
    const { map, memory, log, config, port, oracle } = options;
    const { pfnSpan } = memory.layout;
    const ram = new GuestRam(memory, map, log);
    const metadata = layOutMetadata(config.metadataGpa, { pfnSpan, ringSize: config.ringSize });
    this.#metadata = metadata;
    if (image !== undefined) {
      clearMetadata(memory, metadata);
    }
    this.ledger = new Ledger(ram, options.content, metadata.ledgerGpa, pfnSpan, oracle);
    const parts = [ram, metadata.allocator, pfnSpan, registers?.blocksByOrder] as const;
    const initialises = config.initOnAlloc || config.pagePoison !== undefined;
    this.#initialising = initialises
      ? new InitialisingAllocator([...parts], this.ledger, config, registers?.poisonFailures)
      : undefined;
    this.allocator = this.#initialising ?? new BuddyAllocator(...parts);
    this.held = ram.bitmap(metadata.heldGpa, pfnSpan);
    this.ballooned = ram.bitmap(metadata.balloonedGpa, pfnSpan);
    if (image !== undefined) {
      this.#boot(image);
      log.markRange(pfnOf(metadata.gpa), metadata.lengthBytes / PAGE_SIZE); // all of it was written (I1)
    }
    const wrote = (gpa: number, lengthBytes: number): void => ram.wrote(gpa, lengthBytes);
    const queue = (i: number, addresses: GuestMetadata['freePageQueue']): DriverQueue =>
      new DriverQueue(memory, map, log, addresses, config.eventIdx, registers?.queues[i]);
    const freePageQueue = queue(0, metadata.freePageQueue);
    const inflateQueue = queue(1, metadata.inflateQueue);
    const deflateQueue = queue(2, metadata.deflateQueue);
    const isVirtio = config.dialect === 'virtio';
    const statisticsQueue = isVirtio ? queue(3, metadata.statisticsQueue) : undefined;
    this.#queues = [freePageQueue, inflateQueue, deflateQueue, ...(statisticsQueue ? [statisticsQueue] : [])];
    if (config.reportMode === 'hold') {
      const blocks = this.#initialising?.forHolding(isVirtio) ?? this.allocator;
      this.#hold = new HoldSource(blocks, this.held, config.minOrder, RESERVE_PAGES);
    }
    const source = this.#hold ?? new WalkSource(this.allocator.free, memory.layout, config.minOrder);
    this.report = new ReportDriver({
      port,
      queue: freePageQueue,
      memory,
      markersGpa: metadata.markersGpa,
      wrote,
      source: options.faults?.source(source, this.#faultyGuest(freePageQueue, wrote)) ?? source,
      ringDeadlineMs: config.ringDeadlineMs,
      rangesPerStep: RANGES_PER_STEP,
      pagesPerStep: initialises && this.#hold !== undefined ? INITIALISED_PER_STEP : undefined,
      spinSteps: SPIN_STEPS,
      holdsUntilDone: isVirtio,
      observer: oracle,
      restored: registers?.report,
    });
    this.#balloonPages = this.#makeBalloonPages(registers?.balloonedPages ?? 0);
    this.#balloon = new BalloonDriver({
      port,
      actualOffset: isVirtio ? VIRTIO_BALLOON_CONFIG_ACTUAL : ACTUAL_OFFSET,
      inflateQueue,
      deflateQueue,
      memory,
      arrayGpa: metadata.balloonArrayGpa,
      wrote,
      pages: this.#balloonPages,
      restored: registers?.balloon,
    });
    const handlers = { report: this.report, balloon: this.#balloon };
    this.#command = makeRequestDriver(port, handlers, config, registers?.command);
    this.#statistics =
      statisticsQueue &&
      new StatisticsDriver({
        port,
        queue: statisticsQueue,
        memory,
        bufferGpa: metadata.statisticsGpa,
        wrote,
        collect: () => this.#collectStatistics(),
      });
    this.#workload =
      config.workload.kind === 'trace'
        ? new TraceReplay(
            config.workload,
            options.trace,
            this.#replayHost(),
            registers?.workload as ReplayState,
          )
        : new Workload(
            config.workload,
            this.#workloadHost(ram),
            config.seed,
            registers?.workload as WorkloadState,
          );
    if (registers === undefined) {
      for (const driverQueue of this.#queues) {
        driverQueue.disableInterrupts();
      }
      port.setQueue(VIRTIO_BALLOON_VQ_FREE_PAGE, metadata.freePageQueue);
      port.setQueue(VIRTIO_BALLOON_VQ_INFLATE, metadata.inflateQueue);
      port.setQueue(VIRTIO_BALLOON_VQ_DEFLATE, metadata.deflateQueue);
      if (isVirtio) {
        port.setQueue(VIRTIO_BALLOON_VQ_STATS, metadata.statisticsQueue);
      }
      negotiate(port, config);
      this.#statistics?.begin();
    }
    this.#showCounters();
  }

  /** A guest from a memory map; its memory was filled by `fillMemory` for the same image. */
  static boot(options: GuestRuntimeOptions, image: GuestImage): GuestRuntime {
    return new GuestRuntime(options, image, undefined);
  }

  /** The same guest going on from migrated memory and registers. */
  static resume(options: Omit<GuestRuntimeOptions, 'config'>, registers: VcpuRegisters): GuestRuntime {
    return new GuestRuntime({ ...options, config: registers.config }, undefined, registers);
  }

  saveRegisters(): VcpuRegisters {
    return {
      config: this.#options.config,
      command: this.#command.saveState(),
      report: this.report.saveState(),
      balloon: this.#balloon.saveState(),
      queues: this.#queues.map((queue) => queue.saveState()),
      workload: this.#workload.saveState(),
      blocksByOrder: this.allocator.blocksByOrder(),
      balloonedPages: this.#balloonPages.held,
      poisonFailures: this.#initialising?.failures,
    };
  }

  /** One slice. Milliseconds until the vCPU has something to do if nothing interrupts it; 0: at once. */
  step(now: number): number {
    const withheld = this.#options.faults?.slice(now) ?? Withheld.nothing;
    const lines =
      (withheld & Withheld.interrupts) === 0 ? this.#options.control.words.exchange(INTERRUPTS, 0) : 0;
    if ((lines & INTERRUPT_CONFIG) !== 0) {
      this.#command.interrupt();
    }
    while (this.#command.busy) {
      this.#command.step();
    }
    const report = (withheld & Withheld.report) === 0 ? this.report.step(now) : ReportStep.waiting;
    const ballooning = this.#balloon.busy && this.#balloon.step();
    if ((withheld & Withheld.rest) === 0) {
      this.#statistics?.step();
    }
    const idleMs = this.#workload.step(now);
    this.#showCounters();
    if (report === ReportStep.working || ballooning || (withheld & Withheld.rest) !== 0) {
      return 0;
    }
    // A full ring is looked at again every millisecond, for its deadline; the interrupt comes sooner.
    return report === ReportStep.waiting || withheld !== Withheld.nothing ? Math.min(1, idleMs) : idleMs;
  }

  /** Pages for the guest's own use; where memory is short, of those that are held for hints. -1: there are none. */
  allocate(order: number): number {
    for (;;) {
      const pfn = this.allocator.allocate(order);
      if (pfn !== -1 || this.#hold === undefined || !this.#hold.shrink()) {
        return pfn;
      }
    }
  }

  /**
   * Looks at every page that the guest uses, and, where it poisons pages, at every one that it would hand out. Pages
   * that did not hold their poison when they were handed out count as bad, too.
   */
  selfCheck(): SelfCheck {
    const { config, memory } = this.#options;
    const { layout } = memory;
    const { pagePoison } = config;
    const failures = this.#initialising?.failures;
    let pages = 0;
    let badPages = failures?.pages ?? 0;
    let badPfn = this.allocator.inconsistency() === undefined ? (failures?.firstPfn ?? -1) : -2;
    for (const segment of layout.segments) {
      for (let pfn = segment.firstPfn; pfn < segment.firstPfn + segment.pageCount; pfn += 1) {
        const spare = this.allocator.free.test(pfn) || this.held.test(pfn);
        if (this.ballooned.test(pfn) || (spare && pagePoison === undefined)) {
          continue;
        }
        pages += 1;
        const holds =
          spare && pagePoison !== undefined ? this.ledger.isFilled(pfn, pagePoison) : this.ledger.holds(pfn);
        if (!holds && this.#options.faults?.excuses(pfn) !== true) {
          badPages += 1;
          badPfn = badPfn === -1 ? pfn : badPfn;
        }
      }
    }
    return { pages, badPages, badPfn };
  }

  #boot(image: GuestImage): void {
    const { map, memory } = this.#options;
    const { free, zero } = imageBitmaps(map, image);
    this.allocator.initialise(free);
    const first = pfnOf(this.#metadata.gpa);
    const end = first + this.#metadata.lengthBytes / PAGE_SIZE;
    for (const segment of memory.layout.segments) {
      for (let pfn = segment.firstPfn; pfn < segment.firstPfn + segment.pageCount; pfn += 1) {
        const metadata = pfn >= first && pfn < end;
        if (metadata || !free.test(pfn)) {
          this.ledger.begin(pfn, metadata ? LEDGER_METADATA : zero.test(pfn) ? LEDGER_ZERO : FIRST_VERSION);
        }
      }
    }
    this.#initialising?.poisonFree();
  }

  #makeBalloonPages(heldPages: number): BalloonPages {
    const { allocator, ballooned } = this;
    let held = heldPages;
    return {
      get held(): number {
        return held;
      },
      take: () => {
        const pfn = allocator.freePages > RESERVE_PAGES ? allocator.allocate(0) : -1;
        if (pfn !== -1) {
          ballooned.set(pfn);
          held += 1;
        }
        return pfn;
      },
      choose: (after) => {
        const pfn = ballooned.nextSet(after + 1);
        return pfn === ballooned.pageCount ? -1 : pfn;
      },
      giveBack: (pfn) => {
        ballooned.clear(pfn);
        held -= 1;
        allocator.release(pfn, 0);
      },
    };
  }

  #faultyGuest(queue: DriverQueue, wrote: FaultyGuest['wrote']): FaultyGuest {
    const { memory, port } = this.#options;
    const { allocator, held } = this;
    return {
      queue,
      memory,
      port,
      markersGpa: this.#metadata.markersGpa,
      wrote,
      stillFree: (pfn) => allocator.free.test(pfn) || held.test(pfn),
      inUse: (pfn) => this.#inUse(pfn),
    };
  }

  /** Whether the page is somebody's who may write it and free it. */
  #inUse(pfn: number): boolean {
    return (
      !this.allocator.free.test(pfn) &&
      !this.held.test(pfn) &&
      !this.ballooned.test(pfn) &&
      this.ledger.version(pfn) !== LEDGER_METADATA
    );
  }

  /** Held blocks are nobody's: programs could have them without swapping, though they are not free now. */
  #collectStatistics(): GuestStatistics {
    const { freePages } = this.allocator;
    const { pageCount } = this.#options.memory.layout;
    return {
      freeBytes: freePages * PAGE_SIZE,
      totalBytes: pageCount * PAGE_SIZE,
      availableBytes: (freePages + this.held.count()) * PAGE_SIZE,
    };
  }

  #replayHost(): ReplayHost {
    const { allocator, ledger } = this;
    return {
      inUse: (pfn) => this.#inUse(pfn),
      allocateAt: (pfn) => {
        this.#hold?.giveBackAt(pfn);
        return allocator.allocateAt(pfn);
      },
      release: (pfn) => allocator.release(pfn, 0),
      write: (pfn, version) => ledger.write(pfn, version),
    };
  }

  #workloadHost(ram: GuestRam): ConstructorParameters<typeof Workload>[1] {
    const { allocator, ledger, ballooned, held } = this;
    const { workloadGpa } = this.#metadata;
    const { layout } = this.#options.memory;
    const slots = ram.uint32(workloadGpa, WORKLOAD_SLOTS * 2);
    return {
      slots,
      allocate: (order) => this.allocate(order),
      release: (pfn, order) => allocator.release(pfn, order),
      write: (pfn, version) => ledger.write(pfn, version),
      wroteSlot: (index) => ram.wrote(workloadGpa + index * 8, 8),
      largestOrder: () => allocator.largestOrder(),
      usedPage: (from) => {
        const usable = (pfn: number): boolean =>
          layout.segmentOfPfn(pfn) !== undefined &&
          ledger.version(pfn) !== LEDGER_METADATA &&
          !ballooned.test(pfn) &&
          !held.test(pfn);
        let pfn = allocator.free.nextClear(from);
        for (let rounds = 0; rounds < 2; rounds += 1) {
          while (pfn < layout.pfnSpan) {
            if (usable(pfn)) {
              return pfn;
            }
            pfn = allocator.free.nextClear(pfn + 1);
          }
          pfn = allocator.free.nextClear(0);
        }
        throw new RangeError('the guest uses no page but its own tables');
      },
    };
  }

  #showCounters(): void {
    const { words } = this.#options.control;
    words.store(FREE_PAGES, this.allocator.freePages);
    const { ranges, rangesDropped, pagesDropped } = this.report.counts;
    words.add(RANGES_REPORTED, ranges - this.#shownRanges);
    words.add(RANGES_DROPPED, rangesDropped - this.#shownDropped);
    words.add(PAGES_DROPPED, pagesDropped - this.#shownPagesDropped);
    words.add(PAGES_WRITTEN, this.#workload.pagesWritten - this.#shownPagesWritten);
    this.#shownRanges = ranges;
    this.#shownDropped = rangesDropped;
    this.#shownPagesDropped = pagesDropped;
    this.#shownPagesWritten = this.#workload.pagesWritten;
    if (this.#workload instanceof TraceReplay) {
      words.store(REPLAY_SAMPLE, this.#workload.sample);
      words.store(REPLAY_MS, Math.floor(this.#workload.atMs));
      words.store(REPLAY_SKIPPED, this.#workload.skipped);
    }
  }
}

/** What the driver accepts in VIRTIO's dialect, poisoning apart. `BalloonDriver` tells its host in any case. */
const VIRTIO_FEATURES =
  (1 << VIRTIO_BALLOON_F_MUST_TELL_HOST) |
  (1 << VIRTIO_BALLOON_F_STATS_VQ) |
  (1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT);

/**
 * Ends the set-up of the device. A driver that will not initialise what it frees does not accept poisoning (P4); one
 * that will has said with what before (P2). The mail's dialect has no other feature bits: its reports are what it is.
 */
function negotiate(port: DevicePort, { dialect, pagePoison }: GuestConfig): void {
  const isVirtio = dialect === 'virtio';
  let features = isVirtio ? VIRTIO_FEATURES : 0;
  if (pagePoison !== undefined) {
    const offset = isVirtio ? VIRTIO_BALLOON_CONFIG_POISON_VAL : POISON_VAL_OFFSET;
    port.writeConfig(offset, pagePoison, ExitFeature.setup);
    features |= 1 << VIRTIO_BALLOON_F_PAGE_POISON;
  }
  port.driverOk(features);
}

/** The guest's tables begin as zeroes, whatever the machine had at their place. */
function clearMetadata(memory: GuestMemory, metadata: GuestMetadata): void {
  memory.pages(pfnOf(metadata.gpa), metadata.lengthBytes / PAGE_SIZE).fill(0);
}

/** The dirty log of a guest, over a buffer that the host and the guest's thread share. */
export function mapDirtyLog(map: WordMapper, buffer: ArrayBufferLike, pfnSpan: number): DirtyLog {
  return new DirtyLog(PageBitmap.over(map, buffer, pfnSpan));
}
