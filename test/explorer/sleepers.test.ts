import { describe, expect, it } from 'vitest';
import { ChannelWorld } from './channel-world.js';
import { explore, type World } from './search.js';
import { StreamRingWorld } from './stream-ring-world.js';
import { traceTable } from './trace.js';
import { VcpuWorld } from './vcpu-world.js';

function exhaust(world: World): { states: number; transitions: number; depth: number } {
  const start = world.memento.save();
  const { counterexample, exhausted, states, transitions, depth } = explore(world);
  world.memento.restore(start);
  const trace = counterexample === undefined ? undefined : traceTable(world, counterexample);
  expect(trace, `after ${states} states`).toBeUndefined();
  expect(exhausted).toBe(true);
  return { states, transitions, depth };
}

describe('the host and its vCPU, access by access', () => {
  it.each([
    [1, 531, 1057, 28],
    [2, 3054, 6333, 38],
    [4, 29_509, 63_487, 46],
  ])(
    'I2 no slice runs while the host believes that the guest stands still (%d requests)',
    (requests, ...counts) => {
      expect(Object.values(exhaust(new VcpuWorld(requests)))).toEqual(counts);
    },
  );
});

describe('the memory channel, access by access', () => {
  it.each([
    [1, 39, 60, 11],
    [2, 109, 182, 16],
    [4, 444, 786, 26],
  ])('Q7 the destination sleeps through no frame (%d frames)', (frames, ...counts) => {
    expect(Object.values(exhaust(new ChannelWorld(frames)))).toEqual(counts);
  });
});

describe('the ring of a stream, access by access', () => {
  it.each([
    [1, 159, 254, 23],
    [2, 3777, 7032, 50],
    [3, 26_334, 50_663, 83],
  ])('neither end sleeps while the other waits for it (%d runs)', (runs, ...counts) => {
    expect(Object.values(exhaust(new StreamRingWorld(runs)))).toEqual(counts);
  });
});
