import { expect, it } from 'vitest';
import { isLacunaError, LacunaError, messageOf } from '../../src/errors.js';

it('tells its own errors from others, by code', () => {
  const error = new LacunaError('VCPU_STUCK', 'the vCPU is stuck', { cause: 'a test' });
  expect(isLacunaError(error)).toBe(true);
  expect(isLacunaError(error, 'VCPU_STUCK')).toBe(true);
  expect(isLacunaError(error, 'CANCELLED')).toBe(false);
  expect(isLacunaError(new Error('VCPU_STUCK'))).toBe(false);
  expect(error.cause).toBe('a test');
});

it('gives the message of anything that was thrown', () => {
  expect(messageOf(new Error('words'))).toBe('words');
  expect(messageOf(7)).toBe('7');
});
