import { isIPv4, isIPv6 } from 'node:net';
import { InvalidArgumentError } from 'commander';
import { GIB, KIB, MIB, PAGE_SIZE } from '../memory/page.js';
import type { Shard } from '../report/schema.js';
import { VIRTQ_MAX_SIZE } from '../spec/virtio-ring.js';

const SIZES: Record<string, number> = {
  kib: KIB,
  mib: MIB,
  gib: GIB,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  k: KIB,
  m: MIB,
  g: GIB,
};
const BITS: Record<string, number> = { kbit: 1e3, mbit: 1e6, gbit: 1e9 };

/** Splits "2GiB" into its number and its unit in lower case. */
function split(text: string): { value: number; unit: string } {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  return match === null
    ? { value: Number.NaN, unit: '' }
    : { value: Number(match[1]), unit: match[2]!.toLowerCase() };
}

/** "2GiB", "512MiB", "1000000": bytes. */
export function parseSize(text: string): number {
  const { value, unit } = split(text);
  const factor = unit === '' || unit === 'b' ? 1 : SIZES[unit];
  if (Number.isNaN(value) || factor === undefined) {
    throw new InvalidArgumentError('A size is a number with a unit, as in 2GiB or 512MiB.');
  }
  return Math.round(value * factor);
}

/** A size that is whole pages. */
export function parseMemory(text: string): number {
  const bytes = parseSize(text);
  if (bytes % PAGE_SIZE !== 0 || bytes < 8 * MIB) {
    throw new InvalidArgumentError('Memory is whole pages of 4 KiB, and at least 8MiB.');
  }
  return bytes;
}

/** "50%" or "50": a share of memory, 0 … 0.95. */
export function parsePercent(text: string): number {
  const value = Number(text.replace(/%$/, ''));
  if (!(value >= 0 && value <= 95) || /^%?$/.test(text.trim())) {
    throw new InvalidArgumentError('A share of memory from 0% to 95%.');
  }
  return value / 100;
}

/** The size of a split ring. */
export function parseRingSize(text: string): number {
  const size = Number(text);
  if (!Number.isInteger(size) || size < 2 || size > VIRTQ_MAX_SIZE || (size & (size - 1)) !== 0) {
    throw new InvalidArgumentError(`A power of two from 2 to ${VIRTQ_MAX_SIZE}.`);
  }
  return size;
}

const MOST_SHARDS = 10_000;

/** "2/4": the second of four. */
export function parseShard(text: string): Shard {
  const [index, count] = /^(\d+)\/(\d+)$/.exec(text.trim())?.slice(1).map(Number) ?? [];
  if (index === undefined || count === undefined || index < 1 || index > count || count > MOST_SHARDS) {
    throw new InvalidArgumentError(`One of how many, from 1: 1/4, 2/4, 3/4, 4/4; at most ${MOST_SHARDS}.`);
  }
  return { index, count };
}

/** "10gbit", "1gbit", "125MB/s", "unlimited": bytes a second. Bits count in powers of ten, as links do. */
export function parseRate(text: string): number {
  if (text === 'unlimited') {
    return Number.POSITIVE_INFINITY;
  }
  const { value, unit } = split(text.replace(/(\/s|ps)$/i, ''));
  const bits = BITS[unit];
  const factor = bits === undefined ? SIZES[unit] : bits / 8;
  if (Number.isNaN(value) || factor === undefined || value <= 0) {
    throw new InvalidArgumentError('A rate is "unlimited", or as in 10gbit, 500mbit, 125MB/s.');
  }
  return value * factor;
}

/** A rate, with how it was written: a link's name. */
export function parseLink(text: string): { name: string; bytesPerSecond: number } {
  return { name: text, bytesPerSecond: parseRate(text) };
}

/** A whole number within bounds. */
export function parseWhole(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || text.trim() === '' || value < least || value > most) {
      throw new InvalidArgumentError(`A whole number from ${least} to ${most}.`);
    }
    return value;
  };
}

/** "0xaa", "0": a byte, which is repeated, as Linux's is; "0x12345678": all 32 bits of `poison_val`. */
export function parsePoison(text: string): number {
  const value = Number(text);
  if (!/^(0x[0-9a-f]{1,8}|\d{1,10})$/i.test(text) || value > 0xffff_ffff) {
    throw new InvalidArgumentError('A byte or 32 bits, as in 0xaa, 0 or 0x12345678.');
  }
  return value > 0xff ? value : value * 0x0101_0101;
}

/** A number that is not negative. */
export function parseMs(text: string): number {
  const value = Number(text);
  if (!(value >= 0) || text.trim() === '' || value === Number.POSITIVE_INFINITY) {
    throw new InvalidArgumentError('A time in milliseconds, 0 or more.');
  }
  return value;
}

/** "20", "20s": seconds, in ms. */
export function parseSeconds(text: string): number {
  const { value, unit } = split(text);
  if (Number.isNaN(value) || (unit !== '' && unit !== 's')) {
    throw new InvalidArgumentError('A time in seconds, 0 or more.');
  }
  return value * 1000;
}

/** A factor above 0. */
export function parseFactor(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 1e6)) {
    throw new InvalidArgumentError('A factor above 0, as in 0.5 or 10.');
  }
  return value;
}

/** "a,b,c", each one of `choices`. */
export function parseList<T extends string>(choices: readonly T[]): (text: string) => T[] {
  return (text) => {
    const names = text.split(',').map((name) => name.trim());
    const wrong = names.find((name) => !choices.includes(name as T));
    if (wrong !== undefined) {
      throw new InvalidArgumentError(`"${wrong}" is none of ${choices.join(', ')}.`);
    }
    return [...new Set(names)] as T[];
  };
}

/** An address and a TCP port. An IPv6 address is without its brackets. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Where no host is said: this machine, and nobody else's. */
const LOOPBACK = '127.0.0.1';
const ENDPOINT_WORDS =
  'An endpoint is HOST:PORT, as in 127.0.0.1:7000, [::1]:7000, or :7000 for this machine only.';
const LONGEST_HOST = 253;

/** "127.0.0.1:7000", "db.example:7000", "[::1]:7000", ":7000" (loopback): where somebody listens. */
export function parseEndpoint(text: string): HostPort {
  return splitEndpoint(text, 1);
}

/** The same for whoever listens: port 0 is any that is free. */
export function parseListenEndpoint(text: string): HostPort {
  return splitEndpoint(text, 0);
}

/** As {@link parseEndpoint} takes it. */
export function formatEndpoint({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function splitEndpoint(text: string, leastPort: number): HostPort {
  const match = /^(?:\[(?<ipv6>[^\]]*)\]|(?<name>[^[\]]*)):(?<port>[^:]*)$/.exec(text.trim());
  const { ipv6, name, port = '' } = match?.groups ?? {};
  if (match === null || port === '') {
    throw new InvalidArgumentError(`There is no port in "${shortened(text)}". ${ENDPOINT_WORDS}`);
  }
  if (!/^\d{1,5}$/.test(port) || Number(port) < leastPort || Number(port) > 65_535) {
    throw new InvalidArgumentError(
      `"${shortened(port)}" is no port: a whole number from ${leastPort} to 65535${leastPort === 0 ? ', 0 for any that is free' : ''}.`,
    );
  }
  const host = ipv6 ?? (name === '' ? LOOPBACK : name!);
  if (ipv6 !== undefined ? !isIPv6(ipv6) : !isHostName(host)) {
    throw new InvalidArgumentError(
      ipv6 === undefined && host.includes(':')
        ? `An IPv6 address is put in brackets, as in [${shortened(host)}]:${port}.`
        : `"${shortened(host)}" is neither an address nor the name of a host. ${ENDPOINT_WORDS}`,
    );
  }
  return { host, port: Number(port) };
}

/** Whether it may be a name or an IPv4 address. What is all digits and dots is meant to be an address. */
function isHostName(host: string): boolean {
  return /^[\d.]+$/.test(host)
    ? isIPv4(host)
    : host.length <= LONGEST_HOST &&
        /^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?$/i.test(host);
}

/** Fit for a message. */
function shortened(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
