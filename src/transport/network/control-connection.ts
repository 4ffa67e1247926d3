import type { Socket } from 'node:net';
import { asLacunaError, LacunaError, messageOf } from '../../errors.js';
import { FrameDecoder } from '../../wire/decoder.js';
import {
  type ConnectionKind,
  encodeFrame,
  type FrameHeader,
  FrameType,
  MOST_DEVICE_STATE_BYTES,
  MOST_HELLO_BYTES,
} from '../../wire/frames.js';
import { encodeText, errorNumber } from '../../wire/hello.js';

/** What a control connection is told apart by, and how long it may be silent. */
export interface ControlOptions {
  /** What may arrive. */
  readonly kind: ConnectionKind;
  /** Of the connection; that of the first frame which arrives, if it is not known. */
  readonly epoch?: number;
  /** Without a byte for so long it counts as lost. Infinity: whoever made it sees to that. */
  readonly silenceMs: number;
  /** Says something now and then, so that the other end hears it. */
  readonly pings: boolean;
  /** The most frames that an honest peer sends in a second. */
  readonly framesPerSecond?: number;
}

/** What happens on a control connection. */
export interface ControlHandler {
  /** A frame has arrived, not a ping or a pong. `payload` and `header` hold during the call only. Throws to refuse it. */
  frame(header: Readonly<FrameHeader>, payload: Uint8Array<ArrayBufferLike>): void;
  /**
   * Called once, unless this end has ended the connection. With LINK_LOST it is gone; with another code something arrived
   * that can't be right, and the connection is there for {@link ControlConnection.refuse}.
   */
  ended(error: LacunaError): void;
}

/** How often the source says that it is there; more often if the silence that it must not exceed is short. */
const PING_MS = 2000;
/** How long an end that has said its last word waits for the other to have read it. */
const LINGER_MS = 1000;
/** Frames that are handled before the rest of the event loop has its turn. */
const FRAMES_A_TURN = 64;
/** Answers that wait to be read; whoever reads none of them is asked no more. */
const MOST_UNREAD_BYTES = 64 * 1024;

/** Frames that wait to be sent: the longest device state, and more than all others come to. */
const MOST_WAITING_BYTES: number = 2 * MOST_DEVICE_STATE_BYTES;

/**
 * How long the reason for a stream's end may come after it, in ms: it comes by the control connection, which is another.
 */
export const LAST_WORDS_MS = 200;

/** Who is at the other end of a connection. */
export function peerOf(socket: Socket): string {
  return `${socket.remoteAddress ?? 'a closed connection'}:${socket.remotePort ?? 0}`;
}

/**
 * The control connection of a migration, as either end has it: frames in both directions over a socket of TCP or TLS,
 * numbered, of one epoch; pings and pongs; and the ways in which it ends.
 */
export class ControlConnection {
  /** Resolves when the socket is closed. */
  readonly closed: Promise<void>;
  readonly peer: string;
  /** Of this connection, headers included. */
  bytesSent = 0;
  /** The first byte that came, for whoever wants to know what kind of peer that is. */
  firstByte: number | undefined;
  readonly #socket: Socket;
  readonly #handler: ControlHandler;
  readonly #decoder: FrameDecoder;
  readonly #silenceMs: number;
  readonly #framesPerSecond: number;
  #epoch: number;
  #sequence = 0;
  #over = false;
  #heardAt: number = performance.now();
  /** Ticks since something was heard: while this end is too busy to listen there are none, and it does not count. */
  #silentTicks = 0;
  readonly #tickMs: number;
  #interval: ReturnType<typeof setInterval> | undefined;
  #linger: ReturnType<typeof setTimeout> | undefined;
  #pongDue: number | undefined;
  #framesThisTurn = 0;
  #secondBegan = 0;
  #framesThisSecond = 0;

  /** `socket` is connected, and secured where that is wanted; it is read from here on. */
  constructor(socket: Socket, options: ControlOptions, handler: ControlHandler) {
    this.#socket = socket;
    this.#handler = handler;
    this.#epoch = options.epoch ?? 0;
    this.#silenceMs = options.silenceMs;
    this.#framesPerSecond = options.framesPerSecond ?? Number.POSITIVE_INFINITY;
    this.peer = peerOf(socket);
    this.#decoder = new FrameDecoder(
      {
        header: (header) => this.#placeFor(header),
        frame: (header, payload) => this.#frame(header, payload),
      },
      {
        keptPayloadBytes: MOST_HELLO_BYTES,
        connection: options.kind,
        ...(options.epoch === undefined ? {} : { epoch: options.epoch }),
      },
    );
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        clearInterval(this.#interval);
        clearTimeout(this.#linger);
        resolve();
        this.#lost('the other end closed the connection');
      });
    });
    socket.setNoDelay(true);
    socket.on('data', this.#onData);
    socket.on('error', this.#onError);
    socket.on('end', this.#onEnd);
    this.#tickMs = Math.min(PING_MS, options.silenceMs / 5);
    if (options.silenceMs !== Number.POSITIVE_INFINITY) {
      this.#interval = setInterval(() => this.#tick(options.pings), this.#tickMs);
    }
  }

  /** 0 until it is known. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Whether it has ended, or is ending. */
  get over(): boolean {
    return this.#over;
  }

  /** Whether nothing follows the frame that is being handled. */
  get isBetweenFrames(): boolean {
    return this.#decoder.isBetweenFrames;
  }

  /** What may arrive from the next frame on. */
  expect(kind: ConnectionKind): void {
    this.#decoder.connection = kind;
  }

  /** Sends a frame. On a connection that is over it is dropped. */
  send(type: number, value = 0, payload?: Uint8Array): void {
    if (!this.#over) {
      this.#write(type, value, payload);
    }
  }

  /** Says why nothing more is taken, and ends. */
  refuse(error: LacunaError): void {
    if (!this.#socket.destroyed && !this.#socket.writableEnded) {
      this.#write(FrameType.error, errorNumber(error.code), encodeText(error.message));
    }
    this.end();
  }

  /** Ends it when what was sent has been read, or after a second. What arrives meanwhile is dropped. */
  end(): void {
    this.#over = true;
    if (this.#linger !== undefined || this.#socket.destroyed) {
      return;
    }
    // Whoever closes a socket with unread bytes in it resets the connection, and the peer may never see the last words.
    this.#socket.off('data', this.#onData).on('data', ignore);
    this.#socket.resume();
    this.#socket.end();
    this.#linger = setTimeout(() => this.#socket.destroy(), LINGER_MS);
  }

  /** Ends it at once. */
  destroy(): void {
    this.#over = true;
    this.#socket.destroy();
  }

  /**
   * Gives the socket away, from within the handling of a frame: nothing further is read here. Undefined if something was
   * already.
   */
  release(): Socket | undefined {
    if (!this.#decoder.isBetweenFrames || this.#over) {
      return undefined;
    }
    this.#over = true;
    clearInterval(this.#interval);
    this.#socket.off('data', this.#onData).off('error', this.#onError).off('end', this.#onEnd);
    return this.#socket;
  }

  readonly #onData = (bytes: Uint8Array): void => {
    this.#heardAt = performance.now();
    this.#silentTicks = 0;
    this.firstByte ??= bytes[0];
    this.#framesThisTurn = 0;
    try {
      this.#decoder.push(bytes);
    } catch (thrown) {
      this.#failed(thrown);
      return;
    }
    if (this.#pongDue !== undefined) {
      const value = this.#pongDue; // one for all that came at once
      this.#pongDue = undefined;
      if (this.#socket.writableLength < MOST_UNREAD_BYTES) {
        this.send(FrameType.pong, value);
      }
    }
    if (this.#framesThisTurn >= FRAMES_A_TURN && !this.#over) {
      this.#socket.pause();
      setImmediate(() => {
        if (!this.#over) {
          this.#socket.resume();
        }
      });
    }
  };

  readonly #onError = (cause: unknown): void => {
    this.#lost(messageOf(cause), cause);
  };

  readonly #onEnd = (): void => {
    this.#lost('the other end closed the connection');
  };

  #placeFor({ type, payloadLength }: Readonly<FrameHeader>): Uint8Array<ArrayBufferLike> | undefined {
    // Only whoever was admitted may send one (FRAMES_OF); it is as long as was agreed on, or shorter.
    return type === FrameType.deviceState && payloadLength <= MOST_DEVICE_STATE_BYTES
      ? new Uint8Array(payloadLength)
      : undefined;
  }

  #frame(header: Readonly<FrameHeader>, payload: Uint8Array<ArrayBufferLike>): void {
    if (this.#over) {
      return;
    }
    this.#epoch = header.epoch;
    this.#framesThisTurn += 1;
    this.#countFrame();
    if (header.type === FrameType.ping) {
      this.#pongDue = header.value;
    } else if (header.type !== FrameType.pong) {
      this.#handler.frame(header, payload);
    }
  }

  #countFrame(): void {
    if (this.#heardAt - this.#secondBegan > 1000) {
      this.#secondBegan = this.#heardAt;
      this.#framesThisSecond = 0;
    }
    this.#framesThisSecond += 1;
    if (this.#framesThisSecond > this.#framesPerSecond) {
      throw new LacunaError(
        'PROTOCOL_VIOLATION',
        `more than ${this.#framesPerSecond} frames in a second on a control connection`,
      );
    }
  }

  #tick(pings: boolean): void {
    if (this.#over) {
      return;
    }
    if (pings && this.#socket.writableLength < MOST_UNREAD_BYTES) {
      this.#write(FrameType.ping, 0);
    }
    this.#silentTicks += 1;
    if (this.#isSilent()) {
      // This event loop may have been busy itself: what has come meanwhile is read before it is judged.
      setImmediate(() => {
        if (this.#isSilent()) {
          this.#lost(`nothing was heard for ${this.#silenceMs} ms`);
        }
      });
    }
  }

  #isSilent(): boolean {
    return this.#silentTicks * this.#tickMs > this.#silenceMs;
  }

  #write(type: number, value: number, payload?: Uint8Array): void {
    const frame = encodeFrame(
      { type, sequence: this.#sequence, epoch: this.#epoch === 0 ? 1 : this.#epoch, value },
      payload,
    );
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.bytesSent += frame.length;
    this.#socket.write(frame);
    if (this.#socket.writableLength > MOST_WAITING_BYTES) {
      this.#lost('the other end reads nothing of what it is told');
    }
  }

  /** What came can't be right; what still comes is not looked at. */
  #failed(thrown: unknown): void {
    this.#socket.off('data', this.#onData).on('data', ignore);
    if (!this.#over) {
      this.#over = true;
      this.#handler.ended(asLacunaError(thrown, 'ILLEGAL_STATE'));
    }
  }

  #lost(reason: string, cause?: unknown): void {
    this.#socket.destroy();
    if (!this.#over) {
      this.#over = true;
      this.#handler.ended(new LacunaError('LINK_LOST', reason, { cause }));
    }
  }
}

function ignore(): void {
  // Read, so that the peer can go on to read what it was told.
}
