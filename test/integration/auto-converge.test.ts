import { afterEach, beforeEach, expect, it } from 'vitest';
import type { MigrationEvent, WorkerGuest, WorkloadSpec } from '../../dist/src/index.js';
import { Bench } from '../support/guests.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(async () => {
  await bench.close();
});

/** Five times what the link carries; a fifth of that under the highest throttle. */
const BUSY: WorkloadSpec = { kind: 'dirty', bytesPerSecond: 100e6, workingSetBytes: 4 * 1024 * 1024 };
const SMALL = { memoryBytes: 16 * 1024 * 1024 };
const SLOW = { bytesPerSecond: 20e6, downtimeLimitMs: 20, stallRounds: 2 } as const;
const STEPS = { throttleInitial: 0.5, throttleIncrement: 0.25, throttleMax: 0.95 } as const;

function sharesIn(events: readonly MigrationEvent[]): number[] {
  return events.flatMap((event) => (event.type === 'throttled' ? [event.share] : []));
}

/** It goes on writing, as much as it has written in all. */
async function expectWriting(guest: WorkerGuest): Promise<void> {
  const { pagesWritten } = guest.counters();
  await expect
    .poll(() => guest.counters().pagesWritten, { timeout: 60_000 })
    .toBeGreaterThan(pagesWritten + 10_000);
}

it('throttles a guest that outruns the link until it fits, and lets it run freely where it arrives', async () => {
  const guest = await bench.guest({ workload: BUSY, image: SMALL });
  const destination = await bench.destinationFor(guest, true);
  const events: MigrationEvent[] = [];
  let shareAtStop = Number.NaN;
  const source = await bench.migrate(guest, destination, {
    options: { ...SLOW, ...STEPS, onStall: 'throttle' },
    onEvent: (event) => {
      events.push(event);
      shareAtStop = event.type === 'stopping' ? guest.control.throttle : shareAtStop;
    },
  });
  expect(source.error).toBeUndefined();
  expect(source.switchover).toBe('downtime-limit');
  expect(source.highestThrottle).toBeGreaterThanOrEqual(0.5);
  expect(shareAtStop).toBe(source.highestThrottle);
  const shares = sharesIn(events);
  expect(shares).toEqual([...[0.5, 0.75, 0.95].slice(0, shares.length - 1), 0]);
  expect(guest.control.throttle).toBe(0);
  const arrived = await bench.arrive(guest, destination);
  expect(arrived.pages).toMatchObject({ pagesDifferent: 0, firstDifferentPfn: -1 });
  expect(arrived.guest.control.throttle).toBe(0);
  expect(await arrived.guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  await expectWriting(arrived.guest);

  // As fast as ever: it does not fit any more, unless it is throttled again.
  const further = await bench.destinationFor(arrived.guest, true);
  const again = await bench.migrate(arrived.guest, further, { options: SLOW });
  expect(again.switchover).toBe('stalled');
  expect(again.highestThrottle).toBe(0);
  const last = await bench.arrive(arrived.guest, further);
  expect(last.pages.pagesDifferent).toBe(0);
});

it('leaves a guest that outruns the link running, and not throttled, where that is asked for', async () => {
  const guest = await bench.guest({ workload: BUSY, image: SMALL, reportMode: 'hold' });
  const free = guest.counters().freePages;
  const destination = await bench.destinationFor(guest);
  const source = await bench.migrate(guest, destination, { options: { ...SLOW, onStall: 'cancel' } });
  expect(source.phase).toBe('failed');
  expect(source.error?.code).toBe('NOT_CONVERGING');
  expect(guest.control.throttle).toBe(0);
  expect(destination.guest.running).toBe(false);
  expect(guest.running).toBe(true);
  await expect.poll(() => guest.counters().freePages, { timeout: 30_000 }).toBe(free);
  await expectWriting(guest);
  expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});

it('I8 lets a guest run freely again whose migration is cancelled while it is throttled', async () => {
  const guest = await bench.guest({ workload: BUSY, image: SMALL });
  const destination = await bench.destinationFor(guest);
  const abort = new AbortController();
  const events: MigrationEvent[] = [];
  const source = await bench.migrate(guest, destination, {
    signal: abort.signal,
    options: { ...SLOW, ...STEPS, throttleInitial: 0.9, onStall: 'throttle' },
    onEvent: (event) => {
      events.push(event);
      if (event.type === 'round' && guest.control.throttle > 0) {
        abort.abort();
      }
    },
  });
  expect(source.phase).toBe('cancelled');
  expect(sharesIn(events)).toEqual([0.9, 0]);
  expect(guest.control.throttle).toBe(0);
  await expectWriting(guest);
  expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});

it('answers a self-check and a request to stop while it stands still almost all of the time', async () => {
  const guest = await bench.guest({ workload: BUSY, image: SMALL });
  guest.throttle(0.99);
  for (let i = 0; i < 3; i += 1) {
    expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
    await guest.pause();
    guest.resume();
  }
  guest.throttle(0);
  await expectWriting(guest);
});
