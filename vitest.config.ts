import { defineConfig } from 'vitest/config';
import { seeThrough } from './test/explorer/see-through.js';
import { MUTANTS } from './test/mutants/mutants.js';
import { mutate } from './test/mutants/mutate.js';
import { LONG } from './test/support/long.js';

/** One mistake in the sources, where `npm run mutants` asks for it. */
const mistake = MUTANTS.filter(({ name }) => name === process.env['LACUNA_MUTANT']).map(mutate);

/** Tests with modules of their own, some of them replaced or set otherwise; all others of their kind share what is loaded. */
const OWN_MODULES = [
  'test/conformance/*virtio.test.ts',
  'test/unit/guest/capture-sizes.test.ts',
  'test/unit/memory/byte-ops.test.ts',
  'test/unit/migration/written-under-the-scan.test.ts',
];

/** Integration tests that two at a time have room for. */
const NETWORK = [
  'test/integration/{network-*,streams,adoptions,compress*,page-digests,hostile-state,remote-destination}.test.ts',
];

export default defineConfig({
  plugins: mistake,
  test: {
    // Mutants need none of the built files.
    globalSetup: mistake.length > 0 ? [] : ['test/support/build.ts'],
    // Both of two cores: left to itself vitest keeps one free.
    maxWorkers: 2,
    testTimeout: LONG ? 3_600_000 : 60_000,
    hookTimeout: 60_000,
    // A CI service that asks for colours must not change what tables are compared with.
    env: { NO_COLOR: '1' },
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts', 'test/property/**/*.test.ts', 'test/conformance/**/*.test.ts'],
          exclude: OWN_MODULES,
          // Loading the sources for each file takes a third of the time that all of them take.
          isolate: false,
        },
      },
      { extends: true, test: { name: 'unit-alone', include: OWN_MODULES } },
      {
        extends: true,
        // Every interleaving of the real code, whose private fields it is shown; two files, for two cores.
        plugins: [seeThrough()],
        test: {
          name: 'explorer',
          include: ['test/explorer/**/*.test.ts'],
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        // Real threads and real memory: a file at a time, so that two cores and 8 GiB are enough.
        test: {
          name: 'threads',
          include: ['test/integration/**/*.test.ts'],
          exclude: NETWORK,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
      {
        extends: true,
        // The command in processes of its own, on small guests, and its HTML report in Chromium where there is one.
        test: {
          name: 'commands',
          include: ['test/commands/**/*.test.ts', 'test/browser/**/*.test.ts'],
          sequence: { groupOrder: 3 },
        },
      },
      {
        extends: true,
        // Sockets, streams and other processes, on small guests: they wait more than they work.
        test: {
          name: 'network',
          include: NETWORK,
          sequence: { groupOrder: 3 },
        },
      },
      {
        extends: true,
        // A real Linux in v86, where there is an image of it. The first file boots it; a guest on a busy machine takes its time.
        test: {
          name: 'linux',
          testTimeout: 180_000,
          hookTimeout: 240_000,
          include: ['test/linux/**/*.test.ts'],
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
