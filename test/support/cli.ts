import { spawn } from 'node:child_process';
import { resolve } from 'node:path';

/** The built command. */
export const CLI: string = resolve('dist/src/cli/main.js');

/** How the command ended, and what it said. */
export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs lacuna in `folder`. `onStderr` sees each line as it comes, and can send the process a signal. */
export function runCli(
  folder: string,
  args: readonly string[],
  onStderr: (line: string, kill: (signal: NodeJS.Signals) => void) => void = () => {},
): Promise<CliResult> {
  return runProcess(process.execPath, [CLI, ...args], folder, {}, onStderr);
}

/** Runs any command in `folder`, with `env` beside this process's own. */
export function runProcess(
  command: string,
  args: readonly string[],
  folder: string,
  env: Readonly<Record<string, string>> = {},
  onStderr: (line: string, kill: (signal: NodeJS.Signals) => void) => void = () => {},
): Promise<CliResult> {
  const child = spawn(command, args, { cwd: folder, env: { ...process.env, NO_COLOR: '1', ...env } });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
    for (const line of chunk.toString().split('\n')) {
      onStderr(line, (signal) => child.kill(signal));
    }
  });
  return new Promise((done, failed) => {
    child.on('error', failed);
    child.on('close', (code) => done({ code, stdout, stderr }));
  });
}
