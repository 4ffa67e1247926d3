import { expect, it, vi } from 'vitest';
import { parseCapture } from '../../../src/guest/capture.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { madeUpCapture } from './captures.js';

const made = vi.hoisted(() => ({ layouts: 0 }));

/** Counts the layouts that are made: one has an object for every 4 GiB. */
vi.mock('../../../src/memory/ram-layout.js', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../../src/memory/ram-layout.js')>();
  return {
    ...original,
    RamLayout: class extends original.RamLayout {
      constructor(...args: ConstructorParameters<typeof original.RamLayout>) {
        made.layouts += 1;
        super(...args);
      }
    },
  };
});

const huge = 2 ** 52;

it.each<[string, object]>([
  ['a backing far beyond its pfns', { backing: [{ startGpa: 0, endGpa: huge }] }],
  [
    'a backing as large as it says memory is',
    {
      backing: [{ startGpa: 0, endGpa: huge }],
      memoryBytes: huge,
      counts: { pages: huge / 4096, free: 0 },
    },
  ],
  [
    'everything as large as it says',
    {
      backing: [{ startGpa: 0, endGpa: huge }],
      memoryBytes: huge,
      pfns: huge / 4096,
      counts: { pages: huge / 4096, free: 0 },
    },
  ],
  [
    'a backing of very many pieces',
    {
      pfns: 40_000,
      backing: Array.from({ length: 5000 }, (_, i) => ({
        startGpa: i * 32_768,
        endGpa: i * 32_768 + 4096,
      })),
      memoryBytes: 5000 * 4096,
      counts: { pages: 5000, free: 0 },
    },
  ],
  ['a backing that is not what it says memory is', { backing: [{ startGpa: 0, endGpa: 4096 }] }],
])('%s is refused before a layout is made of it', (_, changes) => {
  const { kpageflags, zero, meta } = madeUpCapture();
  made.layouts = 0;
  expect(() =>
    parseCapture(atomicMapper, { kpageflags, zero, meta: { ...meta, ...changes } }, 'hostile'),
  ).toThrow(/^hostile: /);
  expect(made.layouts).toBe(0);
  parseCapture(atomicMapper, madeUpCapture(), 'sound');
  expect(made.layouts).toBeGreaterThan(0); // so they are counted
});
