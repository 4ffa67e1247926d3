import { MIB } from '../../memory/page.js';

/** With more than this a WebAssembly memory has no room for the rest. */
export const MOST_MEMORY: number = 2048 * MIB;
/** Where v86 puts an initrd; it gives no less memory to a machine that has one. */
const INITRD_GPA = 64 * MIB;

/** Least memory of a machine with an initrd of so many bytes, in bytes. */
export function leastMemory(initrdBytes: number): number {
  return INITRD_GPA + Math.max(1, Math.ceil(initrdBytes / MIB)) * MIB;
}

/** Why v86 can't give a machine `memoryBytes`; undefined: it can. Without an initrd, whatever that may be. */
export function refusedMemory(memoryBytes: number, initrdBytes = 0): string | undefined {
  const least = leastMemory(initrdBytes);
  return memoryBytes >= least && memoryBytes <= MOST_MEMORY && memoryBytes % MIB === 0
    ? undefined
    : `v86 takes whole MiB, ${least / MIB} to ${MOST_MEMORY / MIB}`;
}
