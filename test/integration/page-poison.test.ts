import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FaultBoard } from '../../dist/src/guest/faulty-driver.js';
import {
  atomicMapper,
  type PrecopySource,
  q35Blocks,
  RamLayout,
  type WorkerGuest,
  type WorkloadSpec,
} from '../../dist/src/index.js';
import { Bench } from '../support/guests.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(async () => {
  await bench.close();
});

const POISON = 0xaaaa_aaaa;
const HALT: WorkloadSpec = { kind: 'halt' };
const PRESSURE: WorkloadSpec = { kind: 'pressure', pagesPerSecond: 100_000 };
const CLEAN = { badPages: 0, badPfn: -1 };

/** Moves a guest; every page by the oracle, every page by the guest itself: those in use, and those that are free. */
async function move(
  guest: WorkerGuest,
  options: NonNullable<Parameters<Bench['migrate']>[2]>['options'] = {},
): Promise<{ source: PrecopySource; guest: WorkerGuest }> {
  const destination = await bench.destinationFor(guest, true);
  const source = await bench.migrate(guest, destination, { options });
  expect(source.error).toBeUndefined();
  const arrived = await bench.arrive(guest, destination);
  expect(arrived.pages).toMatchObject({ pagesDifferent: 0, firstDifferentPfn: -1 });
  expect(await arrived.guest.selfCheck()).toMatchObject(CLEAN);
  return { source, guest: arrived.guest };
}

describe.each(['walk', 'hold'] as const)('P5 with threads, %s', (reportMode) => {
  it.each([POISON, 0x1234_5678, 0])(
    'a guest that poisons with %i finds its poison, A → B → C',
    async (pagePoison) => {
      let guest = await bench.guest({ reportMode, pagePoison, workload: PRESSURE });
      for (let hop = 0; hop < 2; hop += 1) {
        const moved = await move(guest, { bytesPerSecond: 400e6, downtimeLimitMs: 20 });
        expect(moved.source.accounts.hints.applied).toBeGreaterThan(0);
        expect(moved.source.sent.filledPages).toBeGreaterThan(pagePoison === 0 ? -1 : 0);
        guest = moved.guest;
        expect(guest.device?.poison).toBe(pagePoison);
        await expect.poll(() => guest.counters().pagesWritten, { timeout: 30_000 }).toBeGreaterThan(5000);
      }
      expect(await guest.selfCheck()).toMatchObject(CLEAN); // it has taken pages that were skipped, and has found poison
    },
  );

  it('fills each page that was hinted, once, in a few runs', async () => {
    const guest = await bench.guest({ reportMode, pagePoison: POISON, workload: HALT });
    const { source } = await move(guest, { schedule: 'wait', zeroDetection: false });
    const { applied } = source.accounts.hints;
    expect(applied).toBeGreaterThan(3000);
    expect(source.sent.filledPages).toBe(applied);
    expect(source.rounds.every(({ skipped }) => skipped === 0)).toBe(true);
  });
});

it.each([
  ['walk', false],
  ['walk', true],
  ['hold', false],
  ['hold', true],
] as const)(
  '%s, init_on_alloc %s: hold has what it hints written again, walk has not',
  async (reportMode, initOnAlloc) => {
    const guest = await bench.guest({ reportMode, initOnAlloc, workload: HALT });
    const { source } = await move(guest, { schedule: 'wait', zeroDetection: false });
    const { applied, hinted, reDirtied } = source.accounts.hints;
    expect(applied).toBe(hinted);
    expect(applied).toBeGreaterThan(3000);
    expect(reDirtied).toBe(reportMode === 'hold' && initOnAlloc ? applied : 0);
    expect(source.sessions).toHaveLength(1);
    expect(source.sent.pages >= guest.memory.layout.pageCount).toBe(reDirtied > 0);
  },
);

it('I6 a driver that lies loses its own pages, to poison', async () => {
  const { pfnSpan } = new RamLayout(q35Blocks(32 * 1024 * 1024));
  const faults = new SharedArrayBuffer(FaultBoard.byteLength(pfnSpan));
  const board = new FaultBoard(atomicMapper, faults, pfnSpan);
  const guest = await bench.guest({ pagePoison: POISON, workload: HALT, faults });
  board.arm({ name: 'lie', amount: 50, ms: 0, seed: 1 });
  const destination = await bench.destinationFor(guest);
  const source = await bench.migrate(guest, destination, { options: { schedule: 'wait' } });
  expect(source.phase).toBe('completed');
  const { pages } = await bench.arrive(guest, destination);
  // They hold what they held at the source, or poison and nothing else: so says whoever compares them.
  expect(pages.pagesDifferent).toBe(0);
  expect(pages.pagesLeftBehind).toBeGreaterThan(0);
  expect(pages.pagesLeftBehind).toBe(board.lied.count());
});

it('refuses a poison value that is none', async () => {
  for (const pagePoison of [-1, 0.5, 2 ** 32, Number.NaN]) {
    await expect(bench.guest({ pagePoison })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  }
});
