import { DIALECTS, type Dialect } from '../../balloon/dialect.js';
import type { DriverFault, DriverFaultName } from '../../guest/faulty-driver.js';
import { FREE_MEMORY_MODES, type FreeMemoryMode } from '../../guest/image.js';
import { REPORT_MODES, type ReportMode } from '../../guest/runtime.js';
import type { WorkloadSpec } from '../../guest/workload.js';
import { MIB, PAGE_SIZE } from '../../memory/page.js';
import { type MigrationOptions, SCHEDULES } from '../../migration/options.js';
import type { MigrationEvent } from '../../migration/precopy.js';
import { MOST_PIECES, type TransportFaults } from '../../transport/faulty.js';
import type { ListenerEvent } from '../../transport/network/incoming-migration.js';
import type { Refusal } from '../../vmm/worker-destination.js';
import {
  type HostilePeersPlan,
  type LinkCut,
  type LinkSilence,
  type NetworkPlan,
  overNetwork,
  planCuts,
  planHostilePeers,
  planRestarts,
  planSilences,
} from './network-plan.js';
import { Random } from './random.js';

/*
 * What a stress run does is decided here, before anything runs, from the seed and the number of the case and from
 * nothing else. Only the threads' timing is left to chance.
 *
 *   case   a fresh guest that is moved again and again: so it can be run by itself
 *   hop    one migration of it
 */

/** By what guests travel. */
export const TRANSPORTS = ['memory', 'tcp'] as const;
export type StressTransport = (typeof TRANSPORTS)[number];

/** Faults by kind, as `--faults` names them. */
export const FAULT_KINDS = [
  'driver-hangs',
  'driver-lies',
  'driver-floods',
  'driver-corrupts',
  'driver-late',
  'vcpu-stuck',
  'balloon',
  'cancel',
  'transport-fails',
  'transport-stalls',
  'transport-splits',
  'reply-lost',
  'destination-dies',
  'destination-refuses',
  'link-cuts',
  'link-silent',
  'destination-restarts',
  'hostile-peer',
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** Those that there are with one transport only; all others are with both. */
const FAULTS_OF_ONE: Partial<Record<FaultKind, StressTransport>> = {
  'transport-fails': 'memory',
  'transport-stalls': 'memory',
  'transport-splits': 'memory',
  'reply-lost': 'memory',
  'destination-dies': 'memory',
  'link-cuts': 'tcp',
  'link-silent': 'tcp',
  'destination-restarts': 'tcp',
  'hostile-peer': 'tcp',
};

/** Kinds of fault that there are with a transport, in the order of {@link FAULT_KINDS}: plans follow from it. */
export function faultsOf(transport: StressTransport): FaultKind[] {
  return FAULT_KINDS.filter((kind) => (FAULTS_OF_ONE[kind] ?? transport) === transport);
}

/** When something is done to a migration: at the `nth` event of a type, or so many ms after it began. */
export type Moment =
  | { readonly event: MigrationEvent['type']; readonly nth: number }
  | { readonly afterMs: number };

/** The same, or when the source has sent so many bytes more, or at the destination's `nth` event of a type. */
export type LinkMoment =
  | Moment
  | { readonly afterBytes: number }
  | { readonly atDestination: ListenerEvent['type']; readonly nth: number };

/** Free memory made up, or a piece of a real machine's. */
export type ImagePlan =
  | { readonly from: 'synthetic'; readonly freeShare: number; readonly freeRunPages: number }
  /** `at`: where in the capture the piece begins, as a share of it. */
  | { readonly from: 'capture'; readonly capture: string; readonly at: number }
  | { readonly from: 'whole-capture'; readonly capture: string };

export interface GuestPlan {
  readonly image: ImagePlan;
  readonly memoryBytes: number;
  readonly freeMemory: FreeMemoryMode;
  readonly workload: WorkloadSpec;
  readonly reportMode: ReportMode;
  readonly dialect: Dialect;
  readonly minOrder: number;
  readonly ringSize: number;
  readonly eventIdx: boolean;
  readonly ringDeadlineMs: number;
  readonly seed: number;
  readonly initOnAlloc: boolean;
  /** null: the guest leaves pages that it frees as they are. */
  readonly pagePoison: number | null;
}

/** What goes wrong in a migration. */
export interface HopFaults {
  /** Of the driver or the vCPU; at most one, from this moment on. */
  readonly driver?: { readonly kind: FaultKind; readonly fault: DriverFault; readonly at: Moment | 'before' };
  /** Targets for the balloon, in pages. */
  readonly balloon?: readonly { readonly at: Moment; readonly pages: number }[];
  readonly cancels?: readonly Moment[];
  readonly transport?: TransportFaults;
  readonly destinationDies?: Moment;
  readonly refuses?: Refusal;
  readonly cuts?: readonly LinkCut[];
  readonly silences?: readonly LinkSilence[];
  /** Another destination takes the place of the one that there is, which is forgotten with all that it received. */
  readonly restarts?: readonly LinkMoment[];
  readonly hostilePeers?: HostilePeersPlan;
}

export interface HopPlan {
  readonly options: Partial<MigrationOptions>;
  readonly faults: HopFaults;
  /** Kinds of {@link faults}. */
  readonly kinds: readonly FaultKind[];
  /** The balloon's size after the migration, in pages: it must still answer. */
  readonly balloonPages: number;
  /** Of the random pieces of runs. */
  readonly seed: number;
  /** By TCP; undefined: by shared memory. */
  readonly network?: NetworkPlan;
}

export interface CasePlan {
  readonly caseNumber: number;
  readonly guest: GuestPlan;
  readonly hops: readonly HopPlan[];
}

/** Captures whose pieces are used: those of 2 GiB, which take 60 ms to read. */
export const PIECE_CAPTURES = ['build-2g', 'fragmented-2g', 'fragmented-settled-2g'] as const;

/** Everything that case `caseNumber` does, with faults of the given kinds only, all of them {@link faultsOf} the transport. */
export function planCase(
  seed: number,
  caseNumber: number,
  faults: readonly FaultKind[],
  transport: StressTransport = 'memory',
): CasePlan {
  const random = Random.ofCase(seed, caseNumber);
  const guest = planGuest(random);
  const hops = guest.image.from === 'whole-capture' ? 1 : random.wholeByScale(1, 12);
  return {
    caseNumber,
    guest,
    hops: Array.from({ length: hops }, () => {
      const hop = planHop(random, guest, faults);
      return transport === 'tcp' ? overNetwork(hop, guest) : hop;
    }),
  };
}

function planGuest(random: Random): GuestPlan {
  const image = planImage(random);
  const memoryBytes =
    image.from === 'whole-capture' ? 2048 * MIB : random.pick([16, 16, 16, 24, 32, 32, 48, 64]) * MIB;
  const guest = {
    image,
    memoryBytes,
    freeMemory: random.pick(FREE_MEMORY_MODES),
    workload: planWorkload(random),
    reportMode: random.pick(REPORT_MODES),
    minOrder: random.chance(0.5) ? 0 : random.whole(1, 10),
    // A whole machine's memory has no place for the tables of a very large ring.
    ringSize: random.pick([4, 16, 64, 256, 1024, 4096, image.from === 'whole-capture' ? 4096 : 32768]),
    eventIdx: random.chance(0.5),
    ringDeadlineMs: random.wholeByScale(5, 100),
    seed: random.seed(),
  };
  // Of a source of its own, so that all else of a case is what it was before guests did this.
  const own = new Random(guest.seed);
  return {
    ...guest,
    initOnAlloc: own.chance(0.2),
    pagePoison: own.chance(0.25) ? own.pick([0xaaaa_aaaa, 0, 0x1234_5678]) : null,
    dialect: own.pick(DIALECTS),
  };
}

function planImage(random: Random): ImagePlan {
  const of = random.next();
  if (of < 1 / 400) {
    return { from: 'whole-capture', capture: random.pick(PIECE_CAPTURES) };
  }
  if (of < 0.2) {
    return { from: 'capture', capture: random.pick(PIECE_CAPTURES), at: random.next() };
  }
  return {
    from: 'synthetic',
    freeShare: random.whole(2, 90) / 100,
    freeRunPages: random.wholeByScale(1, 1024),
  };
}

function planWorkload(random: Random): WorkloadSpec {
  const kind = random.pick(['halt', 'idle', 'dirty', 'churn', 'churn', 'pressure', 'pressure'] as const);
  switch (kind) {
    case 'halt':
      return { kind };
    case 'idle':
      return { kind, pagesPerSecond: random.wholeByScale(500, 5000) };
    case 'dirty':
      return {
        kind,
        bytesPerSecond: random.wholeByScale(1, 200) * 1e6,
        workingSetBytes: random.wholeByScale(1, 1024) * PAGE_SIZE,
      };
    case 'churn':
      return {
        kind,
        pagesPerSecond: random.wholeByScale(2000, 60_000),
        keepBlocks: random.wholeByScale(16, 2048),
      };
    case 'pressure':
      return { kind, pagesPerSecond: random.wholeByScale(10_000, 100_000) };
  }
}

function planHop(random: Random, guest: GuestPlan, enabled: readonly FaultKind[]): HopPlan {
  const kinds = pickKinds(random, enabled);
  const faults = planFaults(random, kinds);
  return {
    options: planOptions(random, guest, kinds, faults),
    faults,
    kinds,
    balloonPages: random.chance(0.5) ? 0 : balloonPages(random),
    seed: random.seed(),
  };
}

/** A driver does one thing wrong at a time. */
function isDriverFault(kind: FaultKind): boolean {
  return kind.startsWith('driver-') || kind === 'vcpu-stuck';
}

/** None, one or two. */
function pickKinds(random: Random, enabled: readonly FaultKind[]): FaultKind[] {
  const wanted = random.pick([0, 0, 1, 1, 1, 2]);
  const kinds: FaultKind[] = [];
  for (let i = 0; i < wanted && enabled.length > 0; i += 1) {
    const kind = random.pick(enabled);
    if (!kinds.includes(kind) && !(isDriverFault(kind) && kinds.some(isDriverFault))) {
      kinds.push(kind);
    }
  }
  return kinds;
}

function planOptions(
  random: Random,
  guest: GuestPlan,
  kinds: readonly FaultKind[],
  faults: HopFaults,
): Partial<MigrationOptions> {
  const slow = random.chance(0.3);
  // Of a driver that leaves the host waiting, so that it costs little; the others are given more time than they need.
  const silent = kinds.includes('driver-hangs') || kinds.includes('driver-late');
  const endless = silent || kinds.includes('driver-floods');
  const lost = ['transport-fails', 'reply-lost', 'destination-dies'] as const;
  const answerMs = lost.some((kind) => kinds.includes(kind)) ? random.wholeByScale(50, 200) : 30_000;
  return {
    // A fault of the driver that is never asked for anything would be none.
    hints: kinds.some((kind) => kind.startsWith('driver-')) ? true : random.chance(0.92),
    zeroDetection: random.chance(0.5),
    // Most hints count where the host waits for them.
    schedule: random.chance(0.3) ? 'wait' : random.pick(SCHEDULES),
    downtimeLimitMs: random.pick([0, 1, 5, 20, 100, 300]),
    maxRounds: random.pick([1, 2, 3, 5, 10, 30]),
    stallRounds: random.whole(1, 4),
    // A slow link takes 50 to 250 ms for all of memory.
    bytesPerSecond: slow ? guest.memoryBytes / (random.whole(50, 250) / 1000) : Number.POSITIVE_INFINITY,
    hintTimeoutMs: silent ? random.wholeByScale(10, 60) : random.pick([50, 200, 500]),
    hintDeadlineMs: endless ? random.wholeByScale(20, 120) : 2000,
    adaptiveGraceMs: random.pick([0, 1, 5, 25]),
    // Deadlines that pass before the fault is seen to be there fail nothing: see ENDINGS. All others are generous.
    pauseTimeoutMs: kinds.includes('vcpu-stuck') ? random.wholeByScale(10, 60) : 60_000,
    sendTimeoutMs:
      faults.transport?.stall?.ms === Number.POSITIVE_INFINITY ? random.wholeByScale(20, 100) : 60_000,
    readyTimeoutMs: answerMs,
    startTimeoutMs: answerMs,
    maxRunPages: random.pick([1, 7, 32, 64, 256, 256, 256, 1024]),
  };
}

function balloonPages(random: Random): number {
  return random.wholeByScale(1, 1500);
}

function planFaults(random: Random, kinds: readonly FaultKind[]): HopFaults {
  const parts = kinds.map((kind) => planFault(random, kind));
  const cancels = parts.flatMap((part) => part.cancels ?? []);
  const transport: TransportFaults = Object.assign({}, ...parts.map((part) => part.transport));
  return {
    ...(Object.assign({}, ...parts) as HopFaults),
    ...(cancels.length > 0 ? { cancels } : {}),
    ...(Object.keys(transport).length > 0 ? { transport } : {}),
  };
}

function planFault(random: Random, kind: FaultKind): HopFaults {
  switch (kind) {
    case 'driver-hangs':
      return driverFault(random, kind, ['hang-at-start', 'hang-midway', 'hang-at-stop']);
    case 'driver-lies':
      return driverFault(random, kind, ['lie']);
    case 'driver-floods':
      return driverFault(random, kind, ['flood-ranges', 'flood-kicks', 'flood-markers']);
    case 'driver-corrupts':
      return driverFault(random, kind, ['corrupt-index', 'corrupt-head', 'corrupt-descriptor']);
    case 'driver-late':
      return driverFault(random, kind, ['late', 'stale-id']);
    case 'vcpu-stuck':
      return driverFault(random, kind, ['stuck']);
    case 'balloon':
      return {
        balloon: Array.from({ length: random.whole(1, 3) }, () => ({
          at: momentBeforeStop(random),
          pages: random.chance(0.3) ? 0 : balloonPages(random),
        })),
      };
    case 'cancel':
      return { cancels: [anyMoment(random)] };
    case 'transport-fails':
      return { transport: { failAtFrame: frame(random) } };
    case 'transport-stalls':
      // For ever: a cancel ends it, or the time that a destination may take nothing.
      return random.chance(0.3)
        ? {
            transport: { stall: { atFrame: frame(random), ms: Number.POSITIVE_INFINITY } },
            ...(random.chance(0.5) ? { cancels: [{ afterMs: random.whole(10, 80) }] } : {}),
          }
        : { transport: { stall: { atFrame: frame(random), ms: random.wholeByScale(1, 60) } } };
    case 'transport-splits':
      return { transport: { pieces: random.whole(2, MOST_PIECES) } };
    case 'reply-lost':
      return { transport: { loses: random.pick(['ready', 'started']) } };
    case 'destination-dies':
      return { destinationDies: anyMoment(random) };
    case 'destination-refuses':
      return { refuses: random.pick(['device-state', 'start']) };
    case 'link-cuts':
      return { cuts: planCuts(random) };
    case 'link-silent':
      return { silences: planSilences(random) };
    case 'destination-restarts':
      return { restarts: planRestarts(random) };
    case 'hostile-peer':
      return { hostilePeers: planHostilePeers(random) };
  }
}

/** Early frames are as likely as late ones: a migration has some dozen frames, or some thousand. */
function frame(random: Random): number {
  return random.wholeByScale(1, 2000) - 1;
}

function driverFault(random: Random, kind: FaultKind, names: readonly DriverFaultName[]): HopFaults {
  const name = random.pick(names);
  return {
    driver: {
      kind,
      at: random.chance(0.6) ? 'before' : momentBeforeStop(random),
      fault: { name, amount: amountOf(random, name), ms: random.wholeByScale(5, 100), seed: random.seed() },
    },
  };
}

function amountOf(random: Random, name: DriverFaultName): number {
  switch (name) {
    case 'lie':
      return random.wholeByScale(1, 400);
    case 'flood-kicks':
    case 'flood-markers':
      return random.wholeByScale(1, 256);
    default:
      return random.chance(0.3) ? 0 : random.wholeByScale(1, 500); // ranges
  }
}

const EVENTS_BEFORE_STOP = [
  'started',
  'round',
  'session-issued',
  'session-started',
  'session-done',
  'round-end',
] as const;
const EVENTS = [...EVENTS_BEFORE_STOP, 'stopping', 'stopped', 'ready', 'committed'] as const;

function momentBeforeStop(random: Random): Moment {
  return random.chance(0.3)
    ? { afterMs: random.wholeByScale(1, 40) - 1 }
    : { event: random.pick(EVENTS_BEFORE_STOP), nth: random.pick([1, 1, 1, 2, 3]) };
}

function anyMoment(random: Random): Moment {
  return random.chance(0.3)
    ? { afterMs: random.wholeByScale(1, 80) - 1 }
    : { event: random.pick(EVENTS), nth: random.pick([1, 1, 1, 2]) };
}
