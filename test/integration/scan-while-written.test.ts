import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { resolveOptions } from '../../src/migration/options.js';
import { PrecopySource } from '../../src/migration/precopy.js';
import type { SourceVm } from '../../src/migration/vm.js';
import type { SourceChannel } from '../../src/wire/channel.js';

const PAGES = 128;
const WRITTEN_PAGE = 10;
const USED_PAGE = 40;
const MIGRATIONS = 20_000;

/*
 * A page that is written while the zero scan looks at it comes again, by its mark. Its neighbours do not: what the scan
 * says of them has to be right. (memcmp over several pages was not, in 6 scans of 100: ADR 9.)
 */
it('what the zero scan says of a page does not depend on who writes the pages beside it', async () => {
  const memory = SharedGuestMemory.allocate(new RamLayout([{ startGpa: 0, endGpa: PAGES * PAGE_SIZE }]));
  memory.pages(USED_PAGE, 1)[5] = 7;
  const writer = new Worker(new URL('../support/toggle-word.mjs', import.meta.url), {
    workerData: { buffer: memory.buffers[0], wordIndex: (WRITTEN_PAGE * PAGE_SIZE) / 4 + 37 },
  });
  try {
    await once(writer, 'message');
    let calledZero = 0;
    let zeroRuns = 0;
    for (let i = 0; i < MIGRATIONS; i += 1) {
      firstRound(memory, (pfn, pageCount) => {
        zeroRuns += 1;
        calledZero += pfn <= USED_PAGE && pfn + pageCount > USED_PAGE ? 1 : 0;
      });
    }
    expect(calledZero).toBe(0);
    expect(zeroRuns).toBeGreaterThanOrEqual(2 * MIGRATIONS);
  } finally {
    await writer.terminate();
  }
});

/** The first round of a migration, whose zero runs are shown to `zeroRun`. */
function firstRound(memory: SharedGuestMemory, zeroRun: SourceChannel['zeroRun']): void {
  const nothing = (): void => {};
  const vm: SourceVm = {
    memory,
    device: undefined,
    migrationBegins: nothing,
    migrationEnds: nothing,
    payload: (pfn, pageCount) => memory.pages(pfn, pageCount),
    drainDirty: () => true,
    requestPause: nothing,
    paused: false,
    stoppedAt: 0,
    resume: nothing,
    failure: undefined,
    saveDeviceState: () => new Uint8Array(0),
  };
  const channel: SourceChannel = {
    writable: true,
    unflushedBytes: 0,
    pageRun: nothing,
    zeroRun,
    fillRun: nothing,
    roundEnd: nothing,
    deviceState: nothing,
    finish: nothing,
    commit: nothing,
    withdraw: nothing,
    cancel: nothing,
    poll: () => undefined,
  };
  const source = new PrecopySource(vm, channel, {
    ...resolveOptions({ zeroDetection: true }),
    clock: () => 0,
    onEvent: nothing,
  });
  while (source.sent.rounds === 0) {
    source.step();
  }
}
