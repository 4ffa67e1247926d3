/** How much work the link's queue may hold before a sender has to wait, and what is left when it is filled again. */
const QUEUE_MS = 7;
const REFILL_MS = 5;
/** How much a sender that was late may make up for. */
const SLACK_MS = 4;

/**
 * The pacer's naive twin: it keeps all that was ever sent, and works every answer out from the beginning.
 *
 * A link of a fixed rate is done when it has carried what was sent since it was idle last. When that was is not
 * known, so each sending is tried: had the link been idle until then (and for the slack before), it would be done
 * at such a time; the latest of these is when it is done.
 */
export class NaiveLink {
  readonly sent: { readonly bytes: number; readonly at: number }[] = [];
  readonly #bytesPerMs: number;

  constructor(bytesPerMs: number) {
    this.#bytesPerMs = bytesPerMs;
  }

  charge(bytes: number, now: number): void {
    this.sent.push({ bytes, at: now });
  }

  drainedAt(): number {
    let latest = Number.NEGATIVE_INFINITY;
    for (const [first, { at }] of this.sent.entries()) {
      const bytes = this.sent.slice(first).reduce((sum, run) => sum + run.bytes, 0);
      latest = Math.max(latest, at - SLACK_MS + bytes / this.#bytesPerMs);
    }
    return latest;
  }

  readyAt(now: number): number {
    const drainedAt = this.drainedAt();
    const queueIsFull = drainedAt > now + QUEUE_MS;
    return queueIsFull ? drainedAt - REFILL_MS : now;
  }
}
