import pc from 'picocolors';

/**
 * What a long command shows while it works, on standard error: a block that is redrawn on a terminal, a line a step
 * elsewhere (a log file, a CI job), nothing if it was asked to be quiet.
 */
export interface Progress {
  /** Redraws the block. Does nothing without a terminal. */
  update(lines: string): void;
  /** Something is finished: a line that stays. */
  log(line: string): void;
  /** Something has begun: a line elsewhere, nothing on a terminal, where the block shows it. */
  step(line: string): void;
  /** Leaves the terminal as it was found. */
  done(): void;
}

/** `quiet`: shows nothing. What only a terminal needs is loaded only for a terminal. */
export async function makeProgress(quiet: boolean): Promise<Progress> {
  if (quiet) {
    return { update: () => {}, log: () => {}, step: () => {}, done: () => {} };
  }
  if (!process.stderr.isTTY) {
    const log = (line: string): void => {
      process.stderr.write(`${line}\n`);
    };
    return { update: () => {}, log, step: log, done: () => {} };
  }
  const { createLogUpdate } = await import('log-update');
  const live = createLogUpdate(process.stderr);
  return {
    update: (lines) => live(lines),
    log: (line) => live.persist(line),
    step: () => {},
    done: () => {
      live.clear();
      live.done();
    },
  };
}

/** A bar of `width` characters, `share` of it (0 … 1) full. */
export function bar(share: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * width);
  return `${pc.cyan('█'.repeat(full))}${pc.dim('░'.repeat(width - full))}`;
}
