import { describe, expect, it } from 'vitest';
import { parsePoison } from '../../../src/cli/units.js';

describe('--page-poison', () => {
  it.each([
    ['0xaa', 0xaaaa_aaaa],
    ['0xFF', 0xffff_ffff],
    ['170', 0xaaaa_aaaa],
    ['0', 0],
    ['0x12345678', 0x1234_5678],
    ['0xffffffff', 0xffff_ffff],
    ['256', 256],
  ])('%s is a byte over and over, or 32 bits', (text, value) => {
    expect(parsePoison(text)).toBe(value);
  });

  it.each(['', 'aa', '0x', '-1', '0x123456789', '4294967296', '1.5', '1e3', '0xaa '])(
    '"%s" is refused',
    (text) => {
      expect(() => parsePoison(text)).toThrow(/A byte or 32 bits/);
    },
  );
});
