/**
 * How a guest learns what its host wants.
 *
 * - `command-register`: the mail's. One register says which features are requested; it is acknowledged, and then the
 *   registers of those features are read.
 * - `read-to-clear`: the same, but reading the register clears it, which acknowledges what it said.
 * - `polling`: there is no such register. At every config interrupt the register of every feature is read, and what
 *   has changed is acted on; nothing is acknowledged. VIRTIO's own balloon works like that.
 * - `register-and-polling`: what the mail argues against. Ballooning is requested through the command register; every
 *   other feature by a change of its own register, which is read at every interrupt as well.
 */
export const REQUEST_DESIGNS = [
  'command-register',
  'read-to-clear',
  'polling',
  'register-and-polling',
] as const;
export type RequestDesign = (typeof REQUEST_DESIGNS)[number];

/** What a device offers to request, and how. The same for the guest's driver and its host. */
export interface RequestInterface {
  readonly design: RequestDesign;
  readonly ballooning: boolean;
  readonly reporting: boolean;
  /** Features beside those two, 0 … MOST_FUTURE_FEATURES, each with a bit and a register of its own. */
  readonly futureFeatures: number;
}
