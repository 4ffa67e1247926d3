import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MigrationEvent, PrecopySource, WorkerGuest, WorkloadSpec } from '../../dist/src/index.js';
import { Bench, type TestGuestOptions } from '../support/guests.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(async () => {
  await bench.close();
});

const SCHEDULES = ['wait', 'overlap', 'adaptive'] as const;
const CHURN: WorkloadSpec = { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 256 };
const PRESSURE: WorkloadSpec = { kind: 'pressure', pagesPerSecond: 200_000 };
const DIRTY: WorkloadSpec = { kind: 'dirty', bytesPerSecond: 40e6, workingSetBytes: 4 * 1024 * 1024 };

/** Every page of every round went exactly one way. */
function expectBalance(source: PrecopySource): void {
  for (const round of source.rounds) {
    const { pending, sent, zero, filled, skipped, carried, cancelled } = round;
    expect(sent + zero + filled + skipped + carried + cancelled, JSON.stringify(round)).toBe(pending);
  }
}

/** Moves a guest and expects nothing lost: by the oracle page by page, and by the guest's own ledger. */
async function move(
  guest: WorkerGuest,
  request: Parameters<Bench['migrate']>[2] = {},
): Promise<{ source: PrecopySource; guest: WorkerGuest; leftBehind: number }> {
  const destination = await bench.destinationFor(guest, true);
  const source = await bench.migrate(guest, destination, request);
  expect(source.error).toBeUndefined();
  expect(source.phase).toBe('completed');
  expectBalance(source);
  const arrived = await bench.arrive(guest, destination);
  expect(arrived.pages).toMatchObject({ pagesDifferent: 0, firstDifferentPfn: -1 });
  expect(await arrived.guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  return { source, guest: arrived.guest, leftBehind: arrived.pages.pagesLeftBehind };
}

describe.each(SCHEDULES)('schedule %s', (schedule) => {
  it.each([
    ['walk', false],
    ['walk', true],
    ['hold', false],
    ['hold', true],
  ] as const)(
    'moves a guest that reports by %s, zero detection %s, and loses nothing',
    async (reportMode, zeroDetection) => {
      const guest = await bench.guest({ reportMode });
      const { source, leftBehind } = await move(guest, {
        options: { schedule, zeroDetection, bytesPerSecond: 200e6 },
      });
      expect(source.sessions).toHaveLength(1);
      expect(source.sessions[0]).toMatchObject({ expired: false });
      expect(leftBehind).toBeGreaterThan(0);
      expect(source.accounts.hints.hinted).toBe(
        source.accounts.hints.applied + source.accounts.hints.alreadySent + source.accounts.hints.notPending,
      );
    },
  );

  it.each([
    ['churn', CHURN],
    ['pressure', PRESSURE],
    ['dirty', DIRTY],
  ] as const)('moves a guest under %s, and loses nothing', async (_name, workload) => {
    const guest = await bench.guest({ workload, reportMode: schedule === 'overlap' ? 'hold' : 'walk' });
    await move(guest, { options: { schedule, bytesPerSecond: 400e6, downtimeLimitMs: 20 } });
  });
});

it('skips every free page of a quiet guest under wait, and sends none of them in vain', async () => {
  const guest = await bench.guest({ workload: { kind: 'halt' } });
  const free = guest.counters().freePages;
  const { source, leftBehind } = await move(guest, { options: { schedule: 'wait', zeroDetection: false } });
  expect(source.accounts.hints).toMatchObject({
    applied: free,
    alreadySent: 0,
    sentInVain: 0,
    notPending: 0,
  });
  expect(leftBehind).toBe(free);
});

it('sends every page without hints and without zero detection', async () => {
  const guest = await bench.guest({ workload: { kind: 'halt' } });
  const { source, leftBehind } = await move(guest, { options: { hints: false, zeroDetection: false } });
  expect(source.sessions).toHaveLength(0);
  expect(source.sent.pages).toBeGreaterThanOrEqual(guest.memory.layout.pageCount);
  expect(leftBehind).toBe(0);
});

it('sends zero pages without their contents', async () => {
  const guest = await bench.guest({ freeMemory: 'zero', workload: { kind: 'halt' } });
  const { source } = await move(guest, { options: { hints: false, zeroDetection: true } });
  expect(source.sent.zeroPages).toBeGreaterThanOrEqual(guest.counters().freePages);
});

it('moves a guest on and on, A → B → C → D, and its ids go on with it', async () => {
  let guest = await bench.guest({ workload: CHURN });
  const ids: number[] = [];
  for (let hop = 0; hop < 3; hop += 1) {
    const moved = await move(guest);
    ids.push(...moved.source.sessions.map(({ id }) => id));
    guest = moved.guest;
  }
  expect(ids).toEqual(ids.map((_, i) => i + 2));
});

it('goes on working at the destination from the migrated memory', async () => {
  const guest = await bench.guest({ workload: CHURN });
  const { guest: arrived } = await move(guest);
  await expect.poll(() => arrived.counters().pagesWritten, { timeout: 30_000 }).toBeGreaterThan(100);
  expect(await arrived.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});

it('gives a guest that holds its pages all of them back at the destination (C13)', async () => {
  const guest = await bench.guest({ reportMode: 'hold', workload: { kind: 'halt' } });
  const free = guest.counters().freePages;
  const { guest: arrived } = await move(guest);
  await expect.poll(() => arrived.counters().freePages, { timeout: 30_000 }).toBe(free);
});

describe.each(['walk', 'hold'] as const)('in VIRTIO’s dialect, a guest that reports by %s', (reportMode) => {
  const options = { dialect: 'virtio', reportMode } as const;

  it.each(SCHEDULES)('is moved under %s with work on its hands, and loses nothing', async (schedule) => {
    const guest = await bench.guest({ ...options, workload: schedule === 'wait' ? DIRTY : CHURN });
    const { source, leftBehind } = await move(guest, { options: { schedule, bytesPerSecond: 200e6 } });
    expect(source.accounts.hints.applied).toBeGreaterThan(0);
    expect(leftBehind).toBeGreaterThan(0);
  });

  it('is moved while its memory is short, and loses nothing (D7)', async () => {
    await move(await bench.guest({ ...options, workload: PRESSURE }), { options: { bytesPerSecond: 400e6 } });
  });

  it('is moved on and on, with its ids, and has all of its memory at each place (V6, V9)', async () => {
    let guest = await bench.guest({ ...options, workload: { kind: 'halt' } });
    const free = guest.counters().freePages;
    const ids: number[] = [];
    for (let hop = 0; hop < 3; hop += 1) {
      const moved = await move(guest);
      ids.push(...moved.source.sessions.map(({ id }) => id));
      guest = moved.guest;
      const there = guest;
      await expect.poll(() => there.counters().freePages, { timeout: 30_000 }).toBe(free);
    }
    expect(ids).toEqual(ids.map((_, i) => i + 2));
  });

  it('says what it has when it is asked, here and there', async () => {
    const guest = await bench.guest({ ...options, workload: { kind: 'halt' } });
    const totalBytes = guest.memory.layout.memoryBytes;
    const freeBytes = guest.counters().freePages * 4096;
    const statistics = { totalBytes, freeBytes, availableBytes: freeBytes };
    for (let i = 0; i < 5; i += 1) {
      expect(await guest.statistics()).toEqual(statistics);
    }
    const { guest: arrived } = await move(guest);
    await expect.poll(() => arrived.counters().freePages, { timeout: 30_000 }).toBe(freeBytes / 4096);
    await arrived.balloonTo(100);
    const left = freeBytes - 100 * 4096;
    expect(await arrived.statistics()).toEqual({ totalBytes, freeBytes: left, availableBytes: left });
  });
});

it('has no statistics to ask for in the mail’s dialect, and no variants of its register in VIRTIO’s', async () => {
  const guest = await bench.guest();
  await expect(guest.statistics()).rejects.toMatchObject({ code: 'UNSUPPORTED' });
  const requests = { design: 'polling', ballooning: true, reporting: true, futureFeatures: 0 } as const;
  await expect(bench.guest({ dialect: 'virtio', requests })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});

/** Aborts when `moment` comes; resolves with what is left at the source. */
async function cancelAt(moment: MigrationEvent['type'], options: TestGuestOptions): Promise<PrecopySource> {
  const guest = await bench.guest(options);
  const free = guest.counters().freePages;
  const destination = await bench.destinationFor(guest);
  const abort = new AbortController();
  const source = await bench.migrate(guest, destination, {
    signal: abort.signal,
    options: { bytesPerSecond: 200e6 },
    onEvent: (event) => {
      if (event.type === moment) {
        abort.abort();
      }
    },
  });
  expectBalance(source);
  await expect.poll(() => guest.running, { timeout: 30_000 }).toBe(true);
  await expect.poll(() => guest.counters().freePages, { timeout: 30_000 }).toBe(free);
  expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  expect(destination.guest.running).toBe(false);
  return source;
}

it.each([
  'started',
  'round',
  'session-issued',
  'session-started',
  'session-done',
  'round-end',
  'stopping',
  'stopped',
  'ready',
] as const)(
  'I8 a migration that is cancelled at "%s" leaves the guest running at the source with its memory back',
  async (moment) => {
    const source = await cancelAt(moment, { reportMode: 'hold', workload: { kind: 'halt' } });
    expect(source.phase).toBe('cancelled');
    expect(source.error?.code).toBe('CANCELLED');
  },
);

it('can be migrated again after a cancelled migration', async () => {
  const guest = await bench.guest({ reportMode: 'hold' });
  const first = await bench.destinationFor(guest);
  const abort = new AbortController();
  await bench.migrate(guest, first, {
    signal: abort.signal,
    onEvent: ({ type }) => {
      if (type === 'session-started') {
        abort.abort();
      }
    },
  });
  await move(guest);
});

it('I10 a cancel after the commit changes nothing: the guest is the destination’s', async () => {
  const guest = await bench.guest();
  const destination = await bench.destinationFor(guest);
  const abort = new AbortController();
  const source = await bench.migrate(guest, destination, {
    signal: abort.signal,
    onEvent: ({ type }) => {
      if (type === 'committed') {
        abort.abort();
      }
    },
  });
  expect(source.phase).toBe('completed');
  expect(guest.running).toBe(false);
  const arrived = await bench.arrive(guest, destination);
  expect(arrived.pages.pagesDifferent).toBe(0);
});

it('refuses to begin under a signal that is already aborted', async () => {
  const guest = await bench.guest();
  const destination = await bench.destinationFor(guest);
  await expect(bench.migrate(guest, destination, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'CANCELLED',
  });
  expect(guest.running).toBe(true);
});

it('I8 a destination that dies leaves the guest running at the source', async () => {
  const guest = await bench.guest({ workload: CHURN });
  const destination = await bench.destinationFor(guest);
  const source = await bench.migrate(guest, destination, {
    options: { bytesPerSecond: 200e6 },
    onEvent: ({ type }) => {
      if (type === 'session-done') {
        destination.channel.fail('a test says so');
      }
    },
  });
  expect(source.phase).toBe('failed');
  expect(source.error?.code).toBe('DESTINATION_FAILED');
  await expect.poll(() => guest.running, { timeout: 30_000 }).toBe(true);
  expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});

it('C10 a balloon is resized while a report is under way, and both come out right', async () => {
  const guest = await bench.guest({ workload: { kind: 'halt' } });
  const free = guest.counters().freePages;
  await guest.balloonTo(500);
  expect(guest.counters().freePages).toBe(free - 500);
  const moved = await move(guest, {
    onEvent: ({ type }) => {
      if (type === 'session-issued') {
        guest.device?.setBalloonTarget(1200);
      }
    },
  });
  // Where the resize had got to when the guest was stopped, it goes on from at the destination.
  await expect.poll(() => moved.guest.device?.registers.actual, { timeout: 30_000 }).toBe(1200);
  await expect.poll(() => moved.guest.counters().freePages, { timeout: 30_000 }).toBe(free - 1200);
  expect(await moved.guest.balloonTo(0)).toBe(0);
  expect(moved.guest.counters().freePages).toBe(free);
  expect(await moved.guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});

it('keeps the event loop free: a timer of the embedder’s runs all the while', async () => {
  const guest = await bench.guest();
  const destination = await bench.destinationFor(guest);
  let ticks = 0;
  const ticker = setInterval(() => {
    ticks += 1;
  }, 1);
  const source = await bench.migrate(guest, destination, { options: { bytesPerSecond: 200e6 } });
  clearInterval(ticker);
  expect(source.phase).toBe('completed');
  expect(ticks).toBeGreaterThan(5);
});
