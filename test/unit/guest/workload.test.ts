import { describe, expect, it } from 'vitest';
import { WORKLOAD_SLOTS } from '../../../src/guest/metadata.js';
import { type RuleSpec, Workload, type WorkloadHost } from '../../../src/guest/workload.js';
import { bitmapOf, makeAllocator } from './small-guest.js';

const SPAN = 8192;
/** Pages below this are in use from the start, but every eighth. */
const USED = 1024;

/** The guest's services over a real allocator, with a record of what the workload did. */
function makeHost() {
  const { allocator } = makeAllocator(SPAN);
  const free = Array.from({ length: SPAN }, (_, pfn) => pfn >= USED || pfn % 8 === 7);
  allocator.initialise(bitmapOf(free));
  const written: { pfn: number; version: number }[] = [];
  const slotsWritten = new Set<number>();
  const host: WorkloadHost = {
    slots: new Uint32Array(WORKLOAD_SLOTS * 2),
    allocate: (order) => allocator.allocate(order),
    release: (pfn, order) => allocator.release(pfn, order),
    write: (pfn, version) => {
      if (allocator.free.test(pfn)) {
        throw new Error(`page ${pfn} is written and free`);
      }
      written.push({ pfn, version });
    },
    usedPage: (from) => {
      const pfn = allocator.free.nextClear(from);
      return pfn === SPAN ? allocator.free.nextClear(0) : pfn;
    },
    wroteSlot: (index) => slotsWritten.add(index),
    largestOrder: () => allocator.largestOrder(),
  };
  return { allocator, host, written, slotsWritten, freeAtFirst: free.filter(Boolean).length };
}

/** Lets the workload run for `ms` of a clock that is moved by hand, looking in every `everyMs`. */
function runFor(workload: Workload, ms: number, everyMs = 1, from = 1000): void {
  for (let now = from; now <= from + ms; now += everyMs) {
    while (workload.step(now) === 0) {
      // more is due at the same time
    }
  }
}

const RATE = 2000;
const kinds: [RuleSpec['kind'], RuleSpec][] = [
  ['idle', { kind: 'idle', pagesPerSecond: RATE }],
  ['dirty', { kind: 'dirty', bytesPerSecond: RATE * 4096, workingSetBytes: 200 * 4096 }],
  ['churn', { kind: 'churn', pagesPerSecond: RATE, keepBlocks: 40 }],
];

describe('the rate of a workload', () => {
  it.each(kinds)('%s writes as many pages a second as it was told', (_, spec) => {
    const { host, written } = makeHost();
    const workload = new Workload(spec, host, 1);
    runFor(workload, 1000);
    expect(written.length).toBeGreaterThanOrEqual(RATE - 8);
    expect(written.length).toBeLessThanOrEqual(RATE + 8);
    expect(workload.pagesWritten).toBe(written.length);
  });

  it.each([10, 100])('is kept also where it is as low as %i pages a second', (pagesPerSecond) => {
    for (const spec of [
      { kind: 'idle', pagesPerSecond },
      { kind: 'churn', pagesPerSecond, keepBlocks: 4 },
    ] as const) {
      const { host, written } = makeHost();
      runFor(new Workload(spec, host, 1), 10_000);
      expect(written.length).toBeGreaterThanOrEqual(pagesPerSecond * 10 - 8);
      expect(written.length).toBeLessThanOrEqual(pagesPerSecond * 10 + 8);
    }
  });

  it('of pressure counts what it writes and what it gives back', () => {
    const { host, written } = makeHost();
    let released = 0;
    const release = host.release.bind(host);
    host.release = (pfn, order) => {
      released += 1;
      release(pfn, order);
    };
    runFor(new Workload({ kind: 'pressure', pagesPerSecond: 10_000 }, host, 1), 3000);
    expect(released).toBeGreaterThan(0);
    // Turning from filling to emptying and back is an operation of its own, a page's worth.
    expect(written.length + released).toBeGreaterThan(30_000 - 200);
    expect(written.length + released).toBeLessThanOrEqual(30_000 + 1024);
  });

  it('does the same whether it looks in often or seldom', () => {
    const often = makeHost();
    runFor(new Workload(kinds[0]![1], often.host, 1), 1000, 0.25);
    const seldom = makeHost();
    runFor(new Workload(kinds[0]![1], seldom.host, 1), 1000, 10);
    expect(Math.abs(often.written.length - seldom.written.length)).toBeLessThanOrEqual(1);
  });

  it('makes up for 20 ms at the most after it was stopped for long', () => {
    const { host, written } = makeHost();
    const workload = new Workload(kinds[0]![1], host, 1);
    workload.step(0);
    while (workload.step(60_000) === 0) {
      // more is due
    }
    expect(written).toHaveLength((RATE * 20) / 1000);
  });

  it('lets a slice have 64 pages at the most where pages are written one by one', () => {
    const { host, written } = makeHost();
    const workload = new Workload({ kind: 'idle', pagesPerSecond: 1_000_000 }, host, 1);
    workload.step(0);
    expect(workload.step(20)).toBe(0);
    expect(written).toHaveLength(64);
  });

  it('says how long there is nothing to do, and is right', () => {
    const { host, written } = makeHost();
    const workload = new Workload({ kind: 'idle', pagesPerSecond: 50 }, host, 1);
    expect(workload.step(500)).toBeCloseTo(20);
    expect(workload.step(505)).toBeCloseTo(15);
    expect(written).toHaveLength(0);
    workload.step(520.001);
    expect(written).toHaveLength(1);
  });

  it('is nothing at all where the guest halts', () => {
    const { host, written } = makeHost();
    const workload = new Workload({ kind: 'halt' }, host, 1);
    expect(workload.step(0)).toBe(Number.POSITIVE_INFINITY);
    expect(workload.step(1e6)).toBe(Number.POSITIVE_INFINITY);
    expect(written).toEqual([]);
  });
});

describe('the working set', () => {
  it('is used pages only, as many as were asked for, each as often as the others', () => {
    const { host, written, allocator } = makeHost();
    const spec = { kind: 'dirty', bytesPerSecond: 100_000 * 4096, workingSetBytes: 300 * 4096 } as const;
    runFor(new Workload(spec, host, 1), 30);
    const times = new Map<number, number>();
    for (const { pfn } of written) {
      times.set(pfn, (times.get(pfn) ?? 0) + 1);
    }
    expect(times.size).toBe(300);
    expect([...times.keys()].filter((pfn) => allocator.free.test(pfn))).toEqual([]);
    expect(Math.max(...times.values()) - Math.min(...times.values())).toBeLessThanOrEqual(1);
  });

  it('is all used pages where more were asked for', () => {
    const { host, written } = makeHost();
    const used = USED - USED / 8;
    const spec = { kind: 'dirty', bytesPerSecond: 100_000 * 4096, workingSetBytes: SPAN * 4096 } as const;
    runFor(new Workload(spec, host, 1), 30);
    expect(new Set(written.map(({ pfn }) => pfn)).size).toBe(used);
  });

  it('of an idle guest is 64 pages', () => {
    const { host, written } = makeHost();
    runFor(new Workload(kinds[0]![1], host, 1), 1000);
    expect(new Set(written.map(({ pfn }) => pfn)).size).toBe(64);
  });

  it('is one page where nothing else was asked for', () => {
    const { host, written } = makeHost();
    const spec = { kind: 'dirty', bytesPerSecond: RATE * 4096, workingSetBytes: 1 } as const;
    runFor(new Workload(spec, host, 1), 100);
    expect(new Set(written.map(({ pfn }) => pfn)).size).toBe(1);
  });

  it('is written down where it is kept, in guest RAM', () => {
    const { host, slotsWritten } = makeHost();
    const workload = new Workload(kinds[1]![1], host, 1);
    const used = new Set<number>();
    for (const [i, word] of host.slots.entries()) {
      if (word !== 0) {
        used.add(Math.floor(i / 2));
      }
    }
    expect([...used].filter((slot) => !slotsWritten.has(slot))).toEqual([]);
    expect(slotsWritten.size).toBe(workload.saveState().runs);
  });
});

describe('blocks that a workload owns', () => {
  function ownedPages(host: WorkloadHost, workload: Workload): number {
    const { head, count } = workload.saveState();
    let pages = 0;
    for (let i = 0; i < count; i += 1) {
      pages += 2 ** host.slots[((head + i) % (WORKLOAD_SLOTS / 2)) * 2 + 1]!;
    }
    return pages;
  }

  it('churn: it keeps as many as it was told and frees the oldest', () => {
    const { host, allocator, freeAtFirst } = makeHost();
    const releases: number[] = [];
    const allocations: number[] = [];
    const allocate = host.allocate.bind(host);
    const release = host.release.bind(host);
    host.allocate = (order) => {
      const pfn = allocate(order);
      allocations.push(pfn);
      return pfn;
    };
    host.release = (pfn, order) => {
      releases.push(pfn);
      release(pfn, order);
    };
    const workload = new Workload(kinds[2]![1], host, 1);
    runFor(workload, 1000);
    expect(workload.saveState().count).toBe(40);
    expect(releases.length).toBeGreaterThan(100);
    expect(allocations.slice(0, releases.length)).toEqual(releases);
    expect(allocator.freePages + ownedPages(host, workload)).toBe(freeAtFirst);
    expect(allocator.inconsistency()).toBeUndefined();
  });

  it('churn: it goes on where memory is short', () => {
    const { host, allocator, freeAtFirst } = makeHost();
    const spec = { kind: 'churn', pagesPerSecond: 1_000_000, keepBlocks: 8192 } as const;
    const workload = new Workload(spec, host, 1);
    runFor(workload, 40);
    expect(workload.pagesWritten).toBeGreaterThan(freeAtFirst);
    expect(allocator.freePages + ownedPages(host, workload)).toBe(freeAtFirst);
  });

  it('pressure: it takes everything, gives everything back, and begins again', () => {
    const { host, allocator, freeAtFirst } = makeHost();
    const workload = new Workload({ kind: 'pressure', pagesPerSecond: 1_000_000 }, host, 1);
    const free: number[] = [];
    const allocate = host.allocate.bind(host);
    const release = host.release.bind(host);
    host.allocate = (order) => {
      const pfn = allocate(order);
      free.push(allocator.freePages);
      return pfn;
    };
    host.release = (pfn, order) => {
      release(pfn, order);
      free.push(allocator.freePages);
    };
    runFor(workload, 100);
    const empty = free.indexOf(0);
    expect(empty).toBeGreaterThan(0);
    const full = free.indexOf(freeAtFirst, empty);
    expect(full).toBeGreaterThan(empty);
    expect(free.indexOf(0, full)).toBeGreaterThan(full);
  });

  it('writes each page of a block that it allocates in the same step', () => {
    for (const spec of [kinds[2]![1], { kind: 'pressure', pagesPerSecond: RATE } as const]) {
      const { host, written } = makeHost();
      const unwritten = new Set<number>();
      const allocate = host.allocate.bind(host);
      const write = host.write.bind(host);
      host.allocate = (order) => {
        const pfn = allocate(order);
        for (let i = 0; i < 2 ** order && pfn !== -1; i += 1) {
          unwritten.add(pfn + i);
        }
        return pfn;
      };
      host.write = (pfn, version) => {
        unwritten.delete(pfn);
        write(pfn, version);
      };
      const workload = new Workload(spec, host, 1);
      for (let now = 0; now < 500; now += 1) {
        workload.step(now);
        expect(unwritten.size).toBe(0);
      }
      expect(written.length).toBeGreaterThan(100);
    }
  });
});

describe('a workload that has moved', () => {
  it.each([...kinds, ['pressure', { kind: 'pressure', pagesPerSecond: RATE }] as [string, RuleSpec]])(
    '%s goes on as if it had stayed',
    (_, spec) => {
      const stayed = makeHost();
      const moved = makeHost();
      const one = new Workload(spec, stayed.host, 9);
      const before = new Workload(spec, moved.host, 9);
      runFor(one, 300);
      runFor(before, 300);
      // What it is owed does not travel: both begin with nothing.
      const state = JSON.parse(JSON.stringify(before.saveState())) as ReturnType<Workload['saveState']>;
      const two = new Workload(spec, moved.host, 0, state);
      const restarted = new Workload(spec, stayed.host, 0, one.saveState());
      runFor(two, 300, 1, 7000);
      runFor(restarted, 300, 1, 7000);
      expect(moved.written).toEqual(stayed.written);
      expect(moved.written.length).toBeGreaterThan(500);
    },
  );

  it('does other things with another seed', () => {
    const one = makeHost();
    const two = makeHost();
    runFor(new Workload(kinds[2]![1], one.host, 1), 100);
    runFor(new Workload(kinds[2]![1], two.host, 2), 100);
    expect(one.written).not.toEqual(two.written);
  });

  it('never writes the versions that mean something else', () => {
    const { host, written } = makeHost();
    const spec = kinds[0]![1];
    const state = { ...new Workload(spec, host, 1).saveState(), version: 0x00ff_fffe };
    runFor(new Workload(spec, host, 1, state), 10);
    expect(written.slice(0, 4).map(({ version }) => version)).toEqual([0x00ff_fffe, 0x00ff_ffff, 2, 3]);
  });
});
