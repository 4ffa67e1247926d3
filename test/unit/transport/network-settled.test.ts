import { describe, expect, it } from 'vitest';
import { connectError } from '../../../src/transport/network/open-control.js';
import { type Outcome, SettledMigrations } from '../../../src/transport/network/settled-migrations.js';

const STARTED: Outcome = { type: 'started', startedAt: 5 };
const KEPT_TOO_LONG: Outcome = { type: 'voided', reason: 'nobody came', final: false };

describe('what became of migrations', () => {
  it('is the first outcome, for ever (I10)', () => {
    const settled = new SettledMigrations();
    settled.settle('a', { type: 'voided', reason: 'called off', final: true });
    settled.settle('a', STARTED);
    expect(settled.get('a')).toMatchObject({ type: 'voided' });
    expect(settled.reopen('a')).toBe(false);
    settled.settle('b', STARTED);
    expect(settled.reopen('b')).toBe(false);
    expect(settled.get('b')).toEqual(STARTED);
  });

  it('may begin anew if its source was never told', () => {
    const settled = new SettledMigrations();
    settled.settle('a', KEPT_TOO_LONG);
    expect(settled.reopen('a')).toBe(true);
    expect(settled.get('a')).toBeUndefined();
    settled.settle('a', KEPT_TOO_LONG);
    expect(settled.tell('a')).toEqual(KEPT_TOO_LONG);
    expect(settled.reopen('a')).toBe(false); // it was, and its guest may run there again
    expect(settled.get('a')).toMatchObject({ final: true });
  });

  it('is forgotten when 1024 others have come since', () => {
    const settled = new SettledMigrations();
    for (let i = 0; i < 1025; i += 1) {
      settled.settle(`${i}`, STARTED);
    }
    expect(settled.get('0')).toBeUndefined();
    expect(settled.get('1')).toEqual(STARTED);
    expect(settled.tell('unheard of')).toBeUndefined();
    expect(settled.reopen('unheard of')).toBe(true);
  });
});

it.each([
  ['ECONNREFUSED', /nobody listens at there:7/],
  ['ENOTFOUND', /no host of the name there/],
  ['EAI_AGAIN', /name server/],
  ['EHOSTUNREACH', /no route leads there/],
  ['ENETUNREACH', /no route to its network/],
  ['ETIMEDOUT', /firewall/],
  ['ECONNRESET', /broke the connection off/],
  ['EWHATEVER', /can't connect to there:7: EWHATEVER/],
])('%s in words', (code, words) => {
  const error = connectError(Object.assign(new Error(code), { code }), 'there', 7);
  expect(error).toMatchObject({ code: 'CONNECTION_FAILED', message: expect.stringMatching(words) });
});
