import { type Command, Option } from 'commander';
import { LacunaError } from '../../errors.js';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import { FREE_MEMORY_MODES, type FreeMemoryMode, growImage, syntheticImage } from '../../guest/image.js';
import { REPORT_MODES, type ReportMode } from '../../guest/runtime.js';
import { traceWorkload } from '../../guest/trace-replay.js';
import { IDLE_WORKLOAD, type WorkloadSpec } from '../../guest/workload.js';
import { MIB } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { SCHEDULES, type Schedule } from '../../migration/options.js';
import { BASELINES, type Baseline, type Shard } from '../../report/schema.js';
import { DEFAULT_RING_SIZE } from '../../vmm/worker-guest.js';
import { captureNames, loadGuest, type StoredGuest, traceNames } from '../captures.js';
import type { CliContext } from '../context.js';
import {
  parseFactor,
  parseLink,
  parseList,
  parseMemory,
  parseMs,
  parsePercent,
  parsePoison,
  parseRingSize,
  parseSeconds,
  parseShard,
  parseWhole,
} from '../units.js';
import { parseWorkload } from '../workload-option.js';
import { bench } from './bench.js';
import type { PlanRequest } from './plan.js';
import { MADE_UP_RUN_PAGES, pointsOf, SWEEP_NAMES, SWEEPS, type Sweep, type SweepName } from './sweeps.js';

interface BenchOptions {
  readonly guest?: readonly string[];
  readonly memory?: number;
  readonly growTo?: number;
  readonly free: number;
  readonly workload: WorkloadSpec;
  readonly at: number;
  readonly traceSpeed: number;
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
  readonly sweep?: SweepName;
  readonly values?: readonly string[];
  readonly shard?: Shard;
  readonly dryRun: boolean;
  readonly json: string;
  readonly html?: string;
  readonly svg?: string;
  readonly quiet: boolean;
}

const DEFAULT_GUESTS = ['build-2g', 'fragmented-2g'];
const DEFAULT_MADE_UP_BYTES = 512 * MIB;

const SWEEP_HELP = SWEEP_NAMES.map(
  (name) => `  ${name.padEnd(11)} ${SWEEPS[name].summary} (${SWEEPS[name].values.join(', ')})`,
).join('\n');

const HELP = `
Guests that come with lacuna: ${captureNames().join(', ')};
and in time, replayed while they are migrated: ${traceNames().join(', ')}.

Baselines:
  none    sends every page            zero    detects zero pages
  hints   skips pages hinted free     both    does both

Sweeps (hints against none, unless --baseline says more; in brackets the values, unless --values says others):
${SWEEP_HELP}
As they are they need 5 GiB of memory at the most and take a few minutes on two cores.
Guests of 8 GiB need 17 GiB. --dry-run shows what would be run.

Examples:
  $ lacuna bench
  $ lacuna bench --guest idle-8g cache-8g --baseline zero,both --link unlimited --free-memory data
  $ lacuna bench --memory 512MiB --workload dirty:50MB/s:64MiB --schedule wait --runs 5
  $ lacuna bench --guest idle-8g --grow-to 128GiB --baseline zero,both --link unlimited
  $ lacuna bench --guest trace-build-2g --at 40 --trace-speed 10
  $ lacuna bench --guest ./my-capture --min-order 10 --json my-report.json
  $ lacuna bench --sweep min-order --runs 3 --svg min-order.svg
  $ lacuna bench --sweep link --values 1gbit,unlimited --guest idle-8g
  $ lacuna bench --sweep ring-size --shard 2/4 --json part-2.json      (see lacuna report merge --help)

Exit codes: 0 every migration completed and was verified, 1 one was not, 2 wrong usage, 130 interrupted.`;

/** Adds `lacuna bench` to the program. */
export function addBenchCommand({ program, version, commandLine, signal, done }: CliContext): void {
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
      new Option('--grow-to <size>', 'gives captured guests more memory, of which nothing was ever used')
        .argParser(parseMemory)
        .conflicts('memory'),
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
      new Option('--at <seconds>', 'where in its trace a guest in time begins')
        .argParser(parseSeconds)
        .default(20_000, '20'),
    )
    .addOption(
      new Option(
        '--trace-speed <factor>',
        'how fast a trace is replayed: 10 is ten times as fast as it was taken',
      )
        .argParser(parseFactor)
        .default(1, '1'),
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
    .addOption(
      new Option('--sweep <what>', 'vary one thing, and compare at each of its values').choices(SWEEP_NAMES),
    )
    .option('--values <list>', "the sweep's values, if not its own: 0,4,10", (text) => text.split(','))
    .option('--shard <i/n>', 'the i-th of n parts of the plan, from 1: 1/4 … 4/4', parseShard)
    .option('--dry-run', 'show the plan and run nothing', false)
    .option('--json <file>', 'where the report goes', 'report.json')
    .option('--html <file>', 'the report as a page with charts, for the browser')
    .option('--svg <file>', 'where the charts of a sweep go')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async (options: BenchOptions, command: Command) => {
      done(
        await bench(
          {
            ...planRequestOf(options, (option) => command.getOptionValueSource(option) === 'cli'),
            shard: options.shard ?? null,
            dryRun: options.dryRun,
            json: options.json,
            html: options.html,
            svg: options.svg,
            quiet: options.quiet,
            version,
            command: commandLine,
          },
          signal,
        ),
      );
    });
}

/** What was asked for; `given` says which options were. Throws INVALID_ARGUMENT for what a sweep can't be told. */
function planRequestOf(options: BenchOptions, given: (option: string) => boolean): PlanRequest {
  const sweep = options.sweep === undefined ? undefined : SWEEPS[options.sweep];
  refuseContradictions(options, sweep, given);
  const madeUp = { memoryBytes: options.memory ?? DEFAULT_MADE_UP_BYTES, freeShare: options.free };
  return {
    guests: guestsOf(options, sweep, given),
    baselines: given('baseline') ? options.baseline : (sweep?.baselines ?? options.baseline),
    runs: options.runs,
    seed: options.seed,
    spec: {
      freeMemory: options.freeMemory,
      workload: options.workload,
      traceAtMs: options.at,
      traceSpeed: options.traceSpeed,
      schedule: options.schedule,
      minOrder: options.minOrder,
      reportMode: options.reportMode,
      ringSize: options.ringSize,
      initOnAlloc: options.initOnAlloc,
      pagePoison: options.pagePoison ?? null,
      link: options.link,
      downtimeLimitMs: given('downtimeLimit')
        ? options.downtimeLimit
        : (sweep?.downtimeLimitMs ?? options.downtimeLimit),
      destination: options.destination,
    },
    sweep: options.sweep && {
      name: options.sweep,
      points: pointsOf(options.sweep, options.values ?? SWEEPS[options.sweep].values, madeUp),
    },
  };
}

function refuseContradictions(
  options: BenchOptions,
  sweep: Sweep | undefined,
  given: (option: string) => boolean,
): void {
  const refuse = (what: string): never => {
    throw new LacunaError('INVALID_ARGUMENT', what);
  };
  if (sweep === undefined) {
    if (options.values !== undefined || options.svg !== undefined) {
      refuse(
        `${options.values === undefined ? '--svg' : '--values'} is of a sweep: say which, as in --sweep min-order`,
      );
    }
    return;
  }
  const varied = sweep.varies.find(given);
  if (varied !== undefined) {
    const option = varied.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    refuse(`--${option} can't be given beside --sweep ${options.sweep}, which varies it: use --values`);
  }
}

/** The guests of a plan; a sweep that makes one for each value replaces the one that stands for them here. */
function guestsOf(
  options: BenchOptions,
  sweep: Sweep | undefined,
  given: (option: string) => boolean,
): StoredGuest[] {
  const captures = options.guest ?? (sweep === undefined ? DEFAULT_GUESTS : sweep.guests);
  const madeUp = options.memory !== undefined || captures === undefined;
  const guests = madeUp
    ? [
        syntheticImage(atomicMapper, {
          memoryBytes: options.memory ?? DEFAULT_MADE_UP_BYTES,
          freeShare: options.free,
          freeRunPages: MADE_UP_RUN_PAGES,
        }),
      ]
    : captures.map(loadGuest);
  checkTraceOptions(guests, given, options);
  const { growTo } = options;
  return growTo === undefined ? guests : guests.map((guest) => grown(guest, growTo));
}

function grown(guest: StoredGuest, memoryBytes: number): StoredGuest {
  if (guest.trace !== undefined) {
    throw new LacunaError('INVALID_ARGUMENT', `--grow-to: ${guest.name} has the memory of its trace`);
  }
  return growImage(atomicMapper, guest, memoryBytes);
}

/** An option that would do nothing is refused, and so is a moment that a trace has not. */
function checkTraceOptions(
  guests: readonly StoredGuest[],
  given: (option: string) => boolean,
  { at, traceSpeed }: BenchOptions,
): void {
  const traces = guests.flatMap(({ trace }) => (trace === undefined ? [] : [trace]));
  if (traces.length === 0 && (given('at') || given('traceSpeed'))) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `--at and --trace-speed are for a guest in time: --guest ${traceNames().join(', ')}`,
    );
  }
  if (traces.length > 0 && given('workload')) {
    throw new LacunaError('INVALID_ARGUMENT', `--workload: ${traces[0]!.name} does what its trace says`);
  }
  for (const trace of traces) {
    traceWorkload(trace, at, traceSpeed);
  }
}
