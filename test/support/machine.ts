import { expect } from 'vitest';
import { CommandDriver, type CommandFeature, mailFeatures } from '../../src/balloon/command-driver.js';
import type { Dialect } from '../../src/balloon/dialect.js';
import { ExitFeature, type ExitFeatureValue } from '../../src/balloon/exits.js';
import {
  type GuestDevice,
  type GuestDeviceState,
  makeGuestDevice,
  saveGuestDevice,
} from '../../src/balloon/guest-device.js';
import { trapsOf } from '../../src/balloon/guest-registers.js';
import { type HintSink, HintState } from '../../src/balloon/hint-session.js';
import { PollingDriver } from '../../src/balloon/polling-driver.js';
import type { DevicePort, VcpuTraps } from '../../src/balloon/registers.js';
import { type FreeRangeSource, ReportDriver, ReportStep } from '../../src/balloon/report-driver.js';
import type { RequestDriver } from '../../src/balloon/request-driver.js';
import type { RequestInterface } from '../../src/balloon/request-interface.js';
import { virtioConfig } from '../../src/balloon/virtio-driver.js';
import { LacunaError } from '../../src/errors.js';
import { PageContent } from '../../src/guest/content.js';
import {
  emptyImage,
  type FreeMemoryMode,
  fillMemory,
  findMetadataPlace,
  type GuestImage,
  imageBitmaps,
} from '../../src/guest/image.js';
import { type GuestMetadata, layOutMetadata } from '../../src/guest/metadata.js';
import {
  type GuestConfig,
  GuestRuntime,
  type GuestRuntimeOptions,
  mapDirtyLog,
  type ReportMode,
} from '../../src/guest/runtime.js';
import type { GuestTrace } from '../../src/guest/trace.js';
import { traceImage } from '../../src/guest/trace-player.js';
import { traceWorkload } from '../../src/guest/trace-replay.js';
import { decodeRegisters, encodeRegisters } from '../../src/guest/vcpu.js';
import type { WorkloadSpec } from '../../src/guest/workload.js';
import {
  CMD_REG,
  CONTROL_BYTES,
  ControlBuffer,
  EventWord,
  INTERRUPT_CONFIG,
  INTERRUPTS,
} from '../../src/memory/control-buffer.js';
import type { DirtyLog, DirtySink } from '../../src/memory/dirty-log.js';
import { type GuestMemory, PrivateGuestMemory, SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import { bitmapWords, PageBitmap, type PageRun } from '../../src/memory/page-bitmap.js';
import { type RamBlock, RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper, type WordMapper } from '../../src/memory/shared-words.js';
import { WriteOracle } from '../../src/memory/write-oracle.js';
import { type MigrationOptions, resolveOptions } from '../../src/migration/options.js';
import {
  AGAIN,
  type MigrationEvent,
  type PrecopyOptions,
  PrecopySource,
} from '../../src/migration/precopy.js';
import { Receiver } from '../../src/migration/receiver.js';
import type { DestinationVm, SourceVm } from '../../src/migration/vm.js';
import {
  CMD_ID_REG_OFFSET,
  CMD_REG_OFFSET,
  COMMAND_ID_BYTES,
  REPORT_START,
  REPORT_STOP,
} from '../../src/spec/command-register.js';
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
} from '../../src/spec/virtio-balloon.js';
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../../src/spec/virtio-ring.js';
import { LoopbackChannel } from '../../src/transport/loopback.js';
import { DriverQueue } from '../../src/virtqueue/driver-queue.js';
import {
  AVAIL_RING,
  mapQueue,
  packQueue,
  type QueueAddresses,
  RING_IDX,
} from '../../src/virtqueue/layout.js';
import { type DestinationMessage, FRAME_HEADER_BYTES, type FrameSink } from '../../src/wire/channel.js';

/*
 * A whole migration in one thread, a step at a time and in whatever order a test likes. Nothing here knows the
 * time but the clock that the test moves, so a run is the same every time.
 *
 *   Machine        a guest with its host: RAM, registers, device, dirty log, oracle; it is a SourceVm
 *   HandDriver     a guest's driver that does what the test says: liars, floods, late ones
 *   TestMigration  a PrecopySource, the channel, the Receiver, and the machine that arrives
 *   DriverRig      the real driver and device with nothing around them, an exit a step: for interleavings
 */

let dialectInUse: Dialect = 'command-register';

/** The dialect of machines and rigs that are made from here on; of a whole file, where it is said first. */
export function useDialect(dialect: Dialect): void {
  dialectInUse = dialect;
}

/** Whether tests are run in VIRTIO's dialect. */
export function isVirtio(): boolean {
  return dialectInUse === 'virtio';
}

/** Time is what a test says. */
export class ManualClock {
  now = 1000;
  readonly read = (): number => this.now;
}

/** Whatever drives a machine's balloon: a GuestRuntime, or a script. Milliseconds until it has work; 0: at once. */
export interface Actor {
  step(now: number): number;
}

/** A run of pages: first pfn, count. */
export type Pages = readonly [pfn: number, pageCount: number];

export interface MachineOptions {
  readonly pages?: number;
  /** RAM of another shape than one block from 0. */
  readonly blocks?: readonly RamBlock[];
  readonly free?: readonly Pages[];
  /** Used pages that hold zeroes. */
  readonly zero?: readonly Pages[];
  /** Plain buffers instead of shared ones. */
  readonly privateMemory?: boolean;
  /** What free pages hold; old data by default, so that leaving a page behind shows. */
  readonly freeMemory?: FreeMemoryMode;
  readonly workload?: WorkloadSpec;
  /** Replayed from its first sample on; RAM, what is free, and the workload are the trace's. */
  readonly trace?: GuestTrace;
  readonly reportMode?: ReportMode;
  readonly minOrder?: number;
  readonly ringSize?: number;
  readonly eventIdx?: boolean;
  readonly ringDeadlineMs?: number;
  readonly seed?: number;
  readonly initOnAlloc?: boolean;
  readonly pagePoison?: number;
  readonly firstId?: number;
  /** How the guest learns what the host wants. */
  readonly requests?: RequestInterface;
  readonly clock?: ManualClock;
  /** Of the device's own view of the rings. */
  readonly deviceMap?: WordMapper;
}

/** 640 of 1024 pages are free, in three runs that buddies cut into blocks of several orders. */
export const DEFAULT_PAGES = 1024;
export const DEFAULT_FREE: readonly Pages[] = [
  [192, 128],
  [384, 320],
  [768, 192],
];

/** Pages of all runs. */
export function pagesIn(runs: readonly Pages[]): number {
  return runs.reduce((sum, [, pageCount]) => sum + pageCount, 0);
}

interface Parts {
  readonly memory: GuestMemory;
  readonly clock: ManualClock;
  readonly eventIdx: boolean;
  readonly firstId?: number | undefined;
  readonly inflated?: readonly number[];
  readonly restored?: GuestDeviceState;
  readonly deviceMap?: WordMapper | undefined;
  readonly trace?: GuestTrace | undefined;
  readonly dialect: Dialect;
  readonly requests?: RequestInterface | undefined;
}

/** What of a machine travels beside its RAM. */
interface SavedMachine {
  readonly device: GuestDeviceState;
  readonly inflated: readonly number[];
  /** The vCPU's registers; null for a machine that is driven by hand. */
  readonly vcpu: string | null;
}

/** A guest and its host, in one thread. */
export class Machine implements SourceVm {
  readonly memory: GuestMemory;
  readonly event: EventWord = new EventWord(atomicMapper);
  readonly control: ControlBuffer;
  readonly log: DirtyLog;
  readonly oracle: WriteOracle;
  readonly traps: VcpuTraps;
  readonly device: GuestDevice;
  readonly clock: ManualClock;
  readonly trace: GuestTrace | undefined;
  /** What runs on the vCPU. */
  actor: Actor | undefined;
  /** The built-in guest, where it is that which runs. */
  guest: GuestRuntime | undefined;
  /** Looks on when the engine takes a page's contents. */
  onPayload: ((pfn: number, pageCount: number) => void) | undefined;
  /** What the test has the guest do before each of its slices. */
  beforeStep: (() => void) | undefined;
  /** The vCPU never reaches a safe point. */
  stuck = false;
  failure: LacunaError | undefined;
  migrating = false;
  resumes = 0;
  /** Shares of the time that were taken from the guest, as they were asked for. */
  readonly throttles: number[] = [];
  history: RingHistory | undefined;
  /** How much time was taken from it, until when. */
  #stolenMs = 0;
  #stolenUntil = 0;
  #pauseWanted = false;
  #stoppedAt = 0;

  constructor(parts: Parts) {
    const { memory, clock, eventIdx, firstId, restored } = parts;
    const { pfnSpan } = memory.layout;
    this.memory = memory;
    this.clock = clock;
    this.trace = parts.trace;
    this.control = new ControlBuffer(atomicMapper, new SharedArrayBuffer(CONTROL_BYTES), this.event);
    this.log = mapDirtyLog(atomicMapper, new SharedArrayBuffer(bitmapWords(pfnSpan) * 4), pfnSpan);
    this.oracle = new WriteOracle(atomicMapper, new ArrayBuffer(WriteOracle.byteLength(pfnSpan)), pfnSpan);
    this.traps = trapsOf(this.control, parts.dialect);
    const inflated = PageBitmap.allocate(atomicMapper, pfnSpan);
    for (let i = 0; i + 1 < (parts.inflated?.length ?? 0); i += 2) {
      inflated.setRange(parts.inflated![i]!, parts.inflated![i + 1]!);
    }
    this.device = makeGuestDevice({
      memory,
      map: parts.deviceMap ?? atomicMapper,
      control: this.control,
      log: this.log,
      inflated,
      eventIdx,
      dialect: parts.dialect,
      requests: parts.requests,
      ...(firstId === undefined ? {} : { firstId }),
      ...(restored === undefined ? {} : { restored }),
    });
  }

  /** A machine with the built-in guest. */
  static boot(options: MachineOptions = {}): Machine {
    const { machine, image, config } = Machine.#build(options);
    machine.guest = GuestRuntime.boot(
      { ...machine.#runtimeParts(), config, content: new PageContent(config.seed) },
      image,
    );
    machine.actor = machine.guest;
    return machine;
  }

  /** The same machine with a driver that does what the test says. */
  static bare(options: MachineOptions = {}): { machine: Machine; driver: HandDriver } {
    const { machine, config } = Machine.#build(options);
    const metadata = layOutMetadata(config.metadataGpa, {
      pfnSpan: machine.memory.layout.pfnSpan,
      ringSize: config.ringSize,
    });
    return { machine, driver: new HandDriver(machine, metadata, config.eventIdx) };
  }

  /** A machine that has arrived: RAM and state of another. */
  static arrived(
    memory: GuestMemory,
    clock: ManualClock,
    saved: SavedMachine,
    trace: GuestTrace | undefined,
  ): Machine {
    const { device, inflated, vcpu } = saved;
    const { eventIdx } = device;
    const { dialect } = device.registers;
    const machine = new Machine({ memory, clock, eventIdx, inflated, restored: device, trace, dialect });
    machine.device.registers.restore(device.registers);
    if (vcpu !== null) {
      const registers = decodeRegisters(new TextEncoder().encode(vcpu));
      machine.guest = GuestRuntime.resume(
        { ...machine.#runtimeParts(), content: new PageContent(registers.config.seed) },
        registers,
      );
      machine.actor = machine.guest;
    }
    return machine;
  }

  static #build(options: MachineOptions): { machine: Machine; image: GuestImage; config: GuestConfig } {
    const { trace } = options;
    const image = trace === undefined ? imageOf(options) : traceImage(atomicMapper, trace, 0);
    const layout = new RamLayout(image.blocks);
    const ringSize = options.ringSize ?? 64;
    const config: GuestConfig = {
      dialect: dialectInUse,
      metadataGpa: findMetadataPlace(atomicMapper, image, ringSize),
      ringSize,
      eventIdx: options.eventIdx ?? true,
      reportMode: options.reportMode ?? 'walk',
      minOrder: options.minOrder ?? 0,
      ringDeadlineMs: options.ringDeadlineMs ?? 50,
      workload: trace === undefined ? (options.workload ?? { kind: 'halt' }) : traceWorkload(trace, 0),
      seed: options.seed ?? 1,
      ...(options.requests === undefined ? {} : { requests: options.requests }),
      initOnAlloc: options.initOnAlloc ?? false,
      pagePoison: options.pagePoison,
    };
    const shared = SharedGuestMemory.allocate(layout);
    fillMemory(atomicMapper, shared, image, new PageContent(config.seed), options.freeMemory ?? 'data');
    const memory = options.privateMemory === true ? privateCopy(shared) : shared;
    const machine = new Machine({
      memory,
      clock: options.clock ?? new ManualClock(),
      eventIdx: config.eventIdx,
      firstId: options.firstId,
      deviceMap: options.deviceMap,
      trace,
      dialect: dialectInUse,
      requests: options.requests,
    });
    return { machine, image, config };
  }

  #runtimeParts(): Omit<GuestRuntimeOptions, 'config' | 'content'> {
    const { memory, log, control, traps, oracle, trace } = this;
    return { map: atomicMapper, memory, log, control, port: traps, oracle, trace };
  }

  /** A slice of the guest, unless it is stopped. Milliseconds until it has work. */
  step(): number {
    if (this.paused || this.actor === undefined) {
      return Number.POSITIVE_INFINITY;
    }
    this.beforeStep?.();
    this.#steal();
    const idleMs = this.actor.step(this.clock.now - this.#stolenMs);
    this.history?.look();
    return idleMs / (1 - this.share);
  }

  /** The share of the time that is taken from the guest now. */
  get share(): number {
    return this.throttles.at(-1) ?? 0;
  }

  /** The guest's clock goes slower by its share: pauses in between would only be coarser. */
  #steal(): void {
    this.#stolenMs += (this.clock.now - this.#stolenUntil) * this.share;
    this.#stolenUntil = this.clock.now;
  }

  /** From here on remembers what the driver puts on the free page queue. */
  watchRing(): RingHistory {
    this.history = new RingHistory(this.memory, this.device.registers.queue(VIRTIO_BALLOON_VQ_FREE_PAGE)!);
    this.history.look();
    return this.history;
  }

  /** Lets guest and device go on, without a migration, until neither has anything to do. */
  settle(): void {
    for (let i = 0; i < 10_000; i += 1) {
      const idleMs = this.step();
      const handled = this.migrating ? 0 : this.device.poll(this.clock.now, 64);
      if (idleMs > 0 && handled === 0) {
        return;
      }
      this.clock.now += 0.01;
    }
    throw new Error('the machine does not come to rest');
  }

  /** Lets time pass for guest and device. */
  run(ms: number, tickMs = 1): void {
    for (const end = this.clock.now + ms; this.clock.now < end; this.clock.now += tickMs) {
      this.settle();
    }
  }

  /** Requests that the guest has not acknowledged, or not read. */
  get pending(): number {
    return this.device.registers.pending;
  }

  page(pfn: number): Uint8Array {
    return this.memory.pages(pfn, 1);
  }

  /** Pages that *hold* has taken. */
  get heldPages(): number {
    return this.guest?.held.count() ?? 0;
  }

  get freePages(): number {
    return this.guest?.allocator.freePages ?? 0;
  }

  /** The guest writes a page: what `Ledger.write` does. Version 1 is what used pages hold from the start. */
  write(pfn: number, version: number): void {
    this.guest!.ledger.write(pfn, version);
  }

  /** The guest takes a free page and writes it. Returns its pfn. */
  allocateAndWrite(version: number): number {
    const pfn = this.guest!.allocator.allocate(0);
    this.write(pfn, version);
    return pfn;
  }

  // ── SourceVm ──────────────────────────────────────────────────────────────────────────────────────────────

  migrationBegins(): void {
    this.migrating = true;
  }

  migrationEnds(): void {
    this.migrating = false;
    this.device.showDone();
  }

  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    this.onPayload?.(pfn, pageCount);
    return this.memory.pages(pfn, pageCount);
  }

  drainDirty(sink: DirtySink): boolean {
    return this.log.drainSlice(sink);
  }

  requestPause(): void {
    if (!this.#pauseWanted) {
      this.#stoppedAt = this.clock.now;
    }
    this.#pauseWanted = true;
  }

  get paused(): boolean {
    return this.#pauseWanted && !this.stuck;
  }

  get stoppedAt(): number {
    return this.#stoppedAt;
  }

  resume(): void {
    this.#pauseWanted = false;
    this.resumes += 1;
  }

  throttle(share: number): void {
    this.#steal();
    this.throttles.push(share);
  }

  saveDeviceState(): Uint8Array {
    const inflated: number[] = [];
    const run: PageRun = { pfn: 0, pageCount: 0 };
    for (let from = 0; this.device.inflated.nextRunInto(run, from); from = run.pfn + run.pageCount) {
      inflated.push(run.pfn, run.pageCount);
    }
    const saved: SavedMachine = {
      device: saveGuestDevice(this.device),
      inflated,
      vcpu:
        this.guest === undefined
          ? null
          : new TextDecoder().decode(encodeRegisters(this.guest.saveRegisters())),
    };
    return new TextEncoder().encode(JSON.stringify(saved));
  }
}

function imageOf(options: MachineOptions): GuestImage {
  const blocks = options.blocks ?? [{ startGpa: 0, endGpa: gpaOf(options.pages ?? DEFAULT_PAGES) }];
  const image = emptyImage('by-hand', blocks);
  const { free, zero } = imageBitmaps(atomicMapper, image);
  for (const [pfn, pageCount] of options.free ?? DEFAULT_FREE) {
    free.setRange(pfn, pageCount);
  }
  for (const [pfn, pageCount] of options.zero ?? []) {
    zero.setRange(pfn, pageCount);
  }
  return image;
}

function privateCopy(shared: SharedGuestMemory): PrivateGuestMemory {
  return new PrivateGuestMemory(
    shared.layout,
    shared.segments.map(({ bytes }) => bytes.slice().buffer as ArrayBuffer),
  );
}

// ── drivers that do what a test says ──────────────────────────────────────────────────────────────────────────

/** The driver's end of the free page queue and of the registers, moved by hand. */
export class HandDriver implements Actor {
  readonly queue: DriverQueue;
  readonly metadata: GuestMetadata;
  /** What it does when it is stepped; nothing by default: a silent driver. */
  script: (now: number) => number = () => Number.POSITIVE_INFINITY;
  readonly #machine: Machine;

  constructor(machine: Machine, metadata: GuestMetadata, eventIdx: boolean) {
    this.#machine = machine;
    this.metadata = metadata;
    const { memory, log, traps } = machine;
    memory.pages(metadata.gpa / PAGE_SIZE, metadata.lengthBytes / PAGE_SIZE).fill(0);
    this.queue = new DriverQueue(memory, atomicMapper, log, metadata.freePageQueue, eventIdx);
    traps.setQueue(VIRTIO_BALLOON_VQ_FREE_PAGE, metadata.freePageQueue);
    machine.actor = this;
  }

  step(now: number): number {
    return this.script(now);
  }

  /** Whether the config interrupt was raised since the last call. */
  takeInterrupt(): boolean {
    return (this.#machine.control.words.exchange(INTERRUPTS, 0) & INTERRUPT_CONFIG) !== 0;
  }

  readCommand(): number {
    return this.#machine.traps.readConfig(CMD_REG_OFFSET, ExitFeature.shared);
  }

  acknowledge(bits: number): void {
    this.#machine.traps.writeConfig(CMD_REG_OFFSET, bits, ExitFeature.shared);
  }

  readId(): number {
    const offset = isVirtio() ? VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID : CMD_ID_REG_OFFSET;
    return this.#machine.traps.readConfig(offset, ExitFeature.reporting);
  }

  /** Answers a pending request for a report as it should: acknowledges it and reads its id. 0: nothing was asked. */
  takeStart(): number {
    if (isVirtio()) {
      const id = this.readId();
      return id === VIRTIO_BALLOON_CMD_ID_DONE ? 0 : id;
    }
    const bits = this.readCommand();
    this.acknowledge(bits);
    return (bits & REPORT_START) === 0 ? 0 : this.readId();
  }

  /** Writes a value into `lengthBytes` bytes of the driver's own and puts them on the queue, to be read. */
  marker(value: number, lengthBytes: number = COMMAND_ID_BYTES): void {
    this.#putMarker(value, lengthBytes, false);
  }

  /** The same 4 bytes in the wrong direction: a buffer that the device may write. */
  writableMarker(value: number): void {
    this.#putMarker(value, COMMAND_ID_BYTES, true);
  }

  /** Declares pages free under `id`, truthfully noted for the oracle. */
  declare(id: number, pfn: number, pageCount: number): void {
    this.#machine.oracle.declared(id, pfn, pageCount);
    this.range(gpaOf(pfn), pageCount * PAGE_SIZE);
  }

  /** Puts a range on the queue, unknown to the oracle. */
  range(gpa: number, lengthBytes: number): void {
    this.queue.reclaim();
    if (this.queue.tryAddInbuf(gpa, lengthBytes) === -1) {
      throw new Error('the ring is full: poll the device, or take a larger one');
    }
    this.publish();
  }

  publish(): void {
    this.queue.publish();
    if (this.queue.needsNotification()) {
      this.#machine.traps.kick(VIRTIO_BALLOON_VQ_FREE_PAGE, ExitFeature.reporting);
    }
  }

  /** Writes into RAM and marks it, as a guest's program does. */
  write(pfn: number, byte: number): void {
    this.#machine.oracle.stampWrite(pfn);
    this.#machine.page(pfn).fill(byte);
    this.#machine.log.mark(pfn);
  }

  #putMarker(value: number, lengthBytes: number, writable: boolean): void {
    const { memory, log } = this.#machine;
    this.queue.reclaim();
    const head = this.queue.nextHead;
    if (head === -1) {
      throw new Error('the ring is full: poll the device, or take a larger one');
    }
    const gpa = this.metadata.markersGpa + head * COMMAND_ID_BYTES;
    const { bytes, startGpa } = memory.segmentOf(gpa, COMMAND_ID_BYTES)!;
    new DataView(bytes.buffer, bytes.byteOffset + gpa - startGpa).setUint32(0, value, true);
    log.mark(Math.floor(gpa / PAGE_SIZE));
    if (writable) {
      this.queue.tryAddInbuf(gpa, lengthBytes);
    } else {
      this.queue.tryAddOutbuf(gpa, lengthBytes);
    }
    this.publish();
  }
}

/** A piece of a descriptor chain. */
export interface ChainSegment {
  readonly gpa: number;
  readonly lengthBytes: number;
  readonly writable: boolean;
}

/** Puts an element of several segments on a ring, by writing its words; a {@link DriverQueue} knows nothing of it. */
export function putChain(
  machine: Machine,
  addresses: QueueAddresses,
  segments: readonly ChainSegment[],
): void {
  const views = mapQueue(machine.memory, atomicMapper, addresses);
  if (typeof views === 'string') {
    throw new Error(views);
  }
  const at = views.avail.load(RING_IDX);
  const head = at * 4; // four descriptors for each element
  segments.forEach(({ gpa, lengthBytes, writable }, i) => {
    const index = head + i;
    const last = i + 1 === segments.length;
    const flags = (writable ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT | ((index + 1) << 16));
    views.desc.set([gpa, 0, lengthBytes, flags], index * 4);
  });
  views.availEntries[AVAIL_RING + at] = head;
  views.avail.store(RING_IDX, at + 1);
  machine.log.mark(Math.floor(addresses.descGpa / PAGE_SIZE));
}

/** An entry of an available ring as a naive reader sees it. */
export interface RingEntry {
  readonly direction: 'in' | 'out';
  readonly gpa: number;
  readonly lengthBytes: number;
  /** The le32 that an outbuf begins with; -1 for an inbuf. */
  readonly value: number;
}

/** Remembers everything that a driver puts on a ring; it has to look between a step of the driver and the next. */
export class RingHistory {
  readonly entries: RingEntry[] = [];
  readonly #memory: GuestMemory;
  readonly #addresses: QueueAddresses;
  #index = 0;

  constructor(memory: GuestMemory, addresses: QueueAddresses) {
    this.#memory = memory;
    this.#addresses = addresses;
  }

  look(): void {
    const { descGpa, availGpa, size } = this.#addresses;
    const index = this.#view(availGpa + 2, 2).getUint16(0, true);
    for (; this.#index !== index; this.#index = (this.#index + 1) & 0xffff) {
      const head = this.#view(availGpa + 4 + 2 * (this.#index % size), 2).getUint16(0, true);
      const desc = this.#view(descGpa + head * 16, 16);
      const gpa = desc.getUint32(0, true) + desc.getUint32(4, true) * 2 ** 32;
      const out = (desc.getUint16(12, true) & VIRTQ_DESC_F_WRITE) === 0;
      this.entries.push({
        direction: out ? 'out' : 'in',
        gpa,
        lengthBytes: desc.getUint32(8, true),
        value: out ? this.#view(gpa, 4).getUint32(0, true) : -1,
      });
    }
  }

  /** In short: the values of outbufs, and `range` for each inbuf. */
  get words(): (number | 'range')[] {
    return this.entries.map(({ direction, value }) => (direction === 'out' ? value : 'range'));
  }

  #view(gpa: number, lengthBytes: number): DataView {
    const { bytes, startGpa } = this.#memory.segmentOf(gpa, lengthBytes)!;
    return new DataView(bytes.buffer, bytes.byteOffset + gpa - startGpa, lengthBytes);
  }
}

// ── a migration ───────────────────────────────────────────────────────────────────────────────────────────────

/** What can go wrong at the destination or on the way to it. */
export interface Faults {
  /** Changes, or swallows, what the destination says. */
  readonly reply?: (message: DestinationMessage) => DestinationMessage | undefined;
  /** The guest can't be started there. */
  readonly failToStart?: boolean;
  /** The device state can't be read there. */
  readonly refuseState?: boolean;
}

/** A frame as it was handed to the destination. */
export interface Frame {
  readonly type:
    | 'pages'
    | 'zero'
    | 'fill'
    | 'round-end'
    | 'state'
    | 'finish'
    | 'commit'
    | 'withdraw'
    | 'cancel';
  readonly pfn: number;
  readonly pageCount: number;
  /** On the wire: header and contents. */
  readonly bytes: number;
}

/** Notes frames on their way to a receiver. */
class Tap implements FrameSink {
  readonly frames: Frame[] = [];
  readonly #sink: FrameSink;
  onFrame: ((frame: Frame) => void) | undefined;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  get discarded(): boolean {
    return this.#sink.discarded;
  }

  pageRun(pfn: number, pageCount: number, payload: Uint8Array): void {
    this.#note('pages', pfn, pageCount, payload.length);
    this.#sink.pageRun(pfn, pageCount, payload);
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#note('zero', pfn, pageCount);
    this.#sink.zeroRun(pfn, pageCount);
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#note('fill', pfn, pageCount);
    this.#sink.fillRun(pfn, pageCount, value);
  }

  roundEnd(round: number): void {
    this.#note('round-end');
    this.#sink.roundEnd(round);
  }

  deviceState(state: Uint8Array): void {
    this.#note('state', 0, 0, state.length);
    this.#sink.deviceState(state);
  }

  finish(): void {
    this.#note('finish');
    this.#sink.finish();
  }

  commit(): void {
    this.#note('commit');
    this.#sink.commit();
  }

  withdraw(): void {
    this.#note('withdraw');
    this.#sink.withdraw();
  }

  cancel(): void {
    this.#note('cancel');
    this.#sink.cancel();
  }

  restart(): void {
    this.#sink.restart();
  }

  fail(thrown: unknown): void {
    this.#sink.fail(thrown);
  }

  #note(type: Frame['type'], pfn = 0, pageCount = 0, contents = 0): void {
    const frame = { type, pfn, pageCount, bytes: FRAME_HEADER_BYTES + contents };
    this.onFrame?.(frame);
    this.frames.push(frame);
  }
}

/** The machine that is to receive a guest. */
export class Arrival implements DestinationVm {
  readonly memory: GuestMemory;
  /** Running from the moment it is there. */
  machine: Machine | undefined;
  readonly #clock: ManualClock;
  readonly #trace: GuestTrace | undefined;
  readonly #faults: Faults;
  #saved: SavedMachine | undefined;

  constructor(source: Machine, faults: Faults) {
    const { layout, shared } = source.memory;
    this.memory = shared ? SharedGuestMemory.allocate(layout) : new PrivateGuestMemory(layout);
    this.#clock = source.clock;
    this.#trace = source.trace;
    this.#faults = faults;
  }

  loadDeviceState(state: Uint8Array): void {
    if (this.#faults.refuseState === true) {
      throw new LacunaError('DEVICE_STATE_INVALID', 'the test refuses it');
    }
    this.#saved = JSON.parse(new TextDecoder().decode(state)) as SavedMachine;
  }

  start(): number {
    if (this.#faults.failToStart === true) {
      throw new LacunaError('GUEST_FAILED', 'the test does not start it');
    }
    this.machine = Machine.arrived(this.memory, this.#clock, this.#saved!, this.#trace);
    return this.#clock.now;
  }
}

/** Time that a step of guest and host takes. */
export const TICK_MS = 0.01;
export const MOST_STEPS = 30_000;

/** A migration of a machine, stepped by hand. */
export class TestMigration implements Moved {
  readonly machine: Machine;
  readonly source: PrecopySource;
  readonly receiver: Receiver;
  readonly channel: LoopbackChannel = new LoopbackChannel();
  readonly events: MigrationEvent[] = [];
  readonly tap: Tap;
  readonly #arrival: Arrival;

  constructor(
    machine: Machine,
    options: Partial<MigrationOptions> & Pick<PrecopyOptions, 'fates'> = {},
    faults: Faults = {},
  ) {
    this.machine = machine;
    this.#arrival = new Arrival(machine, faults);
    this.receiver = new Receiver(this.#arrival, (message) => {
      const said = faults.reply === undefined ? message : faults.reply(message);
      if (said !== undefined) {
        this.channel.reply(said);
      }
    });
    this.tap = new Tap(this.receiver);
    this.channel.connect(this.tap);
    this.source = new PrecopySource(machine, this.channel, {
      ...resolveOptions({ downtimeLimitMs: 0.5, bytesPerSecond: 100e6, ...options }),
      clock: machine.clock.read,
      onEvent: (event) => {
        if (event.type === 'session-issued') {
          machine.oracle.sessionIssued(event.id);
        }
        this.events.push(event);
      },
    });
  }

  get frames(): readonly Frame[] {
    return this.tap.frames;
  }

  /** The machine that runs at the destination; undefined until it does. */
  get arrived(): Machine | undefined {
    return this.#arrival.machine;
  }

  /** The machine at the destination, of a migration that has to have completed. */
  get destination(): Machine {
    expect(this.source.error?.message).toBeUndefined();
    expect(this.source.phase).toBe('completed');
    return this.#arrival.machine!;
  }

  /** A step of the host, a slice of the guest, and time goes on to where either has something to do. */
  step(): void {
    const { clock } = this.machine;
    const until = this.source.step();
    const idleMs = this.machine.step();
    const next = Math.min(until === AGAIN ? clock.now : until, clock.now + idleMs);
    if (!this.source.done && next === Number.POSITIVE_INFINITY) {
      throw new Error(`guest and host wait for each other for ever, in phase ${this.source.phase}`);
    }
    clock.now = this.source.done ? clock.now : Math.max(clock.now + TICK_MS, next);
  }

  /** Steps until `condition` holds; it has to. */
  until(condition: () => boolean): this {
    for (let i = 0; i < MOST_STEPS; i += 1) {
      if (condition()) {
        return this;
      }
      if (this.source.done) {
        break;
      }
      this.step();
    }
    throw new Error(
      `it did not come to that: phase ${this.source.phase}, ${this.source.error?.message ?? 'no error'}`,
    );
  }

  /** Until it is over, however it ends; every round's pages have to add up. */
  run(): this {
    this.until(() => this.source.done);
    expectBalanced(this.source);
    return this;
  }

  /** Calls it off, and lets the source act on it. */
  cancel(): void {
    this.source.cancel();
    if (!this.source.done) {
      this.source.step();
    }
  }

  /** How often an event has happened. */
  count(type: MigrationEvent['type']): number {
    return this.events.filter((event) => event.type === type).length;
  }

  /** Whether page `pfn` was sent with contents, from frame `since` on. */
  wasSent(pfn: number, since = 0): boolean {
    return this.frames
      .slice(since)
      .some((frame) => frame.type === 'pages' && pfn >= frame.pfn && pfn < frame.pfn + frame.pageCount);
  }
}

/** A guest on its way: where it was, who moves it, and where it is. */
export interface Moved {
  readonly machine: Machine;
  readonly source: PrecopySource;
  /** The machine at the destination; undefined while it does not run there. */
  readonly arrived: Machine | undefined;
  /** The same, of a migration that has to have completed. */
  readonly destination: Machine;
}

/** Migrates to the end and checks that the same guest runs there. */
export function migrated(machine: Machine, options: Partial<MigrationOptions> = {}): TestMigration {
  const migration = new TestMigration(machine, options).run();
  expectSameGuest(migration);
  return migration;
}

/** DESIGN § 8: every page of every round went exactly one way. */
export function expectBalanced(source: PrecopySource): void {
  for (const record of source.rounds) {
    const { pending, sent, zero, filled, skipped, carried, cancelled } = record;
    expect(
      { round: record.round, pages: sent + zero + filled + skipped + carried + cancelled },
      'the pages of a round add up',
    ).toEqual({ round: record.round, pages: pending });
    expect(Math.min(sent, zero, filled, skipped, carried, cancelled)).toBeGreaterThanOrEqual(0);
  }
}

export interface SameGuestOptions {
  /** Pages about which the driver lied: its own loss. */
  readonly except?: (pfn: number) => boolean;
}

/**
 * I7, judged before the guest has taken its first step at the destination: each page is as it was at the source,
 * or was declared free since its last write and reads as zeroes (as poison and nothing else where that was negotiated).
 * Returns how many were left behind.
 */
export function expectSameGuest(migration: Moved, options: SameGuestOptions = {}): number {
  const { machine, destination, source } = migration;
  expectBalanced(source);
  let leftBehind = 0;
  const wrong: { pfn: number; mayDiffer: boolean; asFree: boolean }[] = [];
  const poison = machine.device.poison ?? 0;
  for (const segment of machine.memory.layout.segments) {
    for (let pfn = segment.firstPfn; pfn < segment.firstPfn + segment.pageCount; pfn += 1) {
      if (options.except?.(pfn) === true || Buffer.compare(machine.page(pfn), destination.page(pfn)) === 0) {
        continue;
      }
      leftBehind += 1;
      const mayDiffer = machine.oracle.mayDiffer(pfn);
      const asFree = readsAs(destination.page(pfn), poison);
      if (!mayDiffer || !asFree) {
        wrong.push({ pfn, mayDiffer, asFree });
      }
    }
  }
  expect(wrong, 'pages that are not what they were').toEqual([]);
  expectHealthy(destination);
  return leftBehind;
}

/** Whether all of a page (or of more) is a le32, over and over. */
export function readsAs(bytes: Uint8Array, word: number): boolean {
  return Buffer.compare(bytes, new Uint8Array(new Uint32Array(bytes.length / 4).fill(word).buffer)) === 0;
}

/** Takes hints, and remembers their pages. */
export class Collector implements HintSink {
  readonly pages: number[] = [];

  hint(gpa: number, lengthBytes: number): boolean {
    for (let at = 0; at < lengthBytes; at += PAGE_SIZE) {
      this.pages.push((gpa + at) / PAGE_SIZE);
    }
    return true;
  }
}

/** Free memory in 224 runs of 4 pages, of 2048: a report of it fills a small ring many times. */
export const FRAGMENTED: readonly Pages[] = Array.from({ length: 224 }, (_, i) => [256 + i * 8, 4] as const);
export const FRAGMENTED_GUEST = { pages: 2048, free: FRAGMENTED, ringSize: 16 } as const;

/** Every page that the guest uses holds what it must, and its allocator is consistent. */
export function expectHealthy(machine: Machine): void {
  if (machine.guest !== undefined) {
    const { badPages, badPfn } = machine.guest.selfCheck();
    expect({ badPages, badPfn }).toEqual({ badPages: 0, badPfn: -1 });
  }
}

/** I8: the guest runs at the source, is whole, and has all of its memory back. */
export function expectGuestKept(migration: Moved, freePages: number): void {
  const { machine } = migration;
  expect(migration.arrived, 'the guest runs at the destination').toBeUndefined();
  expect(machine.paused).toBe(false);
  expect(machine.migrating).toBe(false);
  machine.settle();
  expect({ held: machine.heldPages, free: machine.freePages }).toEqual({ held: 0, free: freePages });
  expect(machine.pending & (REPORT_START | REPORT_STOP)).toBe(0);
  expectHealthy(machine);
  for (const pages of machine.guest === undefined ? [] : [3, 0]) {
    machine.device.setBalloonTarget(pages); // and its device is at its service
    machine.settle();
    expect(machine.device.registers.actual).toBe(pages);
  }
}

// ── the driver and the device alone, an exit a step ───────────────────────────────────────────────────────────

/** Notes every exit in words. */
export class NotingPort implements DevicePort {
  readonly exits: string[] = [];
  readonly #port: DevicePort;

  constructor(port: DevicePort) {
    this.#port = port;
  }

  readConfig(offset: number, feature: ExitFeatureValue): number {
    const value = this.#port.readConfig(offset, feature);
    this.exits.push(`read ${registerName(offset)} = ${value}`);
    return value;
  }

  writeConfig(offset: number, value: number, feature: ExitFeatureValue): void {
    this.exits.push(`write ${registerName(offset)} = ${value}`);
    this.#port.writeConfig(offset, value, feature);
  }

  kick(queue: number, feature: ExitFeatureValue): void {
    this.exits.push(`kick ${queue}`);
    this.#port.kick(queue, feature);
  }

  setQueue(queue: number, addresses: QueueAddresses): void {
    this.#port.setQueue(queue, addresses);
  }

  driverOk(features: number): void {
    this.#port.driverOk(features);
  }
}

const REGISTER_NAMES: Record<Dialect, readonly string[]> = {
  'command-register': ['cmd_reg', 'cmd_id_reg', 'num_pages', 'actual'],
  virtio: ['num_pages', 'actual', 'free_page_hint_cmd_id', 'poison_val'],
};

function registerName(offset: number): string {
  return REGISTER_NAMES[dialectInUse][offset / 4] ?? `register ${offset}`;
}

/** Free ranges by the number: a page each, none of them twice, so that a page tells which report declared it. */
export class CountedRanges implements FreeRangeSource {
  position = 0;
  waitsForRing = true;
  /** Ranges of each report. */
  rangesPerReport: number;
  begun = 0;
  releases = 0;
  droppedPages = 0;
  #next: number;
  #left = 0;

  constructor(firstPfn: number, rangesPerReport: number) {
    this.#next = firstPfn;
    this.rangesPerReport = rangesPerReport;
  }

  begin(): void {
    this.begun += 1;
    this.#left = this.rangesPerReport;
  }

  nextInto(out: PageRun): boolean {
    if (this.#left === 0) {
      out.pageCount = 0;
      return false;
    }
    this.#left -= 1;
    out.pfn = this.#next;
    out.pageCount = 1;
    this.#next += 1;
    return true;
  }

  dropped(range: PageRun): void {
    this.droppedPages += range.pageCount;
  }

  finish(): void {}

  release(): void {
    this.releases += 1;
  }
}

export interface RigOptions {
  readonly ringSize?: number;
  readonly rangesPerReport?: number;
  readonly rangesPerStep?: number;
  readonly ringDeadlineMs?: number;
  readonly firstId?: number;
  readonly pages?: number;
  /** Beside the mail's own. */
  readonly features?: readonly CommandFeature[];
  /** Of the control buffer, for who wants to watch it. */
  readonly map?: WordMapper;
}

/** The first page that a rig's driver reports. */
export const RIG_FIRST_PFN = 8;

/** CommandDriver, ReportDriver and BalloonDevice over a few pages of RAM. */
export class DriverRig {
  readonly memory: PrivateGuestMemory;
  readonly control: ControlBuffer;
  readonly device: GuestDevice;
  readonly port: NotingPort;
  readonly command: RequestDriver;
  readonly report: ReportDriver;
  readonly queue: DriverQueue;
  readonly ranges: CountedRanges;
  readonly addresses: QueueAddresses;
  /** Balloon targets that the driver was given. */
  readonly targets: number[] = [];
  /** Under which id each page was declared. */
  readonly declaredUnder: Map<number, number> = new Map();
  /** Hints that the host applied: the page, and the session's id at that moment. */
  readonly applied: { pfn: number; sessionId: number }[] = [];
  now = 0;
  readonly #history: RingHistory;

  constructor(options: RigOptions = {}) {
    const layout = new RamLayout([{ startGpa: 0, endGpa: gpaOf(options.pages ?? 64) }]);
    this.memory = new PrivateGuestMemory(layout);
    const map = options.map ?? atomicMapper;
    this.control = new ControlBuffer(map, new ArrayBuffer(CONTROL_BYTES), new EventWord(atomicMapper));
    const log = mapDirtyLog(atomicMapper, new ArrayBuffer(bitmapWords(layout.pfnSpan) * 4), layout.pfnSpan);
    this.device = makeGuestDevice({
      memory: this.memory,
      map: atomicMapper,
      control: this.control,
      log,
      inflated: PageBitmap.allocate(atomicMapper, layout.pfnSpan),
      eventIdx: false,
      dialect: dialectInUse,
      ...(options.firstId === undefined ? {} : { firstId: options.firstId }),
    });
    this.port = new NotingPort(trapsOf(this.control, dialectInUse));
    this.addresses = packQueue(PAGE_SIZE, options.ringSize ?? 8);
    this.queue = new DriverQueue(this.memory, atomicMapper, log, this.addresses, false);
    this.queue.disableInterrupts();
    this.#history = new RingHistory(this.memory, this.addresses);
    this.port.setQueue(VIRTIO_BALLOON_VQ_FREE_PAGE, this.addresses);
    this.ranges = new CountedRanges(RIG_FIRST_PFN, options.rangesPerReport ?? 2);
    this.report = new ReportDriver({
      port: this.port,
      queue: this.queue,
      memory: this.memory,
      markersGpa: 4 * PAGE_SIZE,
      wrote: (gpa) => log.mark(Math.floor(gpa / PAGE_SIZE)),
      source: this.ranges,
      ringDeadlineMs: options.ringDeadlineMs ?? 10,
      rangesPerStep: options.rangesPerStep ?? 1,
      holdsUntilDone: isVirtio(),
      observer: { declared: (id, pfn) => this.declaredUnder.set(pfn, id) },
    });
    const balloon = { setTarget: (pages: number) => this.targets.push(pages) };
    this.command = isVirtio()
      ? new PollingDriver(this.port, virtioConfig(this.report, balloon))
      : new CommandDriver(this.port, [...mailFeatures(this.report, balloon), ...(options.features ?? [])]);
  }

  /** Where hints go. */
  readonly sink: HintSink = {
    hint: (gpa) => {
      this.applied.push({ pfn: gpa / PAGE_SIZE, sessionId: this.device.session.id });
      return true;
    },
  };

  get open(): boolean {
    return this.device.session.state !== HintState.closed;
  }

  get pending(): number {
    return this.device.registers.pending;
  }

  openSession(): number {
    return this.device.openSession(this.sink, this.now);
  }

  closeSession(): void {
    this.device.closeSession(this.now);
  }

  poll(limit = 64): number {
    return this.device.poll(this.now, limit);
  }

  /** One exit or one piece of work of the guest; false: it has none. */
  guestStep(): boolean {
    this.takeInterrupts();
    if (this.command.busy) {
      this.command.step();
      return true;
    }
    const step = this.report.step(this.now);
    this.#history.look();
    return step === ReportStep.working;
  }

  /** What the vCPU does first at a safe point. */
  takeInterrupts(): void {
    if ((this.control.words.exchange(INTERRUPTS, 0) & INTERRUPT_CONFIG) !== 0) {
      this.command.interrupt();
    }
  }

  /** The guest alone, until it has nothing to do. */
  guestRuns(): void {
    for (let i = 0; i < 1000; i += 1) {
      if (!this.guestStep()) {
        return;
      }
    }
    throw new Error('the guest does not come to rest');
  }

  /** Guest and host, until neither has anything to do. */
  settle(): void {
    for (let i = 0; i < 1000; i += 1) {
      const worked = this.guestStep();
      if (this.poll() === 0 && !worked) {
        return;
      }
    }
    throw new Error('guest and host do not come to rest');
  }

  /** What the driver has put on the ring so far: values of outbufs, `range` for inbufs. */
  ring(): (number | 'range')[] {
    return this.#history.words;
  }

  /** The host sets bits as it never does by itself, and interrupts. In VIRTIO's dialect there are none but the interrupt. */
  forceRequest(bits: number): void {
    if (!isVirtio()) {
      this.control.words.or(CMD_REG, bits);
    }
    this.control.interrupt(INTERRUPT_CONFIG);
  }
}
