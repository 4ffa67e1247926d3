import { InvalidArgumentError } from 'commander';
import { IDLE_WORKLOAD, WORKLOAD_KINDS, type WorkloadSpec } from '../guest/workload.js';
import { MIB } from '../memory/page.js';
import { parseRate, parseSize } from './units.js';

/** "idle", "halt", "dirty:50MB/s", "dirty:50MB/s:64MiB", "churn:2000", "pressure:20000". */
export function parseWorkload(text: string): WorkloadSpec {
  const [kind, first, second] = text.split(':');
  const pagesPerSecond = (standard: number): number => {
    const rate = first === undefined ? standard : Number(first);
    if (!(rate > 0) || rate > 1e7) {
      throw new InvalidArgumentError(`"${text}": the rate is in pages a second, as in ${kind}:${standard}.`);
    }
    return rate;
  };
  switch (kind) {
    case 'halt':
      return { kind };
    case 'idle':
      return first === undefined ? IDLE_WORKLOAD : { kind, pagesPerSecond: pagesPerSecond(50) };
    case 'dirty':
      if (first === 'unlimited') {
        throw new InvalidArgumentError(`"${text}": the rate is one that can be reached, as in dirty:50MB/s.`);
      }
      return {
        kind,
        bytesPerSecond: parseRate(first ?? '50MB/s'),
        workingSetBytes: second === undefined ? 64 * MIB : parseSize(second),
      };
    case 'churn':
      return { kind, pagesPerSecond: pagesPerSecond(2000), keepBlocks: 2048 };
    case 'pressure':
      return { kind, pagesPerSecond: pagesPerSecond(20_000) };
    default:
      throw new InvalidArgumentError(
        `"${text}": one of ${WORKLOAD_KINDS.join(', ')}, as in dirty:50MB/s:64MiB.`,
      );
  }
}

/** How a workload reads in a table or report. */
export function describeWorkload(spec: WorkloadSpec): string {
  switch (spec.kind) {
    case 'halt':
      return 'halt';
    case 'dirty':
      return `dirty:${spec.bytesPerSecond / 1e6}MB/s:${spec.workingSetBytes / MIB}MiB`;
    case 'trace':
      return `${spec.name} at ${spec.atMs / 1000} s ×${spec.speed}`;
    case 'idle':
    case 'churn':
    case 'pressure':
      return `${spec.kind}:${spec.pagesPerSecond}`;
  }
}
