import type { Socket } from 'node:net';
import { EventWord } from '../../memory/control-buffer.js';
import { SharedGuestMemory } from '../../memory/guest-memory.js';
import { PageBitmap } from '../../memory/page-bitmap.js';
import { type RamBlock, RamLayout } from '../../memory/ram-layout.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { socketOf } from './accepted-socket.js';
import { keepAlive } from './keep-alive.js';
import { StreamBoardEnd } from './stream-board.js';
import { StreamReceiver } from './stream-receiver.js';
import { secureServer, type TlsSettings } from './tls.js';

/** What the thread of a stream is given at the destination. */
export interface ReceivingThreadData {
  readonly index: number;
  readonly epoch: number;
  readonly blocks: readonly RamBlock[];
  readonly buffers: readonly SharedArrayBuffer[];
  readonly written: SharedArrayBuffer;
  readonly longestRunPages: number;
  readonly features: number;
  readonly tls: TlsSettings | undefined;
  readonly board: SharedArrayBuffer;
  readonly event: SharedArrayBuffer;
}

/** Receives from the socket that it is lent until it is told to stop. Used in `workers/stream-receiver.ts`. */
export async function receiveFromDescriptor(data: ReceivingThreadData): Promise<void> {
  const memory = new SharedGuestMemory(new RamLayout(data.blocks), data.buffers);
  const { pfnSpan } = memory.layout;
  const board = new StreamBoardEnd(atomicMapper, data.board, new EventWord(atomicMapper, data.event));
  const release = keepAlive();
  const show = (): void => board.show(receiver.counts, receiver.receivedBytes);
  const receiver = new StreamReceiver({
    index: data.index,
    epoch: data.epoch,
    memory,
    written: PageBitmap.over(atomicMapper, data.written, pfnSpan),
    longestRunPages: data.longestRunPages,
    features: data.features,
    received: show,
    ended: (round) => {
      show();
      board.ended(round);
    },
    failed: (error) => board.failed(error),
  });
  let socket: Socket | undefined;
  const work = (): void => {
    const descriptor = board.takeDescriptor();
    if (descriptor === undefined) {
      receiver.release(board.releasedRound);
    } else if (data.tls === undefined) {
      socket = socketOf(descriptor, receiver.onread());
      receiver.receive(socket);
    } else {
      socket = socketOf(descriptor);
      secureServer(socket, data.tls).then(
        (secured) => receiver.receive(secured),
        (thrown: unknown) => receiver.fail(thrown),
      );
    }
  };
  await board.doorbell.serve(work);
  await receiver.close();
  socket?.destroy();
  release();
}
