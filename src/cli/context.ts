import type { Command } from 'commander';

/** What every command is given when it is added to the program. */
export interface CliContext {
  readonly program: Command;
  /** lacuna's own. */
  readonly version: string;
  /** As the user wrote it, for reports. */
  readonly commandLine: string;
  /** Aborted by SIGINT and SIGTERM. */
  readonly signal: AbortSignal;
  /** Gets the exit code. */
  readonly done: (code: number) => void;
}
