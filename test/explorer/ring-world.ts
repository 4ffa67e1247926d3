import { LacunaError } from '../../src/errors.js';
import { DirtyLog } from '../../src/memory/dirty-log.js';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf } from '../../src/memory/page.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { DeviceQueue, NextElement, QueueElement } from '../../src/virtqueue/device-queue.js';
import { DriverQueue } from '../../src/virtqueue/driver-queue.js';
import type { QueueAddresses } from '../../src/virtqueue/layout.js';
import { type Activity, type Actor, Gate, noActivity } from './gate.js';
import { Memento, type MemoryRange } from './memento.js';
import { Violation, type World } from './search.js';
import { type MemoryModel, StoreBuffer, WEAK_CONSTANTS, WeakMemory, weakMapper } from './weak-memory.js';

/** How large a world is. All of it together bounds the number of states. */
export interface RingBounds {
  readonly ringSize: number;
  /** How the two ask for notifications: by EVENT_IDX, or by flags. */
  readonly eventIdx: boolean;
  readonly model: MemoryModel;
  /** Where both indices stand at the start: 65534 wraps soon. */
  readonly startIndex: number;
  /** Buffers that the driver sends, one after the other. */
  readonly buffers: number;
  /** Buffers that the driver adds before it publishes them. */
  readonly batch: number;
  /** Buffers that the device uses before it publishes that. */
  readonly returnBatch: number;
  /** A mistake to be found: flags, indices and events are stored as if they were plain. */
  readonly plainHalfWords?: boolean;
  /** A mistake to be found: whoever has asked to be told goes to sleep without a second look. */
  readonly noSecondLook?: 'driver' | 'device';
}

// What the driver does next, as ReportDriver.step does it.
const RECLAIM = 0;
const ADD = 1;
const PUBLISH = 2;
const ANNOUNCE = 3;
const ENABLE_INTERRUPTS = 4;
const DISABLE_INTERRUPTS = 5;
const AWAIT_INTERRUPT = 6;
const FINISHED = 7;

// What the device does next, as BalloonDevice.poll and PrecopySource do it.
const TAKE_NOTIFIED = 16;
const REFRESH = 17;
const NEXT = 18;
const PUSH_USED = 19;
const PUBLISH_USED = 20;
const ANNOUNCE_USED = 21;
const DISABLE_NOTIFICATIONS = 22;
const ENABLE_NOTIFICATIONS = 23;
const AWAIT_KICK = 24;

const PIECES: Readonly<Record<number, string>> = {
  [RECLAIM]: 'reclaim',
  [ADD]: 'tryAdd',
  [PUBLISH]: 'publish',
  [ANNOUNCE]: 'needsNotification',
  [ENABLE_INTERRUPTS]: 'enableInterrupts',
  [DISABLE_INTERRUPTS]: 'disableInterrupts',
  [AWAIT_INTERRUPT]: 'sleeps',
  [FINISHED]: 'finished',
  [TAKE_NOTIFIED]: 'takeNotified',
  [REFRESH]: 'refresh',
  [NEXT]: 'next',
  [PUSH_USED]: 'pushUsed',
  [PUBLISH_USED]: 'publishUsed',
  [ANNOUNCE_USED]: 'needsInterrupt',
  [DISABLE_NOTIFICATIONS]: 'disableNotifications',
  [ENABLE_NOTIFICATIONS]: 'enableNotifications',
  [AWAIT_KICK]: 'sleeps',
};

// What can happen, by number; a store that comes adds its number in its thread's buffer.
const DRIVER_STEPS = 0;
const DEVICE_STEPS = 1;
const DRIVER_STORE_LANDS = 64;
const DEVICE_STORE_LANDS = 128;

/** The driver, and what it keeps to itself. */
class DriverSide {
  readonly queue: DriverQueue;
  doing: number = RECLAIM;
  added = 0;
  returned = 0;
  /** Buffers of the batch in hand. */
  inBatch = 0;

  constructor(queue: DriverQueue) {
    this.queue = queue;
  }
}

class DeviceSide {
  readonly queue: DeviceQueue;
  readonly element: QueueElement;
  doing: number = AWAIT_KICK;
  taken = 0;
  head = 0;
  /** Elements of the batch in hand that are still to be taken. */
  toTake = 0;
  /** It has had something to do since it began to poll. */
  handled = false;
  /** It has asked to be told, and not taken that back. */
  armed = true;

  constructor(queue: DeviceQueue, element: QueueElement) {
    this.queue = queue;
    this.element = element;
  }
}

class RingState {
  readonly driver: DriverSide;
  readonly device: DeviceSide;
  readonly driverActivity: Activity = noActivity();
  readonly deviceActivity: Activity = noActivity();
  readonly driverStores: StoreBuffer;
  readonly deviceStores: StoreBuffer;
  kicked = false;
  interrupted = false;

  constructor(driver: DriverSide, device: DeviceSide, driverStores: StoreBuffer, deviceStores: StoreBuffer) {
    this.driver = driver;
    this.device = device;
    this.driverStores = driverStores;
    this.deviceStores = deviceStores;
  }
}

const BUFFERS_GPA = gpaOf(7);
const RAM_PAGES = 8;

/**
 * Each area crosses a page border, so that what is marked is told apart from what is not:
 *
 * ```
 *   page 1           2              3              4               5                6
 *   … desc[0…] │ [size/2…]   … idx, ring[0…] │ [size/2…], event   … idx, used[0…] │ [size/2…], event
 * ```
 */
function addressesOf(size: number): QueueAddresses {
  return {
    size,
    descGpa: gpaOf(2) - Math.ceil(size / 2) * 16,
    availGpa: gpaOf(4) - 4 - (size & ~1),
    usedGpa: gpaOf(6) - 4 - size * 4,
  };
}

/**
 * The real driver's and the real device's side of a split ring, access by access.
 *
 * ```
 *   driver   reclaim ─▶ add … add ─▶ publish ─▶ wanted? kick ─┬─▶ (again)
 *               ▲                                             │ the ring is full, or all are sent
 *               └── interrupt ◀── sleep ◀── nothing yet ── ask for interrupts ── some already ─▶ take that back, (again)
 *
 *   device   take the kick ─▶ look ─▶ take … take ─▶ publish ─▶ wanted? interrupt ─▶ look …
 *               ▲               │ nothing more
 *               │               ├─ there was something: ask for no kicks, (again)
 *               └── kick ◀── sleep ◀── nothing yet ── ask for kicks ── some already ─▶ (again)
 * ```
 *
 * Each buffer is told from the others by its address, length and kind. As a device that returns buffers in order leaves
 * the free descriptors in order, buffer k always travels in descriptor k mod size, which makes everything that may be
 * seen anywhere in the ring predictable.
 */
export class RingWorld implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = ['avail', 'used', 'wishes', 'on their way', 'driver', 'device'];
  readonly #bounds: RingBounds;
  readonly #addresses: QueueAddresses;
  readonly #ram: WeakMemory;
  readonly #buffer: ArrayBuffer;
  readonly #halves: Uint16Array;
  readonly #gate = new Gate();
  readonly #state: RingState;
  readonly #driver: Actor;
  readonly #device: Actor;

  constructor(bounds: RingBounds) {
    this.#bounds = bounds;
    this.#addresses = addressesOf(bounds.ringSize);
    const layout = new RamLayout([{ startGpa: 0, endGpa: gpaOf(RAM_PAGES) }]);
    const memory = new PrivateGuestMemory(layout);
    this.#buffer = memory.segments[0]!.bytes.buffer as ArrayBuffer;
    this.#halves = new Uint16Array(this.#buffer);
    this.#ram = new WeakMemory(bounds.model, this.#buffer);
    const logBuffer = new ArrayBuffer(4);
    const stores = [new StoreBuffer(), new StoreBuffer()] as const;
    const sideOf = (buffer: StoreBuffer) => {
      const map = weakMapper({
        gate: this.#gate,
        memory: this.#ram,
        buffer,
        everyBuffer: stores,
        plainHalfWords: bounds.plainHalfWords === true,
      });
      return { map, log: new DirtyLog(new PageBitmap(map.words(logBuffer, 0, 1), RAM_PAGES)) };
    };
    const { eventIdx, startIndex, ringSize } = bounds;
    const ofDriver = sideOf(stores[0]);
    const ofDevice = sideOf(stores[1]);
    const fresh = new DriverQueue(memory, ofDriver.map, ofDriver.log, this.#addresses, eventIdx);
    const driver = new DriverQueue(memory, ofDriver.map, ofDriver.log, this.#addresses, eventIdx, {
      ...fresh.saveState(),
      availIdx: startIndex,
      publishedIdx: startIndex,
      lastUsedIdx: startIndex,
    });
    const device = new DeviceQueue(memory, ofDevice.map, ofDevice.log, this.#addresses, eventIdx, {
      lastAvailIdx: startIndex,
      usedIdx: startIndex,
    });
    this.#state = new RingState(
      new DriverSide(driver),
      new DeviceSide(device, new QueueElement(ringSize)),
      ...stores,
    );
    this.#begin(logBuffer);
    const options = {
      constantClasses: [...WEAK_CONSTANTS, PrivateGuestMemory, RamLayout, QueueElement, DirtyLog, Gate],
      constantFields: ['addresses'],
      foreign: [logBuffer],
    };
    const { descGpa, availGpa, usedGpa } = this.#addresses;
    const area = (gpa: number, lengthBytes: number): MemoryRange => {
      const from = gpa & ~3;
      return { words: new Int32Array(this.#buffer, from, Math.ceil((gpa + lengthBytes - from) / 4)) };
    };
    this.memento = new Memento(this.#state, {
      ...options,
      memory: [
        area(descGpa, ringSize * 16),
        area(availGpa, 6 + ringSize * 2),
        area(usedGpa, 6 + ringSize * 8),
      ],
    });
    const foreign = [logBuffer, this.#buffer];
    this.#driver = {
      name: 'driver',
      activity: this.#state.driverActivity,
      own: new Memento(this.#state.driver, { ...options, foreign, memory: [] }),
    };
    this.#device = {
      name: 'device',
      activity: this.#state.deviceActivity,
      own: new Memento(this.#state.device, { ...options, foreign, memory: [] }),
    };
  }

  /** As after boot: both indices where they start, the driver polls, the device sleeps and has asked to be told. */
  #begin(logBuffer: ArrayBuffer): void {
    const { driver, device, driverStores, deviceStores } = this.#state;
    const { availGpa, usedGpa } = this.#addresses;
    this.#ram.landAll(driverStores);
    this.#halves[availGpa / 2 + 1] = this.#bounds.startIndex;
    this.#halves[usedGpa / 2 + 1] = this.#bounds.startIndex;
    driver.queue.disableInterrupts();
    device.queue.enableNotifications();
    for (const buffer of [driverStores, deviceStores]) {
      this.#ram.landAll(buffer);
      buffer.unmarked = 0;
    }
    // What the log's word holds is nobody's business here: the ghosts tell marks. So it does not make states differ.
    new Int32Array(logBuffer).fill(-1);
  }

  actionsInto(out: number[]): void {
    const { driver, device, kicked, interrupted, driverStores, deviceStores } = this.#state;
    if (driver.doing !== FINISHED && (driver.doing !== AWAIT_INTERRUPT || interrupted)) {
      out.push(DRIVER_STEPS);
    }
    if (device.doing !== AWAIT_KICK || kicked) {
      out.push(DEVICE_STEPS);
    }
    this.#ram.landableInto(out, driverStores, DRIVER_STORE_LANDS);
    this.#ram.landableInto(out, deviceStores, DEVICE_STORE_LANDS);
  }

  perform(action: number): void {
    const { driverStores, deviceStores } = this.#state;
    try {
      if (action === DRIVER_STEPS) {
        this.#gate.advance(this.#driver, this.#driverPiece);
      } else if (action === DEVICE_STEPS) {
        this.#gate.advance(this.#device, this.#devicePiece);
      } else if (action >= DEVICE_STORE_LANDS) {
        this.#ram.landOne(deviceStores, action - DEVICE_STORE_LANDS);
      } else {
        this.#ram.landOne(driverStores, action - DRIVER_STORE_LANDS);
      }
    } catch (thrown) {
      if (thrown instanceof LacunaError) {
        throw new Violation('Q4', `the driver gives up: ${thrown.message}`);
      }
      throw thrown;
    }
  }

  check(): void {
    const { driver, device, kicked, interrupted } = this.#state;
    const { ringSize, startIndex, buffers } = this.#bounds;
    const { added, returned, doing } = driver;
    if (doing === AWAIT_INTERRUPT && device.doing === AWAIT_KICK && !kicked && !interrupted) {
      const work = `${added} of ${buffers} buffers were sent, ${device.taken} taken, ${returned} given back`;
      throw new Violation('Q7', `both sleep: ${work}`);
    }
    const { availGpa, usedGpa } = this.#addresses;
    const published = (this.#half(availGpa + 2) - startIndex) & 0xffff;
    const used = (this.#half(usedGpa + 2) - startIndex) & 0xffff;
    const inOrder = returned <= used && used <= device.taken && device.taken <= published;
    if (!inOrder || added > returned + ringSize) {
      const seen = `${added} added, ${published} published, ${device.taken} taken, ${used} used, ${returned} given back`;
      throw new Violation('order', seen);
    }
  }

  checkEnd(): void {
    const { driver, device, driverStores, deviceStores } = this.#state;
    if (
      driver.doing !== FINISHED ||
      device.doing !== AWAIT_KICK ||
      driver.returned !== this.#bounds.buffers
    ) {
      throw new Violation(
        'Q7',
        `it ends with ${driver.returned} of ${this.#bounds.buffers} buffers given back`,
      );
    }
    this.#settled(driverStores, 'I1');
    this.#settled(deviceStores, 'Q8');
  }

  // ── pieces of work: what is run again from its start until all its accesses are made ────────────────────────

  readonly #driverPiece = (): void => {
    const { driver, driverStores } = this.#state;
    const { queue } = driver;
    const { buffers, batch } = this.#bounds;
    switch (driver.doing) {
      case AWAIT_INTERRUPT:
        this.#gate.access(() => {
          this.#ram.landAll(driverStores);
          this.#state.interrupted = false;
        });
        driver.doing = RECLAIM;
        return;
      case RECLAIM:
        driver.returned += queue.reclaim();
        this.#checkFreeList();
        this.#checkIndex(queue.saveState().lastUsedIdx, driver.returned);
        this.#settled(driverStores, 'I1');
        driver.inBatch = 0;
        if (driver.added < buffers) {
          driver.doing = queue.freeCount > 0 ? ADD : ENABLE_INTERRUPTS;
        } else {
          driver.doing = queue.idle ? FINISHED : ENABLE_INTERRUPTS;
        }
        return;
      case ADD: {
        const number = driver.added;
        const gpa = gpaOfBuffer(number);
        const head = isWritable(number)
          ? queue.tryAddInbuf(gpa, lengthOfBuffer(number))
          : queue.tryAddOutbuf(gpa, lengthOfBuffer(number));
        if (head !== this.#headOf(number)) {
          throw new Violation('free list', `buffer ${number} was given descriptor ${head}`);
        }
        driver.added += 1;
        driver.inBatch += 1;
        driver.doing =
          driver.inBatch < batch && driver.added < buffers && queue.freeCount > 0 ? ADD : PUBLISH;
        return;
      }
      case PUBLISH:
        queue.publish();
        this.#settled(driverStores, 'I1');
        this.#checkIndex(queue.saveState().availIdx, driver.added);
        driver.doing = ANNOUNCE;
        return;
      case ANNOUNCE:
        if (queue.needsNotification()) {
          this.#gate.access(() => {
            this.#ram.landAll(driverStores);
            this.#state.kicked = true;
          });
        }
        // A batch that was cut short met a full ring.
        driver.doing = driver.inBatch < batch && driver.added < buffers ? ENABLE_INTERRUPTS : RECLAIM;
        driver.inBatch = 0;
        return;
      case ENABLE_INTERRUPTS: {
        const used = queue.enableInterrupts() && this.#bounds.noSecondLook !== 'driver';
        this.#settled(driverStores, 'I1');
        driver.doing = used ? DISABLE_INTERRUPTS : AWAIT_INTERRUPT;
        return;
      }
      case DISABLE_INTERRUPTS:
        queue.disableInterrupts();
        this.#settled(driverStores, 'I1');
        driver.doing = RECLAIM;
    }
  };

  readonly #devicePiece = (): void => {
    const { device, deviceStores } = this.#state;
    const { queue } = device;
    switch (device.doing) {
      case AWAIT_KICK:
      case TAKE_NOTIFIED:
        this.#gate.access(() => {
          this.#ram.landAll(deviceStores);
          this.#state.kicked = false;
        });
        device.handled = false;
        device.doing = REFRESH;
        break;
      case REFRESH:
        if (queue.refresh()) {
          this.#beginBatch(device);
        } else if (device.handled) {
          device.doing = device.armed ? DISABLE_NOTIFICATIONS : TAKE_NOTIFIED;
        } else {
          device.doing = ENABLE_NOTIFICATIONS;
        }
        break;
      case NEXT:
        this.#checkElement(device, queue.next(device.element));
        device.head = device.element.head;
        device.taken += 1;
        device.toTake -= 1;
        device.doing = PUSH_USED;
        break;
      case PUSH_USED:
        queue.pushUsed(device.head, 0);
        device.doing = device.toTake > 0 ? NEXT : PUBLISH_USED;
        break;
      case PUBLISH_USED:
        queue.publishUsed();
        this.#settled(deviceStores, 'Q8');
        this.#checkIndex(queue.saveState().usedIdx, device.taken);
        this.#checkIndex(queue.saveState().lastAvailIdx, device.taken);
        if (queue.batch === 0 && queue.next(device.element) !== NextElement.none) {
          throw new Violation(
            'order',
            `there is an element after the last that was published, ${device.taken}`,
          );
        }
        device.doing = ANNOUNCE_USED;
        break;
      case ANNOUNCE_USED:
        if (queue.needsInterrupt()) {
          this.#gate.access(() => {
            this.#ram.landAll(deviceStores);
            this.#state.interrupted = true;
          });
        }
        device.handled = true;
        device.doing = REFRESH;
        if (queue.batch > 0) {
          this.#beginBatch(device);
        }
        break;
      case DISABLE_NOTIFICATIONS:
        queue.disableNotifications();
        this.#settled(deviceStores, 'Q8');
        device.armed = false;
        device.doing = TAKE_NOTIFIED;
        break;
      case ENABLE_NOTIFICATIONS:
        if (queue.enableNotifications() && this.#bounds.noSecondLook !== 'device') {
          device.doing = TAKE_NOTIFIED;
        } else {
          device.armed = true;
          device.doing = AWAIT_KICK;
        }
        this.#settled(deviceStores, 'Q8');
    }
    if (queue.fault !== undefined) {
      throw new Violation('Q4', `the device takes the ring for corrupt: ${queue.fault.message}`);
    }
  };

  #beginBatch(device: DeviceSide): void {
    device.toTake = Math.min(device.queue.batch, this.#bounds.returnBatch);
    device.doing = NEXT;
  }

  // ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

  #headOf(number: number): number {
    return number & (this.#bounds.ringSize - 1);
  }

  /** The device sees the buffers one after the other, each once, as the driver published it. */
  #checkElement({ element, taken, queue }: DeviceSide, found: number): void {
    if (found !== NextElement.element) {
      throw new Violation('Q4', `buffer ${taken} is not there: ${queue.fault?.message}`);
    }
    const seen = bufferText(
      element.head,
      element.gpa[0]!,
      element.lengthBytes[0]!,
      element.writable[0] !== 0,
    );
    const expected = bufferText(
      this.#headOf(taken),
      gpaOfBuffer(taken),
      lengthOfBuffer(taken),
      isWritable(taken),
    );
    if (seen !== expected || element.segmentCount !== 1) {
      throw new Violation('content', `the device sees ${seen}; buffer ${taken} is ${expected}`);
    }
  }

  /** An index that a side keeps to itself (and that travels with it), against how many buffers it has seen. */
  #checkIndex(index: number, count: number): void {
    if (index !== ((this.#bounds.startIndex + count) & 0xffff)) {
      throw new Violation('Q2', `an index is ${index} after ${count} from ${this.#bounds.startIndex}`);
    }
  }

  /** The descriptors that are free, in the order in which they came back; the rest is with the device. */
  #checkFreeList(): void {
    const { driver, driverStores } = this.#state;
    const { queue, added, returned } = driver;
    const { freeCount, freeHead, freeTail } = queue.saveState();
    if (freeCount !== this.#bounds.ringSize - (added - returned)) {
      throw new Violation(
        'free list',
        `${freeCount} are free; ${added} were added and ${returned} came back`,
      );
    }
    const free: number[] = [];
    for (let i = 0, head = freeHead; i < freeCount; i += 1) {
      free.push(head);
      head =
        this.#ram.load(driverStores, WeakMemory.place(this.#addresses.descGpa + head * 16 + 12, 4)) >>> 16;
    }
    const expected = free.map((_, i) => this.#headOf(added + i));
    if (free.join() !== expected.join() || (freeCount > 0 && freeTail !== expected.at(-1))) {
      throw new Violation('free list', `${free.join()} (to ${freeTail}) are free; ${expected.join()} are`);
    }
  }

  /** At the end of a piece of work everything that it wrote has come to memory and was marked after that. */
  #settled({ pending, unmarked }: StoreBuffer, invariant: string): void {
    if (pending.length > 0 || unmarked !== 0) {
      const pages = Array.from({ length: RAM_PAGES }, (_, pfn) => pfn).filter(
        (pfn) => (unmarked >>> pfn) & 1,
      );
      const late = pending.length > 0 ? `; ${pending.length / 2} stores are still on their way` : '';
      throw new Violation(
        invariant,
        `pages ${pages.join(', ') || '–'} were written and not marked since${late}`,
      );
    }
  }

  // ── in words ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Rehearses the action to see which access it makes. */
  describe(action: number): { who: string; what: string } {
    const { driver, device, driverStores, deviceStores } = this.#state;
    if (action >= DRIVER_STORE_LANDS) {
      const ofDevice = action >= DEVICE_STORE_LANDS;
      const { pending } = ofDevice ? deviceStores : driverStores;
      const at = (action - (ofDevice ? DEVICE_STORE_LANDS : DRIVER_STORE_LANDS)) * 2;
      const who = ofDevice ? 'device' : 'driver';
      return { who, what: `(a store lands: ${this.#placeText(pending[at]! >>> 2)} = ${pending[at + 1]})` };
    }
    const [who, piece] =
      action === DRIVER_STEPS ? ['driver', PIECES[driver.doing]] : ['device', PIECES[device.doing]];
    const { last } = this.#ram;
    last.does = 'nothing';
    const here = this.memento.save();
    try {
      this.perform(action);
    } catch (thrown) {
      if (!(thrown instanceof Violation)) {
        throw thrown;
      }
    }
    this.memento.restore(here);
    return { who: who!, what: `${piece}: ${this.#accessText()}` };
  }

  #accessText(): string {
    const { does, at, value } = this.#ram.last;
    switch (does) {
      case 'nothing':
        return 'takes or gives a notification';
      case 'marks':
        return `marks pages ${value.toString(2)}`;
      default:
        return `${does} ${this.#placeText(at)} ${does === 'loads' ? '→' : '='} ${value}`;
    }
  }

  #placeText(address: number): string {
    const { size, descGpa, availGpa, usedGpa } = this.#addresses;
    if (address >= usedGpa) {
      const at = address - usedGpa;
      const element = (at - 4) >>> 3;
      const field = at % 8 === 4 ? 'id' : 'len';
      return at < 4
        ? `used.${at === 0 ? 'flags' : 'idx'}`
        : element < size
          ? `used[${element}].${field}`
          : 'avail_event';
    }
    if (address >= availGpa) {
      const at = (address - availGpa) / 2;
      return at < 2
        ? `avail.${at === 0 ? 'flags' : 'idx'}`
        : at < size + 2
          ? `avail[${at - 2}]`
          : 'used_event';
    }
    const at = address - descGpa;
    return `desc[${at >>> 4}].${['addr', 'addr high', 'len', 'flags'][(at & 15) / 4]}`;
  }

  #half(address: number): number {
    return this.#halves[address / 2]!;
  }

  cells(): string[] {
    const { driver, device, driverStores, deviceStores, kicked, interrupted } = this.#state;
    const { size, availGpa, usedGpa } = this.#addresses;
    const { eventIdx } = this.#bounds;
    const pendingText = ({ pending }: StoreBuffer): string =>
      pending.map((word, i) => (i % 2 === 0 ? this.#placeText(word >>> 2) : word)).join(' ');
    const avail = Array.from({ length: size }, (_, i) => this.#half(availGpa + 4 + i * 2));
    const used = Array.from({ length: size }, (_, i) => this.#half(usedGpa + 4 + i * 8));
    const wishes = eventIdx
      ? [this.#half(availGpa + 4 + size * 2), this.#half(usedGpa + 4 + size * 8)]
      : [this.#half(availGpa), this.#half(usedGpa)];
    return [
      `${this.#half(availGpa + 2)} [${avail.join()}]`,
      `${this.#half(usedGpa + 2)} [${used.join()}]`,
      `driver ${wishes[0]}, device ${wishes[1]}`,
      [pendingText(driverStores), pendingText(deviceStores)].filter((text) => text !== '').join(' | ') || '–',
      `${PIECES[driver.doing]}, ${driver.added} sent, ${driver.returned} back${interrupted ? ', interrupted' : ''}`,
      `${PIECES[device.doing]}, ${device.taken} taken${kicked ? ', kicked' : ''}`,
    ];
  }
}

function gpaOfBuffer(number: number): number {
  return BUFFERS_GPA + number * 64;
}

function lengthOfBuffer(number: number): number {
  return number + 1;
}

function isWritable(number: number): boolean {
  return number % 2 === 0;
}

function bufferText(head: number, gpa: number, lengthBytes: number, writable: boolean): string {
  return `${lengthBytes} bytes at ${gpa} to ${writable ? 'write' : 'read'} in descriptor ${head}`;
}
