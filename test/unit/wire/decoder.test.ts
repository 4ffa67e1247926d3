import { beforeEach, describe, expect, it } from 'vitest';
import { isLacunaError, LacunaError } from '../../../src/errors.js';
import { type DecoderOptions, FrameDecoder, type FrameHandler } from '../../../src/wire/decoder.js';
import { encodeFrame, type FrameFields, type FrameHeader, FrameType } from '../../../src/wire/frames.js';

const PAGE = 4096;

/** What was handed on, in words, and one place for the contents of runs. */
class Log implements FrameHandler {
  readonly lines: string[] = [];
  readonly memory: Uint8Array = new Uint8Array(4 * PAGE);
  onFrame: (header: Readonly<FrameHeader>) => unknown = () => undefined;
  onHeader: (header: Readonly<FrameHeader>) => unknown = () => undefined;

  header(header: Readonly<FrameHeader>): Uint8Array | undefined {
    this.onHeader(header);
    const { type, payloadLength } = header;
    return type === FrameType.pages ? this.memory.subarray(PAGE, PAGE + payloadLength) : undefined;
  }

  frame(header: Readonly<FrameHeader>, payload: Uint8Array): void {
    this.lines.push(`${header.type}:${header.value}:${payload.length}`);
    this.onFrame(header);
  }
}

let log: Log;
let sequence: number;

beforeEach(() => {
  log = new Log();
  sequence = 0;
});

function decoderOf(options: Partial<DecoderOptions> = {}): FrameDecoder {
  return new FrameDecoder(log, { keptPayloadBytes: 100, ...options });
}

function frame(
  fields: Omit<FrameFields, 'sequence' | 'epoch'>,
  payload?: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const bytes = encodeFrame({ epoch: 1, sequence, ...fields }, payload);
  sequence += 1;
  return bytes;
}

const ping = (value: number): Uint8Array<ArrayBuffer> => frame({ type: FrameType.ping, value });
const pages = (pageCount: number): Uint8Array<ArrayBuffer> =>
  frame({ type: FrameType.pages, pageCount }, new Uint8Array(pageCount * PAGE).fill(0xa5));

/** One read of a socket. */
function read(decoder: FrameDecoder, bytes: Uint8Array): void {
  decoder.target().set(bytes);
  decoder.advance(bytes.length);
}

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (thrown) {
    return thrown;
  }
  throw new Error('nothing was thrown');
}

describe('where bytes are read to', () => {
  it('is the staging buffer for what is small, and many frames are handed on of one read', () => {
    const decoder = decoderOf({ stagingBytes: 128 });
    expect(decoder.target()).toHaveLength(128);
    read(decoder, Buffer.concat([ping(1), ping(2), ping(3)]));
    expect(log.lines).toEqual(['7:1:0', '7:2:0', '7:3:0']);
    expect(decoder.target()).toHaveLength(128);
  });

  it('is the place of a long payload itself, and not a byte beyond it', () => {
    const decoder = decoderOf({ stagingBytes: 128 });
    const run = pages(2);
    read(decoder, run.subarray(0, 100));
    const target = decoder.target();
    expect(target.buffer).toBe(log.memory.buffer);
    expect(target.byteOffset).toBe(PAGE + 68);
    expect(target).toHaveLength(2 * PAGE - 68);
    target.set(run.subarray(100, 5000));
    decoder.advance(4900);
    expect(decoder.target().byteOffset).toBe(PAGE + 68 + 4900);
    read(decoder, run.subarray(5000));
    expect(log.lines).toEqual(['33:0:8192']);
    expect(log.memory.subarray(PAGE, 3 * PAGE).every((byte) => byte === 0xa5)).toBe(true);
    expect(log.memory.subarray(0, PAGE).every((byte) => byte === 0)).toBe(true);
    expect(log.memory.subarray(3 * PAGE).every((byte) => byte === 0)).toBe(true);
  });

  it('is the staging buffer for the short rest of a payload, so that what follows comes with it', () => {
    const decoder = decoderOf({ stagingBytes: PAGE });
    const run = pages(1);
    read(decoder, run.subarray(0, 100));
    expect(decoder.target().buffer).not.toBe(log.memory.buffer);
    expect(decoder.target()).toHaveLength(PAGE);
    read(decoder, Buffer.concat([run.subarray(100), ping(9)]));
    expect(log.lines).toEqual(['33:0:4096', '7:9:0']);
  });

  it('is little of the staging buffer after a long payload, and all of it after anything else', () => {
    const decoder = decoderOf({ stagingBytes: 8192 });
    const run = pages(3);
    read(decoder, run.subarray(0, 100));
    read(decoder, run.subarray(100));
    expect(decoder.target()).toHaveLength(4096);
    decoder.advance(0);
    expect(decoder.target()).toHaveLength(8192);
  });

  it('stays right when the decoder is resumed meanwhile, though a place is known then', () => {
    const decoder = decoderOf({ stagingBytes: 128 });
    log.onFrame = ({ type }) => type === FrameType.ping && decoder.pause();
    const first = ping(1);
    const run = pages(1);
    read(decoder, Buffer.concat([first, run.subarray(0, 60)]));
    // As Node asks for the next buffer, though it was told to stop reading.
    const ahead = decoder.target();
    decoder.resume();
    expect(log.lines).toEqual(['7:1:0']);
    ahead.set(run.subarray(60, 64));
    decoder.advance(4);
    expect(decoder.target().byteOffset).toBe(PAGE + 32);
    read(decoder, run.subarray(64));
    expect(log.lines).toEqual(['7:1:0', '33:0:4096']);
    expect(log.memory.subarray(PAGE, 2 * PAGE).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('is refused where there is none left: paused, and full', () => {
    const decoder = decoderOf({ stagingBytes: 64 });
    log.onFrame = () => decoder.pause();
    read(decoder, Buffer.concat([ping(1), ping(2)]));
    const [third, fourth] = [ping(3), ping(4)];
    read(decoder, third);
    expect(thrownBy(() => decoder.target())).toMatchObject({ code: 'ILLEGAL_STATE' });
    decoder.resume();
    decoder.resume();
    read(decoder, fourth);
    decoder.resume();
    expect(log.lines).toEqual(['7:1:0', '7:2:0', '7:3:0', '7:4:0']);
  });

  it('was asked for, before bytes are said to have come, and had room for them', () => {
    const decoder = decoderOf({ stagingBytes: 64 });
    expect(thrownBy(() => decoder.advance(1))).toMatchObject({ code: 'OUT_OF_RANGE' });
    decoder.target();
    expect(thrownBy(() => decoder.advance(65))).toMatchObject({ code: 'OUT_OF_RANGE' });
    expect(thrownBy(() => decoder.advance(-1))).toMatchObject({ code: 'OUT_OF_RANGE' });
    decoder.advance(0);
    expect(thrownBy(() => new FrameDecoder(log, { keptPayloadBytes: 1, stagingBytes: 31 }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

describe('a pause', () => {
  const pauseAt2 = (decoder: FrameDecoder): void => {
    log.onFrame = ({ value }) => value === 2 && decoder.pause();
  };

  it('keeps what has come, until it is resumed', () => {
    const decoder = decoderOf();
    pauseAt2(decoder);
    read(decoder, Buffer.concat([ping(1), ping(2), ping(3), ping(4)]));
    expect(log.lines).toEqual(['7:1:0', '7:2:0']);
    expect(decoder.paused).toBe(true);
    expect(decoder.isBetweenFrames).toBe(false);
    decoder.resume();
    expect(log.lines).toEqual(['7:1:0', '7:2:0', '7:3:0', '7:4:0']);
    expect(decoder.paused).toBe(false);
    expect(decoder.isBetweenFrames).toBe(true);
  });

  it('keeps copies of all that is pushed meanwhile, in order', () => {
    const decoder = decoderOf({ stagingBytes: 64 });
    pauseAt2(decoder);
    const pushed = Buffer.concat([ping(1), ping(2), ping(3), pages(1)]);
    const more = Buffer.concat([ping(4), ping(2), ping(5)]);
    const last = ping(6);
    decoder.push(pushed);
    decoder.push(more);
    pushed.fill(0);
    more.fill(0);
    expect(log.lines).toEqual(['7:1:0', '7:2:0']);
    expect(thrownBy(() => decoder.target())).toMatchObject({ code: 'ILLEGAL_STATE' });
    decoder.resume();
    expect(log.lines.slice(2)).toEqual(['7:3:0', '33:0:4096', '7:4:0', '7:2:0']);
    decoder.push(last);
    decoder.resume();
    expect(log.lines.slice(6)).toEqual(['7:5:0', '7:6:0']);
    expect(log.memory.subarray(PAGE, 2 * PAGE).every((byte) => byte === 0xa5)).toBe(true);
    expect(decoder.isBetweenFrames).toBe(true);
  });

  it('lets the frame in hand be finished', () => {
    const decoder = decoderOf({ stagingBytes: 64 });
    const run = pages(1);
    const next = ping(1);
    read(decoder, run.subarray(0, 50));
    decoder.pause();
    read(decoder, run.subarray(50));
    read(decoder, next);
    expect(log.lines).toEqual(['33:0:4096']);
    decoder.resume();
    expect(log.lines).toEqual(['33:0:4096', '7:1:0']);
  });

  it('may be over before the handler returns', () => {
    const decoder = decoderOf();
    log.onFrame = () => {
      decoder.pause();
      decoder.resume();
    };
    read(decoder, Buffer.concat([ping(1), ping(2)]));
    expect(log.lines).toEqual(['7:1:0', '7:2:0']);
  });
});

describe('a payload without a place', () => {
  const state = (length: number): Uint8Array<ArrayBuffer> =>
    frame(
      { type: FrameType.deviceState },
      Uint8Array.from({ length }, (_, i) => i),
    );

  it.each([48, 100, 128, 4096])('is kept, with %i bytes of staging', (stagingBytes) => {
    const decoder = decoderOf({ stagingBytes });
    let got: Uint8Array | undefined;
    const handed = log.frame.bind(log);
    log.frame = (header, payload) => {
      handed(header, payload);
      got = payload.slice();
    };
    decoder.push(Buffer.concat([ping(1), state(100)]));
    expect(got).toEqual(Uint8Array.from({ length: 100 }, (_, i) => i));
    decoder.push(state(70));
    expect(got).toEqual(Uint8Array.from({ length: 70 }, (_, i) => i));
  });

  it('is refused where it is longer than what may be kept', () => {
    const decoder = decoderOf();
    const thrown = thrownBy(() => decoder.push(state(101).subarray(0, 32)));
    expect(thrown).toMatchObject({
      code: 'PROTOCOL_VIOLATION',
      message: expect.stringMatching(/at most 100/),
    });
  });

  it('is dropped if its type may be skipped, and the handler hears nothing of it', () => {
    const decoder = decoderOf({ stagingBytes: 64 });
    log.onHeader = ({ type }) => expect(type).toBe(FrameType.ping);
    decoder.push(Buffer.concat([ping(1), frame({ type: 0x8123 }, new Uint8Array(70_000)), ping(2)]));
    expect(log.lines).toEqual(['7:1:0', '7:2:0']);
  });
});

describe('order', () => {
  it.each<[string, FrameFields[], RegExp]>([
    ['begins at 0', [{ type: 7, sequence: 1, epoch: 1 }], /is number 1 of its connection, where 0 should/],
    ['has no gaps', [1, 3].map((n) => ({ type: 7, sequence: n - 1, epoch: 1 })), /number 2 .* where 1/],
    ['is of one epoch', [1, 2].map((n) => ({ type: 7, sequence: n - 1, epoch: n })), /epoch 2 .* of epoch 1/],
    ['is of an epoch', [{ type: 7, sequence: 0, epoch: 0 }], /epoch 0 on a connection/],
  ])('%s', (_, fields, words) => {
    const decoder = decoderOf();
    const thrown = thrownBy(() => decoder.push(Buffer.concat(fields.map((field) => encodeFrame(field)))));
    expect(isLacunaError(thrown, 'PROTOCOL_VIOLATION')).toBe(true);
    expect(String(thrown)).toMatch(words);
  });

  it('is of the epoch that was named, and goes on where another decoder has stopped', () => {
    const first = decoderOf({ epoch: 5, connection: 'accepted' });
    first.push(encodeFrame({ type: FrameType.join, sequence: 0, epoch: 5 }, new Uint8Array(16)));
    expect(first.nextSequence).toBe(1);
    const options = {
      epoch: 5,
      firstSequence: first.nextSequence,
      connection: 'stream-from-source',
    } as const;
    decoderOf(options).push(encodeFrame({ type: FrameType.roundEnd, sequence: 1, epoch: 5, value: 1 }));
    expect(log.lines).toEqual(['32:0:16', '37:1:0']);
    const old = encodeFrame({ type: FrameType.roundEnd, sequence: 1, epoch: 4, value: 1 });
    expect(thrownBy(() => decoderOf(options).push(old))).toMatchObject({ code: 'PROTOCOL_VIOLATION' });
  });

  it('is of any epoch, where a destination refuses before it knows', () => {
    const decoder = decoderOf({ epoch: 5, connection: 'control-from-destination' });
    decoder.push(encodeFrame({ type: FrameType.error, sequence: 0, epoch: 0, value: 4 }));
    expect(log.lines).toEqual(['21:4:0']);
    const second = encodeFrame({ type: FrameType.error, sequence: 1, epoch: 0, value: 4 });
    expect(thrownBy(() => decoder.push(second))).toMatchObject({ code: 'PROTOCOL_VIOLATION' });
  });

  it('begins anew after 2^32 frames', () => {
    const decoder = decoderOf({ firstSequence: 2 ** 32 - 1, connection: 'control-from-source' });
    decoder.push(encodeFrame({ type: FrameType.ping, sequence: 2 ** 32 - 1, epoch: 1 }));
    decoder.push(encodeFrame({ type: FrameType.ping, sequence: 0, epoch: 1 }));
    expect(log.lines).toHaveLength(2);
  });

  it('is that of the connection, once it is known which one it is', () => {
    const decoder = decoderOf({ connection: 'accepted', keptPayloadBytes: 1000 });
    log.onFrame = () => {
      decoder.connection = 'control-from-source';
    };
    decoder.push(Buffer.concat([frame({ type: FrameType.hello }, new Uint8Array(99)), ping(1)]));
    expect(log.lines).toEqual(['1:0:99', '7:1:0']);
    expect(thrownBy(() => decoder.push(pages(1)))).toMatchObject({ code: 'PROTOCOL_VIOLATION' });
  });
});

describe('what goes wrong', () => {
  it('goes wrong for good', () => {
    const decoder = decoderOf();
    const thrown = thrownBy(() => decoder.push(new Uint8Array(32)));
    expect(isLacunaError(thrown, 'PROTOCOL_VIOLATION')).toBe(true);
    const uses = [() => decoder.push(ping(0)), () => decoder.target(), () => decoder.resume()];
    for (const use of uses) {
      expect(thrownBy(use)).toBe(thrown);
    }
    expect(log.lines).toEqual([]);
  });

  it('is what the handler throws as well, and nothing is handed on after it', () => {
    const decoder = decoderOf();
    const refusal = new LacunaError('BUSY', 'not now');
    log.onFrame = () => {
      throw refusal;
    };
    expect(thrownBy(() => decoder.push(Buffer.concat([ping(1), ping(2)])))).toBe(refusal);
    expect(thrownBy(() => decoder.resume())).toBe(refusal);
    expect(log.lines).toEqual(['7:1:0']);
  });

  it('is a place of another length, or a handler that reads by itself', () => {
    const places = decoderOf();
    log.header = () => new Uint8Array(3);
    expect(thrownBy(() => places.push(ping(1)))).toMatchObject({ code: 'ILLEGAL_STATE' });
    log = new Log();
    sequence = 0;
    const reads = decoderOf();
    log.onFrame = () => reads.push(new Uint8Array(1));
    expect(thrownBy(() => reads.push(ping(1)))).toMatchObject({ code: 'ILLEGAL_STATE' });
  });
});
