import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadGuest } from '../../dist/src/cli/captures.js';
import { imageBitmaps } from '../../dist/src/guest/image.js';
import { LEDGER_METADATA } from '../../dist/src/guest/ledger.js';
import { layOutMetadata } from '../../dist/src/guest/metadata.js';
import type { VcpuRegisters } from '../../dist/src/guest/runtime.js';
import type { ReplayState } from '../../dist/src/guest/trace-replay.js';
import { decodeRegisters } from '../../dist/src/guest/vcpu.js';
import {
  atomicMapper,
  type GuestTrace,
  PageBitmap,
  parseTrace,
  RamLayout,
  traceEndMs,
  traceImage,
  traceWorkload,
  type WorkerGuest,
} from '../../dist/src/index.js';
import { Bench } from '../support/guests.js';
import { busyTrace } from '../support/made-up-trace.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(async () => {
  await bench.close();
});

/** 16 MiB, a sample every 100 ms for 2 s, 600 changes on the way to each. */
const BUSY = parseTrace(
  atomicMapper,
  busyTrace({ pages: 4096, samples: 21, intervalMs: 100, changes: 150 }),
  'busy',
);
const GENEROUS = { timeout: 30_000 };

interface Stopped {
  readonly registers: VcpuRegisters;
  /** Where in the trace it is. */
  readonly atMs: number;
  /** Free for the guest or its driver, by what its own RAM says. */
  readonly free: PageBitmap;
  readonly isMetadata: (pfn: number) => boolean;
}

/** Stops a guest wherever it is, in the middle of a sample as a rule, and looks at its memory. */
async function stopped(guest: WorkerGuest, trace: GuestTrace): Promise<Stopped> {
  await guest.pause();
  const registers = decodeRegisters(guest.control.readState());
  const { metadataGpa, ringSize } = registers.config;
  const { pfnSpan } = guest.memory.layout;
  const metadata = layOutMetadata(metadataGpa, { pfnSpan, ringSize });
  const words = (gpa: number, count: number): Uint32Array => {
    const { buffer, byteOffset } = guest.memory.pages(gpa / 4096, 1);
    return new Uint32Array(buffer, byteOffset, count);
  };
  const count = Math.ceil(pfnSpan / 32);
  const free = PageBitmap.allocate(atomicMapper, pfnSpan);
  const [allocator, held] = [words(metadata.allocator.freeGpa, count), words(metadata.heldGpa, count)];
  for (let i = 0; i < count; i += 1) {
    free.words.store(i, allocator[i]! | held[i]!);
  }
  const ledger = words(metadata.ledgerGpa, pfnSpan);
  const { position } = registers.workload as ReplayState;
  return {
    registers,
    atMs: trace.timesMs[position.sample]! + position.sinceMs,
    free,
    isMetadata: (pfn) => ledger[pfn] === LEDGER_METADATA,
  };
}

/** Pages on which the guest's memory and the trace disagree about what is free. */
function disagreement({ free, atMs, isMetadata, registers }: Stopped, trace: GuestTrace): number[] {
  // The guest may owe what has become due since its last slice, so it is compared at what it has done.
  const { sample, done } = (registers.workload as ReplayState).position;
  const length = (trace.timesMs[sample + 1] ?? 0) - trace.timesMs[sample]!;
  const { freed = 0, allocated = 0, written = 0 } = trace.changes[sample + 1] ?? {};
  const doneAt =
    sample + 1 === trace.timesMs.length
      ? atMs
      : trace.timesMs[sample]! + Math.min(length, ((done + 0.5) * length) / (freed + allocated + written));
  const { free: expected } = imageBitmaps(atomicMapper, traceImage(atomicMapper, trace, doneAt));
  const wrong: number[] = [];
  for (let pfn = 0; pfn < free.pageCount; pfn += 1) {
    if (free.test(pfn) !== (expected.test(pfn) && !isMetadata(pfn))) {
      wrong.push(pfn);
    }
  }
  return wrong;
}

/** Moves a guest; nothing may be lost, and where it was stopped its free pages are the trace's. */
async function move(
  guest: WorkerGuest,
  trace: GuestTrace,
  options: Parameters<Bench['migrate']>[2] = {},
): Promise<{ guest: WorkerGuest; leftBehind: number; stoppedAtMs: number }> {
  const destination = await bench.destinationFor(guest, true);
  const source = await bench.migrate(guest, destination, options);
  expect(source.error).toBeUndefined();
  expect(source.phase).toBe('completed');
  const left = await stopped(guest, trace);
  expect(disagreement(left, trace)).toEqual([]);
  const arrived = await bench.arrive(guest, destination);
  expect(arrived.pages).toMatchObject({ pagesDifferent: 0, firstDifferentPfn: -1 });
  return { guest: arrived.guest, leftBehind: arrived.pages.pagesLeftBehind, stoppedAtMs: left.atMs };
}

describe.each(['walk', 'hold'] as const)('a guest that replays a trace and reports by %s', (reportMode) => {
  it.each([0, 765, 1499])(
    'is moved from %s ms on, loses nothing, and goes on at the destination to the end of the trace',
    async (atMs) => {
      const guest = await bench.replaying(BUSY, atMs, { reportMode });
      const moved = await move(guest, BUSY, { options: { bytesPerSecond: 100e6, downtimeLimitMs: 20 } });
      expect(moved.leftBehind).toBeGreaterThan(0);
      expect(moved.stoppedAtMs).toBeGreaterThan(atMs);
      const arrivedAt = await stopped(moved.guest, BUSY);
      expect(arrivedAt.atMs).toBeGreaterThanOrEqual(moved.stoppedAtMs);
      expect(disagreement(arrivedAt, BUSY)).toEqual([]);
      moved.guest.resume();
      expect(await moved.guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
      await expect.poll(() => moved.guest.replay()?.ended, GENEROUS).toBe(true);
      const end = await stopped(moved.guest, BUSY);
      expect(end.atMs).toBe(traceEndMs(BUSY));
      expect(disagreement(end, BUSY)).toEqual([]);
      expect(await moved.guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
    },
  );

  it('is moved on and on while it replays slowly', async () => {
    let guest = await bench.replaying(BUSY, 0, { reportMode, speed: 0.1 });
    let last = 0;
    for (let hop = 0; hop < 3; hop += 1) {
      const moved = await move(guest, BUSY);
      expect(moved.stoppedAtMs).toBeGreaterThan(last);
      last = moved.stoppedAtMs;
      guest = moved.guest;
    }
    expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  });
});

it('goes on at the source when the migration is called off', async () => {
  const guest = await bench.replaying(BUSY, 250, { reportMode: 'hold' });
  const destination = await bench.destinationFor(guest);
  const abort = new AbortController();
  const source = await bench.migrate(guest, destination, {
    signal: abort.signal,
    options: { bytesPerSecond: 50e6 },
    onEvent: ({ type }) => {
      if (type === 'session-done') {
        abort.abort();
      }
    },
  });
  expect(source.phase).toBe('cancelled');
  await expect.poll(() => guest.replay()?.ended, GENEROUS).toBe(true);
  const end = await stopped(guest, BUSY);
  expect(disagreement(end, BUSY)).toEqual([]);
  expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});

it('is refused with the image of another machine', async () => {
  const other = { ...BUSY, blocks: [{ startGpa: 0, endGpa: 8 * 1024 * 1024 }] };
  await expect(bench.guest({ trace: other, workload: traceWorkload(other, 0) })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  await expect(bench.guest({ workload: traceWorkload(BUSY, 0) })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});

it('moves trace-build-2g in the middle of its build, and the build goes on to later samples', async () => {
  const { trace } = loadGuest('trace-build-2g');
  expect(new RamLayout(trace!.blocks).memoryBytes).toBe(2 ** 31);
  const guest = await bench.replaying(trace!, 20_500, { freeMemory: 'captured' });
  const moved = await move(guest, trace!, { options: { zeroDetection: true, bytesPerSecond: 1.25e9 } });
  expect(moved.stoppedAtMs).toBeGreaterThan(20_500);
  // Pages that are free and zero at the source are as they were; those that hold old data were left behind.
  expect(moved.leftBehind).toBeGreaterThan(1000);
  const { sample } = moved.guest.replay()!;
  await expect.poll(() => moved.guest.replay()!.sample, GENEROUS).toBeGreaterThan(sample + 1);
  const later = await stopped(moved.guest, trace!);
  expect(disagreement(later, trace!)).toEqual([]);
  expect(await moved.guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});
