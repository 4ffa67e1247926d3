import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import type { CaptureFiles } from '../../../src/guest/capture.js';
import { KPF_BUDDY, KPF_NOPAGE } from '../../../src/spec/kpageflags.js';

export const CAPTURES = [
  'idle-8g',
  'cache-8g',
  'build-2g',
  'fragmented-2g',
  'fragmented-settled-2g',
] as const;

/** The part of a meta.json that tests look at. */
export interface CaptureMeta {
  readonly name: string;
  readonly memoryBytes: number;
  readonly pageSize: number;
  readonly pfns: number;
  readonly backing: readonly { readonly startGpa: number; readonly endGpa: number }[];
  readonly counts: {
    readonly pages: number;
    readonly free: number;
    readonly zero: number;
    readonly freeByOrder: readonly number[];
    readonly freeRuns: number;
    readonly longestFreeRunPages: number;
    readonly zeroAndFree: number;
  };
}

/** A capture of bench/guests, unpacked. */
export function readCapture(name: string): CaptureFiles & { readonly meta: CaptureMeta } {
  const file = (path: string): Buffer =>
    readFileSync(fileURLToPath(new URL(`../../../bench/guests/${name}/${path}`, import.meta.url)));
  return {
    meta: JSON.parse(file('meta.json').toString('utf8')) as CaptureMeta,
    kpageflags: gunzipSync(file('kpageflags.bin.gz')),
    zero: gunzipSync(file('zero.bin.gz')),
  };
}

/** RAM of the made-up capture: 64 pages, a hole of 32, then 94 pages; its files go on for 66 pfns more. */
export const MADE_UP_PFNS = 256;
const MADE_UP_RAM: readonly (readonly [first: number, end: number])[] = [
  [0, 64],
  [96, 190],
];
export const MADE_UP_FREE: readonly number[] = [8, 9, 10, 11, 63, 96, 97, 150, 189];
export const MADE_UP_ZERO: readonly number[] = [9, 10, 20, 96, 188];

/** A capture that fits into a test, well-formed. Its parts are new with every call, for the caller to spoil. */
export function madeUpCapture(): {
  meta: Record<string, unknown> & { counts: { pages: number; free: number; zero: number } };
  kpageflags: Uint8Array;
  zero: Uint8Array;
} {
  const kpageflags = new Uint8Array(MADE_UP_PFNS * 8);
  const words = new Uint32Array(kpageflags.buffer);
  const zero = new Uint8Array(MADE_UP_PFNS / 8);
  for (let pfn = 0; pfn < MADE_UP_PFNS; pfn += 1) {
    const isRam = MADE_UP_RAM.some(([first, end]) => pfn >= first && pfn < end);
    words[pfn * 2] = isRam ? (MADE_UP_FREE.includes(pfn) ? 1 << KPF_BUDDY : 0x68) : 1 << KPF_NOPAGE;
  }
  for (const pfn of MADE_UP_ZERO) {
    zero[pfn >> 3] = zero[pfn >> 3]! | (1 << (pfn & 7));
  }
  return {
    meta: {
      name: 'made-up',
      memoryBytes: 158 * 4096,
      pageSize: 4096,
      pfns: MADE_UP_PFNS,
      backing: MADE_UP_RAM.map(([first, end]) => ({ startGpa: first * 4096, endGpa: end * 4096 })),
      counts: { pages: 158, free: MADE_UP_FREE.length, zero: MADE_UP_ZERO.length },
    },
    kpageflags,
    zero,
  };
}
