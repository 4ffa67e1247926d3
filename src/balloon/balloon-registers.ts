import type { QueueAddresses } from '../virtqueue/layout.js';

/**
 * A balloon device's registers, as its host reaches them: by which words and interrupts a guest is asked for what,
 * in which dialect, is not the device's business. Those of the built-in guest are words that its thread shares; those
 * of another VMM are that VMM's, and it is the VMM that saves them.
 */
export interface BalloonRegisters {
  /** Asks for a report under `id`: the id is in place before the guest is interrupted (C1). */
  requestReport(id: number): void;
  /** No report is wanted any more: from now on the id reads as the stop sign (V1), and the guest is told. */
  requestStop(): void;
  /**
   * Hints are of no use any more, and pages that the guest has lent for them may be released (V6). Called after a
   * {@link requestStop} and before any other {@link requestReport}, once.
   */
  requestDone(): void;
  /**
   * The migration goes on after all, and so does the guest, which has stood still since {@link requestDone} and has seen
   * nothing of it: the id reads as the stop sign again (V5: what it has lent may still be altered).
   */
  withdrawDone(): void;
  /** Asks for a balloon of `pages` pages. */
  requestBallooning(pages: number): void;
  /** Raises the interrupt of a queue: elements of it were returned. */
  interruptQueue(queue: number): void;
  /** § 2.1.2: tells the driver that the device can't go on by itself. */
  needsReset(): void;
  /** The driver has reset the device: nothing is requested, no queue is set up, the id reads as the stop sign (V12). */
  reset(): void;
  /** Takes the set of queues that were kicked since the last call, a bit each. */
  takeNotified(): number;
  /** Where the driver has put a queue; undefined until it has. */
  queue(index: number): QueueAddresses | undefined;
  /** `poison_val`, as 32 bits without a sign; undefined where page poisoning was not negotiated. 0 is a value (P5). */
  readonly poison: number | undefined;
  /** Pages that the guest's balloon holds, as it last said. */
  readonly actual: number;
}
