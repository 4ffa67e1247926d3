import pc from 'picocolors';
import { isLacunaError } from '../../errors.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { ExitCode } from '../exit-code.js';
import { attendToInterrupts } from '../interrupts.js';
import { adviceOf, type Handover } from './handover.js';

/** The exit code for a guest that did not move. */
export function exitCodeOf(source: PrecopySource): number {
  if (isLacunaError(source.error, 'COMMIT_UNCONFIRMED')) {
    return ExitCode.unanswered;
  }
  return source.phase === 'cancelled' ? ExitCode.interrupted : ExitCode.verificationFailed;
}

/** A command that has a guest to move, as far as interrupts go. */
export interface InterruptibleSend {
  /** Aborted by the first interrupt: then the migration is called off, if it still can be. */
  readonly signal: AbortSignal;
  /** Once it is connected. */
  handover(): Handover | undefined;
  /** Ends the hosting of a guest that stays here; undefined: it is not at that. */
  leave(): (() => void) | undefined;
  /** Leaves the terminal as it was before, where Ctrl-C is an interrupt. */
  tidy(): void;
}

/**
 * What interrupts come to. Until the commit has left, the first calls the migration off, and the second ends the process.
 * After it the first says what may be done, and the second gives the guest up.
 */
export class SendInterrupts {
  readonly #of: InterruptibleSend;
  readonly #unattend: () => void;
  #count = 0;
  #unanswered = 0;

  constructor(of: InterruptibleSend) {
    this.#of = of;
    this.#unattend = attendToInterrupts(() => this.interrupted());
  }

  close(): void {
    this.#unattend();
  }

  /** Says what a user has to know. */
  happened({ type }: MigrationEvent): void {
    const handover = this.#of.handover();
    if (type === 'unconfirmed' && handover !== undefined) {
      console.error(`${pc.yellow('lacuna:')} ${handover.words()}.\n${adviceOf(handover.passage)}`);
    } else if (type === 'committed' && this.#of.signal.aborted) {
      this.interrupted(); // it came too late
    }
  }

  interrupted(): void {
    this.#count += 1;
    const leave = this.#of.leave();
    const handover = this.#of.handover();
    if (leave !== undefined) {
      leave();
    } else if (handover?.state === 'unanswered') {
      this.#unanswered += 1;
      this.#of.tidy();
      if (this.#unanswered > 1) {
        abandon(handover);
      }
      console.error(
        `the commit was sent to ${handover.passage.to} and not answered yet: it can't be called off from here.\n` +
          `${adviceOf(handover.passage)}\n` +
          'Ctrl-C again gives the guest up here, wherever it may run.',
      );
    } else if (this.#count > 1) {
      this.#of.tidy();
      process.exit(ExitCode.interrupted);
    }
  }
}

/** The operator has given the guest up; the process is not waited for, its threads would keep it. */
function abandon({ passage }: Handover): never {
  console.error(
    `${passage.guest} is lost here, stopped as it was. The commit of migration ${passage.migration} was sent: it may run ` +
      `at ${passage.to}; look there before you start it anew.`,
  );
  process.exit(ExitCode.unanswered);
}
