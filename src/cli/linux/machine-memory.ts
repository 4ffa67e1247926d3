import { MIB } from '../../memory/page.js';

/** v86 gives no less to a machine with an initrd; with more than this a WebAssembly memory has no room for the rest. */
export const LEAST_MEMORY: number = 64 * MIB;
export const MOST_MEMORY: number = 2048 * MIB;
