import type { CliContext } from '../context.js';
import { addLinuxImageCommand } from './image/command.js';

/** Adds `lacuna linux` to the program. */
export function addLinuxCommand(context: CliContext): void {
  const linux = context.program.command('linux').description('A real Linux guest, in v86.');
  addLinuxImageCommand(linux, context);
}
