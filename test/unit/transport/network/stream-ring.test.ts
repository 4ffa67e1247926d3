import { describe, expect, it } from 'vitest';
import { LacunaError } from '../../../../src/errors.js';
import { EventWord } from '../../../../src/memory/control-buffer.js';
import { MIB, PAGE_SIZE } from '../../../../src/memory/page.js';
import { atomicMapper } from '../../../../src/memory/shared-words.js';
import { MOST_SLOTS, SLOT_RUNS } from '../../../../src/transport/network/compression-slots.js';
import {
  type RingFrame,
  STREAM_RING_BYTES,
  StreamRing,
  StreamRingEnd,
  StreamState,
} from '../../../../src/transport/network/stream-ring.js';
import { FRAME_HEADER_BYTES } from '../../../../src/wire/channel.js';
import { FrameType } from '../../../../src/wire/frames.js';

function ringPair() {
  const buffer = new SharedArrayBuffer(STREAM_RING_BYTES);
  const event = new EventWord(atomicMapper);
  const frame: RingFrame = { type: 0, pfn: 0, pageCount: 0, value: 0 };
  const ring = new StreamRing(atomicMapper, buffer);
  const end = new StreamRingEnd(atomicMapper, buffer, event);
  return { ring, end, event, frame };
}

describe('StreamRing', () => {
  it('carries frames in order, more than it has slots, with 32 bits in each field', () => {
    const { ring, end, frame } = ringPair();
    for (let i = 0; i < 5000; i += 1) {
      ring.put(FrameType.fill, 2 ** 32 - 1 - i, i, 2 ** 31 + i);
      expect(end.take(frame)).toBe(true);
      expect(frame).toEqual({ type: FrameType.fill, pfn: 2 ** 32 - 1 - i, pageCount: i, value: 2 ** 31 + i });
      expect(end.take(frame)).toBe(false);
    }
  });

  it('has no room while too many bytes or frames are not flushed, and rings once half of it is made', () => {
    const { ring, end, event, frame } = ringPair();
    const run = 1024;
    let runs = 0;
    for (; ring.hasRoom; runs += 1) {
      ring.put(FrameType.pages, 0, run, 0);
    }
    const frameLength = run * PAGE_SIZE + FRAME_HEADER_BYTES;
    expect(ring.unflushedBytes).toBe(runs * frameLength);
    expect(ring.unflushedBytes).toBeLessThanOrEqual(16 * MIB + frameLength);
    while (end.take(frame)) {
      // taken is not flushed
    }
    expect(ring.hasRoom).toBe(false);
    end.flushed(frameLength);
    expect(event.value()).toBe(0); // nobody has asked for it
    ring.wantRoom();
    for (; event.value() === 0; runs -= 1) {
      end.flushed(frameLength);
    }
    expect(ring.unflushedBytes).toBeLessThan(8 * MIB);
    expect(ring.unflushedBytes + frameLength).toBeGreaterThanOrEqual(8 * MIB);

    const small = ringPair();
    let most = 0;
    for (; small.ring.hasRoom; most += 1) {
      small.ring.put(FrameType.zero, most, 1, 0);
    }
    expect(most).toBeGreaterThan(500);
    // There is some left for what is sent without asking, and for all that may be in the compressor's hands.
    const spare = 16 + MOST_SLOTS * SLOT_RUNS;
    for (let i = 0; i < spare; i += 1) {
      small.ring.put(FrameType.zero, most + i, 1, 0);
    }
    small.ring.wantRoom();
    let left = most + spare;
    for (; small.event.value() === 0; left -= 1) {
      expect(small.end.take(frame)).toBe(true);
      expect(frame.pfn).toBe(most + spare - left);
      small.end.flushed(FRAME_HEADER_BYTES);
    }
    expect(small.ring.hasRoom).toBe(true);
    expect(left).toBeLessThan(0.75 * most);
    expect(left).toBeGreaterThan(0);
  });

  it('counts a compressed run by what it takes on the wire', () => {
    const { ring, end, frame } = ringPair();
    ring.put(FrameType.compressedPages, 7, 256, 33, 1234);
    expect(ring.unflushedBytes).toBe(1234 + FRAME_HEADER_BYTES);
    expect(end.take(frame)).toBe(true);
    expect(frame).toEqual({ type: FrameType.compressedPages, pfn: 7, pageCount: 256, value: 33 });
    end.flushed(1234 + FRAME_HEADER_BYTES);
    expect(ring.unflushedBytes).toBe(0);
  });

  it('counts what is not flushed beyond 2^32 bytes', () => {
    const { ring, end, frame } = ringPair();
    for (let i = 0; i < 1030; i += 1) {
      ring.put(FrameType.pages, 0, 1024, 0);
      expect(ring.hasRoom).toBe(true);
      expect(ring.unflushedBytes).toBe(4 * MIB + FRAME_HEADER_BYTES);
      end.take(frame);
      end.flushed(4 * MIB + FRAME_HEADER_BYTES);
    }
    expect(ring.unflushedBytes).toBe(0);
  });

  it('wakes the thread for a frame only if it waits, and always to stop', async () => {
    const { ring, end, frame } = ringPair();
    const taken: number[] = [];
    let wakes = 0;
    let more: () => void = () => undefined;
    const serving = end.doorbell.serve(() => {
      wakes += 1;
      while (end.take(frame)) {
        taken.push(frame.pfn);
      }
      more();
    });
    const woken = async (act: () => void): Promise<void> => {
      const waits = new Promise<void>((resolve) => {
        more = resolve;
      });
      act();
      await waits;
    };
    await woken(() => {
      ring.put(FrameType.zero, 1, 1, 0);
      ring.put(FrameType.zero, 2, 1, 0);
    });
    await woken(() => ring.put(FrameType.zero, 3, 1, 0));
    expect(taken).toEqual([1, 2, 3]);
    expect(wakes).toBe(3);
    ring.doorbell.stop();
    await serving;
    expect(wakes).toBe(3);
  });

  it('tells of a failure, in words of any length', () => {
    const { ring, end, event } = ringPair();
    end.become(StreamState.open);
    expect(ring.state).toBe(StreamState.open);
    end.become(StreamState.failed, new LacunaError('LINK_LOST', `stream 1 broke: ${'ü'.repeat(3000)}`));
    expect(event.value()).toBe(2);
    expect(ring.state).toBe(StreamState.failed);
    expect(ring.failure.code).toBe('LINK_LOST');
    expect(ring.failure.message).toMatch(/^stream 1 broke: ü{900,}$/);
  });
});
