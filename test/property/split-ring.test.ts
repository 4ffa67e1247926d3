import fc from 'fast-check';
import { expect, it } from 'vitest';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { KIB, PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { NextElement } from '../../src/virtqueue/device-queue.js';
import { RawPair, RingPair, WitnessedLog } from '../support/ring-pair.js';

const TIME_LIMIT_MS = 5000;

interface Buffer {
  readonly gpa: number;
  readonly lengthBytes: number;
  readonly writable: boolean;
}

/** A queue as anyone would write it: two arrays, and who has said that it sleeps. */
class Model {
  /** Added but not published, published but not taken, taken but not returned, returned but not reclaimed. */
  readonly added: Buffer[] = [];
  readonly published: Buffer[] = [];
  readonly taken: Buffer[] = [];
  returned = 0;
  reclaimable = 0;
  /** Whether the side polls (it wants no news), sleeps (it must get news), or has been told, or never said. */
  device: 'polls' | 'sleeps' | 'awake' = 'awake';
  driver: 'polls' | 'sleeps' | 'awake' = 'awake';

  get inUse(): number {
    return this.added.length + this.published.length + this.taken.length + this.returned + this.reclaimable;
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
    expect(head >= 0).toBe(fits);
    if (fits) {
      model.added.push(buffer);
    }
  }
}

function driverPublishes({ pair, model, eventIdx }: Play): void {
  const isNews = model.added.length > 0;
  model.published.push(...model.added.splice(0));
  pair.driver.publish();
  const notified = pair.driver.needsNotification();
  if (!isNews || (model.device === 'polls' && !eventIdx)) {
    expect(notified).toBe(false);
  } else if (model.device === 'sleeps') {
    expect(notified).toBe(true);
    model.device = 'awake';
  }
}

/** The device takes up to `limit` elements of a batch, in the order in which they were added. */
function deviceTakes({ pair, model }: Play, limit: number): void {
  expect(pair.device.refresh()).toBe(model.published.length > 0);
  expect(pair.device.batch).toBe(model.published.length);
  for (let i = 0; i < limit; i += 1) {
    const expected = model.published.shift();
    const result = pair.device.next(pair.element);
    expect(result).toBe(expected === undefined ? NextElement.none : NextElement.element);
    if (expected === undefined) {
      return;
    }
    model.taken.push(expected);
    const { element } = pair;
    expect(element.segmentCount).toBe(1);
    expect({
      gpa: element.gpa[0],
      lengthBytes: element.lengthBytes[0],
      writable: element.writable[0] !== 0,
    }).toEqual(expected);
    pair.device.pushUsed(element.head, 0);
  }
}

function deviceReturns({ pair, model, eventIdx }: Play): void {
  const isNews = model.taken.length > 0;
  model.reclaimable += model.taken.length;
  model.taken.length = 0;
  pair.device.publishUsed();
  const interrupted = pair.device.needsInterrupt();
  if (!isNews || (model.driver === 'polls' && !eventIdx)) {
    expect(interrupted).toBe(false);
  } else if (model.driver === 'sleeps') {
    expect(interrupted).toBe(true);
    model.driver = 'awake';
  }
}

function driverReclaims({ pair, model, size }: Play): void {
  expect(pair.driver.reclaim()).toBe(model.reclaimable);
  model.reclaimable = 0;
  expect(pair.driver.freeCount).toBe(size - model.inUse);
  expect(pair.driver.idle).toBe(model.inUse === 0);
}

function deviceArms({ pair, model }: Play): void {
  const pending = pair.device.enableNotifications();
  expect(pending).toBe(model.published.length > 0);
  model.device = pending ? 'awake' : 'sleeps';
}

function driverArms({ pair, model }: Play): void {
  const pending = pair.driver.enableInterrupts();
  expect(pending).toBe(model.reclaimable > 0);
  model.driver = pending ? 'awake' : 'sleeps';
}

function devicePolls({ pair, model }: Play): void {
  pair.device.disableNotifications();
  model.device = 'polls';
}

function driverPolls({ pair, model }: Play): void {
  pair.driver.disableInterrupts();
  model.driver = 'polls';
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
      const play = { pair, model: new Model(), size: ring.size, eventIdx: ring.eventIdx, serial: 0 };
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
    }),
    { numRuns: 400, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});

it('I1 leaves no write unmarked, whatever driver and device do', () => {
  // Rings that straddle page ends: of the available ring, of the used ring, of the descriptor table.
  const layout = new RamLayout([{ startGpa: 0, endGpa: 64 * KIB }]);
  const places = fc.integer({ min: 0, max: 96 }).map((step) => step * 16 + 2 * PAGE_SIZE);
  fc.assert(
    fc.property(rings, places, fc.array(actions, { maxLength: 40, size: 'max' }), (ring, gpa, program) => {
      const memory = new PrivateGuestMemory(layout);
      const witness = new WitnessedLog(memory);
      const size = ring.size * 8;
      const pair = new RingPair({ ...ring, size, memory, log: witness.log, gpa: gpa + 0xa00 });
      witness.forget();
      const play = { pair, model: new Model(), size, eventIdx: ring.eventIdx, serial: 0 };
      for (const [, act] of [
        ...program,
        ['publish', driverPublishes],
        ['return', deviceReturns],
      ] as Action[]) {
        act(play);
      }
      expect(witness.unmarkedPages()).toEqual([]);
    }),
    { numRuns: 300, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
});

it('survives a ring of random bytes: no throw, no hang, no segment outside RAM, and a fault stays', () => {
  const layout = new RamLayout([
    { startGpa: 0, endGpa: 8 * KIB },
    { startGpa: 64 * KIB, endGpa: 128 * KIB },
  ]);
  const SIZE = 8;
  const small = fc.nat(SIZE + 1);
  const descriptors = fc.record({
    // Mostly RAM, often the ring itself or its table, now and then anywhere.
    gpa: fc.oneof(fc.nat(8 * KIB), fc.nat(128 * KIB), fc.nat(0xffff_ffff)),
    gpaHigh: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.nat(0xffff_ffff)),
    lengthBytes: fc.oneof(
      small.map((entries) => entries * 16),
      fc.nat(4096),
      { weight: 1, arbitrary: fc.nat(0xffff_ffff) },
    ),
    flags: fc.oneof({ weight: 9, arbitrary: fc.nat(7) }, fc.nat(0xffff)),
    next: fc.oneof({ weight: 9, arbitrary: small }, fc.nat(0xffff)),
  });
  const heads = fc.oneof({ weight: 9, arbitrary: fc.nat(SIZE - 1) }, fc.nat(0xffff));
  const hostile = fc.record({
    table: fc.array(descriptors, { minLength: SIZE, maxLength: SIZE }),
    // An indirect table where some of the descriptors above may point.
    indirect: fc.array(descriptors, { maxLength: SIZE }),
    heads: fc.array(heads, { minLength: 1, maxLength: SIZE }),
    extra: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.nat(0xffff)),
  });
  const seen = { elements: 0, faults: new Set<string>() };
  fc.assert(
    fc.property(hostile, ({ table, indirect, heads: offered, extra }) => {
      const memory = new PrivateGuestMemory(layout);
      const pair = new RawPair({ size: SIZE, memory, gpa: 0 });
      table.forEach((descriptor, i) => {
        pair.raw.descriptor(i, descriptor);
      });
      indirect.forEach((descriptor, i) => {
        pair.raw.descriptorAt(KIB + i * 16, descriptor);
      });
      for (const head of offered) {
        pair.raw.offer(head);
      }
      pair.raw.availIdx += extra;
      // Never more elements than the queue is long, from one look at the index.
      pair.device.refresh();
      let result: number = NextElement.element;
      for (let taken = 0; result === NextElement.element; taken += 1) {
        expect(taken).toBeLessThanOrEqual(SIZE);
        result = pair.device.next(pair.element);
        if (result === NextElement.element) {
          seen.elements += 1;
          expect(pair.segments.length).toBeGreaterThan(0);
          expect(pair.segments.length).toBeLessThanOrEqual(SIZE);
          for (const { gpa, lengthBytes } of pair.segments) {
            expect(layout.containsRange(gpa, lengthBytes)).toBe(true);
          }
          pair.device.pushUsed(pair.element.head, 0);
        }
      }
      pair.device.publishUsed();
      const { fault } = pair.device;
      expect(result === NextElement.broken).toBe(fault !== undefined);
      if (fault !== undefined) {
        seen.faults.add(fault.code);
        expect(pair.takeNext()).toBe(NextElement.broken);
        expect(pair.device.fault).toBe(fault);
      }
    }),
    { numRuns: 3000, interruptAfterTimeLimit: TIME_LIMIT_MS },
  );
  // The rings were of every kind: the run met good chains and more than one way to be wrong.
  expect(seen.elements).toBeGreaterThan(0);
  expect(seen.faults.size).toBeGreaterThan(3);
});
