import { LacunaError } from '../../errors.js';
import { type EventWord, VCPU_REQUEST, VcpuRequest, wantedOf } from '../../memory/control-buffer.js';
import { wakeOrTimeout } from '../../migration/migrate.js';
import type { PrecopySource } from '../../migration/precopy.js';
import { BALLOONING, REPORT_START, REPORT_STOP } from '../../spec/command-register.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import { heldPages, type TravellingGuest } from './guests.js';

/** How long anything may take before it counts as hanging: generous, so that a slow machine fails nothing. */
export const PATIENCE_MS = 60_000;
/** A guest rings nobody when it has written a page or given one back, so those are looked at every so often. */
const LOOK_MS = 2;

/** Throws VERIFICATION_FAILED with what went wrong. */
export function check(condition: boolean, whatWentWrong: () => string): asserts condition {
  if (!condition) {
    throw new LacunaError('VERIFICATION_FAILED', whatWentWrong());
  }
}

/** Waits until `condition` holds; throws if it does not within {@link PATIENCE_MS}, or if the guest dies. */
export async function until(guest: WorkerGuest, condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  const event: EventWord = guest.event;
  for (;;) {
    const seen = event.value();
    if (condition()) {
      return;
    }
    if (guest.failure !== undefined) {
      throw guest.failure;
    }
    check(performance.now() < deadline, () => `waited ${PATIENCE_MS / 1000} s for ${what}`);
    await wakeOrTimeout(event, seen, LOOK_MS);
  }
}

/** DESIGN § 8: every page of every round went exactly one way; and every hinted page too. */
export function checkBalance(source: PrecopySource): void {
  for (const round of source.rounds) {
    const { pending, sent, zero, filled, skipped, carried, cancelled } = round;
    const parts = [sent, zero, filled, skipped, carried, cancelled];
    check(
      parts.reduce((sum, part) => sum + part, 0) === pending && Math.min(...parts) >= 0,
      () => `the pages of round ${round.round} do not add up: ${JSON.stringify(round)}`,
    );
  }
  const { hinted, applied, alreadySent, notPending } = source.accounts.hints;
  check(
    hinted === applied + alreadySent + notPending,
    () => `the hinted pages do not add up: ${JSON.stringify(source.accounts.hints)}`,
  );
}

/** Whether the guest was ever told to run. */
export function wasStarted(guest: WorkerGuest): boolean {
  const { control } = guest;
  return control.startedAt !== 0 || wantedOf(control.words.load(VCPU_REQUEST)) !== VcpuRequest.pause;
}

/** I10: a guest that runs elsewhere, or may, stands still here. */
export function checkStandsStill(guest: WorkerGuest, why: string): void {
  check(guest.paused, () => `the guest was not left standing at the source although ${why} (I10)`);
}

/**
 * A guest is whole where it is now: it runs, has back what it lent for hints, holds what it must, works, and answers
 * its balloon, which is then to hold `balloonPages` pages.
 */
export async function checkWhole(travelling: TravellingGuest, balloonPages: number): Promise<void> {
  const { guest, board } = travelling;
  const device = guest.device!;
  await until(guest, () => guest.running, 'the guest to run');
  const { pagesWritten } = guest.counters();
  await until(
    guest,
    () => (device.registers.pending & (REPORT_START | REPORT_STOP)) === 0,
    'the guest to have heard of the end of the report',
  );
  await until(
    guest,
    () => heldPages(travelling) === 0,
    'the guest to have back the pages that it held for hints',
  );
  const { badPages, badPfn } = await guest.selfCheck();
  check(badPages === 0 && badPfn === -1, () =>
    badPfn === -2
      ? "the guest's allocator is inconsistent"
      : `${badPages} pages do not hold what the guest wrote there, the first of them ${badPfn}`,
  );
  if (travelling.works) {
    await until(guest, () => guest.counters().pagesWritten !== pagesWritten, 'the guest to write a page');
  }
  if (board.ringDead) {
    // The device of a ring that can't be right is dead until it is reset; that much it has to have noticed.
    await until(guest, () => device.fault !== undefined, 'the device to find the ring corrupt');
  } else {
    check(device.fault === undefined, () => `the device calls the ring corrupt: ${device.fault?.message}`);
    await resizeBalloon(guest, balloonPages);
  }
}

/** The balloon answers: it takes note of a new target and says what it then holds. */
async function resizeBalloon(guest: WorkerGuest, pages: number): Promise<void> {
  const { registers } = guest.device!;
  const answers = (): number => guest.exits().ballooning.configWrites;
  const before = answers();
  // Nothing but a change is a request in VIRTIO's dialect.
  const isAsked = registers.dialect !== 'virtio' || registers.target !== pages;
  guest.device!.setBalloonTarget(pages);
  await until(
    guest,
    () => (registers.pending & BALLOONING) === 0 && !(isAsked && answers() === before),
    `the balloon to answer a target of ${pages} pages`,
  );
  if (pages === 0) {
    await until(guest, () => registers.actual === 0, 'the balloon to be empty');
  }
}
