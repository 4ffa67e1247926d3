import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { endPool } from '../../../src/transport/end-pool.js';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A pool of two threads; what it is asked while it is ended is up to the test. */
function pool() {
  let destroyed = 0;
  const answers: (() => void)[] = [];
  return {
    answers,
    run: () =>
      new Promise<void>((resolve) => {
        answers.push(resolve);
      }),
    threads: [{}, {}] as never[],
    idleThreads: 0,
    queueSize: 0,
    destroy: async (): Promise<void> => {
      destroyed += 1;
    },
    get destroyed() {
      return destroyed;
    },
  };
}

it('ends no thread while one loads its code, is at work, or has work waiting for it', async () => {
  const of = pool();
  const ended = endPool(of);
  await vi.advanceTimersByTimeAsync(100);
  of.idleThreads = 2; // so says a pool of threads that it has just begun with
  of.answers.pop()!();
  await vi.advanceTimersByTimeAsync(100);
  of.answers.pop()!();
  of.idleThreads = 1;
  await vi.advanceTimersByTimeAsync(100);
  Object.assign(of, { idleThreads: 2, queueSize: 1 });
  await vi.advanceTimersByTimeAsync(100);
  expect(of.destroyed).toBe(0);
  of.queueSize = 0;
  await vi.advanceTimersByTimeAsync(1);
  await ended;
  expect(of.destroyed).toBe(1);
});

it('ends a pool whose threads are idle, or have died, at once', async () => {
  const of = pool();
  of.run = () => Promise.reject(new Error('it has died'));
  of.idleThreads = 2;
  const ended = endPool(of);
  await vi.advanceTimersByTimeAsync(1);
  await ended;
  expect(of.destroyed).toBe(1);
});

it('waits for a thread that hangs, but not for ever', async () => {
  const of = pool();
  const ended = endPool(of);
  await vi.advanceTimersByTimeAsync(19_000);
  expect(of.destroyed).toBe(0);
  await vi.advanceTimersByTimeAsync(2000);
  await ended;
  expect(of.destroyed).toBe(1);
});
