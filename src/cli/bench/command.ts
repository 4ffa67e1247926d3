import { type Command, InvalidArgumentError, Option } from 'commander';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import {
  FREE_MEMORY_MODES,
  type FreeMemoryMode,
  type GuestImage,
  syntheticImage,
} from '../../guest/image.js';
import { REPORT_MODES, type ReportMode } from '../../guest/runtime.js';
import { IDLE_WORKLOAD, type WorkloadSpec } from '../../guest/workload.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { SCHEDULES, type Schedule } from '../../migration/options.js';
import { BASELINES, type Baseline } from '../../report/schema.js';
import { VIRTQ_MAX_SIZE } from '../../spec/virtio-ring.js';
import { DEFAULT_RING_SIZE } from '../../vmm/worker-guest.js';
import { captureNames, loadCapture } from '../captures.js';
import { parseList, parseMemory, parseMs, parsePoison, parseRate, parseWhole } from '../units.js';
import { parseWorkload } from '../workload-option.js';
import { bench } from './bench.js';

interface BenchOptions {
  readonly guest?: readonly string[];
  readonly memory?: number;
  readonly free: number;
  readonly workload: WorkloadSpec;
  readonly freeMemory: FreeMemoryMode;
  readonly baseline: readonly Baseline[];
  readonly schedule: Schedule;
  readonly minOrder: number;
  readonly reportMode: ReportMode;
  readonly ringSize: number;
  readonly initOnAlloc: boolean;
  readonly pagePoison: number | undefined;
  readonly link: { name: string; bytesPerSecond: number };
  readonly downtimeLimit: number;
  readonly destination: 'touched' | 'untouched';
  readonly runs: number;
  readonly seed: number;
  readonly json: string;
  readonly quiet: boolean;
}

const DEFAULT_GUESTS = ['build-2g', 'fragmented-2g'];

const HELP = `
Guests that come with lacuna: ${captureNames().join(', ')}.

Baselines:
  none    sends every page            zero    detects zero pages
  hints   skips pages hinted free     both    does both

Examples:
  $ lacuna bench
  $ lacuna bench --guest idle-8g cache-8g --baseline zero,both --link unlimited --free-memory data
  $ lacuna bench --memory 512MiB --workload dirty:50MB/s:64MiB --schedule wait --runs 5
  $ lacuna bench --guest ./my-capture --min-order 10 --json my-report.json

Exit codes: 0 every migration completed and was verified, 1 one was not, 2 wrong usage, 130 interrupted.`;

function parsePercent(text: string): number {
  const value = Number(text.replace(/%$/, ''));
  if (!(value >= 0 && value <= 95)) {
    throw new InvalidArgumentError('A share of memory from 0% to 95%.');
  }
  return value / 100;
}

function parseRingSize(text: string): number {
  const size = Number(text);
  if (!Number.isInteger(size) || size < 2 || size > VIRTQ_MAX_SIZE || (size & (size - 1)) !== 0) {
    throw new InvalidArgumentError(`A power of two from 2 to ${VIRTQ_MAX_SIZE}.`);
  }
  return size;
}

/** Adds `lacuna bench` to the program. `done` gets the exit code. */
export function addBenchCommand(
  program: Command,
  version: string,
  signal: AbortSignal,
  done: (code: number) => void,
): void {
  program
    .command('bench')
    .summary('measure what free page reporting saves')
    .description(
      'Migrates guests with the memory maps of real Linux machines, with and without free page ' +
        "reporting (hinting, in VIRTIO's terms), verifies every page, and shows what was saved.",
    )
    .option(
      '--guest <name|folder...>',
      'captures by name, or folders in their format (default: build-2g fragmented-2g)',
    )
    .addOption(
      new Option('--memory <size>', 'a made-up guest of this size instead')
        .argParser(parseMemory)
        .conflicts('guest'),
    )
    .addOption(
      new Option('--free <percent>', 'how much of a made-up guest is free')
        .argParser(parsePercent)
        .default(0.5, '50%'),
    )
    .addOption(
      new Option('--workload <spec>', 'halt, idle, dirty:RATE[:SET], churn:PAGES/S or pressure:PAGES/S')
        .argParser(parseWorkload)
        .default(IDLE_WORKLOAD, 'idle, 50 pages/s'),
    )
    .addOption(
      new Option('--free-memory <what>', 'what free pages hold')
        .choices(FREE_MEMORY_MODES)
        .default('captured'),
    )
    .addOption(
      new Option('--baseline <list>', 'what is compared')
        .argParser(parseList(BASELINES))
        .default([...BASELINES], BASELINES.join(',')),
    )
    .addOption(
      new Option('--schedule <name>', 'when pages are sent while hints come in')
        .choices(SCHEDULES)
        .default('adaptive'),
    )
    .option(
      '--min-order <n>',
      'smallest block that the guest reports, 2^n pages',
      parseWhole(0, MAX_ORDER),
      0,
    )
    .addOption(
      new Option(
        '--report-mode <mode>',
        'how the guest finds its free pages: reads the map, or allocates them',
      )
        .choices(REPORT_MODES)
        .default('walk'),
    )
    .option('--ring-size <n>', 'size of the free page queue', parseRingSize, DEFAULT_RING_SIZE)
    .option('--init-on-alloc', 'the guest zeroes every page that it allocates, as Linux may', false)
    .option(
      '--page-poison <value>',
      'the guest fills every page that it frees, as Linux may: 0xaa, 0 (init_on_free), 0x12345678',
      parsePoison,
    )
    .addOption(
      new Option('--link <rate>', 'the modelled link: unlimited, 1gbit, 10gbit, 125MB/s …')
        .argParser(parseLink)
        .default(parseLink('10gbit'), '10gbit'),
    )
    .option('--downtime-limit <ms>', 'the guest is stopped once the rest takes no longer', parseMs, 300)
    .addOption(
      new Option('--destination <state>', "whether the destination's memory was touched before")
        .choices(['touched', 'untouched'])
        .default('touched'),
    )
    .option('--runs <n>', 'migrations for each guest and baseline', parseWhole(1, 1000), 2)
    .option('--seed <n>', "seed of the guest's contents", parseWhole(0, 2 ** 32 - 1), 1)
    .option('--json <file>', 'where the report goes', 'report.json')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async (options: BenchOptions) => {
      done(
        await bench(
          {
            guests: guestsOf(options),
            baselines: options.baseline,
            runs: options.runs,
            json: options.json,
            quiet: options.quiet,
            seed: options.seed,
            version,
            command: ['lacuna', ...process.argv.slice(2)].join(' '),
            spec: {
              freeMemory: options.freeMemory,
              workload: options.workload,
              schedule: options.schedule,
              minOrder: options.minOrder,
              reportMode: options.reportMode,
              ringSize: options.ringSize,
              initOnAlloc: options.initOnAlloc,
              pagePoison: options.pagePoison ?? null,
              link: options.link,
              downtimeLimitMs: options.downtimeLimit,
              destination: options.destination,
            },
          },
          signal,
        ),
      );
    });
}

function parseLink(text: string): { name: string; bytesPerSecond: number } {
  return { name: text, bytesPerSecond: parseRate(text) };
}

function guestsOf(options: BenchOptions): GuestImage[] {
  if (options.memory !== undefined) {
    return [
      syntheticImage(atomicMapper, {
        memoryBytes: options.memory,
        freeShare: options.free,
        freeRunPages: 64,
      }),
    ];
  }
  return (options.guest ?? DEFAULT_GUESTS).map(loadCapture);
}
