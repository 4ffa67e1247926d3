import type { Dialect } from '../../src/balloon/dialect.js';
import { trapsOf } from '../../src/balloon/guest-registers.js';
import {
  type FreeRangeSource,
  ReportDriver,
  type ReportDriverState,
  ReportStep,
} from '../../src/balloon/report-driver.js';
import {
  makeRequestDriver,
  type RequestDriver,
  type RequestDriverState,
} from '../../src/balloon/request-driver.js';
import { BuddyAllocator } from '../../src/guest/buddy-allocator.js';
import type { PageContent } from '../../src/guest/content.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { LEDGER_METADATA, Ledger } from '../../src/guest/ledger.js';
import { HoldSource, WalkSource } from '../../src/guest/range-sources.js';
import type { ReportMode } from '../../src/guest/runtime.js';
import { type ControlBuffer, INTERRUPT_CONFIG, INTERRUPTS } from '../../src/memory/control-buffer.js';
import { DirtyLog } from '../../src/memory/dirty-log.js';
import type { GuestMemory } from '../../src/memory/guest-memory.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { atomicMapper, type WordMapper } from '../../src/memory/shared-words.js';
import type { WriteOracle } from '../../src/memory/write-oracle.js';
import { COMMAND_ID_BYTES } from '../../src/spec/command-register.js';
import { VIRTIO_BALLOON_VQ_FREE_PAGE } from '../../src/spec/virtio-balloon.js';
import { DriverQueue, type DriverQueueState } from '../../src/virtqueue/driver-queue.js';
import { packedQueueBytes, packQueue, type QueueAddresses } from '../../src/virtqueue/layout.js';
import type { Gate } from './gate.js';

const ORDERS = 11;

/** Where the tables of an explored guest lie, all of them in its page 0. */
export interface Tables {
  readonly queue: QueueAddresses;
  readonly markersGpa: number;
  readonly freeGpa: number;
  readonly orderGpa: readonly number[];
  readonly heldGpa: number;
  readonly ledgerGpa: number;
  /** Bytes from 0 to behind the last table. */
  readonly bytes: number;
}

export function layOutTables(ringSize: number, pages: number): Tables {
  const queue = packQueue(0, ringSize);
  const markersGpa = Math.ceil(packedQueueBytes(ringSize) / 4) * 4;
  const freeGpa = markersGpa + ringSize * COMMAND_ID_BYTES;
  const orderGpa = Array.from({ length: ORDERS }, (_, i) => freeGpa + 4 + i * 4);
  const heldGpa = freeGpa + 4 + ORDERS * 4;
  const ledgerGpa = heldGpa + 4;
  return { queue, markersGpa, freeGpa, orderGpa, heldGpa, ledgerGpa, bytes: ledgerGpa + pages * 4 };
}

/** Half a page: what a write is torn into. */
const HALF_BYTES = PAGE_SIZE / 2;

/**
 * Contents of an explored page: the first word of each half says which page and version it is. A write stores the
 * halves one after the other, so a reader in between sees a torn page.
 */
export class TinyContent {
  readonly #gate: Gate | undefined;

  constructor(gate: Gate | undefined) {
    this.#gate = gate;
  }

  static word(pfn: number, version: number): number {
    return (pfn << 8) | version;
  }

  writeInto(bytes: Uint8Array, byteOffset: number, pfn: number, version: number): void {
    for (const at of [byteOffset, byteOffset + HALF_BYTES]) {
      const store = (): void => {
        new DataView(bytes.buffer, bytes.byteOffset + at).setUint32(0, TinyContent.word(pfn, version), true);
      };
      if (this.#gate === undefined) {
        store();
      } else {
        this.#gate.access(store);
      }
    }
  }

  matches(page: Uint8Array, pfn: number, version: number): boolean {
    const view = new DataView(page.buffer, page.byteOffset);
    const word = TinyContent.word(pfn, version);
    return view.getUint32(0, true) === word && view.getUint32(HALF_BYTES, true) === word;
  }
}

/** What of the guest does not lie in its RAM. */
export interface GuestState {
  readonly command: RequestDriverState;
  readonly report: ReportDriverState;
  readonly queue: DriverQueueState;
  readonly blocksByOrder: readonly number[];
}

export interface GuestParts {
  readonly dialect: Dialect;
  readonly memory: GuestMemory;
  readonly control: ControlBuffer;
  /** Words of the dirty log. */
  readonly log: ArrayBuffer;
  readonly tables: Tables;
  readonly reportMode: ReportMode;
  readonly eventIdx: boolean;
  /** Of everything that others see. */
  readonly map: WordMapper;
  readonly gate: Gate | undefined;
  readonly observer: ReportObserver;
  readonly restored?: GuestState;
}

/** Who is told what the guest does, before it does it. */
export interface ReportObserver {
  declared(id: number, pfn: number, pageCount: number): void;
  stampWrite(pfn: number): void;
}

/** Pages that an explored guest starts with in use, beside the one of its tables. */
export const FIRST_VERSION = 1;

/**
 * The guest of an explored world: the real interrupt path, report driver, queue, allocator, ways of reporting and
 * ledger, over a few pages of RAM. It does nothing by itself; the world says what it does next.
 */
export class ExploredGuest {
  readonly command: RequestDriver;
  readonly report: ReportDriver;
  readonly queue: DriverQueue;
  readonly allocator: BuddyAllocator;
  readonly held: PageBitmap;
  readonly ledger: Ledger;
  readonly hold: HoldSource | undefined;
  readonly source: FreeRangeSource;
  readonly #control: ControlBuffer;

  constructor(parts: GuestParts) {
    const { memory, control, tables, map, gate, restored, observer } = parts;
    const { pfnSpan } = memory.layout;
    const log = new DirtyLog(new PageBitmap(map.words(parts.log, 0, 1), pfnSpan));
    // The allocator's tables change and are marked in one piece: who sees them half-way is another test's matter.
    const quietLog = new DirtyLog(new PageBitmap(atomicMapper.words(parts.log, 0, 1), pfnSpan));
    const ram = new GuestRam(memory, map, log);
    const quietRam = new GuestRam(memory, atomicMapper, quietLog);
    this.#control = control;
    this.allocator = new BuddyAllocator(quietRam, tables, pfnSpan, restored?.blocksByOrder);
    this.held = quietRam.bitmap(tables.heldGpa, pfnSpan);
    this.ledger = new Ledger(
      ram,
      new TinyContent(gate) as unknown as PageContent,
      tables.ledgerGpa,
      pfnSpan,
      observer as unknown as WriteOracle,
    );
    this.queue = new DriverQueue(memory, map, log, tables.queue, parts.eventIdx, restored?.queue);
    const port = trapsOf(control, parts.dialect);
    if (parts.reportMode === 'hold') {
      this.hold = new HoldSource(this.allocator, this.held, 0, 0);
    }
    this.source = this.hold ?? new WalkSource(this.allocator.free, memory.layout, 0);
    this.report = new ReportDriver({
      port,
      queue: this.queue,
      memory,
      markersGpa: tables.markersGpa,
      wrote: (gpa, lengthBytes) => ram.wrote(gpa, lengthBytes),
      source: this.source,
      ringDeadlineMs: 1000,
      rangesPerStep: 1,
      spinSteps: 0,
      holdsUntilDone: parts.dialect === 'virtio',
      observer,
      restored: restored?.report,
    });
    const handlers = { report: this.report, balloon: { setTarget: () => {} } };
    this.command = makeRequestDriver(port, handlers, { dialect: parts.dialect }, restored?.command);
    if (restored === undefined) {
      this.queue.disableInterrupts();
      port.setQueue(VIRTIO_BALLOON_VQ_FREE_PAGE, tables.queue);
      this.ledger.begin(0, LEDGER_METADATA);
    }
  }

  saveState(): GuestState {
    return {
      command: this.command.saveState(),
      report: this.report.saveState(),
      queue: this.queue.saveState(),
      blocksByOrder: this.allocator.blocksByOrder(),
    };
  }

  /** Whether the guest uses the page for something of its own. */
  owns(pfn: number): boolean {
    return pfn > 0 && !this.allocator.free.test(pfn) && !this.held.test(pfn);
  }

  get reporting(): boolean {
    const { phase, pendingId } = this.report.saveState();
    return phase !== 0 || pendingId !== 0;
  }

  /** What the vCPU does first at a safe point. */
  takeInterrupts(): void {
    const words = this.#control.words;
    if ((words.exchange(INTERRUPTS, 0) & INTERRUPT_CONFIG) !== 0) {
      this.command.interrupt();
    }
  }

  /** A page from the allocator; when memory is short, one that is held. -1: there is none. */
  allocate(): number {
    for (;;) {
      const pfn = this.allocator.allocate(0);
      if (pfn !== -1 || this.hold === undefined || !this.hold.shrink()) {
        return pfn;
      }
    }
  }

  /** Everything that is asked of it, in the order in which the runtime does it. False: it has nothing to do. */
  serve(now: number): boolean {
    const before = this.command.busy;
    this.takeInterrupts();
    let worked = before || this.command.busy;
    while (this.command.busy) {
      this.command.step();
    }
    worked = this.report.step(now) === ReportStep.working || worked;
    return worked;
  }

  /** What is wrong with it, or undefined: its tables, and what its pages hold. */
  ailment(): string | undefined {
    const wrong = this.allocator.inconsistency();
    if (wrong !== undefined) {
      return wrong;
    }
    for (let pfn = 1; pfn < this.allocator.pfnSpan; pfn += 1) {
      if (this.owns(pfn) && !this.ledger.holds(pfn)) {
        return `page ${pfn} does not hold version ${this.ledger.version(pfn)}, as the guest's ledger says`;
      }
    }
    return undefined;
  }
}
