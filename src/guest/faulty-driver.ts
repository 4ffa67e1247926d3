import type { Dialect } from '../balloon/dialect.js';
import { ExitFeature } from '../balloon/exits.js';
import type { DevicePort } from '../balloon/registers.js';
import type { FreeRangeSource } from '../balloon/report-driver.js';
import { type ControlBuffer, INTERRUPT_CONFIG, INTERRUPTS } from '../memory/control-buffer.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { bitmapWords, PageBitmap, type PageRun } from '../memory/page-bitmap.js';
import type { SharedWords, WordMapper } from '../memory/shared-words.js';
import {
  CMD_ID_REG_OFFSET,
  COMMAND_ID_BYTES,
  FIRST_COMMAND_ID,
  LAST_COMMAND_ID,
  STOP_SIGN,
} from '../spec/command-register.js';
import {
  VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
} from '../spec/virtio-balloon.js';
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_SIZE } from '../spec/virtio-ring.js';
import type { DriverQueue } from '../virtqueue/driver-queue.js';
import { AVAIL_RING } from '../virtqueue/layout.js';
import { xorshift32 } from './content.js';

/*
 * A balloon driver that misbehaves: what I6 says a host must survive, done by the real driver of a real guest.
 *
 *   host                          FaultBoard (shared)              guest's thread
 *   arm(fault) ─────────────────▶ which, how much, how long ─────▶ FaultyDriver
 *   injected(way), lied ◀──────── what was really done  ◀───────── ├ port()    around the device's registers
 *                                                                  ├ source()  around where free ranges come from
 *                                                                  └ slice()   before each slice of the vCPU
 *
 * A guest that was not given a board has none of this: its runtime is handed the bare port and source.
 */

/** What a driver can do wrong. */
export const DRIVER_FAULTS = [
  /** Takes no interrupt: the request for a report is never seen. */
  'hang-at-start',
  /** Falls silent after `amount` ranges. */
  'hang-midway',
  /** Reports, and then takes no interrupt: a stop is never acknowledged. */
  'hang-at-stop',
  /** Declares `amount` pages free that it uses. */
  'lie',
  /** Never comes to the end of its ranges. */
  'flood-ranges',
  /** Kicks `amount` times a slice. */
  'flood-kicks',
  /** Puts up to `amount` stop signs and old ids a slice on the queue. */
  'flood-markers',
  /** Puts its available index where no ring is; these three after `amount` ranges, and then the ring is dead. */
  'corrupt-index',
  'corrupt-head',
  'corrupt-descriptor',
  /** Takes an interrupt only `ms` after it came, and pauses as long after `amount` ranges. */
  'late',
  /** Reports under an id of long ago. */
  'stale-id',
  /** The vCPU does not come to the end of a slice until the fault is lifted. */
  'stuck',
] as const;
export type DriverFaultName = (typeof DRIVER_FAULTS)[number];

export interface DriverFault {
  readonly name: DriverFaultName;
  /** Ranges, pages, kicks or markers, by what it is. */
  readonly amount: number;
  readonly ms: number;
  /** What it does at random follows from this; not 0. */
  readonly seed: number;
}

/*
 *  word  name         written by   pairs with
 *     0  EPOCH        host (add)   the guest's load in each slice, and its wait while it is stuck
 *     1  FAULT        host         1 + index into DRIVER_FAULTS; 0: none. Written before EPOCH, like those below
 *     2  AMOUNT       host
 *     3  MS           host
 *     4  SEED         host
 *     5  RING_DEAD    guest        read by the guest wherever it goes on: it touches that ring no more
 *     8  INJECTED     guest (add)  a count for each fault
 *    32  lied         guest        a bit for each page that was ever lied about
 */
const EPOCH = 0;
const FAULT = 1;
const AMOUNT = 2;
const MS = 3;
const SEED = 4;
const RING_DEAD = 5;
const INJECTED = 8;
const LIED = 32;

/** What host and guest share of a guest's faults. It lies outside guest RAM and stays with the guest as it moves. */
export class FaultBoard {
  readonly words: SharedWords;
  readonly buffer: SharedArrayBuffer;
  /** Pages that the driver called free while it used them. Their contents are the guest's own loss. */
  readonly lied: PageBitmap;

  constructor(map: WordMapper, buffer: SharedArrayBuffer, pfnSpan: number) {
    this.buffer = buffer;
    this.words = map.words(buffer, 0, LIED);
    this.lied = PageBitmap.over(map, buffer, pfnSpan, LIED * 4);
  }

  /** Bytes of the buffer for a guest of `pfnSpan` page frames. */
  static byteLength(pfnSpan: number): number {
    return LIED * 4 + bitmapWords(pfnSpan) * 4;
  }

  /** Host: from the guest's next slice on its driver misbehaves like this, and in no other way. */
  arm(fault: DriverFault): void {
    this.words.store(AMOUNT, fault.amount);
    this.words.store(MS, fault.ms);
    this.words.store(SEED, fault.seed | 0);
    this.words.store(FAULT, DRIVER_FAULTS.indexOf(fault.name) + 1);
    // Nobody is woken: only a vCPU that is stuck waits, and one that has just seen this would be let go again.
    this.words.add(EPOCH, 1);
  }

  /** Host: from the guest's next slice on the driver is itself again. Ring the guest if it may be halted. */
  disarm(): void {
    this.words.store(FAULT, 0);
    this.words.add(EPOCH, 1);
    this.words.notify(EPOCH);
  }

  /** How often the fault was really done. */
  injected(name: DriverFaultName): number {
    return this.words.load(INJECTED + DRIVER_FAULTS.indexOf(name));
  }

  /** Whether the free page queue was corrupted: there are no more hints from this guest, and no balloon. */
  get ringDead(): boolean {
    return this.words.load(RING_DEAD) !== 0;
  }
}

if (LIED - INJECTED < DRIVER_FAULTS.length) {
  throw new Error('the fault board has too few words for the counters');
}

/** What of the guest a faulty driver puts its hands on. */
export interface FaultyGuest {
  readonly queue: DriverQueue;
  readonly memory: GuestMemory;
  readonly port: DevicePort;
  /** 4 bytes for each descriptor, as the report driver has them. */
  readonly markersGpa: number;
  readonly wrote: (gpa: number, lengthBytes: number) => void;
  /** Whether a page that was declared free still is, or is held for the host. */
  stillFree(pfn: number): boolean;
  /** Whether the guest would miss the page's contents, and only those: it is none of its tables. */
  inUse(pfn: number): boolean;
}

/** What the vCPU leaves undone in a slice. */
export const Withheld = { nothing: 0, interrupts: 1, report: 2, rest: 4 } as const;

/** How long a vCPU is stuck if nobody lifts the fault: a thread must end some time. */
const LONGEST_STUCK_MS = 60_000;
/** The longest run of pages of one lie. */
const LIE_PAGES = 4;
/** Where a page to lie about is looked for before this lie is given up. */
const LIE_ATTEMPTS = 256;

/** The guest's end of a {@link FaultBoard}: decorates what its driver uses. */
export class FaultyDriver {
  readonly #board: FaultBoard;
  readonly #control: ControlBuffer;
  #guest: FaultyGuest | undefined;
  #epoch = 0;
  #fault: DriverFaultName | undefined;
  #amount = 0;
  #ms = 0;
  #random = 1;
  /** Since the fault was armed: ranges that the driver was given, and whether a report was begun. */
  #ranges = 0;
  #reported = false;
  #counted = false;
  /** The range in hand was made up here. */
  #ownRange = false;
  #liesLeft = 0;
  /** `late`: until when nothing is done, and whether the interrupt that is pending was made to wait. */
  #idleUntil = 0;
  #delayed = false;
  #paused = false;
  readonly #lastRange: PageRun = { pfn: 0, pageCount: 0 };

  constructor(board: FaultBoard, control: ControlBuffer) {
    this.#board = board;
    this.#control = control;
  }

  /** Around the device's registers, of a dialect. */
  port(inner: DevicePort, dialect: Dialect): DevicePort {
    const idOffset = dialect === 'virtio' ? VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID : CMD_ID_REG_OFFSET;
    return {
      readConfig: (offset, feature) => {
        const value = inner.readConfig(offset, feature);
        return offset === idOffset ? this.#readId(value) : value;
      },
      writeConfig: (offset, value, feature) => inner.writeConfig(offset, value, feature),
      kick: (queue, feature) => inner.kick(queue, feature),
      setQueue: (queue, addresses) => inner.setQueue(queue, addresses),
      driverOk: (features) => inner.driverOk(features),
    };
  }

  /** Around where free ranges come from. */
  source(inner: FreeRangeSource, guest: FaultyGuest): FreeRangeSource {
    this.#guest = guest;
    return {
      get position(): number {
        return inner.position;
      },
      set position(pfn: number) {
        inner.position = pfn;
      },
      waitsForRing: inner.waitsForRing,
      begin: () => {
        this.#reported = true;
        this.#liesLeft = this.#fault === 'lie' ? this.#amount : 0;
        inner.begin();
      },
      nextInto: (out) => this.#nextInto(inner, out),
      dropped: (range) => {
        if (!this.#ownRange) {
          inner.dropped(range);
        }
      },
      finish: () => inner.finish(),
      release: () => inner.release(),
    };
  }

  /** Whether the page was lied about: the guest can't hold its contents against the host. */
  excuses(pfn: number): boolean {
    return this.#board.lied.test(pfn);
  }

  /** Before each slice: what the vCPU does not do in it, as bits of {@link Withheld}. `now` in ms. */
  slice(now: number): number {
    this.#look();
    const dead = this.#board.ringDead ? Withheld.report : Withheld.nothing;
    switch (this.#fault) {
      case 'hang-at-start':
        return dead | this.#withholdInterrupts();
      case 'hang-midway':
        if (this.#reported && this.#ranges >= this.#amount) {
          this.#count();
          return Withheld.interrupts | Withheld.report;
        }
        return dead;
      case 'hang-at-stop':
        return this.#reported ? dead | this.#withholdInterrupts() : dead;
      case 'flood-kicks':
        this.#kick();
        return dead | Withheld.rest;
      case 'flood-markers':
        return dead === Withheld.nothing ? this.#putMarkers() : dead;
      case 'corrupt-index':
      case 'corrupt-head':
      case 'corrupt-descriptor':
        return dead === Withheld.nothing && this.#ranges >= this.#amount ? this.#corrupt(this.#fault) : dead;
      case 'late':
        return dead | this.#dawdle(now);
      case 'stuck':
        this.#count();
        // Looked at while it was being armed, the board has moved on already, and the fault is the same: still stuck.
        for (let epoch = Number.NaN; this.#fault === 'stuck' && epoch !== this.#epoch; this.#look()) {
          epoch = this.#epoch;
          this.#board.words.wait(EPOCH, epoch, LONGEST_STUCK_MS);
        }
        return dead;
      default:
        return dead;
    }
  }

  /** Takes notice of what the host has armed or lifted. */
  #look(): void {
    const { words } = this.#board;
    const epoch = words.load(EPOCH); // pairs with the add in arm and disarm
    if (epoch === this.#epoch) {
      return;
    }
    this.#epoch = epoch;
    this.#fault = DRIVER_FAULTS[words.load(FAULT) - 1];
    this.#amount = words.load(AMOUNT);
    this.#ms = words.load(MS);
    this.#random = words.load(SEED) >>> 0 || 1;
    this.#ranges = 0;
    this.#reported = false;
    this.#counted = false;
    this.#liesLeft = 0;
    this.#idleUntil = 0;
    this.#delayed = false;
    this.#paused = false;
    this.#lastRange.pageCount = 0;
  }

  #count(): void {
    if (!this.#counted && this.#fault !== undefined) {
      this.#counted = true;
      this.#board.words.add(INJECTED + DRIVER_FAULTS.indexOf(this.#fault), 1);
    }
  }

  #below(limit: number): number {
    this.#random = xorshift32(this.#random);
    return Math.floor((this.#random / 0x1_0000_0000) * limit);
  }

  // ── not answering ─────────────────────────────────────────────────────────────────────────────────────────

  get #interrupted(): boolean {
    return (this.#control.words.load(INTERRUPTS) & INTERRUPT_CONFIG) !== 0;
  }

  #withholdInterrupts(): number {
    if (this.#interrupted) {
      this.#count();
    }
    return Withheld.interrupts;
  }

  #dawdle(now: number): number {
    if (now < this.#idleUntil) {
      return Withheld.interrupts | Withheld.report;
    }
    const late = this.#interrupted && !this.#delayed;
    const pause = this.#reported && this.#ranges >= this.#amount && !this.#paused;
    this.#delayed = late;
    this.#paused ||= pause;
    if (!late && !pause) {
      return Withheld.nothing;
    }
    this.#count();
    this.#idleUntil = now + this.#ms;
    return Withheld.interrupts | Withheld.report;
  }

  #readId(id: number): number {
    if (this.#fault !== 'stale-id' || id < FIRST_COMMAND_ID) {
      return id;
    }
    this.#count();
    return this.#oldId(id);
  }

  /** An id before `id`, as ids go round. */
  #oldId(id: number): number {
    const old = id - 1 - this.#below(8);
    return old >= FIRST_COMMAND_ID ? old : LAST_COMMAND_ID - (FIRST_COMMAND_ID - old);
  }

  // ── ranges ────────────────────────────────────────────────────────────────────────────────────────────────

  #nextInto(inner: FreeRangeSource, out: PageRun): boolean {
    this.#ownRange = false;
    this.#ranges += 1;
    if (this.#liesLeft > 0 && this.#below(4) === 0 && this.#lieInto(out)) {
      return true;
    }
    if (inner.nextInto(out)) {
      this.#lastRange.pfn = out.pfn;
      this.#lastRange.pageCount = out.pageCount;
      return true;
    }
    if (this.#liesLeft > 0) {
      return this.#lieInto(out);
    }
    return this.#fault === 'flood-ranges' && this.#againInto(inner, out);
  }

  /** A run of pages that the guest uses. */
  #lieInto(out: PageRun): boolean {
    const guest = this.#guest!;
    const { layout } = guest.memory;
    const limit = Math.min(this.#liesLeft, 1 + this.#below(LIE_PAGES));
    for (let attempt = 0; attempt < LIE_ATTEMPTS; attempt += 1) {
      const pfn = this.#below(layout.pfnSpan);
      const segment = layout.segmentOfPfn(pfn);
      let pages = 0;
      while (
        segment !== undefined &&
        pages < limit &&
        pfn + pages < segment.firstPfn + segment.pageCount &&
        guest.inUse(pfn + pages)
      ) {
        pages += 1;
      }
      if (pages > 0) {
        this.#board.lied.setRange(pfn, pages); // before the range is visible to the host
        this.#liesLeft -= pages;
        this.#ownRange = true;
        this.#count();
        out.pfn = pfn;
        out.pageCount = pages;
        return true;
      }
    }
    this.#liesLeft = 0;
    return false;
  }

  /** Ranges that were reported already, and are still free. */
  #againInto(inner: FreeRangeSource, out: PageRun): boolean {
    inner.begin();
    if (inner.nextInto(out)) {
      this.#count();
      return true;
    }
    // A source that has handed out all that it has: its last range once more, unless the guest took it back.
    const { pfn, pageCount } = this.#lastRange;
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      if (!this.#guest!.stillFree(page)) {
        return false;
      }
    }
    if (pageCount > 0) {
      this.#count();
      this.#ownRange = true;
      out.pfn = pfn;
      out.pageCount = pageCount;
    }
    return pageCount > 0;
  }

  // ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────

  #kick(): void {
    this.#count();
    for (let i = 0; i < this.#amount; i += 1) {
      this.#guest!.port.kick(VIRTIO_BALLOON_VQ_FREE_PAGE, ExitFeature.other);
    }
  }

  /** Stop signs, and ids that are long over. Never the current id: ranges that were gathered before it would count. */
  #putMarkers(): number {
    const { queue, port } = this.#guest!;
    queue.reclaim();
    // Two descriptors stay for the report's own markers.
    for (let i = 0; i < this.#amount && queue.freeCount > 2; i += 1) {
      this.#count();
      this.#putMarker(this.#below(2) === 0 ? STOP_SIGN : LAST_COMMAND_ID - this.#below(1000));
    }
    queue.publish();
    if (queue.needsNotification()) {
      port.kick(VIRTIO_BALLOON_VQ_FREE_PAGE, ExitFeature.other);
    }
    return Withheld.rest;
  }

  #putMarker(id: number): number {
    const { queue, markersGpa } = this.#guest!;
    const head = queue.nextHead;
    const gpa = markersGpa + head * COMMAND_ID_BYTES;
    this.#write(gpa, COMMAND_ID_BYTES, (view) => view.setUint32(0, id, true));
    return queue.tryAddOutbuf(gpa, COMMAND_ID_BYTES);
  }

  /** Writes guest RAM behind the queue's back; marked like any write of a guest. */
  #write(gpa: number, lengthBytes: number, write: (view: DataView) => void): void {
    const { memory, wrote } = this.#guest!;
    const { bytes, startGpa } = memory.segmentOf(gpa, lengthBytes)!;
    write(new DataView(bytes.buffer, bytes.byteOffset + gpa - startGpa, lengthBytes));
    wrote(gpa, lengthBytes);
  }

  /**
   * Makes the ring one that can't be right. Never one that by chance still is: the host would take garbage for
   * hints, and what the guest then loses would be more than {@link FaultBoard.lied} says.
   */
  #corrupt(fault: 'corrupt-index' | 'corrupt-head' | 'corrupt-descriptor'): number {
    const { queue, port } = this.#guest!;
    const { size } = queue;
    queue.reclaim();
    if (queue.freeCount < 2) {
      return Withheld.nothing; // the host has to make room first
    }
    const { availIdx } = queue.saveState();
    const head = this.#putMarker(STOP_SIGN);
    // An index that no queue of this size can have, wherever the device is: between one and two sizes ahead of it.
    if (fault === 'corrupt-index' && size * 2 < 0x8000) {
      queue.publish();
      const index = (availIdx + size + 2 + this.#below(0x8000)) & 0xffff;
      this.#write(queue.addresses.availGpa + 2, 2, (view) => view.setUint16(0, index, true));
    } else if (fault === 'corrupt-head') {
      const slot = queue.addresses.availGpa + (AVAIL_RING + (availIdx & (size - 1))) * 2;
      this.#write(slot, 2, (view) => view.setUint16(0, size + this.#below(0x1_0000 - size), true));
      queue.publish();
    } else {
      this.#write(queue.addresses.descGpa + head * VIRTQ_DESC_SIZE, VIRTQ_DESC_SIZE, (view) =>
        this.#spoil(view, head, size),
      );
      queue.publish();
    }
    this.#count();
    this.#board.words.store(RING_DEAD, 1);
    port.kick(VIRTIO_BALLOON_VQ_FREE_PAGE, ExitFeature.other);
    return Withheld.report;
  }

  /** A descriptor: le64 address, le32 length, le16 flags, le16 next. */
  #spoil(view: DataView, head: number, size: number): void {
    const flags = (value: number): void => view.setUint16(12, value, true);
    switch (this.#below(6)) {
      case 0: // no bytes
        view.setUint32(8, 0, true);
        break;
      case 1: // far outside RAM
        view.setUint32(4, 0x8000_0000 + this.#below(0x7fff_ffff), true);
        break;
      case 2: // a loop
        flags(VIRTQ_DESC_F_NEXT);
        view.setUint16(14, head, true);
        break;
      case 3: // on into no descriptor
        flags(VIRTQ_DESC_F_NEXT);
        view.setUint16(14, size === 0x8000 ? 0xffff : size, true);
        break;
      case 4: // an indirect table of 4 bytes
        flags(VIRTQ_DESC_F_INDIRECT);
        break;
      default: // noise, its address far outside RAM
        for (let word = 0; word < VIRTQ_DESC_SIZE; word += 4) {
          view.setUint32(word, this.#below(0x1_0000_0000), true);
        }
        view.setUint32(4, 0x8000_0000 + this.#below(0x7fff_ffff), true);
        flags(this.#below(8) & ~VIRTQ_DESC_F_NEXT);
    }
  }
}
