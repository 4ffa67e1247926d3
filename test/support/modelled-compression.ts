import { MIB } from '../../src/memory/page.js';
import { CompressionPolicy } from '../../src/transport/network/compression-policy.js';

/** A link, a pool and contents, as they are at a time. Rates in bytes a millisecond. */
export interface Conditions {
  readonly linkBytesPerMs: number;
  /** What one thread compresses. */
  readonly threadBytesPerMs: number;
  /** What contents shrink to; 1: they don't, which shows at once. */
  readonly ratio: number;
  /** What the source could send at the most, were the link no limit. */
  readonly sourceBytesPerMs?: number;
}

interface Queued {
  readonly wire: number;
  readonly guest: number;
  readonly slot: boolean;
}

const RUN_BYTES = MIB;
const STEP_MS = 0.5;
/** What a kernel takes before it asks its caller to wait. */
const KERNEL_BYTES = 4 * MIB;
const MOST_WAITING_BYTES = 16 * MIB;
/** Runs that are written at once, at the most. */
const MOST_IN_WRITE = 8;
/** How long a thread takes to see that contents do not shrink. */
const SAMPLE_MS = 0.4;

/** A sender with an endless supply of runs that does what the policy says, by a clock of its own. */
export class ModelledSender {
  readonly policy: CompressionPolicy;
  now = 0;
  /** Bytes of the guest's that have gone into the kernel. */
  movedBytes = 0;
  readonly #threads: { endsAt: number; bytes: number; after: number; ms: number }[] = [];
  readonly #threadCount: number;
  #slots: number;
  #queue: Queued[] = [];
  /** What was given to the socket in one write, of which it tells when all of it has gone. */
  #inWrite: Queued[] = [];
  #writeLeft = 0;
  #waitingBytes = 0;
  #takenBytes = 0;
  #kernelBytes = 0;
  #sourceBytes = 0;

  constructor(mode: 'auto' | 'on', threads = 1) {
    this.policy = new CompressionPolicy(mode, threads);
    this.#threadCount = threads;
    this.#slots = 2 * threads + 4;
  }

  /** Goes on until `until`; `noise` (around 1) is what rates are multiplied with. */
  run(until: number, conditions: Conditions, noise: () => number = () => 1): void {
    while (this.now < until) {
      this.now += STEP_MS;
      this.#kernelBytes = Math.max(0, this.#kernelBytes - conditions.linkBytesPerMs * STEP_MS * noise());
      this.#sourceBytes = Math.min(
        4 * RUN_BYTES,
        this.#sourceBytes + (conditions.sourceBytesPerMs ?? 4e6) * STEP_MS,
      );
      this.#move();
      this.#finish(conditions, noise);
      this.#send(conditions, noise);
    }
  }

  #move(): void {
    for (;;) {
      if (this.#inWrite.length === 0) {
        if (this.#queue.length === 0) {
          return;
        }
        this.#inWrite = this.#queue.splice(0, MOST_IN_WRITE);
        this.#writeLeft = this.#inWrite.reduce((sum, { wire }) => sum + wire, 0);
      }
      const moved = Math.min(KERNEL_BYTES - this.#kernelBytes, this.#writeLeft);
      this.#kernelBytes += moved;
      this.#writeLeft -= moved;
      if (this.#writeLeft > 0) {
        return;
      }
      for (const { wire, guest, slot } of this.#inWrite) {
        this.#takenBytes += wire;
        this.#waitingBytes -= wire;
        this.movedBytes += guest;
        this.#slots += slot ? 1 : 0;
      }
      this.#inWrite = [];
    }
  }

  #finish(conditions: Conditions, noise: () => number): void {
    for (const task of this.#threads.filter(({ endsAt }) => endsAt <= this.now)) {
      this.#threads.splice(this.#threads.indexOf(task), 1);
      this.policy.compressed(task.bytes, task.after);
      this.policy.worked(task.ms);
      this.#give(task.after || task.bytes, task.bytes, task.after > 0);
      this.#slots += task.after > 0 ? 0 : 1;
    }
    this.#start(conditions, noise);
  }

  /** Copies that no thread has begun with. */
  #gathered = 0;

  #start({ threadBytesPerMs, ratio }: Conditions, noise: () => number): void {
    while (this.#threads.length < this.#threadCount && this.#gathered > 0) {
      this.#gathered -= 1;
      const shrinks = ratio <= 7 / 8;
      const ms = shrinks ? RUN_BYTES / (threadBytesPerMs * noise()) : SAMPLE_MS;
      this.#threads.push({
        endsAt: this.now + ms,
        bytes: RUN_BYTES,
        after: shrinks ? Math.floor(RUN_BYTES * ratio) : 0,
        ms,
      });
    }
  }

  #send(conditions: Conditions, noise: () => number): void {
    const { policy } = this;
    while (this.#sourceBytes >= RUN_BYTES && this.#waitingBytes < MOST_WAITING_BYTES) {
      policy.link(this.#takenBytes, this.#waitingBytes, this.now);
      const choice = policy.choose(this.now, this.#slots > 0, this.#waitingBytes);
      if (choice === 'wait') {
        return;
      }
      this.#sourceBytes -= RUN_BYTES;
      if (choice === 'compress') {
        policy.taken(RUN_BYTES, this.now);
        this.#slots -= 1;
        this.#gathered += 1;
        this.#start(conditions, noise);
      } else {
        policy.passed();
        this.#give(RUN_BYTES, RUN_BYTES, false);
      }
    }
  }

  #give(wire: number, guest: number, slot: boolean): void {
    this.policy.link(this.#takenBytes, this.#waitingBytes, this.now);
    this.#queue.push({ wire, guest, slot });
    this.#waitingBytes += wire;
    this.#move();
    this.policy.link(this.#takenBytes, this.#waitingBytes, this.now);
  }
}
