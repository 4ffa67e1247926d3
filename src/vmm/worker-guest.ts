import type { Dialect } from '../balloon/dialect.js';
import { type ExitTable, readExits } from '../balloon/exits.js';
import {
  type GuestDevice,
  type GuestDeviceState,
  makeGuestDevice,
  saveGuestDevice,
} from '../balloon/guest-device.js';
import { HintState } from '../balloon/hint-session.js';
import type { RequestInterface } from '../balloon/request-interface.js';
import type { GuestStatistics } from '../balloon/statistics.js';
import { LacunaError } from '../errors.js';
import { type FreeMemoryMode, findMetadataPlace, type GuestImage } from '../guest/image.js';
import { type GuestConfig, mapDirtyLog, type ReportMode, type SelfCheck } from '../guest/runtime.js';
import type { GuestTrace } from '../guest/trace.js';
import { namedTrace } from '../guest/trace-replay.js';
import { IDLE_WORKLOAD, type WorkloadSpec } from '../guest/workload.js';
import {
  CHECK_BAD_PAGES,
  CHECK_BAD_PFN,
  CHECK_DONE,
  CHECK_PAGES,
  CHECK_REQUEST,
  CONTROL_BYTES,
  ControlBuffer,
  type EventWord,
  FREE_PAGES,
  PAGES_DROPPED,
  PAGES_WRITTEN,
  RANGES_DROPPED,
  RANGES_REPORTED,
  REPLAY_MS,
  REPLAY_SAMPLE,
  REPLAY_SKIPPED,
  VCPU_STATE,
  VcpuRequest,
  VcpuState,
} from '../memory/control-buffer.js';
import type { DirtyLog, DirtySink } from '../memory/dirty-log.js';
import type { SharedGuestMemory } from '../memory/guest-memory.js';
import { bitmapWords, PageBitmap } from '../memory/page-bitmap.js';
import { type RamBlock, RamLayout } from '../memory/ram-layout.js';
import { atomicMapper } from '../memory/shared-words.js';
import { WriteOracle } from '../memory/write-oracle.js';
import { macrotask, wakeOrTimeout } from '../migration/migrate.js';
import type { SourceVm } from '../migration/vm.js';
import { parseDeviceState, type SavedState, STATE_VERSION } from './device-state.js';
import { newThreads, type Thread, type ThreadSource } from './threads.js';

/** How a guest is hosted, whether it is booted here or arrives. */
export interface HostingOptions {
  /** Keep a record for the verifier (4 bytes a page and more, outside guest RAM). */
  readonly oracle?: boolean;
  /** Through which this guest's driver can be made to misbehave (`guest/faulty-driver.ts`); it never does without. */
  readonly faults?: SharedArrayBuffer | undefined;
  /** Where its thread comes from; a new one by default. */
  readonly threads?: ThreadSource | undefined;
  /** What the guest replays, where that is its workload: the world outside, which is the same wherever it runs. */
  readonly trace?: GuestTrace | undefined;
}

/** Entries of the free page queue, if nothing else is said. */
export const DEFAULT_RING_SIZE = 4096;

/** How a built-in guest is made. */
export interface WorkerGuestOptions extends HostingOptions {
  readonly image: GuestImage;
  /** Memory of the image's layout. */
  readonly memory: SharedGuestMemory;
  /** The word that the host waits on. */
  readonly event: EventWord;
  /** Which its balloon driver and its device speak: `command-register` (the mail's) if nothing is said, or `virtio`. */
  readonly dialect?: Dialect;
  readonly freeMemory?: FreeMemoryMode;
  readonly workload?: WorkloadSpec;
  readonly reportMode?: ReportMode;
  /** Smallest order that the driver reports, 0 … 10. */
  readonly minOrder?: number;
  /** Size of the free page queue. */
  readonly ringSize?: number;
  readonly eventIdx?: boolean;
  readonly ringDeadlineMs?: number;
  readonly seed?: number;
  /** What the device offers to request, where that is not the mail's command register and features. Not with `virtio`. */
  readonly requests?: RequestInterface;
  /** Every page that the guest's allocator hands out is zeroed first, as with Linux's `init_on_alloc=1`. */
  readonly initOnAlloc?: boolean;
  /**
   * Every page that the guest frees is filled with this value (32 bits, repeated), as with Linux's `page_poison=1`, and
   * its driver negotiates page poisoning. 0 is a value (`init_on_free=1`). Takes precedence over {@link initOnAlloc}.
   */
  readonly pagePoison?: number | undefined;
}

/** What the thread of a guest is given. */
export interface GuestThreadData {
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  readonly control: SharedArrayBuffer;
  readonly event: SharedArrayBuffer;
  readonly log: SharedArrayBuffer;
  readonly oracle: SharedArrayBuffer | undefined;
  readonly faults: SharedArrayBuffer | undefined;
  readonly trace: GuestTrace | undefined;
  /** What a new guest is made of; undefined for one that arrives. */
  readonly boot: { image: GuestImage; config: GuestConfig; freeMemory: FreeMemoryMode } | undefined;
}

/** Counters that the guest shows to its host. */
export interface GuestCounters {
  readonly pagesWritten: number;
  readonly freePages: number;
  readonly rangesReported: number;
  readonly rangesDropped: number;
  readonly pagesDropped: number;
}

/** How far a guest that replays a trace has got. */
export interface ReplayProgress {
  /** The last sample that was reached. */
  readonly sample: number;
  /** ms since the trace's first sample. */
  readonly atMs: number;
  /** Whether that was the trace's last: the guest halts. */
  readonly ended: boolean;
  /** Pages that could not be freed, allocated or written as the trace has it. */
  readonly skipped: number;
}

/** How long the host waits for a guest to stop or to check itself: generous, for it may have to share a processor. */
const PATIENCE_MS = 60_000;
/** How often the host looks for what its own service of the device, or a migration's, has found. */
const LOOK_MS = 5;
/** Elements of the device's queues that are handled at a time. */
const POLL_LIMIT = 1024;

/**
 * The built-in guest as its host sees it: a worker thread with its memory, its balloon device and its dirty log.
 * It is a {@link SourceVm}; the guest that a `WorkerDestination` received is one too, so it can move on from there.
 */
export class WorkerGuest implements SourceVm {
  readonly memory: SharedGuestMemory;
  readonly control: ControlBuffer;
  readonly log: DirtyLog;
  readonly oracle: WriteOracle | undefined;
  readonly event: EventWord;
  readonly trace: GuestTrace | undefined;
  readonly #inflated: PageBitmap;
  readonly #thread: Thread;
  #device: GuestDevice | undefined;
  #migrating = false;
  #stopped = false;
  #serving = false;

  private constructor(
    memory: SharedGuestMemory,
    event: EventWord,
    boot: GuestThreadData['boot'],
    { oracle = false, faults, trace, threads = newThreads }: HostingOptions,
  ) {
    const { pfnSpan, blocks } = memory.layout;
    this.memory = memory;
    this.event = event;
    this.trace = trace;
    const control = new SharedArrayBuffer(CONTROL_BYTES);
    this.control = new ControlBuffer(atomicMapper, control, event);
    this.control.request(VcpuRequest.pause);
    const log = new SharedArrayBuffer(bitmapWords(pfnSpan) * 4);
    this.log = mapDirtyLog(atomicMapper, log, pfnSpan);
    const record = oracle ? new SharedArrayBuffer(WriteOracle.byteLength(pfnSpan)) : undefined;
    this.oracle = record === undefined ? undefined : new WriteOracle(atomicMapper, record, pfnSpan);
    this.oracle?.reset(); // its memory is touched now, not while something is measured
    this.#inflated = PageBitmap.allocate(atomicMapper, pfnSpan);
    const data: GuestThreadData = {
      blocks,
      buffers: memory.buffers,
      control,
      event: event.buffer,
      log,
      oracle: record,
      faults,
      trace,
      boot,
    };
    this.#thread = threads.start('guest', data, () => this.event.ring());
  }

  /**
   * A new guest, built from an image and paused before its first instruction. One that replays a trace is given the
   * trace, its image at that moment (`traceImage`) and its workload (`traceWorkload`). Throws INVALID_ARGUMENT if they do
   * not belong together.
   */
  static async boot(options: WorkerGuestOptions): Promise<WorkerGuest> {
    checkReplay(options);
    const ringSize = options.ringSize ?? DEFAULT_RING_SIZE;
    const { pagePoison } = options;
    if (pagePoison !== undefined && pagePoison !== pagePoison >>> 0) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `pagePoison ${pagePoison}: a whole number of 32 bits, 0 to 4294967295`,
      );
    }
    const dialect = options.dialect ?? 'command-register';
    if (dialect === 'virtio' && options.requests !== undefined) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        "requests are variants of the mail's register: leave them out, or use the dialect command-register",
      );
    }
    const config: GuestConfig = {
      dialect,
      metadataGpa: findMetadataPlace(atomicMapper, options.image, ringSize),
      ringSize,
      eventIdx: options.eventIdx ?? true,
      reportMode: options.reportMode ?? 'walk',
      minOrder: options.minOrder ?? 0,
      ringDeadlineMs: options.ringDeadlineMs ?? 500,
      workload: options.workload ?? IDLE_WORKLOAD,
      seed: options.seed ?? 1,
      ...(options.requests === undefined ? {} : { requests: options.requests }),
      initOnAlloc: options.initOnAlloc ?? false,
      pagePoison,
    };
    const guest = new WorkerGuest(
      options.memory,
      options.event,
      { image: options.image, config, freeMemory: options.freeMemory ?? 'captured' },
      options,
    );
    guest.#device = guest.#makeDevice(config);
    await guest.#thread.up;
    return guest;
  }

  /** A guest that is to arrive: once its thread is {@link up} it waits. {@link adopt} it when it runs. */
  static incoming(memory: SharedGuestMemory, event: EventWord, options: HostingOptions): WorkerGuest {
    return new WorkerGuest(memory, event, undefined, options);
  }

  /** Resolves when the guest's thread is up. */
  get up(): Promise<void> {
    return this.#thread.up;
  }

  /**
   * The guest has arrived and runs: from here on this host serves its device, unless it is to do so from {@link run} on only.
   * Throws DEVICE_STATE_INVALID.
   */
  adopt(state: Uint8Array, isServed = true): void {
    const { device, inflated } = parseDeviceState(state, { layout: this.memory.layout, trace: this.trace });
    this.#inflated.setRuns(inflated);
    this.#device = this.#makeDevice({ eventIdx: device.eventIdx, restored: device });
    if (isServed) {
      void this.#serveDevice();
    }
  }

  get device(): GuestDevice | undefined {
    return this.#device;
  }

  /** Lets a guest run that was booted, or stopped again as it arrived. */
  run(): void {
    this.resume();
    void this.#serveDevice();
  }

  get running(): boolean {
    return this.control.words.load(VCPU_STATE) === VcpuState.running;
  }

  // ── SourceVm ──────────────────────────────────────────────────────────────────────────────────────────────

  migrationBegins(): void {
    this.#migrating = true;
  }

  migrationEnds(): void {
    this.#migrating = false;
    this.#device?.showDone();
    void this.#serveDevice();
  }

  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    return this.memory.pages(pfn, pageCount);
  }

  drainDirty(sink: DirtySink): boolean {
    return this.log.drainSlice(sink);
  }

  requestPause(): void {
    this.control.request(VcpuRequest.pause);
  }

  get paused(): boolean {
    return this.control.paused;
  }

  get stoppedAt(): number {
    return this.control.stoppedAt;
  }

  resume(): void {
    this.control.request(VcpuRequest.run);
  }

  /** The share, to a thousandth, is of its thread's time; see `guest/throttle.ts`. */
  throttle(share: number): void {
    this.control.throttle = share;
  }

  get failure(): LacunaError | undefined {
    return this.#thread.failure;
  }

  saveDeviceState(): Uint8Array {
    if (this.#device === undefined) {
      throw new LacunaError('ILLEGAL_STATE', 'a guest that has not arrived has no device state');
    }
    const state: SavedState = {
      version: STATE_VERSION,
      device: saveGuestDevice(this.#device),
      inflated: this.#inflated.runs(),
      vcpu: new TextDecoder().decode(this.control.readState()),
    };
    return new TextEncoder().encode(JSON.stringify(state));
  }

  // ── what a host can do besides ────────────────────────────────────────────────────────────────────────────

  /** Stops the vCPU at its next safe point and waits for it. */
  async pause(): Promise<void> {
    this.requestPause();
    await this.#until(() => this.paused, 'the guest to pause');
  }

  /** Has the guest look at every page that it uses. Works while it runs and while it is paused. */
  async selfCheck(): Promise<SelfCheck> {
    const { words } = this.control;
    const wanted = words.add(CHECK_REQUEST, 1) + 1;
    this.control.ringGuest();
    await this.#until(() => words.load(CHECK_DONE) === wanted, 'the guest to check itself');
    return {
      pages: words.load(CHECK_PAGES),
      badPages: words.load(CHECK_BAD_PAGES),
      badPfn: words.load(CHECK_BAD_PFN),
    };
  }

  /** Asks for a balloon of `pages` pages and waits until the guest says that it is done. */
  async balloonTo(pages: number): Promise<number> {
    const device = this.#device!;
    device.setBalloonTarget(pages);
    await this.#until(() => device.registers.actual === pages, `a balloon of ${pages} pages`);
    return device.registers.actual;
  }

  /**
   * Asks the guest what it has to say of its memory, and waits for the answer. Throws UNSUPPORTED for a guest whose dialect
   * has no statistics, GUEST_FAILED if it does not answer.
   */
  async statistics(): Promise<GuestStatistics> {
    const device = this.#device!;
    if (device.registers.dialect !== 'virtio') {
      throw new LacunaError(
        'UNSUPPORTED',
        'statistics are of the virtio dialect: boot the guest with it to ask for them',
      );
    }
    // The first buffer may be on its way still; whoever serves the device finds it.
    let before: GuestStatistics | undefined;
    const asked = (): boolean => {
      before = device.statistics;
      return device.requestStatistics();
    };
    await this.#until(asked, "the guest's statistics buffer", LOOK_MS);
    await this.#until(() => device.statistics !== before, 'statistics from the guest', LOOK_MS);
    return device.statistics!;
  }

  /**
   * Has the guest report its free pages to nobody, as often as it takes for its driver's code to be compiled. A real
   * guest's driver always is; a benchmark that begins with a cold one measures V8's compiler.
   */
  async rehearseReports(times: number): Promise<void> {
    const device = this.#device!;
    const polled = async (done: () => boolean, what: string): Promise<void> => {
      const deadline = performance.now() + PATIENCE_MS;
      while (!done()) {
        device.poll(performance.now(), POLL_LIMIT);
        if (performance.now() > deadline) {
          throw new LacunaError('GUEST_FAILED', `waited ${PATIENCE_MS} ms for ${what}`);
        }
        await macrotask();
      }
    };
    for (let i = 0; i < times; i += 1) {
      device.openSession({ hint: () => true }, performance.now());
      await polled(() => device.session.state === HintState.done, 'a report');
      device.closeSession(performance.now());
      device.showDone(); // and what was held comes back, so that the next report is of the same pages
      await polled(() => device.registers.pending === 0, 'the guest to hear of a stop');
    }
    device.armNotifications();
  }

  /** Counters of the guest's own, since it was made. */
  counters(): GuestCounters {
    const word = (index: number): number => this.control.words.load(index) >>> 0;
    return {
      pagesWritten: word(PAGES_WRITTEN),
      freePages: word(FREE_PAGES),
      rangesReported: word(RANGES_REPORTED),
      rangesDropped: word(RANGES_DROPPED),
      pagesDropped: word(PAGES_DROPPED),
    };
  }

  /** Undefined for a guest that replays nothing. */
  replay(): ReplayProgress | undefined {
    if (this.trace === undefined) {
      return undefined;
    }
    const { words } = this.control;
    const sample = words.load(REPLAY_SAMPLE);
    return {
      sample,
      atMs: words.load(REPLAY_MS),
      ended: sample === this.trace.timesMs.length - 1,
      skipped: words.load(REPLAY_SKIPPED) >>> 0,
    };
  }

  /** VM exits since the guest was made, by feature. */
  exits(): ExitTable {
    return readExits(this.control.words);
  }

  /** Processor time of the guest's thread, in ms; NaN where the system does not say. */
  cpuMs(): number {
    return this.#thread.cpuMs();
  }

  /** Ends the guest's thread. Its memory may be reused when this has resolved. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.control.request(VcpuRequest.exit);
    await this.#thread.ended;
  }

  /** Ends the guest's thread wherever it is, for a guest that does not {@link stop}. */
  async kill(): Promise<void> {
    this.#stopped = true;
    await this.#thread.kill();
  }

  #makeDevice({
    eventIdx,
    dialect = 'command-register',
    requests,
    restored,
  }: {
    eventIdx: boolean;
    dialect?: Dialect;
    requests?: RequestInterface;
    restored?: GuestDeviceState;
  }): GuestDevice {
    return makeGuestDevice({
      memory: this.memory,
      map: atomicMapper,
      control: this.control,
      log: this.log,
      inflated: this.#inflated,
      eventIdx,
      dialect,
      requests,
      ...(restored === undefined ? {} : { restored }),
    });
  }

  /** Answers the guest's kicks while no migration does. */
  async #serveDevice(): Promise<void> {
    const device = this.#device;
    if (device === undefined || this.#serving) {
      return;
    }
    this.#serving = true;
    while (!this.#stopped && !this.#migrating && this.failure === undefined) {
      const seen = this.event.value();
      device.poll(performance.now(), POLL_LIMIT);
      // Always a macrotask in between: a guest that kicks without end must not starve the host's event loop.
      await (device.armNotifications() ? macrotask() : wakeOrTimeout(this.event, seen, PATIENCE_MS));
    }
    this.#serving = false;
  }

  /** Of something for which nobody rings, it looks every `lookMs`. */
  async #until(condition: () => boolean, what: string, lookMs = Number.POSITIVE_INFINITY): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const seen = this.event.value();
      if (condition()) {
        return;
      }
      if (this.failure !== undefined) {
        throw this.failure;
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        throw new LacunaError('GUEST_FAILED', `waited ${PATIENCE_MS} ms for ${what}`);
      }
      await wakeOrTimeout(this.event, seen, Math.min(left, lookMs));
    }
  }
}

function checkReplay({ image, trace, workload }: WorkerGuestOptions): void {
  if (workload?.kind !== 'trace') {
    return;
  }
  const { blocks } = namedTrace(workload, trace);
  if (!new RamLayout(image.blocks).equals(new RamLayout(blocks))) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the RAM of ${image.name} does not lie where that of ${workload.name} does: build the image with traceImage()`,
    );
  }
}
