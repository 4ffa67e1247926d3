import { beforeEach, describe, expect, it } from 'vitest';
import { LacunaError, type LacunaErrorCode } from '../../../src/errors.js';
import { PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../../src/memory/page.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { Receiver } from '../../../src/migration/receiver.js';
import { LoopbackChannel } from '../../../src/transport/loopback.js';
import type { DestinationMessage } from '../../../src/wire/channel.js';

const LAYOUT = new RamLayout([
  { startGpa: 0, endGpa: gpaOf(16) },
  { startGpa: gpaOf(32), endGpa: gpaOf(40) },
]);
const STATE = new Uint8Array([1, 2, 3]);

let memory: PrivateGuestMemory;
let receiver: Receiver;
let said: DestinationMessage[];
let loaded: Uint8Array[];
let starts: number;
let startFails: boolean;

beforeEach(() => {
  memory = new PrivateGuestMemory(LAYOUT);
  said = [];
  loaded = [];
  starts = 0;
  startFails = false;
  receiver = new Receiver(
    {
      memory,
      loadDeviceState: (state) => {
        if (state.length === 0) {
          throw new LacunaError('DEVICE_STATE_INVALID', 'no bytes');
        }
        loaded.push(state);
      },
      start: () => {
        starts += 1;
        if (startFails) {
          throw new LacunaError('GUEST_FAILED', 'it does not');
        }
        return 4711;
      },
    },
    (message) => said.push(message),
  );
});

function pages(count: number, byte = 7): Uint8Array {
  return new Uint8Array(count * PAGE_SIZE).fill(byte);
}

function refused(code: LacunaErrorCode, action: () => void): void {
  let thrown: unknown;
  try {
    action();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(LacunaError);
  expect((thrown as LacunaError).code).toBe(code);
}

function ready(): void {
  receiver.deviceState(STATE);
  receiver.finish();
}

/** Every frame, with contents that are in order. */
const frames: Record<string, () => void> = {
  pageRun: () => receiver.pageRun(0, 1, pages(1)),
  zeroRun: () => receiver.zeroRun(0, 1),
  fillRun: () => receiver.fillRun(0, 1, 0),
  roundEnd: () => receiver.roundEnd(receiver.counts.rounds + 1),
  deviceState: () => receiver.deviceState(STATE),
  finish: () => receiver.finish(),
  commit: () => receiver.commit(),
  withdraw: () => receiver.withdraw(),
};

describe('what it applies', () => {
  it('pages, zeroes and fills, and counts them', () => {
    receiver.pageRun(2, 3, pages(3));
    receiver.zeroRun(3, 1);
    receiver.fillRun(4, 1, 0);
    receiver.fillRun(33, 2, 0xaaaa_aaaa);
    receiver.roundEnd(1);
    expect(memory.pages(2, 1).every((byte) => byte === 7)).toBe(true);
    expect(memory.pages(3, 2).every((byte) => byte === 0)).toBe(true);
    expect(memory.pages(33, 2).every((byte) => byte === 0xaa)).toBe(true);
    expect(memory.pages(35, 1).every((byte) => byte === 0)).toBe(true);
    expect(receiver.counts).toEqual({ pages: 3, zeroPages: 1, filledPages: 3, rounds: 1 });
  });

  it('zeroes over a fill, contents over zeroes, and zeroes over those', () => {
    receiver.fillRun(5, 1, 9);
    receiver.zeroRun(5, 1);
    expect(memory.pages(5, 1).every((byte) => byte === 0)).toBe(true);
    receiver.pageRun(5, 1, pages(1));
    receiver.zeroRun(4, 3);
    expect(memory.pages(4, 3).every((byte) => byte === 0)).toBe(true);
  });

  it('keeps no view of the payload', () => {
    const payload = pages(1);
    receiver.pageRun(0, 1, payload);
    payload.fill(1);
    expect(memory.pages(0, 1)[0]).toBe(7);
  });

  it('says that it is ready with its counts, and that the guest runs since when', () => {
    receiver.pageRun(0, 2, pages(2));
    receiver.roundEnd(1);
    ready();
    receiver.commit();
    expect(loaded).toEqual([STATE]);
    expect(said).toEqual([
      { type: 'ready', counts: { pages: 2, zeroPages: 0, filledPages: 0, rounds: 1 } },
      { type: 'started', startedAt: 4711 },
    ]);
  });
});

describe('what it refuses', () => {
  const outside: readonly (readonly [number, number])[] = [
    [15, 2],
    [16, 1],
    [31, 2],
    [39, 2],
    [40, 1],
    [-1, 1],
    [-1, 3],
    [0, 0],
    [0, -1],
    [2 ** 40, 1],
    [0, 2 ** 40],
    [Number.NaN, 1],
  ];

  it.each(outside)('pages outside RAM: %d, %d', (pfn, pageCount) => {
    refused('PROTOCOL_VIOLATION', () => receiver.zeroRun(pfn, pageCount));
    refused('PROTOCOL_VIOLATION', () => receiver.fillRun(pfn, pageCount, 1));
    expect(receiver.counts).toEqual({ pages: 0, zeroPages: 0, filledPages: 0, rounds: 0 });
  });

  it.each([
    [15, 2],
    [16, 1],
    [-1, 1],
    [40, 1],
  ])('contents outside RAM: %d, %d', (pfn, pageCount) => {
    refused('PROTOCOL_VIOLATION', () => receiver.pageRun(pfn, pageCount, pages(pageCount)));
    expect(memory.pages(0, 16).every((byte) => byte === 0)).toBe(true);
  });

  it.each([0, 1, PAGE_SIZE - 1, PAGE_SIZE + 1, 2 * PAGE_SIZE])('one page with %i bytes', (bytes) => {
    if (bytes === PAGE_SIZE) {
      return;
    }
    refused('PROTOCOL_VIOLATION', () => receiver.pageRun(0, 1, new Uint8Array(bytes)));
    expect(receiver.counts.pages).toBe(0);
  });

  it.each([0, 2, -1, 1.5])('the end of round %d after none', (round) => {
    refused('PROTOCOL_VIOLATION', () => receiver.roundEnd(round));
  });

  it('an end without a device state', () => {
    refused('PROTOCOL_VIOLATION', () => receiver.finish());
    expect(said).toEqual([]);
  });

  it('a device state that can not be read', () => {
    refused('DEVICE_STATE_INVALID', () => receiver.deviceState(new Uint8Array(0)));
    refused('PROTOCOL_VIOLATION', () => receiver.finish());
  });

  const answered = new Set(['commit', 'withdraw']);
  const contents = Object.keys(frames).filter((name) => !answered.has(name));

  it.each(contents)('%s once it is ready', (name) => {
    ready();
    refused('PROTOCOL_VIOLATION', frames[name]!);
  });

  it.each(contents)('%s once the guest runs', (name) => {
    ready();
    receiver.commit();
    refused('PROTOCOL_VIOLATION', frames[name]!);
    expect(starts).toBe(1);
  });

  it.each(Object.keys(frames))('%s after a cancel', (name) => {
    receiver.cancel();
    refused('PROTOCOL_VIOLATION', frames[name]!);
    expect(starts).toBe(0);
  });
});

describe('I10 never two', () => {
  it('I10 starts the guest on the commit and on nothing before it', () => {
    receiver.pageRun(0, 1, pages(1));
    receiver.roundEnd(1);
    ready();
    expect(starts).toBe(0);
    receiver.commit();
    expect(starts).toBe(1);
  });

  it('I10 a commit before everything is there starts nothing', () => {
    refused('PROTOCOL_VIOLATION', () => receiver.commit());
    receiver.deviceState(STATE);
    refused('PROTOCOL_VIOLATION', () => receiver.commit());
    expect(starts).toBe(0);
  });

  const ends: Record<string, () => void> = {
    'a cancel': () => receiver.cancel(),
    'an error': () => receiver.fail(new Error('this')),
    'a withdrawal': () => receiver.withdraw(),
  };

  it.each(Object.keys(ends))('I10 a commit after %s starts nothing, and is told so each time', (name) => {
    ready();
    ends[name]!();
    said.length = 0;
    receiver.commit();
    receiver.withdraw();
    receiver.commit();
    expect(said.map(({ type }) => type)).toEqual(['not-started', 'not-started', 'not-started']);
    expect(receiver.discarded).toBe(true);
    expect(starts).toBe(0);
  });

  it('I10 says why it has not started the guest, the first reason each time', () => {
    ready();
    receiver.fail(new Error('this'));
    receiver.cancel();
    receiver.fail(new Error('that'));
    receiver.commit();
    expect(said.at(-1)).toEqual({ type: 'not-started', reason: 'this' });
  });

  it('I10 one that was never ready does not say "not started": it may be another that was', () => {
    refused('PROTOCOL_VIOLATION', () => receiver.withdraw());
    refused('PROTOCOL_VIOLATION', () => receiver.commit());
    receiver.fail(new Error('a commit came too early'));
    refused('PROTOCOL_VIOLATION', () => receiver.commit());
    refused('PROTOCOL_VIOLATION', () => receiver.withdraw());
    expect(said.map(({ type }) => type)).toEqual(['error']);
  });

  it('I10 a commit or a withdrawal once the guest runs is answered with when it was started', () => {
    ready();
    receiver.commit();
    receiver.commit();
    receiver.withdraw();
    expect(said.slice(1)).toEqual(Array.from({ length: 3 }, () => ({ type: 'started', startedAt: 4711 })));
    expect(starts).toBe(1);
    expect(receiver.state).toBe('started');
  });

  it('I10 a guest that runs is not taken for one that did not start because nobody could be told', () => {
    let broken = false;
    receiver = new Receiver({ memory, loadDeviceState: () => {}, start: () => (starts += 1) }, (message) => {
      if (broken) {
        throw new Error('the link broke');
      }
      said.push(message);
    });
    ready();
    broken = true;
    expect(() => receiver.commit()).toThrow('the link broke');
    broken = false;
    receiver.fail(new Error('the link broke'));
    receiver.withdraw();
    expect(said.at(-1)).toEqual({ type: 'started', startedAt: 1 });
  });

  it.each(Object.keys(ends))('I10 after %s no sequence of frames starts the guest', (name) => {
    ready();
    ends[name]!();
    for (const first of Object.keys(frames)) {
      for (const second of [...Object.keys(frames), 'restart']) {
        for (const frame of [first, second, 'deviceState', 'finish', 'commit']) {
          try {
            (frame === 'restart' ? () => receiver.restart() : frames[frame]!)();
          } catch (thrown) {
            receiver.fail(thrown);
          }
          expect(receiver.state).toBe('discarded');
        }
      }
    }
    expect(starts).toBe(0);
    expect(said.filter(({ type }) => type === 'started')).toEqual([]);
  });

  it('I10 a start that failed has voided the commit for ever', () => {
    startFails = true;
    ready();
    receiver.commit();
    expect(said.at(-1)).toEqual({ type: 'not-started', reason: 'it does not' });
    startFails = false;
    receiver.commit();
    expect(said.at(-1)).toEqual({ type: 'not-started', reason: 'it does not' });
    expect(starts).toBe(1);
    expect(receiver.state).toBe('discarded');
  });

  it('I10 a cancel or an error that comes after the start changes nothing', () => {
    ready();
    receiver.commit();
    receiver.cancel();
    receiver.fail(new Error('late'));
    expect(receiver.state).toBe('started');
    expect(said.at(-1)?.type).toBe('started');
  });
});

describe('a link that was restored', () => {
  it('counts rounds and pages anew, keeps what is there, and wants a device state again', () => {
    receiver.pageRun(0, 2, pages(2));
    receiver.roundEnd(1);
    ready();
    receiver.restart();
    expect(receiver.state).toBe('receiving');
    expect(receiver.counts).toEqual({ pages: 0, zeroPages: 0, filledPages: 0, rounds: 0 });
    refused('PROTOCOL_VIOLATION', () => receiver.finish());
    receiver.zeroRun(1, 1);
    receiver.roundEnd(1);
    ready();
    expect(said.at(-1)).toEqual({
      type: 'ready',
      counts: { pages: 0, zeroPages: 1, filledPages: 0, rounds: 1 },
    });
    expect([memory.pages(0, 1)[0], memory.pages(1, 1)[0]]).toEqual([7, 0]);
    receiver.commit();
    expect(starts).toBe(1);
  });

  it('changes nothing for a guest that runs, or is discarded', () => {
    receiver.pageRun(0, 2, pages(2));
    receiver.roundEnd(1);
    ready();
    receiver.commit();
    const { counts } = receiver;
    receiver.restart();
    expect(receiver).toMatchObject({ state: 'started', counts });
    receiver = new Receiver({ memory, loadDeviceState: () => {}, start: () => 1 }, () => {});
    receiver.roundEnd(1);
    receiver.cancel();
    receiver.restart();
    expect(receiver).toMatchObject({ state: 'discarded', counts: { rounds: 1 } });
  });
});

describe('over a channel', () => {
  it('an error is told to the source once, and what follows is dropped', () => {
    const channel = new LoopbackChannel();
    receiver = new Receiver({ memory, loadDeviceState: () => {}, start: () => 1 }, (message) =>
      channel.reply(message),
    );
    channel.connect(receiver);
    channel.zeroRun(20, 1);
    channel.pageRun(0, 1, pages(1));
    channel.deviceState(STATE);
    channel.finish();
    channel.commit();
    expect(channel.poll()).toMatchObject({ type: 'error' });
    expect(channel.poll()).toBeUndefined();
    expect(memory.pages(0, 1)[0]).toBe(0);
    expect(receiver.state).toBe('discarded');
  });
});
