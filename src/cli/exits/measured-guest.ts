import { type ExitTable, exitsBetween } from '../../balloon/exits.js';
import { HintState } from '../../balloon/hint-session.js';
import type { RequestInterface } from '../../balloon/request-interface.js';
import { LacunaError } from '../../errors.js';
import type { GuestImage } from '../../guest/image.js';
import { EventWord, INTERRUPT_CONFIG, INTERRUPTS } from '../../memory/control-buffer.js';
import type { SharedGuestMemory } from '../../memory/guest-memory.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { macrotask, wakeOrTimeout } from '../../migration/migrate.js';
import type { ThreadSource } from '../../vmm/threads.js';
import { WorkerGuest } from '../../vmm/worker-guest.js';
import type { Interrupt, Request } from './mixes.js';

/** What an interrupt cost, and how many ranges the guest reported in answer to it. */
export interface Answer {
  readonly exits: ExitTable;
  readonly ranges: number;
}

/** The two sizes of the balloon, in pages: a chunk apart, so that a resize is one buffer. */
const SMALL_BALLOON = 64;
const LARGE_BALLOON = 192;
const POLL_LIMIT = 1024;
const PATIENCE_MS = 60_000;

/**
 * A guest on a thread of its own that does nothing but answer its host. It is paused while requests are made, so that
 * those of one call are pending together when it takes the one interrupt, and paused again when all of them are
 * answered, so that what it counted is theirs.
 */
export class MeasuredGuest {
  readonly #guest: WorkerGuest;
  #balloonPages = 0;
  #futureValue = 0;

  private constructor(guest: WorkerGuest) {
    this.#guest = guest;
  }

  static async boot(
    image: GuestImage,
    memory: SharedGuestMemory,
    requests: RequestInterface,
    threads: ThreadSource,
  ): Promise<MeasuredGuest> {
    const guest = await WorkerGuest.boot({
      image,
      memory,
      event: new EventWord(atomicMapper),
      workload: { kind: 'halt' },
      requests,
      threads,
    });
    return new MeasuredGuest(guest);
  }

  /** Makes the requests of one interrupt and waits until the guest has served them. */
  async answer(interrupt: Interrupt): Promise<Answer> {
    const guest = this.#guest;
    await guest.pause();
    while (guest.device!.armNotifications()) {
      guest.device!.poll(performance.now(), POLL_LIMIT); // a host at rest is asleep, and wants to be kicked
    }
    const before = guest.exits();
    const { rangesReported } = guest.counters();
    for (const request of interrupt) {
      this.#make(request);
    }
    guest.resume();
    await this.#served(interrupt);
    await guest.pause();
    return {
      exits: exitsBetween(before, guest.exits()),
      ranges: guest.counters().rangesReported - rangesReported,
    };
  }

  async stop(): Promise<void> {
    await this.#guest.stop();
  }

  #make({ kind, feature }: Request): void {
    const device = this.#guest.device!;
    switch (kind) {
      case 'balloon':
        this.#balloonPages = this.#balloonPages === SMALL_BALLOON ? LARGE_BALLOON : SMALL_BALLOON;
        device.setBalloonTarget(this.#balloonPages);
        return;
      case 'report-start':
        device.openSession({ hint: () => true }, performance.now());
        return;
      case 'report-stop':
        device.closeSession(performance.now());
        return;
      case 'future':
        this.#futureValue += 1; // never what the register says already
        device.registers.requestFuture(feature, this.#futureValue);
        return;
    }
  }

  /** Serves the device as any host does that has nothing else to do: it sleeps until it is kicked. */
  async #served(interrupt: Interrupt): Promise<void> {
    const { device, event, control } = this.#guest;
    const { registers, session } = device!;
    const asked = (wanted: Request['kind']): boolean => interrupt.some(({ kind }) => kind === wanted);
    const effects = (): boolean =>
      (!asked('report-start') || session.state === HintState.done) &&
      (!asked('balloon') || registers.actual === this.#balloonPages);
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const seen = event.value();
      device!.poll(performance.now(), POLL_LIMIT);
      if (effects()) {
        break;
      }
      const left = this.#patience(deadline);
      await (device!.armNotifications() ? macrotask() : wakeOrTimeout(event, seen, left));
    }
    // Taking an interrupt rings nobody. Once it is taken the guest's next safe point lies behind the answer.
    while ((control.words.load(INTERRUPTS) & INTERRUPT_CONFIG) !== 0 || registers.pending !== 0) {
      this.#patience(deadline);
      await macrotask();
    }
  }

  #patience(deadline: number): number {
    if (this.#guest.failure !== undefined) {
      throw this.#guest.failure;
    }
    const left = deadline - performance.now();
    if (left <= 0) {
      throw new LacunaError('GUEST_FAILED', `waited ${PATIENCE_MS} ms for the answer to a request`);
    }
    return left;
  }
}
