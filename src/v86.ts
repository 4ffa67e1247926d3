/**
 * lacuna/v86: machines of npm's v86 (an optional peer), migrated alive. To another process or host: `connectV86Guest` and
 * `receiveV86Guests` of `lacuna`.
 *
 * @packageDocumentation
 */

export type { ScanCounts } from './memory/compared-memory.js';
export { V86Guest, type V86GuestOptions } from './vmm/v86/v86-guest.js';
