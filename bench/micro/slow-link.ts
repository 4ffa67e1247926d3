/** A link of a given rate for `compression`: what is connected to its port goes on to another, paced. */
import { type AddressInfo, connect, createServer } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { Pacer } from '../../src/migration/pacer.js';

/** What the thread is started with. */
export interface SlowLinkData {
  readonly bytesPerSecond: number;
  /** Where it leads to, on this machine. */
  readonly port: number;
}

const { bytesPerSecond, port } = workerData as SlowLinkData;
const pacer = new Pacer(bytesPerSecond);

const server = createServer((near) => {
  const far = connect({ port, host: '127.0.0.1', noDelay: true });
  const end = (): void => {
    near.destroy();
    far.destroy();
  };
  near.on('error', end).on('close', end);
  far.on('error', end).on('close', end);
  far.pipe(near);
  let isHeld = false;
  const goOn = (): void => {
    const now = performance.now();
    const readyAt = pacer.readyAt(now);
    if (readyAt > now) {
      setTimeout(goOn, readyAt - now);
    } else {
      isHeld = false;
      near.resume();
    }
  };
  near.on('data', (bytes) => {
    const now = performance.now();
    pacer.charge(bytes.length, now);
    far.write(bytes); // it is read at once: this is a link, not a buffer
    if (!isHeld && pacer.readyAt(now) > now) {
      isHeld = true;
      near.pause();
      goOn();
    }
  });
});
server.listen(0, '127.0.0.1', () => {
  parentPort?.postMessage((server.address() as AddressInfo).port);
});
