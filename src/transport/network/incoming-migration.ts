import { randomBytes, timingSafeEqual } from 'node:crypto';
import type { Socket } from 'node:net';
import { asLacunaError, LacunaError } from '../../errors.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import { bitmapWords } from '../../memory/page-bitmap.js';
import type { RamLayout } from '../../memory/ram-layout.js';
import { type DestinationMessage, type FrameSink, type PageCounts, totalCounts } from '../../wire/channel.js';
import { type FrameHeader, FrameType, ID_BYTES, MOST_RUN_PAGES } from '../../wire/frames.js';
import {
  agreedFeatures,
  encodeCounts,
  encodeStarted,
  encodeText,
  encodeWelcome,
  type Hello,
  type WelcomeStatus,
} from '../../wire/hello.js';
import { type ControlConnection, LAST_WORDS_MS } from './control-connection.js';
import type { ReceivingStreams, ReceivingStreamsOptions } from './receiving-streams.js';
import type { Outcome } from './settled-migrations.js';
import type { TlsSettings } from './tls.js';

/** What a source would like to send. Its words are the peer's, safe to be shown but not to be trusted. */
export interface MigrationOffer {
  /** 32 hexadecimal digits. */
  readonly migrationId: string;
  /** For people. */
  readonly label: string;
  /** What the source's VMM says of the guest; JSON by convention, not checked. */
  readonly guest: string;
  readonly layout: RamLayout;
  readonly streams: number;
  /** Address and port that it comes from. */
  readonly peer: string;
}

/** Where a guest is received into, once it was admitted. */
export interface Admission {
  /** Of the offer's layout, and zero. */
  readonly memory: GuestMemory;
  /** A `Receiver`, or what does as it does; its page methods are not called. */
  readonly sink: FrameSink;
  /**
   * Called once, last: nothing here writes the memory any more, and the sink is told nothing more. The next migration is
   * received when what it returns has resolved.
   */
  readonly ended?: (outcome: 'started' | 'voided') => unknown;
}

/** What has come of a migration, over all its links. */
export interface ReceivedTotals {
  /** Pages whose contents came, that came as zeroes, and that were to be filled. */
  pages: number;
  zeroPages: number;
  filledPages: number;
  /** Of all frames of the streams, headers included, as they came. */
  bytes: number;
}

/** What happens at a destination, as it happens; `text` is for people. */
export interface ListenerEvent {
  readonly type:
    | 'offered'
    | 'refused'
    | 'receiving'
    | 'round'
    | 'lost'
    | 'restored'
    | 'ready'
    | 'started'
    | 'not-started'
    | 'discarded'
    | 'answered';
  /** Undefined for a peer that had not come to say. */
  readonly migrationId: string | undefined;
  readonly peer: string;
  readonly text: string;
}

/** Of {@link IncomingMigration}. */
export type MakeStreams = (
  options: ReceivingStreamsOptions,
) => Pick<ReceivingStreams, keyof ReceivingStreams>;

type Streams = ReturnType<MakeStreams>;

/** What a migration needs of its listener. */
export interface IncomingHost {
  readonly nonce: Uint8Array;
  readonly tls: TlsSettings | undefined;
  readonly joinMs: number;
  readonly keepMs: number;
  readonly makeStreams: MakeStreams;
  admit(
    offer: MigrationOffer,
    reply: (message: DestinationMessage) => void,
    applied: () => PageCounts,
    received: () => ReceivedTotals,
  ): Promise<Admission>;
  say(type: ListenerEvent['type'], text: string): void;
  /** What became of the migration: taken down before its source is told. */
  settle(outcome: Outcome): void;
  /** Tells a source what became of the migration. */
  answer(connection: ControlConnection): void;
  /** Nothing of it is left. */
  over(): void;
}

/** The link that is there now. */
interface Link {
  readonly connection: ControlConnection;
  readonly streams: Streams;
  readonly tickets: readonly Uint8Array[];
  readonly joined: Set<number>;
  /** Rounds that the sink was told of. */
  round: number;
  deviceState: Uint8Array | undefined;
  /** Rounds that there are, once the source has said so. */
  rounds: number | undefined;
  /** A stream has broken. */
  isBroken: boolean;
}

/**
 * A migration at its destination, over all its links. At any time there is one connection that counts, of the greatest
 * epoch that was seen; before another one does, the sockets of the old are destroyed and its threads have acknowledged
 * that they write the guest's memory no more.
 *
 * ```
 *   hello ──▶ admitted ──welcome──▶ joining ──all streams──▶ receiving ──finish──▶ ready ──commit──▶ starting ──▶ started
 *               ▲  ▲                   │                        │                   │                   └──▶ voided
 *               │  └─── a hello of a greater epoch ◀── lost ◀───┴───────────────────┘
 *               │                                       └── keepMs ──▶ voided, not for good
 *         an error, a cancel, a withdrawal at any time before *starting* ──▶ voided
 * ```
 */
export class IncomingMigration {
  readonly offer: MigrationOffer;
  epoch = 0;
  /** The connection that counts: it was greeted, and has not been lost or replaced. */
  connection: ControlConnection | undefined;
  /** `over` includes a migration that is being brought to its end. */
  phase: 'receiving' | 'ready' | 'starting' | 'over' = 'receiving';
  readonly #host: IncomingHost;
  /** Which connection has been welcomed; no other says anything about the guest. */
  #welcomed: ControlConnection | undefined;
  #admission: Promise<Admission> | undefined;
  #admitted: Admission | undefined;
  #written: SharedArrayBuffer | undefined;
  #link: Link | undefined;
  #wasLinked = false;
  /** What came by links that are gone, and those that are being closed. */
  readonly #receivedBefore: ReceivedTotals = { pages: 0, zeroPages: 0, filledPages: 0, bytes: 0 };
  readonly #closing = new Set<Streams>();
  #fences: Promise<void> = Promise.resolve();
  #decisions: Promise<void> = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Resolves when it is over. */
  readonly ended: Promise<void>;
  #markEnded: () => void = () => undefined;

  constructor(offer: MigrationOffer, host: IncomingHost) {
    this.offer = offer;
    this.#host = host;
    this.ended = new Promise((resolve) => {
      this.#markEnded = resolve;
    });
  }

  get id(): string {
    return this.offer.migrationId;
  }

  // ── links ─────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * A connection whose hello was found good, of an epoch greater than any before: whatever there was is fenced off, and
   * then it is welcomed.
   */
  async greet(connection: ControlConnection, epoch: number, hello: Hello): Promise<void> {
    this.#unlink();
    this.connection?.destroy();
    this.connection = connection;
    this.epoch = epoch;
    clearTimeout(this.#timer);
    try {
      await this.#fences;
      this.#admission ??= this.#admit();
      await this.#admission;
    } catch (thrown) {
      if (this.phase !== 'over') {
        this.phase = 'over';
        this.#refuse(this.connection ?? connection, thrown); // another may have come while it was decided
        this.#end();
      }
      return;
    }
    if (this.connection === connection && this.phase !== 'over') {
      try {
        this.#welcome(connection, hello);
      } catch (thrown) {
        void this.#fail(thrown);
      }
    }
  }

  /** A stream that asks to join: true if it was taken. */
  join(index: number, epoch: number, ticket: Uint8Array, connection: ControlConnection): boolean {
    const link = this.#link;
    const expected = link?.tickets[index];
    if (link === undefined || expected === undefined || epoch !== this.epoch || link.joined.has(index)) {
      return false;
    }
    if (!timingSafeEqual(ticket, expected)) {
      return false;
    }
    connection.send(FrameType.go);
    const socket: Socket | undefined = connection.release();
    if (socket === undefined) {
      return false; // it did not wait for the answer
    }
    link.joined.add(index);
    link.streams.adopt(index, socket);
    if (link.joined.size === link.tickets.length) {
      clearTimeout(this.#timer);
      const { memoryBytes } = this.offer.layout;
      const mib = Math.round(memoryBytes / 2 ** 20);
      this.#host.say(
        this.#wasLinked ? 'restored' : 'receiving',
        `${this.#wasLinked ? 'the link is there again' : `receiving "${this.offer.label}", ${mib} MiB`}, ${link.tickets.length} streams`,
      );
      this.#wasLinked = true;
    }
    return true;
  }

  /** The connection that counts has ended, in whatever way. */
  lost(error: LacunaError): void {
    const { connection } = this;
    if (this.phase === 'over' || connection === undefined) {
      return;
    }
    if (error.code !== 'LINK_LOST') {
      void this.#fail(error);
      return;
    }
    this.connection = undefined;
    connection.destroy();
    this.#unlink();
    clearTimeout(this.#timer);
    const { keepMs } = this.#host;
    if (this.phase === 'starting') {
      return; // what becomes of it is taken down, for when it is asked
    }
    if (!this.#wasLinked) {
      // Its source has given the attempt up: it comes back as another migration, if at all.
      void this.discard(`its source went before anything had come: ${error.message}`);
      return;
    }
    this.#host.say('lost', `the link broke: ${error.message}; what has arrived is kept for ${keepMs} ms`);
    this.#timer = setTimeout(
      () => void this.discard(`the link broke, and its source did not come back within ${keepMs} ms`),
      keepMs,
    );
  }

  #welcome(connection: ControlConnection, hello: Hello): void {
    const { sink, memory } = this.#admitted!;
    if (hello.committed) {
      // In case of need the commit comes again, and finds the guest ready; pages don't.
      this.#sendWelcome(connection, hello, 'settled', []);
      return;
    }
    const isKept = this.#written !== undefined;
    if (isKept) {
      sink.restart();
      this.phase = 'receiving';
    }
    const { pfnSpan } = memory.layout;
    this.#written ??= new SharedArrayBuffer(bitmapWords(pfnSpan) * 4);
    const tickets = Array.from({ length: hello.streams }, () => new Uint8Array(randomBytes(ID_BYTES)));
    const streams = this.#host.makeStreams({
      count: hello.streams,
      epoch: this.epoch,
      memory,
      written: this.#written,
      longestRunPages: Math.min(hello.longestRunPages, MOST_RUN_PAGES),
      features: agreedFeatures(hello),
      tls: this.#host.tls,
      onChange: () => this.#advance(link),
    });
    const link: Link = {
      connection,
      streams,
      tickets,
      joined: new Set(),
      round: 0,
      deviceState: undefined,
      rounds: undefined,
      isBroken: false,
    };
    this.#link = link;
    this.#sendWelcome(connection, hello, isKept ? 'kept' : 'fresh', tickets);
    const { joinMs } = this.#host;
    this.#timer = setTimeout(() => {
      this.lost(new LacunaError('LINK_LOST', `its streams did not join within ${joinMs} ms`));
    }, joinMs);
  }

  #sendWelcome(
    connection: ControlConnection,
    hello: Hello,
    status: WelcomeStatus,
    tickets: readonly Uint8Array[],
  ): void {
    this.#welcomed = connection;
    connection.send(FrameType.welcome, 0, welcomeTo(hello, status, this.#host.nonce, tickets));
  }

  /** Sockets of the link are destroyed; {@link #fences} resolves when its threads have let go of the memory. */
  #unlink(): void {
    const link = this.#link;
    if (link !== undefined) {
      this.#link = undefined;
      const { streams } = link;
      this.#closing.add(streams);
      const closed = streams.close().then(() => {
        addTo(this.#receivedBefore, streams);
        this.#closing.delete(streams);
      });
      this.#fences = Promise.all([this.#fences, closed]).then(() => undefined);
    }
  }

  #received(): ReceivedTotals {
    const all = { ...this.#receivedBefore };
    for (const streams of this.#closing) {
      addTo(all, streams);
    }
    if (this.#link !== undefined) {
      addTo(all, this.#link.streams);
    }
    return all;
  }

  async #admit(): Promise<Admission> {
    const admitted = await this.#host.admit(
      this.offer,
      (message) => this.#onReply(message),
      () => totalCounts(this.#link?.streams.counts() ?? []),
      () => this.#received(),
    );
    this.#admitted = admitted;
    return admitted;
  }

  // ── what arrives ──────────────────────────────────────────────────────────────────────────────────────────

  /** A frame of the connection that counts, after its hello. Throws PROTOCOL_VIOLATION. */
  frame(connection: ControlConnection, { type, value }: Readonly<FrameHeader>, payload: Uint8Array): void {
    const link = this.#link;
    if (connection !== this.#welcomed) {
      throw outOfTurn('a frame before the welcome'); // it could decide about a guest that is being fenced off
    }
    switch (type) {
      case FrameType.deviceState:
        if (link === undefined || link.deviceState !== undefined || this.phase !== 'receiving') {
          throw outOfTurn('a device state');
        }
        link.deviceState = new Uint8Array(payload);
        return;
      case FrameType.finish:
        if (link?.deviceState === undefined || link.rounds !== undefined || value < link.round) {
          throw outOfTurn('the end of the data');
        }
        link.rounds = value;
        this.#advance(link);
        return;
      case FrameType.commit:
        if (this.phase === 'ready') {
          this.phase = 'starting';
        }
        this.#decide(connection, (sink) => sink.commit());
        return;
      case FrameType.withdraw:
        this.#decide(connection, (sink) => sink.withdraw());
        return;
      case FrameType.cancel:
        if (this.phase !== 'starting') {
          void this.discard('its source has called it off', true);
        }
        return;
      default:
        throw outOfTurn('a frame');
    }
  }

  /** A stream has ended a round, or failed; or the source has said how many rounds there are. */
  #advance(link: Link): void {
    const { streams } = link;
    if (link !== this.#link || this.phase !== 'receiving') {
      return; // once it is ready, streams have done their work
    }
    const { failure } = streams;
    if (failure !== undefined) {
      this.#broken(link, failure);
      return;
    }
    if (link.joined.size < link.tickets.length) {
      return;
    }
    while (link.round < streams.endedRound) {
      link.round += 1;
      const { round } = link;
      if (round > (link.rounds ?? Number.POSITIVE_INFINITY)) {
        void this.#fail(outOfTurn('a round after the last'));
        return;
      }
      this.#apply((sink) => sink.roundEnd(round));
      if (link !== this.#link) {
        return; // it was refused
      }
      streams.release(round);
      link.connection.send(FrameType.applied, round);
      this.#host.say('round', `round ${round} was applied`);
    }
    if (link.round === link.rounds) {
      const { deviceState } = link;
      this.#apply((sink) => {
        sink.deviceState(deviceState!); // everything of RAM is there
        sink.finish();
      });
    }
  }

  /**
   * A stream has come to its end. A break takes the link with it, unless the source says in a moment why it has closed it:
   * what it says comes by another connection.
   */
  #broken(link: Link, failure: LacunaError): void {
    if (!isBreak(failure)) {
      void this.#fail(failure);
    } else if (!link.isBroken) {
      link.isBroken = true;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        if (link === this.#link && this.phase === 'receiving') {
          this.lost(new LacunaError('LINK_LOST', failure.message, { cause: failure }));
        }
      }, LAST_WORDS_MS);
    }
  }

  /** What decides about the guest is heard when nothing of an older link writes its memory any more, and in order. */
  #decide(connection: ControlConnection, frame: (sink: FrameSink) => void): void {
    this.#decisions = Promise.all([this.#decisions, this.#fences]).then(() => {
      if (this.phase === 'over') {
        this.#host.answer(connection); // one before it was the last word
      } else {
        this.#apply(frame);
      }
    });
  }

  #apply(frame: (sink: FrameSink) => void): void {
    const sink = this.#admitted?.sink;
    if (sink === undefined || sink.discarded) {
      return;
    }
    try {
      frame(sink);
    } catch (thrown) {
      void this.#fail(thrown);
    }
  }

  /** What the sink says goes out on the connection that counts now, or is taken down for when it is asked. */
  #onReply(message: DestinationMessage): void {
    if (this.phase === 'over') {
      return; // it was told already
    }
    switch (message.type) {
      case 'ready':
        if (this.#link !== undefined) {
          this.phase = 'ready';
          this.connection?.send(FrameType.ready, 0, encodeCounts(this.#link.streams.counts()));
          this.#host.say('ready', 'everything has arrived');
        }
        return;
      case 'started':
        this.#settle({ type: 'started', startedAt: message.startedAt });
        this.connection?.send(FrameType.started, 0, encodeStarted(message.startedAt));
        this.#host.say('started', 'the guest runs here');
        return;
      case 'not-started':
        this.#void('not-started', message.reason);
        this.connection?.send(FrameType.notStarted, 0, encodeText(message.reason));
        return;
      case 'error':
        this.connection?.refuse(new LacunaError('DESTINATION_FAILED', message.reason));
        this.#void('discarded', message.reason);
        return;
      default:
    }
  }

  // ── endings ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Something arrived that can't be right. No effect on a guest that is being started. */
  async #fail(thrown: unknown): Promise<void> {
    if (this.phase === 'over' || this.phase === 'starting') {
      return;
    }
    this.phase = 'over';
    const error = asLacunaError(thrown, 'DESTINATION_FAILED');
    this.connection?.refuse(error); // before its streams are closed: it should know why
    await this.#quiesce();
    const sink = this.#admitted?.sink;
    if (sink !== undefined && !sink.discarded) {
      sink.fail(error);
    }
    this.#void('discarded', error.message);
  }

  /**
   * Gives up what has arrived: its source has called it off (then it is final), or does not come back, or the listener closes.
   * No effect on a guest that is being started.
   */
  async discard(reason: string, final = false): Promise<void> {
    if (this.phase === 'over' || this.phase === 'starting') {
      return;
    }
    this.phase = 'over';
    if (final) {
      this.connection?.end();
    } else {
      this.connection?.refuse(new LacunaError('DESTINATION_FAILED', reason));
    }
    await this.#quiesce();
    this.#admitted?.sink.cancel();
    this.#void('discarded', reason, final);
  }

  /** Resolves when nothing writes the guest's memory any more, and it is known whether there is any. */
  async #quiesce(): Promise<void> {
    this.#unlink();
    await this.#fences;
    await this.#admission?.catch(() => undefined);
  }

  #void(type: 'discarded' | 'not-started', reason: string, final = true): void {
    this.#settle({ type: 'voided', reason, final });
    this.#host.say(type, reason);
  }

  #settle(outcome: Outcome): void {
    this.phase = 'over';
    this.#host.settle(outcome);
    clearTimeout(this.#timer);
    this.#unlink();
    void this.#fences.then(async () => {
      try {
        await this.#admitted?.ended?.(outcome.type);
      } finally {
        this.#end();
      }
    });
  }

  #end(): void {
    clearTimeout(this.#timer);
    this.#host.over();
    this.#markEnded();
  }

  #refuse(connection: ControlConnection, thrown: unknown): void {
    const error = asLacunaError(thrown, 'DESTINATION_FAILED');
    this.#host.say('refused', error.message);
    connection.refuse(error);
  }
}

/** The payload of a welcome. */
export function welcomeTo(
  hello: Hello,
  status: WelcomeStatus,
  nonce: Uint8Array,
  tickets: readonly Uint8Array[] = [],
): Uint8Array<ArrayBuffer> {
  return encodeWelcome({
    features: agreedFeatures(hello),
    status,
    longestRunPages: Math.min(hello.longestRunPages, MOST_RUN_PAGES),
    longestDeviceStateBytes: hello.longestDeviceStateBytes,
    nonce,
    tickets,
  });
}

/** Whether a stream just broke, so that another link may do; everything else would go wrong again. */
function isBreak(failure: LacunaError): boolean {
  return (
    failure.code === 'LINK_LOST' ||
    failure.code === 'CONNECTION_FAILED' ||
    failure.code === 'AUTHENTICATION_FAILED'
  );
}

function addTo(sum: ReceivedTotals, streams: Streams): void {
  const { pages, zeroPages, filledPages } = totalCounts(streams.counts());
  sum.pages += pages;
  sum.zeroPages += zeroPages;
  sum.filledPages += filledPages;
  sum.bytes += streams.bytesReceived();
}

function outOfTurn(what: string): LacunaError {
  return new LacunaError('PROTOCOL_VIOLATION', `${what} came out of turn`);
}
