import { InvalidArgumentError, Option } from 'commander';
import { LacunaError } from '../../errors.js';
import { STALL_ACTIONS, type StallAction } from '../../migration/convergence.js';
import { DEFAULT_OPTIONS, type MigrationOptions, MOST_THROTTLE } from '../../migration/options.js';
import type { Baseline } from '../../report/schema.js';
import { COMPRESSION_MODES, type CompressionMode } from '../../transport/network/compression-policy.js';
import { MOST_STREAMS } from '../../wire/frames.js';
import { captureNames, loadGuest, type StoredGuest, traceNames } from '../captures.js';
import type { CliContext } from '../context.js';
import {
  addGuestOptions,
  checkTraceOptions,
  type GuestOptions,
  grownGuests,
  madeUpGuest,
} from '../guest-options.js';
import type { SendLinuxRequest } from '../linux/send-linux.js';
import {
  addVmmOptions,
  DEFAULT_MACHINE_BYTES,
  refuseOptions,
  V86_ONLY,
  type VmmOptions,
} from '../linux/vmm-options.js';
import { addTlsOptions, type TlsOptions, tlsSettingsOf } from '../tls-options.js';
import {
  type HostPort,
  parseEndpoint,
  parseLink,
  parseListenEndpoint,
  parseRate,
  parseSeconds,
  parseWhole,
} from '../units.js';
import { resume } from './resume.js';
import { type SendRequest, send } from './send.js';

interface SendOptions extends GuestOptions, TlsOptions, VmmOptions {
  readonly to?: HostPort;
  readonly guest?: string;
  readonly channels: number;
  readonly compress: CompressionMode;
  readonly maxBandwidth: { name: string; bytesPerSecond: number };
  readonly maxSwitchoverBandwidth?: number;
  readonly onStall: StallAction;
  readonly maxThrottle: number;
  readonly hints: boolean;
  readonly zeroDetection: boolean;
  readonly recoveryTimeout: number;
  readonly after?: number;
  readonly stay: boolean;
  readonly resume?: string | true;
  readonly override: boolean;
  readonly wait: number;
  readonly metrics?: HostPort;
  readonly json?: string;
  readonly html?: string;
  readonly quiet: boolean;
}

const DEFAULT_GUEST = 'build-2g';

const HELP = `
Boots a guest, lets it run, and moves it to a machine (or a terminal) where lacuna receive listens. Guests that come with
lacuna: ${captureNames().join(', ')}; in time: ${traceNames().join(', ')}.

Until the commit has left, whatever fails leaves the guest running here; without --stay it then ends with this command,
after it has checked itself. A link that breaks is tried again for as long as --recovery-timeout says.

Once the commit has left, the guest is the destination's. If it does not answer, this process stays, with the guest
stopped, and goes on asking. Its migration's id is what to tell another terminal:

  $ lacuna send --resume                 lists the migrations that are under way here
  $ lacuna send --resume ID              has the destination void the commit if it did not start the guest; by its answer
                                         the guest goes on here, or runs there. Without an answer nothing changes.
  $ lacuna send --resume ID --override   lets the guest go on here without an answer. These are your words for it: "I have
                                         made sure that this guest does not run at the destination, and never will."
                                         If they are wrong it runs twice, on the same disks and addresses.

A guest that was resumed so goes on in the process that sent it, until Ctrl-C.

With --vmm v86 the guest is a real Linux (lacuna linux image says of what), with its console at this terminal, and goes to a
lacuna receive --vmm v86. Ctrl-] m moves it, Ctrl-] q ends it; Ctrl-C is the guest's.

Examples:
  $ lacuna send --to 127.0.0.1:7000
  $ lacuna send --to 10.0.0.2:7000 --guest trace-build-2g --channels 2 --tls-psk key.txt
  $ lacuna send --to 127.0.0.1:7000 --vmm v86 --memory 256MiB
  $ lacuna send --to [fd00::2]:7000 --memory 512MiB --workload dirty:50MB/s:64MiB --max-bandwidth 1gbit

Exit codes: 0 the guest runs at the destination, 1 it does not (it went on here), 2 wrong usage, 3 a commit was sent and
never answered: overridden, or given up; 130 interrupted before the commit (it went on here). With --resume: 0 it is
known where the guest runs, 1 there is nothing to resume, 3 no answer.`;

/** Adds `lacuna send` to the program. */
export function addSendCommand({ program, version, commandLine, signal, done }: CliContext): void {
  const command = program
    .command('send')
    .summary('move a guest to where lacuna receive listens')
    .description('Boots a guest with the memory map of a real Linux machine, and moves it while it runs.')
    .option('--to <host:port>', 'where lacuna receive listens', parseEndpoint)
    .option(
      '--guest <name|folder>',
      `a capture by name, or a folder in their format (default: ${DEFAULT_GUEST})`,
    );
  addGuestOptions(command)
    .option(
      '--channels <n>',
      'connections that carry pages, each with a thread',
      parseWhole(1, MOST_STREAMS),
      1,
    )
    .addOption(
      new Option(
        '--compress <mode>',
        'whether pages are compressed; auto: while that is faster than the link',
      )
        .choices(COMPRESSION_MODES)
        .default('off'),
    )
    .addOption(
      new Option('--max-bandwidth <rate>', 'a cap over all channels: 1gbit, 125MB/s …')
        .argParser(parseLink)
        .default(parseLink('unlimited'), 'unlimited'),
    )
    .addOption(
      new Option(
        '--max-switchover-bandwidth <rate>',
        'the cap while the guest is stopped, if it is another',
      ).argParser(parseRate),
    )
    .addOption(
      new Option('--on-stall <what>', 'if the guest writes faster than its pages are sent')
        .choices(STALL_ACTIONS)
        .default(DEFAULT_OPTIONS.onStall),
    )
    .addOption(
      new Option('--max-throttle <percent>', 'with --on-stall throttle: how much of its time it may lose')
        .argParser(parseThrottle)
        .default(DEFAULT_OPTIONS.throttleMax, '80%'),
    )
    .option('--no-hints', "don't ask the guest for its free pages")
    .option('--no-zero-detection', "don't look for pages that are zero")
    .addOption(
      new Option('--recovery-timeout <seconds>', 'how long a link that broke is tried again')
        .argParser(parseSeconds)
        .default(60_000, '60'),
    );
  addVmmOptions(command).option(
    '--after <seconds>',
    'with --vmm v86: move it after so long (default: at Ctrl-] m, or 3 s without a terminal)',
    parseSeconds,
  );
  addTlsOptions(command, 'source')
    .option('--stay', 'a guest that did not arrive goes on in this process until Ctrl-C', false)
    .addOption(
      new Option('--resume [id]', 'about a commit that is not answered: see below').conflicts([
        'to',
        'guest',
        'memory',
      ]),
    )
    .option('--override', 'with --resume: without an answer', false)
    .addOption(
      new Option('--wait <seconds>', 'with --resume: how long an answer is waited for')
        .argParser(parseWait)
        .default(10_000, '10'),
    )
    .option('--metrics <host:port>', 'serve Prometheus metrics there', parseListenEndpoint)
    .option('--json <file>', 'where the report goes')
    .option('--html <file>', 'the report as a page with charts, for the browser')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async (options: SendOptions) => {
      const { resume: migration, override, wait: waitMs } = options;
      if (migration !== undefined) {
        done(await resume({ migration, override, waitMs }));
        return;
      }
      if (override) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          '--override is for a migration under way: --resume ID --override',
        );
      }
      const given = (option: string): boolean => command.getOptionValueSource(option) === 'cli';
      if (options.vmm === 'v86') {
        refuseOptions('v86', LACUNA_ONLY, given);
        const { imageFor } = await import('../linux/image/command.js');
        const { sendLinux } = await import('../linux/send-linux.js');
        const image = await imageFor(options, signal);
        done(await sendLinux({ ...linuxRequestOf(options), image, version, command: commandLine }, signal));
        return;
      }
      refuseOptions('lacuna', [...V86_ONLY, 'after'], given);
      done(await send({ ...sendRequestOf(options, given), version, command: commandLine }, signal));
    });
}

const LONGEST_WAIT_MS = 600_000;

function parseWait(text: string): number {
  const ms = parseSeconds(text);
  if (ms > LONGEST_WAIT_MS) {
    throw new InvalidArgumentError(`At most ${LONGEST_WAIT_MS / 1000} seconds.`);
  }
  return ms;
}

/** "60%", "60": a share of the time. */
function parseThrottle(text: string): number {
  return parseWhole(1, MOST_THROTTLE * 100)(text.replace(/%$/, '')) / 100;
}

function sendRequestOf(
  options: SendOptions,
  given: (option: string) => boolean,
): Omit<SendRequest, 'version' | 'command'> {
  const to = destinationOf(options);
  const tls = tlsSettingsOf(options);
  return {
    to,
    tls,
    streams: options.channels,
    compression: options.compress,
    spec: {
      image: guestOf(options, given),
      traceAtMs: options.at,
      traceSpeed: options.traceSpeed,
      freeMemory: options.freeMemory,
      workload: options.workload,
      baseline: baselineOf(options),
      schedule: options.schedule,
      minOrder: options.minOrder,
      reportMode: options.reportMode,
      dialect: options.dialect,
      ringSize: options.ringSize,
      initOnAlloc: options.initOnAlloc,
      pagePoison: options.pagePoison ?? null,
      link: options.maxBandwidth,
      transport: tls === undefined ? 'tcp' : 'tls',
      downtimeLimitMs: options.downtimeLimit,
      destination: 'untouched',
      seed: options.seed,
    },
    options: migrationOptionsOf(options),
    stay: options.stay,
    metrics: options.metrics,
    json: options.json,
    html: options.html,
    quiet: options.quiet,
  };
}

function migrationOptionsOf(options: SendOptions): Partial<MigrationOptions> {
  return {
    recoveryTimeoutMs: options.recoveryTimeout,
    onStall: options.onStall,
    throttleMax: options.maxThrottle,
    throttleInitial: Math.min(DEFAULT_OPTIONS.throttleInitial, options.maxThrottle),
    switchoverBytesPerSecond: options.maxSwitchoverBandwidth,
  };
}

/** What is for lacuna's own guests only. */
const LACUNA_ONLY = [
  'guest',
  'growTo',
  'free',
  'workload',
  'at',
  'traceSpeed',
  'freeMemory',
  'minOrder',
  'reportMode',
  'ringSize',
  'pagePoison',
  'seed',
  'metrics',
  'html',
] as const;

function linuxRequestOf(options: SendOptions): Omit<SendLinuxRequest, 'version' | 'command' | 'image'> {
  return {
    to: destinationOf(options),
    tls: tlsSettingsOf(options),
    streams: options.channels,
    compression: options.compress,
    memoryBytes: options.memory ?? DEFAULT_MACHINE_BYTES,
    options: {
      ...migrationOptionsOf(options),
      hints: options.hints,
      zeroDetection: options.zeroDetection,
      schedule: options.schedule,
      downtimeLimitMs: options.downtimeLimit,
      bytesPerSecond: options.maxBandwidth.bytesPerSecond,
    },
    afterMs: options.after,
    stay: options.stay,
    json: options.json,
    quiet: options.quiet,
  };
}

function destinationOf({ to }: SendOptions): HostPort {
  if (to === undefined) {
    throw new LacunaError('INVALID_ARGUMENT', '--to HOST:PORT is missing: where lacuna receive listens');
  }
  return to;
}

function guestOf(options: SendOptions, given: (option: string) => boolean): StoredGuest {
  const stored =
    options.memory === undefined ? loadGuest(options.guest ?? DEFAULT_GUEST) : madeUpGuest(options);
  checkTraceOptions([stored], given, options);
  return grownGuests([stored], options)[0]!;
}

function baselineOf({ hints, zeroDetection }: SendOptions): Baseline {
  if (hints) {
    return zeroDetection ? 'both' : 'hints';
  }
  return zeroDetection ? 'zero' : 'none';
}
