import { execFile } from 'node:child_process';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { SharedGuestMemory } from '../../dist/src/memory/guest-memory.js';
import { gpaOf } from '../../dist/src/memory/page.js';
import { bitmapWords } from '../../dist/src/memory/page-bitmap.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { ReceivingStreams } from '../../dist/src/transport/network/receiving-streams.js';
import { encodeFrame, FrameType } from '../../dist/src/wire/frames.js';
import { EPOCH, listenForStreams } from '../support/streams.js';

const MIGRATIONS = 150;

it('threads adopt hundreds of sockets while their numbers are used again, and the process ends by itself', async () => {
  const script = fileURLToPath(new URL('../support/adoptions.mjs', import.meta.url));
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [script, String(MIGRATIONS), '4'], {
    timeout: 50_000, // it failed to end
  });
  expect(stderr).toBe('');
  const told = JSON.parse(stdout) as Record<'adopted' | 'echoes' | 'files' | 'descriptors', number> & {
    failures: string[];
  };
  expect(told.failures).toEqual([]);
  expect(told.adopted).toBe(2 * MIGRATIONS);
  expect(told.echoes).toBeGreaterThan(0);
  expect(told.files).toBeGreaterThan(0);
  // A thread's loop has a handful of its own; sockets that nobody closed would be hundreds.
  expect(told.descriptors).toBeLessThan(60);
});

it('a socket that no thread has taken by the time that the streams are closed is closed, once', async () => {
  const layout = new RamLayout([{ startGpa: 0, endGpa: gpaOf(16) }]);
  const adopted: ReceivingStreams[] = [];
  const { server, port } = await listenForStreams((index, socket) => {
    const receiving = new ReceivingStreams({
      count: 1,
      epoch: EPOCH,
      memory: SharedGuestMemory.allocate(layout),
      written: new SharedArrayBuffer(bitmapWords(16) * 4),
      longestRunPages: 16,
      features: 0,
      onChange: () => undefined,
      way: 'threads',
    });
    receiving.adopt(index, socket); // its thread is not up yet
    adopted.push(receiving);
    void receiving.close();
  });
  const join = encodeFrame({ type: FrameType.join, sequence: 0, epoch: EPOCH }, new Uint8Array(16));
  for (let i = 0; i < 8; i += 1) {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined).write(join);
    await new Promise((resolve) => socket.on('close', resolve).resume());
  }
  await Promise.all(adopted.map((receiving) => receiving.close()));
  server.close();
  expect(adopted.map(({ failure }) => failure)).toEqual(adopted.map(() => undefined));
});
