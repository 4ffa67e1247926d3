import { LacunaError } from '../errors.js';
import type { EventWord } from '../memory/control-buffer.js';
import type { SourceChannel } from '../wire/channel.js';
import { type MigrationOptions, resolveOptions } from './options.js';
import type { PageFates } from './page-fates.js';
import { AGAIN, type MigrationEvent, PrecopySource } from './precopy.js';
import type { Timeline } from './timeline.js';
import type { SourceVm } from './vm.js';

/** A slice of work on the event loop, which belongs to the embedder. */
const SLICE_MS = 2;
/** How often progress is reported. */
const PROGRESS_MS = 50;

/** A look at a migration under way. Bytes and pages so far; `elapsedMs` since its start. */
export interface MigrationProgress {
  readonly phase: string;
  readonly round: number;
  readonly elapsedMs: number;
  readonly transferredBytes: number;
  readonly pendingPages: number;
  readonly sentPages: number;
  readonly zeroPages: number;
  readonly skippedPages: number;
}

/**
 * What an operator may say once a commit has left and is not answered: heard at the next step, and without effect at any other
 * time (docs/HANDOVER.md).
 */
export interface MigrationControls {
  /**
   * Asks the destination to take the commit back. Its answer decides where the guest runs; until it answers the guest stays
   * stopped here.
   */
  withdraw(): void;
  /**
   * Lets the guest go on here without an answer. Only for who has made sure that it does not run at the destination and never
   * will: otherwise it runs twice (I10).
   */
  override(): void;
}

/** What to move, over what, and how. */
export interface MigrateRequest {
  readonly vm: SourceVm;
  readonly channel: SourceChannel;
  /** The word that the guest, the channel and the destination ring. */
  readonly event: EventWord;
  readonly options?: Partial<MigrationOptions>;
  /** Aborting it at any moment before the commit leaves the guest running here with its memory back. */
  readonly signal?: AbortSignal | undefined;
  /** Called as things happen, within a step: return soon, await nothing. */
  readonly onEvent?: ((event: MigrationEvent) => void) | undefined;
  /** Called once, before the first step; what it throws is what the promise is rejected with, and nothing was touched. */
  readonly onControls?: ((controls: MigrationControls) => void) | undefined;
  /** Called every 50 ms, between two slices. */
  readonly onProgress?: ((progress: MigrationProgress) => void) | undefined;
  /** Take down what becomes of each page, and what happens when. */
  readonly fates?: PageFates | undefined;
  readonly timeline?: Timeline | undefined;
  /** Milliseconds of a clock that never goes back; performance.now by default. */
  readonly clock?: (() => number) | undefined;
}

/**
 * Moves a running guest over `channel`, and resolves when it is over, however it ended: see `phase` and `error`
 * of the result. Rejects for a request that makes no sense, and with whatever the VM, the channel or a handler has
 * thrown: then the migration is called off first, if it still can be, so that the guest runs here again (I8).
 *
 * The work is done in slices of 2 ms with a macrotask between them, so that timers, sockets and the embedder's
 * own callbacks run meanwhile.
 */
export async function migrate(request: MigrateRequest): Promise<PrecopySource> {
  const { event, signal, timeline } = request;
  const clock = request.clock ?? ((): number => performance.now());
  const source = new PrecopySource(request.vm, request.channel, {
    ...resolveOptions(request.options ?? {}),
    clock,
    fates: request.fates,
    onEvent: (happened) => {
      timeline?.event(clock() - source.startedAt, happened);
      handle(() => request.onEvent?.(happened));
    },
  });
  let thrown: { readonly error: unknown } | undefined;
  /** Calls a handler; one that has thrown ends the migration, between two steps, and is not called again. */
  const handle = (handler: () => void): void => {
    try {
      if (thrown === undefined) {
        handler();
      }
    } catch (error) {
      thrown = { error };
      source.cancel();
    }
  };
  const onAbort = (): void => {
    source.cancel();
    event.ring();
  };
  if (signal?.aborted === true) {
    throw new LacunaError('CANCELLED', 'the migration was cancelled before it began', {
      cause: signal.reason,
    });
  }
  request.onControls?.({
    withdraw: () => {
      source.withdraw();
      event.ring();
    },
    override: () => {
      source.override();
      event.ring();
    },
  });
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    let nextProgress = clock() + PROGRESS_MS;
    while (!source.done) {
      const seen = event.value(); // before the step: what rings after it ends the wait at once
      const sliceEnd = clock() + SLICE_MS;
      let until = source.step();
      while (until === AGAIN && !source.done && clock() < sliceEnd) {
        until = source.step();
      }
      const now = clock();
      timeline?.look(source, now);
      if (now >= nextProgress && !source.done && request.onProgress !== undefined) {
        handle(() => request.onProgress?.(progressOf(source, now)));
        const after = clock(); // of a very large guest it takes a while to say how many pages are left
        nextProgress = after + Math.max(PROGRESS_MS, (after - now) * PROGRESS_MS);
      }
      if (!source.done) {
        await (until === AGAIN || until - now < 1 ? macrotask() : wakeOrTimeout(event, seen, until - now));
      }
    }
  } catch (error) {
    callOff(source);
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  if (thrown !== undefined) {
    throw thrown.error;
  }
  return source;
}

/** A step was broken off by an exception of the VM or the channel: the guest is given back if it still can be (I8). */
function callOff(source: PrecopySource): void {
  if (source.canCancel && !Number.isNaN(source.startedAt)) {
    source.cancel();
    try {
      source.step();
    } catch {
      // What broke the migration may break its end as well; the first exception is the one to tell of.
    }
  }
}

function progressOf(source: PrecopySource, now: number): MigrationProgress {
  return {
    phase: source.phase,
    round: source.rounds.length,
    elapsedMs: now - source.startedAt,
    transferredBytes: source.transferredBytes,
    pendingPages: source.pendingPages,
    sentPages: source.sent.pages,
    zeroPages: source.sent.zeroPages,
    skippedPages: source.accounts.hints.applied,
  };
}

/** Lets everything else on the event loop run once. */
export function macrotask(): Promise<void> {
  if (typeof setImmediate === 'function') {
    return new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
  // A browser: a message to oneself comes sooner than any timer.
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    Object.assign(port1, {
      onmessage: (): void => {
        port1.close();
        resolve();
      },
    });
    port2.postMessage(null);
  });
}

/** The longest that a wait goes without a look at the world: a timer's delay is a 32-bit number. */
const LONGEST_WAIT_MS = 60_000;

/** Resolves when the word is rung (it is past `seen`), or after `timeoutMs`. The timer keeps the process alive. */
export async function wakeOrTimeout(event: EventWord, seen: number, timeoutMs: number): Promise<void> {
  const rung = event.next(seen);
  if (rung === undefined) {
    return macrotask(); // not `return`: a loop whose awaits are all settled would starve everything else
  }
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.min(timeoutMs, LONGEST_WAIT_MS));
  });
  await Promise.race([rung, timeout]);
  clearTimeout(timer);
}
