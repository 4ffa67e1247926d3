import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../src/errors.js';
import { FRAME_HEADER_BYTES } from '../../src/wire/channel.js';
import { type DecoderOptions, FrameDecoder } from '../../src/wire/decoder.js';
import { type ConnectionKind, encodeFrame, FRAMES_OF, FrameType } from '../../src/wire/frames.js';
import { Collector, FEEDS, type Feed, feedAll, hasPlace } from '../support/decoder-feeds.js';
import { effort } from '../support/long.js';
import { decodeNaively, type NaiveResult } from '../support/naive-decoder.js';

const TIME_LIMIT_MS = 700;
const LIMITS = { longestRunPages: 64, longestDeviceStateBytes: 300, features: 1 };
const KEPT_BYTES = 200;

/** A frame to be sent: `sequence` and `epoch` are those of the stream that it is put into. */
interface Planned {
  readonly type: number;
  readonly pfn?: number;
  readonly pageCount?: number;
  readonly value?: number;
  readonly payload?: Uint8Array;
}

const run = (mostPages: number) => ({
  pfn: fc.integer({ min: 0, max: 2 ** 32 - 64 }),
  pageCount: fc.integer({ min: 1, max: mostPages }),
});
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const bytes = (minLength: number, maxLength: number) => fc.uint8Array({ minLength, maxLength });

/** Frames of a stream that are right by themselves; contents that are short, so that every split can be tried. */
const shortFrame: fc.Arbitrary<Planned> = fc.oneof(
  fc.record({ type: fc.constant(FrameType.zero), ...run(64) }),
  fc.record({ type: fc.constant(FrameType.fill), ...run(64), value: u32 }),
  fc.record({ type: fc.constant(FrameType.roundEnd), value: fc.integer({ min: 1, max: 2 ** 32 - 1 }) }),
  fc.record({
    type: fc.constant(FrameType.compressedPages),
    ...run(64),
    value: fc.constant(1),
    payload: bytes(1, 90),
  }),
  fc.record({ type: fc.integer({ min: 0x8000, max: 0xffff }), value: u32, pfn: u32, payload: bytes(0, 90) }),
);

/** Pages are long. */
const pages: fc.Arbitrary<Planned> = fc
  .record({ pfn: u32, pageCount: fc.integer({ min: 1, max: 3 }), byte: fc.integer({ min: 0, max: 255 }) })
  .map(({ pfn, pageCount, byte }) => ({
    type: FrameType.pages,
    pfn: Math.min(pfn, 2 ** 32 - pageCount),
    pageCount,
    payload: Uint8Array.from({ length: pageCount * 4096 }, (_, i) => byte + (i >>> 5)),
  }));

/** What stays with the decoder. */
const control: fc.Arbitrary<Planned> = fc.oneof(
  fc.record({ type: fc.constant(FrameType.deviceState), payload: bytes(0, KEPT_BYTES) }),
  fc.record({ type: fc.constant(FrameType.ping), value: u32 }),
  fc.record({ type: fc.constantFrom(FrameType.commit, FrameType.withdraw, FrameType.cancel) }),
  fc.record({ type: fc.integer({ min: 0x8000, max: 0xffff }), payload: bytes(0, 90) }),
);

const JOIN: Planned = { type: FrameType.join, value: 1, payload: new Uint8Array(16).fill(7) };
const HELLO: Planned = { type: FrameType.hello, payload: new Uint8Array(100).fill(3) };

const OPENINGS: Readonly<Record<ConnectionKind, Planned>> = {
  accepted: HELLO,
  'control-from-source': HELLO,
  'control-from-destination': { type: FrameType.welcome, payload: new Uint8Array(48) },
  'stream-from-source': JOIN,
  'stream-from-destination': { type: FrameType.go },
};

interface Stream {
  readonly connection: ConnectionKind;
  readonly bytes: Uint8Array;
  /** Where each frame begins. */
  readonly begins: readonly number[];
}

function streamOf(connection: ConnectionKind, frames: readonly Planned[], epoch = 7): Stream {
  const encoded = frames.map(({ payload, ...fields }, sequence) =>
    encodeFrame({ ...fields, sequence, epoch }, payload),
  );
  const begins: number[] = [];
  let length = 0;
  for (const frame of encoded) {
    begins.push(length);
    length += frame.length;
  }
  const all = new Uint8Array(length);
  for (const [i, frame] of encoded.entries()) {
    all.set(frame, begins[i]);
  }
  return { connection, bytes: all, begins };
}

const shortStream = fc.oneof(
  fc.array(shortFrame, { maxLength: 5 }).map((frames) => streamOf('stream-from-source', [JOIN, ...frames])),
  fc.array(control, { maxLength: 4 }).map((frames) => streamOf('control-from-source', [HELLO, ...frames])),
);
const longStream = fc
  .array(fc.oneof(shortFrame, pages), { minLength: 1, maxLength: 30 })
  .map((frames) => streamOf('stream-from-source', [JOIN, ...frames]));

const stagingBytes = fc.oneof(
  fc.constant(FRAME_HEADER_BYTES),
  fc.integer({ min: FRAME_HEADER_BYTES, max: 300 }),
  fc.constant(64 * 1024),
);
const pauses = fc.oneof(fc.constant([]), fc.array(fc.nat(30), { maxLength: 12 }));

function naive({ bytes: all, connection }: Stream): NaiveResult {
  return decodeNaively(all, { ...LIMITS, keptPayloadBytes: KEPT_BYTES, hasPlace, connection });
}

/** Feeds a stream, and holds what came out of it against the naive twin. */
function compare(
  stream: Stream,
  expected: NaiveResult,
  splits: readonly number[],
  feed: Feed,
  staging: number,
  pausesAfter: readonly number[] = [],
): void {
  const options: DecoderOptions = {
    ...LIMITS,
    keptPayloadBytes: KEPT_BYTES,
    stagingBytes: staging,
    connection: stream.connection,
  };
  const collector = new Collector(pausesAfter);
  let isRefused = false;
  try {
    feedAll(stream.bytes, splits, feed, collector, options);
  } catch (thrown) {
    if (!isLacunaError(thrown, 'PROTOCOL_VIOLATION')) {
      throw thrown;
    }
    isRefused = true;
  }
  if (isRefused !== expected.isRefused || !collector.isGuarded) {
    throw new Error(
      `refused: ${isRefused}, and ${expected.isRefused} expected; guarded: ${collector.isGuarded}`,
    );
  }
  // `expect` takes as long as a whole stream.
  const { frames } = collector;
  const isEqual =
    frames.length === expected.frames.length &&
    frames.every(({ header, payload }, i) => {
      const twin = expected.frames[i]!;
      const isSameHeader = Object.entries(twin.header).every(
        ([name, value]) => header[name as keyof typeof header] === value,
      );
      return isSameHeader && Buffer.compare(payload, twin.payload) === 0;
    });
  if (!isEqual) {
    expect({ splits, feed, frames }).toEqual({ splits, feed, frames: expected.frames });
  }
}

function splitsOf(length: number): fc.Arbitrary<number[]> {
  return fc
    .oneof(
      fc.array(fc.nat(length), { maxLength: 20 }),
      // Pieces as of a link with a small MTU.
      fc
        .integer({ min: 1, max: 1500 })
        .map((step) => Array.from({ length: Math.floor(length / step) }, (_, i) => (i + 1) * step)),
    )
    .map((splits) => splits.toSorted((a, b) => a - b));
}

const withSplits = (streams: fc.Arbitrary<Stream>) =>
  streams.chain((stream) =>
    fc.record({ stream: fc.constant(stream), splits: splitsOf(stream.bytes.length) }),
  );

describe('a stream that is right', () => {
  it('is taken apart alike at every split in two, by every way of feeding it', () => {
    fc.assert(
      fc.property(shortStream, stagingBytes, pauses, (stream, staging, pausesAfter) => {
        const expected = naive(stream);
        expect(expected.isRefused).toBe(false);
        for (let split = 0; split <= stream.bytes.length; split += 1) {
          for (const feed of FEEDS) {
            compare(stream, expected, [split], feed, staging, pausesAfter);
          }
        }
      }),
      effort(100, TIME_LIMIT_MS),
    );
  });

  it('is taken apart alike at every split in three, and byte by byte', () => {
    const two = streamOf('stream-from-source', [
      JOIN,
      {
        type: FrameType.compressedPages,
        pfn: 5,
        pageCount: 2,
        value: 1,
        payload: new Uint8Array(37).fill(1),
      },
      { type: FrameType.roundEnd, value: 1 },
    ]);
    const expected = naive(two);
    const { length } = two.bytes;
    for (const feed of FEEDS) {
      for (let first = 0; first <= length; first += 1) {
        for (let second = first; second <= length; second += 1) {
          compare(two, expected, [first, second], feed, FRAME_HEADER_BYTES);
        }
      }
      compare(
        two,
        expected,
        Array.from({ length }, (_, i) => i),
        feed,
        48,
        [0, 1, 2],
      );
    }
  });

  it('is taken apart alike at any splits, with pages in it', () => {
    fc.assert(
      fc.property(
        withSplits(longStream),
        stagingBytes,
        pauses,
        fc.constantFrom(...FEEDS),
        ({ stream, splits }, staging, pausesAfter, feed) => {
          const expected = naive(stream);
          expect(expected.isRefused).toBe(false);
          compare(stream, expected, splits, feed, staging, pausesAfter);
        },
      ),
      effort(2000, TIME_LIMIT_MS),
    );
  });

  it('is cut off anywhere without a frame too many', () => {
    fc.assert(
      fc.property(shortStream, stagingBytes, fc.constantFrom(...FEEDS), (stream, staging, feed) => {
        for (let end = 0; end < stream.bytes.length; end += 1) {
          const cut = { ...stream, bytes: stream.bytes.subarray(0, end) };
          compare(cut, naive(cut), [], feed, staging);
        }
      }),
      effort(100, TIME_LIMIT_MS),
    );
  });
});

/** Fields of a header: offset and size. */
const FIELDS: readonly (readonly [number, 1 | 2 | 4])[] = [
  [0, 2],
  [2, 2],
  [4, 4],
  [8, 4],
  [12, 4],
  [16, 4],
  [20, 4],
  [24, 4],
  [28, 4],
];
const TYPES = Object.values(FrameType);
const nasty = fc.oneof(
  fc.constantFrom(0, 1, 2, 31, 63, 64, 65, 4095, 4096, 4097, 2 ** 20, 2 ** 20 + 1, 2 ** 31, 2 ** 32 - 1),
  fc.constantFrom(KEPT_BYTES, KEPT_BYTES + 1, 299, 300, 301, 2 ** 32 - 64, 2 ** 32 - 4096, 0x8000, 0x7fff),
  fc.constantFrom(...TYPES),
  u32,
);

interface Mutation {
  readonly frame: number;
  readonly kind: 'field' | 'byte' | 'swap' | 'drop' | 'repeat';
  readonly field: number;
  readonly value: number;
}

const mutation: fc.Arbitrary<Mutation> = fc.record({
  frame: fc.nat(40),
  kind: fc.constantFrom('field', 'field', 'field', 'byte', 'swap', 'drop', 'repeat'),
  field: fc.nat(FIELDS.length - 1),
  value: nasty,
});

/** A stream with one thing wrong, if it is wrong. */
function mutate(stream: Stream, { frame, kind, field, value }: Mutation): Stream {
  const { begins } = stream;
  const which = frame % begins.length;
  const pieces = begins.map((begin, i) => stream.bytes.slice(begin, begins[i + 1]));
  const piece = pieces[which]!;
  const [offset, size] = FIELDS[field]!;
  const view = new DataView(piece.buffer);
  switch (kind) {
    case 'field':
      if (size === 4) {
        view.setUint32(offset, value, true);
      } else {
        view.setUint16(offset, value, true);
      }
      break;
    case 'byte':
      piece[value % piece.length] = frame;
      break;
    case 'swap':
      pieces[which] = pieces[(which + 1) % pieces.length]!;
      pieces[(which + 1) % pieces.length] = piece;
      break;
    case 'drop':
      pieces.splice(which, 1);
      break;
    case 'repeat':
      pieces.splice(which, 0, piece);
      break;
  }
  return { connection: stream.connection, bytes: Uint8Array.from(Buffer.concat(pieces)), begins };
}

/** One frame of any type, with any fields, as the second of its connection: mostly nearly right. */
const anyFrame = fc.record({
  type: fc.oneof(fc.constantFrom(...TYPES), fc.integer({ min: 0, max: 0xffff })),
  pfn: fc.oneof(fc.constant(0), nasty),
  pageCount: fc.oneof(fc.constantFrom(0, 1), nasty),
  value: fc.oneof(fc.constantFrom(0, 1), nasty),
  length: fc.oneof(fc.constantFrom(0, 8, 16, 32, 80, 4096), nasty),
  connection: fc.constantFrom<ConnectionKind[]>(...(Object.keys(FRAMES_OF) as ConnectionKind[])),
  isFirst: fc.boolean(),
});

describe('a hostile stream', () => {
  it('is refused or parsed as by the naive twin, with one thing mutated', () => {
    fc.assert(
      fc.property(
        withSplits(fc.oneof(shortStream, longStream)),
        mutation,
        stagingBytes,
        pauses,
        fc.constantFrom(...FEEDS),
        ({ stream, splits }, change, staging, pausesAfter, feed) => {
          const wrong = mutate(stream, change);
          const within = splits.filter((split) => split <= wrong.bytes.length);
          compare(wrong, naive(wrong), within, feed, staging, pausesAfter);
        },
      ),
      effort(20_000, 2 * TIME_LIMIT_MS),
    );
  });

  it('may have any header anywhere', () => {
    fc.assert(
      fc.property(anyFrame, stagingBytes, ({ length, connection, isFirst, ...fields }, staging) => {
        const header = encodeFrame({ ...fields, sequence: isFirst ? 0 : 1, epoch: 7 });
        new DataView(header.buffer).setUint32(24, length, true);
        const payload = new Uint8Array(Math.min(length, 5000));
        const before = isFirst ? new Uint8Array(0) : streamOf(connection, [OPENINGS[connection]]).bytes;
        const all = Uint8Array.from(Buffer.concat([before, header, payload]));
        const stream = { connection, bytes: all, begins: [] };
        compare(stream, naive(stream), [], 'target', staging);
      }),
      effort(50_000, TIME_LIMIT_MS),
    );
  });

  it('may be any bytes at all', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 400 }),
        fc.boolean(),
        fc.constantFrom<ConnectionKind[]>(...(Object.keys(FRAMES_OF) as ConnectionKind[])),
        fc.constantFrom(...FEEDS),
        (noise, hasMagic, connection, feed) => {
          if (hasMagic && noise.length > 1) {
            noise.set([0x56, 0x4c]);
          }
          const stream = { connection, bytes: noise, begins: [] };
          compare(stream, naive(stream), [], feed, 64);
        },
      ),
      effort(10_000, TIME_LIMIT_MS),
    );
  });

  it('makes the decoder ask for no more memory than its bounds', () => {
    const arena = new Uint8Array(64 * 4096);
    const handler = {
      header: ({ type, payloadLength }: { type: number; payloadLength: number }) =>
        hasPlace(type) ? arena.subarray(0, payloadLength) : undefined,
      frame: () => undefined,
    };
    let askedMost = 0;
    fc.assert(
      fc.property(fc.oneof(shortStream, longStream), mutation, (stream, change) => {
        const { bytes: all, connection } = mutate(stream, change);
        const stagingBytes = 48;
        const asked = countBytesAskedFor(() => {
          try {
            const options = { ...LIMITS, keptPayloadBytes: KEPT_BYTES, stagingBytes, connection };
            const decoder = new FrameDecoder(handler, options);
            for (let at = 0; at < all.length; ) {
              const target = decoder.target();
              const count = Math.min(target.length, all.length - at);
              target.set(all.subarray(at, at + count));
              decoder.advance(count);
              at += count;
            }
          } catch (thrown) {
            if (!isLacunaError(thrown, 'PROTOCOL_VIOLATION')) {
              throw thrown;
            }
          }
        });
        askedMost = Math.max(askedMost, asked);
        expect(asked).toBeLessThanOrEqual(stagingBytes + KEPT_BYTES);
      }),
      effort(3000, 2000), // for the bound to be reached, most of it
    );
    // Some were worth a buffer for kept payloads, or nothing was counted.
    expect(askedMost).toBe(48 + KEPT_BYTES);
  });
});

/** Bytes of all `Uint8Array`s with memory of their own that are made meanwhile. */
function countBytesAskedFor(work: () => void): number {
  const real = globalThis.Uint8Array;
  let asked = 0;
  globalThis.Uint8Array = new Proxy(real, {
    construct(target, args) {
      const made = Reflect.construct(target, args) as Uint8Array;
      asked += args[0] instanceof ArrayBuffer ? 0 : made.length;
      return made;
    },
  });
  try {
    work();
  } finally {
    globalThis.Uint8Array = real;
  }
  return asked;
}
