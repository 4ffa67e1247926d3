import { readlinkSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import type { ThreadUp } from '../src/vmm/threads.js';

/** Tells the thread that started this one that it is up. */
export function sayUp(): void {
  let tid: number | undefined;
  try {
    tid = Number(readlinkSync('/proc/thread-self').split('/').at(-1));
  } catch {
    // not Linux: processor time by thread is not to be had
  }
  const message: ThreadUp = { type: 'up', tid };
  parentPort?.postMessage(message);
}
