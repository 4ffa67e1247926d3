import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import pc from 'picocolors';
import { isLacunaError } from '../errors.js';
import { ExitCode } from './bench/bench.js';
import { addBenchCommand } from './bench/command.js';
import { addCaptureCommand } from './capture/command.js';
import { packageRoot } from './captures.js';
import type { CliContext } from './context.js';
import { addEstimateCommand } from './estimate/command.js';
import { addExitsCommand } from './exits/command.js';
import { addLinuxCommand } from './linux/command.js';
import { addReceiveCommand } from './receive/command.js';
import { addReportCommand } from './report/command.js';
import { addSendCommand } from './send/command.js';
import { addStressCommand } from './stress/command.js';

/** Errors of which the user is the cause, rather than the guest or lacuna. */
const USAGE_ERRORS = new Set([
  'INVALID_ARGUMENT',
  'OUT_OF_MEMORY',
  'CAPTURE_NOT_FOUND',
  'CAPTURE_MALFORMED',
  'GUEST_TOO_SMALL',
]);

/**
 * Does what a command line says; resolves with the exit code. `args` are those after the command's name, and `signal` is
 * aborted when the user has had enough.
 */
export async function run(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
    version: string;
  };
  let code: number = ExitCode.ok;
  const program = new Command('lacuna')
    .description("Live migration that leaves a virtual machine's free pages behind.")
    .version(version)
    .showHelpAfterError('(lacuna --help tells more)')
    .exitOverride();
  const context: CliContext = {
    program,
    version,
    commandLine: ['lacuna', ...args].join(' '),
    signal,
    done: (result) => {
      code = result;
    },
  };
  addBenchCommand(context);
  addSendCommand(context);
  addReceiveCommand(context);
  addCaptureCommand(context);
  addEstimateCommand(context);
  addStressCommand(context);
  addExitsCommand(context);
  addReportCommand(context);
  addLinuxCommand(context);
  for (const command of program.commands) {
    command.exitOverride().showHelpAfterError(`(lacuna ${command.name()} --help tells more)`);
  }
  try {
    await program.parseAsync(args, { from: 'user' });
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      return thrown.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    }
    if (isLacunaError(thrown)) {
      console.error(`${pc.red('lacuna:')} ${thrown.message}`);
      return USAGE_ERRORS.has(thrown.code) ? ExitCode.usage : ExitCode.verificationFailed;
    }
    throw thrown;
  }
  return code;
}
