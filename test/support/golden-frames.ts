import { RamLayout } from '../../src/memory/ram-layout.js';
import { type ConnectionKind, type FrameFields, FrameType } from '../../src/wire/frames.js';
import {
  encodeCounts,
  encodeHello,
  encodeStarted,
  encodeText,
  encodeWelcome,
  type Hello,
  type Welcome,
} from '../../src/wire/hello.js';

/** Every type of frame as it is on the wire, written by hand from docs/WIRE-FORMAT.md: whatever changes here is a new version. */
export interface GoldenFrame {
  readonly name: string;
  readonly connection: ConnectionKind;
  readonly fields: FrameFields;
  /** What the encoders of src/wire make of it. */
  readonly payload: Uint8Array;
  /** The frame; spaces and line ends are for the reader. */
  readonly hex: string;
}

const GIB = 1024 ** 3;
const NOTHING = new Uint8Array(0);

/** The bytes of a dump. */
export function bytesOf(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/[0-9a-f]{2}/g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** Sixteen bytes that count up from `first`. */
export function sixteen(first: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: 16 }, (_, i) => first + i);
}

export const GOLDEN_HELLO: Hello = {
  requiredFeatures: 0,
  optionalFeatures: 1,
  streams: 2,
  resumes: false,
  committed: false,
  longestRunPages: 256,
  longestDeviceStateBytes: 4 * 1024 * 1024,
  migrationId: sixteen(0xa0),
  nonce: new Uint8Array(16),
  layout: new RamLayout([
    { startGpa: 0, endGpa: 2 * GIB },
    { startGpa: 4 * GIB, endGpa: 5 * GIB },
  ]),
  label: 'web-1',
  guest: '{}',
};

export const GOLDEN_WELCOME: Welcome = {
  features: 1,
  status: 'kept',
  longestRunPages: 128,
  longestDeviceStateBytes: 65_536,
  nonce: sixteen(0xc0),
  tickets: [sixteen(0x10), sixteen(0x20)],
};

export const GOLDEN_COUNTS = [
  { pages: 3, zeroPages: 2 ** 33, filledPages: 0, rounds: 4 },
  { pages: 1, zeroPages: 0, filledPages: 512, rounds: 4 },
];

/** 5 March 2024, 12:00 UTC and a half. */
export const GOLDEN_STARTED_AT = 1_709_640_000_000.5;

export const GOLDEN_FRAMES: readonly GoldenFrame[] = [
  {
    name: 'hello',
    connection: 'control-from-source',
    fields: { type: FrameType.hello, sequence: 0, epoch: 1 },
    payload: encodeHello(GOLDEN_HELLO),
    hex: `
      564c 0100  00000000  01000000  00000000
      00000000   00000000  77000000  00000000
      0100 0100  00000000  01000000  00100000
      02000000   00000000  00010000  00004000
      a0a1a2a3   a4a5a6a7  a8a9aaab  acadaeaf
      00000000   00000000  00000000  00000000
      02000000   05000000  02000000  00000000
      00000000   00000000  00000080  00000000
      00000000   01000000  00000040  01000000
      7765622d31 7b7d`,
  },
  {
    name: 'hello of a source that lost its link after the commit',
    connection: 'control-from-source',
    fields: { type: FrameType.hello, sequence: 0, epoch: 3 },
    payload: encodeHello({
      ...GOLDEN_HELLO,
      requiredFeatures: 1,
      optionalFeatures: 0,
      streams: 16,
      resumes: true,
      committed: true,
      nonce: sixteen(0xc0),
      layout: new RamLayout([{ startGpa: 0x1000, endGpa: 0x3000 }]),
      label: 'é',
      guest: '',
    }),
    hex: `
      564c 0100  00000000  03000000  00000000
      00000000   00000000  62000000  00000000
      0100 0100  01000000  00000000  00100000
      10000000   03000000  00010000  00004000
      a0a1a2a3   a4a5a6a7  a8a9aaab  acadaeaf
      c0c1c2c3   c4c5c6c7  c8c9cacb  cccdcecf
      01000000   02000000  00000000  00000000
      00100000   00000000  00300000  00000000
      c3a9`,
  },
  {
    name: 'deviceState',
    connection: 'control-from-source',
    fields: { type: FrameType.deviceState, sequence: 5, epoch: 1 },
    payload: Uint8Array.of(1, 2, 3),
    hex: `
      564c 0200  05000000  01000000  00000000
      00000000   00000000  03000000  00000000
      010203`,
  },
  {
    name: 'finish',
    connection: 'control-from-source',
    fields: { type: FrameType.finish, sequence: 6, epoch: 1, value: 4 },
    payload: NOTHING,
    hex: `
      564c 0300  06000000  01000000  00000000
      00000000   04000000  00000000  00000000`,
  },
  {
    name: 'commit',
    connection: 'control-from-source',
    fields: { type: FrameType.commit, sequence: 7, epoch: 1 },
    payload: NOTHING,
    hex: `
      564c 0400  07000000  01000000  00000000
      00000000   00000000  00000000  00000000`,
  },
  {
    name: 'withdraw',
    connection: 'control-from-source',
    fields: { type: FrameType.withdraw, sequence: 8, epoch: 2 },
    payload: NOTHING,
    hex: `
      564c 0500  08000000  02000000  00000000
      00000000   00000000  00000000  00000000`,
  },
  {
    name: 'cancel',
    connection: 'control-from-source',
    fields: { type: FrameType.cancel, sequence: 9, epoch: 2 },
    payload: NOTHING,
    hex: `
      564c 0600  09000000  02000000  00000000
      00000000   00000000  00000000  00000000`,
  },
  {
    name: 'ping',
    connection: 'control-from-source',
    fields: { type: FrameType.ping, sequence: 10, epoch: 2, value: 0xdead_beef },
    payload: NOTHING,
    hex: `
      564c 0700  0a000000  02000000  00000000
      00000000   efbeadde  00000000  00000000`,
  },
  {
    name: 'welcome',
    connection: 'control-from-destination',
    fields: { type: FrameType.welcome, sequence: 0, epoch: 2 },
    payload: encodeWelcome(GOLDEN_WELCOME),
    hex: `
      564c 1000  00000000  02000000  00000000
      00000000   00000000  50000000  00000000
      0100 0000  01000000  01000000  80000000
      00000100   02000000  c0c1c2c3  c4c5c6c7
      c8c9cacb   cccdcecf  00000000  00000000
      10111213   14151617  18191a1b  1c1d1e1f
      20212223   24252627  28292a2b  2c2d2e2f`,
  },
  {
    name: 'applied',
    connection: 'control-from-destination',
    fields: { type: FrameType.applied, sequence: 1, epoch: 2, value: 1 },
    payload: NOTHING,
    hex: `
      564c 1100  01000000  02000000  00000000
      00000000   01000000  00000000  00000000`,
  },
  {
    name: 'ready',
    connection: 'control-from-destination',
    fields: { type: FrameType.ready, sequence: 2, epoch: 2 },
    payload: encodeCounts(GOLDEN_COUNTS),
    hex: `
      564c 1200  02000000  02000000  00000000
      00000000   00000000  40000000  00000000
      0000000000000840  0000000000000042
      0000000000000000  04000000  00000000
      000000000000f03f  0000000000000000
      0000000000008040  04000000  00000000`,
  },
  {
    name: 'started',
    connection: 'control-from-destination',
    fields: { type: FrameType.started, sequence: 3, epoch: 2 },
    payload: encodeStarted(GOLDEN_STARTED_AT),
    hex: `
      564c 1300  03000000  02000000  00000000
      00000000   00000000  08000000  00000000
      000820c2 e7e07842`,
  },
  {
    name: 'notStarted',
    connection: 'control-from-destination',
    fields: { type: FrameType.notStarted, sequence: 4, epoch: 2 },
    payload: encodeText('no'),
    hex: `
      564c 1400  04000000  02000000  00000000
      00000000   00000000  02000000  00000000
      6e6f`,
  },
  {
    name: 'error',
    connection: 'control-from-destination',
    fields: { type: FrameType.error, sequence: 5, epoch: 2, value: 4 },
    payload: encodeText('full'),
    hex: `
      564c 1500  05000000  02000000  00000000
      00000000   04000000  04000000  00000000
      66756c6c`,
  },
  {
    name: 'pong',
    connection: 'control-from-destination',
    fields: { type: FrameType.pong, sequence: 6, epoch: 2, value: 0xdead_beef },
    payload: NOTHING,
    hex: `
      564c 1600  06000000  02000000  00000000
      00000000   efbeadde  00000000  00000000`,
  },
  {
    name: 'unknownMigration',
    connection: 'control-from-destination',
    fields: { type: FrameType.unknownMigration, sequence: 7, epoch: 2 },
    payload: NOTHING,
    hex: `
      564c 1700  07000000  02000000  00000000
      00000000   00000000  00000000  00000000`,
  },
  {
    name: 'go',
    connection: 'stream-from-destination',
    fields: { type: FrameType.go, sequence: 0, epoch: 1 },
    payload: NOTHING,
    hex: `
      564c 1800  00000000  01000000  00000000
      00000000   00000000  00000000  00000000`,
  },
  {
    name: 'join',
    connection: 'stream-from-source',
    fields: { type: FrameType.join, sequence: 0, epoch: 1, value: 1 },
    payload: sixteen(0x20),
    hex: `
      564c 2000  00000000  01000000  00000000
      00000000   01000000  10000000  00000000
      20212223   24252627  28292a2b  2c2d2e2f`,
  },
  {
    name: 'pages',
    connection: 'stream-from-source',
    fields: { type: FrameType.pages, sequence: 1, epoch: 1, pfn: 0x12345, pageCount: 2 },
    payload: new Uint8Array(8192).fill(0xa5),
    hex: `
      564c 2100  01000000  01000000  45230100
      02000000   00000000  00200000  00000000
      ${'a5'.repeat(8192)}`,
  },
  {
    name: 'compressedPages',
    connection: 'stream-from-source',
    fields: {
      type: FrameType.compressedPages,
      sequence: 2,
      epoch: 1,
      pfn: 0xffff_fffe,
      pageCount: 2,
      value: 1,
    },
    payload: Uint8Array.of(9, 8, 7),
    hex: `
      564c 2200  02000000  01000000  feffffff
      02000000   01000000  03000000  00000000
      090807`,
  },
  {
    name: 'zero',
    connection: 'stream-from-source',
    fields: { type: FrameType.zero, sequence: 3, epoch: 1, pfn: 0x10_0000, pageCount: 4096 },
    payload: NOTHING,
    hex: `
      564c 2300  03000000  01000000  00001000
      00100000   00000000  00000000  00000000`,
  },
  {
    name: 'fill',
    connection: 'stream-from-source',
    fields: { type: FrameType.fill, sequence: 4, epoch: 1, pfn: 512, pageCount: 1, value: 0xaaaa_aaaa },
    payload: NOTHING,
    hex: `
      564c 2400  04000000  01000000  00020000
      01000000   aaaaaaaa  00000000  00000000`,
  },
  {
    name: 'roundEnd',
    connection: 'stream-from-source',
    fields: { type: FrameType.roundEnd, sequence: 5, epoch: 1, value: 1 },
    payload: NOTHING,
    hex: `
      564c 2500  05000000  01000000  00000000
      00000000   01000000  00000000  00000000`,
  },
];
