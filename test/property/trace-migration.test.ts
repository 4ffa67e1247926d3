import fc from 'fast-check';
import { expect, it } from 'vitest';
import { imageBitmaps } from '../../src/guest/image.js';
import { LEDGER_METADATA } from '../../src/guest/ledger.js';
import { REPORT_MODES } from '../../src/guest/runtime.js';
import { traceEndMs } from '../../src/guest/trace.js';
import { parseTrace } from '../../src/guest/trace-file.js';
import { traceImage } from '../../src/guest/trace-player.js';
import { REPLAY_SAMPLE } from '../../src/memory/control-buffer.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { SCHEDULES } from '../../src/migration/options.js';
import { effort } from '../support/long.js';
import { expectHealthy, expectSameGuest, Machine, TestMigration } from '../support/machine.js';
import { busyTrace } from '../support/made-up-trace.js';
import { pagesIn } from '../unit/guest/small-guest.js';

/** 4 MiB; a sample every 20 ms, and a migration takes some 30 of them. */
const TRACE = parseTrace(
  atomicMapper,
  busyTrace({ pages: 1024, samples: 6, intervalMs: 20, changes: 40 }),
  'busy',
);

/** Lets the guest run until its trace has ended; what is free then is what the trace has free, but for its tables. */
function expectEndOfTrace(machine: Machine): void {
  machine.run(traceEndMs(TRACE) + 20, 0.5);
  const { guest, control } = machine;
  expect(control.words.load(REPLAY_SAMPLE)).toBe(TRACE.timesMs.length - 1);
  const expected = pagesIn(
    imageBitmaps(atomicMapper, traceImage(atomicMapper, TRACE, traceEndMs(TRACE))).free,
  ).filter((pfn) => guest!.ledger.version(pfn) !== LEDGER_METADATA);
  expect(pagesIn(guest!.allocator.free)).toEqual(expected);
  expectHealthy(machine);
}

it('is the same guest wherever its trace is interrupted, and goes on to the same end', () => {
  const moments = fc.record({
    beginMs: fc.double({ min: 0, max: 105, noNaN: true }),
    reportMode: fc.constantFrom(...REPORT_MODES),
    schedule: fc.constantFrom(...SCHEDULES),
    bytesPerSecond: fc.constantFrom(60e6, 100e6, 1e9),
    /** Calls the migration off after so many steps, if it is not over by then. */
    cancelAfter: fc.option(fc.integer({ min: 1, max: 400 }), { freq: 3, nil: undefined }),
  });
  fc.assert(
    fc.property(moments, ({ beginMs, reportMode, schedule, bytesPerSecond, cancelAfter }) => {
      const machine = Machine.boot({ trace: TRACE, reportMode });
      machine.run(beginMs, 0.5);
      const migration = new TestMigration(machine, { schedule, bytesPerSecond });
      for (let step = 0; !migration.source.done; step += 1) {
        if (step === cancelAfter) {
          migration.cancel();
        }
        migration.step();
      }
      if (migration.source.phase === 'cancelled') {
        expectEndOfTrace(machine);
      } else {
        expectSameGuest(migration);
        expectEndOfTrace(migration.destination);
      }
    }),
    effort(40, 8000),
  );
});
