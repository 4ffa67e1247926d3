import type { LacunaErrorCode } from '../../errors.js';
import { isZeroPage } from '../../memory/byte-ops.js';
import {
  CMD_REG,
  INTERRUPTS,
  QUEUE_NOTIFIED,
  VCPU_REQUEST,
  VCPU_STATE,
} from '../../memory/control-buffer.js';
import type { MemoryPool } from '../../memory/memory-pool.js';
import { migrate } from '../../migration/migrate.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { comparePages } from '../../migration/verify.js';
import { FaultyChannel } from '../../transport/faulty.js';
import type { ThreadSource } from '../../vmm/threads.js';
import type { Verification } from '../../vmm/verifier.js';
import { REFUSED, WorkerDestination } from '../../vmm/worker-destination.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import {
  check,
  checkBalance,
  checkStandsStill,
  checkWhole,
  PATIENCE_MS,
  until,
  wasStarted,
} from './checks.js';
import { endDestination, endGuest, type TravellingGuest, zeroInSlices } from './guests.js';
import type { FaultKind, HopPlan, Moment } from './plan.js';
import { Random } from './random.js';
import type { Tally } from './tally.js';

/** What all migrations of a run share. */
export interface StressServices {
  readonly pool: MemoryPool;
  readonly threads: ThreadSource;
  /** Compares every page of two guests that stand still. */
  readonly compare: (source: WorkerGuest, destination: WorkerGuest) => Promise<Verification>;
  /** The run is called off. */
  readonly signal: AbortSignal;
  readonly tally: Tally;
}

/** Runs of lost pages that a failure names. */
const MOST_RUNS = 24;
/** How long somebody who was rung by hand has for what is left to do. */
const RUNG_MS = 5000;

/** Where the guest is after a migration. `lost`: nobody may run it any more without looking. */
export type Whereabouts = 'source' | 'destination' | 'lost';

/** How a migration may end beside completing, if such a fault was planned. */
const ENDINGS: Partial<Record<FaultKind, readonly LacunaErrorCode[]>> = {
  'vcpu-stuck': ['VCPU_STUCK'],
  cancel: ['CANCELLED'],
  'transport-fails': ['DESTINATION_FAILED', 'DESTINATION_SILENT', 'COMMIT_UNCONFIRMED'],
  'transport-stalls': ['CANCELLED', 'DESTINATION_SILENT'],
  'reply-lost': ['DESTINATION_SILENT', 'COMMIT_UNCONFIRMED'],
  'destination-dies': ['DESTINATION_FAILED', 'DESTINATION_SILENT', 'COMMIT_UNCONFIRMED'],
  'destination-refuses': ['DESTINATION_FAILED'],
};
/** With these really done, a migration must not say that it has completed. */
const FATAL: readonly FaultKind[] = ['vcpu-stuck', 'transport-fails', 'reply-lost'];

/**
 * One migration of a guest, with what goes wrong in it, and everything that must hold afterwards. The guest ends up
 * where `travelling` then says. Throws VERIFICATION_FAILED, or what the engine threw.
 */
export async function runHop(
  travelling: TravellingGuest,
  plan: HopPlan,
  services: StressServices,
): Promise<Whereabouts> {
  const { guest } = travelling;
  const memory = services.pool.take(guest.memory.layout);
  let destination: WorkerDestination | undefined;
  try {
    const zeroing = zeroInSlices(memory);
    try {
      destination = await WorkerDestination.prepare(guest, memory, {
        holdAtStart: true,
        oracle: true,
        faults: travelling.board.buffer,
        refuses: plan.faults.refuses,
        threads: services.threads,
      });
    } finally {
      await zeroing;
    }
    const source = await migrateWithFaults(travelling, destination, plan, services);
    checkBalance(source);
    const arrived = await settle(travelling, destination, source, services);
    const whereabouts = arrived ? 'destination' : source.phase === 'unknown' ? 'lost' : 'source';
    services.tally.migrated(source, whereabouts);
    if (arrived) {
      checkStandsStill(guest, 'it runs at the destination');
      await leave(travelling, destination, services.pool);
      travelling.guest = destination.guest;
      travelling.memory = memory;
    }
    if (whereabouts !== 'lost') {
      await checkWhole(travelling, plan.balloonPages);
    }
    if (!arrived) {
      check(await endDestination(destination), () => "the destination's thread did not end");
      check(!wasStarted(destination.guest), () => 'the guest was started at the destination after all (I10)');
    }
    if (whereabouts === 'source') {
      await forgetDeclarations(guest);
    }
    return whereabouts;
  } finally {
    if (destination !== undefined) {
      await endDestination(destination);
      if (travelling.guest !== destination.guest) {
        await endGuest(destination.guest);
      }
    }
    if (travelling.memory !== memory) {
      services.pool.giveBack(memory);
    }
  }
}

/** The migration itself; resolves when it is over. */
async function migrateWithFaults(
  travelling: TravellingGuest,
  destination: WorkerDestination,
  plan: HopPlan,
  services: StressServices,
): Promise<PrecopySource> {
  const { guest } = travelling;
  const injection = new Injection(travelling, destination, plan, services);
  try {
    injection.begin();
    const source = await endsInTime(
      migrate({
        vm: guest,
        channel: injection.channel,
        event: guest.event,
        options: plan.options,
        signal: injection.signal,
        onEvent: (event) => {
          if (event.type === 'session-issued') {
            guest.oracle?.sessionIssued(event.id);
          }
          injection.onEvent(event);
        },
        onProgress: ({ phase, elapsedMs }) => {
          injection.progress = `${phase} after ${Math.round(elapsedMs)} ms`;
        },
      }),
      (rung) =>
        `the migration did not end within ${PATIENCE_MS / 1000} s; its last event was ${injection.lastEvent}, ` +
        `its last progress ${injection.progress}; ${rung}; ${describeGuestState(guest)}`,
      [
        { who: 'the guest', ring: () => guest.control.ringGuest() },
        { who: 'the host', ring: () => guest.event.ring() },
      ],
    );
    injection.over(source);
    return source;
  } finally {
    await injection.end();
  }
}

/** Checks how the migration ended, page by page where the guest has arrived; true if it has. */
async function settle(
  travelling: TravellingGuest,
  destination: WorkerDestination,
  source: PrecopySource,
  services: StressServices,
): Promise<boolean> {
  const { guest } = travelling;
  if (source.phase === 'cancelled' || source.phase === 'failed') {
    check(
      !wasStarted(destination.guest),
      () => `the destination was started (I10): ${source.error?.message}`,
    );
    return false;
  }
  if (source.phase === 'unknown') {
    checkStandsStill(guest, 'the commit has left and was not answered');
    check(await endDestination(destination), () => "the destination's thread did not end");
    if (!wasStarted(destination.guest)) {
      return false;
    }
    // A destination that died between the order to start and the doorbell has left the guest asleep.
    destination.guest.control.ringGuest();
  }
  await until(destination.guest, () => destination.guest.paused, 'the guest to start at the destination');
  checkStandsStill(guest, 'it was started at the destination');
  const late = guest.log.bitmap.count();
  check(
    late === 0,
    () => `${late} pages were marked after the final drain: the guest did not stand still (I2)`,
  );
  const pages = await services.compare(guest, destination.guest);
  check(
    pages.pagesDifferent === 0,
    () =>
      `${pages.pagesDifferent} pages of ${pages.pagesCompared} were lost, the first of them ${pages.firstDifferentPfn}: ` +
      'they differ at the destination, and the guest had not declared them free or has written them since (I7): ' +
      describeDifferences(guest, destination.guest),
  );
  services.tally.compared(pages);
  const { guest: there } = destination;
  there.adopt(destination.channel.sentDeviceState());
  there.resume();
  return true;
}

/** The runs of pages that differ and may not, with what either side has of them. */
function describeDifferences(source: WorkerGuest, destination: WorkerGuest): string {
  const runs: { pfn: number; pages: number; what: string }[] = [];
  const poison = source.device?.poison ?? 0;
  for (const { firstPfn, pageCount } of source.memory.layout.segments) {
    for (let pfn = firstPfn; pfn < firstPfn + pageCount; pfn += 1) {
      const { different } = comparePages(source.memory, destination.memory, source.oracle, pfn, 1, poison);
      if (different === 0) {
        continue;
      }
      const contents = (guest: WorkerGuest): string =>
        isZeroPage(guest.memory.pages(pfn, 1), 0) ? 'zeroes' : 'data';
      const marked = source.log.bitmap.test(pfn) ? ', marked' : '';
      const what = `${contents(source)} here, ${contents(destination)} there${marked}`;
      const last = runs.at(-1);
      if (last !== undefined && last.pfn + last.pages === pfn && last.what === what) {
        last.pages += 1;
      } else {
        runs.push({ pfn, pages: 1, what });
      }
    }
  }
  const listed = runs.slice(0, MOST_RUNS).map(({ pfn, pages, what }) => `${pfn}+${pages} (${what})`);
  return `${listed.join(', ')}${runs.length > MOST_RUNS ? ` and ${runs.length - MOST_RUNS} more runs` : ''}`;
}

/** The guest has moved: ends what was at the source. */
async function leave(
  travelling: TravellingGuest,
  destination: WorkerDestination,
  pool: MemoryPool,
): Promise<void> {
  check(await endGuest(travelling.guest), () => "the guest's thread at the source did not end");
  check(await endDestination(destination), () => "the destination's thread did not end");
  pool.giveBack(travelling.memory);
}

/** What was declared free for a migration that failed says nothing about the next one. */
async function forgetDeclarations(guest: WorkerGuest): Promise<void> {
  await guest.pause();
  guest.oracle?.reset();
  guest.resume();
}

/** Somebody who may have missed that there was something to do. */
interface Sleeper {
  readonly who: string;
  readonly ring: () => void;
}

/**
 * What `promise` resolves to. If it takes too long, `sleepers` are rung by hand, one after the other, to find out
 * whether one of them has slept through something: that is a failure too, and named.
 */
async function endsInTime<T>(
  promise: Promise<T>,
  whatWentWrong: (rung: string) => string,
  sleepers: readonly Sleeper[],
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const endsWithin = async (ms: number): Promise<T | undefined> => {
    const hangs = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), ms);
    });
    try {
      return await Promise.race([promise, hangs]);
    } finally {
      clearTimeout(timer);
    }
  };
  const result = await endsWithin(PATIENCE_MS);
  if (result !== undefined) {
    return result;
  }
  for (const { who, ring } of sleepers) {
    ring();
    const late = await endsWithin(RUNG_MS);
    check(late === undefined, () =>
      whatWentWrong(`it went on when ${who} was rung by hand, who had missed a ring`),
    );
  }
  check(false, () => whatWentWrong('to ring guest and host by hand did not help'));
}

/** Where a guest is that does not do what it should. */
function describeGuestState(guest: WorkerGuest): string {
  const { words } = guest.control;
  const word = (index: number): number => words.load(index);
  return (
    `vCPU state ${word(VCPU_STATE)}, request ${word(VCPU_REQUEST)}, interrupts ${word(INTERRUPTS)}, ` +
    `cmd_reg ${word(CMD_REG)}, kicked queues ${word(QUEUE_NOTIFIED)}, session ${guest.device?.session.state}, ` +
    `its thread has used ${Math.round(guest.cpuMs())} ms of processor time`
  );
}

/** Does to one migration what its plan says, and counts what was really done. */
class Injection {
  readonly channel: FaultyChannel;
  lastEvent = 'none';
  progress = 'none';
  readonly #travelling: TravellingGuest;
  readonly #destination: WorkerDestination;
  readonly #plan: HopPlan;
  readonly #services: StressServices;
  readonly #abort = new AbortController();
  readonly #timers: ReturnType<typeof setTimeout>[] = [];
  readonly #actions: { readonly event: string; left: number; readonly act: () => void }[] = [];
  readonly #driverCountBefore: number;
  readonly #done = new Set<FaultKind>();
  #over = false;
  #killed: Promise<void> | undefined;

  constructor(
    travelling: TravellingGuest,
    destination: WorkerDestination,
    plan: HopPlan,
    services: StressServices,
  ) {
    this.#travelling = travelling;
    this.#destination = destination;
    this.#plan = plan;
    this.#services = services;
    const random = new Random(plan.seed);
    const { guest } = travelling;
    this.channel = new FaultyChannel(
      destination.channel,
      guest.event,
      plan.faults.transport ?? {},
      random.next,
    );
    this.#driverCountBefore = this.#driverCount();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  begin(): void {
    const { faults } = this.#plan;
    const { guest, board } = this.#travelling;
    const { driver } = faults;
    if (driver?.at === 'before') {
      board.arm(driver.fault);
      guest.control.ringGuest(); // it may be halted
    } else if (driver !== undefined) {
      this.#at(driver.at, () => {
        board.arm(driver.fault);
        guest.control.ringGuest();
      });
    }
    for (const { at, pages } of faults.balloon ?? []) {
      this.#at(at, () => {
        this.#done.add('balloon');
        guest.device?.setBalloonTarget(pages);
      });
    }
    for (const at of faults.cancels ?? []) {
      this.#at(at, () => {
        this.#done.add('cancel');
        this.#abort.abort();
      });
    }
    if (faults.destinationDies !== undefined) {
      this.#at(faults.destinationDies, () => {
        this.#done.add('destination-dies');
        this.#killed = this.#destination.kill();
      });
    }
    const { signal } = this.#services;
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) {
      this.#onAbort();
    }
  }

  onEvent(event: MigrationEvent): void {
    this.lastEvent = event.type;
    for (const action of this.#actions) {
      if (action.event === event.type) {
        action.left -= 1;
        if (action.left === 0) {
          action.act();
        }
      }
    }
  }

  /** The migration has ended; whether it may have ended so. */
  over(source: PrecopySource): void {
    this.#over = true;
    this.#countInjected(source);
    const { kinds } = this.#plan;
    const code = source.error?.code;
    if (source.phase === 'completed') {
      const fatal = FATAL.filter((kind) => this.#done.has(kind));
      if (kinds.includes('destination-refuses')) {
        fatal.push('destination-refuses');
      }
      check(
        fatal.length === 0,
        () => `the migration says that it has completed, in spite of ${fatal.join(', ')}`,
      );
      check(code === undefined, () => `a completed migration has an error: ${source.error?.message}`);
      return;
    }
    const allowed = kinds.flatMap((kind) => ENDINGS[kind] ?? []);
    if (this.#services.signal.aborted) {
      allowed.push('CANCELLED');
    }
    check(
      code !== undefined && allowed.includes(code),
      () =>
        `the migration ended as ${source.phase} (${code}: ${source.error?.message}), ` +
        (allowed.length === 0
          ? 'and had to complete'
          : `and may end as ${[...new Set(allowed)].join(', ')} only`),
    );
  }

  /** Lifts what is still on. */
  async end(): Promise<void> {
    this.#over = true;
    this.#services.signal.removeEventListener('abort', this.#onAbort);
    for (const timer of this.#timers) {
      clearTimeout(timer);
    }
    this.channel.end();
    this.#travelling.board.disarm();
    this.#travelling.guest.control.ringGuest();
    this.#abort.abort(); // one that hangs is not left behind; the others have ended
    await this.#killed;
  }

  readonly #onAbort = (): void => this.#abort.abort();

  #at(moment: Moment, act: () => void): void {
    const once = (): void => {
      if (!this.#over) {
        act();
      }
    };
    if ('event' in moment) {
      this.#actions.push({ event: moment.event, left: moment.nth, act: once });
    } else {
      this.#timers.push(setTimeout(once, moment.afterMs));
    }
  }

  #driverCount(): number {
    const { driver } = this.#plan.faults;
    return driver === undefined ? 0 : this.#travelling.board.injected(driver.fault.name);
  }

  #countInjected(source: PrecopySource): void {
    const { failed, stalled, split, lost } = this.channel.counts;
    const { driver } = this.#plan.faults;
    const done = (kind: FaultKind, really: boolean): void => {
      if (really) {
        this.#done.add(kind);
      }
    };
    done('transport-fails', failed > 0);
    done('transport-stalls', stalled > 0);
    done('transport-splits', split > 0);
    done('reply-lost', lost > 0);
    if (driver !== undefined) {
      done(driver.kind, this.#driverCount() > this.#driverCountBefore);
    }
    done('destination-refuses', source.error?.message.includes(REFUSED) === true);
    this.#services.tally.injected(this.#done);
  }
}
