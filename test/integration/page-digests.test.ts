import { afterEach, beforeEach, expect, it } from 'vitest';
import { RamLayout, SharedGuestMemory, type Verification, type WorkerGuest } from '../../dist/src/index.js';
import { PageDigester } from '../../dist/src/vmm/page-digester.js';
import { Bench } from '../support/guests.js';

const MIB = 2 ** 20;

let bench: Bench;
let digester: PageDigester;
beforeEach(() => {
  bench = new Bench();
  digester = new PageDigester();
});
afterEach(async () => {
  await bench.close();
  await digester.close();
});

/** As another process would have it: the digests come as bytes of their own. */
async function byDigests(source: WorkerGuest, destination: WorkerGuest): Promise<Verification> {
  return digester.compare(source, Buffer.from(await digester.digest(destination.memory)));
}

it.each([
  ['keeps its pages as they are', {}],
  ['poisons them', { pagePoison: 0xaaaa_aaaa }],
  ['holds them', { reportMode: 'hold' }],
] as const)(
  'says of a guest that %s what the verifier says: left behind, equal, lost',
  async (_what, options) => {
    const guest = await bench.guest({
      ...options,
      workload: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 64 },
    });
    const destination = await bench.destinationFor(guest);
    const source = await bench.migrate(guest, destination, { options: { schedule: 'wait' } });
    expect(source.error).toBeUndefined();
    const arrived = destination.guest;
    await expect.poll(() => arrived.paused, { timeout: 30_000 }).toBe(true);
    const compare = async (): Promise<Verification> => {
      const verdict = await byDigests(guest, arrived);
      expect(verdict).toEqual(await bench.verifier.compare(guest, arrived));
      return verdict;
    };
    const { pageCount } = guest.memory.layout;
    const clean = await compare();
    expect(clean).toMatchObject({ pagesCompared: pageCount, pagesDifferent: 0, firstDifferentPfn: -1 });
    if (!('pagePoison' in options)) {
      expect(clean.pagesLeftBehind).toBeGreaterThan(0);
    }
    // What a page loses is seen wherever it is, and whatever it was.
    for (const pfn of [0, 1, Math.floor(pageCount / 2), pageCount - 1]) {
      const page = arrived.memory.pages(pfn, 1);
      page[pfn % 4096]! ^= 4;
      expect(await compare()).toMatchObject({ pagesDifferent: 1, firstDifferentPfn: pfn });
      page[pfn % 4096]! ^= 4;
    }
    expect(await compare()).toEqual(clean);
  },
);

it('counts a hole for nothing, and pages by their place whoever looks at them', async () => {
  const layout = new RamLayout([
    { startGpa: 0, endGpa: 80 * MIB },
    { startGpa: 100 * MIB, endGpa: 101 * MIB },
  ]);
  const [memory, other] = [SharedGuestMemory.allocate(layout), SharedGuestMemory.allocate(layout)];
  const guest = { memory, oracle: undefined, device: undefined };
  const pfns = [0, 16_383, 16_384, 20_479, 25_600, 25_855]; // the ends of both blocks, and of the pieces of the work
  for (const pfn of pfns) {
    memory.pages(pfn, 1).fill(pfn);
    other.pages(pfn, 1).fill(pfn);
  }
  const digests = await digester.digest(other);
  expect(digests).toHaveLength(81 * 256 * 16);
  const clean = { pagesCompared: 81 * 256, pagesDifferent: 0, firstDifferentPfn: -1, pagesLeftBehind: 0 };
  expect(await digester.compare(guest, digests)).toEqual(clean);
  for (const pfn of pfns) {
    memory.pages(pfn, 1)[7]! ^= 1;
    expect(await digester.compare(guest, digests)).toEqual({
      ...clean,
      pagesDifferent: 1,
      firstDifferentPfn: pfn,
    });
    memory.pages(pfn, 1)[7]! ^= 1;
  }
  await expect(digester.compare(guest, digests.subarray(16))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});
