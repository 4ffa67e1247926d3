import { expect, it } from 'vitest';
import { SharedGuestMemory } from '../../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { DEFAULT_OPTIONS } from '../../../src/migration/options.js';
import { PrecopySource } from '../../../src/migration/precopy.js';
import type { SourceVm } from '../../../src/migration/vm.js';
import { MemoryChannel } from '../../../src/transport/memory.js';

/** A machine that stands still and has no balloon. Every second page of it is zero. */
function stripedVm(): SourceVm {
  const memory = SharedGuestMemory.allocate(new RamLayout([{ startGpa: 0, endGpa: 32 * MIB }]));
  for (let page = 0; page < memory.layout.pageCount; page += 2) {
    memory.segments[0]!.bytes[page * PAGE_SIZE] = 1;
  }
  return {
    memory,
    device: undefined,
    failure: undefined,
    paused: false,
    stoppedAt: 0,
    payload: (pfn, pageCount) => memory.pages(pfn, pageCount),
    drainDirty: () => true,
    migrationBegins: () => {},
    migrationEnds: () => {},
    requestPause: () => {},
    resume: () => {},
    saveDeviceState: () => new Uint8Array(0),
  };
}

it('a source never writes more frames than the ring has room for, however many a run is cut into', () => {
  const channel = new MemoryChannel(atomicMapper);
  const words = new Int32Array(channel.buffer, 0, 2); // WRITE_INDEX and READ_INDEX; nobody reads here
  const source = new PrecopySource(stripedVm(), channel, {
    ...DEFAULT_OPTIONS,
    clock: () => 0,
    onEvent: () => {},
  });
  for (let step = 0; step < 20_000; step += 1) {
    source.step();
  }
  expect(words[0]! - words[1]!).toBeGreaterThan(900);
  expect(words[0]! - words[1]!).toBeLessThanOrEqual(1024);
});
