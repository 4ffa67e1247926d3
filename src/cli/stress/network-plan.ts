import { MIB } from '../../memory/page.js';
import type { MigrationOptions } from '../../migration/options.js';
import type { CompressionMode } from '../../transport/network/compression-policy.js';
import { DIRECTIONS, type Direction, SILENCES, type SilenceKind } from './link-proxy.js';
import type { GuestPlan, HopPlan, LinkMoment } from './plan.js';
import { Random } from './random.js';

/*
 * What is different about a migration by TCP. Drawn from a source of its own, so that all else of a hop is what it would be
 * without.
 */

/** How the two ends are connected. */
export interface NetworkPlan {
  readonly streams: number;
  readonly compression: CompressionMode;
  /** TLS with a pre-shared key. */
  readonly tls: boolean;
  /** A link on which nothing is heard for so long is lost, at either end. */
  readonly silenceMs: number;
  /** Of the waits before attempts to connect again. */
  readonly retry: { readonly firstMs: number; readonly mostMs: number };
}

/** All connections are broken. */
export interface LinkCut {
  readonly at: LinkMoment;
  /** By a reset, rather than by their ends. */
  readonly withReset: boolean;
  /** New ones are refused for so long. Infinity: until the migration is over, if its commit had not left. */
  readonly refuseMs: number;
}

/** Nothing arrives any more for a while. */
export interface LinkSilence {
  readonly at: LinkMoment;
  readonly ms: number;
  readonly kind: SilenceKind;
  readonly directions: readonly Direction[];
}

/** Others connect to the destination meanwhile. */
export interface HostilePeersPlan {
  readonly at: LinkMoment;
  readonly count: number;
  readonly everyMs: number;
  readonly seed: number;
}

/** Keeps what is drawn here apart from what is drawn from the same seed elsewhere. */
const OF_NETWORK = 0x6e65_7477;

/** A link that is to be found silent has to be silent for longer than that; all others never are. */
const GENEROUS_MS = 30_000;

/** A whole machine's memory takes a minute to compress. */
const MOST_COMPRESSED_BYTES: number = 256 * MIB;

/** A hop of the same options and faults, by TCP. */
export function overNetwork(hop: HopPlan, { memoryBytes }: GuestPlan): HopPlan {
  const random = new Random(hop.seed ^ OF_NETWORK);
  const { faults, options } = hop;
  const compression = random.pick(['off', 'off', 'auto', 'on'] as const);
  const network: NetworkPlan = {
    streams: random.whole(1, 4),
    compression: memoryBytes > MOST_COMPRESSED_BYTES ? 'off' : compression,
    tls: random.chance(0.25),
    silenceMs: faults.silences === undefined ? GENEROUS_MS : random.whole(200, 500),
    retry: { firstMs: random.wholeByScale(1, 20), mostMs: random.wholeByScale(20, 100) },
  };
  return { ...hop, options: { ...options, ...networkOptions(random, hop, network) }, network };
}

function networkOptions(
  random: Random,
  { faults, options }: HopPlan,
  { compression }: NetworkPlan,
): Partial<MigrationOptions> {
  const gaveUp = faults.cuts?.some(({ refuseMs }) => refuseMs === Number.POSITIVE_INFINITY) === true;
  const throttleMax = random.whole(5, 95) / 100;
  const { bytesPerSecond = Number.POSITIVE_INFINITY } = options;
  return {
    recoveryTimeoutMs: gaveUp ? random.wholeByScale(20, 300) : GENEROUS_MS,
    onStall: random.pick([
      'switch',
      'switch',
      'switch',
      'switch',
      'throttle',
      'throttle',
      'throttle',
      'cancel',
    ]),
    throttleInitial: Math.min(throttleMax, random.whole(1, 50) / 100),
    throttleIncrement: random.whole(1, 50) / 100,
    throttleMax,
    // Compressed whatever it takes, a round may take seconds.
    ...(compression === 'on' ? { maxRounds: Math.min(4, options.maxRounds ?? 4) } : {}),
    ...(random.chance(0.2)
      ? {
          switchoverBytesPerSecond: random.chance(0.3)
            ? Number.POSITIVE_INFINITY
            : Math.min(bytesPerSecond, 1e9) * random.pick([0.5, 1, 4]),
        }
      : {}),
  };
}

/** Where on its way a migration is: at an event of either end, after a time, or when so many bytes have passed. */
function linkMoment(random: Random): LinkMoment {
  const of = random.next();
  if (of < 0.4) {
    // Frames are of 32 bytes and of some MiB: any place in either.
    return { afterBytes: random.wholeByScale(1, 64 * MIB) };
  }
  if (of < 0.6) {
    // Before what it says of it has arrived.
    const types = ['round', 'restored', 'ready', 'started', 'started', 'not-started'] as const;
    return { atDestination: random.pick(types), nth: random.pick([1, 1, 1, 2]) };
  }
  if (of < 0.7) {
    return { afterMs: random.wholeByScale(1, 120) - 1 };
  }
  return {
    event: random.pick([
      'started',
      'round',
      'session-issued',
      'session-done',
      'round-end',
      'stopping',
      'stopped',
      'ready',
      'ready',
      'committed',
      'committed',
      'restored',
    ]),
    nth: random.pick([1, 1, 1, 2, 3]),
  };
}

/** Once to four times. */
export function planCuts(random: Random): LinkCut[] {
  const cuts = Array.from({ length: random.pick([1, 1, 2, 3, 4]) }, () => ({
    at: linkMoment(random),
    withReset: random.chance(0.5),
    refuseMs: random.chance(0.5) ? 0 : random.wholeByScale(1, 150),
  }));
  return random.chance(0.15) ? [{ ...cuts[0]!, refuseMs: Number.POSITIVE_INFINITY }] : cuts;
}

/** Shorter and longer than what a link may be silent for. */
export function planSilences(random: Random): LinkSilence[] {
  return Array.from({ length: random.pick([1, 1, 2]) }, () => ({
    at: linkMoment(random),
    ms: random.wholeByScale(20, 1500),
    kind: random.pick(SILENCES),
    directions: random.chance(0.5) ? DIRECTIONS : [random.pick(DIRECTIONS)],
  }));
}

export function planRestarts(random: Random): LinkMoment[] {
  return Array.from({ length: random.pick([1, 1, 2]) }, () => linkMoment(random));
}

export function planHostilePeers(random: Random): HostilePeersPlan {
  return {
    at: linkMoment(random),
    count: random.whole(3, 24),
    everyMs: random.wholeByScale(1, 20) - 1,
    seed: random.seed(),
  };
}
