/** The longest time that a timer can be set to. */
const LONGEST_MS: number = 2 ** 31 - 1;

/**
 * Keeps a thread from ending while it waits for shared memory and nothing else: an asynchronous wait doesn't. Returns
 * what ends that.
 */
export function keepAlive(): () => void {
  const timer = setInterval(() => undefined, LONGEST_MS);
  return () => clearInterval(timer);
}
