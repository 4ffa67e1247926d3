import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, onTestFailed } from 'vitest';
import { Terminal, type TerminalOptions } from './terminal.js';

/** A folder for each test of a file, and the commands that the test has running in it. */
export interface Terminals {
  readonly folder: string;
  /** Runs lacuna until it ends, or the test does. What it said is shown if the test fails. */
  readonly start: (...args: readonly string[]) => Terminal;
  /** The same somewhere else. */
  readonly startIn: (where: TerminalOptions, ...args: readonly string[]) => Terminal;
  /** A receiver on a port that is free, once it listens; `to` is its address. */
  readonly startReceive: (
    ...args: readonly string[]
  ) => Promise<{ receiver: Terminal; to: string; port: number }>;
}

/** Hooks of the file that are there before this is called are run after its own: when no command is left. */
export function useTerminals(prefix: string): Terminals {
  let folder = '';
  let running: Terminal[] = [];
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), prefix));
    running = [];
  });
  afterEach(async () => {
    await Promise.all(running.map((terminal) => terminal.kill()));
    rmSync(folder, { recursive: true });
  });

  const startIn = (where: TerminalOptions, ...args: readonly string[]): Terminal => {
    const terminal = new Terminal(folder, args, where);
    running.push(terminal);
    onTestFailed(() => console.error(`lacuna ${args.join(' ')}\n${terminal.text}`));
    return terminal;
  };
  const start = (...args: readonly string[]): Terminal => startIn({}, ...args);
  return {
    get folder() {
      return folder;
    },
    start,
    startIn,
    startReceive: async (...args) => {
      const receiver = start('receive', '--listen', '127.0.0.1:0', ...args);
      const [, to, port] = await receiver.says(/listening at (\S+:(\d+))/);
      return { receiver, to: to!, port: Number(port) };
    },
  };
}
