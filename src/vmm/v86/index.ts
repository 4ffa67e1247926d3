/**
 * lacuna/v86: machines of npm's v86 (an optional peer), migrated alive. Over a network: `connectV86Guest` and
 * `receiveV86Guests` of `lacuna`.
 *
 * @packageDocumentation
 */

export type { BalloonExits } from './balloon-registers.js';
export { V86Guest, type V86GuestOptions } from './v86-guest.js';
