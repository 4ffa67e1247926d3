import { describe, expect, it } from 'vitest';
import * as control from '../../../src/memory/control-buffer.js';
import {
  CONTROL_BYTES,
  ControlBuffer,
  EventWord,
  EXIT_WORDS,
  EXITS,
  GUEST_DOORBELL,
  INTERRUPT_CONFIG,
  INTERRUPTS,
  interruptOfQueue,
  QUEUE_COUNT,
  QUEUE_WORDS,
  QUEUES,
} from '../../../src/memory/control-buffer.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { MOST_FUTURE_FEATURES } from '../../../src/spec/command-register.js';

const STATE_BYTES = 16 * 1024;

function makeControl() {
  const event = new EventWord(atomicMapper);
  return { event, control: new ControlBuffer(atomicMapper, new SharedArrayBuffer(CONTROL_BYTES), event) };
}

describe('the word diagram', () => {
  it('gives every register a word of its own, outside the tables', () => {
    const sizes = new Set(['QUEUE_WORDS', 'QUEUE_COUNT', 'EXIT_WORDS', 'INTERRUPT_CONFIG', 'CONTROL_BYTES']);
    const tables = {
      QUEUES: QUEUE_WORDS * QUEUE_COUNT,
      EXITS: EXIT_WORDS,
      FUTURE_REGISTERS: MOST_FUTURE_FEATURES,
    };
    const taken = Object.entries(control).flatMap(([name, value]) => {
      if (typeof value !== 'number' || sizes.has(name)) {
        return [];
      }
      const length = name in tables ? tables[name as keyof typeof tables] : 1;
      return Array.from({ length }, (_, i) => value + i);
    });
    expect(new Set(taken).size).toBe(taken.length);
    // Words 96 to 100 are the float64 stamps and the length of the vCPU's state, which begins at 128.
    expect(taken.filter((word) => word >= 96 && word <= 100)).toEqual([]);
    expect(Math.max(...taken)).toBeLessThan(128);
    expect([QUEUES, EXITS]).toEqual([32, 64]);
  });

  it('gives every interrupt line a bit of its own', () => {
    const lines = [INTERRUPT_CONFIG, ...Array.from({ length: QUEUE_COUNT }, (_, i) => interruptOfQueue(i))];
    expect(lines).toEqual([1, 2, 4, 8, 16]);
  });
});

describe('ControlBuffer', () => {
  it('raises interrupt lines beside those that are pending, and rings', () => {
    const { control: buffer } = makeControl();
    const seen = buffer.doorbell();
    buffer.interrupt(INTERRUPT_CONFIG);
    buffer.interrupt(interruptOfQueue(2));
    expect(buffer.words.load(INTERRUPTS)).toBe(1 | 8);
    expect(buffer.doorbell()).toBe(seen + 2);
  });

  it('rings the guest: who read the doorbell before does not wait', () => {
    const { control: buffer } = makeControl();
    const seen = buffer.doorbell();
    buffer.ringGuest();
    buffer.waitForHost(seen, Number.POSITIVE_INFINITY);
    expect(buffer.words.load(GUEST_DOORBELL)).toBe(seen + 1);
  });

  it('ends a guest’s wait when its time is up', () => {
    const { control: buffer } = makeControl();
    buffer.waitForHost(buffer.doorbell(), 0);
    expect(buffer.doorbell()).toBe(0);
  });

  it('rings the host by the event word', () => {
    const { control: buffer, event } = makeControl();
    buffer.ringHost();
    expect(event.value()).toBe(1);
    expect(buffer.doorbell()).toBe(0);
  });

  it('keeps both stamps apart from each other and from the words around them', () => {
    const { control: buffer } = makeControl();
    const times = [1_732_276_800_123.25, 1_732_276_800_456.5] as const;
    [buffer.stoppedAt, buffer.startedAt] = times;
    buffer.writeState(new Uint8Array([1, 2, 3]));
    expect([buffer.stoppedAt, buffer.startedAt]).toEqual(times);
    expect([...buffer.readState()]).toEqual([1, 2, 3]);
    expect(buffer.words.load(EXITS + EXIT_WORDS - 1)).toBe(0);
  });

  it('has no state before one is written', () => {
    expect(makeControl().control.readState()).toHaveLength(0);
  });

  it('reads the state that was written last, as a copy', () => {
    const { control: buffer } = makeControl();
    buffer.writeState(new Uint8Array(100).fill(7));
    const first = buffer.readState();
    expect(buffer.writeState(new Uint8Array([8, 9]))).toBe(true);
    expect([...buffer.readState()]).toEqual([8, 9]);
    expect(first.every((byte) => byte === 7)).toBe(true);
    buffer.readState().fill(0);
    expect([...buffer.readState()]).toEqual([8, 9]);
  });

  it('takes a state of 16 KiB and refuses a longer one, which changes nothing', () => {
    const { control: buffer } = makeControl();
    expect(buffer.writeState(new Uint8Array(STATE_BYTES).fill(1))).toBe(true);
    expect(buffer.writeState(new Uint8Array(STATE_BYTES + 1).fill(2))).toBe(false);
    expect(buffer.readState()).toHaveLength(STATE_BYTES);
    expect(buffer.readState().every((byte) => byte === 1)).toBe(true);
  });

  it('shows the same words to another that is made over the same buffer', () => {
    const { control: buffer, event } = makeControl();
    const other = new ControlBuffer(atomicMapper, buffer.buffer, event);
    other.writeState(new Uint8Array([5]));
    other.stoppedAt = 12;
    expect([...buffer.readState(), buffer.stoppedAt]).toEqual([5, 12]);
  });
});

describe('EventWord', () => {
  it('has news at once for who saw an older value', () => {
    const event = new EventWord(atomicMapper);
    const seen = event.value();
    event.ring();
    expect(event.next(seen)).toBeUndefined();
  });

  it('wakes who waits, once it rings', async () => {
    const event = new EventWord(atomicMapper);
    const news = event.next(event.value());
    expect(news).toBeInstanceOf(Promise);
    new EventWord(atomicMapper, event.buffer).ring();
    await news;
    expect(event.value()).toBe(1);
  });
});
