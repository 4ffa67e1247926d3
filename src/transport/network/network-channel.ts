import { randomBytes } from 'node:crypto';
import { isLacunaError, LacunaError, type LacunaErrorCode, messageOf } from '../../errors.js';
import { equalBytes } from '../../memory/byte-ops.js';
import type { EventWord } from '../../memory/control-buffer.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import { PAGE_SIZE } from '../../memory/page.js';
import {
  type DestinationMessage,
  type PageCounts,
  type SourceChannel,
  sameCounts,
  totalCounts,
} from '../../wire/channel.js';
import {
  Feature,
  type FrameHeader,
  FrameType,
  ID_BYTES,
  MOST_DEVICE_STATE_BYTES,
  MOST_RUN_PAGES,
  MOST_STREAMS,
} from '../../wire/frames.js';
import {
  decodeCounts,
  decodeError,
  decodeStarted,
  decodeText,
  type Hello,
  type Welcome,
} from '../../wire/hello.js';
import type { CompressionMode } from './compression-policy.js';
import type { Endpoint } from './connect-stream.js';
import { type ControlConnection, LAST_WORDS_MS } from './control-connection.js';
import { openControl } from './open-control.js';
import { SendingStreams } from './sending-streams.js';
import { checkTlsSettings } from './tls.js';

/** How a migration is connected to its destination. */
export interface ConnectOptions {
  readonly endpoint: Endpoint;
  /** Connections that carry pages, 1 to 16; each has a thread if the memory is shared. */
  readonly streams: number;
  /** The guest's. */
  readonly memory: GuestMemory;
  /** Rung when the destination has said something, and when there is room again. */
  readonly event: EventWord;
  /** What people at the destination are shown. */
  readonly label: string;
  /** What the destination's VMM has to know of the guest; JSON by convention. */
  readonly guest?: string;
  /** Whether runs are compressed, if the destination takes that; `off` by default. */
  readonly compression?: CompressionMode | undefined;
  /** The longest wait between two attempts to connect again grows from `firstMs` to `mostMs`. 200 ms and 5 s by default. */
  readonly retry?: { readonly firstMs: number; readonly mostMs: number };
  /** A link on which nothing is heard for so long is lost. 10 s by default. */
  readonly silenceMs?: number;
  /** How long a connection may take to be made. 10 s by default. */
  readonly connectTimeoutMs?: number;
  /** Gives the attempt up. No effect once the channel is there: close that. */
  readonly signal?: AbortSignal;
  /** From 0 to below 1; for the waits, so that many sources don't come all at once. */
  readonly random?: () => number;
}

/** What connects the streams; tests bring their own. */
export type OpenStreams = (
  options: Parameters<typeof SendingStreams.open>[0],
) => Promise<Pick<SendingStreams, keyof SendingStreams>>;

type Streams = Awaited<ReturnType<OpenStreams>>;

/** A control connection with the streams of its epoch. */
interface Link {
  readonly connection: ControlConnection;
  /** None after the commit: nothing but its outcome is asked. */
  readonly streams: Streams | undefined;
  readonly welcome: Welcome;
}

const DEFAULT_RETRY = { firstMs: 200, mostMs: 5000 } as const;
const DEFAULT_SILENCE_MS = 10_000;
const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;
/** A run may be cut into so many: a stream that has said it was writable has room for them. */
const MOST_PIECES = 8;
/** A good `maxRunPages` for a migration over the network: 4 MiB a write. Every destination takes as much. */
export const NETWORK_RUN_PAGES = 1024;
const NO_NONCE: Uint8Array = new Uint8Array(ID_BYTES);

/**
 * Connects to a destination that listens, for one migration. Resolves when it has agreed to receive and all streams have
 * joined; pass the channel to `migrate`, and close it afterwards. Rejects with INVALID_ARGUMENT, CONNECTION_FAILED,
 * AUTHENTICATION_FAILED, UNSUPPORTED, BUSY or another of the destination's reasons.
 */
export async function connectMigration(
  options: ConnectOptions,
  openStreams: OpenStreams = (how) => SendingStreams.open(how),
): Promise<NetworkChannel> {
  const { endpoint, streams } = options;
  if (!Number.isInteger(streams) || streams < 1 || streams > MOST_STREAMS) {
    throw new LacunaError('INVALID_ARGUMENT', `${streams} streams: 1 to ${MOST_STREAMS}`);
  }
  if (!Number.isInteger(endpoint.port) || endpoint.port < 1 || endpoint.port > 65_535) {
    throw new LacunaError('INVALID_ARGUMENT', `port ${endpoint.port}: 1 to 65535`);
  }
  if (endpoint.tls !== undefined) {
    checkTlsSettings(endpoint.tls);
  }
  const session = new Session(options, openStreams);
  await session.begin(options.signal);
  return new NetworkChannel(session);
}

/**
 * The source's end of a migration over the network: a control connection, and streams for the pages. When the link breaks
 * it says `lost`, tries to connect again for as long as it is neither closed nor cancelled, and says `restored`. What is
 * sent between the two is dropped.
 */
export class NetworkChannel implements SourceChannel {
  readonly #session: Session;

  /** Made by {@link connectMigration}. */
  constructor(session: Session) {
    this.#session = session;
  }

  /** 32 hexadecimal digits. */
  get migrationId(): string {
    return this.#session.migrationId;
  }

  /** Connections that carry pages. */
  get streams(): number {
    return this.#session.streamCount;
  }

  get writable(): boolean {
    return this.#session.streams?.writable ?? true;
  }

  get unflushedBytes(): number {
    return this.#session.streams?.unflushedBytes ?? 0;
  }

  /** All bytes that were sent since the channel was made, headers included; TLS's own are not counted. */
  bytesOnWire(): number {
    return this.#session.bytesOnWire();
  }

  poll(): DestinationMessage | undefined {
    return this.#session.poll();
  }

  pageRun(pfn: number, pageCount: number, payload: Uint8Array<ArrayBufferLike>): void {
    this.#session.cut(pfn, pageCount, (streams, first, pages) => {
      const from = (first - pfn) * PAGE_SIZE;
      streams.pageRun(first, pages, payload.subarray(from, from + pages * PAGE_SIZE));
    });
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#session.cut(pfn, pageCount, (streams, first, pages) => streams.zeroRun(first, pages));
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#session.cut(pfn, pageCount, (streams, first, pages) => streams.fillRun(first, pages, value));
  }

  roundEnd(round: number): void {
    this.#session.roundEnd(round);
  }

  /** Throws DEVICE_STATE_INVALID for one that is longer than the destination takes. */
  deviceState(state: Uint8Array): void {
    this.#session.deviceState(state);
  }

  finish(): void {
    this.#session.finish();
  }

  commit(): void {
    this.#session.commit();
  }

  withdraw(): void {
    this.#session.send(FrameType.withdraw);
  }

  /** The destination is told, if there is a link; nothing is tried again after this. */
  cancel(): void {
    this.#session.cancel();
  }

  /**
   * Frees everything: sockets, timers, threads. Resolves when no thread reads the guest's memory any more. A migration that
   * is neither over nor cancelled looks to the destination as if the link had broken.
   */
  close(): Promise<void> {
    return this.#session.close();
  }
}

/** The connections of one migration, one link after another. */
class Session {
  readonly migrationId: string;
  readonly streamCount: number;
  readonly #options: ConnectOptions;
  readonly #openStreams: OpenStreams;
  readonly #id: Uint8Array = randomBytes(ID_BYTES);
  readonly #messages: DestinationMessage[] = [];
  #nonce: Uint8Array = NO_NONCE;
  #epoch = 0;
  #link: Link | undefined;
  /** What is sent is passed on: since `restored` was polled, until the link breaks. */
  #passing = true;
  #rounds = 0;
  /** The commit was written to a link: from then on nothing is an answer but an answer (I10). */
  #committed = false;
  /** No link is made any more: closed, cancelled, answered, or refused for good. */
  #over = false;
  #attempt: AbortController | undefined;
  #reconnecting: Promise<void> = Promise.resolve();
  #fences: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;
  /** Runs once a stream has broken. */
  #failing: ReturnType<typeof setTimeout> | undefined;
  /** Of links that are gone. */
  #bytesBefore = 0;

  constructor(options: ConnectOptions, openStreams: OpenStreams) {
    this.#options = options;
    this.#openStreams = openStreams;
    this.migrationId = Buffer.from(this.#id).toString('hex');
    this.streamCount = options.streams;
  }

  /** The streams, while what is sent is passed on. */
  get streams(): Streams | undefined {
    return this.#passing ? this.#link?.streams : undefined;
  }

  /** The first link; it is tried once. */
  async begin(signal: AbortSignal | undefined): Promise<void> {
    const onAbort = (): void => this.#attempt?.abort();
    const made = this.#make(false);
    if (signal?.aborted === true) {
      onAbort();
    }
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await made;
    } catch (thrown) {
      this.#over = true;
      await this.#fences;
      throw thrown;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  bytesOnWire(): number {
    const { connection, streams } = this.#link ?? {};
    return this.#bytesBefore + (connection?.bytesSent ?? 0) + (streams?.bytesSent() ?? 0);
  }

  poll(): DestinationMessage | undefined {
    this.#watchStreams();
    const message = this.#messages.shift();
    if (this.#messages.length > 0) {
      this.#options.event.ring(); // whoever polls one at a time, and then sleeps, is called again
    }
    if (message?.type === 'restored') {
      // Only now: until then whoever sends does not know that everything is counted anew.
      this.#passing = this.#link !== undefined && !this.#messages.some(({ type }) => type === 'lost');
    }
    return message;
  }

  send(type: number, value = 0, payload?: Uint8Array): void {
    if (this.#passing) {
      this.#link?.connection.send(type, value, payload);
    }
  }

  /** Sends a run, in as many pieces as the destination wants it in. */
  cut(
    pfn: number,
    pageCount: number,
    send: (streams: Streams, pfn: number, pageCount: number) => void,
  ): void {
    const { streams } = this;
    const longest = this.#link?.welcome.longestRunPages ?? MOST_RUN_PAGES;
    if (streams === undefined) {
      return;
    }
    if (pageCount > longest * MOST_PIECES) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `a run of ${pageCount} pages: this channel takes ${longest * MOST_PIECES} (see maxRunPages)`,
      );
    }
    for (let left = pageCount; left > 0; left -= longest) {
      send(streams, pfn + pageCount - left, Math.min(left, longest));
    }
  }

  roundEnd(round: number): void {
    this.streams?.roundEnd(round);
    this.#rounds = round;
  }

  deviceState(state: Uint8Array): void {
    const most = this.#link?.welcome.longestDeviceStateBytes ?? MOST_DEVICE_STATE_BYTES;
    if (state.length > most) {
      throw new LacunaError(
        'DEVICE_STATE_INVALID',
        `a device state of ${state.length} bytes; the destination takes ${most}`,
      );
    }
    this.send(FrameType.deviceState, 0, state);
  }

  finish(): void {
    this.send(FrameType.finish, this.#rounds);
  }

  commit(): void {
    if (this.#passing) {
      this.#committed = true;
      this.send(FrameType.commit);
    } else if (!this.#committed) {
      // The link broke before it could leave, and it never will: so much is certain here (I10).
      this.#say({ type: 'not-started', reason: 'the link broke before the commit was sent' });
    }
  }

  cancel(): void {
    this.send(FrameType.cancel);
    this.#end();
  }

  async close(): Promise<void> {
    this.#end();
    await this.#reconnecting;
    await this.#fences;
  }

  // ── what arrives ──────────────────────────────────────────────────────────────────────────────────────────

  #onFrame({ type, value }: Readonly<FrameHeader>, payload: Uint8Array): void {
    switch (type) {
      case FrameType.applied:
        this.#say({ type: 'applied', round: value });
        return;
      case FrameType.ready:
        this.#onReady(decodeCounts(payload, this.streamCount));
        return;
      case FrameType.started:
        this.#say({ type: 'started', startedAt: decodeStarted(payload) });
        this.#answered();
        return;
      case FrameType.notStarted:
        this.#say({ type: 'not-started', reason: decodeText(payload) });
        this.#answered();
        return;
      case FrameType.unknownMigration:
        this.#say({ type: 'unknown-migration' });
        return;
      case FrameType.error: {
        const { message } = decodeError(value, payload);
        if (!this.#committed) {
          this.#over = true; // the destination closes the connection: that is not to be repaired
        }
        this.#say({ type: 'error', reason: message });
        return;
      }
      default:
    }
  }

  /** Stream by stream: totals could agree although a page went to the wrong one's account. */
  #onReady(counts: readonly PageCounts[]): void {
    const sent = this.#link?.streams?.counts() ?? [];
    const wrong = counts.findIndex((count, i) => !sameCounts(count, sent[i]));
    if (wrong !== -1) {
      this.#say({
        type: 'error',
        reason: `stream ${wrong}: it applied ${JSON.stringify(counts[wrong])}, and ${JSON.stringify(sent[wrong])} was sent`,
      });
      return;
    }
    this.#say({ type: 'ready', counts: { ...totalCounts(counts), rounds: this.#rounds } });
  }

  /** The outcome is known: the connection may close. */
  #answered(): void {
    this.#over = true;
  }

  #onEnded(error: LacunaError): void {
    if (this.#over) {
      return;
    }
    if (error.code === 'LINK_LOST' || this.#committed) {
      this.#lose(error.message);
    } else {
      this.#say({ type: 'error', reason: error.message });
      this.#end();
    }
  }

  #say(message: DestinationMessage): void {
    this.#messages.push(message);
    this.#options.event.ring();
  }

  /**
   * A stream that breaks takes the link with it; unless the destination says in a moment why it has closed it. Once the
   * commit has left, streams have done their work.
   */
  #watchStreams(): void {
    const link = this.#link;
    const failure = link?.streams?.failure;
    if (failure === undefined || this.#committed || this.#over || this.#failing !== undefined) {
      return;
    }
    this.#failing = setTimeout(() => {
      if (link === this.#link && !this.#committed && !this.#over) {
        this.#lose(failure.message);
      }
    }, LAST_WORDS_MS);
  }

  // ── links ─────────────────────────────────────────────────────────────────────────────────────────────────

  #lose(reason: string): void {
    this.#passing = false;
    this.#drop();
    this.#say({ type: 'lost', reason });
    this.#reconnecting = this.#reconnect();
  }

  /** Lets go of the link, at once or after its last words. */
  #drop(lastWords = false): void {
    const link = this.#link;
    if (link === undefined) {
      return;
    }
    this.#link = undefined;
    clearTimeout(this.#failing);
    this.#failing = undefined;
    this.#bytesBefore += link.connection.bytesSent + (link.streams?.bytesSent() ?? 0);
    if (lastWords) {
      link.connection.end();
    } else {
      link.connection.destroy();
    }
    this.#fence(link.connection.closed, link.streams?.close());
  }

  #fence(...ends: (Promise<void> | undefined)[]): void {
    this.#fences = Promise.all([this.#fences, ...ends]).then(() => undefined);
  }

  #end(): void {
    this.#over = true;
    this.#passing = false;
    this.#drop(true);
    this.#attempt?.abort();
    this.#wake?.();
  }

  async #reconnect(): Promise<void> {
    const { retry = DEFAULT_RETRY, random = Math.random } = this.#options;
    let lastReason = '';
    for (let waitMs = retry.firstMs; ; waitMs = Math.min(waitMs * 2, retry.mostMs)) {
      await this.#pause(waitMs * (0.5 + random() / 2));
      await this.#fences; // nothing of the old link reads the guest's memory any more
      if (this.#over) {
        return;
      }
      try {
        await this.#make(true);
        return;
      } catch (thrown) {
        if (this.#over) {
          return;
        }
        const reason = messageOf(thrown);
        if (!this.#committed && !mayPass(thrown)) {
          this.#over = true;
          return this.#say({ type: 'error', reason });
        }
        if (reason !== lastReason) {
          this.#say({ type: 'lost', reason });
          lastReason = reason;
        }
      }
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#wake = wake;
      if (this.#over) {
        wake();
      }
    });
  }

  /** Makes a link under the next epoch. Throws if that does not succeed, and has left nothing open then. */
  async #make(resumes: boolean): Promise<void> {
    this.#epoch += 1;
    const attempt = new AbortController();
    this.#attempt = attempt;
    let broken: LacunaError | undefined;
    let link: Link | undefined;
    const { connection, welcome } = await openControl({
      endpoint: this.#options.endpoint,
      epoch: this.#epoch,
      hello: this.#hello(resumes),
      connectTimeoutMs: this.#options.connectTimeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS,
      silenceMs: this.#options.silenceMs ?? DEFAULT_SILENCE_MS,
      signal: attempt.signal,
      handler: {
        frame: (header, payload) => {
          if (link !== undefined && link === this.#link) {
            this.#onFrame(header, payload);
          } else if (header.type === FrameType.error) {
            throw decodeError(header.value, payload);
          }
        },
        ended: (error) => {
          if (link !== undefined && link === this.#link) {
            this.#onEnded(error);
          } else {
            broken = error;
            attempt.abort();
          }
        },
      },
    });
    const sameInstance = equalBytes(welcome.nonce, this.#nonce);
    try {
      const streams = await this.#streamsFor(welcome, attempt.signal);
      if (broken !== undefined || this.#over) {
        this.#fence(streams?.close());
        throw broken ?? new LacunaError('CANCELLED', 'the channel was closed');
      }
      link = { connection, streams, welcome };
    } catch (thrown) {
      if (resumes) {
        connection.destroy();
      } else {
        connection.send(FrameType.cancel); // it is not tried again: the destination need not wait
        connection.end();
      }
      this.#fence(connection.closed);
      throw broken ?? thrown;
    } finally {
      this.#attempt = undefined;
    }
    this.#link = link;
    if (!this.#committed) {
      this.#nonce = welcome.nonce;
    }
    if (resumes) {
      this.#restored(welcome, sameInstance);
    }
  }

  #restored({ status }: Welcome, sameInstance: boolean): void {
    this.#rounds = 0;
    if (!this.#committed) {
      this.#say({ type: 'restored', kept: status === 'kept' && sameInstance });
      return;
    }
    if (status === 'settled' && sameInstance) {
      this.#say({ type: 'restored', kept: true });
      return;
    }
    // Another instance can't know what became of the commit, whatever it says (I10).
    this.#say({ type: 'restored', kept: false });
    this.#say({ type: 'unknown-migration' });
  }

  /** None are opened after the commit. */
  async #streamsFor(welcome: Welcome, signal: AbortSignal): Promise<Streams | undefined> {
    if (this.#committed) {
      return undefined;
    }
    if (welcome.tickets.length === 0) {
      throw new LacunaError('DESTINATION_FAILED', 'the destination has ended this migration');
    }
    if (welcome.longestRunPages < NETWORK_RUN_PAGES) {
      throw new LacunaError(
        'UNSUPPORTED',
        `the destination takes runs of ${welcome.longestRunPages} pages; this source needs ${NETWORK_RUN_PAGES}`,
      );
    }
    const { endpoint, memory, event } = this.#options;
    return this.#openStreams({
      endpoint,
      tickets: welcome.tickets,
      epoch: this.#epoch,
      memory,
      event,
      compression: (welcome.features & Feature.compressedRuns) === 0 ? 'off' : this.#options.compression,
      signal,
    });
  }

  #hello(resumes: boolean): Hello {
    const { label, guest = '', memory, streams } = this.#options;
    return {
      requiredFeatures: 0,
      optionalFeatures: (this.#options.compression ?? 'off') === 'off' ? 0 : Feature.compressedRuns,
      streams,
      resumes,
      committed: this.#committed,
      longestRunPages: MOST_RUN_PAGES,
      longestDeviceStateBytes: MOST_DEVICE_STATE_BYTES,
      migrationId: this.#id,
      nonce: this.#nonce,
      layout: memory.layout,
      label,
      guest,
    };
  }
}

/** What may be otherwise the next time: whatever is not the destination's own and last word. */
const PASSING: readonly LacunaErrorCode[] = [
  'CONNECTION_FAILED',
  'LINK_LOST',
  'AUTHENTICATION_FAILED',
  'BUSY',
];

function mayPass(thrown: unknown): boolean {
  return isLacunaError(thrown) && PASSING.includes(thrown.code);
}
