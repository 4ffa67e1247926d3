import { type Command, Option } from 'commander';
import { DIALECTS, type Dialect } from '../balloon/dialect.js';
import { LacunaError } from '../errors.js';
import { MAX_ORDER } from '../guest/buddy-allocator.js';
import { FREE_MEMORY_MODES, type FreeMemoryMode, growImage, syntheticImage } from '../guest/image.js';
import { REPORT_MODES, type ReportMode } from '../guest/runtime.js';
import { traceWorkload } from '../guest/trace-replay.js';
import { IDLE_WORKLOAD, type WorkloadSpec } from '../guest/workload.js';
import { MIB } from '../memory/page.js';
import { atomicMapper } from '../memory/shared-words.js';
import { SCHEDULES, type Schedule } from '../migration/options.js';
import { DEFAULT_RING_SIZE } from '../vmm/worker-guest.js';
import { type StoredGuest, traceNames } from './captures.js';
import {
  parseFactor,
  parseMemory,
  parseMs,
  parsePercent,
  parsePoison,
  parseRingSize,
  parseSeconds,
  parseWhole,
} from './units.js';
import { parseWorkload } from './workload-option.js';

/** What the commands that migrate guests of their own are told about them: all but which guest it is. */
export interface GuestOptions {
  readonly memory?: number;
  readonly growTo?: number;
  readonly free: number;
  readonly workload: WorkloadSpec;
  readonly at: number;
  readonly traceSpeed: number;
  readonly freeMemory: FreeMemoryMode;
  readonly schedule: Schedule;
  readonly minOrder: number;
  readonly reportMode: ReportMode;
  readonly dialect: Dialect;
  readonly ringSize: number;
  readonly initOnAlloc: boolean;
  readonly pagePoison: number | undefined;
  readonly downtimeLimit: number;
  readonly seed: number;
}

/** A made-up guest, where its size is not said. */
export const DEFAULT_MADE_UP_BYTES: number = 512 * MIB;
/** Runs of a made-up guest's free memory: blocks of 256 KiB. */
export const MADE_UP_RUN_PAGES = 64;

/** Adds {@link GuestOptions} to a command, which has a `--guest` of its own. */
export function addGuestOptions(command: Command): Command {
  return command
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
    .addOption(
      new Option('--dialect <name>', "which the guest's balloon driver speaks: the mail's, or VIRTIO's")
        .choices(DIALECTS)
        .default('command-register'),
    )
    .option('--ring-size <n>', 'size of the free page queue', parseRingSize, DEFAULT_RING_SIZE)
    .option('--init-on-alloc', 'the guest zeroes every page that it allocates, as Linux may', false)
    .option(
      '--page-poison <value>',
      'the guest fills every page that it frees, as Linux may: 0xaa, 0 (init_on_free), 0x12345678',
      parsePoison,
    )
    .option('--downtime-limit <ms>', 'the guest is stopped once the rest takes no longer', parseMs, 300)
    .option('--seed <n>', "seed of the guest's contents", parseWhole(0, 2 ** 32 - 1), 1);
}

/** A guest of no machine: it is as large and as free as was asked for. */
export function madeUpGuest({ memory, free }: GuestOptions): StoredGuest {
  return syntheticImage(atomicMapper, {
    memoryBytes: memory ?? DEFAULT_MADE_UP_BYTES,
    freeShare: free,
    freeRunPages: MADE_UP_RUN_PAGES,
  });
}

/** Guests with the memory that `--grow-to` gives them. Throws INVALID_ARGUMENT for those that can't have more. */
export function grownGuests(guests: readonly StoredGuest[], { growTo }: GuestOptions): StoredGuest[] {
  return growTo === undefined ? [...guests] : guests.map((guest) => grown(guest, growTo));
}

function grown(guest: StoredGuest, memoryBytes: number): StoredGuest {
  if (guest.trace !== undefined) {
    throw new LacunaError('INVALID_ARGUMENT', `--grow-to: ${guest.name} has the memory of its trace`);
  }
  return growImage(atomicMapper, guest, memoryBytes);
}

/** An option that would do nothing is refused, and so is a moment that a trace has not. `given` says which were given. */
export function checkTraceOptions(
  guests: readonly StoredGuest[],
  given: (option: string) => boolean,
  { at, traceSpeed }: GuestOptions,
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
