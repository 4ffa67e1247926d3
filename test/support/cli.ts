import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { vi } from 'vitest';
import { run } from '../../dist/src/cli/program.js';

/** The built command. */
export const CLI: string = resolve('dist/src/cli/main.js');

/** How a command ended, and what it said. */
export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** How a command is run; nothing of it has to be said. */
export interface CliOptions {
  /** Beside this process's own. */
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: Uint8Array | undefined;
  /** Sees each line of standard error as it comes, and can send the process a signal. */
  readonly onStderr?: ((line: string, kill: (signal: NodeJS.Signals) => void) => void) | undefined;
}

/** Runs lacuna in `folder`. */
export function runCli(
  folder: string,
  args: readonly string[],
  options: CliOptions = {},
): Promise<CliResult> {
  return runProcess(process.execPath, [CLI, ...args], folder, options);
}

/**
 * The same within this process, where a process of its own would show nothing more: command lines that are refused
 * before anything is done. A process takes half a second to start.
 */
export async function runHere(folder: string, args: readonly string[]): Promise<CliResult> {
  const before = process.cwd();
  let stdout = '';
  let stderr = '';
  const spies = [
    vi.spyOn(console, 'log').mockImplementation((text: string) => {
      stdout += `${text}\n`;
    }),
    vi.spyOn(console, 'error').mockImplementation((text: string) => {
      stderr += `${text}\n`;
    }),
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      stdout += String(text);
      return true;
    }),
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      stderr += String(text);
      return true;
    }),
  ];
  process.chdir(folder);
  try {
    return { code: await run(args, new AbortController().signal), stdout, stderr };
  } finally {
    process.chdir(before);
    for (const spy of spies) {
      spy.mockRestore();
    }
  }
}

/** Runs any command in `folder`. */
export function runProcess(
  command: string,
  args: readonly string[],
  folder: string,
  { env, input, onStderr }: CliOptions = {},
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
      onStderr?.(line, (signal) => child.kill(signal));
    }
  });
  child.stdin.end(input);
  return new Promise((done, failed) => {
    child.on('error', failed);
    child.on('close', (code) => done({ code, stdout, stderr }));
  });
}
