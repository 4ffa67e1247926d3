import { ExitCode } from './exit-code.js';

/** Told of each signal, in place of {@link handleInterrupts}' own second answer. */
let attendant: (() => void) | undefined;

/**
 * Answers SIGINT and SIGTERM from now on: the first time `first` is called; a second time is the user's impatience, and ends
 * the process, unless a command attends to it. The listeners stay: where one that was the last is taken away, libraries
 * that tidy the terminal up take the signal for the end.
 */
export function handleInterrupts(first: () => void): void {
  let count = 0;
  const onSignal = (): void => {
    count += 1;
    if (count === 1) {
      first();
    }
    if (attendant !== undefined) {
      attendant();
    } else if (count > 1) {
      process.exit(ExitCode.interrupted);
    }
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
}

/** `handler` is called at each signal. Returns what ends that. */
export function attendToInterrupts(handler: () => void): () => void {
  attendant = handler;
  return () => {
    attendant = undefined;
  };
}
