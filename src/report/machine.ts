import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, freemem, release, totalmem, type } from 'node:os';
import type { MachineReport } from './schema.js';

/** The machine that this process runs on. `version` is lacuna's own. */
export function thisMachine(version: string): MachineReport {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    os: `${type()} ${release()}`,
    node: process.version,
    lacuna: version,
  };
}

/** What every report says first: when it was made, by which command line, and where. `version` is lacuna's own. */
export function reportHead({ version, command }: { readonly version: string; readonly command: string }): {
  readonly createdAt: string;
  readonly command: string;
  readonly machine: MachineReport;
} {
  return { createdAt: new Date().toISOString(), command, machine: thisMachine(version) };
}

/** Memory that can still be taken without swapping: the kernel's own estimate, or a container's limit if lower. */
export function availableMemory(): number {
  let bytes = freemem();
  try {
    const kib = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1];
    bytes = kib === undefined ? bytes : Number(kib) * 1024;
  } catch {
    // not Linux
  }
  return Math.min(bytes, process.availableMemory?.() ?? Number.POSITIVE_INFINITY);
}
