import { BalloonDevice, type BalloonDeviceState } from '../../balloon/balloon-device.js';
import type { ExitTable } from '../../balloon/exits.js';
import type { HintSession, HintSink } from '../../balloon/hint-session.js';
import type { GuestStatistics } from '../../balloon/statistics.js';
import { asLacunaError, LacunaError, messageOf } from '../../errors.js';
import { ComparedMemory, type ScanCounts } from '../../memory/compared-memory.js';
import { EventWord } from '../../memory/control-buffer.js';
import type { DirtySink, WriteLog } from '../../memory/dirty-log.js';
import { epochMs } from '../../memory/epoch.js';
import { BorrowedGuestMemory, type GuestMemory, SharedGuestMemory } from '../../memory/guest-memory.js';
import { PAGE_SIZE, PAGES_PER_WORD } from '../../memory/page.js';
import { PageBitmap } from '../../memory/page-bitmap.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import type { DestinationVm, HintDevice, SourceVm } from '../../migration/vm.js';
import { VIRTIO_BALLOON_VQ_STATS } from '../../spec/virtio-balloon.js';
import { VIRTQ_MAX_SIZE } from '../../spec/virtio-ring.js';
import type { QueueFault } from '../../virtqueue/device-queue.js';
import { V86BalloonRegisters } from './balloon-registers.js';
import { parseBalloonState, saveBalloonState } from './balloon-state.js';
import { type BalloonTraceEntry, TracedSession } from './balloon-trace.js';
import { BootMemory } from './boot-memory.js';
import { packState, unpackState } from './device-state.js';
import { openEmulator, type V86Cpu, type V86Device, type V86Machine, type V86VirtIO } from './emulator.js';

/** How a v86 machine is made one that can be migrated. */
export interface V86GuestOptions {
  /** Rung when the guest has news for a migration; `migrate()` is given the same. One of its own by default. */
  readonly event?: EventWord;
  /** Milliseconds of a clock that never goes back: the migration's. performance.now by default. */
  readonly clock?: () => number;
  /** Is told of all that happens between the balloon and its driver. */
  readonly onTrace?: ((entry: BalloonTraceEntry) => void) | undefined;
}

/** The host marks nothing that it writes: a comparison finds it (I9). */
const NO_LOG: WriteLog = { mark: () => {}, markBytes: () => {} };

/** Ticks that were shorter are added up: a timer waits for a millisecond or more. */
const LEAST_REST_MS = 1;

/**
 * A machine of npm's v86, as a migration's source and as its destination. Everything happens on the thread that v86 runs on,
 * between two slices of its processor, or within one when the guest's driver kicks a queue.
 *
 * - Its balloon is replaced by lacuna's, which works on the rings that the guest's driver has laid out in guest RAM.
 * - v86 keeps no dirty log, so RAM is compared with a shadow (I9, `ComparedMemory`): a migration takes as much memory
 *   again as the guest has. Hints are taken inside the driver's kick and nowhere else, and kicks are never suppressed.
 * - Its device state is v86's own, without RAM.
 *
 * Open it before the machine runs or restores a state: a driver that has met the other balloon would go on with that.
 */
export class V86Guest implements SourceVm, DestinationVm {
  readonly memory: GuestMemory;
  readonly event: EventWord;
  /** Set when v86 has thrown; the machine does not run any more. */
  failure: LacunaError | undefined;
  stoppedAt = 0;
  readonly #machine: V86Machine;
  readonly #cpu: V86Cpu;
  readonly #registers: V86BalloonRegisters;
  readonly #clock: () => number;
  readonly #onTrace: ((entry: BalloonTraceEntry) => void) | undefined;
  readonly #hintDevice: HintDevice;
  #balloon: BalloonDevice<V86BalloonRegisters>;
  #shadow: SharedGuestMemory | undefined;
  #compared: ComparedMemory | undefined;
  /** Elements that were served in kicks since a migration last looked. */
  #served = 0;
  /** The share of the time for which the processor rests, and until when it does. */
  #throttle = 0;
  #restMs = 0;
  #restsUntil = 0;

  private constructor(machine: V86Machine, { event, clock, onTrace }: V86GuestOptions) {
    const { cpu } = machine;
    this.#machine = machine;
    this.#cpu = cpu;
    this.#clock = clock ?? ((): number => performance.now());
    this.event = event ?? new EventWord(atomicMapper);
    this.memory = new BorrowedGuestMemory(
      new RamLayout([{ startGpa: 0, endGpa: cpu.memory_size[0] }]),
      () => cpu.wasm_memory.buffer,
      cpu.mem8.byteOffset,
    );
    this.#onTrace = onTrace;
    this.#registers = new V86BalloonRegisters(cpu, cpu.devices.virtio_balloon!.virtio, {
      kicked: (queue) => this.#kicked(queue),
      reset: () => {
        this.#onTrace?.({ at: this.#clock(), what: 'reset' });
        this.#balloon.reset();
      },
      requested: (register, value) =>
        this.#onTrace?.({ at: this.#clock(), what: 'request', register, value }),
      accessed: (register, what, value) => this.#onTrace?.({ at: this.#clock(), what, register, value }),
    });
    this.#balloon = this.#makeBalloon();
    this.#hintDevice = this.#makeHintDevice();
    cpu.devices.virtio_balloon = new SavedDevice(
      this.#registers.virtio,
      () => this.#saved(),
      (saved) => this.#restored(saved),
    );
    this.#watchReboots();
    this.#watchTicks();
  }

  /**
   * Takes over a machine: a `V86` made with `virtio_balloon: true` and `autostart: false` that has said `emulator-loaded`.
   * Throws UNSUPPORTED if it isn't that, or is a v86 that lacuna does not know.
   */
  static open(emulator: object, options: V86GuestOptions = {}): V86Guest {
    const { v86 } = openEmulator(emulator);
    if (v86.running) {
      throw new LacunaError('UNSUPPORTED', 'the machine runs already: open it before it is started');
    }
    return new V86Guest(v86, options);
  }

  /**
   * The same for a machine that is to arrive: its memory is cleared, with the firmware that v86 has put there, for the
   * guest brings its own. It must have as much memory as the source; made with the same kernel, it can reboot.
   */
  static incoming(emulator: object, options: V86GuestOptions = {}): V86Guest {
    const guest = V86Guest.open(emulator, options);
    guest.#cpu.zero_memory(0, guest.#cpu.memory_size[0]);
    return guest;
  }

  // ── SourceVm ──────────────────────────────────────────────────────────────────────────────────────────────

  migrationBegins(): void {
    this.#comparison.restart();
  }

  migrationEnds(): void {
    this.#balloon.showDone(); // whatever the guest has lent is its own again (V6, T3)
  }

  /** Undefined while the guest has no driver that hints. */
  get device(): HintDevice | undefined {
    return this.#registers.hints ? this.#hintDevice : undefined;
  }

  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    return this.#comparison.payload(pfn, pageCount);
  }

  drainDirty(sink: DirtySink): boolean {
    return this.#comparison.scanSlice(sink);
  }

  leaveOut(wordIndex: number, bits: number, value: number): void {
    this.#comparison.leaveOut(wordIndex, bits, value);
    const at = wordIndex * PAGES_PER_WORD * PAGE_SIZE;
    this.#cpu.jit_dirty_cache(at, at + PAGES_PER_WORD * PAGE_SIZE); // v86 hears of its own writes only
  }

  /** At once, unless it is called within a kick: then as soon as that is over. */
  requestPause(): void {
    const machine = this.#machine;
    if (!machine.running) {
      return;
    }
    if (!machine.idle) {
      machine.stopping = true;
      return;
    }
    machine.tick_counter += 1; // the tick that is due is not made any more
    machine.running = false;
    machine.stopping = false;
    machine.bus.send('emulator-stopped');
    this.#stopped();
  }

  get paused(): boolean {
    return !this.#machine.running;
  }

  resume(): void {
    if (this.failure !== undefined) {
      return;
    }
    if (this.#machine.running) {
      this.#machine.stopping = false;
    } else {
      this.#machine.run();
    }
  }

  throttle(share: number): void {
    this.#throttle = share;
    this.#restMs = 0;
    this.#restsUntil = 0;
  }

  saveDeviceState(): Uint8Array {
    const cpu = this.#cpu;
    const pack = cpu.pack_memory;
    cpu.pack_memory = () => ({
      packed_memory: new Uint8Array(0),
      bitmap: { get_buffer: () => new ArrayBuffer(0) },
    });
    try {
      return packState(this.#machine.save_state());
    } finally {
      cpu.pack_memory = pack;
    }
  }

  // ── DestinationVm ─────────────────────────────────────────────────────────────────────────────────────────

  loadDeviceState(bytes: Uint8Array): void {
    const state = unpackState(bytes, this.#cpu.memory_size[0]);
    const cpu = this.#cpu;
    const unpack = cpu.unpack_memory;
    cpu.unpack_memory = (): void => {
      // RAM has arrived by itself
    };
    try {
      this.#machine.restore_state(state);
    } catch (thrown) {
      throw asLacunaError(thrown, 'DEVICE_STATE_INVALID', "v86 can't use the device state: ");
    } finally {
      cpu.unpack_memory = unpack;
    }
  }

  start(): number {
    if (this.failure !== undefined) {
      throw this.failure;
    }
    this.#machine.run();
    return epochMs();
  }

  // ── what a host can do besides ────────────────────────────────────────────────────────────────────────────

  /**
   * What a migration sends, by {@link payload}, and a network channel is to be given as its memory: as large as the guest's
   * RAM, and made when it is first asked for. Between migrations it means nothing.
   */
  get shadow(): SharedGuestMemory {
    this.#shadow ??= SharedGuestMemory.allocate(this.memory.layout);
    return this.#shadow;
  }

  /** What scans of RAM came to, over all migrations. */
  get scans(): Readonly<ScanCounts> {
    return this.#comparison.counts;
  }

  /** VM exits to the balloon since the machine was made, by feature. A copy. */
  exits(): ExitTable {
    return structuredClone(this.#registers.exits);
  }

  /** Asks the guest for a balloon of `pages` pages; {@link balloonPages} says what it has come to. */
  setBalloonTarget(pages: number): void {
    this.#balloon.setBalloonTarget(pages);
  }

  /** What the guest has said of its memory last; undefined until it has. */
  get statistics(): GuestStatistics | undefined {
    return this.#balloon.statistics;
  }

  /** Asks for {@link statistics} anew; the event is rung when they are there. False: the guest can't be asked now. */
  requestStatistics(): boolean {
    // A buffer that the source kept is still to be taken here: no kick announces it.
    this.#balloon.pollQueue(VIRTIO_BALLOON_VQ_STATS, this.#clock(), 1);
    return this.#balloon.requestStatistics();
  }

  /** Pages in the balloon, as the guest last said. */
  get balloonPages(): number {
    return this.#registers.actual;
  }

  get #comparison(): ComparedMemory {
    this.#compared ??= new ComparedMemory(this.memory, this.shadow, this.#clock);
    return this.#compared;
  }

  /** I9: inside the kick, before a vCPU runs again; nothing is put off, and nothing is left in the ring. */
  #kicked(queue: number): void {
    this.#onTrace?.({ at: this.#clock(), what: 'kick', queue, available: this.#availableIndex(queue) });
    const handled = this.#balloon.pollQueue(queue, this.#clock(), VIRTQ_MAX_SIZE);
    if (handled > 0 || this.#balloon.fault !== undefined) {
      this.#served += handled;
      this.event.ring();
    }
  }

  /** The driver's index of a queue, as it stands in guest RAM. */
  #availableIndex(queue: number): number | undefined {
    const gpa = (this.#registers.queue(queue)?.availGpa ?? -4) + 2; // le16 flags, le16 idx
    const bytes = this.memory.segmentOf(gpa, 2)?.bytes;
    return bytes && bytes[gpa]! | (bytes[gpa + 1]! << 8);
  }

  #makeBalloon(restored?: {
    state: BalloonDeviceState;
    inflated: readonly number[];
  }): BalloonDevice<V86BalloonRegisters> {
    const inflated = PageBitmap.allocateOwn(atomicMapper, this.memory.layout.pfnSpan);
    inflated.setRuns(restored?.inflated ?? []);
    return new BalloonDevice({
      memory: this.memory,
      map: atomicMapper,
      registers: this.#registers,
      log: NO_LOG,
      inflated,
      eventIdx: false,
      session: this.#onTrace && new TracedSession(this.#onTrace),
      ...(restored === undefined ? {} : { restored: restored.state }),
    });
  }

  /** The migration's view of the balloon. What it has to say was said in kicks; a poll tells how much that was. */
  #makeHintDevice(): HintDevice {
    const balloon = (): BalloonDevice<V86BalloonRegisters> => this.#balloon;
    const take = (): number => {
      const served = this.#served;
      this.#served = 0;
      return served;
    };
    const hasServed = (): boolean => this.#served > 0;
    return {
      get session(): HintSession {
        return balloon().session;
      },
      get upcomingId(): number {
        return balloon().upcomingId;
      },
      get inflated(): PageBitmap {
        return balloon().inflated;
      },
      get poison(): number | undefined {
        return balloon().poison;
      },
      get fault(): QueueFault | undefined {
        return balloon().fault;
      },
      openSession: (sink: HintSink, now: number) => balloon().openSession(sink, now),
      closeSession: (now: number) => balloon().closeSession(now),
      poll: take,
      suppressNotifications: () => {
        // never (I9)
      },
      armNotifications: hasServed,
      freeze: () => balloon().freeze(),
      unfreeze: () => balloon().unfreeze(),
    };
  }

  /** The balloon's part of a machine's state. */
  #saved(): unknown[] {
    return saveBalloonState(this.#registers.save(), this.#balloon);
  }

  #restored(saved: unknown): void {
    const { transport, values, state, inflated } = parseBalloonState(saved, this.memory.layout);
    this.#registers.virtio.set_state(transport);
    this.#registers.restore(values);
    this.#balloon = this.#makeBalloon({ state, inflated });
  }

  /**
   * v86 leaves its balloon as it is when the guest reboots; queues would go on in memory that is something else by then
   * (V12). And it leaves a kernel that it was given where that has overwritten itself.
   */
  #watchReboots(): void {
    const cpu = this.#cpu;
    const bootMemory = cpu.option_roms.length > 0 ? new BootMemory(this.memory) : undefined;
    const reboot = cpu.reboot_internal.bind(cpu);
    cpu.reboot_internal = (): void => {
      this.#registers.virtio.reset();
      bootMemory?.restore(this.memory);
      cpu.jit_dirty_cache(0, cpu.memory_size[0]);
      reboot();
    };
  }

  /** What v86 throws, a guest may have brought about: it ends that guest, not the process. */
  #watchTicks(): void {
    const machine = this.#machine;
    const tick = machine.do_tick.bind(machine);
    const nextTick = machine.next_tick.bind(machine);
    machine.do_tick = (): void => {
      const wasRunning = machine.running;
      const began = performance.now();
      try {
        tick();
      } catch (thrown) {
        this.failure = new LacunaError('GUEST_FAILED', `v86: ${messageOf(thrown)}`, { cause: thrown });
        machine.running = false;
        machine.stopping = false;
        machine.idle = true;
        machine.bus.send('emulator-stopped');
      }
      if (wasRunning && !machine.running) {
        this.#stopped();
      } else if (this.#throttle > 0) {
        this.#rest(performance.now() - began);
      }
    };
    machine.next_tick = (delayMs): void => {
      const left = this.#restsUntil === 0 ? 0 : this.#restsUntil - performance.now();
      nextTick(Math.max(delayMs, left));
    };
  }

  #rest(ranMs: number): void {
    this.#restMs += (ranMs * this.#throttle) / (1 - this.#throttle);
    if (this.#restMs >= LEAST_REST_MS) {
      this.#restsUntil = performance.now() + this.#restMs;
      this.#restMs = 0;
      this.#machine.next_tick(0); // in the place of the tick that is due
    }
  }

  #stopped(): void {
    this.stoppedAt = epochMs();
    this.event.ring();
  }
}

/** What v86 saves and restores in the place of its balloon, so that a snapshot of v86's own has ours in it, too. */
class SavedDevice implements V86Device {
  readonly virtio: V86VirtIO;
  readonly #save: () => unknown[];
  readonly #restore: (saved: unknown) => void;

  constructor(virtio: V86VirtIO, save: () => unknown[], restore: (saved: unknown) => void) {
    this.virtio = virtio;
    this.#save = save;
    this.#restore = restore;
  }

  get_state(): unknown[] {
    return [this.virtio, this.#save()];
  }

  set_state(saved: unknown[]): void {
    this.#restore(saved);
  }
}
