import { describe, expect, it } from 'vitest';
import type { GuestDevice } from '../../../src/balloon/guest-device.js';
import { HintState } from '../../../src/balloon/hint-session.js';
import { VcpuTraps } from '../../../src/balloon/registers.js';
import { PageContent } from '../../../src/guest/content.js';
import {
  type DriverFault,
  type DriverFaultName,
  FaultBoard,
  FaultyDriver,
} from '../../../src/guest/faulty-driver.js';
import { fillMemory } from '../../../src/guest/image.js';
import { LEDGER_METADATA } from '../../../src/guest/ledger.js';
import { type GuestConfig, GuestRuntime, type ReportMode } from '../../../src/guest/runtime.js';
import { SharedGuestMemory } from '../../../src/memory/guest-memory.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper, type SharedWords, type WordMapper } from '../../../src/memory/shared-words.js';
import { REPORT_STOP } from '../../../src/spec/command-register.js';
import { type BootedGuest, configFor, deviceOf, HintedPages, makeControl, smallImage } from './booted.js';
import { makeLog, pagesIn } from './small-guest.js';

interface Rig extends BootedGuest {
  readonly board: FaultBoard;
  readonly device: GuestDevice;
  readonly free: ReadonlySet<number>;
  now: number;
}

/** A guest of 8 MiB with a board; the test is its processor, its clock and its host. */
function boot(changes: Partial<GuestConfig> = {}, boardMap: WordMapper = atomicMapper): Rig {
  const image = smallImage();
  const config = configFor(image, changes);
  const memory = SharedGuestMemory.allocate(new RamLayout(image.blocks));
  const { pfnSpan } = memory.layout;
  const content = new PageContent(config.seed);
  fillMemory(atomicMapper, memory, image, content, 'data');
  const control = makeControl();
  const log = makeLog(pfnSpan);
  const board = new FaultBoard(boardMap, new SharedArrayBuffer(FaultBoard.byteLength(pfnSpan)), pfnSpan);
  const faults = new FaultyDriver(board, control);
  const runtime = GuestRuntime.boot(
    {
      map: atomicMapper,
      memory,
      log,
      control,
      port: faults.port(new VcpuTraps(control), 'command-register'),
      config,
      content,
      faults,
    },
    image,
  );
  const guest = { memory, log, control, config, runtime };
  return {
    ...guest,
    board,
    device: deviceOf(guest),
    free: new Set(pagesIn(runtime.allocator.free)),
    now: 1,
  };
}

function arm(rig: Rig, name: DriverFaultName, changes: Partial<DriverFault> = {}): void {
  rig.board.arm({ name, amount: 0, ms: 0, seed: 1, ...changes });
}

/** Guest and host take turns, a millisecond each. */
function turns(rig: Rig, count: number): void {
  for (let i = 0; i < count; i += 1) {
    rig.now += 1;
    rig.runtime.step(rig.now);
    rig.device.poll(rig.now, 1024);
  }
}

/** Opens a session and gives both sides `count` turns. */
function report(rig: Rig, count = 300): HintedPages {
  const sink = new HintedPages();
  rig.device.openSession(sink, rig.now);
  turns(rig, count);
  return sink;
}

const MODES: readonly ReportMode[] = ['walk', 'hold'];

it('a driver with a board that nobody arms reports what one without it would', () => {
  const rig = boot({ minOrder: 0 });
  const { pages } = report(rig);
  expect(rig.device.session.state).toBe(HintState.done);
  expect(pages).toEqual([...rig.free].sort((a, b) => a - b));
  expect(rig.runtime.step(rig.now)).toBe(Number.POSITIVE_INFINITY);
});

describe('a driver that hangs', () => {
  it('at the start takes no interrupt, until the fault is lifted', () => {
    const rig = boot();
    arm(rig, 'hang-at-start');
    report(rig);
    expect(rig.device.session.state).toBe(HintState.requested);
    expect(rig.board.injected('hang-at-start')).toBe(1);
    rig.board.disarm();
    turns(rig, 50);
    expect(rig.device.session.state).toBe(HintState.done);
  });

  it('at the start counts only if there was something to answer', () => {
    const rig = boot();
    arm(rig, 'hang-at-start');
    turns(rig, 50);
    expect(rig.board.injected('hang-at-start')).toBe(0);
  });

  it.each(MODES)('midway has put ranges there and comes to no end, by %s', (reportMode) => {
    const rig = boot({ reportMode });
    arm(rig, 'hang-midway', { amount: 3 });
    const sink = report(rig);
    expect(rig.device.session.state).toBe(HintState.reporting);
    expect(sink.pages.length).toBeGreaterThan(0);
    expect(rig.board.injected('hang-midway')).toBe(1);
    rig.device.closeSession(rig.now);
    turns(rig, 20);
    expect(rig.device.registers.pending).toBe(REPORT_STOP); // never acknowledged
    rig.board.disarm();
    turns(rig, 50);
    expect(rig.device.registers.pending).toBe(0);
    expect(rig.runtime.held.count()).toBe(0);
  });

  it('at the stop reports everything and keeps what it holds', () => {
    const rig = boot({ reportMode: 'hold' });
    arm(rig, 'hang-at-stop');
    report(rig);
    expect(rig.device.session.state).toBe(HintState.done);
    rig.device.closeSession(rig.now);
    turns(rig, 50);
    expect(rig.device.registers.pending).toBe(REPORT_STOP);
    expect(rig.runtime.held.count()).toBeGreaterThan(0);
    expect(rig.board.injected('hang-at-stop')).toBe(1);
    rig.board.disarm();
    turns(rig, 50);
    expect(rig.device.registers.pending).toBe(0);
    expect(rig.runtime.held.count()).toBe(0);
  });
});

describe('a driver that lies', () => {
  it.each(MODES)(
    'declares as many pages as it is told to, all of them in use, none a table, by %s',
    (reportMode) => {
      const rig = boot({ reportMode });
      arm(rig, 'lie', { amount: 40 });
      const sink = report(rig);
      expect(rig.device.session.state).toBe(HintState.done);
      const lied = pagesIn(rig.board.lied);
      expect(lied.length).toBeGreaterThan(20); // some twice
      expect(lied.length).toBeLessThanOrEqual(40);
      expect(rig.board.injected('lie')).toBe(1);
      expect(lied.filter((pfn) => rig.free.has(pfn))).toEqual([]);
      expect(lied.filter((pfn) => rig.runtime.ledger.version(pfn) === LEDGER_METADATA)).toEqual([]);
      expect(sink.pages.filter((pfn) => !rig.free.has(pfn))).toEqual(lied);
    },
  );

  it('can’t hold those pages against its host, and any other page it can', () => {
    const rig = boot();
    arm(rig, 'lie', { amount: 10 });
    report(rig);
    const lied = pagesIn(rig.board.lied);
    for (const pfn of lied) {
      rig.memory.pages(pfn, 1).fill(0);
    }
    expect(rig.runtime.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
    const honest = Array.from({ length: 2048 }, (_, pfn) => pfn).find(
      (pfn) =>
        !rig.free.has(pfn) && !lied.includes(pfn) && rig.runtime.ledger.version(pfn) !== LEDGER_METADATA,
    )!;
    rig.memory.pages(honest, 1).fill(0);
    expect(rig.runtime.selfCheck()).toMatchObject({ badPages: 1, badPfn: honest });
  });

  it('lies in every report for as long as it is armed, and not beyond', () => {
    const rig = boot();
    arm(rig, 'lie', { amount: 5 });
    report(rig);
    rig.board.disarm();
    const lied = pagesIn(rig.board.lied);
    rig.device.closeSession(rig.now);
    turns(rig, 20);
    const { pages } = report(rig);
    expect(pages).toEqual([...rig.free].sort((a, b) => a - b));
    expect(pagesIn(rig.board.lied)).toEqual(lied);
  });
});

describe('a driver that floods', () => {
  it.each(MODES)('with ranges never comes to an end, and every one of them is free, by %s', (reportMode) => {
    const rig = boot({ reportMode });
    arm(rig, 'flood-ranges');
    const sink = report(rig, 500);
    expect(rig.device.session.state).toBe(HintState.reporting);
    expect(sink.pages.filter((pfn) => !rig.free.has(pfn))).toEqual([]);
    expect(Math.max(...sink.times.values())).toBeGreaterThan(3);
    expect(rig.board.injected('flood-ranges')).toBe(1);
    rig.device.closeSession(rig.now);
    turns(rig, 100);
    expect(rig.device.registers.pending).toBe(0); // it hears a stop all the same
    expect(rig.runtime.held.count()).toBe(0);
    expect(rig.runtime.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  });

  it('with kicks does so in every slice, and never rests', () => {
    const rig = boot();
    arm(rig, 'flood-kicks', { amount: 7 });
    expect(rig.runtime.step(1)).toBe(0);
    expect(rig.device.registers.takeNotified()).not.toBe(0);
    expect(rig.runtime.step(2)).toBe(0);
    expect(rig.device.registers.takeNotified()).not.toBe(0);
    rig.board.disarm();
    expect(rig.runtime.step(3)).toBe(Number.POSITIVE_INFINITY);
    expect(rig.device.registers.takeNotified()).toBe(0);
  });

  it.each([true, false])('with markers starts no session of the host’s (EVENT_IDX %s)', (eventIdx) => {
    const rig = boot({ eventIdx });
    rig.device.openSession(new HintedPages(), rig.now);
    rig.control.words.exchange(3, 0); // the driver is not told of it: whatever starts now, the flood did it
    arm(rig, 'flood-markers', { amount: 100 });
    turns(rig, 200);
    expect(rig.device.session.state).toBe(HintState.requested);
    expect(rig.device.session.counts.staleMarkers).toBeGreaterThan(1000);
    expect(rig.device.fault).toBeUndefined();
    rig.board.disarm();
    turns(rig, 5);
    rig.device.closeSession(rig.now);
    turns(rig, 50);
    const { pages } = report(rig);
    expect(pages).toHaveLength(rig.free.size); // and the queue is whole
  });
});

describe.each(['corrupt-index', 'corrupt-head', 'corrupt-descriptor'] as const)(
  'a driver that does %s',
  (name) => {
    it.each([4, 64, 1024, 8192, 32768])(
      'to a ring of %i always ends in NEEDS_RESET, never in a hint',
      (ringSize) => {
        for (let seed = 1; seed <= 12; seed += 1) {
          for (const amount of [0, 2]) {
            const rig = boot({ ringSize, reportMode: seed % 2 === 0 ? 'walk' : 'hold' });
            arm(rig, name, { amount, seed: seed * 0x1234_567 });
            const sink = report(rig, 60);
            expect(rig.device.fault, `seed ${seed}, amount ${amount}`).toBeDefined();
            expect(rig.board.injected(name)).toBe(1);
            expect(rig.board.ringDead).toBe(true);
            expect(sink.pages.filter((pfn) => !rig.free.has(pfn))).toEqual([]);
            rig.board.disarm();
            rig.device.closeSession(rig.now);
            turns(rig, 20); // the guest goes on, and gets its pages back by the register
            expect(rig.runtime.held.count()).toBe(0);
            expect(rig.runtime.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
          }
        }
      },
    );
  },
);

describe('a driver that is late', () => {
  it('answers, but only after its time', () => {
    const rig = boot();
    arm(rig, 'late', { ms: 40, amount: 1000 });
    report(rig, 30);
    expect(rig.device.session.state).toBe(HintState.requested);
    turns(rig, 200);
    expect(rig.device.session.state).toBe(HintState.done);
    expect(rig.board.injected('late')).toBe(1);
  });

  it('pauses in mid-report', () => {
    const rig = boot({ ringSize: 16 });
    arm(rig, 'late', { ms: 30, amount: 5 });
    report(rig, 60);
    const { ranges } = rig.device.session.counts;
    expect(rig.device.session.state).toBe(HintState.reporting);
    turns(rig, 1);
    expect(rig.device.session.counts.ranges).toBe(ranges);
    turns(rig, 200);
    expect(rig.device.session.state).toBe(HintState.done);
  });

  it('reports under an old id, to nobody', () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const rig = boot();
      arm(rig, 'stale-id', { seed });
      const sink = report(rig);
      expect(rig.device.session.state).toBe(HintState.requested);
      expect(sink.pages).toEqual([]);
      expect(rig.device.session.counts.stale).toBe(rig.free.size);
      expect(rig.board.injected('stale-id')).toBe(1);
    }
  });
});

/** Words whose waits are noted instead of waited for. */
class NotedWaits implements SharedWords {
  readonly length: number;
  readonly waits: [index: number, expected: number][] = [];
  readonly #words: SharedWords;

  constructor(words: SharedWords) {
    this.#words = words;
    this.length = words.length;
  }

  load = (index: number): number => this.#words.load(index);
  store = (index: number, value: number): void => this.#words.store(index, value);
  exchange = (index: number, value: number): number => this.#words.exchange(index, value);
  compareExchange = (index: number, expected: number, replacement: number): number =>
    this.#words.compareExchange(index, expected, replacement);
  or = (index: number, bits: number): number => this.#words.or(index, bits);
  and = (index: number, bits: number): number => this.#words.and(index, bits);
  add = (index: number, value: number): number => this.#words.add(index, value);
  notify = (index: number): void => this.#words.notify(index);
  wait = (index: number, expected: number): void => {
    this.waits.push([index, expected]);
  };
  waitAsync = (): undefined => undefined;
}

it('a vCPU that is stuck waits in its slice for the fault to be lifted, and only while it is armed', () => {
  let noted: NotedWaits | undefined;
  const rig = boot(
    {},
    {
      ...atomicMapper,
      words: (buffer, byteOffset, length) => {
        const words = new NotedWaits(atomicMapper.words(buffer, byteOffset, length));
        noted ??= words; // the board's own; its bitmap comes after
        return words;
      },
    },
  );
  turns(rig, 3);
  expect(noted?.waits).toEqual([]);
  arm(rig, 'stuck');
  turns(rig, 1);
  expect(noted?.waits).toEqual([[0, 1]]); // the epoch that the arming has made
  expect(rig.board.injected('stuck')).toBe(1);
  rig.board.disarm();
  turns(rig, 3);
  expect(noted?.waits).toHaveLength(1);
});
