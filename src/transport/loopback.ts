import type { DestinationMessage, FrameSink, SourceChannel } from '../wire/channel.js';

/**
 * A transport within one thread: what the source sends is applied before the call returns. For guests whose
 * memory is not shared, and for tests.
 */
export class LoopbackChannel implements SourceChannel {
  readonly writable = true;
  readonly unflushedBytes = 0;
  readonly #replies: DestinationMessage[] = [];
  #sink: FrameSink | undefined;

  /** Connects the other end; it answers through {@link reply}. */
  connect(sink: FrameSink): void {
    this.#sink = sink;
  }

  /** The destination's answer. */
  reply(message: DestinationMessage): void {
    this.#replies.push(message);
  }

  poll(): DestinationMessage | undefined {
    return this.#replies.shift();
  }

  pageRun(pfn: number, pageCount: number, payload: Uint8Array): void {
    this.#apply((sink) => sink.pageRun(pfn, pageCount, payload));
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#apply((sink) => sink.zeroRun(pfn, pageCount));
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#apply((sink) => sink.fillRun(pfn, pageCount, value));
  }

  roundEnd(round: number): void {
    this.#apply((sink) => sink.roundEnd(round));
  }

  deviceState(state: Uint8Array): void {
    this.#apply((sink) => sink.deviceState(state));
  }

  finish(): void {
    this.#apply((sink) => sink.finish());
  }

  commit(): void {
    this.#apply((sink) => sink.commit());
  }

  withdraw(): void {
    this.#apply((sink) => sink.withdraw());
  }

  cancel(): void {
    this.#apply((sink) => sink.cancel());
  }

  #apply(frame: (sink: FrameSink) => void): void {
    const sink = this.#sink;
    if (sink === undefined || sink.discarded) {
      return;
    }
    try {
      frame(sink);
    } catch (thrown) {
      sink.fail(thrown);
    }
  }
}
