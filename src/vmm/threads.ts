import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { LacunaError, messageOf } from '../errors.js';

/** The threads that lacuna starts, by the file in `workers/` that is their entry. */
export type ThreadName = 'guest' | 'destination';

/** What a thread says when it is up; everything after that goes through shared memory. */
export interface ThreadUp {
  readonly type: 'up';
  /** The kernel's id of the thread, where there is one. */
  readonly tid: number | undefined;
}

/** A running worker thread. */
export interface Thread {
  /** Resolves when it is up; rejects if it dies before. */
  readonly up: Promise<void>;
  /** Resolves when it has ended, with the error that ended it, if any. */
  readonly ended: Promise<LacunaError | undefined>;
  /** Set once it has died of an error. */
  readonly failure: LacunaError | undefined;
  /** Processor time that it has used, in ms; NaN where the system does not say. */
  cpuMs(): number;
}

/**
 * Starts a thread. The one place of the library outside transport, cli and report that needs Node: `workers/` lies
 * beside `src/` in the sources and in the package alike, so a relative URL finds it.
 */
export function startThread(name: ThreadName, workerData: unknown, onEnd: () => void): Thread {
  const worker = new Worker(new URL(`../../workers/${name}.js`, import.meta.url), {
    workerData,
    name: `lacuna ${name}`,
  });
  let tid: number | undefined;
  let failure: LacunaError | undefined;
  let markUp: () => void;
  let refuse: (error: LacunaError) => void;
  const up = new Promise<void>((resolve, reject) => {
    markUp = resolve;
    refuse = reject;
  });
  up.catch(() => undefined); // whoever waits for it sees it; nobody has to
  worker.on('message', (message: ThreadUp) => {
    tid = message.tid;
    markUp();
  });
  const ended = new Promise<LacunaError | undefined>((resolve) => {
    worker.on('error', (cause) => {
      failure = new LacunaError('GUEST_FAILED', `the ${name} thread died: ${messageOf(cause)}`, { cause });
    });
    worker.on('exit', () => {
      refuse(failure ?? new LacunaError('GUEST_FAILED', `the ${name} thread ended before it was up`));
      resolve(failure);
      onEnd();
    });
  });
  return {
    up,
    ended,
    get failure(): LacunaError | undefined {
      return failure;
    },
    cpuMs: () => threadCpuMs(tid),
  };
}

/** Processor time of a thread of this process, in ms, by Linux's scheduler statistics; NaN elsewhere. */
export function threadCpuMs(tid: number | undefined): number {
  try {
    const [nanoseconds] = readFileSync(`/proc/self/task/${tid}/schedstat`, 'utf8').split(' ');
    return Number(nanoseconds) / 1e6;
  } catch {
    return Number.NaN;
  }
}
