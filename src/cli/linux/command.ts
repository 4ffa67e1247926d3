import { type Command, Option } from 'commander';
import { MIB } from '../../memory/page.js';
import type { CliContext } from '../context.js';
import { demo } from './demo.js';
import { addLinuxImageCommand, imageFor } from './image/command.js';
import { addImageOptions, type ImageOptions } from './image/options.js';
import { traceSession } from './trace.js';
import { DEFAULT_MACHINE_BYTES, parseMachineMemory } from './vmm-options.js';

interface LinuxOptions extends ImageOptions {
  readonly memory: number;
  readonly hints: 'on' | 'off';
  readonly fresh: boolean;
  readonly json?: string;
}

const HELP = `
Linux starts in this process (it boots once, and is kept in the cache as it was then). Some of its memory is filled and freed
again, so that free memory holds old data; a file is made and its checksum taken; then it counts. While it does it is moved
to another process, over TCP, where it goes on counting, and its file is checked.

In two terminals, with a console in each: lacuna receive --vmm v86, and lacuna send --vmm v86 --to HOST:PORT.

Exit codes: 0 the guest arrived whole, 1 it did not, or something is missing (lacuna linux image says what); 2 wrong usage.`;

/** Adds `lacuna linux` to the program. */
export function addLinuxCommand(context: CliContext): void {
  const { program, version, commandLine, signal, done } = context;
  const linux = addImageOptions(program.command('linux'))
    .summary('a real Linux guest, in v86: moves it to another process')
    .description('Runs a real Linux guest in v86, and moves it to another process while it runs.')
    .enablePositionalOptions()
    .addOption(
      new Option('--memory <size>', 'of the guest: 128, 256, 512 MiB …')
        .argParser(parseMachineMemory)
        .default(DEFAULT_MACHINE_BYTES, String(DEFAULT_MACHINE_BYTES / MIB)),
    )
    .addOption(
      new Option('--hints <on|off>', 'whether the guest is asked for its free pages')
        .choices(['on', 'off'])
        .default('on'),
    )
    .option('--fresh', 'boot, although a booted guest is in the cache', false)
    .option('--json <file>', 'where the report goes')
    .addHelpText('after', HELP)
    .action(async (options: LinuxOptions) => {
      const image = await imageFor(options, signal);
      const { memory: memoryBytes, hints, fresh, json } = options;
      const request = {
        image,
        memoryBytes,
        hints: hints === 'on',
        fresh,
        json,
        version,
        command: commandLine,
      };
      done(await demo(request, signal));
    });
  addLinuxImageCommand(linux, context);
  addLinuxTraceCommand(linux, context);
}

interface TraceOptions extends ImageOptions {
  readonly memory: number;
  readonly all: boolean;
  readonly json?: string;
}

/** Adds `lacuna linux trace`. */
function addLinuxTraceCommand(linux: Command, { signal, done }: CliContext): void {
  addImageOptions(linux.command('trace'))
    .summary('show what passes between the balloon and its driver')
    .description(
      'Moves Linux within this process, and shows every register access, kick and ring entry of its balloon on the way.',
    )
    .addOption(
      new Option('--memory <size>', 'of the guest: 128, 256, 512 MiB …')
        .argParser(parseMachineMemory)
        .default(TRACED_BYTES, String(TRACED_BYTES / MIB)),
    )
    .option('--all', 'every range, not the first and the last few', false)
    .option('--json <file>', 'the whole trace')
    .action(async (options: TraceOptions) => {
      const image = await imageFor(options, signal);
      const { memory: memoryBytes, all, json } = options;
      done(await traceSession({ image, memoryBytes, all, json }));
    });
}

/** Few ranges to read. */
const TRACED_BYTES: number = 128 * MIB;
