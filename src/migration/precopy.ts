import { HintState, type HintStateName } from '../balloon/hint-session.js';
import { LacunaError, type LacunaErrorCode } from '../errors.js';
import { isZeroPage } from '../memory/byte-ops.js';
import { PAGE_SIZE } from '../memory/page.js';
import type { PageRun } from '../memory/page-bitmap.js';
import {
  type DestinationMessage,
  FRAME_HEADER_BYTES,
  noPages,
  type PageCounts,
  type SourceChannel,
  sameCounts,
} from '../wire/channel.js';
import { Convergence, type SwitchoverReason } from './convergence.js';
import type { MigrationOptions } from './options.js';
import { Pacer } from './pacer.js';
import { PageAccounts, type RoundBalance } from './page-accounts.js';
import type { PageFates } from './page-fates.js';
import { SendCursor } from './send-cursor.js';
import type { HintDevice, SourceVm } from './vm.js';

/**
 * The source's phases. A guest that runs at the source does so again whatever fails before `commit-wait` (I8).
 *
 * ```
 *   setup ─▶ sync ─▶ round ─▶ fills ─┐        converged             all sent        ready
 *             ▲                      ├─▶ sync ─────────▶ pausing ─▶ final-sync ─▶ final-send ─▶ ready-wait ─▶ commit-wait ─▶ completed
 *             └──────── not yet ─────┘
 *   any of these up to ready-wait ── cancel, an error, a deadline ──▶ cancelled | failed, the guest runs here
 *   any of these up to ready-wait ── the link breaks ──▶ recovering ── it is restored ──▶ sync
 *                                                             └── cancel, a deadline ──▶ cancelled | failed, the guest runs here
 *   commit-wait ── "not started" ──▶ failed, the guest runs here     commit-wait ── silence ──▶ unknown, it does not (I10)
 *   commit-wait ── a broken link, "never heard of it" ──▶ commit-wait: it is asked again     ── an override ──▶ failed, it runs here
 * ```
 */
export type SourcePhase = (typeof SOURCE_PHASES)[number];

/** All of {@link SourcePhase}. */
export const SOURCE_PHASES = [
  'setup',
  'sync',
  'round',
  'fills',
  'pausing',
  'final-sync',
  'final-send',
  'ready-wait',
  'recovering',
  'commit-wait',
  'completed',
  'cancelled',
  'failed',
  'unknown',
] as const;

/** One round, for the report. */
export interface RoundRecord extends RoundBalance {
  readonly round: number;
  readonly startedAt: number;
  endedAt: number;
  bytes: number;
  /** The guest was stopped. */
  readonly final: boolean;
}

/** One hint session, for the report. Times on the source's clock, NaN where it did not come to that. */
export interface SessionRecord {
  readonly id: number;
  readonly round: number;
  requestedAt: number;
  startedAt: number;
  firstRangeAt: number;
  doneAt: number;
  closedAt: number;
  ranges: number;
  /** A deadline passed before the stop sign (I6). */
  expired: boolean;
}

/** What happens, as it happens. */
export type MigrationEvent =
  | { readonly type: 'started' }
  | { readonly type: 'round'; readonly round: number; readonly pendingPages: number }
  /** A session's id is about to be issued: the dirty log was drained, the guest has not been told yet. */
  | { readonly type: 'session-issued'; readonly id: number }
  | { readonly type: 'session-started'; readonly id: number }
  | { readonly type: 'session-done'; readonly id: number }
  | { readonly type: 'session-expired'; readonly id: number }
  | { readonly type: 'round-end'; readonly record: RoundRecord }
  /** The link broke. Before the commit the guest goes on here meanwhile; after it, the source waits for it to be restored. */
  | { readonly type: 'lost'; readonly reason: string }
  /** The link is there again. `kept`: the destination still has what it said was applied. */
  | { readonly type: 'restored'; readonly kept: boolean }
  /** The guest is kept from running for this share of the time, from here on; 0: no more. */
  | { readonly type: 'throttled'; readonly share: number }
  | { readonly type: 'stopping'; readonly reason: SwitchoverReason }
  | { readonly type: 'stopped' }
  | { readonly type: 'ready' }
  | { readonly type: 'committed' }
  /** The commit was not answered for `confirmAfterMs`; it is waited for. */
  | { readonly type: 'unconfirmed'; readonly waitedMs: number }
  /** Who answers there knows nothing of the migration: the guest may run elsewhere, and stays stopped here (I10). */
  | { readonly type: 'unknown-migration' }
  | { readonly type: 'completed' }
  | { readonly type: 'cancelled' }
  | { readonly type: 'failed'; readonly error: LacunaError };

export interface PrecopyOptions extends MigrationOptions {
  /** Milliseconds of a clock that never goes back. */
  readonly clock: () => number;
  readonly onEvent: (event: MigrationEvent) => void;
  /** Takes down what becomes of each page. */
  readonly fates?: PageFates | undefined;
}

/** Elements that one poll of the device handles, so that a flood of them can't hold up a slice (I6). */
const POLL_LIMIT = 1024;
/** How long the host polls for hints before it asks to be notified instead: a kick costs the guest an exit. */
const SPIN_MS = 1;
/** Rounds that came to so much of the cap were held up by it, and tell nothing of the link. */
const HELD_UP_BY_CAP = 0.9;
/** Assumed before anything was measured: a 10 Gbit/s link. */
const ASSUMED_BYTES_PER_MS = 1_250_000;
/** A round with fewer bytes says nothing about the rate, and as few pages written again nothing about reports. */
const MEASURABLE_BYTES = 4 * 1024 * 1024;
/** What the destination may still have to do for it to be given pages to poison as well: some ms. */
const MOST_BYTES_BEFORE_A_FILL = 8 * 1024 * 1024;
/** {@link PrecopySource.step}: there is more to do. */
export const AGAIN = 0;

/**
 * The source of a precopy migration, as a machine that is stepped: no thread, no timer, no promise in it. A step
 * does a bounded piece of work (a slice of a sync, a poll of the device, one frame) and says when to come back.
 *
 * The order of things in a round is what keeps the invariants: drain the log (I2) → issue an id → claim, then
 * read (I5), while hints clear bits of the send bitmap (I3) → close the session (I4) → drain the log again.
 */
export class PrecopySource {
  phase: SourcePhase = 'setup';
  error: LacunaError | undefined;
  switchover: SwitchoverReason | undefined;
  readonly accounts: PageAccounts;
  readonly rounds: RoundRecord[] = [];
  readonly sessions: SessionRecord[] = [];
  /** What was sent, over all links. */
  readonly sent: PageCounts = noPages();
  /** Bytes of all frames. */
  transferredBytes = 0;
  startedAt: number = Number.NaN;
  /** The first page could be claimed. */
  setupDoneAt: number = Number.NaN;
  endedAt: number = Number.NaN;
  /** By the guest's own stamps, ms since the epoch. */
  guestStoppedAt: number = Number.NaN;
  guestStartedAt: number = Number.NaN;
  /** The largest share of the time for which the guest was kept from running. */
  highestThrottle = 0;

  readonly #vm: SourceVm;
  readonly #channel: SourceChannel;
  readonly #options: PrecopyOptions;
  readonly #device: HintDevice | undefined;
  readonly #cursor: SendCursor;
  readonly #pacer: Pacer;
  readonly #convergence: Convergence;
  /** The run in hand: claimed, and what of it is not sent yet. */
  readonly #run: PageRun = { pfn: 0, pageCount: 0 };
  readonly #fillRun: PageRun = { pfn: 0, pageCount: 0 };
  /** What had been sent when the link was restored last, and the rounds begun by then: the destination counts from there. */
  readonly #sentBefore: PageCounts = noPages();
  #roundsBefore = 0;
  #lostBecause = '';
  #cancelled = false;
  /** After the commit: what an operator has asked for, and whether the destination was asked to take the commit back. */
  #withdrawalWanted = false;
  #withdrawing = false;
  #overridden = false;
  /** When it is told of that the commit is not answered. */
  #confirmAt = Number.POSITIVE_INFINITY;
  #committedAt = Number.NaN;
  /** The guest was stopped before the migration began: if that fails, it stays so. */
  #foundPaused = false;
  #round: RoundRecord | undefined;
  #session: SessionRecord | undefined;
  #fillFrom = 0;
  #deadline = Number.POSITIVE_INFINITY;
  #lastHintAt = 0;
  /** Of the session, when it last made progress. */
  #rangesSeen = 0;
  #stateSeen: HintStateName = HintState.closed;
  /** The guest was asked to kick when there is more. */
  #armed = false;
  #appliedBefore = 0;
  #waitedMs = 0;
  #waitingSince = Number.NaN;
  /** Since when the channel has had no room. */
  #fullSince = Number.NaN;
  #measuredBytesPerMs = Number.NaN;
  /** The share of the time for which the guest is kept from running now. */
  #throttled = 0;
  /** The device state that waits for the link to have room for it. */
  #deviceState: Uint8Array | undefined;

  /** Throws INVALID_ARGUMENT if the VM can't do what the options ask for. */
  constructor(vm: SourceVm, channel: SourceChannel, options: PrecopyOptions) {
    if (options.onStall === 'throttle' && vm.throttle === undefined) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        'onStall "throttle": this VM has no throttle(); give it one, or choose "switch" or "cancel"',
      );
    }
    this.#vm = vm;
    this.#channel = channel;
    this.#options = options;
    this.#device = options.hints ? vm.device : undefined;
    this.accounts = new PageAccounts(vm.memory.layout, undefined, vm.leaveOut?.bind(vm));
    this.#cursor = new SendCursor(
      this.accounts.send,
      this.accounts.claimed,
      vm.memory.layout,
      options.maxRunPages,
    );
    this.#pacer = new Pacer(options.bytesPerSecond);
    this.#convergence = new Convergence(options);
  }

  get done(): boolean {
    return (
      this.phase === 'completed' ||
      this.phase === 'cancelled' ||
      this.phase === 'failed' ||
      this.phase === 'unknown'
    );
  }

  /** Whether the guest can still be kept: the commit has not left. */
  get canCancel(): boolean {
    return !this.done && this.phase !== 'commit-wait';
  }

  /** Pages of the round that are still to be sent. */
  get pendingPages(): number {
    return this.accounts.send.count();
  }

  /**
   * One step. Returns {@link AGAIN}, or the time (on the source's clock) before which there is nothing to do
   * unless the channel or the guest rings.
   */
  step(): number {
    if (this.done) {
      return AGAIN; // whatever arrives now, an end is an end (I10)
    }
    const now = this.#options.clock();
    if (this.#cancelled && this.canCancel) {
      return this.#abort(
        'cancelled',
        new LacunaError('CANCELLED', 'the migration was cancelled; the guest runs at the source'),
      );
    }
    if (this.phase !== 'commit-wait' && this.#vm.failure !== undefined) {
      return this.#abort('failed', this.#vm.failure);
    }
    if (now >= this.#fullSince + this.#options.sendTimeoutMs && !this.#channel.writable) {
      return this.#fail(
        'DESTINATION_SILENT',
        `the destination has taken nothing for ${this.#options.sendTimeoutMs} ms; the guest stays at the source`,
      );
    }
    this.#serveDevice(now);
    let message = this.#channel.poll();
    // What comes behind an acknowledgement has rung already: it is not waited for again.
    while (message?.type === 'applied') {
      if (!this.accounts.unacknowledged.applied(message.round) && this.canCancel) {
        return this.#fail(
          'PROTOCOL_VIOLATION',
          `the destination has applied round ${message.round}, of ${this.#sentSince().rounds} that were sent`,
        );
      }
      message = this.#channel.poll();
    }
    if (message !== undefined && !this.#listens) {
      return message.type === 'lost'
        ? this.#stepLost(now, message.reason)
        : this.#abort('failed', this.#unexpected(message));
    }
    switch (this.phase) {
      case 'setup':
        this.#begin(now);
        return AGAIN;
      case 'sync':
        if (this.#vm.drainDirty(this.accounts)) {
          this.#synced(now);
        }
        return AGAIN;
      case 'round':
        return this.#stepRound(now);
      case 'fills':
        return this.#stepFills(now);
      case 'pausing':
        return this.#stepPausing(now);
      case 'final-sync':
        if (this.#vm.drainDirty(this.accounts)) {
          this.#beginRound(now, true);
          this.phase = 'final-send';
        }
        return AGAIN;
      case 'final-send':
        return this.#stepFinalSend(now);
      case 'ready-wait':
        return this.#stepReadyWait(now, message);
      case 'recovering':
        return this.#stepRecovering(now, message);
      case 'commit-wait':
        return this.#stepCommitWait(now, message);
      case 'completed':
      case 'cancelled':
      case 'failed':
      case 'unknown':
        return AGAIN;
    }
  }

  /**
   * Calls the migration off, at the next step: the guest stays here, or is let go on here. May be called at any
   * time, from an event's handler too. No effect once the commit has left.
   */
  cancel(): void {
    this.#cancelled = true;
  }

  /**
   * An operator's word that the guest is not to run there after all: asks the destination to void the commit, at the next
   * step. Its answer decides: *not started*, and the guest goes on here; *started*, and the migration has completed. No
   * effect but in `commit-wait`.
   */
  withdraw(): void {
    this.#withdrawalWanted ||= this.phase === 'commit-wait';
  }

  /**
   * An operator's word that the guest does not run at the destination, and never will: it goes on here at the next step,
   * without an answer. The only thing that makes it do so; **if the word is wrong, the guest runs twice** (I10). No effect but in
   * `commit-wait`.
   */
  override(): void {
    this.#overridden ||= this.phase === 'commit-wait';
  }

  #begin(now: number): void {
    this.startedAt = now;
    this.#foundPaused = this.#vm.paused;
    this.#vm.migrationBegins();
    this.#options.onEvent({ type: 'started' });
    this.phase = 'sync';
  }

  /** Phases in which the destination has something to say. */
  get #listens(): boolean {
    return this.phase === 'ready-wait' || this.phase === 'recovering' || this.phase === 'commit-wait';
  }

  // ── rounds ────────────────────────────────────────────────────────────────────────────────────────────────

  /** The log was drained into the send bitmap. */
  #synced(now: number): void {
    this.accounts.settleVain(this.#options.fates);
    const round = this.rounds.length - this.#roundsBefore;
    if (this.rounds.length === 0) {
      this.setupDoneAt = now;
      this.accounts.dirtied = 0;
      this.accounts.sendAll();
    } else if (round > 0) {
      const outlook = {
        round,
        pendingPages: this.accounts.send.count(),
        unflushedBytes: this.#channel.unflushedBytes,
        bytesPerMs: this.#switchoverBytesPerMs(),
      };
      const decision = this.#convergence.decide(outlook);
      if (decision === 'cancel') {
        this.#giveUp(Convergence.expectedDowntimeMs(outlook));
        return;
      } else if (decision !== undefined && decision !== 'throttle') {
        this.switchover = decision;
        this.#options.onEvent({ type: 'stopping', reason: decision });
        this.#pacer.changeRate(this.#switchoverBytesPerSecond, now);
        this.#vm.requestPause();
        this.#deadline = now + this.#options.pauseTimeoutMs;
        this.phase = 'pausing';
        return;
      }
    }
    this.#throttle(this.#convergence.throttle);
    const record = this.#beginRound(now, false);
    this.#options.onEvent({ type: 'round', round: record.round, pendingPages: record.pending });
    this.#openSession(now, record);
    this.phase = 'round';
  }

  #beginRound(now: number, final: boolean): RoundRecord {
    const record: RoundRecord = {
      round: this.rounds.length + 1,
      startedAt: now,
      endedAt: Number.NaN,
      bytes: this.transferredBytes,
      final,
      pending: this.accounts.beginRound(),
      sent: this.sent.pages,
      zero: this.sent.zeroPages,
      filled: this.sent.filledPages,
      skipped: 0,
      carried: 0,
      cancelled: 0,
    };
    this.rounds.push(record);
    this.#round = record;
    this.#cursor.restart();
    this.#deviceState = undefined;
    this.#waitedMs = 0;
    return record;
  }

  /** Turns the record's running totals into what this round came to. What was sent over a link that broke was sent. */
  #closeRound(now: number, how: 'done' | 'lost' | 'cancelled'): void {
    const record = this.#round;
    if (record === undefined) {
      return;
    }
    this.accounts.send.setRange(this.#run.pfn, this.#run.pageCount); // claimed, and not sent after all
    this.#run.pageCount = 0;
    this.#cursor.giveBack();
    record.endedAt = now;
    record.bytes = this.transferredBytes - record.bytes;
    record.sent = this.sent.pages - record.sent;
    record.zero = this.sent.zeroPages - record.zero;
    record.filled = this.sent.filledPages - record.filled;
    record.skipped = this.accounts.roundSkipped;
    const left = this.accounts.send.count() + this.accounts.fill.count();
    record.cancelled = how === 'cancelled' ? left : 0;
    record.carried = how === 'cancelled' ? 0 : left;
    this.#round = undefined;
    const sendingMs = now - record.startedAt - this.#waitedMs;
    if (record.bytes >= MEASURABLE_BYTES && sendingMs > 0 && how === 'done') {
      this.#measuredBytesPerMs = record.bytes / sendingMs;
    }
    this.#options.onEvent({ type: 'round-end', record });
  }

  #bytesPerMs(): number {
    return Number.isNaN(this.#measuredBytesPerMs)
      ? Math.min(ASSUMED_BYTES_PER_MS, this.#pacer.bytesPerMs)
      : Math.min(this.#measuredBytesPerMs, this.#pacer.bytesPerMs);
  }

  get #switchoverBytesPerSecond(): number {
    return this.#options.switchoverBytesPerSecond ?? this.#options.bytesPerSecond;
  }

  /** What the last round will be sent at. */
  #switchoverBytesPerMs(): number {
    const rounds = this.#bytesPerMs();
    const last = this.#switchoverBytesPerSecond / 1000;
    const cap = this.#options.bytesPerSecond / 1000;
    if (last <= cap || last === Number.POSITIVE_INFINITY || rounds < cap * HELD_UP_BY_CAP) {
      return Math.min(rounds, last);
    }
    return last; // the rounds could have been as fast, for all that is known
  }

  #throttle(share: number): void {
    if (share !== this.#throttled) {
      this.#throttled = share;
      this.highestThrottle = Math.max(this.highestThrottle, share);
      this.#vm.throttle?.(share);
      this.#options.onEvent({ type: 'throttled', share });
    }
  }

  // ── hints ─────────────────────────────────────────────────────────────────────────────────────────────────

  #openSession(now: number, round: RoundRecord): void {
    const device = this.#device;
    const able = device !== undefined && device.fault === undefined && !this.#vm.paused; // I4: not of a stopped guest
    if (!able || !this.#worthAsking(round)) {
      return;
    }
    const id = device.upcomingId;
    this.#options.onEvent({ type: 'session-issued', id });
    this.accounts.beginSession(device.poison);
    this.#appliedBefore = this.accounts.hints.applied;
    device.openSession(this.accounts, now);
    device.suppressNotifications();
    this.#armed = false;
    this.#lastHintAt = now;
    this.#rangesSeen = device.session.counts.ranges;
    this.#stateSeen = device.session.state;
    this.#session = {
      id,
      round: round.round,
      requestedAt: now,
      startedAt: Number.NaN,
      firstRangeAt: Number.NaN,
      doneAt: Number.NaN,
      closedAt: Number.NaN,
      ranges: device.session.counts.ranges,
      expired: false,
    };
    this.sessions.push(this.#session);
  }

  /** A report costs the guest a walk: in later rounds it is asked for only if sending would take longer. */
  #worthAsking(round: RoundRecord): boolean {
    const last = this.sessions.at(-1);
    if (last === undefined) {
      return true;
    }
    if (last.expired) {
      return false; // the guest did not answer in time, and is not waited for again (I6)
    }
    const { applied, reDirtied } = this.accounts.hints;
    if (reDirtied > applied / 2 && reDirtied * PAGE_SIZE >= MEASURABLE_BYTES) {
      return false; // most of what was reported was written again, perhaps by the report itself (hold, init_on_alloc)
    }
    const reportMs = (Number.isNaN(last.doneAt) ? last.closedAt : last.doneAt) - last.requestedAt;
    return (round.pending * PAGE_SIZE) / this.#bytesPerMs() > reportMs;
  }

  /** Between sessions the guest may want its balloon served; while it is stopped, nothing is (V14, T6). */
  #serveDevice(now: number): void {
    const { device } = this.#vm;
    if (this.#session === undefined && device !== undefined && device.poll(now, POLL_LIMIT) > 0) {
      device.armNotifications();
    }
  }

  #pollHints(now: number, device: HintDevice, session: SessionRecord): number {
    const handled = device.poll(now, POLL_LIMIT);
    if (handled > 0) {
      if (this.#armed) {
        device.suppressNotifications();
        this.#armed = false;
      }
      // Stale entries and garbage are no progress: they must not keep the host waiting.
      const { times, state, counts } = device.session;
      if (counts.ranges !== this.#rangesSeen || state !== this.#stateSeen) {
        this.#rangesSeen = counts.ranges;
        this.#stateSeen = state;
        this.#lastHintAt = now;
      }
      if (Number.isNaN(session.startedAt) && times.startedAt >= session.requestedAt) {
        session.startedAt = times.startedAt;
        this.#options.onEvent({ type: 'session-started', id: session.id });
      }
      session.firstRangeAt = times.firstRangeAt;
      if (Number.isNaN(session.doneAt) && times.doneAt >= session.requestedAt) {
        session.doneAt = times.doneAt;
        this.#options.onEvent({ type: 'session-done', id: session.id });
      }
    }
    const waited = now - session.requestedAt;
    const silent = now - this.#lastHintAt;
    const { hintTimeoutMs, hintDeadlineMs } = this.#options;
    const overdue = silent >= hintTimeoutMs || waited >= hintDeadlineMs || device.fault !== undefined;
    if (overdue && !session.expired && Number.isNaN(session.doneAt)) {
      session.expired = true;
      this.#options.onEvent({ type: 'session-expired', id: session.id });
    }
    return handled;
  }

  /** Ends the session before anything is synced (I4); what is in the ring by then is stale. */
  #closeSession(now: number): void {
    const session = this.#session;
    if (session === undefined || this.#device === undefined) {
      return;
    }
    this.#device.closeSession(now);
    this.#device.armNotifications();
    session.closedAt = now;
    session.ranges = this.#device.session.counts.ranges - session.ranges;
    this.#session = undefined;
  }

  /**
   * Whether hints are still to come, so that the schedule decides what may be sent. By the session's own record, which
   * never goes back: a ring that is found corrupt after the stop sign closes the device's session (I6).
   */
  #hintsToCome(session: SessionRecord): boolean {
    return !session.expired && Number.isNaN(session.doneAt);
  }

  /** `adaptive`: waiting has cost more than hints have saved. */
  #waitedEnough(now: number, session: SessionRecord): boolean {
    const savedBytes = (this.accounts.hints.applied - this.#appliedBefore) * PAGE_SIZE;
    return now - session.requestedAt > this.#options.adaptiveGraceMs + savedBytes / this.#bytesPerMs();
  }

  // ── sending ───────────────────────────────────────────────────────────────────────────────────────────────

  #stepRound(now: number): number {
    const session = this.#session;
    const device = this.#device;
    let handled = 0;
    let frontier = Number.POSITIVE_INFINITY;
    let ahead = false;
    if (session !== undefined && device !== undefined) {
      handled = this.#pollHints(now, device, session);
      if (this.#hintsToCome(session)) {
        const { schedule } = this.#options;
        frontier = schedule === 'wait' ? 0 : this.accounts.frontier;
        ahead = schedule === 'overlap' || (schedule === 'adaptive' && this.#waitedEnough(now, session));
      } else if (Number.isNaN(session.doneAt)) {
        frontier = this.accounts.frontier; // not waited for any more, but welcome
        ahead = true;
      }
    }
    const blockedUntil = this.#blockedUntil(now);
    if (blockedUntil !== AGAIN) {
      if (this.#pacer.takesHeader(now) && this.#fillMeanwhile(now)) {
        return AGAIN;
      }
      return session === undefined || device === undefined || !this.#hintsToCome(session)
        ? blockedUntil
        : this.#pollOrSleep(now, handled, device, blockedUntil);
    }
    if (this.#run.pageCount > 0 || this.#cursor.nextInto(this.#run, frontier, ahead)) {
      this.#stopWaiting(now);
      this.#sendFrame(now);
      return AGAIN;
    }
    if (session !== undefined && device !== undefined && this.#hintsToCome(session) && !ahead) {
      return this.#waitForHints(now, handled, device, session);
    }
    this.#stopWaiting(now);
    this.#closeSession(now);
    this.#fillFrom = 0;
    this.phase = 'fills';
    return AGAIN;
  }

  #waitForHints(now: number, handled: number, device: HintDevice, session: SessionRecord): number {
    if (Number.isNaN(this.#waitingSince)) {
      this.#waitingSince = now;
    }
    const { hintTimeoutMs, hintDeadlineMs, schedule } = this.#options;
    const expiry = Math.min(this.#lastHintAt + hintTimeoutMs, session.requestedAt + hintDeadlineMs);
    return this.#pollOrSleep(
      now,
      handled,
      device,
      schedule === 'adaptive' ? Math.min(expiry, now + 1) : expiry,
    );
  }

  /** Polling costs the host a little, a kick costs the guest an exit: so a while of the one, then the other. */
  #pollOrSleep(now: number, handled: number, device: HintDevice, until: number): number {
    if (handled > 0 || now - this.#lastHintAt < SPIN_MS || device.armNotifications()) {
      return AGAIN;
    }
    this.#armed = true;
    return until;
  }

  #stopWaiting(now: number): void {
    if (!Number.isNaN(this.#waitingSince)) {
      this.#waitedMs += now - this.#waitingSince;
      this.#waitingSince = Number.NaN;
    }
  }

  /** When the channel and the link take the next run: {@link AGAIN} for now. */
  #blockedUntil(now: number): number {
    if (!this.#channel.writable) {
      this.#fullSince = Number.isNaN(this.#fullSince) ? now : this.#fullSince;
      return this.#fullSince + this.#options.sendTimeoutMs; // until it rings, or is given up
    }
    this.#fullSince = Number.NaN;
    const readyAt = this.#pacer.readyAt(now);
    return readyAt > now ? readyAt : AGAIN;
  }

  /** Hinted pages that would not read at the destination as they must: as zeroes, or as poison (I7, P5). */
  #stepFills(now: number): number {
    const blockedUntil = this.#blockedUntil(now);
    if (blockedUntil !== AGAIN) {
      return blockedUntil;
    }
    if (!this.#takeFill(now)) {
      this.#endRound(now);
      this.phase = 'sync';
    }
    return AGAIN;
  }

  #takeFill(now: number): boolean {
    const run = this.#fillRun;
    if (!this.accounts.takeFillInto(run, this.#fillFrom)) {
      return false;
    }
    this.#fillFrom = run.pfn + run.pageCount;
    this.#emitFill(run.pfn, run.pageCount, this.accounts.poison, now);
    return true;
  }

  /**
   * Poison is as much as all hints together, and the destination's to write: it does so while the link is busy. Within a
   * round a page whose fill is due is not sent, so nothing is overwritten. The few fills of zeroes wait till the end.
   */
  #fillMeanwhile(now: number): boolean {
    const { poison, fillsLeft } = this.accounts;
    if (poison === 0 || fillsLeft === 0 || !Number.isNaN(this.#fullSince)) {
      return false;
    }
    if (this.#channel.unflushedBytes >= MOST_BYTES_BEFORE_A_FILL) {
      return false; // or the link would have to wait for the destination
    }
    if (!this.#takeFill(now)) {
      this.#fillFrom = 0; // hints came in below
      return this.#takeFill(now);
    }
    return true;
  }

  #endRound(now: number): void {
    this.#closeRound(now, 'done');
    this.sent.rounds += 1;
    this.#channel.roundEnd(this.#sentSince().rounds);
    this.accounts.unacknowledged.roundEnded();
    this.#charge(FRAME_HEADER_BYTES, now);
  }

  /**
   * Sends the first frame's worth of the run in hand: its first pages that are alike, and of data no more than the link
   * carries in some ms. The rest takes further steps, so that channel and link are asked before each frame for room.
   */
  #sendFrame(now: number): void {
    const run = this.#run;
    const { pfn, pageCount } = run;
    const inflated = this.#vm.device?.inflated;
    const hasInflated = inflated !== undefined && inflated.nextSet(pfn, pfn + pageCount) < pfn + pageCount;
    let kind: number = Kind.data;
    let pages = pageCount;
    if (this.#options.zeroDetection || hasInflated) {
      const bytes = this.#vm.payload(pfn, pageCount);
      kind = this.#kindOf(bytes, 0, pfn, hasInflated);
      // Page by page (ADR 9), and from the second on: the first was looked at, and may have been written since.
      pages = 1;
      while (pages < pageCount && this.#kindOf(bytes, pages, pfn + pages, hasInflated) === kind) {
        pages += 1;
      }
    }
    if (kind === Kind.data) {
      pages = this.#pacer.longestRun(pages);
    }
    run.pfn += pages;
    run.pageCount -= pages;
    this.#emit(kind, pfn, pages, now);
  }

  #kindOf(bytes: Uint8Array, page: number, pfn: number, hasInflated: boolean): number {
    if (hasInflated && this.#vm.device?.inflated.test(pfn) === true) {
      return Kind.inflated;
    }
    return this.#options.zeroDetection && isZeroPage(bytes, page * PAGE_SIZE) ? Kind.zero : Kind.data;
  }

  #emit(kind: number, pfn: number, pageCount: number, now: number): void {
    if (kind === Kind.data) {
      this.#emitPages(pfn, pageCount, now);
    } else if (kind === Kind.zero) {
      this.#channel.zeroRun(pfn, pageCount);
      this.accounts.unacknowledged.sent(pfn, pageCount);
      this.accounts.copied.clearRange(pfn, pageCount);
      this.sent.zeroPages += pageCount;
      this.#options.fates?.zero(pfn, pageCount);
      this.#charge(FRAME_HEADER_BYTES, now);
    } else {
      this.accounts.copied.clearRange(pfn, pageCount);
      this.#emitFill(pfn, pageCount, 0, now); // the host has discarded it, whatever its driver will make of it (P1)
    }
  }

  #emitPages(pfn: number, pageCount: number, now: number): void {
    this.#channel.pageRun(pfn, pageCount, this.#vm.payload(pfn, pageCount));
    this.accounts.unacknowledged.sent(pfn, pageCount);
    this.accounts.copied.setRange(pfn, pageCount);
    this.sent.pages += pageCount;
    this.#options.fates?.sent(pfn, pageCount);
    this.#charge(FRAME_HEADER_BYTES + pageCount * PAGE_SIZE, now);
  }

  #emitFill(pfn: number, pageCount: number, value: number, now: number): void {
    this.#channel.fillRun(pfn, pageCount, value);
    this.accounts.unacknowledged.sent(pfn, pageCount);
    this.sent.filledPages += pageCount;
    this.#options.fates?.filled(pfn, pageCount);
    this.#charge(FRAME_HEADER_BYTES, now);
  }

  #charge(bytes: number, now: number): void {
    this.transferredBytes += bytes;
    this.#pacer.charge(bytes, now);
  }

  // ── switchover ────────────────────────────────────────────────────────────────────────────────────────────

  #stepPausing(now: number): number {
    if (this.#vm.paused) {
      this.guestStoppedAt = this.#vm.stoppedAt;
      this.#throttle(0); // not before: it is to stand still, not to catch up; it goes on there, or here, at full speed
      this.#vm.device?.freeze(); // nothing of the host's after the final drain (V14)
      this.#options.onEvent({ type: 'stopped' });
      this.phase = 'final-sync';
      return AGAIN;
    }
    if (now >= this.#deadline) {
      return this.#abort(
        'failed',
        new LacunaError(
          'VCPU_STUCK',
          `the vCPU reached no safe point within ${this.#options.pauseTimeoutMs} ms; the guest stays at the source`,
        ),
      );
    }
    return this.#deadline;
  }

  #stepFinalSend(now: number): number {
    const blockedUntil = this.#blockedUntil(now);
    if (blockedUntil !== AGAIN) {
      return blockedUntil;
    }
    if (this.#run.pageCount > 0 || this.#cursor.nextInto(this.#run, Number.POSITIVE_INFINITY, false)) {
      this.#sendFrame(now);
      return AGAIN;
    }
    let state = this.#deviceState;
    if (state === undefined) {
      this.#endRound(now);
      state = this.#vm.saveDeviceState();
      // It is one frame, of any length. So it is charged first, and goes when the link would have carried it.
      this.#pacer.charge(FRAME_HEADER_BYTES + state.length, now);
      const readyAt = this.#pacer.readyAt(now);
      if (readyAt > now) {
        this.#deviceState = state;
        return readyAt;
      }
    }
    this.#deviceState = undefined;
    this.#channel.deviceState(state);
    this.transferredBytes += FRAME_HEADER_BYTES + state.length;
    this.#channel.finish();
    this.#charge(FRAME_HEADER_BYTES, now);
    this.#deadline = now + this.#options.readyTimeoutMs;
    this.phase = 'ready-wait';
    return AGAIN;
  }

  #ready = false;

  #stepReadyWait(now: number, message: DestinationMessage | undefined): number {
    if (message?.type === 'ready') {
      const sent = this.#sentSince();
      if (!sameCounts(message.counts, sent)) {
        return this.#fail(
          'COUNT_MISMATCH',
          `the destination applied ${JSON.stringify(message.counts)} and the source sent ${JSON.stringify(sent)}`,
        );
      }
      this.#ready = true;
      this.#options.onEvent({ type: 'ready' });
      return AGAIN; // the last moment at which a cancel is heard
    } else if (message?.type === 'lost') {
      return this.#stepLost(now, message.reason);
    } else if (message !== undefined) {
      return this.#abort('failed', this.#unexpected(message));
    }
    if (this.#ready) {
      // A modelled link has not carried it all yet, though the memory transport is done.
      const drainedAt = this.#pacer.drainedAt();
      if (now < drainedAt) {
        return drainedAt;
      }
      this.phase = 'commit-wait'; // before the commit leaves: from here on the guest is not ours (I10)
      this.#committedAt = now;
      this.#deadline = now + this.#options.startTimeoutMs;
      this.#confirmAt = now + this.#options.confirmAfterMs;
      this.#options.onEvent({ type: 'committed' });
      this.#channel.commit();
      return AGAIN;
    }
    if (now >= this.#deadline) {
      return this.#fail('DESTINATION_SILENT', `no "ready" within ${this.#options.readyTimeoutMs} ms`);
    }
    return this.#deadline;
  }

  #stepCommitWait(now: number, message: DestinationMessage | undefined): number {
    if (message?.type === 'started') {
      this.guestStartedAt = message.startedAt;
      this.endedAt = now;
      this.phase = 'completed';
      this.#vm.migrationEnds();
      this.#options.onEvent({ type: 'completed' });
      return AGAIN;
    }
    if (message?.type === 'not-started') {
      // It has voided the commit for ever, so the guest is ours again (I10).
      return this.#abort(
        'failed',
        new LacunaError('DESTINATION_FAILED', `the destination did not start the guest: ${message.reason}`),
      );
    }
    if (this.#overridden) {
      return this.#fail(
        'COMMIT_UNCONFIRMED',
        "the commit was sent and never answered; the guest goes on at the source, on an operator's word that it does not " +
          'run at the destination',
      );
    }
    if (this.#askAgain(message)) {
      return AGAIN; // the answer may be there already
    }
    if (now >= this.#confirmAt) {
      this.#confirmAt = Number.POSITIVE_INFINITY;
      this.#options.onEvent({ type: 'unconfirmed', waitedMs: now - this.#committedAt });
    }
    if (now >= this.#deadline) {
      this.phase = 'unknown';
      this.endedAt = now;
      this.error = new LacunaError(
        'COMMIT_UNCONFIRMED',
        `the commit was sent and not answered within ${this.#options.startTimeoutMs} ms: the guest may run at the ` +
          'destination, so it stays stopped here; look there before you start it again',
      );
      this.#vm.migrationEnds();
      this.#options.onEvent({ type: 'failed', error: this.error });
      return AGAIN;
    }
    return Math.min(this.#confirmAt, this.#deadline);
  }

  /**
   * What is no answer changes nothing but what is asked: the commit, or that it be taken back, again once the link is there
   * again. Only whom it was sent to is asked: another destination can't know what became of it (I10). True: it was asked.
   */
  #askAgain(message: DestinationMessage | undefined): boolean {
    const isRestored = message?.type === 'restored';
    if (isRestored || message?.type === 'lost' || message?.type === 'unknown-migration') {
      this.#options.onEvent(message);
    }
    const isChanged = this.#withdrawalWanted && !this.#withdrawing;
    this.#withdrawing ||= isChanged;
    if (!isChanged && !(isRestored && message.kept)) {
      return false;
    }
    if (this.#withdrawing) {
      this.#channel.withdraw();
    } else {
      this.#channel.commit();
    }
    return true;
  }

  // ── a link that breaks ────────────────────────────────────────────────────────────────────────────────────

  /** What was sent since the link was made, or restored last. */
  #sentSince(): PageCounts {
    const { sent } = this;
    const before = this.#sentBefore;
    return {
      pages: sent.pages - before.pages,
      zeroPages: sent.zeroPages - before.zeroPages,
      filledPages: sent.filledPages - before.filledPages,
      rounds: sent.rounds - before.rounds,
    };
  }

  /** The link broke before the commit left: the guest goes on here until it is restored, or is given up (I8). */
  #stepLost(now: number, reason: string): number {
    if (this.phase === 'setup') {
      this.#begin(now);
    }
    this.#throttle(0); // until there are rounds again
    this.#stopSending(now, 'lost');
    if (this.switchover !== undefined) {
      this.switchover = undefined;
      this.#pacer.changeRate(this.#options.bytesPerSecond, now);
      this.#resume();
    }
    this.guestStoppedAt = Number.NaN;
    this.#ready = false;
    this.#fullSince = Number.NaN;
    this.#waitingSince = Number.NaN;
    this.#lostBecause = reason;
    this.#deadline = now + this.#options.recoveryTimeoutMs;
    this.phase = 'recovering';
    this.#options.onEvent({ type: 'lost', reason });
    return this.#options.recoveryTimeoutMs === 0 ? this.#giveUpLink() : AGAIN;
  }

  #stepRecovering(now: number, message: DestinationMessage | undefined): number {
    if (message?.type === 'restored') {
      return this.#stepRestored(message.kept);
    }
    if (message !== undefined && message.type !== 'lost') {
      return this.#abort('failed', this.#unexpected(message));
    }
    if (now >= this.#deadline) {
      return this.#giveUpLink();
    }
    return this.#vm.device?.armNotifications() === true ? AGAIN : this.#deadline; // its balloon is served meanwhile
  }

  /**
   * A new link, on which everything is counted anew. A drain of the log that was cut short ends where it would have: the
   * guest runs, and another follows before it is stopped.
   */
  #stepRestored(kept: boolean): number {
    if (kept) {
      this.accounts.resend();
    } else {
      this.accounts.startOver();
    }
    Object.assign(this.#sentBefore, this.sent);
    this.#roundsBefore = this.rounds.length;
    this.#convergence.startAnew(); // a round that was lost is neither progress nor a stall
    this.phase = 'sync';
    this.#options.onEvent({ type: 'restored', kept });
    return AGAIN;
  }

  #giveUpLink(): number {
    return this.#fail(
      'LINK_LOST',
      `the link broke (${this.#lostBecause}) and was not restored within ${this.#options.recoveryTimeoutMs} ms; the guest ` +
        'runs at the source',
    );
  }

  // ── endings ───────────────────────────────────────────────────────────────────────────────────────────────

  #giveUp(downtimeMs: number): void {
    this.#fail(
      'NOT_CONVERGING',
      `the guest writes as fast as the link carries: after ${this.rounds.length} rounds its downtime would be ` +
        `${Math.ceil(downtimeMs)} ms, and ${this.#options.downtimeLimitMs} are allowed; it stays at the source. ` +
        'Allow for more bandwidth or downtime, or throttle it',
    );
  }

  #fail(code: LacunaErrorCode, message: string): number {
    return this.#abort('failed', new LacunaError(code, message));
  }

  #unexpected(message: DestinationMessage): LacunaError {
    return message.type === 'error' || message.type === 'not-started'
      ? new LacunaError('DESTINATION_FAILED', `the destination gave up: ${message.reason}`)
      : new LacunaError('PROTOCOL_VIOLATION', `the destination said "${message.type}" out of turn`);
  }

  /** I8: the guest runs here again, with everything that it lent for hints back (C13). */
  #abort(phase: 'cancelled' | 'failed', error: LacunaError): number {
    const now = this.#options.clock();
    this.#throttle(0);
    this.#stopSending(now, 'cancelled');
    try {
      this.#channel.cancel();
    } finally {
      this.#resume(); // whatever becomes of the channel (I8)
    }
    this.#vm.migrationEnds();
    this.error = error;
    this.endedAt = now;
    this.phase = phase;
    this.#options.onEvent(phase === 'cancelled' ? { type: 'cancelled' } : { type: 'failed', error });
    return AGAIN;
  }

  #stopSending(now: number, how: 'lost' | 'cancelled'): void {
    this.#vm.device?.unfreeze();
    this.#closeSession(now);
    this.#closeRound(now, how);
  }

  /** Unless it stood still when the migration began. */
  #resume(): void {
    if (!this.#foundPaused) {
      this.#vm.resume();
    }
  }
}

/** Kinds of page within a run. */
const Kind = { data: 0, zero: 1, inflated: 2 } as const;
