import { describe, expect, it } from 'vitest';
import { BalloonDevice } from '../../../../src/balloon/balloon-device.js';
import { PrivateGuestMemory } from '../../../../src/memory/guest-memory.js';
import { PageBitmap } from '../../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../../src/memory/shared-words.js';
import { V86BalloonRegisters } from '../../../../src/vmm/v86/balloon-registers.js';
import { parseBalloonState, saveBalloonState } from '../../../../src/vmm/v86/balloon-state.js';
import { FakeMachine } from '../../../support/fake-v86.js';

const PAGES = 64;
const LAYOUT = new RamLayout([{ startGpa: 0, endGpa: PAGES * 4096 }]);
const TRANSPORT = ['what v86 keeps'];

/** [version, registers, queues, next id, owes done, inflated] of a balloon in mid-session. */
function saved(): unknown[] {
  const { cpu } = new FakeMachine(PAGES);
  const inflated = PageBitmap.allocate(atomicMapper, PAGES);
  inflated.setRange(3, 4);
  inflated.set(63);
  const balloon = new BalloonDevice({
    memory: new PrivateGuestMemory(LAYOUT),
    map: atomicMapper,
    registers: new V86BalloonRegisters(cpu, cpu.devices.virtio_balloon.virtio, {
      kicked: () => {},
      reset: () => {},
    }),
    log: { mark: () => {}, markBytes: () => {} },
    inflated,
    eventIdx: false,
    firstId: 40,
    restored: {
      queues: [null, { lastAvailIdx: 5, usedIdx: 4 }, null, { lastAvailIdx: 0xffff, usedIdx: 0xfffe }],
      nextId: 40,
      eventIdx: false,
      owesDone: false,
    },
  });
  balloon.openSession({ hint: () => true }, 0);
  return saveBalloonState([9, 8, 40, 7], balloon);
}

describe("a balloon's state", () => {
  it('arrives as it was: V2, V9, V15', () => {
    const state = saved();
    expect(structuredClone(state)).toEqual(state);
    expect(parseBalloonState([TRANSPORT, state], LAYOUT)).toEqual({
      transport: TRANSPORT,
      values: [9, 8, 40, 7],
      state: {
        queues: [null, { lastAvailIdx: 5, usedIdx: 4 }, null, { lastAvailIdx: 0xffff, usedIdx: 0xfffe }],
        nextId: 41,
        eventIdx: false,
        owesDone: true,
      },
      inflated: [3, 4, 63, 1],
    });
  });

  it("is refused if it is of v86's own balloon", () => {
    for (const other of [undefined, null, 7, [], [TRANSPORT], [TRANSPORT, 3, 5], [saved()]]) {
      expect(() => parseBalloonState(other, LAYOUT)).toThrow(
        expect.objectContaining({
          code: 'DEVICE_STATE_INVALID',
          message: expect.stringContaining('own balloon'),
        }),
      );
    }
  });

  const hostile: readonly [what: string, index: number, value: unknown][] = [
    ['another version', 0, 2],
    ['no version', 0, undefined],
    ['no registers', 1, undefined],
    ['a register too few', 1, [1, 2, 3]],
    ['a register too many', 1, [1, 2, 3, 4, 5]],
    ['a register that is none', 1, [1, 2, 3, '4']],
    ['a register below 0', 1, [1, 2, 3, -1]],
    ['a register beyond 32 bits', 1, [1, 2, 3, 2 ** 32]],
    ['no queues', 2, null],
    ['queues without end', 2, Array.from({ length: 9 }, () => null)],
    ['a queue that is none', 2, [7]],
    ['a queue with an index too many', 2, [[1, 2, 3]]],
    ['a queue with an index too few', 2, [[1]]],
    ['an index beyond 16 bits', 2, [[1, 0x1_0000]]],
    ['an index that is no number', 2, [[1, null]]],
    ['no id', 3, undefined],
    ['id 1, which is reserved', 3, 1],
    ['an id beyond 32 bits', 3, 2 ** 32],
    ['half an id', 3, 2.5],
    ['no pages', 5, undefined],
    ['half a run', 5, [3]],
    ['a run of nothing', 5, [3, 0]],
    ['pages beyond RAM', 5, [60, 5]],
    ['a page beyond RAM', 5, [PAGES, 1]],
    ['pages before RAM', 5, [-1, 1]],
    ['a page that is none', 5, [{}, 1]],
  ];
  it.each(hostile)('is refused with %s', (_, index, value) => {
    const state = saved();
    state[index] = value;
    expect(() => parseBalloonState([TRANSPORT, state], LAYOUT)).toThrow(
      expect.objectContaining({ code: 'DEVICE_STATE_INVALID' }),
    );
  });
});
