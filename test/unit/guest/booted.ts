import {
  type GuestDevice,
  type GuestDeviceState,
  makeGuestDevice,
} from '../../../src/balloon/guest-device.js';
import { hostRegisters, kindOf, trapsOf } from '../../../src/balloon/guest-registers.js';
import type { HintSink } from '../../../src/balloon/hint-session.js';
import { PageContent } from '../../../src/guest/content.js';
import {
  type FreeMemoryMode,
  fillMemory,
  findMetadataPlace,
  type GuestImage,
  syntheticImage,
} from '../../../src/guest/image.js';
import { type GuestConfig, GuestRuntime, type VcpuRegisters } from '../../../src/guest/runtime.js';
import type { GuestTrace } from '../../../src/guest/trace.js';
import { traceImage } from '../../../src/guest/trace-player.js';
import { traceWorkload } from '../../../src/guest/trace-replay.js';
import { CONTROL_BYTES, ControlBuffer, EventWord } from '../../../src/memory/control-buffer.js';
import type { DirtyLog } from '../../../src/memory/dirty-log.js';
import { SharedGuestMemory } from '../../../src/memory/guest-memory.js';
import { MIB } from '../../../src/memory/page.js';
import { PageBitmap } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper, type WordMapper } from '../../../src/memory/shared-words.js';
import { makeLog } from './small-guest.js';

/** A guest without a thread: the test is its processor, its clock and its host. */
export interface BootedGuest {
  readonly memory: SharedGuestMemory;
  readonly log: DirtyLog;
  readonly control: ControlBuffer;
  readonly config: GuestConfig;
  readonly runtime: GuestRuntime;
  readonly trace?: GuestTrace | undefined;
}

export const SMALL_RING = 64;

/** 8 MiB, half of it free in runs of 24 pages. */
export function smallImage(freeShare = 0.5, freeRunPages = 24): GuestImage {
  return syntheticImage(atomicMapper, { memoryBytes: 8 * MIB, freeShare, freeRunPages });
}

export function makeControl(map: WordMapper = atomicMapper): ControlBuffer {
  return new ControlBuffer(map, new SharedArrayBuffer(CONTROL_BYTES), new EventWord(atomicMapper));
}

export function configFor(image: GuestImage, changes: Partial<GuestConfig> = {}): GuestConfig {
  const ringSize = changes.ringSize ?? SMALL_RING;
  return {
    dialect: 'command-register',
    metadataGpa: findMetadataPlace(atomicMapper, image, ringSize),
    ringSize,
    eventIdx: true,
    reportMode: 'walk',
    minOrder: 0,
    ringDeadlineMs: 500,
    workload: { kind: 'halt' },
    seed: 1,
    initOnAlloc: false,
    ...changes,
  };
}

export interface BootOptions extends Partial<GuestConfig> {
  readonly image?: GuestImage;
  readonly freeMemory?: FreeMemoryMode;
  /** Given to the guest; {@link replaying} makes the rest. */
  readonly trace?: GuestTrace;
}

/** A guest that replays a trace from a moment of it on. */
export function replaying(trace: GuestTrace, atMs = 0, speed = 1): BootOptions {
  return { image: traceImage(atomicMapper, trace, atMs), trace, workload: traceWorkload(trace, atMs, speed) };
}

export function bootGuest(options: BootOptions = {}): BootedGuest {
  const { image = smallImage(), freeMemory = 'data', trace, ...changes } = options;
  const config = configFor(image, changes);
  const memory = SharedGuestMemory.allocate(new RamLayout(image.blocks));
  const content = new PageContent(config.seed);
  fillMemory(atomicMapper, memory, image, content, freeMemory);
  const control = makeControl();
  const log = makeLog(memory.layout.pfnSpan);
  const port = trapsOf(control, config.dialect);
  const runtime = GuestRuntime.boot(
    { map: atomicMapper, memory, log, control, port, config, content, trace },
    image,
  );
  return { memory, log, control, config, runtime, trace };
}

/** The guest goes on from a copy of its memory and from its registers, as bytes would carry them. */
export function moveGuest(guest: BootedGuest): BootedGuest {
  const registers = JSON.parse(JSON.stringify(guest.runtime.saveRegisters())) as VcpuRegisters;
  const memory = SharedGuestMemory.allocate(guest.memory.layout);
  for (const [i, { bytes }] of guest.memory.segments.entries()) {
    memory.segments[i]!.bytes.set(bytes);
  }
  const control = makeControl();
  const log = makeLog(memory.layout.pfnSpan);
  const runtime = GuestRuntime.resume(
    {
      map: atomicMapper,
      memory,
      log,
      control,
      port: trapsOf(control, registers.config.dialect),
      content: new PageContent(registers.config.seed),
      trace: guest.trace,
    },
    registers,
  );
  return { memory, log, control, config: registers.config, runtime, trace: guest.trace };
}

/** The host's side of the guest's balloon, anew or as another host has left it. */
export function deviceOf(
  { memory, log, control, config }: BootedGuest,
  restored?: GuestDeviceState,
): GuestDevice {
  if (restored !== undefined) {
    hostRegisters(control, kindOf(restored.registers)).restore(restored.registers);
  }
  return makeGuestDevice({
    memory,
    map: atomicMapper,
    control,
    log,
    inflated: PageBitmap.allocate(atomicMapper, memory.layout.pfnSpan),
    eventIdx: config.eventIdx,
    dialect: config.dialect,
    ...(restored === undefined ? {} : { restored }),
  });
}

/** Notes each page that was hinted, and how often. */
export class HintedPages implements HintSink {
  readonly times: Map<number, number> = new Map();

  hint(gpa: number, lengthBytes: number): boolean {
    for (let pfn = gpa / 4096; pfn < (gpa + lengthBytes) / 4096; pfn += 1) {
      this.times.set(pfn, (this.times.get(pfn) ?? 0) + 1);
    }
    return true;
  }

  get pages(): number[] {
    return [...this.times.keys()].sort((a, b) => a - b);
  }
}
