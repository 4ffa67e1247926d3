import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { LacunaError, messageOf } from '../errors.js';

/** The threads that lacuna starts, by the file in `workers/` that is their entry. */
export type ThreadName = 'guest' | 'destination' | 'stream-sender' | 'stream-receiver';

/** What a thread says when it is up, and one of a pool when it is done; all else goes through shared memory. */
export type ThreadMessage =
  | {
      readonly type: 'up';
      /** The kernel's id of the thread, where there is one. */
      readonly tid: number | undefined;
    }
  | { readonly type: 'done' };

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
  /** Ends it wherever it is, as a host that fails would. Resolves when it has ended. */
  kill(): Promise<void>;
}

/** Where threads come from. */
export interface ThreadSource {
  /** Has a thread do `work`, the `workerData` of its entry. `onEnd` is called when it has ended, however it did. */
  start(name: ThreadName, work: unknown, onEnd: () => void): Thread;
}

/**
 * What TLS decrypts comes in buffers that are garbage at once, and which are little to the collector for they lie outside
 * its heap: without a small young generation four streams hold 60 MiB of them.
 */
const STREAM_LIMITS = { maxYoungGenerationSizeMb: 1 } as const;

/** Makes a thread. `workers/` lies beside `src/` in the sources and in the package alike, so a relative URL finds it. */
function makeWorker(name: ThreadName, workerData?: unknown): Worker {
  return new Worker(new URL(`../../workers/${name}.js`, import.meta.url), {
    workerData,
    name: `lacuna ${name}`,
    ...(name.startsWith('stream') ? { resourceLimits: STREAM_LIMITS } : {}),
  });
}

/** Follows a worker until its work is done: it says so (`done` is called), or it ends. */
function follow(worker: Worker, name: ThreadName, onEnd: () => void, done?: () => void): Thread {
  let tid: number | undefined;
  let failure: LacunaError | undefined;
  let markUp: () => void;
  let refuse: (error: LacunaError) => void;
  let markEnded: (failure: LacunaError | undefined) => void;
  const up = new Promise<void>((resolve, reject) => {
    markUp = resolve;
    refuse = reject;
  });
  up.catch(() => undefined); // whoever waits for it sees it; nobody has to
  const ended = new Promise<LacunaError | undefined>((resolve) => {
    markEnded = resolve;
  });
  let isOver = false;
  let isKilled = false;
  const over = (): void => {
    isOver = true;
    worker.off('message', onMessage).off('error', onError).off('exit', over);
    refuse(failure ?? new LacunaError('GUEST_FAILED', `the ${name} thread ended before it was up`));
    markEnded(failure);
    onEnd();
  };
  const onMessage = (message: ThreadMessage): void => {
    if (message.type === 'up') {
      tid = message.tid;
      markUp();
    } else {
      over();
      if (!isKilled) {
        done?.(); // one that is being ended is of no more use
      }
    }
  };
  const onError = (cause: unknown): void => {
    failure = new LacunaError('GUEST_FAILED', `the ${name} thread died: ${messageOf(cause)}`, { cause });
  };
  worker.on('message', onMessage).on('error', onError).on('exit', over);
  return {
    up,
    ended,
    get failure(): LacunaError | undefined {
      return failure;
    },
    cpuMs: () => threadCpuMs(tid),
    kill: async () => {
      if (!isOver) {
        isKilled = true;
        await worker.terminate(); // from then on a pool's thread is somebody else's
      }
      await ended;
    },
  };
}

/** A new thread for each piece of work, which ends with it. */
export const newThreads: ThreadSource = {
  start: (name, work, onEnd) => follow(makeWorker(name, work), name, onEnd),
};

/**
 * Threads that are used again: one that is new takes some 40 ms of processor time to load its code, and longer to
 * compile it. For whoever starts thousands; a guest that is measured gets one of its own.
 */
export class ThreadPool implements ThreadSource {
  readonly #idle = new Map<ThreadName, Worker[]>();

  start(name: ThreadName, work: unknown, onEnd: () => void): Thread {
    const idle = this.#idle.get(name) ?? [];
    this.#idle.set(name, idle);
    const worker = idle.pop() ?? makeWorker(name);
    worker.ref();
    const thread = follow(worker, name, onEnd, () => {
      worker.unref(); // an idle thread keeps no process alive
      idle.push(worker);
    });
    worker.postMessage(work);
    return thread;
  }

  /** Ends the threads that are idle. */
  async close(): Promise<void> {
    const workers = [...this.#idle.values()].flatMap((idle) => idle.splice(0));
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
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
