import { describe, expect, it } from 'vitest';
import { formatEndpoint, parseEndpoint, parseListenEndpoint, parsePoison } from '../../../src/cli/units.js';
import { parseWorkload } from '../../../src/cli/workload-option.js';

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

it('a workload does not write without end: no device state could say so', () => {
  expect(() => parseWorkload('dirty:unlimited')).toThrow(/one that can be reached/);
  expect(parseWorkload('dirty:1GB/s')).toMatchObject({ bytesPerSecond: 1e9 });
});

describe('an endpoint', () => {
  it.each([
    ['127.0.0.1:7000', '127.0.0.1', 7000],
    ['0.0.0.0:1', '0.0.0.0', 1],
    [':7000', '127.0.0.1', 7000],
    ['[::1]:65535', '::1', 65_535],
    ['[fe80::1%eth0]:7000', 'fe80::1%eth0', 7000],
    ['localhost:7000', 'localhost', 7000],
    ['db-1.example.org:7000', 'db-1.example.org', 7000],
    ['host_a.:80', 'host_a.', 80],
    [' 10.0.0.1:7000 ', '10.0.0.1', 7000],
  ])('%s', (text, host, port) => {
    expect(parseEndpoint(text)).toEqual({ host, port });
    expect(parseListenEndpoint(text)).toEqual({ host, port });
  });

  it.each([
    ['', /no port in ""/],
    ['7000', /no port in "7000"/],
    ['localhost', /HOST:PORT, as in 127\.0\.0\.1:7000/],
    ['localhost:', /no port/],
    ['[::1]', /no port/],
    ['[::1]7000', /no port/],
    ['localhost:http', /"http" is no port: a whole number from 1/],
    ['localhost:65536', /no port/],
    ['localhost:-1', /no port/],
    ['localhost:1e3', /no port/],
    ['localhost: 80', /no port/],
    ['localhost:0', /from 1 to 65535\.$/],
    ['::1:7000', /put in brackets, as in \[::1\]:7000/],
    ['[127.0.0.1]:7000', /neither an address/],
    ['[::1::2]:7000', /neither an address/],
    ['[]:7000', /neither an address/],
    ['256.0.0.1:7000', /neither an address/],
    ['10.1:7000', /neither an address/],
    ['*:7000', /neither an address/],
    ['http://localhost:7000', /brackets|neither an address/],
    ['user@host:7000', /neither an address/],
    ['a b:7000', /neither an address/],
    ['-a:7000', /neither an address/],
    [`${'a.'.repeat(200)}:7000`, /neither an address/],
  ])('"%s" is refused', (text, words) => {
    expect(() => parseEndpoint(text)).toThrow(words);
  });

  it('is refused in words that are not as long as what was given', () => {
    expect(() => parseEndpoint('x'.repeat(1e6))).toThrow(/^.{1,300}$/);
  });

  it('of a listener may leave the port to the system', () => {
    expect(parseListenEndpoint(':0')).toEqual({ host: '127.0.0.1', port: 0 });
    expect(() => parseListenEndpoint(':65536')).toThrow(/from 0 to 65535, 0 for any that is free/);
  });

  it.each(['127.0.0.1:7000', '[::1]:7000', 'localhost:1'])('is written as it is read: %s', (text) => {
    expect(formatEndpoint(parseEndpoint(text))).toBe(text);
  });
});
