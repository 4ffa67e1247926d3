import { describe, expect, it } from 'vitest';
import { LacunaError, type LacunaErrorCode } from '../../../src/errors.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import {
  agreedFeatures,
  decodeCounts,
  decodeError,
  decodeHello,
  decodeStarted,
  decodeText,
  decodeWelcome,
  encodeCounts,
  encodeHello,
  encodeStarted,
  encodeText,
  encodeWelcome,
  errorNumber,
  type Hello,
} from '../../../src/wire/hello.js';
import { GOLDEN_COUNTS, GOLDEN_HELLO, GOLDEN_WELCOME } from '../../support/golden-frames.js';

function thrownBy(work: () => unknown): LacunaError {
  try {
    work();
  } catch (thrown) {
    if (thrown instanceof LacunaError) {
      return thrown;
    }
    throw thrown;
  }
  throw new Error('nothing was thrown');
}

/** A payload with some of its bytes changed. */
function patched(payload: Uint8Array, at: number, ...bytes: number[]): Uint8Array {
  const copy = new Uint8Array(payload);
  copy.set(bytes, at);
  return copy;
}

describe('hello', () => {
  const payload = encodeHello(GOLDEN_HELLO);

  it('is read as it was written', () => {
    expect(decodeHello(payload)).toEqual(GOLDEN_HELLO);
    const other: Hello = {
      ...GOLDEN_HELLO,
      requiredFeatures: 1,
      optionalFeatures: 0x8000_0000,
      streams: 16,
      resumes: true,
      committed: true,
      longestRunPages: 2 ** 32 - 1,
      longestDeviceStateBytes: 2 ** 32 - 1,
      layout: new RamLayout([{ startGpa: 4096, endGpa: 2 ** 44 }]),
      label: 'é'.repeat(512),
      guest: JSON.stringify({ a: 'x'.repeat(16_000) }),
    };
    expect(decodeHello(encodeHello(other))).toEqual(other);
  });

  it('is copied out of what it was read from', () => {
    const buffer = Buffer.from(payload);
    const hello = decodeHello(buffer);
    buffer.fill(0xff);
    expect(hello).toEqual(GOLDEN_HELLO);
  });

  it.each<[string, LacunaErrorCode, Uint8Array, RegExp]>([
    ['a later version', 'UNSUPPORTED', patched(payload, 0, 3, 0, 2, 0), /speaks versions 2 to 3 .* speaks 1/],
    ['version 0', 'UNSUPPORTED', patched(payload, 0, 0, 0, 0, 0), /speaks versions 0 to 0/],
    ['a later version that is short', 'UNSUPPORTED', Uint8Array.of(9, 0, 9, 0), /versions 9 to 9/],
    ['an unknown required feature', 'UNSUPPORTED', patched(payload, 4, 3, 0, 0, 0x80), /\(bits 1, 31\)/],
    ['pages of 16 KiB', 'UNSUPPORTED', patched(payload, 12, 0, 0x40), /pages of 16384 bytes/],
    ['no stream', 'PROTOCOL_VIOLATION', patched(payload, 16, 0), /for 0 streams/],
    ['17 streams', 'PROTOCOL_VIOLATION', patched(payload, 16, 17), /for 17 streams/],
    ['unknown flags', 'PROTOCOL_VIOLATION', patched(payload, 20, 4), /unknown flags/],
    ['something reserved', 'PROTOCOL_VIOLATION', patched(payload, 79, 1), /unknown flags/],
    ['runs of no page', 'PROTOCOL_VIOLATION', patched(payload, 24, 0, 0), /runs of no page/],
    ['no memory', 'PROTOCOL_VIOLATION', patched(payload, 64, 0), /0 blocks/],
    ['65 blocks', 'PROTOCOL_VIOLATION', patched(payload, 64, 65), /65 blocks/],
    ['2^32 − 1 blocks', 'PROTOCOL_VIOLATION', patched(payload, 64, 255, 255, 255, 255), /4294967295 blocks/],
    ['a long label', 'PROTOCOL_VIOLATION', patched(payload, 68, 1, 4), /texts of 1025 and 2 bytes/],
    ['a long guest', 'PROTOCOL_VIOLATION', patched(payload, 72, 1, 0x40), /texts of 5 and 16385 bytes/],
    ['a label that is not there', 'PROTOCOL_VIOLATION', patched(payload, 68, 6), /119 bytes, with 120/],
    ['a byte too many', 'PROTOCOL_VIOLATION', Uint8Array.of(...payload, 0), /120 bytes, with 119/],
    [
      '2^60 bytes',
      'PROTOCOL_VIOLATION',
      patched(payload, 96 + 15, 0x10),
      /memory at .* below 17592186044416/,
    ],
    ['an empty block', 'PROTOCOL_VIOLATION', patched(payload, 88 + 3, 0), /memory at 0–0/],
    ['half a page', 'PROTOCOL_VIOLATION', patched(payload, 88, 0, 8), /memory at 0–2147485696/],
    ['blocks that overlap', 'PROTOCOL_VIOLATION', patched(payload, 88 + 4, 2), /memory at 4294967296–/],
    ['nothing', 'PROTOCOL_VIOLATION', new Uint8Array(0), /a hello of 0 bytes/],
    ['half of it', 'PROTOCOL_VIOLATION', payload.subarray(0, 79), /a hello of 79 bytes/],
  ])('is refused with %s', (_, code, bytes, words) => {
    const thrown = thrownBy(() => decodeHello(bytes));
    expect(thrown.message).toMatch(words);
    expect(thrown.code).toBe(code);
  });

  it('of a later version that speaks this one is taken, whatever else it says at the end', () => {
    const later = patched(Uint8Array.of(...payload, 1, 2, 3), 0, 7, 0, 1, 0);
    expect(decodeHello(later)).toEqual(GOLDEN_HELLO);
  });

  it('has no control characters in its label', () => {
    const { label } = decodeHello(encodeHello({ ...GOLDEN_HELLO, label: 'a\u001b[2Jb\u202ec\n' }));
    expect(label).toBe('a\u{fffd}[2Jb\u{fffd}c\u{fffd}');
  });

  it.each<[string, Partial<Hello>, RegExp]>([
    ['a label', { label: 'é'.repeat(513) }, /label .* 1026 bytes; there is room for 1024/],
    ['words for the machine', { guest: 'x'.repeat(16_385) }, /16385 bytes; there is room for 16384/],
    ['an id', { migrationId: new Uint8Array(15) }, /16 bytes, not 15/],
    ['a nonce', { nonce: new Uint8Array(17) }, /16 bytes, not 17/],
    [
      'too many blocks',
      {
        layout: new RamLayout(
          Array.from({ length: 65 }, (_, i) => ({ startGpa: i * 8192, endGpa: i * 8192 + 4096 })),
        ),
      },
      /65 blocks/,
    ],
  ])('is not written with %s that does not fit', (_, fields, words) => {
    const thrown = thrownBy(() => encodeHello({ ...GOLDEN_HELLO, ...fields }));
    expect(thrown.code).toBe('INVALID_ARGUMENT');
    expect(thrown.message).toMatch(words);
  });

  it('agrees on what both ends know', () => {
    expect(agreedFeatures({ requiredFeatures: 0, optionalFeatures: 0xffff_ffff })).toBe(1);
    expect(agreedFeatures({ requiredFeatures: 1, optionalFeatures: 0 })).toBe(1);
    expect(agreedFeatures({ requiredFeatures: 0, optionalFeatures: 2 })).toBe(0);
  });
});

describe('welcome', () => {
  const payload = encodeWelcome(GOLDEN_WELCOME);

  it('is read as it was written', () => {
    expect(decodeWelcome(payload, GOLDEN_HELLO)).toEqual(GOLDEN_WELCOME);
    for (const status of ['settled', 'unknown'] as const) {
      const over = { ...GOLDEN_WELCOME, status, tickets: [] };
      expect(decodeWelcome(encodeWelcome(over), GOLDEN_HELLO)).toEqual(over);
    }
  });

  it('is copied out of what it was read from', () => {
    const buffer = Buffer.from(payload);
    const welcome = decodeWelcome(buffer, GOLDEN_HELLO);
    buffer.fill(0xff);
    expect(welcome).toEqual(GOLDEN_WELCOME);
  });

  it.each<[string, LacunaErrorCode, Uint8Array, RegExp]>([
    ['another version', 'UNSUPPORTED', patched(payload, 0, 2), /chose version 2/],
    ['features not asked for', 'PROTOCOL_VIOLATION', patched(payload, 4, 3), /features of bits 0, 1,/],
    ['an unknown status', 'PROTOCOL_VIOLATION', patched(payload, 8, 4), /unknown status 4/],
    ['runs of no page', 'PROTOCOL_VIOLATION', patched(payload, 12, 0), /runs of 0 pages/],
    ['longer runs', 'PROTOCOL_VIOLATION', patched(payload, 12, 1, 1), /runs of 257 pages/],
    ['a long state', 'PROTOCOL_VIOLATION', patched(payload, 19, 1), /device state of 16842752 bytes/],
    ['a ticket too few', 'PROTOCOL_VIOLATION', patched(payload, 20, 1), /with 1 tickets/],
    [
      '2^32 − 1 tickets',
      'PROTOCOL_VIOLATION',
      patched(payload, 20, 255, 255, 255, 255),
      /4294967295 tickets/,
    ],
    ['tickets to nothing', 'PROTOCOL_VIOLATION', patched(payload, 8, 2), /with 2 tickets/],
    ['tickets cut off', 'PROTOCOL_VIOLATION', payload.subarray(0, 64), /a welcome of 64 bytes/],
    ['something reserved', 'PROTOCOL_VIOLATION', patched(payload, 47, 1), /where zeroes should be/],
    ['something reserved early', 'PROTOCOL_VIOLATION', patched(payload, 2, 1), /where zeroes should be/],
    ['half of it', 'PROTOCOL_VIOLATION', payload.subarray(0, 40), /a welcome of 40 bytes/],
  ])('is refused with %s', (_, code, bytes, words) => {
    const thrown = thrownBy(() => decodeWelcome(bytes, GOLDEN_HELLO));
    expect(thrown.message).toMatch(words);
    expect(thrown.code).toBe(code);
  });

  it('is refused without a feature that was required', () => {
    const asked = { ...GOLDEN_HELLO, requiredFeatures: 1, optionalFeatures: 0 };
    const without = encodeWelcome({ ...GOLDEN_WELCOME, features: 0 });
    expect(thrownBy(() => decodeWelcome(without, asked)).code).toBe('PROTOCOL_VIOLATION');
  });
});

describe('counts and times', () => {
  const payload = encodeCounts(GOLDEN_COUNTS);

  it('are read as they were written', () => {
    expect(decodeCounts(payload, 2)).toEqual(GOLDEN_COUNTS);
    expect(decodeStarted(encodeStarted(1_709_640_000_000.25))).toBe(1_709_640_000_000.25);
  });

  it.each<[string, () => unknown, RegExp]>([
    ['another number of streams', () => decodeCounts(payload, 1), /64 bytes for 1 streams/],
    ['half a page', () => decodeCounts(patched(payload, 6, 0xe0, 0x3f), 2), /a count of 0\.5/],
    ['less than none', () => decodeCounts(patched(payload, 7, 0xc0), 2), /a count of -3 /],
    ['no number', () => decodeCounts(patched(payload, 6, 0xf8, 0x7f), 2), /a count of NaN/],
    ['2^60', () => decodeCounts(patched(payload, 6, 0xb0, 0x43), 2), /a count of 1\d{18} /],
    ['something reserved', () => decodeCounts(patched(payload, 28, 1), 2), /where zeroes should be/],
    ['no time', () => decodeStarted(encodeStarted(Number.NaN)), /started at NaN/],
    ['a time before all', () => decodeStarted(encodeStarted(-1)), /started at -1/],
    ['half a time', () => decodeStarted(new Uint8Array(4)), /a time of 4 bytes/],
  ])('are refused with %s', (_, work, words) => {
    const thrown = thrownBy(work);
    expect(thrown.message).toMatch(words);
    expect(thrown.code).toBe('PROTOCOL_VIOLATION');
  });
});

describe('words', () => {
  it('of an error keep their code, where it has a number', () => {
    const thrown = decodeError(errorNumber('BUSY'), encodeText('another migration is being received'));
    expect(thrown.code).toBe('BUSY');
    expect(thrown.message).toBe('another migration is being received');
    expect(decodeError(errorNumber('VCPU_STUCK'), encodeText('x')).code).toBe('DESTINATION_FAILED');
    expect(decodeError(2 ** 32 - 1, encodeText('x')).code).toBe('DESTINATION_FAILED');
  });

  it('are cut off between characters', () => {
    const words = `a${'é'.repeat(4000)}`;
    const bytes = encodeText(words);
    expect(bytes).toHaveLength(4095);
    expect(decodeText(bytes)).toBe(words.slice(0, 2048));
  });

  it('do nothing to a terminal', () => {
    expect(decodeText(encodeText('\u001b]0;x\u0007\u009b31m\u202eabc'))).toBe(
      '\u{fffd}]0;x\u{fffd}\u{fffd}31m\u{fffd}abc',
    );
    expect(decodeText(Uint8Array.of(0xff, 0x61))).toBe('\u{fffd}a');
  });
});
