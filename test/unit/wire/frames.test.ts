import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../../src/errors.js';
import { FRAME_HEADER_BYTES } from '../../../src/wire/channel.js';
import { FrameDecoder } from '../../../src/wire/decoder.js';
import {
  type ConnectionKind,
  checkFrame,
  checkType,
  decodeHeader,
  emptyHeader,
  encodeFrame,
  encodeHeader,
  FRAMES_OF,
  type FrameHeader,
  FrameType,
} from '../../../src/wire/frames.js';
import { bytesOf, GOLDEN_FRAMES } from '../../support/golden-frames.js';

const LIMITS = { longestRunPages: 256, longestDeviceStateBytes: 1000, features: 1 };

function violation(work: () => void, words: RegExp): void {
  expect(work).toThrow(words);
  try {
    work();
  } catch (thrown) {
    expect(isLacunaError(thrown, 'PROTOCOL_VIOLATION')).toBe(true);
  }
}

describe('golden frames', () => {
  it('has one of every type at the least', () => {
    const types = new Set(GOLDEN_FRAMES.map(({ fields }) => fields.type));
    expect([...types].toSorted((a, b) => a - b)).toEqual(Object.values(FrameType).toSorted((a, b) => a - b));
  });

  it.each(GOLDEN_FRAMES)('$name is encoded as it is written down', ({ fields, payload, hex }) => {
    expect(Buffer.from(encodeFrame(fields, payload)).toString('hex')).toBe(
      Buffer.from(bytesOf(hex)).toString('hex'),
    );
  });

  it.each(GOLDEN_FRAMES)('$name is decoded as it is written down', (golden) => {
    const { fields, payload, hex, connection } = golden;
    const frames: [FrameHeader, Uint8Array][] = [];
    const decoder = new FrameDecoder(
      { header: () => undefined, frame: (header, bytes) => frames.push([{ ...header }, bytes.slice()]) },
      { keptPayloadBytes: 8192, connection, firstSequence: fields.sequence, features: 1 },
    );
    decoder.push(bytesOf(hex));
    expect(frames).toEqual([[{ ...emptyHeader(), ...fields, payloadLength: payload.length }, payload]]);
  });
});

describe('a header', () => {
  const header: FrameHeader = {
    type: FrameType.pages,
    sequence: 2 ** 32 - 1,
    epoch: 2 ** 31,
    pfn: 2 ** 32 - 2,
    pageCount: 1,
    value: 0x8000_0001,
    payloadLength: 2 ** 32 - 1,
  };

  it('is read as it was written, at an odd place and among other bytes', () => {
    const bytes = new Uint8Array(FRAME_HEADER_BYTES + 7).fill(0xee);
    const view = new DataView(bytes.buffer);
    encodeHeader(view, 3, header);
    const out = emptyHeader();
    decodeHeader(view, 3, out);
    expect(out).toEqual(header);
    expect([...bytes.subarray(0, 3), ...bytes.subarray(FRAME_HEADER_BYTES + 3)]).toEqual(Array(7).fill(0xee));
  });

  it('is refused without the magic, and with something in the reserved bytes', () => {
    const view = new DataView(new ArrayBuffer(FRAME_HEADER_BYTES));
    encodeHeader(view, 0, header);
    view.setUint8(31, 1);
    violation(() => decodeHeader(view, 0, emptyHeader()), /reserved bytes of a frame hold 0x1000000, not 0/);
    view.setUint16(0, 0x0316, true);
    violation(() => decodeHeader(view, 0, emptyHeader()), /begins with 0x0316, not 0x4c56/);
  });
});

describe('checkType', () => {
  const ROWS: [type: number, connection: ConnectionKind | undefined, isFirst: boolean, words: RegExp][] = [
    [0, undefined, false, /unknown type 0/],
    [25, undefined, true, /unknown type 25/],
    [0x7fff, 'stream-from-source', false, /unknown type 32767/],
    [FrameType.commit, 'stream-from-source', false, /"commit" came out of place, stream from source/],
    [FrameType.pages, 'control-from-source', false, /"pages" came out of place, control from source/],
    [FrameType.started, 'control-from-source', false, /"started" came out of place/],
    [FrameType.hello, 'control-from-source', false, /"hello" came out of place/],
    [FrameType.join, 'stream-from-source', false, /"join" came out of place/],
    [FrameType.commit, 'control-from-source', true, /the first frame of a connection is a frame "commit"/],
    [FrameType.pages, 'stream-from-source', true, /the first frame of a connection is a frame "pages"/],
    [FrameType.join, 'control-from-source', true, /the first frame of a connection is a frame "join"/],
    [FrameType.ready, 'control-from-destination', true, /the first frame of a connection is/],
    [0x8000, 'accepted', true, /the first frame of a connection is a frame of type 0x8000/],
    [FrameType.hello, 'accepted', false, /"hello" came out of place/],
    [FrameType.pong, 'stream-from-destination', true, /the first frame of a connection is a frame "pong"/],
  ];

  it.each(ROWS)('refuses type %i (%s, first: %s)', (type, connection, isFirst, words) => {
    violation(() => checkType(type, connection, isFirst), words);
  });

  it('lets every type through where it belongs, and what may be skipped everywhere', () => {
    const opening: readonly number[] = [FrameType.hello, FrameType.join, FrameType.welcome, FrameType.go];
    for (const connection of Object.keys(FRAMES_OF) as ConnectionKind[]) {
      for (const type of FRAMES_OF[connection]) {
        expect(() => checkType(type, connection, opening.includes(type))).not.toThrow();
      }
      expect(() => checkType(0xffff, connection, false)).not.toThrow();
    }
    expect(() => checkType(FrameType.error, 'control-from-destination', true)).not.toThrow();
    expect(() => checkType(FrameType.error, 'stream-from-destination', true)).not.toThrow();
    expect(() => checkType(FrameType.pong, 'control-from-destination', true)).not.toThrow();
  });

  it('has a place for every type', () => {
    const placed = new Set(Object.values(FRAMES_OF).flat());
    expect(placed).toEqual(new Set(Object.values(FrameType)));
  });
});

describe('checkFrame', () => {
  const of = (type: keyof typeof FrameType, fields: Partial<FrameHeader> = {}): FrameHeader => ({
    ...emptyHeader(),
    type: FrameType[type],
    ...fields,
  });

  it.each<[FrameHeader, RegExp]>([
    [of('pages'), /"pages" of 0 pages: a run has 1 to 256/],
    [of('pages', { pageCount: 257, payloadLength: 257 * 4096 }), /"pages" of 257 pages: a run has 1 to 256/],
    [of('pages', { pageCount: 2 ** 32 - 1 }), /of 4294967295 pages/],
    [of('pages', { pageCount: 2, payloadLength: 4096 }), /"pages" with 4096 bytes of payload for 2 pages/],
    [of('pages', { pageCount: 2, payloadLength: 8193 }), /with 8193 bytes/],
    [of('pages', { pageCount: 1, payloadLength: 4096, value: 1 }), /"pages" with the value 1/],
    [
      of('pages', { pfn: 2 ** 32 - 1, pageCount: 2, payloadLength: 8192 }),
      /from page 4294967295 reaches beyond the last page/,
    ],
    [of('compressedPages', { pageCount: 1, value: 2, payloadLength: 9 }), /with the value 2/],
    [of('compressedPages', { pageCount: 1, value: 1, payloadLength: 4096 }), /with 4096 bytes/],
    [of('compressedPages', { pageCount: 1, value: 1 }), /with 0 bytes/],
    [of('zero', { pageCount: 1, payloadLength: 4096 }), /"zero" with 4096 bytes/],
    [of('zero', { pageCount: 1, value: 5 }), /"zero" with the value 5/],
    [of('fill', { pageCount: 1, payloadLength: 1 }), /"fill" with 1 bytes/],
    [of('roundEnd'), /"roundEnd" with the value 0/],
    [of('roundEnd', { value: 1, pageCount: 1 }), /"roundEnd" names 1 pages from 0/],
    [of('commit', { pfn: 1 }), /"commit" names 0 pages from 1/],
    [of('commit', { payloadLength: 1 }), /"commit" with 1 bytes/],
    [of('commit', { value: 1 }), /"commit" with the value 1/],
    [of('deviceState', { payloadLength: 1001 }), /"deviceState" with 1001 bytes/],
    [of('ready', { payloadLength: 48 }), /"ready" with 48 bytes/],
    [of('ready', { payloadLength: 17 * 32 }), /"ready" with 544 bytes/],
    [of('join', { value: 16, payloadLength: 16 }), /"join" with the value 16/],
    [of('error', { payloadLength: 4097 }), /"error" with 4097 bytes/],
    [of('hello', { payloadLength: 2 ** 32 - 1 }), /"hello" with 4294967295 bytes/],
    [{ ...of('hello'), type: 0x8001, payloadLength: 2 ** 20 + 1 }, /type 0x8001 with 1048577 bytes/],
  ])('refuses %o', (header, words) => {
    violation(() => checkFrame(header, LIMITS), words);
  });

  it('takes compressed runs only where they were agreed on', () => {
    const header = of('compressedPages', { pageCount: 1, value: 1, payloadLength: 9 });
    expect(() => checkFrame(header, LIMITS)).not.toThrow();
    violation(() => checkFrame(header, { ...LIMITS, features: 0 }), /was not agreed on/);
  });

  it('takes runs up to the last page there can be', () => {
    const header = of('zero', { pfn: 2 ** 32 - 256, pageCount: 256 });
    expect(() => checkFrame(header, LIMITS)).not.toThrow();
  });
});
