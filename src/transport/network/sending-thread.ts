import { asLacunaError } from '../../errors.js';
import { EventWord } from '../../memory/control-buffer.js';
import { SharedGuestMemory } from '../../memory/guest-memory.js';
import { type RamBlock, RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { FrameType } from '../../wire/frames.js';
import { CompressionSlots } from './compression-slots.js';
import { connectStream, type StreamJoin } from './connect-stream.js';
import { keepAlive } from './keep-alive.js';
import { type RingFrame, StreamRingEnd, StreamState } from './stream-ring.js';
import { StreamSender } from './stream-sender.js';

/** What the thread of a stream is given at the source. */
export interface SendingThreadData extends StreamJoin {
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  readonly ring: SharedArrayBuffer;
  readonly event: SharedArrayBuffer;
  /** Where compressed runs lie. */
  readonly slots: SharedArrayBuffer | undefined;
}

/** Connects a stream, and sends what comes by the ring until it is told to stop. Used in `workers/stream-sender.ts`. */
export async function sendFromRing(data: SendingThreadData): Promise<void> {
  const memory = new SharedGuestMemory(new RamLayout(data.blocks), data.buffers);
  const ring = new StreamRingEnd(atomicMapper, data.ring, new EventWord(atomicMapper, data.event));
  const frame: RingFrame = { type: 0, pfn: 0, pageCount: 0, value: 0 };
  const slots = data.slots === undefined ? undefined : new CompressionSlots(data.slots);
  const cancel = new AbortController();
  const release = keepAlive();
  let sender: StreamSender | undefined;

  const payloadOf = ({ type, pfn, pageCount, value }: RingFrame): Uint8Array | undefined => {
    switch (type) {
      case FrameType.pages:
        return memory.pages(pfn, pageCount);
      case FrameType.compressedPages:
        return slots!.payload(value);
      default:
        return undefined;
    }
  };
  const pump = (): void => {
    while (sender?.hasRoom === true && ring.take(frame)) {
      const { type, pfn, pageCount, value } = frame;
      sender.put(type, pfn, pageCount, value, payloadOf(frame));
    }
    sender?.flush();
  };
  const connecting = connectStream(data, cancel.signal).then(
    (socket) => {
      sender = new StreamSender(socket, {
        index: data.index,
        epoch: data.epoch,
        flushed: (bytes) => {
          ring.flushed(bytes);
          pump();
        },
        failed: (error) => ring.become(StreamState.failed, error),
      });
      ring.become(StreamState.open);
      pump();
    },
    (thrown: unknown) => {
      ring.become(StreamState.failed, asLacunaError(thrown, 'CONNECTION_FAILED'));
    },
  );
  await ring.doorbell.serve(pump);
  cancel.abort();
  await connecting;
  await sender?.close();
  release();
}
