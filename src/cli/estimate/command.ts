import { Option } from 'commander';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import { FREE_MEMORY_MODES, type FreeMemoryMode } from '../../guest/image.js';
import { captureNames } from '../captures.js';
import type { CliContext } from '../context.js';
import { parseLink, parseRate, parseWhole } from '../units.js';
import { estimate } from './estimate.js';

interface EstimateOptions {
  readonly link: { name: string; bytesPerSecond: number };
  readonly minOrder: number;
  readonly freeMemory?: FreeMemoryMode;
  readonly zeroScan?: number;
  readonly check?: number;
  readonly proc: string;
  readonly json?: string;
  readonly quiet: boolean;
}

const HELP = `
FILE is one of
  nothing               this machine's own /proc/kpageflags: as root
  a copy                made as root by: cat /proc/kpageflags > FILE    ("-": from standard input; packed with gzip, or not)
  a folder              in the captures' format, as lacuna capture makes them
  a name                of a capture that comes with lacuna: ${captureNames().join(', ')}

Examples:
  $ sudo lacuna estimate
  $ lacuna estimate fragmented-2g --link 1gbit --min-order 10
  $ ssh root@host cat /proc/kpageflags | lacuna estimate - --json host.json
  $ lacuna estimate idle-8g --check          twice the guest's memory, and a few seconds

Exit codes: 0 done, 1 a migration of --check was not verified, 2 wrong usage or a file that can't be read, 130 interrupted.`;

/** Adds `lacuna estimate` to the program. */
export function addEstimateCommand({ program, version, commandLine, signal, done }: CliContext): void {
  program
    .command('estimate')
    .summary('what free page reporting would save for a machine')
    .description(
      "Reads what a machine's pages are used for, and predicts what a migration would send, and how long it would " +
        "take, with and without free page reporting (hinting, in VIRTIO's terms). Nothing is migrated.",
    )
    .argument('[file]', 'whose memory (default: this machine)')
    .addOption(
      new Option('--link <rate>', 'the link: unlimited, 1gbit, 10gbit, 125MB/s …')
        .argParser(parseLink)
        .default(parseLink('10gbit'), '10gbit'),
    )
    .option(
      '--min-order <n>',
      'smallest block that the guest reports, 2^n pages; Linux has 10',
      parseWhole(0, MAX_ORDER),
      0,
    )
    .addOption(
      new Option(
        '--free-memory <what>',
        'what free pages hold (default: as captured; both bounds if it was not)',
      ).choices(FREE_MEMORY_MODES),
    )
    .option('--zero-scan <rate>', 'how fast the source finds zero pages (default: measured here)', parseRate)
    .option('--check [runs]', 'migrate it so often and compare (default: 1)', parseWhole(1, 1000))
    .option('--proc <folder>', "where the kernel's files are", '/proc')
    .option('--json <file>', 'write a report')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async (file: string | undefined, options: EstimateOptions) => {
      done(
        await estimate(
          {
            file,
            proc: options.proc,
            link: options.link,
            minOrder: options.minOrder,
            freeMemory: options.freeMemory,
            zeroScanBytesPerSecond: options.zeroScan,
            checks: options.check ?? 0,
            json: options.json,
            quiet: options.quiet,
            version,
            command: commandLine,
          },
          signal,
        ),
      );
    });
}
