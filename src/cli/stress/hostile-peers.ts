import { connect, type Socket } from 'node:net';
import { MIB } from '../../memory/page.js';
import { RamLayout } from '../../memory/ram-layout.js';
import { FRAME_HEADER_BYTES } from '../../wire/channel.js';
import { encodeFrame, FrameType, ID_BYTES, MOST_STREAMS } from '../../wire/frames.js';
import { encodeHello } from '../../wire/hello.js';
import type { HostilePeersPlan } from './network-plan.js';
import { Random } from './random.js';

/** No more of them at once than leave room for those who are honest: a destination keeps few strangers. */
const MOST_AT_ONCE = 6;
const MOST_GARBAGE_BYTES = 4096;
/** More than a destination hears of one connection in a second. */
const FLOOD_FRAMES = 400;

/** A layout of the smallest guest. */
const LAYOUT = new RamLayout([{ startGpa: 0, endGpa: MIB }]);

/** Whom they try to disturb. */
export interface HostilePeersTarget {
  /** Where its destination listens. */
  readonly port: () => number;
  readonly migrationId: string;
  /** What it has come to. */
  readonly epoch: () => number;
}

/** Connections of others to a destination that is receiving a guest: they know where it listens, and no secret of it. */
export class HostilePeers {
  /** Connections that were made. */
  count = 0;
  readonly #plan: HostilePeersPlan;
  readonly #target: HostilePeersTarget;
  readonly #random: Random;
  readonly #sockets = new Set<Socket>();
  #timer: ReturnType<typeof setInterval> | undefined;
  #left: number;

  constructor(plan: HostilePeersPlan, target: HostilePeersTarget) {
    this.#plan = plan;
    this.#target = target;
    this.#random = new Random(plan.seed);
    this.#left = plan.count;
  }

  start(): void {
    this.#timer = setInterval(() => this.#next(), Math.max(1, this.#plan.everyMs));
  }

  /** Resolves when none of them is connected any more. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(
      [...this.#sockets].map(
        (socket) =>
          new Promise<void>((resolve) => {
            socket.once('close', () => resolve()).destroy();
          }),
      ),
    );
  }

  #next(): void {
    if (this.#left === 0) {
      clearInterval(this.#timer);
      return;
    }
    this.#left -= 1;
    if (this.#sockets.size >= MOST_AT_ONCE) {
      const [oldest] = this.#sockets;
      oldest!.destroy();
    }
    const socket = connect({ port: this.#target.port(), host: '127.0.0.1' });
    this.#sockets.add(socket);
    socket.on('error', () => undefined); // it is closed then
    socket.once('close', () => this.#sockets.delete(socket));
    socket.resume(); // whatever it is told
    const words = this.#words();
    const goesAway = this.#random.chance(0.3);
    socket.once('connect', () => {
      this.count += 1;
      for (const bytes of words) {
        socket.write(bytes);
      }
      if (goesAway) {
        socket.end();
      }
    });
  }

  /** What one of them sends. */
  #words(): Uint8Array[] {
    const random = this.#random;
    const epoch = this.#target.epoch();
    switch (random.whole(0, 9)) {
      case 0:
        return []; // it says nothing
      case 1:
        return [this.#bytes(random.wholeByScale(1, MOST_GARBAGE_BYTES))];
      case 2: {
        const frame = this.#hello(epoch);
        return [frame.subarray(0, random.whole(1, frame.length - 1))];
      }
      case 3:
        return [this.#join(epoch)];
      case 4:
        return [this.#join(epoch + random.whole(1, 3))];
      case 5:
        return [this.#hello(1), this.#hello(1, 1)];
      case 6:
        // The same migration, in an epoch that it has left behind or has.
        return [this.#hello(random.whole(1, epoch), 0, this.#target.migrationId)];
      case 7:
        return [
          encodeFrame({
            type: random.pick([FrameType.commit, FrameType.withdraw, FrameType.cancel, FrameType.finish]),
            sequence: 0,
            epoch,
          }),
        ];
      case 8: {
        const endless = this.#hello(epoch);
        new DataView(endless.buffer).setUint32(FRAME_HEADER_BYTES - 8, 0xffff_ffff, true); // payloadLength
        return [endless];
      }
      default:
        return Array.from({ length: FLOOD_FRAMES }, (_, sequence) =>
          encodeFrame({ type: FrameType.ping, sequence, epoch }),
        );
    }
  }

  #bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#random.whole(0, 255));
  }

  #join(epoch: number): Uint8Array {
    const value = this.#random.whole(0, MOST_STREAMS);
    return encodeFrame({ type: FrameType.join, sequence: 0, epoch, value }, this.#bytes(ID_BYTES));
  }

  /** A hello of another migration, if it isn't told which. */
  #hello(epoch: number, sequence = 0, migrationId?: string): Uint8Array<ArrayBuffer> {
    const payload = encodeHello({
      requiredFeatures: 0,
      optionalFeatures: 0,
      streams: this.#random.whole(1, MOST_STREAMS),
      resumes: this.#random.chance(0.5),
      committed: this.#random.chance(0.3),
      longestRunPages: MOST_GARBAGE_BYTES,
      longestDeviceStateBytes: MIB,
      migrationId: migrationId === undefined ? this.#bytes(ID_BYTES) : Buffer.from(migrationId, 'hex'),
      nonce: new Uint8Array(ID_BYTES),
      layout: LAYOUT,
      label: 'somebody else',
      guest: '',
    });
    return encodeFrame({ type: FrameType.hello, sequence, epoch }, payload);
  }
}
