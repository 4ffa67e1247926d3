import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { MigrationOptions } from '../../src/migration/options.js';
import { AGAIN } from '../../src/migration/precopy.js';
import { effort } from '../support/long.js';
import { type Frame, Machine, TestMigration } from '../support/machine.js';

/*
 * A whole migration under a cap, frame by frame as the destination is handed them: what leaves in any second is counted
 * there, not by what the engine says that it has sent.
 */

interface Sent {
  readonly at: number;
  readonly bytes: number;
  readonly type: Frame['type'];
}

interface Capped {
  readonly migration: TestMigration;
  readonly sent: readonly Sent[];
  /** When the guest was asked to stop. */
  readonly stoppingAt: number;
}

/** Time that a step takes: the cap shows only where the engine is faster than it. */
const STEP_MS = 0.002;

/** Moves a machine whose guest goes on meanwhile; timers come late by one of `lateness` after the other. */
function moveCapped(
  machine: Machine,
  options: Partial<MigrationOptions>,
  lateness: readonly number[] = [0],
): Capped {
  const { clock } = machine;
  const migration = new TestMigration(machine, { hints: false, zeroDetection: false, ...options });
  const { source, tap, events } = migration;
  const sent: Sent[] = [];
  tap.onFrame = ({ type, bytes }) => {
    sent.push({ at: clock.now, bytes, type });
  };
  let stoppingAt = Number.NaN;
  for (let sleeps = 0; !source.done; ) {
    const until = source.step();
    if (Number.isNaN(stoppingAt) && events.some(({ type }) => type === 'stopping')) {
      stoppingAt = clock.now;
    }
    const seen = machine.event.value();
    let wakeAt = clock.now + STEP_MS;
    if (until !== AGAIN) {
      wakeAt = Math.max(clock.now, until) + lateness[sleeps % lateness.length]!;
      sleeps += 1;
    }
    do {
      const idleMs = machine.step();
      clock.now = Math.min(wakeAt, clock.now + Math.max(STEP_MS, idleMs));
    } while (clock.now < wakeAt && machine.event.value() === seen);
  }
  expect(source.error?.message).toBeUndefined();
  expect(source.transferredBytes).toBe(
    sent.reduce((sum, { bytes, type }) => sum + (type === 'commit' ? 0 : bytes), 0),
  );
  return { migration, sent, stoppingAt };
}

/** No second has more than 1.02 × what a link carries in it that has one rate until the guest is asked to stop, and then another. */
function expectCapped({ sent, stoppingAt }: Capped, rate: number, last: number = rate): void {
  const carriedUpTo = (ms: number): number =>
    (Math.min(ms, stoppingAt) * rate + Math.max(0, ms - stoppingAt) * last) / 1000;
  const worst = { share: 0, at: Number.NaN };
  for (let first = 0, next = 0, bytes = 0; first < sent.length; first += 1) {
    const { at } = sent[first]!;
    for (; next < sent.length && sent[next]!.at <= at + 1000; next += 1) {
      bytes += sent[next]!.bytes;
    }
    // Of the part of a second that is left at the end, as much as of a whole one.
    const share =
      (bytes - (carriedUpTo(at + 1000) - carriedUpTo(at))) / (at <= stoppingAt ? Math.max(rate, last) : last);
    if (share > worst.share) {
      Object.assign(worst, { share, at });
    }
    bytes -= sent[first]!.bytes;
  }
  expect(worst.share, `of a second's bytes too many from ${worst.at} on`).toBeLessThanOrEqual(0.02);
}

/** Where there was always enough to send, no second has less than 0.98 × the rate. */
function expectUsed({ sent }: Capped, rate: number, from: number, to: number): void {
  const within = sent.filter(({ at }) => at >= from && at <= to);
  for (let first = 0, next = 0, bytes = 0; first < within.length; first += 1) {
    const after = within[first]!.at; // the second begins just after this frame, and ends just before another
    bytes -= first === 0 ? 0 : within[first]!.bytes;
    for (
      next = Math.max(next, first + 1);
      next < within.length && within[next]!.at < after + 1000;
      next += 1
    ) {
      bytes += within[next]!.bytes;
    }
    if (after + 1000 <= to) {
      expect(bytes, `from ${after} on`).toBeGreaterThanOrEqual(rate * 0.98);
    }
  }
}

const busy = (bytesPerSecond: number) =>
  ({ kind: 'dirty', bytesPerSecond, workingSetBytes: 400 * 4096 }) as const;
const somePauses = fc.array(fc.double({ min: 0, max: 4, noNaN: true }), { minLength: 1, maxLength: 8 });

describe('a migration under a cap', () => {
  it('keeps within 2 % of it over any second, the last round included', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0.5e6, max: 3e6, noNaN: true }),
        fc.constantFrom(1, 7, 256),
        fc.boolean(),
        somePauses,
        (rate, maxRunPages, zeroDetection, lateness) => {
          const machine = Machine.boot({ workload: busy(rate * 0.9) });
          const options = {
            bytesPerSecond: rate,
            maxRunPages,
            zeroDetection,
            maxRounds: 2,
            downtimeLimitMs: 0,
          };
          const capped = moveCapped(machine, options, lateness);
          expectCapped(capped, rate);
          const { rounds } = capped.migration.source;
          expect(rounds.at(-1)!.bytes).toBeGreaterThan(400 * 4096 * 0.5);
          expectUsed(capped, rate, rounds[0]!.startedAt, rounds.at(-1)!.endedAt);
        },
      ),
      effort(8, 6000),
    );
  });

  it('sends the last round at the rate of the switchover, slower or faster, from when the guest is asked to stop', () => {
    fc.assert(
      fc.property(fc.constantFrom(0.5, 0.8, 2, 5), somePauses, (factor, lateness) => {
        const rate = 2e6;
        const last = rate * factor;
        const machine = Machine.boot({ workload: busy(3e6) });
        const options = { bytesPerSecond: rate, switchoverBytesPerSecond: last, maxRounds: 2 };
        const capped = moveCapped(machine, options, lateness);
        expectCapped(capped, rate, last);
        const { source } = capped.migration;
        const final = source.rounds.at(-1)!;
        expect(final.bytes).toBeGreaterThan(300 * 4096);
        const ms = final.endedAt - final.startedAt;
        // What was in the queue when it began goes before it, and it ends when its last frame is in the queue.
        expect(Math.abs(ms - (final.bytes / last) * 1000)).toBeLessThan(20 * Math.max(1, 1 / factor));
      }),
      effort(12, 4000),
    );
  });

  it('lets the last round go as fast as it can where its cap is lifted', () => {
    const options = {
      bytesPerSecond: 1e6,
      switchoverBytesPerSecond: Number.POSITIVE_INFINITY,
      maxRounds: 2,
    };
    const { migration } = moveCapped(Machine.boot({ workload: busy(2e6) }), options);
    const final = migration.source.rounds.at(-1)!;
    expect(final.pending).toBeGreaterThan(300);
    expect(final.endedAt - final.startedAt).toBeLessThan(5);
  });

  it('holds a large device state back until the link would have carried it', () => {
    const machine = Machine.boot({ workload: busy(0.5e6) });
    const save = machine.saveDeviceState.bind(machine);
    let saved = 0;
    machine.saveDeviceState = () => {
      saved += 1;
      const state = save();
      const padded = new Uint8Array(300_000).fill(0x20); // JSON may end with spaces
      padded.set(state);
      return padded;
    };
    const capped = moveCapped(machine, { bytesPerSecond: 1e6, maxRounds: 1 });
    expectCapped(capped, 1e6);
    const state = capped.sent.find(({ type }) => type === 'state')!;
    const before = capped.sent.findLast(({ type }) => type === 'pages')!;
    expect(state.bytes).toBe(300_032);
    expect(state.at - before.at).toBeGreaterThan(290);
    const commit = capped.sent.at(-1)!;
    expect(commit.type).toBe('commit');
    expect(commit.at - state.at).toBeLessThan(10); // its time has passed by then
    expect(saved).toBe(1);
  });

  it('counts the frames of pages that it has filled meanwhile, too', () => {
    const machine = Machine.boot({
      pages: 8192,
      free: Array.from({ length: 1500 }, (_, i) => [1024 + i * 4, 2] as const),
      pagePoison: 0xaaaa_aaaa,
      workload: { kind: 'halt' },
      ringSize: 2048,
    });
    // 1500 fills of 32 bytes are 96 ms of the link, and all of them are due at once.
    const capped = moveCapped(machine, { hints: true, schedule: 'wait', bytesPerSecond: 0.5e6 });
    expectCapped(capped, 0.5e6);
    const fills = capped.sent.filter(({ type }) => type === 'fill');
    expect(fills.length).toBeGreaterThan(1000);
    const lastPages = capped.sent.findLast(({ type }) => type === 'pages')!;
    expect(fills.filter(({ at }) => at < lastPages.at).length).toBeGreaterThan(1000); // while the link was busy
  });
});
