/** What became of a migration that is over. */
export type Outcome =
  /** The guest runs here, or has. ms since the epoch. */
  | { readonly type: 'started'; readonly startedAt: number }
  /**
   * It was not started, and never will be by that migration (I10). `final`: its source was told so, or called it off; if
   * not, a source that has not committed may begin anew.
   */
  | { readonly type: 'voided'; readonly reason: string; readonly final: boolean };

/** Answers that are kept for sources that have not heard them. */
const MOST_OUTCOMES = 1024;

/**
 * Outcomes of the last migrations by their ids, for sources whose commit went unanswered. One that is forgotten is
 * unknown, which is no answer (I10): its source goes on waiting.
 */
export class SettledMigrations {
  readonly #outcomes = new Map<string, Outcome>();

  get(id: string): Outcome | undefined {
    return this.#outcomes.get(id);
  }

  /** Takes an outcome down. The first is for ever. */
  settle(id: string, outcome: Outcome): void {
    if (this.#outcomes.has(id)) {
      return;
    }
    this.#outcomes.set(id, outcome);
    if (this.#outcomes.size > MOST_OUTCOMES) {
      const [oldest] = this.#outcomes.keys();
      this.#outcomes.delete(oldest!);
    }
  }

  /** The source is about to be told: from here on it is final. */
  tell(id: string): Outcome | undefined {
    const outcome = this.#outcomes.get(id);
    if (outcome?.type === 'voided' && !outcome.final) {
      this.#outcomes.set(id, { ...outcome, final: true });
    }
    return outcome;
  }

  /** A source that has not committed begins anew: true unless the outcome is final. */
  reopen(id: string): boolean {
    const outcome = this.#outcomes.get(id);
    return (
      outcome === undefined || (outcome.type === 'voided' && !outcome.final && this.#outcomes.delete(id))
    );
  }
}
