import { expect, it } from 'vitest';
import { EventWord } from '../../../src/memory/control-buffer.js';
import { SharedGuestMemory } from '../../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { DEFAULT_OPTIONS } from '../../../src/migration/options.js';
import { PrecopySource } from '../../../src/migration/precopy.js';
import type { SourceVm } from '../../../src/migration/vm.js';
import { MemoryChannel, MemoryChannelEnd } from '../../../src/transport/memory.js';
import type { FrameSink } from '../../../src/wire/channel.js';

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

it('pages that the destination has to write are on their way until it has: with contents, or filled with poison', () => {
  const channel = new MemoryChannel(atomicMapper);
  const { memory } = stripedVm();
  channel.pageRun(0, 3, memory.pages(0, 3));
  channel.fillRun(8, 5, 0xaaaa_aaaa);
  channel.fillRun(16, 7, 0);
  channel.zeroRun(32, 9);
  expect(channel.unflushedBytes).toBe(8 * PAGE_SIZE);
  const fills: number[][] = [];
  const nothing = (): void => {};
  const sink: FrameSink = {
    discarded: false,
    pageRun: nothing,
    zeroRun: nothing,
    fillRun: (...fill) => fills.push([...fill]),
    roundEnd: nothing,
    deviceState: nothing,
    finish: nothing,
    commit: nothing,
    withdraw: nothing,
    restart: nothing,
    cancel: nothing,
    fail: nothing,
  };
  const end = new MemoryChannelEnd(atomicMapper, channel.buffer, new EventWord(atomicMapper));
  end.step(sink, memory);
  expect(channel.unflushedBytes).toBe(0);
  expect(fills.map(([pfn, pages, value]) => [pfn, pages, value! >>> 0])).toEqual([
    [8, 5, 0xaaaa_aaaa],
    [16, 7, 0],
  ]);
});
