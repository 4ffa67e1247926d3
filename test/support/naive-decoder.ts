import { FRAME_HEADER_BYTES } from '../../src/wire/channel.js';
import { type ConnectionKind, type FrameHeader, FrameType } from '../../src/wire/frames.js';

/** A frame as it was handed on, with a copy of its payload. */
export interface DecodedFrame {
  readonly header: FrameHeader;
  readonly payload: Uint8Array;
}

export interface NaiveOptions {
  readonly keptPayloadBytes: number;
  /** Whether the payload of a type has a place of its own, and so may be as long as its type allows. */
  readonly hasPlace: (type: number) => boolean;
  readonly connection?: ConnectionKind | undefined;
  readonly epoch?: number | undefined;
  readonly longestRunPages: number;
  readonly longestDeviceStateBytes: number;
  readonly features: number;
}

export interface NaiveResult {
  readonly frames: DecodedFrame[];
  /** Something was refused. */
  readonly isRefused: boolean;
}

type Rule = {
  /** Where it may come, and whether as the first frame (only), or after it. */
  readonly on: string;
  readonly at: 'first' | 'later' | 'any';
  readonly run?: true;
  readonly value?: (value: number) => boolean;
  readonly length?: (length: number, pageCount: number) => boolean;
};

const anyValue = (): boolean => true;
const positive = (value: number): boolean => value >= 1;
const text = (length: number): boolean => length <= 4096;

/** The tables of docs/WIRE-FORMAT.md. */
const RULES: Readonly<Record<number, Rule>> = {
  [FrameType.hello]: { on: 'accepted control-from-source', at: 'first', length: (n) => n <= 32_768 },
  [FrameType.deviceState]: { on: 'control-from-source', at: 'later', length: () => true },
  [FrameType.finish]: { on: 'control-from-source', at: 'later', value: anyValue },
  [FrameType.commit]: { on: 'control-from-source', at: 'later' },
  [FrameType.withdraw]: { on: 'control-from-source', at: 'later' },
  [FrameType.cancel]: { on: 'control-from-source', at: 'later' },
  [FrameType.ping]: { on: 'control-from-source', at: 'later', value: anyValue },
  [FrameType.welcome]: {
    on: 'control-from-destination',
    at: 'first',
    length: (n) => n >= 48 && n <= 48 + 16 * 16,
  },
  [FrameType.applied]: { on: 'control-from-destination', at: 'later', value: positive },
  [FrameType.ready]: {
    on: 'control-from-destination',
    at: 'later',
    length: (n) => n >= 32 && n <= 512 && n % 32 === 0,
  },
  [FrameType.started]: { on: 'control-from-destination', at: 'later', length: (n) => n === 8 },
  [FrameType.notStarted]: { on: 'control-from-destination', at: 'later', length: text },
  [FrameType.error]: {
    on: 'control-from-destination stream-from-destination',
    at: 'any',
    value: anyValue,
    length: text,
  },
  [FrameType.pong]: { on: 'control-from-destination', at: 'any', value: anyValue },
  [FrameType.unknownMigration]: { on: 'control-from-destination', at: 'later' },
  [FrameType.go]: { on: 'stream-from-destination', at: 'first' },
  [FrameType.join]: {
    on: 'accepted stream-from-source',
    at: 'first',
    value: (index) => index < 16,
    length: (n) => n === 16,
  },
  [FrameType.pages]: {
    on: 'stream-from-source',
    at: 'later',
    run: true,
    length: (n, pages) => n === pages * 4096,
  },
  [FrameType.compressedPages]: {
    on: 'stream-from-source',
    at: 'later',
    run: true,
    value: (algorithm) => algorithm === 1,
    length: (n, pages) => n > 0 && n < pages * 4096,
  },
  [FrameType.zero]: { on: 'stream-from-source', at: 'later', run: true },
  [FrameType.fill]: { on: 'stream-from-source', at: 'later', run: true, value: anyValue },
  [FrameType.roundEnd]: { on: 'stream-from-source', at: 'later', value: positive },
};

/** The naive twin of the decoder: all that came, in one piece, is parsed from its first byte on. */
export function decodeNaively(bytes: Uint8Array, options: NaiveOptions): NaiveResult {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const frames: DecodedFrame[] = [];
  let epoch = options.epoch;
  let number = 0;
  /** Nothing has come but pongs. */
  let isFirst = true;
  let at = 0;
  while (at + FRAME_HEADER_BYTES <= bytes.length) {
    const header: FrameHeader = {
      type: view.getUint16(at + 2, true),
      sequence: view.getUint32(at + 4, true),
      epoch: view.getUint32(at + 8, true),
      pfn: view.getUint32(at + 12, true),
      pageCount: view.getUint32(at + 16, true),
      value: view.getUint32(at + 20, true),
      payloadLength: view.getUint32(at + 24, true),
    };
    const isRefusal = isFirst && header.type === FrameType.error;
    if (!isRefusal) {
      epoch ??= header.epoch;
    }
    const isRight =
      bytes[at] === 0x56 &&
      bytes[at + 1] === 0x4c &&
      view.getUint32(at + 28, true) === 0 &&
      header.sequence === number &&
      (isRefusal || (header.epoch > 0 && header.epoch === epoch)) &&
      allows(header, isFirst, options);
    if (!isRight) {
      return { frames, isRefused: true };
    }
    const end = at + FRAME_HEADER_BYTES + header.payloadLength;
    if (end > bytes.length) {
      break;
    }
    if (header.type < 0x8000) {
      frames.push({ header, payload: bytes.slice(at + FRAME_HEADER_BYTES, end) });
    }
    number += 1;
    isFirst &&= header.type === FrameType.pong;
    at = end;
  }
  return { frames, isRefused: false };
}

function allows(header: FrameHeader, isFirst: boolean, options: NaiveOptions): boolean {
  const { type, pfn, pageCount, value, payloadLength } = header;
  if (type >= 0x8000) {
    return payloadLength <= 1024 * 1024 && !(isFirst && options.connection !== undefined);
  }
  const rule = RULES[type];
  if (rule === undefined) {
    return false;
  }
  const { on, at, run, value: valueRule, length } = rule;
  if (options.connection !== undefined) {
    const isInPlace = at === 'any' || (at === 'first') === isFirst;
    if (!isInPlace || !on.split(' ').includes(options.connection)) {
      return false;
    }
  }
  const isRunRight =
    run === undefined
      ? pfn === 0 && pageCount === 0
      : pageCount >= 1 && pageCount <= options.longestRunPages && pfn + pageCount <= 2 ** 32;
  return (
    isRunRight &&
    (type !== FrameType.compressedPages || options.features % 2 === 1) &&
    (type !== FrameType.deviceState || payloadLength <= options.longestDeviceStateBytes) &&
    (valueRule === undefined ? value === 0 : valueRule(value)) &&
    (length === undefined ? payloadLength === 0 : length(payloadLength, pageCount)) &&
    (options.hasPlace(type) || payloadLength <= options.keptPayloadBytes)
  );
}
