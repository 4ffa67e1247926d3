import type { CliContext } from '../context.js';
import { ExitCode } from '../exit-code.js';
import { capture } from './capture.js';

interface CaptureOptions {
  readonly proc: string;
  readonly force: boolean;
}

const HELP = `
What is recorded: what each page frame is used for, as the kernel flags it. No contents, no names, no addresses of processes.

Examples:
  $ sudo lacuna capture ./my-machine
  $ lacuna estimate ./my-machine
  $ lacuna bench --guest ./my-machine          twice the machine's memory; its pages count as old data

Exit codes: 0 done, 2 wrong usage, or the flags can't be read.`;

/** Adds `lacuna capture` to the program. */
export function addCaptureCommand({ program, version, done }: CliContext): void {
  program
    .command('capture')
    .summary("record this machine's memory map")
    .description(
      "Records what this machine's pages are used for in a folder, in the format of the captures that come with lacuna. " +
        'As root.',
    )
    .argument('<folder>', 'where to')
    .option('--force', 'replace a capture that is there', false)
    .option('--proc <folder>', "where the kernel's files are", '/proc')
    .addHelpText('after', HELP)
    .action(async (folder: string, { proc, force }: CaptureOptions) => {
      console.log(await capture({ folder, proc, force, version }));
      done(ExitCode.ok);
    });
}
