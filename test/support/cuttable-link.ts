import { expect } from 'vitest';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { type MigrationOptions, resolveOptions } from '../../src/migration/options.js';
import { AGAIN, type MigrationEvent, PrecopySource } from '../../src/migration/precopy.js';
import { Receiver } from '../../src/migration/receiver.js';
import type { DestinationVm } from '../../src/migration/vm.js';
import {
  type DestinationMessage,
  type FrameSink,
  noPages,
  type SourceChannel,
} from '../../src/wire/channel.js';
import { PageApplier } from '../../src/wire/page-applier.js';
import { Arrival, type Faults, type Machine, MOST_STEPS, type Moved, TICK_MS } from './machine.js';

/*
 * A link that breaks where a test says, frame by frame and within a frame, and the migration over it.
 *
 *   CuttableLink    frames on their way, a destination that applies them, cuts, and what there is after each
 *   CutMigration    a machine, a PrecopySource and the link; at every step the guest runs in one place at the most
 */

/** A break of the link. */
export interface Cut {
  /** It breaks after so many frames were applied since it was made or restored last; 0 if nothing is said. */
  readonly afterFrames?: number | undefined;
  /** And before a frame of this type. */
  readonly before?: FrameType | undefined;
  /** At once, and not only when the next frame is on its way. */
  readonly atOnce?: boolean | undefined;
  /** Bytes of the next frame that arrive all the same, if it is a run of pages. */
  readonly bytes?: number | undefined;
  /** What the destination said last is lost too. */
  readonly losesReplies?: boolean | undefined;
  /**
   * What there is after it: the destination as it was (`kept`); another instance that knows nothing, for the first has died
   * with all that it had (`fresh`); nothing any more (`never`).
   */
  readonly next: 'kept' | 'fresh' | 'never';
  readonly downMs?: number | undefined;
}

/** How the link is when it is there. */
export interface LinkOptions {
  /** Breaks, one after the other. More may be added to the link's own. */
  readonly cuts?: readonly Cut[];
  /** Frames on their way at which it is full. */
  readonly window?: number;
  /** Whether the destination's word that it has applied a round arrives. `count` is of all rounds, from 0. */
  readonly acknowledges?: (count: number) => boolean;
  /** The n-th destination, from 0, is one that does not do what it should. */
  readonly faults?: (destination: number) => Faults;
}

/** How long it is down if nothing is said. */
const DOWN_MS = 3;

export type FrameType = Exclude<keyof FrameSink, 'discarded' | 'restart' | 'fail'>;
type Apply = (destination: Destination) => void;

interface Frame {
  readonly type: FrameType;
  readonly pfn: number;
  readonly pageCount: number;
  readonly payload: Uint8Array;
  readonly apply: Apply;
}

/** Who receives: as where streams apply the pages, with a bitmap of what was written that outlives the link. */
class Destination {
  readonly arrival: Arrival;
  readonly receiver: Receiver;
  readonly pages: PageApplier;
  starts = 0;
  /** Its process has died, and the guest with it if it ran there. */
  dead = false;

  constructor(machine: Machine, faults: Faults, reply: (message: DestinationMessage) => void) {
    this.arrival = new Arrival(machine, faults);
    this.pages = new PageApplier(this.arrival.memory);
    const { arrival } = this;
    const vm: DestinationVm = {
      memory: arrival.memory,
      loadDeviceState: (state) => arrival.loadDeviceState(state),
      start: () => {
        this.starts += 1;
        return arrival.start();
      },
    };
    this.receiver = new Receiver(vm, reply, () => this.pages.counts);
  }

  get running(): Machine | undefined {
    return this.dead ? undefined : this.arrival.machine;
  }

  restart(): void {
    Object.assign(this.pages.counts, noPages());
    this.receiver.restart();
  }
}

/** A frame is applied at each poll. What is sent while the link is down is lost. */
export class CuttableLink implements SourceChannel {
  /** Frames that were applied, of all links. */
  readonly applied: FrameType[] = [];
  readonly destinations: Destination[] = [];
  readonly cuts: Cut[];
  /** Frames that were sent, over a link that was there or not. */
  readonly sent: FrameType[] = [];
  /** Frames applied since it was made or restored last. */
  sinceRestored = 0;
  /** When it is restored, if it is down. */
  restoreAt: number = Number.POSITIVE_INFINITY;
  /** Breaks that have happened. */
  broken = 0;
  readonly #machine: Machine;
  readonly #options: LinkOptions;
  readonly #frames: Frame[] = [];
  readonly #replies: DestinationMessage[] = [];
  #isUp = true;
  #commitLeft = false;
  #rounds = 0;

  constructor(machine: Machine, options: LinkOptions) {
    this.#machine = machine;
    this.#options = options;
    this.cuts = [...(options.cuts ?? [])];
    this.#connect();
  }

  /** The destination that is there now, or was last. */
  get destination(): Destination {
    return this.destinations.at(-1)!;
  }

  get writable(): boolean {
    return this.#frames.length < (this.#options.window ?? 1);
  }

  get unflushedBytes(): number {
    return this.#frames.reduce((sum, { pageCount }) => sum + pageCount * PAGE_SIZE, 0);
  }

  /** Frames that are on their way. */
  get pending(): number {
    return this.#frames.length;
  }

  /** Whatever a test wants the source to hear. */
  say(message: DestinationMessage): void {
    this.#replies.push(message);
  }

  poll(): DestinationMessage | undefined {
    if (this.#machine.clock.now >= this.restoreAt) {
      this.#restore();
    }
    if (!this.#breaksNow()) {
      this.#applyNext();
      this.#breaksNow(); // before anything that it has said of it is heard
    }
    return this.#replies.shift();
  }

  pageRun(pfn: number, pageCount: number, payload: Uint8Array): void {
    this.#send(
      'pageRun',
      ({ pages }) => {
        pages.target(pfn, pageCount).set(payload);
        pages.arrived(pageCount);
      },
      { pfn, pageCount, payload },
    );
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#send('zeroRun', ({ pages }) => pages.zeroRun(pfn, pageCount), { pfn, pageCount });
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#send('fillRun', ({ pages }) => pages.fillRun(pfn, pageCount, value), { pfn, pageCount });
  }

  roundEnd(round: number): void {
    this.#send('roundEnd', ({ receiver }) => {
      receiver.roundEnd(round);
      this.#rounds += 1;
      if (this.#options.acknowledges?.(this.#rounds - 1) ?? true) {
        this.#replies.push({ type: 'applied', round });
      }
    });
  }

  deviceState(state: Uint8Array): void {
    this.#send('deviceState', ({ receiver }) => receiver.deviceState(state));
  }

  finish(): void {
    this.#send('finish', ({ receiver }) => receiver.finish());
  }

  commit(): void {
    this.#commitLeft = true;
    this.#send('commit', ({ receiver }) => receiver.commit());
  }

  withdraw(): void {
    this.#send('withdraw', ({ receiver }) => receiver.withdraw());
  }

  cancel(): void {
    this.#send('cancel', ({ receiver }) => receiver.cancel());
  }

  #send(type: FrameType, apply: Apply, pages?: Partial<Frame>): void {
    this.sent.push(type);
    if (this.#isUp) {
      this.#frames.push({ type, apply, pfn: 0, pageCount: 0, payload: new Uint8Array(0), ...pages });
    }
  }

  #breaksNow(): boolean {
    const cut = this.cuts[this.broken];
    if (cut === undefined || !this.#isUp) {
      return false;
    }
    const { afterFrames = 0, before, atOnce } = cut;
    const next = this.#frames[0]?.type;
    const isHere = atOnce === true || (before === undefined ? next !== undefined : next === before);
    if (isHere && this.sinceRestored >= afterFrames) {
      this.#break(cut);
    }
    return !this.#isUp;
  }

  #applyNext(): void {
    const frame = this.#frames.shift();
    if (frame === undefined) {
      return;
    }
    this.sinceRestored += 1;
    this.applied.push(frame.type);
    const { destination } = this;
    // What is known of a migration that is over is all that is left of it: commits are answered, the rest is dropped.
    if (destination.receiver.discarded && frame.type !== 'commit' && frame.type !== 'withdraw') {
      return;
    }
    try {
      frame.apply(destination);
    } catch (thrown) {
      destination.receiver.fail(thrown);
    }
  }

  #break(cut: Cut): void {
    const next = this.#frames[0];
    if (next?.type === 'pageRun' && cut.bytes !== undefined) {
      const target = this.destination.pages.target(next.pfn, next.pageCount);
      const bytes = Math.min(cut.bytes, target.length);
      target.set(next.payload.subarray(0, bytes));
    }
    this.#frames.length = 0;
    if (cut.losesReplies === true) {
      this.#replies.length = 0;
    }
    this.broken += 1;
    this.#isUp = false;
    this.#replies.push({ type: 'lost', reason: `the test cuts it (${this.broken})` });
    if (cut.next !== 'never') {
      this.restoreAt = this.#machine.clock.now + (cut.downMs ?? DOWN_MS);
    }
  }

  #restore(): void {
    const kept = this.cuts[this.broken - 1]!.next === 'kept';
    this.restoreAt = Number.POSITIVE_INFINITY;
    this.#isUp = true;
    this.sinceRestored = 0;
    if (!kept) {
      this.destination.dead = true;
      this.#connect();
    }
    if (!this.#commitLeft) {
      this.destination.restart();
      this.#replies.push({ type: 'restored', kept });
    } else {
      // A source that says that its commit has left is not begun with anew.
      this.#replies.push(kept ? { type: 'restored', kept } : { type: 'unknown-migration' });
    }
  }

  #connect(): void {
    const index = this.destinations.length;
    this.destinations.push(
      new Destination(this.#machine, this.#options.faults?.(index) ?? {}, (message) => {
        if (this.destinations.length === index + 1) {
          this.#replies.push(message);
        }
      }),
    );
  }
}

/** A migration over a link that breaks, stepped by hand. */
export class CutMigration implements Moved {
  readonly machine: Machine;
  readonly link: CuttableLink;
  readonly source: PrecopySource;
  readonly events: MigrationEvent[] = [];

  constructor(machine: Machine, options: Partial<MigrationOptions> = {}, link: LinkOptions = {}) {
    this.machine = machine;
    this.link = new CuttableLink(machine, link);
    this.source = new PrecopySource(machine, this.link, {
      ...resolveOptions({ downtimeLimitMs: 0.5, bytesPerSecond: 100e6, ...options }),
      clock: machine.clock.read,
      onEvent: (event) => {
        if (event.type === 'session-issued') {
          machine.oracle.sessionIssued(event.id);
        }
        this.events.push(event);
      },
    });
  }

  get arrived(): Machine | undefined {
    return this.#running[0];
  }

  get destination(): Machine {
    expect(this.source.error?.message).toBeUndefined();
    expect(this.source.phase).toBe('completed');
    return this.arrived!;
  }

  get #running(): Machine[] {
    return this.link.destinations.map(({ running }) => running).filter((machine) => machine !== undefined);
  }

  /** A step of the host, a slice of the guest, and time goes on to where somebody has something to do. */
  step(): void {
    const { clock } = this.machine;
    const until = this.source.step();
    const idleMs = this.machine.step();
    const host = until === AGAIN || this.link.pending > 0 ? clock.now : until;
    const next = Math.min(host, clock.now + idleMs, this.link.restoreAt);
    if (!this.source.done) {
      clock.now = Math.max(clock.now + TICK_MS, Number.isFinite(next) ? next : 0);
    }
    this.#expectOne();
  }

  /** Steps until `condition` holds; it has to. */
  until(condition: () => boolean): this {
    for (let i = 0; i < MOST_STEPS; i += 1) {
      if (condition()) {
        return this;
      }
      if (this.source.done) {
        break;
      }
      this.step();
    }
    throw new Error(
      `it did not come to that: phase ${this.source.phase}, ${this.source.error?.message ?? 'no error'}`,
    );
  }

  /** Until it is over, however it ends. */
  run(): this {
    return this.until(() => this.source.done);
  }

  /** How often an event has happened. */
  count(type: MigrationEvent['type']): number {
    return this.events.filter((event) => event.type === type).length;
  }

  /** I10, after each step: never two; and once it is over one, unless nobody can know. */
  #expectOne(): void {
    const there = this.#running.length;
    const here = this.machine.paused ? 0 : 1;
    if (there + here > 1) {
      expect.fail(`the guest runs in ${there + here} places, in phase ${this.source.phase}`);
    }
    if (this.source.done && this.source.phase !== 'unknown') {
      expect(there + here, 'places in which the guest runs').toBe(1);
    }
  }
}
