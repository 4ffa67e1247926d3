import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isLacunaError } from '../../../../src/errors.js';
import { packState, unpackState } from '../../../../src/vmm/v86/device-state.js';
import { v86State } from '../../../support/v86-state.js';

const MEMORY = 64 * 1024 * 1024;

/** Mostly zero, as the memory of a screen is. */
const buffers: fc.Arbitrary<Uint8Array[]> = fc.array(
  fc.tuple(fc.nat(3000), fc.uint8Array({ maxLength: 400 })).map(([zeroes, bytes]) => {
    const buffer = new Uint8Array(zeroes + bytes.length);
    buffer.set(bytes, zeroes);
    return buffer;
  }),
  { maxLength: 5 },
);

/** A state on its way, to be spoilt. */
function packed(): Uint8Array {
  return packState(v86State([MEMORY, 'x'.repeat(700)], [new Uint8Array(5000), new Uint8Array(999).fill(7)]));
}

function spoilt(spoil: (bytes: DataView) => void): Uint8Array {
  const bytes = packed();
  spoil(new DataView(bytes.buffer));
  return bytes;
}

/** The same, of a state of v86's own that is spoilt. */
function within(spoil: (state: DataView) => void): Uint8Array {
  const state = v86State([MEMORY], [new Uint8Array(100).fill(7)]);
  spoil(new DataView(state));
  return packState(state);
}

/** The same, of what the state says in words. */
function saying(from: string, to: string): Uint8Array {
  const state = v86State([MEMORY], [new Uint8Array(100).fill(7)]);
  const bytes = Buffer.from(state);
  const at = bytes.indexOf(from);
  expect(at).toBeGreaterThan(0);
  expect(to).toHaveLength(from.length);
  bytes.write(to, at, 'latin1');
  return packState(state);
}

describe('the device state of a v86 machine', () => {
  it('arrives as it was', () => {
    fc.assert(
      fc.property(buffers, fc.string(), (list, text) => {
        const state = v86State([MEMORY, text], list);
        expect(Buffer.from(unpackState(packState(state), MEMORY)).equals(Buffer.from(state))).toBe(true);
      }),
    );
  });

  it('is not much longer than what of it is not zero', () => {
    expect(packState(v86State([MEMORY], [new Uint8Array(2 ** 20)])).length).toBeLessThan(2048);
  });

  const hostile: readonly [what: string, state: () => Uint8Array, why: RegExp][] = [
    ['nothing', () => new Uint8Array(0), /not of a v86 machine/],
    ['a header cut short', () => packed().subarray(0, 15), /not of a v86 machine/],
    ['another magic', () => spoilt((bytes) => bytes.setUint32(0, 1, true)), /not of a v86 machine/],
    ['another version', () => spoilt((bytes) => bytes.setUint32(4, 2, true)), /of version 2/],
    ['a length beyond all', () => spoilt((bytes) => bytes.setUint32(8, 0xffff_ffff, true)), /bytes long/],
    [
      'a length without blocks for it',
      () => spoilt((bytes) => bytes.setUint32(8, 2 ** 25, true)),
      /bytes long/,
    ],
    ['a last block cut short', () => packed().slice(0, -1), /its blocks end at/],
    ['no last block', () => packed().slice(0, -300), /its blocks end at/],
    ['a block too many', () => Buffer.concat([packed(), new Uint8Array(256)]), /its blocks end at/],
    ['no room for a header of v86', () => packState(new ArrayBuffer(8)), /v86's part is 8 bytes long/],
    ["another magic of v86's", () => within((state) => state.setUint32(0, 1, true)), /version/],
    ['of another v86', () => within((state) => state.setUint32(4, 7, true)), /of version 7/],
    ['another length', () => within((state) => state.setUint32(8, 5000, true)), /shorter than it says/],
    [
      'words beyond its end',
      () => within((state) => state.setUint32(12, 5000, true)),
      /shorter than it says/,
    ],
    ['words that are none', () => saying('{"buffer', 'x"buffer'), /JSON/],
    ['no buffers', () => saying('"buffer_infos"', '"buffer_inf0s"'), /no values/],
    ['no values', () => saying('"state"', '"stat3"'), /no values/],
    ['a buffer beyond its end', () => saying('"length":100', '"length":101'), /buffer outside itself/],
    ['a buffer that is nowhere', () => saying('"offset":0', '"0ffset":0'), /buffer outside itself/],
    ['a machine of another size', () => saying(String(MEMORY), '33554432'), /33554432 bytes of RAM/],
  ];
  for (const [what, state, why] of hostile) {
    it(`is refused: ${what}`, () => {
      expect(() => unpackState(state(), MEMORY)).toThrow(
        expect.objectContaining({ code: 'DEVICE_STATE_INVALID', message: expect.stringMatching(why) }),
      );
    });
  }

  it('is refused or taken, whatever is wrong with it', () => {
    const original = packed();
    fc.assert(
      fc.property(fc.nat(original.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bytes = original.slice();
        bytes[at]! ^= flip;
        try {
          unpackState(bytes, MEMORY);
        } catch (thrown) {
          expect(isLacunaError(thrown) && thrown.code).toBe('DEVICE_STATE_INVALID');
        }
      }),
      { numRuns: 2000 },
    );
  });
});
