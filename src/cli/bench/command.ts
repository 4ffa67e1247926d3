import { Option } from 'commander';
import { LacunaError } from '../../errors.js';
import { BASELINES, type Baseline, type Shard, TRANSPORTS, type Transport } from '../../report/schema.js';
import { captureNames, loadGuest, type StoredGuest, traceNames } from '../captures.js';
import type { CliContext } from '../context.js';
import {
  addGuestOptions,
  checkTraceOptions,
  DEFAULT_MADE_UP_BYTES,
  type GuestOptions,
  grownGuests,
  madeUpGuest,
} from '../guest-options.js';
import { parseLink, parseList, parseShard, parseWhole } from '../units.js';
import { bench } from './bench.js';
import type { PlanRequest } from './plan.js';
import { pointsOf, SWEEP_NAMES, SWEEPS, type Sweep, type SweepName } from './sweeps.js';

interface BenchOptions extends GuestOptions {
  readonly guest?: readonly string[];
  readonly baseline: readonly Baseline[];
  readonly link: { name: string; bytesPerSecond: number };
  readonly transport: Transport;
  readonly destination: 'touched' | 'untouched';
  readonly runs: number;
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
  $ lacuna bench --transport tcp --link unlimited --guest build-2g --baseline none,both
  $ lacuna bench --sweep min-order --runs 3 --svg min-order.svg
  $ lacuna bench --sweep link --values 1gbit,unlimited --guest idle-8g
  $ lacuna bench --sweep ring-size --shard 2/4 --json part-2.json      (see lacuna report merge --help)

Exit codes: 0 every migration completed and was verified, 1 one was not, 2 wrong usage, 130 interrupted.`;

/** Adds `lacuna bench` to the program. */
export function addBenchCommand({ program, version, commandLine, signal, done }: CliContext): void {
  const command = program
    .command('bench')
    .summary('measure what free page reporting saves')
    .description(
      'Migrates guests with the memory maps of real Linux machines, with and without free page ' +
        "reporting (hinting, in VIRTIO's terms), verifies every page, and shows what was saved.",
    )
    .option(
      '--guest <name|folder...>',
      'captures by name, or folders in their format (default: build-2g fragmented-2g)',
    );
  addGuestOptions(command)
    .addOption(
      new Option('--baseline <list>', 'what is compared')
        .argParser(parseList(BASELINES))
        .default([...BASELINES], BASELINES.join(',')),
    )
    .addOption(
      new Option('--link <rate>', 'the modelled link: unlimited, 1gbit, 10gbit, 125MB/s …')
        .argParser(parseLink)
        .default(parseLink('10gbit'), '10gbit'),
    )
    .addOption(
      new Option(
        '--transport <name>',
        'what carries it: memory (another thread), or tcp or tls to another process over loopback',
      )
        .choices(TRANSPORTS)
        .default('memory'),
    )
    .addOption(
      new Option('--destination <state>', "whether the destination's memory was touched before")
        .choices(['touched', 'untouched'])
        .default('touched'),
    )
    .option('--runs <n>', 'migrations for each guest and baseline', parseWhole(1, 1000), 2)
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
    .action(async (options: BenchOptions) => {
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
  if (options.transport !== 'memory' && options.growTo !== undefined) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `--grow-to: another process can't know which of the memory is there: use --transport memory`,
    );
  }
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
      dialect: options.dialect,
      ringSize: options.ringSize,
      initOnAlloc: options.initOnAlloc,
      pagePoison: options.pagePoison ?? null,
      link: options.link,
      transport: options.transport,
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
  const guests = madeUp ? [madeUpGuest(options)] : captures.map(loadGuest);
  checkTraceOptions(guests, given, options);
  return grownGuests(guests, options);
}
