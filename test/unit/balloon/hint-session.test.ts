import { beforeEach, describe, expect, it } from 'vitest';
import {
  HintSession,
  HintState,
  type HintStateName,
  nextCommandId,
} from '../../../src/balloon/hint-session.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { FIRST_COMMAND_ID, LAST_COMMAND_ID } from '../../../src/spec/command-register.js';
import { Collector } from '../../support/machine.js';

const ID = 7;

/** A session that was brought to `state`, in the only way that leads there. */
function sessionIn(state: HintStateName): { session: HintSession; collector: Collector } {
  const session = new HintSession();
  const collector = new Collector();
  if (state !== HintState.closed) {
    session.open(ID, collector, 1);
  }
  if (state === HintState.reporting || state === HintState.done) {
    session.marker(4, ID, 2);
  }
  if (state === HintState.done) {
    session.marker(4, 0, 3);
  }
  expect(session.state).toBe(state);
  return { session, collector };
}

type Happening = 'open' | 'close' | 'its id' | 'another id' | 'the stop sign' | 'an odd outbuf';

const happenings: Record<Happening, (session: HintSession) => void> = {
  open: (session) => session.open(ID + 1, new Collector(), 9),
  close: (session) => session.close(),
  'its id': (session) => session.marker(4, ID, 9),
  'another id': (session) => session.marker(4, ID - 1, 9),
  'the stop sign': (session) => session.marker(4, 0, 9),
  'an odd outbuf': (session) => session.marker(8, ID, 9),
};

const transitions: readonly [HintStateName, Happening, HintStateName, string?][] = [
  ['closed', 'open', 'requested'],
  ['closed', 'close', 'closed'],
  ['closed', 'its id', 'closed', 'staleMarkers'],
  ['closed', 'another id', 'closed', 'staleMarkers'],
  ['closed', 'the stop sign', 'closed', 'staleMarkers'],
  ['closed', 'an odd outbuf', 'closed', 'rejected'],
  ['requested', 'open', 'requested'],
  ['requested', 'close', 'closed'],
  ['requested', 'its id', 'reporting'],
  ['requested', 'another id', 'requested', 'staleMarkers'],
  ['requested', 'the stop sign', 'requested', 'staleMarkers'],
  ['requested', 'an odd outbuf', 'requested', 'rejected'],
  ['reporting', 'open', 'requested'],
  ['reporting', 'close', 'closed'],
  ['reporting', 'its id', 'done', 'staleMarkers'],
  ['reporting', 'another id', 'done', 'staleMarkers'],
  ['reporting', 'the stop sign', 'done'],
  ['reporting', 'an odd outbuf', 'reporting', 'rejected'],
  ['done', 'open', 'requested'],
  ['done', 'close', 'closed'],
  ['done', 'its id', 'done', 'staleMarkers'],
  ['done', 'another id', 'done', 'staleMarkers'],
  ['done', 'the stop sign', 'done', 'staleMarkers'],
  ['done', 'an odd outbuf', 'done', 'rejected'],
];

describe('transitions', () => {
  it.each(transitions)('%s, %s → %s', (from, happening, to, counted) => {
    const { session } = sessionIn(from);
    happenings[happening](session);
    expect(session.state).toBe(to);
    const none = { ranges: 0, stale: 0, rejected: 0, staleMarkers: 0 };
    expect(session.counts).toEqual(counted === undefined ? none : { ...none, [counted]: 1 });
  });

  it('lists every happening in every state once', () => {
    const states = Object.values(HintState);
    expect(new Set(transitions.map(([from, what]) => `${from} ${what}`)).size).toBe(states.length * 6);
    expect(transitions).toHaveLength(states.length * 6);
  });

  it.each(Object.values(HintState))('a range counts in reporting only: %s', (state) => {
    const { session, collector } = sessionIn(state);
    session.range(5 * PAGE_SIZE, 3 * PAGE_SIZE, 9);
    const counts = state === HintState.reporting;
    expect(collector.pages).toEqual(counts ? [5, 6, 7] : []);
    expect(session.counts).toMatchObject({ ranges: counts ? 1 : 0, stale: counts ? 0 : 3 });
  });

  it('a session that was opened anew belongs to the new sink alone', () => {
    const { session, collector } = sessionIn('reporting');
    const next = new Collector();
    session.open(ID + 1, next, 4);
    session.range(0, PAGE_SIZE, 5);
    session.marker(4, ID, 5);
    session.range(0, PAGE_SIZE, 5);
    session.marker(4, ID + 1, 5);
    session.range(PAGE_SIZE, PAGE_SIZE, 5);
    expect(collector.pages).toEqual([]);
    expect(next.pages).toEqual([1]);
  });
});

describe('what it notes', () => {
  let session: HintSession;

  beforeEach(() => {
    session = new HintSession();
    session.open(ID, { hint: (_, lengthBytes) => lengthBytes >= PAGE_SIZE }, 10);
  });

  it('when things happened, and NaN until they have', () => {
    expect(session.times).toEqual({ requestedAt: 10, startedAt: NaN, firstRangeAt: NaN, doneAt: NaN });
    session.marker(4, ID, 11);
    session.range(0, PAGE_SIZE, 12);
    session.range(0, PAGE_SIZE, 13);
    session.marker(4, 0, 14);
    session.marker(4, 0, 15);
    expect(session.times).toEqual({ requestedAt: 10, startedAt: 11, firstRangeAt: 12, doneAt: 14 });
    session.open(ID + 1, new Collector(), 20);
    expect(session.times).toEqual({ requestedAt: 20, startedAt: NaN, firstRangeAt: NaN, doneAt: NaN });
  });

  it('a range that its sink refuses', () => {
    session.marker(4, ID, 11);
    session.range(0, 100, 12);
    expect(session.counts).toMatchObject({ ranges: 0, rejected: 1 });
  });
});

describe('nextCommandId', () => {
  it.each([
    [2, 3],
    [3, 4],
    [0x7fff_ffff, 0x8000_0000],
    [LAST_COMMAND_ID - 1, LAST_COMMAND_ID],
    [LAST_COMMAND_ID, FIRST_COMMAND_ID],
    [0, FIRST_COMMAND_ID],
    [1, FIRST_COMMAND_ID],
  ])('after %i comes %i', (id, next) => {
    expect(nextCommandId(id)).toBe(next);
  });
});
