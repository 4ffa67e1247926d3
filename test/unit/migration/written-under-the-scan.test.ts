import { expect, it, vi } from 'vitest';
import { Machine, TestMigration } from '../../support/machine.js';

// The guest runs while its pages are scanned: a page that is zero at one look need not be at the next. Here it never
// is: every second look at a page finds that the guest has just written it.
vi.mock(import('../../../src/memory/byte-ops.js'), async (original) => {
  const real = await original();
  let last = -1;
  return {
    ...real,
    isZeroPage: (bytes, byteOffset) => {
      const place = bytes.byteOffset + byteOffset;
      const again = place === last;
      last = again ? -1 : place;
      return !again && real.isZeroPage(bytes, byteOffset);
    },
  };
});

it('a page that is written between two looks at it leaves as a run of its own, never as an empty one', () => {
  const machine = Machine.boot({ freeMemory: 'zero' });
  const migration = new TestMigration(machine, { hints: false, zeroDetection: true }).run();
  expect(migration.source.error).toBeUndefined();
  expect(migration.source.phase).toBe('completed');
  expect(migration.source.sent.zeroPages).toBeGreaterThan(0);
});
