import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import pc from 'picocolors';
import { isLacunaError } from '../errors.js';
import { packageRoot } from './captures.js';
import type { CliContext } from './context.js';
import { ExitCode } from './exit-code.js';

/** What adds each command to the program, in the order of the help. */
const COMMANDS: Readonly<Record<string, () => Promise<(context: CliContext) => void>>> = {
  bench: async () => (await import('./bench/command.js')).addBenchCommand,
  send: async () => (await import('./send/command.js')).addSendCommand,
  receive: async () => (await import('./receive/command.js')).addReceiveCommand,
  capture: async () => (await import('./capture/command.js')).addCaptureCommand,
  estimate: async () => (await import('./estimate/command.js')).addEstimateCommand,
  stress: async () => (await import('./stress/command.js')).addStressCommand,
  exits: async () => (await import('./exits/command.js')).addExitsCommand,
  report: async () => (await import('./report/command.js')).addReportCommand,
  linux: async () => (await import('./linux/command.js')).addLinuxCommand,
};

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
    .enablePositionalOptions() // an option behind a command of a command is that one's
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
  // Of a command that is named the others need not be loaded: that is most of the time that one takes to start.
  const named = Object.hasOwn(COMMANDS, args[0] ?? '') ? [args[0]!] : Object.keys(COMMANDS);
  for (const add of await Promise.all(named.map((name) => COMMANDS[name]!()))) {
    add(context);
  }
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
