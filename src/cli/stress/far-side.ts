import type { MemoryPool } from '../../memory/memory-pool.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { FaultyChannel } from '../../transport/faulty.js';
import type { ThreadSource } from '../../vmm/threads.js';
import { WorkerDestination } from '../../vmm/worker-destination.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import type { SourceChannel } from '../../wire/channel.js';
import { check, until, wasStarted } from './checks.js';
import { endDestination, endGuest, type TravellingGuest, zeroInSlices } from './guests.js';
import type { FaultKind, HopPlan, Moment } from './plan.js';
import { Random } from './random.js';
import type { Tally } from './tally.js';

/** Has something done at a moment of the migration, if that is under way then. */
export type At = (moment: Moment, act: () => void) => void;

/** Where a guest is sent, and by what: one for each migration. */
export interface FarSide {
  readonly channel: SourceChannel;
  /** Arranges for what is to go wrong with it. */
  arrange(at: At): void;
  onEvent(event: MigrationEvent): void;
  /** Kinds of fault that were really injected here. */
  injected(): Iterable<FaultKind>;
  /** What became of it so far, for a failure: a phrase that begins with a semicolon, or nothing. */
  describe(): string;
  /** The migration has ended. Throws VERIFICATION_FAILED if it may not have ended so. */
  over(source: PrecopySource): void;
  /** Lifts what is still wrong. */
  lift(): Promise<void>;
  /**
   * The guest that has arrived, standing still at its first safe point, with all that received it ended. Undefined: it was
   * never started here, and won't be. Throws VERIFICATION_FAILED, also if the source's end leaves no doubt that the
   * opposite is true.
   */
  arrived(source: PrecopySource): Promise<WorkerGuest | undefined>;
  /** What has arrived was compared: it goes on here. */
  goOn(guest: WorkerGuest): void;
  /**
   * Ends everything but a guest that `goOn` was called for. Throws VERIFICATION_FAILED if something is left, or if another
   * guest was started. May be called twice.
   */
  close(): Promise<void>;
}

/** What the far sides of a run share. */
export interface FarSideServices {
  readonly pool: MemoryPool;
  readonly threads: ThreadSource;
  readonly tally: Tally;
}

/** A destination with a thread of its own, in this process, that copies out of the source's memory. */
export class MemoryFarSide implements FarSide {
  readonly channel: FaultyChannel;
  readonly #destination: WorkerDestination;
  readonly #plan: HopPlan;
  readonly #pool: MemoryPool;
  #isDead = false;
  #killed: Promise<void> | undefined;
  #hasGoneOn = false;
  #closed: Promise<void> | undefined;

  private constructor(destination: WorkerDestination, source: WorkerGuest, plan: HopPlan, pool: MemoryPool) {
    this.#destination = destination;
    this.#plan = plan;
    this.#pool = pool;
    this.channel = new FaultyChannel(
      destination.channel,
      source.event,
      plan.faults.transport ?? {},
      new Random(plan.seed).next,
    );
  }

  /** Throws OUT_OF_MEMORY. */
  static async open(
    { guest, board }: TravellingGuest,
    plan: HopPlan,
    { pool, threads }: FarSideServices,
  ): Promise<MemoryFarSide> {
    const memory = pool.take(guest.memory.layout);
    const zeroing = zeroInSlices(memory);
    try {
      const destination = await WorkerDestination.prepare(guest, memory, {
        holdAtStart: true,
        oracle: true,
        faults: board.buffer,
        refuses: plan.faults.refuses,
        threads,
      });
      await zeroing;
      return new MemoryFarSide(destination, guest, plan, pool);
    } catch (thrown) {
      await zeroing;
      pool.giveBack(memory);
      throw thrown;
    }
  }

  arrange(at: At): void {
    const { destinationDies } = this.#plan.faults;
    if (destinationDies !== undefined) {
      at(destinationDies, () => {
        this.#isDead = true;
        this.#killed = this.#destination.kill();
      });
    }
  }

  onEvent(): void {
    // Nothing of it depends on how far the migration has come.
  }

  *injected(): Iterable<FaultKind> {
    const { failed, stalled, split, lost } = this.channel.counts;
    const counts: readonly (readonly [FaultKind, boolean])[] = [
      ['transport-fails', failed > 0],
      ['transport-stalls', stalled > 0],
      ['transport-splits', split > 0],
      ['reply-lost', lost > 0],
      ['destination-dies', this.#isDead],
    ];
    for (const [kind, really] of counts) {
      if (really) {
        yield kind;
      }
    }
  }

  describe(): string {
    return '';
  }

  over(): void {
    // All that it may end as depends on the kinds of faults alone.
  }

  async lift(): Promise<void> {
    this.channel.end();
    await this.#killed;
  }

  async arrived(source: PrecopySource): Promise<WorkerGuest | undefined> {
    const { guest } = this.#destination;
    if (source.phase === 'cancelled' || source.phase === 'failed') {
      check(!wasStarted(guest), () => `the destination was started (I10): ${source.error?.message}`);
      return undefined;
    }
    if (source.phase === 'unknown') {
      check(await endDestination(this.#destination), () => "the destination's thread did not end");
      if (!wasStarted(guest)) {
        return undefined;
      }
      // A destination that died between the order to start and the doorbell has left the guest asleep.
      guest.control.ringGuest();
    }
    await until(guest, () => guest.paused, 'the guest to start at the destination');
    return guest;
  }

  goOn(guest: WorkerGuest): void {
    this.#hasGoneOn = true;
    guest.adopt(this.#destination.channel.sentDeviceState());
    guest.resume();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { guest } = this.#destination;
    const hasEnded = await endDestination(this.#destination);
    if (!this.#hasGoneOn) {
      const wasIt = wasStarted(guest);
      await endGuest(guest);
      this.#pool.giveBack(guest.memory);
      check(!wasIt, () => 'the guest was started at the destination after all (I10)');
    }
    check(hasEnded, () => "the destination's thread did not end");
  }
}
