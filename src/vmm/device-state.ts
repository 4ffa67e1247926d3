import { z } from 'zod';
import type { BalloonDriverState } from '../balloon/balloon-driver.js';
import type { CommandDriverState } from '../balloon/command-driver.js';
import { DIALECTS } from '../balloon/dialect.js';
import type { GuestDeviceState } from '../balloon/guest-device.js';
import type { PollingDriverState } from '../balloon/polling-driver.js';
import type { RegisterState } from '../balloon/registers.js';
import { type ReportDriverState, ReportPhase } from '../balloon/report-driver.js';
import type { RequestDriverState } from '../balloon/request-driver.js';
import { REQUEST_DESIGNS, type RequestInterface } from '../balloon/request-interface.js';
import { VIRTIO_OFFERED_FEATURES } from '../balloon/virtio-registers.js';
import { LacunaError, messageOf } from '../errors.js';
import { MAX_ORDER } from '../guest/buddy-allocator.js';
import type { PoisonFailures } from '../guest/initialising-allocator.js';
import { layOutMetadata, WORKLOAD_SLOTS } from '../guest/metadata.js';
import { type GuestConfig, REPORT_MODES, type VcpuRegisters } from '../guest/runtime.js';
import type { GuestTrace } from '../guest/trace.js';
import { TraceChange, type TracePosition } from '../guest/trace-player.js';
import { namedTrace, type ReplayState } from '../guest/trace-replay.js';
import { encodeRegisters, REGISTERS_VERSION } from '../guest/vcpu.js';
import type { WorkloadSpec, WorkloadState } from '../guest/workload.js';
import { ControlBuffer, QUEUE_COUNT } from '../memory/control-buffer.js';
import { MIB, PAGE_SIZE, pfnOf } from '../memory/page.js';
import { RamLayout } from '../memory/ram-layout.js';
import {
  BALLOONING,
  FIRST_COMMAND_ID,
  futureBit,
  LAST_COMMAND_ID,
  MOST_FUTURE_FEATURES,
  REPORT_START,
  REPORT_STOP,
} from '../spec/command-register.js';
import { VIRTIO_BALLOON_ARRAY_PFNS_MAX, VIRTIO_BALLOON_F_PAGE_POISON } from '../spec/virtio-balloon.js';
import { VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET } from '../spec/virtio-ring.js';
import type { DeviceQueueState } from '../virtqueue/device-queue.js';
import type { DriverQueueState } from '../virtqueue/driver-queue.js';
import { isQueueSize, type QueueAddresses } from '../virtqueue/layout.js';

/** Of {@link SavedState}. */
export const STATE_VERSION = 2;

/** Bytes that a device state has at the most. A built-in guest's has some thousand, and more with a balloon in shreds. */
export const LONGEST_DEVICE_STATE: number = 4 * MIB;

/** Device state on its way, as JSON: everything of the guest but its RAM. */
export interface SavedState {
  readonly version: number;
  readonly device: GuestDeviceState;
  /** Runs of pages in the balloon: pfn, count, pfn, count, … */
  readonly inflated: readonly number[];
  /** The vCPU's registers, as `encodeRegisters` makes them. */
  readonly vcpu: string;
}

/** Of the machine that a guest arrives in: what its state has to fit. */
export interface ArrivalPlace {
  readonly layout: RamLayout;
  readonly trace: GuestTrace | undefined;
}

/*
 * A device state comes from a peer, and a peer is not trusted. What is wrong with it is found here, before *ready* is
 * said, so that the guest stays where it was (I8).
 *
 * What the schemas and the checks below do not look at is what a guest may have brought about by itself: where its
 * queues lie, what is in its RAM. Devices do not believe that wherever they are (I6), and a guest that arrives with a
 * queue in no RAM is one that had it there.
 *
 * Each schema is held to its interface by `exactly`: a field that is in one of them and not in the other, or of another
 * type there, does not compile.
 */

/** Without `readonly`, which schemas have nothing to say about. */
type Mutable<T> = T extends readonly (infer Element)[]
  ? Mutable<Element>[]
  : T extends object
    ? { -readonly [Key in keyof T]: Mutable<T[Key]> }
    : T;
/** True if the two are one type. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

function exactly<T>(): <S extends z.ZodType>(
  schema: S & (Same<Mutable<z.infer<S>>, Mutable<T>> extends true ? unknown : never),
) => z.ZodType<T> {
  return (schema) => schema as unknown as z.ZodType<T>;
}

const count = z.int().nonnegative();
const word = z.uint32();
const halfWord = z.int().nonnegative().max(0xffff);
const rate = z.number().nonnegative();
/** Bits of a register, none of which is outside `mask`. */
function bitsOf(mask: number): z.ZodType<number> {
  return z.int32().refine((bits) => (bits & ~mask) === 0, 'has bits that mean nothing');
}

/** Of a field, by its path, what is wrong with it. */
function defect(field: string, what: string): LacunaError {
  return new LacunaError(
    'DEVICE_STATE_INVALID',
    `the device state can't be used: ${shortened(`${field} ${what}`)}`,
  );
}

/** Fit for a message: a peer may call a field by a name of a megabyte. */
function shortened(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

// ── the device ────────────────────────────────────────────────────────────────────────────────────────────────

const MAIL_BITS = REPORT_START | REPORT_STOP | BALLOONING;
const FUTURE_BITS = Array.from({ length: MOST_FUTURE_FEATURES }, (_, k) => futureBit(k));
const REQUEST_BITS = FUTURE_BITS.reduce((bits, bit) => bits | bit, MAIL_BITS);

const requests = exactly<RequestInterface>()(
  z.strictObject({
    design: z.enum(REQUEST_DESIGNS),
    ballooning: z.boolean(),
    reporting: z.boolean(),
    futureFeatures: count.max(MOST_FUTURE_FEATURES),
  }),
);

/** As the guest's driver has given them; `mapQueue` looks at them whenever they are used. */
const queueAddresses = exactly<QueueAddresses>()(
  z.strictObject({ size: z.int32(), descGpa: count, availGpa: count, usedGpa: count }),
);

const registerState = exactly<RegisterState>()(
  z.strictObject({
    dialect: z.enum(DIALECTS),
    cmdReg: bitsOf(REQUEST_BITS),
    cmdId: word,
    numPages: word,
    actual: word,
    status: bitsOf(VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET),
    features: bitsOf(VIRTIO_OFFERED_FEATURES),
    poisonVal: word,
    queues: z.array(queueAddresses.nullable()).length(QUEUE_COUNT),
    offered: z.exactOptional(
      z.strictObject({ requests, futureRegisters: z.array(word).length(MOST_FUTURE_FEATURES) }),
    ),
  }),
);

const deviceQueueState = exactly<DeviceQueueState>()(
  z.strictObject({ lastAvailIdx: halfWord, usedIdx: halfWord }),
);

const guestDeviceState = exactly<GuestDeviceState>()(
  z.strictObject({
    registers: registerState,
    queues: z.array(deviceQueueState.nullable()).length(QUEUE_COUNT),
    nextId: z.int().min(FIRST_COMMAND_ID).max(LAST_COMMAND_ID),
    eventIdx: z.boolean(),
    owesDone: z.boolean(),
  }),
);

const savedState = exactly<SavedState>()(
  z.strictObject({
    version: z.literal(STATE_VERSION as number),
    device: guestDeviceState,
    // Its elements are looked at in `checkInflated`: there may be hundreds of thousands, and the guest stands still.
    inflated: z.custom<readonly number[]>(Array.isArray, 'is no array'),
    vcpu: z.string().max(ControlBuffer.MAX_STATE_BYTES),
  }),
);

// ── the vCPU ──────────────────────────────────────────────────────────────────────────────────────────────────

const halt = z.strictObject({ kind: z.literal('halt') });
const idle = z.strictObject({ kind: z.literal('idle'), pagesPerSecond: rate });
const dirty = z.strictObject({ kind: z.literal('dirty'), bytesPerSecond: rate, workingSetBytes: rate });
const churn = z.strictObject({ kind: z.literal('churn'), pagesPerSecond: rate, keepBlocks: count });
const pressure = z.strictObject({ kind: z.literal('pressure'), pagesPerSecond: rate });
const replay = z.strictObject({
  kind: z.literal('trace'),
  name: z.string(),
  atMs: rate,
  speed: z.number().positive(),
  pagesPerSecond: rate,
});

const workloadSpec = exactly<WorkloadSpec>()(
  z.discriminatedUnion('kind', [halt, idle, dirty, churn, pressure, replay]),
);

const guestConfig = exactly<GuestConfig>()(
  z.strictObject({
    dialect: z.enum(DIALECTS),
    metadataGpa: count.multipleOf(PAGE_SIZE),
    ringSize: z.int().refine(isQueueSize, 'is no size of a queue'),
    eventIdx: z.boolean(),
    reportMode: z.enum(REPORT_MODES),
    minOrder: count.max(MAX_ORDER),
    ringDeadlineMs: rate,
    workload: workloadSpec,
    seed: z.number(),
    requests: z.exactOptional(requests),
    initOnAlloc: z.boolean(),
    pagePoison: word.optional(),
  }),
);

const commandDriverState = exactly<CommandDriverState>()(
  z.strictObject({
    phase: z.enum(['idle', 'read', 'acknowledge', 'parameters']),
    bits: bitsOf(REQUEST_BITS),
  }),
);

const pollingDriverState = exactly<PollingDriverState>()(
  z.strictObject({
    next: count,
    reading: z.boolean(),
    interrupted: z.boolean(),
    last: z.array(word).max(MOST_FUTURE_FEATURES + 2),
  }),
);

const requestDriverState = exactly<RequestDriverState>()(
  z.union([
    commandDriverState,
    pollingDriverState,
    z.strictObject({ register: commandDriverState, polling: pollingDriverState }),
  ]),
);

const reportDriverState = exactly<ReportDriverState>()(
  z.strictObject({
    phase: count.max(ReportPhase.stopSign),
    id: word,
    lastId: word,
    pendingId: word,
    position: count,
    rangePfn: count,
    rangePages: count,
  }),
);

const balloonDriverState = exactly<BalloonDriverState>()(
  z.strictObject({
    phase: count.max(2),
    target: word,
    chunkPages: count.max(VIRTIO_BALLOON_ARRAY_PFNS_MAX),
    settled: z.boolean(),
  }),
);

const driverQueueState = exactly<DriverQueueState>()(
  z.strictObject({
    freeHead: halfWord,
    freeTail: halfWord,
    freeCount: count,
    availIdx: halfWord,
    publishedIdx: halfWord,
    lastUsedIdx: halfWord,
  }),
);

/** Half of the slots are for blocks, half for the working set. */
const MOST_SLOTS = WORKLOAD_SLOTS / 2;
const workloadState = exactly<WorkloadState>()(
  z.strictObject({
    random: word,
    version: word,
    head: count.max(MOST_SLOTS - 1),
    count: count.max(MOST_SLOTS),
    runs: count.max(MOST_SLOTS),
    cursorRun: count.max(MOST_SLOTS - 1),
    cursorPage: word,
    filling: z.boolean(),
  }),
);

const tracePosition = exactly<TracePosition>()(
  z.strictObject({
    sample: count,
    sinceMs: rate,
    done: count,
    change: z.literal(Object.values(TraceChange)),
    fromPfn: count,
  }),
);

const replayState = exactly<ReplayState>()(
  z.strictObject({ position: tracePosition, version: word, skipped: count }),
);

const poisonFailures = exactly<PoisonFailures>()(z.strictObject({ pages: count, firstPfn: z.int().min(-1) }));

const vcpuRegisters = exactly<VcpuRegisters>()(
  z.strictObject({
    config: guestConfig,
    command: requestDriverState,
    report: reportDriverState,
    balloon: balloonDriverState,
    queues: z.array(driverQueueState).min(3).max(4),
    workload: z.union([workloadState, replayState]),
    blocksByOrder: z.array(count).length(MAX_ORDER + 1),
    balloonedPages: count,
    poisonFailures: poisonFailures.optional(),
  }),
);

const vcpuState = z.strictObject({ version: z.literal(REGISTERS_VERSION), registers: vcpuRegisters });

// ── all of it ─────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Reads a device state that may be anybody's. What it returns is what was looked at and nothing else: the vCPU's
 * registers are encoded anew. Throws DEVICE_STATE_INVALID, in words that name the field.
 */
export function parseDeviceState(bytes: Uint8Array, place: ArrivalPlace): SavedState {
  if (bytes.length > LONGEST_DEVICE_STATE) {
    throw defect('it', `has ${bytes.length} bytes, and ${LONGEST_DEVICE_STATE} is the most`);
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw defect('it', 'is no text');
  }
  const state = parsed(savedState, '', text);
  const { registers } = parsed(vcpuState, 'vcpu', state.vcpu);
  const { layout } = place;
  checkInflated(state.inflated, layout);
  checkConfig(registers.config, state.device, place);
  checkRequestDriver(registers);
  checkGuest(registers, place);
  return { ...state, vcpu: new TextDecoder().decode(encodeRegisters(registers)) };
}

/**
 * A guest stands still while its state is looked at, mostly once in the life of a thread: to compile the schemas first
 * takes 7 ms more, and what they then save is less than a tenth of a millisecond.
 */
const INTERPRETED = { jitless: true };

function parsed<S extends z.ZodType>(schema: S, field: string, text: string): z.infer<S> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (thrown) {
    throw defect(field === '' ? 'it' : field, `is no JSON: ${messageOf(thrown)}`);
  }
  const result = schema.safeParse(value, INTERPRETED);
  if (!result.success) {
    const { path, message } = result.error.issues[0]!;
    const at = path.reduce<string>(
      (outer, key) =>
        typeof key === 'number' ? `${outer}[${key}]` : `${outer}${outer === '' ? '' : '.'}${String(key)}`,
      field,
    );
    throw defect(at === '' ? 'it' : at, message);
  }
  return result.data;
}

/** Whether all pages of a run are RAM; one of no pages is not. */
function isRam(layout: RamLayout, pfn: number, pageCount: number): boolean {
  const end = pfn + pageCount;
  let at = pfn;
  while (at < end) {
    const segment = layout.segmentOfPfn(at);
    if (segment === undefined) {
      return false;
    }
    at = segment.firstPfn + segment.pageCount;
  }
  return pageCount > 0;
}

function checkInflated(inflated: readonly unknown[], layout: RamLayout): void {
  if (inflated.length % 2 !== 0) {
    throw defect('inflated', 'ends in a run without a length');
  }
  let end = 0;
  for (let i = 0; i < inflated.length; i += 2) {
    const pfn = pageNumber(inflated, i);
    const pageCount = pageNumber(inflated, i + 1);
    if (pfn < end) {
      throw defect(`inflated[${i}]`, `is page ${pfn}, and the run before goes on to page ${end - 1}`);
    }
    if (!isRam(layout, pfn, pageCount)) {
      throw defect(`inflated[${i + 1}]`, `is of pages that are not RAM: ${pageCount} from ${pfn}`);
    }
    end = pfn + pageCount;
  }
}

function pageNumber(inflated: readonly unknown[], i: number): number {
  const value = inflated[i];
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw defect(`inflated[${i}]`, 'is no number of pages');
  }
  return value;
}

const CONFIG = 'vcpu.registers.config';
/** Of the mail's dialect. */
const MAIL_FEATURES = 1 << VIRTIO_BALLOON_F_PAGE_POISON;

/** What the guest is, against its device and the machine that it arrives in. */
function checkConfig(config: GuestConfig, device: GuestDeviceState, { layout, trace }: ArrivalPlace): void {
  const { metadataGpa, ringSize, workload } = config;
  const { pfnSpan } = layout;
  const { lengthBytes } = layOutMetadata(metadataGpa, { pfnSpan, ringSize });
  const segment = layout.segmentOfPfn(pfnOf(metadataGpa));
  if (segment === undefined || metadataGpa + lengthBytes > segment.endGpa) {
    throw defect(
      `${CONFIG}.metadataGpa`,
      `is ${metadataGpa}, where ${lengthBytes} bytes of tables are not in RAM`,
    );
  }
  if (config.eventIdx !== device.eventIdx) {
    throw defect(`${CONFIG}.eventIdx`, "is not the device's");
  }
  const { registers } = device;
  if (config.dialect !== registers.dialect) {
    throw defect(`${CONFIG}.dialect`, "is not the device's");
  }
  if (config.dialect === 'virtio' && (config.requests !== undefined || registers.cmdReg !== 0)) {
    throw defect('device.registers', 'are of the mail, and the dialect is virtio');
  }
  if (config.dialect !== 'virtio' && (registers.features & ~MAIL_FEATURES) !== 0) {
    throw defect('device.registers.features', "are VIRTIO's, and the dialect is another");
  }
  if (!sameRequests(config.requests, device.registers.offered?.requests)) {
    throw defect(`${CONFIG}.requests`, "is not what the device's registers offer");
  }
  if (workload.kind === 'trace') {
    try {
      namedTrace(workload, trace);
    } catch (thrown) {
      throw defect(`${CONFIG}.workload.name`, `is of no trace that is here: ${messageOf(thrown)}`);
    }
  }
}

function sameRequests(a: RequestInterface | undefined, b: RequestInterface | undefined): boolean {
  return (
    a?.design === b?.design &&
    a?.ballooning === b?.ballooning &&
    a?.reporting === b?.reporting &&
    a?.futureFeatures === b?.futureFeatures
  );
}

const COMMAND = 'vcpu.registers.command';

/** The driver of requests is of the design that the guest was built with, and has no more to serve than it can. */
function checkRequestDriver({ config, command }: VcpuRegisters): void {
  if (config.dialect === 'virtio') {
    if (!('next' in command)) {
      throw defect(COMMAND, 'is not the state of a driver for virtio');
    }
    checkPollingDriver(COMMAND, command, VIRTIO_CONFIG_READS);
    return;
  }
  const { design, ballooning, reporting, futureFeatures } = config.requests ?? MAIL_REQUESTS;
  const registerAndPolling = design === 'register-and-polling';
  const futureBits = FUTURE_BITS.slice(0, futureFeatures).reduce((bits, bit) => bits | bit, 0);
  const balloonBit = ballooning ? BALLOONING : 0;
  const handled = registerAndPolling
    ? balloonBit
    : balloonBit | (reporting ? REPORT_START | REPORT_STOP : 0) | futureBits;
  const polled = futureFeatures + Number(reporting) + (registerAndPolling ? 0 : Number(ballooning));
  if (registerAndPolling && 'register' in command) {
    checkCommandDriver(`${COMMAND}.register`, command.register, handled);
    checkPollingDriver(`${COMMAND}.polling`, command.polling, polled);
  } else if (design === 'polling' && 'next' in command) {
    checkPollingDriver(COMMAND, command, polled);
  } else if (!registerAndPolling && design !== 'polling' && 'bits' in command) {
    checkCommandDriver(COMMAND, command, handled);
  } else {
    throw defect(COMMAND, `is not the state of a driver for ${design}`);
  }
}

/** The id and the balloon's target: what VIRTIO's driver reads at a config interrupt. */
const VIRTIO_CONFIG_READS = 2;

/** What a guest without any of its own has. */
const MAIL_REQUESTS: RequestInterface = {
  design: 'command-register',
  ballooning: true,
  reporting: true,
  futureFeatures: 0,
};

/** A bit that nobody serves would keep the driver at it for ever. */
function checkCommandDriver(field: string, { bits }: CommandDriverState, handled: number): void {
  if ((bits & ~handled) !== 0) {
    throw defect(`${field}.bits`, 'has requests that the driver does not serve');
  }
}

function checkPollingDriver(field: string, { next, last }: PollingDriverState, registers: number): void {
  if (last.length !== registers) {
    throw defect(`${field}.last`, `is of ${last.length} registers, of which there are ${registers}`);
  }
  if (next >= Math.max(1, registers)) {
    throw defect(`${field}.next`, `is ${next}, of ${registers} registers`);
  }
}

/** The rest of what the guest says of itself, against its RAM. */
function checkGuest(registers: VcpuRegisters, { layout, trace }: ArrivalPlace): void {
  const { config, queues, report, blocksByOrder, balloonedPages, workload } = registers;
  const metadata = layOutMetadata(config.metadataGpa, { pfnSpan: layout.pfnSpan, ringSize: config.ringSize });
  const { freePageQueue, inflateQueue, deflateQueue, statisticsQueue } = metadata;
  const driven = [freePageQueue, inflateQueue, deflateQueue];
  if (config.dialect === 'virtio') {
    driven.push(statisticsQueue);
  }
  if (queues.length !== driven.length) {
    throw defect('vcpu.registers.queues', `are ${queues.length}, and ${config.dialect} has ${driven.length}`);
  }
  driven.forEach(({ size }, i) => {
    const { freeCount } = queues[i]!;
    if (freeCount > size) {
      throw defect(`vcpu.registers.queues[${i}].freeCount`, `is ${freeCount}, of ${size} descriptors`);
    }
  });
  if (report.position > layout.pfnSpan) {
    throw defect('vcpu.registers.report.position', `is page ${report.position} of ${layout.pfnSpan}`);
  }
  if (report.rangePages > 0 && !isRam(layout, report.rangePfn, report.rangePages)) {
    throw defect('vcpu.registers.report.rangePages', 'is of pages that are not RAM');
  }
  const freePages = blocksByOrder.reduce((pages, blocks, order) => pages + blocks * 2 ** order, 0);
  if (freePages > layout.pageCount) {
    throw defect('vcpu.registers.blocksByOrder', `comes to ${freePages} pages, of ${layout.pageCount}`);
  }
  if (balloonedPages > layout.pageCount) {
    throw defect('vcpu.registers.balloonedPages', `is ${balloonedPages}, of ${layout.pageCount} pages`);
  }
  checkWorkload(config.workload, workload, trace);
}

const WORKLOAD = 'vcpu.registers.workload';

function checkWorkload(
  { kind }: WorkloadSpec,
  state: WorkloadState | ReplayState,
  trace: GuestTrace | undefined,
): void {
  if ((kind === 'trace') !== 'position' in state) {
    throw defect(WORKLOAD, `is not the state of ${kind}`);
  }
  const samples = trace?.timesMs.length ?? 0;
  if ('position' in state && state.position.sample >= samples) {
    throw defect(`${WORKLOAD}.position.sample`, `is ${state.position.sample}, of ${samples}`);
  }
  // What has a working set goes round in it.
  if ((kind === 'idle' || kind === 'dirty') && 'runs' in state && state.cursorRun >= state.runs) {
    throw defect(`${WORKLOAD}.cursorRun`, `is ${state.cursorRun}, of ${state.runs} runs`);
  }
}

/** Looks at a state of no guest, so that the code that does so is loaded and compiled before a guest waits for it. */
export function prepareDeviceState(): void {
  const layout = new RamLayout([{ startGpa: 0, endGpa: 64 * MIB }]);
  const queue = { freeHead: 0, freeTail: 7, freeCount: 8, availIdx: 0, publishedIdx: 0, lastUsedIdx: 0 };
  const registers: VcpuRegisters = {
    config: {
      dialect: 'command-register',
      metadataGpa: 0,
      ringSize: 8,
      eventIdx: true,
      reportMode: 'walk',
      minOrder: 0,
      ringDeadlineMs: 0,
      workload: { kind: 'idle', pagesPerSecond: 1 },
      seed: 1,
      initOnAlloc: false,
      pagePoison: 0,
    },
    command: { phase: 'idle', bits: 0 },
    report: { phase: 0, id: 0, lastId: 0, pendingId: 0, position: 0, rangePfn: 0, rangePages: 1 },
    balloon: { phase: 0, target: 0, chunkPages: 0, settled: true },
    queues: [queue, queue, queue],
    workload: {
      random: 1,
      version: 2,
      head: 0,
      count: 0,
      runs: 1,
      cursorRun: 0,
      cursorPage: 0,
      filling: true,
    },
    blocksByOrder: Array.from({ length: MAX_ORDER + 1 }, () => 0),
    balloonedPages: 0,
    poisonFailures: { pages: 0, firstPfn: -1 },
  };
  const addresses = { size: 8, descGpa: 0, availGpa: 0, usedGpa: 0 };
  const state: SavedState = {
    version: STATE_VERSION,
    device: {
      registers: {
        dialect: 'command-register',
        cmdReg: 0,
        cmdId: 0,
        numPages: 0,
        actual: 0,
        status: 0,
        features: 0,
        poisonVal: 0,
        queues: [addresses, addresses, null, addresses],
      },
      queues: Array.from({ length: QUEUE_COUNT }, () => ({ lastAvailIdx: 0, usedIdx: 0 })),
      nextId: FIRST_COMMAND_ID,
      eventIdx: true,
      owesDone: false,
    },
    inflated: [0, 1],
    vcpu: new TextDecoder().decode(encodeRegisters(registers)),
  };
  parseDeviceState(new TextEncoder().encode(JSON.stringify(state)), { layout, trace: undefined });
}
