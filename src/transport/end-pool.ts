import type { Piscina } from 'piscina';

/** How often it is looked whether its threads are idle. */
const LOOK_MS = 1;
/** A thread that is not up by then won't be, and one that is at work by then hangs. */
const PATIENCE_MS = 20_000;

/** What {@link endPool} uses of a pool. Its threads have to take `undefined` for nothing to do. */
export type EndablePool = Pick<
  Piscina<undefined>,
  'threads' | 'idleThreads' | 'queueSize' | 'run' | 'destroy'
>;

/**
 * Ends a pool's threads when all of them are up and idle; what was given to them is done first. A thread that is ended while
 * it loads its code or makes one of zlib's streams can take the process with it, guests and all: Node 20 aborts in both places
 * ("IsGraphAsync must be used on an instantiated module", "close before init").
 */
export async function endPool(pool: EndablePool): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  // Those that a pool begins with count as idle while they still load. What they are given they do when they are up.
  let unanswered = pool.threads.length;
  for (let i = unanswered; i > 0; i -= 1) {
    const answered = (): void => {
      unanswered -= 1;
    };
    pool.run(undefined).then(answered, answered); // one that has died is none to wait for
  }
  while (
    (unanswered > 0 || pool.idleThreads < pool.threads.length || pool.queueSize > 0) &&
    performance.now() < deadline
  ) {
    await new Promise((resolve) => {
      setTimeout(resolve, LOOK_MS);
    });
  }
  await pool.destroy();
}
