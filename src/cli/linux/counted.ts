import { LacunaError } from '../../errors.js';
import { GUEST_DEADLINE_MS } from './console.js';

/** What the guest's `counter` prints. */
const COUNT = /counter (\d+) uptime ([\d.]+)/;

/** A line of the counter. */
export interface Count {
  readonly count: number;
  readonly uptime: number;
}

/** Lines of the counter as they come: knows the first and the last of them, and the longest step between two. */
export class Counted {
  first: Count | undefined;
  last: Count | undefined;
  /** By the guest's clock, in s. */
  longestStep = 0;
  readonly #onLine: (line: string) => void;
  #text: string;
  #lines = 0;
  #wanted: { readonly lines: number; readonly resolve: () => void } | undefined;

  /** `begun` is what there is of the first line already. */
  constructor(onLine: (line: string) => void, begun = '') {
    this.#onLine = onLine;
    this.#text = begun;
  }

  /** What there is of the next line. */
  get rest(): string {
    return this.#text;
  }

  take(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf('\n'); end !== -1; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end).trimEnd();
      this.#text = this.#text.slice(end + 1);
      const [, count, uptime] = COUNT.exec(line) ?? [];
      if (count !== undefined) {
        const at = Number(uptime);
        this.longestStep = Math.max(this.longestStep, at - (this.last?.uptime ?? at));
        this.last = { count: Number(count), uptime: at };
        this.first ??= this.last;
        this.#lines += 1;
        this.#onLine(line);
      }
    }
    this.#meet();
  }

  #meet(): void {
    if (this.#wanted !== undefined && this.#lines >= this.#wanted.lines) {
      this.#wanted.resolve();
    }
  }

  /** Resolves when so many have come. */
  lines(lines: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new LacunaError('GUEST_FAILED', 'the guest does not count')),
        GUEST_DEADLINE_MS,
      );
      this.#wanted = {
        lines,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      };
      this.#meet();
    });
  }
}
