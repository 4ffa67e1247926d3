import type { MigrationControls } from '../../migration/migrate.js';
import type { MigrationEvent } from '../../migration/precopy.js';
import type { ControlReply, ControlRequest, ControlState } from './control.js';

/** Which guest goes where. */
export interface Passage {
  readonly migration: string;
  readonly guest: string;
  /** HOST:PORT */
  readonly to: string;
}

/** How long an override may take to be heard: one step of the migration. */
const OVERRIDE_MS = 5000;

/**
 * Where the guest of a migration is, by the migration's own events; and what an operator may do about it once the commit
 * has left. It decides nothing: the engine does (docs/HANDOVER.md).
 */
export class Handover {
  readonly passage: Passage;
  controls: MigrationControls | undefined;
  #state: ControlState = 'sending';
  readonly #clock: () => number;
  readonly #beganAt: number;
  #lost: string | undefined;
  #isUnknown = false;
  /** An operator has decided what is to be done after the commit. */
  #operated = false;
  readonly #waiting = new Set<() => void>();

  constructor(passage: Passage, clock: () => number = () => performance.now()) {
    this.passage = passage;
    this.#clock = clock;
    this.#beganAt = clock();
  }

  get state(): ControlState {
    return this.#state;
  }

  /** The guest goes on here because an operator has asked for that. */
  get isOperated(): boolean {
    return this.#operated;
  }

  event(event: MigrationEvent): void {
    switch (event.type) {
      case 'lost':
        this.#lost = event.reason;
        return;
      case 'restored':
        this.#lost = undefined;
        this.#isUnknown = false;
        return;
      case 'unknown-migration':
        this.#isUnknown = true;
        return;
      case 'committed':
        this.#state = 'unanswered';
        return;
      case 'completed':
        this.#settle('there');
        return;
      case 'cancelled':
      case 'failed':
        this.#settle('here');
        return;
      default:
    }
  }

  #settle(state: 'here' | 'there'): void {
    this.#state = state;
    for (const wake of this.#waiting) {
      wake();
    }
  }

  /** Does what `lacuna send --resume` asks for; resolves when that is decided, or the time for it is over. */
  async answer({ ask, waitMs }: ControlRequest): Promise<ControlReply> {
    if (this.#state === 'unanswered' && ask !== 'status') {
      this.#operated = true;
      if (ask === 'withdraw') {
        this.controls?.withdraw();
        await this.#settled(waitMs);
      } else {
        this.controls?.override();
        await this.#settled(OVERRIDE_MS);
      }
    }
    return {
      lacuna: 1,
      ...this.passage,
      pid: process.pid,
      elapsedMs: this.#clock() - this.#beganAt,
      state: this.#state,
      words: this.words(),
    };
  }

  /** Where the guest is, for people. */
  words(): string {
    const { guest, to } = this.passage;
    switch (this.#state) {
      case 'sending':
        return `${guest} runs here and is on its way to ${to}: the commit has not left`;
      case 'unanswered':
        return `the commit to ${to} was not answered: ${guest} stands still here, and may run there; ${this.#obstacle()}`;
      case 'here':
        return `${guest} goes on here`;
      case 'there':
        return `${guest} runs at ${to}`;
    }
  }

  /** Why there is no answer. */
  #obstacle(): string {
    if (this.#isUnknown) {
      return 'who answers there knows nothing of it, which does not mean that it was not started by another before';
    }
    return this.#lost === undefined ? 'it is asked' : `the link is broken (${this.#lost}), it is tried again`;
  }

  #settled(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => over(), timeoutMs);
      const over = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(over);
        resolve();
      };
      this.#waiting.add(over);
    });
  }
}

/** What an operator can do about a commit that is not answered, a line each. */
export function adviceOf({ migration, to }: Passage): string {
  return [
    `The guest may run at ${to}, so it stays stopped here, and ${to} is asked until it answers. From another terminal:`,
    `  lacuna send --resume ${migration}              has the commit voided if the guest was not started there`,
    `  lacuna send --resume ${migration} --override   if you have made sure that it does not run there, and never will`,
  ].join('\n');
}
