import { describe, expect, it } from 'vitest';
import { LacunaError } from '../../../src/errors.js';
import { STALL_ACTIONS } from '../../../src/migration/convergence.js';
import {
  DEFAULT_OPTIONS,
  type MigrationOptions,
  resolveOptions,
  SCHEDULES,
} from '../../../src/migration/options.js';

function refusal(options: Partial<MigrationOptions>): LacunaError | undefined {
  try {
    resolveOptions(options);
    return undefined;
  } catch (thrown) {
    return thrown instanceof LacunaError ? thrown : undefined;
  }
}

const TIMES = [
  'downtimeLimitMs',
  'hintTimeoutMs',
  'hintDeadlineMs',
  'adaptiveGraceMs',
  'pauseTimeoutMs',
  'sendTimeoutMs',
  'readyTimeoutMs',
  'startTimeoutMs',
  'confirmAfterMs',
  'recoveryTimeoutMs',
] as const;
const WHOLE = ['maxRounds', 'stallRounds', 'maxRunPages'] as const;

describe('what makes sense', () => {
  it('the defaults do', () => {
    expect(resolveOptions({})).toEqual(DEFAULT_OPTIONS);
  });

  it('what is given goes on top of them', () => {
    expect(resolveOptions({ maxRounds: 4, schedule: 'wait' })).toEqual({
      ...DEFAULT_OPTIONS,
      maxRounds: 4,
      schedule: 'wait',
    });
  });

  it.each(SCHEDULES)('schedule %s', (schedule) => {
    expect(resolveOptions({ schedule }).schedule).toBe(schedule);
  });

  it.each(STALL_ACTIONS)('onStall %s', (onStall) => {
    expect(resolveOptions({ onStall }).onStall).toBe(onStall);
  });

  it.each([undefined, 1, Number.POSITIVE_INFINITY])('switchoverBytesPerSecond %s', (rate) => {
    expect(resolveOptions({ switchoverBytesPerSecond: rate }).switchoverBytesPerSecond).toBe(rate);
  });

  it.each(TIMES)('%s of 0', (name) => {
    expect(resolveOptions({ [name]: 0 })[name]).toBe(0);
  });

  it.each(TIMES)('%s without end', (name) => {
    expect(resolveOptions({ [name]: Number.POSITIVE_INFINITY })[name]).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('what does not is refused by name', () => {
  it('an unknown schedule', () => {
    const error = refusal({ schedule: 'never' as 'wait' });
    expect(error?.code).toBe('INVALID_ARGUMENT');
    expect(error?.message).toContain('never');
  });

  it('an unknown onStall', () => {
    const error = refusal({ onStall: 'wait' as 'switch' });
    expect(error?.code).toBe('INVALID_ARGUMENT');
    expect(error?.message).toContain('"wait": one of switch, throttle, cancel');
  });

  it.each([
    ['throttleMax', 0],
    ['throttleMax', 0.991],
    ['throttleMax', Number.NaN],
    ['throttleInitial', 0],
    ['throttleInitial', 0.81],
    ['throttleInitial', Number.NaN],
    ['throttleIncrement', 0],
    ['throttleIncrement', 1.01],
    ['throttleIncrement', Number.NaN],
    ['bytesPerSecond', 0],
    ['bytesPerSecond', -1],
    ['bytesPerSecond', Number.NaN],
    ['switchoverBytesPerSecond', 0],
    ['switchoverBytesPerSecond', -1],
    ['switchoverBytesPerSecond', Number.NaN],
  ] as const)('%s %d', (name, value) => {
    const error = refusal({ [name]: value });
    expect(error?.code).toBe('INVALID_ARGUMENT');
    expect(error?.message).toMatch(new RegExp(`^${name} ${value}:`));
  });

  it.each(
    WHOLE.flatMap((name) =>
      [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY].map((n) => [name, n] as const),
    ),
  )('%s %d', (name, value) => {
    const error = refusal({ [name]: value });
    expect(error?.code).toBe('INVALID_ARGUMENT');
    expect(error?.message).toContain(name);
  });

  it.each(TIMES.flatMap((name) => [-1, Number.NaN].map((n) => [name, n] as const)))(
    '%s %d',
    (name, value) => {
      const error = refusal({ [name]: value });
      expect(error?.code).toBe('INVALID_ARGUMENT');
      expect(error?.message).toContain(name);
    },
  );
});
