import { isZeroPage } from '../../memory/byte-ops.js';
import {
  CMD_REG,
  INTERRUPTS,
  QUEUE_NOTIFIED,
  VCPU_REQUEST,
  VCPU_STATE,
} from '../../memory/control-buffer.js';
import { migrate } from '../../migration/migrate.js';
import type { PrecopySource } from '../../migration/precopy.js';
import { comparePages } from '../../migration/verify.js';
import type { Verification } from '../../vmm/verifier.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import { check, checkBalance, checkStandsStill, checkWhole, PATIENCE_MS } from './checks.js';
import { type FarSide, type FarSideServices, MemoryFarSide } from './far-side.js';
import { endGuest, type TravellingGuest } from './guests.js';
import { Injection } from './injection.js';
import { NetworkFarSide } from './network-far-side.js';
import type { HopPlan } from './plan.js';
import type { Tally } from './tally.js';

/** What all migrations of a run share. */
export interface StressServices extends FarSideServices {
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

/**
 * One migration of a guest, with what goes wrong in it, and everything that must hold afterwards. The guest ends up
 * where `travelling` then says. Throws VERIFICATION_FAILED, or what the engine threw.
 */
export async function runHop(
  travelling: TravellingGuest,
  plan: HopPlan,
  services: StressServices,
): Promise<Whereabouts> {
  const { guest, memory } = travelling;
  const far = await (plan.network === undefined
    ? MemoryFarSide.open(travelling, plan, services)
    : NetworkFarSide.open(travelling, plan, plan.network, services));
  try {
    const source = await migrateWithFaults(travelling, far, plan, services);
    checkBalance(source);
    const there = await settle(travelling, far, source, services);
    const whereabouts = there !== undefined ? 'destination' : source.phase === 'unknown' ? 'lost' : 'source';
    services.tally.migrated(source, whereabouts);
    if (there !== undefined) {
      checkStandsStill(guest, 'it runs at the destination');
      check(await endGuest(guest), () => "the guest's thread at the source did not end");
      travelling.guest = there;
      travelling.memory = there.memory;
      await far.close();
      services.pool.giveBack(memory);
    }
    if (whereabouts !== 'lost') {
      await checkWhole(travelling, plan.balloonPages);
    }
    await far.close();
    if (whereabouts === 'source') {
      await forgetDeclarations(guest);
    }
    return whereabouts;
  } catch (thrown) {
    await far.close().catch(() => undefined); // what went wrong first is what is told
    throw thrown;
  }
}

/** The migration itself; resolves when it is over. */
async function migrateWithFaults(
  travelling: TravellingGuest,
  far: FarSide,
  plan: HopPlan,
  { tally, signal }: StressServices,
): Promise<PrecopySource> {
  const { guest } = travelling;
  const injection = new Injection({ travelling, far, plan, tally, signal });
  try {
    injection.begin();
    const source = await endsInTime(
      migrate({
        vm: guest,
        channel: far.channel,
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
        `its last progress ${injection.progress}; ${rung}; ${describeGuestState(guest)}${far.describe()}`,
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

/** Checks how the migration ended, page by page where the guest has arrived; it goes on there then, and is returned. */
async function settle(
  { guest }: TravellingGuest,
  far: FarSide,
  source: PrecopySource,
  services: StressServices,
): Promise<WorkerGuest | undefined> {
  if (source.phase === 'unknown') {
    checkStandsStill(guest, 'the commit has left and was not answered');
  }
  const there = await far.arrived(source);
  if (there === undefined) {
    return undefined;
  }
  checkStandsStill(guest, 'it was started at the destination');
  const late = guest.log.bitmap.count();
  check(
    late === 0,
    () => `${late} pages were marked after the final drain: the guest did not stand still (I2)`,
  );
  const pages = await services.compare(guest, there);
  check(
    pages.pagesDifferent === 0,
    () =>
      `${pages.pagesDifferent} pages of ${pages.pagesCompared} were lost, the first of them ${pages.firstDifferentPfn}: ` +
      'they differ at the destination, and the guest had not declared them free or has written them since (I7): ' +
      describeDifferences(guest, there),
  );
  services.tally.compared(pages);
  far.goOn(there);
  return there;
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
