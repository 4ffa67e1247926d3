/** What runs a VMM's threads; the transports below start some of the same kind. */
// biome-ignore lint/performance/noBarrelFile: one name each, for the layers that know VMMs and not transports
export {
  newThreads,
  type Thread,
  ThreadPool,
  type ThreadSource,
  threadCpuMs,
} from '../transport/threads.js';
