import fc from 'fast-check';
import { expect, it } from 'vitest';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { KIB, PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { NextElement } from '../../src/virtqueue/device-queue.js';
import { packQueue } from '../../src/virtqueue/layout.js';
import { effort } from '../support/long.js';
import { naiveChain } from '../support/naive-chain.js';
import { type RawDescriptor, RawPair, RingPair, WitnessedLog } from '../support/ring-pair.js';

/** For each property: all of them together stay below 5 s. */
const TIME_LIMIT_MS = 1000;

interface Buffer {
  readonly gpa: number;
  readonly lengthBytes: number;
  readonly writable: boolean;
}

/** Whether one of the entries from index `from` to before `to` is the one that was asked for; indices are 16 bits. */
function passes(from: number, to: number, event: number): boolean {
  for (let idx = from; idx < to; idx += 1) {
    if ((idx & 0xffff) === event) {
      return true;
    }
  }
  return false;
}

/** What a side has last asked for: to be left alone, or to be told of the entry with an index. */
class Wish {
  polls = false;
  event = 0;
  /** It has seen that there is nothing, and waits to be told. */
  sleeps = false;

  /** Whether it is to be told of entries `from` … `to`, by the letter of § 2.7.7 and § 2.7.10. */
  isNews(from: number, to: number, eventIdx: boolean): boolean {
    return eventIdx ? passes(from, to, this.event) : from < to && !this.polls;
  }
}

/** A queue as anyone would write it: arrays, indices that never wrap, and what each side has asked for. */
class Model {
  /** Added but not published, published but not taken, taken but not returned. */
  readonly added: Buffer[] = [];
  readonly published: Buffer[] = [];
  readonly taken: Buffer[] = [];
  readonly device = new Wish();
  readonly driver = new Wish();
  availIdx: number;
  takenIdx: number;
  usedIdx: number;
  reclaimedIdx: number;

  constructor(startIndex: number) {
    this.availIdx = startIndex;
    this.takenIdx = startIndex;
    this.usedIdx = startIndex;
    this.reclaimedIdx = startIndex;
  }

  get reclaimable(): number {
    return this.usedIdx - this.reclaimedIdx;
  }

  get inUse(): number {
    return this.added.length + this.published.length + this.taken.length + this.reclaimable;
  }
}

interface Play {
  readonly pair: RingPair;
  readonly model: Model;
  readonly size: number;
  readonly eventIdx: boolean;
  serial: number;
}

/** The driver adds `count` buffers as far as they fit, publishes, and looks whether to notify. */
function driverAdds(play: Play, count: number): void {
  const { pair, model, size } = play;
  for (let i = 0; i < count; i += 1) {
    play.serial += 1;
    const buffer = {
      gpa: (play.serial * 8) % (60 * KIB),
      lengthBytes: 1 + (play.serial % 4096),
      writable: play.serial % 3 !== 0,
    };
    const fits = model.inUse < size;
    const head = buffer.writable
      ? pair.driver.tryAddInbuf(buffer.gpa, buffer.lengthBytes)
      : pair.driver.tryAddOutbuf(buffer.gpa, buffer.lengthBytes);
    if (head >= 0 !== fits) {
      expect.fail(`descriptor ${head} for a buffer, with ${model.inUse} of ${size} in use`);
    }
    if (fits) {
      model.added.push(buffer);
    }
  }
}

function driverPublishes({ pair, model, eventIdx }: Play): void {
  const from = model.availIdx;
  model.availIdx += model.added.length;
  model.published.push(...model.added.splice(0));
  pair.driver.publish();
  const notified = pair.driver.needsNotification();
  expect(notified).toBe(model.device.isNews(from, model.availIdx, eventIdx));
  if (model.availIdx > from && model.device.sleeps) {
    expect(notified, 'a device that sleeps must be told').toBe(true);
    model.device.sleeps = false;
  }
}

/** The device takes up to `limit` elements of a batch, in the order in which they were added. */
function deviceTakes({ pair, model }: Play, limit: number): void {
  expect(pair.device.refresh()).toBe(model.published.length > 0);
  expect(pair.device.batch).toBe(model.published.length);
  for (let i = 0; i < limit; i += 1) {
    const expected = model.published.shift();
    const result = pair.device.next(pair.element);
    if (expected === undefined || result !== NextElement.element) {
      expect(result).toBe(expected === undefined ? NextElement.none : NextElement.element);
      return;
    }
    model.taken.push(expected);
    model.takenIdx += 1;
    const { element } = pair;
    const isExpected =
      element.segmentCount === 1 &&
      element.gpa[0] === expected.gpa &&
      element.lengthBytes[0] === expected.lengthBytes &&
      (element.writable[0] !== 0) === expected.writable;
    if (!isExpected) {
      const came = [element.gpa[0], element.lengthBytes[0], element.writable[0]].join(', ');
      expect.fail(`${came} came, and not ${fc.stringify(expected)}`);
    }
    pair.device.pushUsed(element.head, 0);
  }
}

function deviceReturns({ pair, model, eventIdx }: Play): void {
  const from = model.usedIdx;
  model.usedIdx += model.taken.splice(0).length;
  pair.device.publishUsed();
  const interrupted = pair.device.needsInterrupt();
  expect(interrupted).toBe(model.driver.isNews(from, model.usedIdx, eventIdx));
  if (model.usedIdx > from && model.driver.sleeps) {
    expect(interrupted, 'a driver that sleeps must be told').toBe(true);
    model.driver.sleeps = false;
  }
}

function driverReclaims({ pair, model, size }: Play): void {
  expect(pair.driver.reclaim()).toBe(model.reclaimable);
  model.reclaimedIdx = model.usedIdx;
  expect(pair.driver.freeCount).toBe(size - model.inUse);
  expect(pair.driver.idle).toBe(model.inUse === 0);
}

function deviceArms({ pair, model }: Play): void {
  const pending = pair.device.enableNotifications();
  expect(pending).toBe(model.published.length > 0);
  Object.assign(model.device, { polls: false, event: model.takenIdx & 0xffff, sleeps: !pending });
}

function driverArms({ pair, model }: Play): void {
  const pending = pair.driver.enableInterrupts();
  expect(pending).toBe(model.reclaimable > 0);
  Object.assign(model.driver, { polls: false, event: model.reclaimedIdx & 0xffff, sleeps: !pending });
}

/** With EVENT_IDX: to be told of the entry that was last, 65535 from now. */
function devicePolls({ pair, model }: Play): void {
  pair.device.disableNotifications();
  Object.assign(model.device, { polls: true, event: (model.takenIdx - 1) & 0xffff, sleeps: false });
}

function driverPolls({ pair, model }: Play): void {
  pair.driver.disableInterrupts();
  Object.assign(model.driver, { polls: true, event: (model.reclaimedIdx - 1) & 0xffff, sleeps: false });
}

type Action = readonly [name: string, act: (play: Play) => void];

const actions: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .integer({ min: 1, max: 70 })
      .map((n): Action => [`add ${n}`, (play) => driverAdds(play, n)]),
  },
  { weight: 3, arbitrary: fc.constant<Action>(['publish', driverPublishes]) },
  {
    weight: 4,
    arbitrary: fc
      .integer({ min: 1, max: 70 })
      .map((n): Action => [`take ${n}`, (play) => deviceTakes(play, n)]),
  },
  { weight: 3, arbitrary: fc.constant<Action>(['return', deviceReturns]) },
  { weight: 3, arbitrary: fc.constant<Action>(['reclaim', driverReclaims]) },
  { weight: 2, arbitrary: fc.constant<Action>(['device arms', deviceArms]) },
  { weight: 2, arbitrary: fc.constant<Action>(['driver arms', driverArms]) },
  fc.constant<Action>(['device polls', devicePolls]),
  fc.constant<Action>(['driver polls', driverPolls]),
);

const rings = fc.record({
  size: fc.integer({ min: 0, max: 6 }).map((order) => 2 ** order),
  eventIdx: fc.boolean(),
  startIndex: fc.oneof(fc.integer({ min: 0xffc0, max: 0xffff }), fc.nat(0xffff), fc.constant(0)),
});

it('behaves like a plain array between a driver and a device, in both notification modes, over the wrap', () => {
  const layout = new RamLayout([{ startGpa: 0, endGpa: 64 * KIB }]);
  fc.assert(
    fc.property(rings, fc.array(actions, { maxLength: 80, size: 'max' }), (ring, program) => {
      const memory = new PrivateGuestMemory(layout);
      const pair = new RingPair({ ...ring, memory });
      const { size, eventIdx, startIndex } = ring;
      const play = { pair, model: new Model(startIndex), size, eventIdx, serial: 0 };
      for (const [, act] of program) {
        act(play);
        expect(pair.device.fault).toBeUndefined();
      }
      // Whatever was under way comes out at the end.
      driverPublishes(play);
      deviceTakes(play, Number.POSITIVE_INFINITY);
      deviceReturns(play);
      driverReclaims(play);
      expect(pair.driver.idle).toBe(true);
      const idx = play.model.availIdx & 0xffff;
      expect(pair.device.saveState()).toEqual({ lastAvailIdx: idx, usedIdx: idx });
      expect(pair.driver.saveState()).toMatchObject({ availIdx: idx, publishedIdx: idx, lastUsedIdx: idx });
    }),
    effort(400, TIME_LIMIT_MS),
  );
});

it('I1 leaves no write unmarked, whatever driver and device do', () => {
  const layout = new RamLayout([{ startGpa: 0, endGpa: 64 * KIB }]);
  // One of the three areas straddles the end of a page: so many thousandths of it lie before that.
  const places = fc.record({ area: fc.constantFrom('descGpa', 'availGpa', 'usedGpa'), before: fc.nat(1000) });
  fc.assert(
    fc.property(rings, places, fc.array(actions, { maxLength: 40, size: 'max' }), (ring, place, program) => {
      const memory = new PrivateGuestMemory(layout);
      const witness = new WitnessedLog(memory);
      const size = ring.size * 8;
      const bytes = { descGpa: size * 16, availGpa: 6 + size * 2, usedGpa: 6 + size * 8 }[place.area];
      const before = packQueue(0, size)[place.area] + (bytes * place.before) / 1000;
      const gpa = Math.floor((4 * PAGE_SIZE - before) / 16) * 16;
      const pair = new RingPair({ ...ring, size, memory, log: witness.log, gpa });
      witness.forget();
      const { eventIdx, startIndex } = ring;
      const play = { pair, model: new Model(startIndex), size, eventIdx, serial: 0 };
      for (const [, act] of [
        ...program,
        ['publish', driverPublishes],
        ['return', deviceReturns],
      ] as Action[]) {
        act(play);
        // Nothing under way is not published: a guest could be stopped here.
        if (play.model.added.length === 0 && play.model.taken.length === 0) {
          const unmarked = witness.unmarkedPages();
          if (unmarked.length > 0) {
            expect(unmarked).toEqual([]);
          }
        }
      }
    }),
    effort(300, TIME_LIMIT_MS),
  );
});

it('takes of a ring of any bytes what its naive twin takes, and finds the same fault, which stays', () => {
  const layout = new RamLayout([
    { startGpa: 0, endGpa: 8 * KIB },
    { startGpa: 64 * KIB, endGpa: 128 * KIB },
  ]);
  const SIZE = 8;
  const INDIRECT_GPA = KIB;
  const small = fc.nat(SIZE + 1);
  const descriptors = fc.record({
    // Mostly RAM, often the ring itself or its table, now and then anywhere.
    gpa: fc.oneof(fc.nat(8 * KIB), fc.nat(128 * KIB), fc.nat(0xffff_ffff), fc.constant(INDIRECT_GPA)),
    gpaHigh: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.nat(0xffff_ffff)),
    lengthBytes: fc.oneof(
      small.map((entries) => entries * 16),
      fc.nat(4096),
      { weight: 1, arbitrary: fc.nat(0xffff_ffff) },
    ),
    flags: fc.oneof({ weight: 9, arbitrary: fc.nat(7) }, fc.nat(0xffff)),
    next: fc.oneof({ weight: 9, arbitrary: small }, fc.nat(0xffff)),
  });
  /**
   * A chain as it should be: readable descriptors, then writable ones, the last of them perhaps in an indirect table.
   * Or almost: one too many, or one of them in the other direction.
   */
  const chains = fc.record({
    direct: fc.nat(SIZE - 1),
    indirect: small,
    readable: small,
    turned: fc.oneof({ weight: 2, arbitrary: fc.constant(-1) }, small),
  });
  const almostGood = chains.map(({ direct, indirect, readable, turned }) => {
    const part = (i: number, next: number, isLast: boolean): RawDescriptor => ({
      gpa: 64 * KIB + i * 16,
      lengthBytes: 16 + i,
      flags: (isLast ? 0 : 1) | (i < readable === (i === turned) ? 2 : 0),
      next,
    });
    const table = Array.from({ length: direct }, (_, i) =>
      part(i, i + 1, indirect === 0 && i === direct - 1),
    );
    const link = { gpa: INDIRECT_GPA, lengthBytes: indirect * 16, flags: 4 };
    return {
      table: indirect === 0 ? table : [...table, link],
      indirect: Array.from({ length: indirect }, (_, i) => part(direct + i, i + 1, i === indirect - 1)),
    };
  });
  const bytes = fc.record({
    table: fc.array(descriptors, { minLength: SIZE, maxLength: SIZE }),
    // An indirect table where some of the descriptors above may point.
    indirect: fc.array(descriptors, { maxLength: SIZE }),
  });
  const heads = fc.oneof({ weight: 9, arbitrary: fc.nat(SIZE - 1) }, fc.constant(SIZE), fc.nat(0xffff));
  const offers = fc.record({
    heads: fc.oneof(fc.array(heads, { minLength: 1, maxLength: SIZE }), fc.constant([0])),
    // The index is further on than what was offered.
    extra: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.nat(SIZE + 1), fc.nat(0xffff)),
  });
  const seen = { runs: 0, elements: 0, faults: new Set<string>() };
  fc.assert(
    fc.property(fc.oneof(bytes, almostGood), offers, ({ table, indirect }, { heads: offered, extra }) => {
      const memory = new PrivateGuestMemory(layout);
      const pair = new RawPair({ size: SIZE, memory, gpa: 0 });
      table.forEach((descriptor, i) => {
        pair.raw.descriptor(i, descriptor);
      });
      indirect.forEach((descriptor, i) => {
        pair.raw.descriptorAt(INDIRECT_GPA + i * 16, descriptor);
      });
      for (const head of offered) {
        pair.raw.offer(head);
      }
      pair.raw.availIdx += extra;
      seen.runs += 1;
      const batch = (offered.length + extra) & 0xffff;
      expect(pair.device.refresh()).toBe(batch > 0 && batch <= SIZE);
      let expectedFault: string | undefined = batch > SIZE ? 'INDEX_TOO_FAR_AHEAD' : undefined;
      for (let taken = 0; taken < batch && expectedFault === undefined; taken += 1) {
        const head = pair.raw.readAvailEntry(taken);
        const chain = naiveChain(memory, pair.addresses, head);
        const result = pair.device.next(pair.element);
        if (typeof chain === 'string') {
          expectedFault = chain;
        } else {
          seen.elements += 1;
          expect(result).toBe(NextElement.element);
          expect(pair.element.head).toBe(head);
          expect(pair.segments).toEqual(chain);
          pair.device.pushUsed(head, 0);
        }
      }
      pair.device.publishUsed();
      const { fault } = pair.device;
      expect(fault?.code).toBe(expectedFault);
      if (fault === undefined) {
        expect(pair.device.next(pair.element)).toBe(NextElement.none);
      } else {
        seen.faults.add(fault.code);
        expect(pair.device.next(pair.element)).toBe(NextElement.broken);
        expect(pair.takeNext()).toBe(NextElement.broken);
        expect(pair.device.fault).toBe(fault);
      }
    }),
    effort(3000, TIME_LIMIT_MS),
  );
  // The run met good chains and every way to be wrong (unless the time was up at once).
  if (seen.runs > 1000) {
    expect(seen.elements).toBeGreaterThan(0);
    expect([...seen.faults].sort()).toEqual([
      'CHAIN_TOO_LONG',
      'HEAD_OUT_OF_RANGE',
      'INDEX_TOO_FAR_AHEAD',
      'INDIRECT_BAD_FLAGS',
      'INDIRECT_BAD_LENGTH',
      'NEXT_OUT_OF_RANGE',
      'OUT_OF_RAM',
      'READABLE_AFTER_WRITABLE',
      'ZERO_LENGTH',
    ]);
  }
});
