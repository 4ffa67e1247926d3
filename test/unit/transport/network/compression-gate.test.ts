import { expect, it } from 'vitest';
import { CompressionGate } from '../../../../src/transport/network/compression-gate.js';

it('lets threads in until it is closed, and says for how long one is inside', () => {
  const gate = new CompressionGate();
  const other = new CompressionGate(gate.buffer);
  expect(gate.isBusy).toBe(false);
  expect(other.enter()).toBe(true);
  expect(gate.enter()).toBe(true);
  gate.leave();
  gate.close();
  expect(gate.isBusy).toBe(true);
  expect(other.enter()).toBe(false);
  expect(gate.isBusy).toBe(true);
  other.leave();
  expect(gate.isBusy).toBe(false);
});
