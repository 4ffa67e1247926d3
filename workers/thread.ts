import { readlinkSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import type { ThreadMessage } from '../src/transport/threads.js';

/** Does the work that this thread was started with; a thread of a pool is sent one piece of it after the other. */
export function work<T>(run: (data: T) => void | Promise<void>): void {
  if (workerData !== null && workerData !== undefined) {
    void run(workerData as T); // what it rejects with ends the thread, as what it throws does
    return;
  }
  const next = async (data: T): Promise<void> => {
    await run(data);
    say({ type: 'done' });
  };
  parentPort?.on('message', (data: T) => void next(data));
}

/** Tells the thread that started this one that it is up. */
export function sayUp(): void {
  let tid: number | undefined;
  try {
    tid = Number(readlinkSync('/proc/thread-self').split('/').at(-1));
  } catch {
    // not Linux: processor time by thread is not to be had
  }
  say({ type: 'up', tid });
}

function say(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}
