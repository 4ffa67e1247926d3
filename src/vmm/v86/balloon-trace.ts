import { HintSession } from '../../balloon/hint-session.js';
import type { RegisterName } from './balloon-registers.js';

/** What happens between a balloon and its driver, as it happens. `at` is in ms, on the machine's clock. */
export type BalloonTraceEntry = { readonly at: number } & (
  | { readonly what: 'request' | 'read' | 'write'; readonly register: RegisterName; readonly value: number }
  /** A queue was kicked; `available` is its driver's index as it stands in guest RAM. */
  | { readonly what: 'kick'; readonly queue: number; readonly available: number | undefined }
  /** On the free page queue: a buffer for the device to read, an id or the stop sign if it is 4 bytes long. */
  | { readonly what: 'marker'; readonly lengthBytes: number; readonly value: number; readonly state: string }
  /** On the free page queue: a range of free memory. */
  | { readonly what: 'range'; readonly gpa: number; readonly lengthBytes: number; readonly state: string }
  | { readonly what: 'reset' }
);

/** A session that tells of what is put on its queue; `state` is what it was when the entry came. */
export class TracedSession extends HintSession {
  readonly #tell: (entry: BalloonTraceEntry) => void;

  constructor(tell: (entry: BalloonTraceEntry) => void) {
    super();
    this.#tell = tell;
  }

  override marker(lengthBytes: number, value: number, now: number): void {
    const { state } = this;
    this.#tell({ at: now, what: 'marker', lengthBytes, value, state });
    super.marker(lengthBytes, value, now);
  }

  override range(gpa: number, lengthBytes: number, now: number): void {
    const { state } = this;
    this.#tell({ at: now, what: 'range', gpa, lengthBytes, state });
    super.range(gpa, lengthBytes, now);
  }
}
