import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hostRegisters, kindOf } from '../../src/balloon/future-registers.js';
import { type GuestDevice, makeGuestDevice } from '../../src/balloon/guest-device.js';
import { VcpuTraps } from '../../src/balloon/registers.js';
import type { RequestInterface } from '../../src/balloon/request-interface.js';
import { isLacunaError } from '../../src/errors.js';
import { PageContent } from '../../src/guest/content.js';
import { GuestRuntime } from '../../src/guest/runtime.js';
import { parseTrace } from '../../src/guest/trace-file.js';
import { decodeRegisters } from '../../src/guest/vcpu.js';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { MIB } from '../../src/memory/page.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { type ArrivalPlace, parseDeviceState, type SavedState } from '../../src/vmm/device-state.js';
import {
  at,
  type Json,
  nameOf,
  type Path,
  packState,
  pathsOf,
  unpackedState,
  withValue,
} from '../support/device-states.js';
import { effort, every } from '../support/long.js';
import { madeUpTrace, type Ram } from '../support/made-up-trace.js';
import {
  type BootedGuest,
  type BootOptions,
  bootGuest,
  makeControl,
  replaying,
} from '../unit/guest/booted.js';
import { makeLog } from '../unit/guest/small-guest.js';

/** A guest that stands still somewhere, and its state. */
interface Stopped {
  readonly guest: BootedGuest;
  readonly place: ArrivalPlace;
  readonly state: Json;
}

function deviceFor({ memory, log, control, config }: BootedGuest): GuestDevice {
  const { pfnSpan } = memory.layout;
  const { eventIdx, dialect, requests } = config;
  const inflated = PageBitmap.allocate(atomicMapper, pfnSpan);
  return makeGuestDevice({ memory, map: atomicMapper, control, log, inflated, eventIdx, dialect, requests });
}

/** In the midst of a report and of filling its balloon. */
function stopped(options: BootOptions): Stopped {
  const guest = bootGuest(options);
  const device = deviceFor(guest);
  let now = 0;
  const turn = (): void => {
    now += 0.2;
    guest.runtime.step(now);
    device.poll(now, 16);
  };
  device.setBalloonTarget(300);
  for (let i = 0; i < 40; i += 1) {
    turn();
  }
  device.openSession({ hint: () => true }, now);
  for (let i = 0; i < 3; i += 1) {
    turn();
  }
  device.freeze();
  const { layout } = guest.memory;
  return { guest, place: { layout, trace: guest.trace }, state: unpackedState(guest, device) };
}

const requests = (design: RequestInterface['design']): RequestInterface => ({
  design,
  ballooning: true,
  reporting: true,
  futureFeatures: 2,
});

/** 16 MiB in two blocks; some pages are freed, some allocated and some written on the way to the second sample. */
const TRACE_RAM: Ram = [
  [0, 2048],
  [4096, 6144],
];
function traceOfTwo(): BootOptions {
  const free = (first: number, end: number): number[] =>
    Array.from({ length: end - first }, (_, i) => first + i);
  return replaying(
    parseTrace(
      atomicMapper,
      madeUpTrace(8192, TRACE_RAM, [
        { tMs: 0, free: free(1500, 2000), dirty: [], zero: [] },
        { tMs: 1000, free: free(1600, 2048), dirty: [7, 8, 9, 1500], zero: [] },
      ]),
      'made-up',
    ),
  );
}

const STOPPED: Readonly<Record<string, Stopped>> = {
  'as most guests are': stopped({ workload: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 32 } }),
  'with a working set': stopped({ workload: { kind: 'dirty', bytesPerSecond: 1e7, workingSetBytes: MIB } }),
  'that holds and poisons': stopped({
    reportMode: 'hold',
    pagePoison: 0xaaaa_aaaa,
    eventIdx: false,
    workload: { kind: 'pressure', pagesPerSecond: 20_000 },
  }),
  'that speaks VIRTIO': stopped({ dialect: 'virtio', reportMode: 'hold', pagePoison: 0 }),
  'that polls': stopped({ requests: requests('polling'), workload: { kind: 'idle', pagesPerSecond: 50 } }),
  'that polls besides': stopped({ requests: requests('register-and-polling') }),
  'that clears by reading': stopped({ requests: requests('read-to-clear') }),
  'that replays': stopped(traceOfTwo()),
};

/** What `parseDeviceState` makes of it: the state, or its words. Anything else that it throws is thrown. */
function judge(bytes: Uint8Array, place: ArrivalPlace): SavedState | string {
  try {
    return parseDeviceState(bytes, place);
  } catch (thrown) {
    if (isLacunaError(thrown, 'DEVICE_STATE_INVALID')) {
      expect(thrown.message.length).toBeLessThan(500);
      return thrown.message;
    }
    throw thrown;
  }
}

/** What a peer might put in a field. */
const HOSTILE: readonly Json[] = [
  null,
  true,
  -1,
  -0.5,
  0,
  1,
  0.5,
  2,
  8,
  0x7fff,
  0x1_0000,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  1e308,
  -(2 ** 31),
  '',
  '1',
  'x'.repeat(2 ** 14),
  [],
  [[[[[]]]]],
  {},
  JSON.parse('{"__proto__": {"polluted": 1}, "constructor": 1}') as Json,
];
const STEP = every(12);
/** Those that are no value of any field; `{}` and `[]` are none where neither is. */
const OF_NO_TYPE: readonly Json[] = ['x', -0.5, [[[[[]]]]], { key: 1 }];

describe.each(Object.entries(STOPPED))('the state of a guest %s', (_name, { state, place }) => {
  it('is taken as it is', () => {
    const taken = judge(packState(state), place);
    expect(taken).toBeTypeOf('object');
    const { vcpu, ...rest } = taken as SavedState;
    expect({ ...rest, vcpu: JSON.parse(vcpu) }).toEqual(state);
  });

  it('misses no field, and has none too many', () => {
    for (const path of pathsOf(state).slice(1)) {
      const optional = ['pagePoison', 'poisonFailures'].includes(String(path.at(-1)));
      const run = path[0] === 'inflated' && path.length === 2;
      if (!run) {
        expect(typeof judge(packState(withValue(state, path, undefined)), place), nameOf(path)).toBe(
          optional ? 'object' : 'string',
        );
      }
      const value = at(state, path);
      if (typeof value === 'object' && value !== null) {
        const more = Array.isArray(value) ? value.length : 'more';
        const words = judge(packState(withValue(state, [...path, more], 1)), place);
        expect(words, nameOf(path)).toBeTypeOf('string');
      }
    }
  });

  it('has no field that may be of any type, and each is called by its name', () => {
    for (const path of pathsOf(state).slice(1)) {
      for (const value of OF_NO_TYPE) {
        if (path.at(-1) === 'seed' && value === -0.5) {
          continue;
        }
        const words = judge(packState(withValue(state, path, value)), place);
        expect(words, nameOf(path)).toBeTypeOf('string');
        const named = /can't be used: (it|[\w.[\]]+)/.exec(words as string)![1]!;
        expect(
          nameOf(path).startsWith(named) || named.startsWith(nameOf(path)),
          `${nameOf(path)}: ${words as string}`,
        ).toBe(true);
      }
    }
  });

  it('is taken or refused with anything anywhere', () => {
    for (const [i, path] of pathsOf(state).entries()) {
      // Some of the values; they move on from field to field.
      for (let k = i % STEP; k < HOSTILE.length; k += STEP) {
        judge(packState(withValue(state, path, HOSTILE[k]!)), place);
      }
    }
    expect(Object.prototype).not.toHaveProperty('polluted');
  });
});

/** Behind each segment's RAM: what must stay as it is. */
const TAIL_BYTES = 8192;
const TAIL = 0x5a;
const memories = new Map<Stopped, SharedGuestMemory>();

/** A copy of the guest's RAM, in buffers that go on behind it. */
function copyOf(origin: Stopped): SharedGuestMemory {
  const { layout, segments } = origin.guest.memory;
  let memory = memories.get(origin);
  if (memory === undefined) {
    const buffers = layout.segments.map(({ lengthBytes }) => new SharedArrayBuffer(lengthBytes + TAIL_BYTES));
    memory = new SharedGuestMemory(layout, buffers);
    memories.set(origin, memory);
  }
  for (const [i, { bytes }] of segments.entries()) {
    new Uint8Array(memory.buffers[i]!).fill(TAIL, bytes.length);
    memory.segments[i]!.bytes.set(bytes);
  }
  return memory;
}

/**
 * The guest goes on from a state that was taken, on its host's own thread: the guest's part may throw, which on a thread of
 * its own ends that thread; the host's part may not. Returns whether the guest was still there at the end.
 */
function goOn(origin: Stopped, state: SavedState): boolean {
  const memory = copyOf(origin);
  const { pfnSpan } = memory.layout;
  const control = makeControl();
  const log = makeLog(pfnSpan);
  const { device: restored } = state;
  hostRegisters(control, kindOf(restored.registers)).restore(restored.registers);
  expect(control.writeState(new TextEncoder().encode(state.vcpu))).toBe(true);
  const inflated = PageBitmap.allocate(atomicMapper, pfnSpan);
  for (let i = 0; i < state.inflated.length; i += 2) {
    inflated.setRange(state.inflated[i]!, state.inflated[i + 1]!);
  }
  const { eventIdx } = restored;
  const device = makeGuestDevice({ memory, map: atomicMapper, control, log, inflated, eventIdx, restored });
  let guest: GuestRuntime | undefined;
  const guestDoes = (what: () => void): void => {
    try {
      what();
    } catch {
      guest = undefined;
    }
  };
  guestDoes(() => {
    const registers = decodeRegisters(control.readState());
    const port = new VcpuTraps(control);
    const content = new PageContent(registers.config.seed);
    const { trace } = origin.place;
    guest = GuestRuntime.resume({ map: atomicMapper, memory, log, control, port, content, trace }, registers);
  });
  let now = 0;
  device.openSession({ hint: () => true }, now);
  for (let turn = 0; turn < 60; turn += 1) {
    now += 0.5;
    guestDoes(() => guest?.step(now));
    device.poll(now, 64);
    device.armNotifications();
  }
  device.closeSession(now);
  device.saveState();
  for (const [i, buffer] of memory.buffers.entries()) {
    const behind = new Uint8Array(buffer, memory.segments[i]!.lengthBytes);
    expect(
      behind.every((byte) => byte === TAIL),
      'what lies behind RAM',
    ).toBe(true);
  }
  return guest !== undefined;
}

it('takes nothing from which a guest could harm its host', () => {
  const origins = Object.values(STOPPED);
  let taken = 0;
  for (const origin of origins) {
    expect(goOn(origin, parseDeviceState(packState(origin.state), origin.place))).toBe(true);
  }
  fc.assert(
    fc.property(
      fc.constantFrom(
        ...origins.flatMap((origin) => pathsOf(origin.state).map((path) => ({ origin, path }))),
      ),
      fc.oneof(
        fc.constantFrom(...HOSTILE),
        fc.integer({ min: 0, max: 300 }),
        fc.nat({ max: 0xffff }),
        fc.integer(),
        fc.maxSafeNat(),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.jsonValue() as fc.Arbitrary<Json>,
      ),
      ({ origin, path }, value) => {
        const state = judge(packState(withValue(origin.state, path, value)), origin.place);
        if (typeof state === 'object') {
          taken += 1;
          goOn(origin, state);
        }
      },
    ),
    effort(500, 10_000),
  );
  expect(taken).toBeGreaterThan(20); // or nothing was tried
});

describe('bytes that are no device state', () => {
  const { place, state } = STOPPED['as most guests are']!;
  const good = packState(state);

  it.each([
    ['nothing', new Uint8Array(0), /it is no JSON/],
    ['no text', Uint8Array.of(0xff, 0xfe, 0xfd), /it is no text/],
    ['a number', new TextEncoder().encode('7'), /it .*expected object/],
    ['more than there may be', new Uint8Array(4 * MIB + 1), /has 4194305 bytes, and 4194304 is the most/],
    ['nesting without end', new TextEncoder().encode('['.repeat(4 * MIB)), /it is no JSON/],
    [
      'nesting to the end',
      new TextEncoder().encode('['.repeat(2 * MIB) + ']'.repeat(2 * MIB)),
      /it .*expected object/,
    ],
    ['another version', packState(withValue(state, ['version'], 1)), /version Invalid input: expected 2/],
    [
      'a vCPU of another version',
      packState(withValue(state, ['vcpu', 'version'], 2)),
      /vcpu\.version Invalid input: expected 1/,
    ],
  ])('%s', (_what, bytes, words) => {
    expect(judge(bytes, place)).toMatch(words);
  });

  it('any part of one', () => {
    fc.assert(
      fc.property(fc.nat({ max: good.length - 1 }), (length) => {
        expect(judge(good.subarray(0, length), place)).toBeTypeOf('string');
      }),
      { numRuns: 200 },
    );
  });

  it('one with any byte changed is taken or refused', () => {
    fc.assert(
      fc.property(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 }), (i, byte) => {
        judge(good.with(i, byte), place);
      }),
      { numRuns: 300 },
    );
  });
});

describe('a state that does not fit the machine', () => {
  const { place, state, guest } = STOPPED['as most guests are']!;
  const refused = (changes: readonly (readonly [Path, Json])[]): string => {
    const changed = changes.reduce<Json>((value, [path, to]) => withValue(value, path, to), state);
    const words = judge(packState(changed), place);
    expect(words).toBeTypeOf('string');
    return words as string;
  };
  const registers = ['vcpu', 'registers'] as const;
  const { pfnSpan, pageCount } = place.layout;

  it.each<[string, readonly (readonly [Path, Json])[], RegExp]>([
    [
      'tables behind RAM',
      [[[...registers, 'config', 'metadataGpa'], pfnSpan * 4096]],
      /metadataGpa is \d+, where/,
    ],
    [
      'tables that end behind it',
      [[[...registers, 'config', 'metadataGpa'], (pfnSpan - 1) * 4096]],
      /metadataGpa/,
    ],
    [
      'tables that are not aligned',
      [[[...registers, 'config', 'metadataGpa'], 4097]],
      /metadataGpa .*multiple/,
    ],
    ['a ring of 3', [[[...registers, 'config', 'ringSize'], 3]], /ringSize is no size of a queue/],
    ['a ring of 65536', [[[...registers, 'config', 'ringSize'], 65_536]], /ringSize/],
    ['two opinions of events', [[['device', 'eventIdx'], false]], /eventIdx is not the device's/],
    [
      'requests that nobody offers',
      [[[...registers, 'config', 'requests'], { ...requests('polling') }]],
      /requests/,
    ],
    [
      'a bit that nobody serves',
      [[[...registers, 'command'], { phase: 'parameters', bits: 8 }]],
      /command\.bits/,
    ],
    [
      'the state of another driver',
      [[[...registers, 'command'], { next: 0, reading: false, interrupted: false, last: [] }]],
      /command is not the state of a driver for command-register/,
    ],
    [
      'more free descriptors than there are',
      [[[...registers, 'queues', 0, 'freeCount'], 65]],
      /queues\[0\]\.freeCount/,
    ],
    ['a report behind RAM', [[[...registers, 'report', 'position'], pfnSpan + 1]], /report\.position/],
    [
      'a range that is not RAM',
      [
        [[...registers, 'report', 'rangePfn'], pfnSpan],
        [[...registers, 'report', 'rangePages'], 1],
      ],
      /report\.rangePages is of pages that are not RAM/,
    ],
    [
      'more free pages than RAM',
      [[[...registers, 'blocksByOrder', 0], pageCount + 1]],
      /blocksByOrder comes to/,
    ],
    ['more ballooned ones', [[[...registers, 'balloonedPages'], pageCount + 1]], /balloonedPages/],
    [
      'a replay',
      [
        [
          [...registers, 'config', 'workload'],
          at(STOPPED['that replays']!.state, [...registers, 'config', 'workload'])!,
        ],
      ],
      /workload\.name is of no trace that is here/,
    ],
    ['an odd balloon', [[['inflated'], [1]]], /inflated ends/],
    ['a balloon of fractions', [[['inflated'], [1, 0.5]]], /inflated\[1\] is no number/],
    ['a balloon of nothing', [[['inflated'], [1, 0]]], /inflated\[1\] is of pages that are not RAM/],
    ['a negative balloon', [[['inflated'], [5, -2]]], /inflated\[1\]/],
    ['a balloon before its beginning', [[['inflated'], [-1, 1]]], /inflated\[0\]/],
    ['a balloon behind RAM', [[['inflated'], [pfnSpan - 1, 2]]], /inflated\[1\]/],
    [
      'a balloon that goes back',
      [[['inflated'], [8, 2, 9, 1]]],
      /inflated\[2\] is page 9, and the run before goes on to page 9/,
    ],
    ['a balloon that is no list', [[['inflated'], { length: 0 }]], /inflated is no array/],
  ])('%s', (_what, changes, words) => {
    expect(refused(changes)).toMatch(words);
  });

  it.each<[string, (readonly [Path, Json | undefined])[], RegExp]>([
    ['a bit of the mail', [[['device', 'registers', 'cmdReg'], 1]], /registers are of the mail/],
    ['another dialect of its device', [[['device', 'registers', 'dialect'], 'command-register']], /dialect/],
    ['a dialect that nobody speaks', [[[...registers, 'config', 'dialect'], 'xen']], /config\.dialect/],
    ['features that were never offered', [[['device', 'registers', 'features'], 1 << 5]], /features/],
    [
      'a driver of the mail',
      [[[...registers, 'command'], { phase: 'idle', bits: 0 }]],
      /command is not the state of a driver for virtio/,
    ],
    [
      'a third register',
      [
        [
          [...registers, 'command', 'last'],
          [0, 0, 0],
        ],
      ],
      /command\.last is of 3 registers/,
    ],
    ['no statistics queue', [[[...registers, 'queues', 3], undefined]], /queues are 3, and virtio has 4/],
    [
      'too long a statistics queue',
      [[[...registers, 'queues', 3, 'freeCount'], 9]],
      /queues\[3\]\.freeCount/,
    ],
  ])('of VIRTIO’s dialect, %s', (_what, changes, words) => {
    const { state, place } = STOPPED['that speaks VIRTIO']!;
    const changed = changes.reduce((at, [path, value]) => withValue(at, path, value), state);
    expect(judge(packState(changed), place)).toMatch(words);
  });

  it('of the mail’s, features and queues of VIRTIO’s', () => {
    const { state, place } = STOPPED['as most guests are']!;
    const of = (path: Path, value: Json): SavedState | string =>
      judge(packState(withValue(state, path, value)), place);
    expect(of(['device', 'registers', 'features'], 1 << 3)).toMatch(/features are VIRTIO's/);
    const queue = at(state, [...registers, 'queues', 2])!;
    expect(of([...registers, 'queues', 3], queue)).toMatch(/queues are 4, and command-register has 3/);
  });

  it('a working set of no runs', () => {
    const dirty = STOPPED['with a working set']!;
    const words = judge(
      packState(withValue(dirty.state, [...registers, 'workload', 'runs'], 0)),
      dirty.place,
    );
    expect(words).toMatch(/workload\.cursorRun is \d+, of 0 runs/);
  });

  it('a sample that is not in the trace', () => {
    const replays = STOPPED['that replays']!;
    const sample = [...registers, 'workload', 'position', 'sample'];
    expect(judge(packState(withValue(replays.state, sample, 2)), replays.place)).toMatch(
      /workload\.position\.sample is 2, of 2/,
    );
  });

  it('a balloon across a hole', () => {
    const two = STOPPED['that replays']!;
    const balloon = (runs: Json): SavedState | string =>
      judge(packState(withValue(two.state, ['inflated'], runs)), two.place);
    expect(balloon([2047, 1, 4096, 2])).toBeTypeOf('object');
    expect(balloon([2047, 2])).toMatch(/inflated\[1\]/);
    expect(balloon([4095, 1])).toMatch(/inflated\[1\]/);
    expect(balloon([2047, 2050])).toMatch(/inflated\[1\]/);
  });

  it('a trace that is another', () => {
    const { state: replays, place: there } = STOPPED['that replays']!;
    expect(judge(packState(replays), { ...there, trace: undefined })).toMatch(
      /name is of no trace that is here/,
    );
  });

  it('registers that are text in a text are taken apart and put together anew', () => {
    const text = JSON.stringify(at(state, ['vcpu'])).replace('{"version":1', '{ "version": 0, "version": 1');
    const bytes = new TextEncoder().encode(JSON.stringify({ ...(state as object), vcpu: text }));
    const taken = judge(bytes, place);
    expect(taken).toBeTypeOf('object');
    expect((taken as SavedState).vcpu).toBe(JSON.stringify(at(state, ['vcpu'])));
    expect(guest.memory.layout.pfnSpan).toBe(pfnSpan);
  });
});
