import { LacunaError } from '../errors.js';
import { PAGE_SIZE } from '../memory/page.js';
import { FRAME_HEADER_BYTES } from './channel.js';

/**
 * Frames of the wire format, version 1 (docs/WIRE-FORMAT.md): a header of 32 bytes, little-endian, then its payload.
 *
 * ```
 *  0        2        4                 8                12
 *  ┌────────┬────────┬─────────────────┬─────────────────┐
 *  │ magic  │ type   │ sequence        │ epoch           │
 *  ├────────┴────────┼─────────────────┼─────────────────┼─────────────────┬─────────────────┐
 *  │ pfn             │ pageCount       │ value           │ payloadLength   │ 0               │
 *  └─────────────────┴─────────────────┴─────────────────┴─────────────────┴─────────────────┘
 *  12                16                20                24                28               32
 * ```
 */
const MAGIC = 0x4c56;
/** What every frame begins with. */
export const FIRST_BYTE: number = MAGIC & 0xff;

/** What frames are. */
export const FrameType = {
  // source → destination, control
  hello: 1,
  deviceState: 2,
  finish: 3,
  commit: 4,
  withdraw: 5,
  cancel: 6,
  ping: 7,
  // destination → source, control
  welcome: 16,
  applied: 17,
  ready: 18,
  started: 19,
  notStarted: 20,
  error: 21,
  pong: 22,
  unknownMigration: 23,
  // destination → source, stream
  go: 24,
  // source → destination, stream
  join: 32,
  pages: 33,
  compressedPages: 34,
  zero: 35,
  fill: 36,
  roundEnd: 37,
} as const;

/** A type from here on that isn't known is skipped by its length; below, it is refused. */
export const OPTIONAL_TYPES_FROM = 0x8000;

/** What may be left out or added without a new version: bits of `features`. */
export const Feature = { compressedRuns: 1 } as const;

/** How a run of type *compressedPages* is compressed: its `value`. */
export const Compression = { deflateRaw: 1 } as const;

/** Bounds that hold for whatever the two ends agree on. */
export const MOST_STREAMS = 16;
export const MOST_RUN_PAGES = 4096;
export const MOST_DEVICE_STATE_BYTES: number = 4 * 1024 * 1024;
export const MOST_HELLO_BYTES: number = 32 * 1024;
/** Words of an error, in UTF-8. */
export const MOST_TEXT_BYTES = 4096;
/** A frame of a type that isn't known, but may be skipped. */
const MOST_SKIPPED_BYTES = 1024 * 1024;

/** Payloads of one length. */
export const WELCOME_BYTES = 48;
export const ID_BYTES = 16;
export const STREAM_COUNTS_BYTES = 32;
export const STARTED_BYTES = 8;

/** Page frame numbers are below this. */
const PFN_LIMIT = 2 ** 32;

/** What every frame begins with. Mutable: one object serves all frames of a connection. */
export interface FrameHeader {
  /** One of {@link FrameType}, or an unknown one. */
  type: number;
  /** Of this connection and direction, from 0, modulo 2^32. */
  sequence: number;
  /** 1 for the first link of a migration, one more for each that follows. */
  epoch: number;
  pfn: number;
  pageCount: number;
  /** What it means depends on the type. */
  value: number;
  payloadLength: number;
}

/** A header of nothing. */
export function emptyHeader(): FrameHeader {
  return { type: 0, sequence: 0, epoch: 0, pfn: 0, pageCount: 0, value: 0, payloadLength: 0 };
}

/** Writes a header, {@link FRAME_HEADER_BYTES} from `at`. */
export function encodeHeader(into: DataView, at: number, header: Readonly<FrameHeader>): void {
  into.setUint16(at, MAGIC, true);
  into.setUint16(at + 2, header.type, true);
  into.setUint32(at + 4, header.sequence, true);
  into.setUint32(at + 8, header.epoch, true);
  into.setUint32(at + 12, header.pfn, true);
  into.setUint32(at + 16, header.pageCount, true);
  into.setUint32(at + 20, header.value, true);
  into.setUint32(at + 24, header.payloadLength, true);
  into.setUint32(at + 28, 0, true);
}

/** Reads a header into `out`. Throws PROTOCOL_VIOLATION if that isn't one; what its fields say is not looked at. */
export function decodeHeader(from: DataView, at: number, out: FrameHeader): void {
  const magic = from.getUint16(at, true);
  if (magic !== MAGIC) {
    refuse(`what came is not a frame of lacuna: it begins with ${hex(magic)}, not ${hex(MAGIC)}`);
  }
  const reserved = from.getUint32(at + 28, true);
  if (reserved !== 0) {
    refuse(`the reserved bytes of a frame hold ${hex(reserved)}, not 0`);
  }
  out.type = from.getUint16(at + 2, true);
  out.sequence = from.getUint32(at + 4, true);
  out.epoch = from.getUint32(at + 8, true);
  out.pfn = from.getUint32(at + 12, true);
  out.pageCount = from.getUint32(at + 16, true);
  out.value = from.getUint32(at + 20, true);
  out.payloadLength = from.getUint32(at + 24, true);
}

/** What a frame is made of; fields that its type has no use for may be left out. */
export type FrameFields = Pick<FrameHeader, 'type' | 'sequence' | 'epoch'> &
  Partial<Pick<FrameHeader, 'pfn' | 'pageCount' | 'value'>>;

/** A small frame in a buffer of its own, header and payload. Runs of pages go out without a copy, behind {@link encodeHeader}. */
export function encodeFrame(fields: Readonly<FrameFields>, payload?: Uint8Array): Uint8Array<ArrayBuffer> {
  const payloadLength = payload?.length ?? 0;
  const frame = new Uint8Array(FRAME_HEADER_BYTES + payloadLength);
  encodeHeader(new DataView(frame.buffer), 0, { ...emptyHeader(), ...fields, payloadLength });
  if (payload !== undefined) {
    frame.set(payload, FRAME_HEADER_BYTES);
  }
  return frame;
}

/** The connections of a migration, by what arrives on them. */
export type ConnectionKind =
  /** At the destination: an accepted connection of which nothing is known yet. */
  | 'accepted'
  | 'control-from-source'
  | 'control-from-destination'
  | 'stream-from-source'
  | 'stream-from-destination';

/** Which types may arrive where. */
export const FRAMES_OF: Readonly<Record<ConnectionKind, readonly number[]>> = {
  accepted: [FrameType.hello, FrameType.join],
  'control-from-source': [
    FrameType.hello,
    FrameType.deviceState,
    FrameType.finish,
    FrameType.commit,
    FrameType.withdraw,
    FrameType.cancel,
    FrameType.ping,
  ],
  'control-from-destination': [
    FrameType.welcome,
    FrameType.applied,
    FrameType.ready,
    FrameType.started,
    FrameType.notStarted,
    FrameType.error,
    FrameType.pong,
    FrameType.unknownMigration,
  ],
  'stream-from-source': [
    FrameType.join,
    FrameType.pages,
    FrameType.compressedPages,
    FrameType.zero,
    FrameType.fill,
    FrameType.roundEnd,
  ],
  'stream-from-destination': [FrameType.go, FrameType.error],
};

/**
 * Which types come first on a connection and never again. An *error* may be the first frame as well, and pongs may come
 * before it: it takes a destination a while to find memory for a guest, and its source wants to hear that it lives.
 */
const OPENING: readonly number[] = [FrameType.hello, FrameType.join, FrameType.welcome, FrameType.go];

const NAMES: readonly (string | undefined)[] = Object.entries(FrameType).reduce<string[]>(
  (names, [name, type]) => {
    names[type] = name;
    return names;
  },
  [],
);

/** A bit for each type, by connection: what {@link checkType} looks up for every frame. */
const MASKS: Readonly<Record<ConnectionKind, Uint8Array>> = {
  accepted: maskOf(FRAMES_OF.accepted),
  'control-from-source': maskOf(FRAMES_OF['control-from-source']),
  'control-from-destination': maskOf(FRAMES_OF['control-from-destination']),
  'stream-from-source': maskOf(FRAMES_OF['stream-from-source']),
  'stream-from-destination': maskOf(FRAMES_OF['stream-from-destination']),
};

function maskOf(types: readonly number[]): Uint8Array {
  const mask = new Uint8Array(NAMES.length);
  for (const type of types) {
    mask[type] = 1;
  }
  return mask;
}

/** Whether this is a type that may be skipped: unknown, and not one that has to be understood. */
export function isSkipped(type: number): boolean {
  return type >= OPTIONAL_TYPES_FROM;
}

/** Throws PROTOCOL_VIOLATION for a type that may not arrive there, or not as the first frame, or not after it. */
export function checkType(type: number, connection: ConnectionKind | undefined, isFirst: boolean): void {
  const name = NAMES[type];
  if (name === undefined && !isSkipped(type)) {
    refuse(`a frame of the unknown type ${type}`);
  }
  if (connection === undefined) {
    return;
  }
  if (isFirst) {
    const opens =
      MASKS[connection][type] === 1 &&
      (OPENING.includes(type) || type === FrameType.error || type === FrameType.pong);
    if (!opens) {
      refuse(`the first frame of a connection is ${frameName(type)}`);
    }
  } else if (name !== undefined && (MASKS[connection][type] !== 1 || OPENING.includes(type))) {
    refuse(`${frameName(type)} came out of place, ${connection.replaceAll('-', ' ')}`);
  }
}

/** What the two ends have agreed on, as far as a frame can be checked by it. */
export interface FrameLimits {
  readonly longestRunPages: number;
  readonly longestDeviceStateBytes: number;
  /** Bits of {@link Feature}. */
  readonly features: number;
}

/**
 * What can be said of a header without knowing what came before: its lengths, counts and addresses fit its type.
 * Throws PROTOCOL_VIOLATION.
 */
export function checkFrame(header: Readonly<FrameHeader>, limits: FrameLimits): void {
  const { type, pageCount, value, payloadLength } = header;
  switch (type) {
    case FrameType.pages:
      checkRun(header, limits);
      checkValue(header, value === 0);
      checkLength(header, payloadLength === pageCount * PAGE_SIZE);
      return;
    case FrameType.compressedPages:
      checkRun(header, limits);
      if ((limits.features & Feature.compressedRuns) === 0) {
        refuse('a compressed run, which was not agreed on');
      }
      checkValue(header, value === Compression.deflateRaw);
      checkLength(header, payloadLength > 0 && payloadLength < pageCount * PAGE_SIZE);
      return;
    case FrameType.zero:
      checkRun(header, limits);
      checkValue(header, value === 0);
      checkLength(header, payloadLength === 0);
      return;
    case FrameType.fill:
      checkRun(header, limits);
      checkLength(header, payloadLength === 0);
      return;
    default:
      if (!isSkipped(type)) {
        checkNoRun(header);
      }
      checkOther(header, limits);
  }
}

/** Types that are not about pages. */
function checkOther(header: Readonly<FrameHeader>, limits: FrameLimits): void {
  const { type, value, payloadLength } = header;
  switch (type) {
    case FrameType.hello:
      checkValue(header, value === 0);
      checkLength(header, payloadLength <= MOST_HELLO_BYTES);
      return;
    case FrameType.deviceState:
      checkValue(header, value === 0);
      checkLength(header, payloadLength <= limits.longestDeviceStateBytes);
      return;
    case FrameType.welcome:
      checkValue(header, value === 0);
      checkLength(
        header,
        payloadLength >= WELCOME_BYTES && payloadLength <= WELCOME_BYTES + MOST_STREAMS * ID_BYTES,
      );
      return;
    case FrameType.ready:
      checkValue(header, value === 0);
      checkLength(
        header,
        payloadLength % STREAM_COUNTS_BYTES === 0 &&
          payloadLength > 0 &&
          payloadLength <= MOST_STREAMS * STREAM_COUNTS_BYTES,
      );
      return;
    case FrameType.started:
      checkValue(header, value === 0);
      checkLength(header, payloadLength === STARTED_BYTES);
      return;
    case FrameType.notStarted:
      checkValue(header, value === 0);
      checkLength(header, payloadLength <= MOST_TEXT_BYTES);
      return;
    case FrameType.error:
      checkLength(header, payloadLength <= MOST_TEXT_BYTES);
      return;
    case FrameType.join:
      checkValue(header, value < MOST_STREAMS);
      checkLength(header, payloadLength === ID_BYTES);
      return;
    case FrameType.roundEnd:
    case FrameType.applied:
    case FrameType.finish:
      checkValue(header, value > 0 || type === FrameType.finish);
      checkLength(header, payloadLength === 0);
      return;
    case FrameType.ping:
    case FrameType.pong:
      checkLength(header, payloadLength === 0);
      return;
    case FrameType.commit:
    case FrameType.withdraw:
    case FrameType.cancel:
    case FrameType.unknownMigration:
    case FrameType.go:
      checkValue(header, value === 0);
      checkLength(header, payloadLength === 0);
      return;
    default:
      checkLength(header, payloadLength <= MOST_SKIPPED_BYTES);
  }
}

function checkRun(header: Readonly<FrameHeader>, limits: FrameLimits): void {
  const { type, pfn, pageCount } = header;
  if (pageCount === 0 || pageCount > limits.longestRunPages) {
    refuse(`${frameName(type)} of ${pageCount} pages: a run has 1 to ${limits.longestRunPages}`);
  }
  if (pfn + pageCount > PFN_LIMIT) {
    refuse(`${frameName(type)} from page ${pfn} reaches beyond the last page there can be`);
  }
}

function checkNoRun(header: Readonly<FrameHeader>): void {
  if (header.pfn !== 0 || header.pageCount !== 0) {
    refuse(`${frameName(header.type)} names ${header.pageCount} pages from ${header.pfn}`);
  }
}

function checkValue(header: Readonly<FrameHeader>, isRight: boolean): void {
  if (!isRight) {
    refuse(`${frameName(header.type)} with the value ${header.value}`);
  }
}

function checkLength(header: Readonly<FrameHeader>, isRight: boolean): void {
  if (!isRight) {
    const { type, pageCount, payloadLength } = header;
    const pages = pageCount > 0 ? ` for ${pageCount} pages` : '';
    refuse(`${frameName(type)} with ${payloadLength} bytes of payload${pages}`);
  }
}

/** A type in words. */
export function frameName(type: number): string {
  const name = NAMES[type];
  return name === undefined ? `a frame of type ${hex(type)}` : `a frame "${name}"`;
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(4, '0')}`;
}

function refuse(words: string): never {
  throw new LacunaError('PROTOCOL_VIOLATION', words);
}
