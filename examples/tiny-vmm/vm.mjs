// @ts-check
import { atomicMapper, DirtyLog, LacunaError, PageBitmap, PrivateGuestMemory, RamLayout } from 'lacuna';
import { Cpu } from './cpu.mjs';
import { FreePageHints } from './free-page-hints.mjs';
import { GENERATION, RESULT } from './program.mjs';

/** @import { DestinationVm, DirtySink, EventWord, PageRun, SourceVm } from 'lacuna' */

const PAGE_BYTES = 4096;
/** Pages for code, which are never free. */
const CODE_PAGES = 1;
/** Instructions between two safe points, and so between two looks at what the host wants. */
const SLICE = 50_000;
const STATE_VERSION = 1;

const epochMs = () => performance.timeOrigin + performance.now();

/**
 * A machine with a toy processor and a heap, on the event loop of whoever made it. It can be migrated away and it can
 * be received into, so it may move on from where it has arrived.
 *
 * @implements {SourceVm}
 * @implements {DestinationVm}
 */
export class TinyVm {
  memory;
  device;
  paused = true;
  stoppedAt = 0;
  /** @type {LacunaError | undefined} */
  failure;
  cpu;
  #event;
  /** Always on: there is no moment of arming to get wrong (I2). One thread, so words of its own will do. */
  #log;
  #free;
  #pauseRequested = false;
  #scheduled = false;

  /** @param {{ memoryPages: number, hints: boolean, event: EventWord }} options */
  constructor({ memoryPages, hints, event }) {
    const layout = new RamLayout([{ startGpa: 0, endGpa: memoryPages * PAGE_BYTES }]);
    this.memory = new PrivateGuestMemory(layout);
    this.#event = event;
    this.#log = new DirtyLog(PageBitmap.allocateOwn(atomicMapper, layout.pfnSpan));
    this.#free = PageBitmap.allocateOwn(atomicMapper, layout.pfnSpan);
    this.#free.setRange(CODE_PAGES, memoryPages - CODE_PAGES);
    this.device = hints ? new FreePageHints(layout, this.#free) : undefined;
    this.cpu = new Cpu(this.memory, this.#log, this);
  }

  /**
   * Puts a program at address 0. Before the first run, so nothing needs a mark: the first round sends everything.
   * @param {Int32Array} code
   */
  load(code) {
    this.memory.pages(0, CODE_PAGES).set(new Uint8Array(code.buffer));
  }

  /** What the program has computed, once it has halted. */
  get result() {
    return (this.cpu.registers[RESULT] ?? 0) >>> 0;
  }

  get generation() {
    return this.cpu.registers[GENERATION] ?? 0;
  }

  /** Resolves when the program has halted here. */
  async halted() {
    while (!this.cpu.halted) {
      if (this.failure !== undefined) {
        throw this.failure;
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 1);
      });
    }
  }

  // ── the heap ──────────────────────────────────────────────────────────────────────────────────────────────

  /** The lowest free page. It is given out as it is: that its contents mean nothing is why it may be left behind. */
  allocatePage() {
    const pfn = this.#free.nextSet(0);
    if (pfn === this.#free.pageCount) {
      return 0;
    }
    this.#free.clear(pfn);
    return pfn * PAGE_BYTES;
  }

  /** @param {number} gpa */
  releasePage(gpa) {
    this.#free.set(gpa / PAGE_BYTES);
  }

  // ── the processor's time ──────────────────────────────────────────────────────────────────────────────────

  #schedule() {
    if (!this.#scheduled) {
      this.#scheduled = true;
      setTimeout(() => this.#slice(), 0);
    }
  }

  #slice() {
    this.#scheduled = false;
    if (this.#pauseRequested) {
      this.paused = true; // between two slices no write is without its mark (I2)
      this.stoppedAt = epochMs();
      this.#event.ring();
      return;
    }
    try {
      this.cpu.run(SLICE);
    } catch (cause) {
      this.failure = new LacunaError('GUEST_FAILED', `the program has failed at ${this.cpu.pc}`, { cause });
      this.#event.ring();
      return;
    }
    if (!this.cpu.halted) {
      this.#schedule();
    }
  }

  // ── SourceVm ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Who polls the device between migrations would stop it here, and go on in {@link migrationEnds}. */
  migrationBegins() {}

  migrationEnds() {}

  /**
   * @param {number} pfn
   * @param {number} pageCount
   */
  payload(pfn, pageCount) {
    return this.memory.pages(pfn, pageCount);
  }

  /** @param {DirtySink} sink */
  drainDirty(sink) {
    return this.#log.drainSlice(sink);
  }

  requestPause() {
    this.#pauseRequested = true;
    this.#schedule();
  }

  resume() {
    this.#pauseRequested = false;
    this.paused = false;
    this.#schedule();
  }

  saveDeviceState() {
    /** @type {number[]} */
    const free = [];
    /** @type {PageRun} */
    const run = { pfn: 0, pageCount: 0 };
    for (let from = 0; this.#free.nextRunInto(run, from); from = run.pfn + run.pageCount) {
      free.push(run.pfn, run.pageCount);
    }
    const { registers, pc, halted } = this.cpu;
    const state = { version: STATE_VERSION, registers: [...registers], pc, halted, free };
    return new TextEncoder().encode(JSON.stringify(state));
  }

  // ── DestinationVm ─────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Uint8Array} bytes from the other end, which is not trusted */
  loadDeviceState(bytes) {
    const state = parseState(bytes, this.memory.layout.pageCount);
    this.cpu.registers.set(state.registers);
    this.cpu.pc = state.pc;
    this.cpu.halted = state.halted;
    this.#free.clearAll();
    for (let i = 0; i + 1 < state.free.length; i += 2) {
      this.#free.setRange(state.free[i] ?? 0, state.free[i + 1] ?? 0);
    }
  }

  start() {
    this.resume();
    return epochMs();
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {number} pageCount
 * @returns {{ registers: number[], pc: number, halted: boolean, free: number[] }}
 */
function parseState(bytes, pageCount) {
  try {
    const state = JSON.parse(new TextDecoder().decode(bytes));
    const { version, registers, pc, halted, free } = state;
    if (version !== STATE_VERSION) {
      throw new RangeError(`version ${version}, not ${STATE_VERSION}`);
    }
    const areWhole = [...registers, pc, ...free].every(Number.isSafeInteger);
    const inRam = free.every(
      (/** @type {number} */ value, /** @type {number} */ i) =>
        value >= 0 && (i % 2 === 0 || free[i - 1] + value <= pageCount),
    );
    if (
      !areWhole ||
      !inRam ||
      registers.length !== 16 ||
      free.length % 2 !== 0 ||
      typeof halted !== 'boolean'
    ) {
      throw new RangeError('it does not describe such a machine');
    }
    return { registers, pc, halted, free };
  } catch (cause) {
    throw new LacunaError('DEVICE_STATE_INVALID', `the device state can't be read: ${String(cause)}`, {
      cause,
    });
  }
}
