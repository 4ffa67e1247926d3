import { availableParallelism } from 'node:os';
import { InvalidArgumentError, Option } from 'commander';
import { LacunaError } from '../../errors.js';
import type { CliContext } from '../context.js';
import { ExitCode } from '../exit-code.js';
import { parseList, parseWhole } from '../units.js';
import { FAULT_KINDS, type FaultKind, faultsOf, type StressTransport, TRANSPORTS } from './plan.js';
import { stress } from './stress.js';

interface StressOptions {
  readonly seconds?: number;
  readonly migrations?: number;
  readonly seed?: number;
  readonly transport: StressTransport;
  readonly faults: readonly FaultKind[] | 'all';
  readonly case?: { first: number; last: number };
  readonly jobs: number;
  readonly json?: string;
  readonly quiet: boolean;
}

const DEFAULT_SECONDS = 60;
/** What a failure has left hanging may keep the process for as long as this. */
const LINGER_MS = 5000;
const MOST_CASES = 1e9;

const HELP = `
Faults:
  driver-hangs        never answers, falls silent in mid-report, or never acknowledges a stop
  driver-lies         declares pages free that it uses: it may lose those, and nothing else
  driver-floods       ranges, kicks or markers without end
  driver-corrupts     garbage in its ring
  driver-late         answers after a long pause, or under an old id
  vcpu-stuck          the vCPU reaches no safe point
  balloon             the balloon is resized in mid-report
  cancel              the migration is called off
  destination-refuses the destination refuses the device state, or to start the guest
Those of a link, with --transport memory only:
  transport-fails     the link breaks
  transport-stalls    the link takes nothing for a while, or for ever
  transport-splits    runs arrive in pieces
  reply-lost          the destination's "ready" or "started" is lost
  destination-dies    the destination's thread is ended
And with --transport tcp only:
  link-cuts           all connections break, at any moment, and can't be made again for a while, or for good
  link-silent         nothing arrives any more, and no connection is closed
  destination-restarts another destination takes the place of the one that was receiving
  hostile-peer        others connect to the destination: garbage, half a frame, tickets and hellos that are not right

A case is a fresh guest and all of its migrations. It follows from the seed, its number, --transport and --faults alone.

Examples:
  $ lacuna stress
  $ lacuna stress --migrations 5000 --json stress.json
  $ lacuna stress --transport tcp --seconds 300
  $ lacuna stress --faults cancel,transport-fails --seconds 600
  $ lacuna stress --seed 7 --case 123 --seconds 60      that case again and again

Exit codes: 0 nothing was lost, 1 something was wrong (and how to see it again), 2 wrong usage, 130 interrupted.`;

/** "all", "none", or kinds of faults. */
export function parseFaults(text: string): FaultKind[] | 'all' {
  if (text === 'all') {
    return 'all';
  }
  if (text === 'none') {
    return [];
  }
  const named = parseList(FAULT_KINDS)(text);
  return FAULT_KINDS.filter((kind) => named.includes(kind)); // in one order, whatever the user's: plans follow from it
}

/** What is meant by `--faults` with a transport. Throws INVALID_ARGUMENT for a kind that there is none of with it. */
export function faultsWith(
  transport: StressTransport,
  named: readonly FaultKind[] | 'all',
): readonly FaultKind[] {
  const there = faultsOf(transport);
  if (named === 'all') {
    return there;
  }
  const other = named.find((kind) => !there.includes(kind));
  if (other !== undefined) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `--faults: there is no "${other}" with --transport ${transport}, only ${there.join(', ')}`,
    );
  }
  return named;
}

/** "17" or "17..20". */
export function parseCases(text: string): { first: number; last: number } {
  const [first, last, ...more] = text.split('..').map((part) => parseWhole(1, MOST_CASES)(part));
  if (first === undefined || more.length > 0 || (last ?? first) < first) {
    throw new InvalidArgumentError('The number of a case, or the first and the last as in 17..20.');
  }
  return { first, last: last ?? first };
}

/** Adds `lacuna stress` to the program. */
export function addStressCommand({ program, version, commandLine, signal, done }: CliContext): void {
  program
    .command('stress')
    .summary('move guests at random, with faults, and check every page')
    .description(
      'Moves guests again and again, with random workloads, options and faults, and verifies after every ' +
        'migration that nothing was lost, that the guest is whole, and that it never runs twice.',
    )
    .addOption(
      new Option('--seconds <n>', `how long (default: ${DEFAULT_SECONDS})`)
        .argParser(parseWhole(1, 1e6))
        .conflicts('migrations'),
    )
    .addOption(
      new Option('--migrations <n>', 'how many migrations instead').argParser(parseWhole(1, MOST_CASES)),
    )
    .addOption(
      new Option(
        '--seed <n>',
        'everything but the timing of threads follows from it (default: a new one)',
      ).argParser(parseWhole(0, 2 ** 32 - 1)),
    )
    .addOption(
      new Option(
        '--transport <name>',
        'by what guests travel: within memory, or by TCP and TLS over loopback',
      )
        .choices(TRANSPORTS)
        .default('memory'),
    )
    .addOption(
      new Option('--faults <list>', 'what goes wrong: all, none, or some of the list below')
        .argParser(parseFaults)
        .default('all'),
    )
    .addOption(
      new Option(
        '--case <n|n..m>',
        'only these cases: once each, or again and again for --seconds or --migrations',
      ).argParser(parseCases),
    )
    .option(
      '--jobs <n>',
      'guests that are moved at the same time',
      parseWhole(1, 64),
      Math.min(4, availableParallelism()),
    )
    .option('--json <file>', 'write a report')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async (options: StressOptions) => {
      const { seconds, migrations, case: cases, seed, transport, faults, jobs, json, quiet } = options;
      const code = await stress(
        {
          seed: seed ?? Date.now() % 2 ** 32,
          transport,
          faults: faultsWith(transport, faults),
          seconds: seconds ?? (migrations === undefined && cases === undefined ? DEFAULT_SECONDS : undefined),
          migrations,
          cases,
          jobs,
          json,
          quiet,
          version,
          command: commandLine,
        },
        signal,
      );
      if (code === ExitCode.verificationFailed) {
        setTimeout(() => process.exit(code), LINGER_MS).unref();
      }
      done(code);
    });
}
