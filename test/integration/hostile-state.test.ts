import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { WorkerGuest } from '../../dist/src/index.js';
import { Bench } from '../support/guests.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await bench.close();
});

/** The state that a source sends instead of its guest's. */
function spoil(guest: WorkerGuest, how: (state: Record<string, unknown>) => unknown): void {
  const save = guest.saveDeviceState.bind(guest);
  vi.spyOn(guest, 'saveDeviceState').mockImplementation(() =>
    new TextEncoder().encode(
      JSON.stringify(how(JSON.parse(new TextDecoder().decode(save())) as Record<string, unknown>)),
    ),
  );
}

it.each<[string, (state: Record<string, unknown>) => unknown, RegExp]>([
  ['nothing', () => null, /it Invalid input: expected object/],
  ['a balloon outside RAM', (state) => ({ ...state, inflated: [2 ** 30, 5] }), /inflated\[1\] is of pages/],
  [
    "a vCPU whose tables are nobody's",
    (state) => ({
      ...state,
      vcpu: String(state['vcpu']).replace(/"metadataGpa":\d+/, '"metadataGpa":1099511627776'),
    }),
    /vcpu\.registers\.config\.metadataGpa is 1099511627776/,
  ],
])(
  'a destination refuses %s before it is ready, and the guest goes on at the source',
  async (_what, how, words) => {
    const guest = await bench.guest({ workload: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 64 } });
    const destination = await bench.destinationFor(guest);
    spoil(guest, how);
    const source = await bench.migrate(guest, destination);
    expect(source.phase).toBe('failed');
    expect(source.error?.code).toBe('DESTINATION_FAILED');
    expect(source.error?.message).toMatch(words);
    expect(destination.guest.running).toBe(false);
    const { pagesWritten } = guest.counters();
    await expect.poll(() => guest.counters().pagesWritten, { timeout: 30_000 }).toBeGreaterThan(pagesWritten);
    expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
    vi.restoreAllMocks();
    const again = await bench.migrate(guest, await bench.destinationFor(guest));
    expect(again.phase).toBe('completed');
  },
);

it('a destination without the trace refuses a guest that replays it, before it is ready', async () => {
  const guest = await bench.guest();
  const destination = await bench.destinationFor(guest);
  spoil(guest, (state) => ({
    ...state,
    vcpu: String(state['vcpu']).replace(
      /"workload":\{"kind":[^}]*\}/,
      '"workload":{"kind":"trace","name":"elsewhere","atMs":0,"speed":1,"pagesPerSecond":0}',
    ),
  }));
  const source = await bench.migrate(guest, destination);
  expect(source.phase).toBe('failed');
  expect(source.error?.message).toMatch(
    /workload\.name is of no trace that is here: the guest replays elsewhere/,
  );
  expect(await guest.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
});
