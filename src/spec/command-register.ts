/**
 * The command-register dialect: numbers of Wei Wang's proposal to the virtualization lists (November 2017),
 * in the mail's spelling. The mail names the bits and registers but gives them no values; these are ours.
 */

/** "host requests the guest to start reporting by cmd_reg | REPORT_START" */
export const REPORT_START = 1;
/** "host requests the guest to stop reporting by cmd_reg | REPORT_STOP" */
export const REPORT_STOP = 2;
/** "host requests the guest to start ballooning by cmd_reg | BALLOONING" */
export const BALLOONING = 4;

/** "we reserve id=0 as the stop sign" */
export const STOP_SIGN = 0;
/** 1 is reserved too: VIRTIO's later dialect uses it for DONE, and both dialects share their ids. */
export const FIRST_COMMAND_ID = 2;
/** Ids are unsigned 32-bit; after the last one comes {@link FIRST_COMMAND_ID} again. */
export const LAST_COMMAND_ID = 0xffff_ffff;

/** Bytes of the outbuf that carries an id or the stop sign (a le32). */
export const COMMAND_ID_BYTES = 4;

/**
 * Offsets of the registers in the device's config space, le32 each. "Two new configuration registers in total:
 * cmd_reg … cmd_id_reg"; the balloon's own two stand behind them.
 */
export const CMD_REG_OFFSET = 0;
export const CMD_ID_REG_OFFSET = 4;
export const NUM_PAGES_OFFSET = 8;
export const ACTUAL_OFFSET = 12;
/** `poison_val` of VIRTIO 1.3 § 5.5.4, with the meaning that it has there. */
export const POISON_VAL_OFFSET = 16;

/** `cmd_reg` once more, for a driver that clears it by reading it: a variant that is measured beside the mail's. */
export const CMD_REG_READ_TO_CLEAR_OFFSET = 28;

/**
 * "Future feature extensions which need host-to-guest requests": each has a bit, and a register of its own with one
 * le32. These do nothing; they are there so that the cost of having many can be measured.
 */
export const MOST_FUTURE_FEATURES = 6;

/** The bit of the `k`th of them, from 0. */
export function futureBit(k: number): number {
  return 8 << k;
}

/** The offset of its register. */
export function futureOffset(k: number): number {
  return 32 + 4 * k;
}
