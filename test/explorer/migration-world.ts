import type { Dialect } from '../../src/balloon/dialect.js';
import { ExitFeature } from '../../src/balloon/exits.js';
import {
  type GuestDevice,
  type GuestDeviceState,
  makeGuestDevice,
  saveGuestDevice,
} from '../../src/balloon/guest-device.js';
import { trapsOf } from '../../src/balloon/guest-registers.js';
import { type HintSession, type HintSink, HintState } from '../../src/balloon/hint-session.js';
import type { LacunaError } from '../../src/errors.js';
import type { ReportMode } from '../../src/guest/runtime.js';
import {
  CMD_ID_REG,
  CMD_REG,
  CONTROL_BYTES,
  ControlBuffer,
  type EventWord,
  EXIT_WORDS,
  EXITS,
  GUEST_DOORBELL,
  INTERRUPTS,
  UNREQUESTED_ACKS,
} from '../../src/memory/control-buffer.js';
import { DirtyLog, type DirtySink } from '../../src/memory/dirty-log.js';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper, type WordMapper } from '../../src/memory/shared-words.js';
import { resolveOptions, type Schedule } from '../../src/migration/options.js';
import { AGAIN, PrecopySource } from '../../src/migration/precopy.js';
import { Receiver } from '../../src/migration/receiver.js';
import type { DestinationVm, HintDevice, SourceVm } from '../../src/migration/vm.js';
import { POISON_VAL_OFFSET } from '../../src/spec/command-register.js';
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CONFIG_POISON_VAL,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_VQ_FREE_PAGE,
} from '../../src/spec/virtio-balloon.js';
import type { QueueFault } from '../../src/virtqueue/device-queue.js';
import type { DestinationMessage, SourceChannel } from '../../src/wire/channel.js';
import {
  ExploredGuest,
  FIRST_VERSION,
  type GuestState,
  layOutTables,
  type Tables,
  TinyContent,
} from './explored-guest.js';
import { type Activity, Gate, gatedMapper, noActivity } from './gate.js';
import { Memento, type MemoryRange } from './memento.js';
import { Violation, type World } from './search.js';
import { VISIBLE_PREFIX } from './see-through.js';

/** How large a world is: what its actors may do, and how often. All of it together bounds the number of states. */
export interface WorldBounds {
  /** Pages of RAM: one of tables, and the guest's own. */
  readonly pages: number;
  /** Pages that are free at the start, the highest ones. */
  readonly freePages: number;
  readonly reportMode: ReportMode;
  readonly schedule: Schedule;
  readonly zeroDetection: boolean;
  readonly hints: boolean;
  readonly dialect: Dialect;
  readonly eventIdx: boolean;
  readonly ringSize: number;
  /** Rounds before the last one. */
  readonly rounds: number;
  /** Pages of a frame at the most. */
  readonly runPages: number;
  /** Frames on their way at the most. */
  readonly window: number;
  /** Writes of a page that the guest uses. */
  readonly writes: number;
  /** Allocations, each of which is written at once. */
  readonly allocations: number;
  readonly frees: number;
  readonly cancels: number;
  /** Moments at which time passes though something else could happen: short ones, and those beyond every deadline. */
  readonly ticks: number;
  readonly timeouts: number;
  /** What may go wrong, once in all. */
  readonly faults: readonly WorldFault[];
  /** Whose pieces of work are split: others come in between at every access to something shared. */
  readonly split: {
    /** `writes`: a page's two halves, its mark, its line in the ledger. `all`: the report and the exits too. */
    readonly guest: 'none' | 'writes' | 'all';
    readonly host: boolean;
    /** A run's pages are read a half at a time. */
    readonly destination: boolean;
  };
  /** What the driver has negotiated as `poison_val`. Its free pages hold old data all the same: what arrives shows. */
  readonly poison?: number;
}

/** `link-cut` is silent and for good; `link-breaks` is told of, and restored at some moment. */
export const WORLD_FAULTS = [
  'link-cut',
  'destination-dies',
  'reply-lost',
  'refuses-to-start',
  'link-breaks',
] as const;
export type WorldFault = (typeof WORLD_FAULTS)[number];

export const SMALL_WORLD: WorldBounds = {
  pages: 4,
  freePages: 2,
  reportMode: 'walk',
  schedule: 'wait',
  zeroDetection: false,
  hints: true,
  dialect: 'command-register',
  eventIdx: false,
  ringSize: 4,
  rounds: 2,
  runPages: 4,
  window: 1,
  writes: 1,
  allocations: 1,
  frees: 0,
  cancels: 0,
  ticks: 0,
  timeouts: 0,
  faults: [],
  split: { guest: 'writes', host: false, destination: true },
};

// What can happen, by number; page actions add the pfn.
const GUEST_STOPS = 1;
const GUEST_INTERRUPTS = 2;
const GUEST_COMMAND = 3;
const GUEST_REPORT = 4;
const GUEST_WRITES = 16;
const GUEST_ALLOCATES = 32;
const GUEST_FREES = 48;
const HOST_STEPS = 64;
const HOST_CANCELS = 65;
const TIME_TICKS = 66;
const TIME_OUT = 67;
const DESTINATION_READS = 80;
const DESTINATION_APPLIES = 81;
const LINK_IS_RESTORED = 82;
const FAULT = 96;

const TICK_MS = 2;
const TIMEOUT_MS = 10_000;
const DEADLINE_MS = 1000;

/** Something on its way to the destination. */
interface Frame {
  readonly type:
    | 'pages'
    | 'zero'
    | 'fill'
    | 'round-end'
    | 'state'
    | 'finish'
    | 'commit'
    | 'withdraw'
    | 'cancel';
  readonly pfn: number;
  readonly pageCount: number;
  readonly value: number;
  /** Device state, as text. */
  readonly text: string;
  /** First halves of its pages, once they were read; empty before. */
  readonly halves: number[];
}

/** A machine's counters that nobody acts on. */
const QUIET_CONTROL_WORDS: ReadonlySet<number> = new Set([
  GUEST_DOORBELL,
  UNREQUESTED_ACKS,
  ...Array.from({ length: EXIT_WORDS }, (_, i) => EXITS + i),
]);
const CONTROL_WORDS = 64 + EXIT_WORDS;

/** Fields that are reported and never acted on. Everything else is part of a state's identity. */
const NOT_IDENTITY = [
  // stamps and counts of the report
  'PrecopySource.rounds',
  'PrecopySource.__round',
  'PrecopySource.setupDoneAt',
  'PrecopySource.startedAt',
  'PrecopySource.endedAt',
  'PrecopySource.guestStoppedAt',
  'PrecopySource.guestStartedAt',
  'PrecopySource.transferredBytes',
  'PrecopySource.__waitedMs',
  'PrecopySource.__waitingSince',
  'PageAccounts.dirtied',
  'PageAccounts.__roundSkipped',
  'PageAccounts.__roundFillsDue',
  'PageAccounts.__vain',
  'PrecopySource.__committedAt',
  'Receiver.__discardedBecause',
  'ReportDriver.counts',
  'Object.round',
  'Object.hinted',
  'Object.alreadySent',
  'Object.notPending',
  'Object.reDirtied',
  'Object.sentInVain',
  'Object.stale',
  'Object.rejected',
  'Object.staleMarkers',
  'Object.startedAt',
  'Object.firstRangeAt',
  // of the host that is rung at once (`pollQueue`), which is another
  'BalloonDevice.__suppressed',
  // scratch that is filled before it is read
  'BalloonDevice.__elements',
  'HoldSource.__run',
  'DeviceQueue.__block',
  'WalkSource.__segmentFirst',
  'WalkSource.__segmentEnd',
];

/** What DONE is about: by the mail, nothing is done about it. */
const NOT_IDENTITY_BY_THE_MAIL = ['BalloonDevice.__owesDone', 'BalloonDevice.__doneUnseen'];

/** And what is wanted only once a link is restored, where none ever is. */
const NOT_IDENTITY_WITHOUT_BREAKS = ['Unacknowledged.__older', 'Unacknowledged.__newer'];

/** The world's own part of a state. Everything in it is saved, restored and told apart. */
class WorldState {
  readonly guest: ExploredGuest;
  readonly device: GuestDevice;
  readonly source: PrecopySource;
  readonly receiver: Receiver;
  readonly guestActivity: Activity = noActivity();
  readonly hostActivity: Activity = noActivity();
  readonly frames: Frame[] = [];
  readonly replies: DestinationMessage[] = [];
  /** What may still happen, of what the bounds allow. */
  readonly left: Record<
    'writes' | 'allocations' | 'frees' | 'cancels' | 'ticks' | 'timeouts' | 'faults',
    number
  >;
  now = 0;
  /** The host's event word was rung since its last step. */
  rung = false;
  asleep = false;
  wakeAt = 0;
  /** The source found no room and waits to be told. */
  wantsRoom = false;
  pauseWanted = false;
  paused = false;
  commitSent = false;
  /** The destination has said that it did not start the guest. */
  commitVoided = false;
  /** Nothing gets through any more, in either direction. */
  cut = false;
  /** The link has broken, and was not restored yet. */
  down = false;
  refuses = false;
  destinationRuns = false;
  deviceText = '';
  /** Id under which each page was declared last; 0: never. */
  readonly declaredUnder: number[];
  /** Whether each page was written since the current id was issued. */
  readonly writtenSince: boolean[];
  /** Pages of an accepted hint that were not written since its id was issued: they may read as zeroes (I7). */
  readonly leftBehind: boolean[];

  constructor(
    bounds: WorldBounds,
    guest: ExploredGuest,
    device: GuestDevice,
    source: PrecopySource,
    receiver: Receiver,
  ) {
    this.guest = guest;
    this.device = device;
    this.source = source;
    this.receiver = receiver;
    const { pages, writes, allocations, frees, cancels, ticks, timeouts, faults } = bounds;
    this.left = { writes, allocations, frees, cancels, ticks, timeouts, faults: faults.length > 0 ? 1 : 0 };
    this.declaredUnder = Array.from({ length: pages }, () => 0);
    this.writtenSince = Array.from({ length: pages }, () => true);
    this.leftBehind = Array.from({ length: pages }, () => false);
  }
}

/** The guest's and the host's machine at the source, the link, and the destination. */
export class MigrationWorld implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = [
    'cmd_reg',
    'id',
    'session',
    'dirty',
    'to send',
    'on the link',
    'source',
    'destination',
  ];
  readonly #bounds: WorldBounds;
  readonly #tables: Tables;
  readonly #memory: PrivateGuestMemory;
  readonly #destinationMemory: PrivateGuestMemory;
  readonly #logBuffer = new ArrayBuffer(4);
  readonly #control: ControlBuffer;
  readonly #gate = new Gate();
  readonly #map: WordMapper;
  readonly #log: DirtyLog;
  readonly #device: GuestDevice;
  readonly #state: WorldState;
  /** Found by the destination's start. The receiver would take it for a guest that does not start, if it were thrown there. */
  #badStart: Violation | undefined;
  readonly #guestOwn: Memento | undefined;
  readonly #hostOwn: Memento | undefined;

  constructor(bounds: WorldBounds) {
    this.#bounds = bounds;
    const layout = new RamLayout([{ startGpa: 0, endGpa: gpaOf(bounds.pages) }]);
    this.#tables = layOutTables(bounds.ringSize, bounds.pages);
    this.#memory = new PrivateGuestMemory(layout);
    this.#destinationMemory = new PrivateGuestMemory(layout);
    const controlBuffer = new ArrayBuffer(CONTROL_BYTES);
    this.#map = gatedMapper(atomicMapper, this.#gate, { buffer: controlBuffer, words: QUIET_CONTROL_WORDS });
    this.#control = new ControlBuffer(this.#map, controlBuffer, this.#eventWord());
    this.#log = new DirtyLog(new PageBitmap(this.#map.words(this.#logBuffer, 0, 1), layout.pfnSpan));
    this.#device = makeGuestDevice({
      memory: this.#memory,
      map: this.#map,
      control: this.#control,
      log: this.#log,
      inflated: PageBitmap.allocate(atomicMapper, bounds.pages),
      eventIdx: bounds.eventIdx,
      dialect: bounds.dialect,
    });
    this.#state = this.#boot();
    this.memento = this.#wholeMemento(controlBuffer);
    const shared = {
      constantClasses: CONSTANT_CLASSES,
      constantFields: CONSTANT_FIELDS,
      foreign: [
        controlBuffer,
        this.#logBuffer,
        this.#buffer(this.#memory),
        this.#buffer(this.#destinationMemory),
      ],
    };
    const { guest, source, device } = this.#state;
    if (bounds.split.guest !== 'none') {
      // Of its RAM: what only the driver and the allocator write, and read back. Not the rings: they are shared.
      const { queue, markersGpa, bytes } = this.#tables;
      const ram = this.#buffer(this.#memory);
      this.#guestOwn = new Memento(guest, {
        ...shared,
        memory: [
          { words: new Int32Array(ram, queue.descGpa, queue.size * 4) },
          { words: new Int32Array(ram, markersGpa, (bytes - markersGpa) / 4) },
        ],
      });
    }
    if (bounds.split.host) {
      this.#hostOwn = new Memento({ source, device }, { ...shared, memory: [] });
    }
  }

  #buffer(memory: PrivateGuestMemory): ArrayBuffer {
    return memory.segments[0]!.bytes.buffer as ArrayBuffer;
  }

  /** Rung or not is all that matters of the event word. */
  #eventWord(): EventWord {
    return { ring: () => this.#gate.once(() => this.#ring()) } as unknown as EventWord;
  }

  #ring(): void {
    this.#state.rung = true;
  }

  get #isVirtio(): boolean {
    return this.#bounds.dialect === 'virtio';
  }

  #boot(): WorldState {
    const { pages, freePages, reportMode, dialect, eventIdx, poison } = this.#bounds;
    const guest = new ExploredGuest({
      dialect,
      memory: this.#memory,
      control: this.#control,
      log: this.#logBuffer,
      tables: this.#tables,
      reportMode,
      eventIdx,
      map: this.#map,
      gate: this.#gate,
      observer: {
        declared: (id, pfn, pageCount) => this.#gate.once(() => this.#declared(id, pfn, pageCount)),
        stampWrite: (pfn) => this.#gate.once(() => this.#stampWrite(pfn)),
      },
    });
    if (poison !== undefined) {
      const traps = trapsOf(this.#control, dialect);
      const offset = this.#isVirtio ? VIRTIO_BALLOON_CONFIG_POISON_VAL : POISON_VAL_OFFSET;
      traps.writeConfig(offset, poison, ExitFeature.setup);
      traps.driverOk(1 << VIRTIO_BALLOON_F_PAGE_POISON);
    }
    const free = PageBitmap.allocate(atomicMapper, pages);
    free.setRange(pages - freePages, freePages);
    guest.allocator.initialise(free);
    const content = new TinyContent(undefined);
    for (let pfn = 1; pfn < pages; pfn += 1) {
      content.writeInto(this.#memory.pages(pfn, 1), 0, pfn, FIRST_VERSION); // free pages too: old data shows where it is left
      guest.ledger.begin(pfn, FIRST_VERSION);
    }
    const { rounds, schedule, zeroDetection, hints, runPages } = this.#bounds;
    const source = new PrecopySource(new WorldVm(this), new WorldChannel(this), {
      ...resolveOptions({
        schedule,
        zeroDetection,
        hints,
        maxRounds: rounds,
        maxRunPages: runPages,
        stallRounds: 1000,
        downtimeLimitMs: 0,
        adaptiveGraceMs: TICK_MS / 2,
        hintTimeoutMs: DEADLINE_MS,
        hintDeadlineMs: DEADLINE_MS,
        pauseTimeoutMs: DEADLINE_MS,
        sendTimeoutMs: DEADLINE_MS,
        readyTimeoutMs: DEADLINE_MS,
        startTimeoutMs: DEADLINE_MS,
        confirmAfterMs: DEADLINE_MS,
      }),
      clock: () => this.#state.now,
      onEvent: (event) => {
        if (event.type === 'session-issued') {
          this.#gate.once(() => this.#state.writtenSince.fill(false));
        }
      },
    });
    const receiver = new Receiver(new WorldDestination(this), (message) => this.#reply(message));
    return new WorldState(this.#bounds, guest, this.#device, source, receiver);
  }

  #wholeMemento(control: ArrayBuffer): Memento {
    return new Memento(this.#state, {
      constantClasses: CONSTANT_CLASSES,
      constantFields: CONSTANT_FIELDS,
      notIdentity: [
        ...NOT_IDENTITY,
        ...(this.#isVirtio ? [] : NOT_IDENTITY_BY_THE_MAIL),
        ...(this.#canBreak ? [] : NOT_IDENTITY_WITHOUT_BREAKS),
      ],
      memory: [
        { words: new Int32Array(control, 0, CONTROL_WORDS), notIdentity: QUIET_CONTROL_WORDS },
        { words: new Int32Array(this.#logBuffer) },
        ...this.#ramWords(this.#memory),
        // The tables' page is never hinted: while it is due to be sent, or once it is clear that the guest stays here,
        // nobody reads what the destination has of it.
        ...this.#ramWords(this.#destinationMemory, () => {
          const { source, commitSent } = this.#state;
          return (
            !commitSent && (source.done || ((this.#logWord | source.accounts.send.words.load(0)) & 1) === 1)
          );
        }),
      ],
    });
  }

  /** Of RAM: the tables, and the first word of each half of the other pages; nothing else is ever written. */
  #ramWords(memory: PrivateGuestMemory, tablesAreDead = (): boolean => false): MemoryRange[] {
    const buffer = this.#buffer(memory);
    const tables = new Int32Array(buffer, 0, Math.ceil(this.#tables.bytes / 4));
    const ranges: MemoryRange[] = [{ words: tables, dead: tablesAreDead }];
    for (let pfn = 1; pfn < this.#bounds.pages; pfn += 1) {
      ranges.push({ words: new Int32Array(buffer, gpaOf(pfn), 1) });
      ranges.push({ words: new Int32Array(buffer, gpaOf(pfn) + PAGE_SIZE / 2, 1) });
    }
    return ranges;
  }

  // ── what can happen ───────────────────────────────────────────────────────────────────────────────────────

  actionsInto(out: number[]): void {
    const state = this.#state;
    const { source, receiver, left, frames } = state;
    this.#guestActions(out);
    if (!receiver.discarded && frames.length > 0) {
      const [frame] = frames;
      if (this.#bounds.split.destination && frame!.type === 'pages' && frame!.halves.length === 0) {
        out.push(DESTINATION_READS);
      } else {
        out.push(DESTINATION_APPLIES);
      }
    }
    if (left.faults > 0) {
      this.#bounds.faults.forEach((fault, i) => {
        if (this.#canGoWrong(fault)) {
          out.push(FAULT + i);
        }
      });
    }
    if (source.done) {
      return;
    }
    if (state.down) {
      out.push(LINK_IS_RESTORED);
    }
    if (left.cancels > 0 && source.canCancel && state.hostActivity.what === -1) {
      out.push(HOST_CANCELS);
    }
    const others = out.length;
    const hostCanStep = !state.asleep || state.rung || state.now >= state.wakeAt;
    if (hostCanStep || state.hostActivity.what !== -1) {
      out.push(HOST_STEPS);
    }
    if (state.hostActivity.what !== -1) {
      return;
    }
    // Time passes where it is allowed for, and wherever nothing else would ever happen.
    const spinning = hostCanStep && this.#hostOnlyPolls();
    if (spinning && (left.ticks > 0 || others === 0)) {
      out.push(TIME_TICKS);
    }
    if (!hostCanStep && state.wakeAt !== Number.POSITIVE_INFINITY && (left.timeouts > 0 || others === 0)) {
      out.push(TIME_OUT);
    }
  }

  #guestActions(out: number[]): void {
    const state = this.#state;
    const { guest, left } = state;
    if (state.guestActivity.what !== -1) {
      out.push(state.guestActivity.what);
      return;
    }
    if (state.paused) {
      return;
    }
    if (state.pauseWanted) {
      out.push(GUEST_STOPS);
    }
    if (guest.command.busy) {
      out.push(GUEST_COMMAND);
    } else {
      if (this.#control.words.load(INTERRUPTS) !== 0) {
        out.push(GUEST_INTERRUPTS);
      }
      if (guest.reporting) {
        out.push(GUEST_REPORT);
      }
    }
    if (state.source.done) {
      return; // it goes on with its life; the world's end looks at it
    }
    for (let pfn = 1; pfn < this.#bounds.pages; pfn += 1) {
      const owned = guest.owns(pfn);
      if (owned && left.writes > 0) {
        out.push(GUEST_WRITES + pfn);
      }
      if (owned && left.frees > 0) {
        out.push(GUEST_FREES + pfn);
      }
    }
    if (left.allocations > 0 && (guest.allocator.freePages > 0 || guest.held.count() > 0)) {
      out.push(GUEST_ALLOCATES);
    }
  }

  /** The host waits for hints by looking for them, for as long as that is cheaper than to sleep. */
  #hostOnlyPolls(): boolean {
    const { source, device, now } = this.#state;
    return (
      source.phase === 'round' &&
      device.session.state !== HintState.closed &&
      now - hidden<number>(source, 'lastHintAt') < 1
    );
  }

  #canGoWrong(fault: WorldFault): boolean {
    const { receiver, replies, cut, destinationRuns, source } = this.#state;
    switch (fault) {
      case 'link-cut':
        return !cut;
      case 'link-breaks':
        return !source.done;
      case 'destination-dies':
        return !receiver.discarded && !destinationRuns;
      case 'reply-lost':
        return replies.length > 0;
      case 'refuses-to-start':
        return !this.#state.refuses && receiver.state !== 'started';
    }
  }

  perform(action: number): void {
    const state = this.#state;
    if (action >= FAULT) {
      this.#goWrong(this.#bounds.faults[action - FAULT]!);
    } else if (action < HOST_STEPS) {
      this.#guestActs(action);
    } else if (action === HOST_STEPS) {
      this.#hostSteps();
    } else if (action === HOST_CANCELS) {
      state.left.cancels -= 1;
      state.source.cancel();
      state.rung = true;
    } else if (action === TIME_TICKS) {
      state.left.ticks = Math.max(0, state.left.ticks - 1);
      state.now += TICK_MS;
    } else if (action === TIME_OUT) {
      this.#timeOut();
    } else if (action === DESTINATION_READS) {
      const frame = state.frames[0]!;
      for (let i = 0; i < frame.pageCount; i += 1) {
        frame.halves.push(this.#halfWord(frame.pfn + i, 0));
      }
    } else if (action === LINK_IS_RESTORED) {
      this.#restoreLink();
    } else {
      this.#destinationApplies();
    }
  }

  #guestActs(action: number): void {
    const state = this.#state;
    const { guest, left, guestActivity } = state;
    if (action === GUEST_STOPS) {
      state.paused = true;
      state.rung = true;
      return;
    }
    if (guestActivity.what === -1) {
      if (action === GUEST_ALLOCATES) {
        left.allocations -= 1;
        guestActivity.what = GUEST_WRITES + guest.allocate();
      } else {
        if (action >= GUEST_FREES) {
          left.frees -= 1;
          guest.allocator.release(action - GUEST_FREES, 0);
          return;
        }
        if (action >= GUEST_WRITES) {
          left.writes -= 1;
        }
        guestActivity.what = action;
      }
    }
    const { what } = guestActivity;
    const isSplit = this.#bounds.split.guest === 'all' || what >= GUEST_WRITES;
    this.#gate.advance(
      { name: 'guest', activity: guestActivity, own: isSplit ? this.#guestOwn : undefined },
      () => {
        if (what === GUEST_INTERRUPTS) {
          guest.takeInterrupts();
        } else if (what === GUEST_COMMAND) {
          guest.command.step();
        } else if (what === GUEST_REPORT) {
          guest.report.step(state.now);
        } else {
          const pfn = what - GUEST_WRITES;
          guest.ledger.write(pfn, (guest.ledger.version(pfn) % 3) + 1);
        }
      },
    );
  }

  #hostSteps(): void {
    const state = this.#state;
    const { hostActivity, source } = state;
    if (hostActivity.what === -1) {
      hostActivity.what = HOST_STEPS;
      state.rung = false;
      state.asleep = false;
    }
    const drainedBefore = state.source.phase;
    let until: number = AGAIN;
    const done = this.#gate.advance({ name: 'host', activity: hostActivity, own: this.#hostOwn }, () => {
      until = source.step();
    });
    if (done) {
      state.asleep = until !== AGAIN && until > state.now;
      state.wakeAt = state.asleep ? until : 0;
      this.#checkSync(drainedBefore);
      this.#checkDone();
    }
  }

  /** I4, I2: no session is open when the log is drained, and no page is claimed before the first drain. */
  #checkSync(phaseBefore: string): void {
    const { source, device } = this.#state;
    if ((phaseBefore === 'sync' || phaseBefore === 'final-sync') && source.phase === phaseBefore) {
      return;
    }
    if (source.phase === 'sync' || source.phase === 'final-sync') {
      if (device.session.state !== HintState.closed) {
        throw new Violation('I4', 'the log is about to be drained while a hint session is open');
      }
      if (this.#control.words.load(CMD_ID_REG) >>> 0 > VIRTIO_BALLOON_CMD_ID_DONE) {
        throw new Violation('I4', 'the log is about to be drained while an id can still be read');
      }
    }
  }

  /** V5: a guest that can read DONE may use what it has lent as it is, so nothing may be left out by then. */
  #checkDone(): void {
    const { source, paused } = this.#state;
    if (!source.done && !paused && this.#control.words.load(CMD_ID_REG) === VIRTIO_BALLOON_CMD_ID_DONE) {
      throw new Violation('V5', 'the guest runs and can read DONE while its pages may still be left out');
    }
  }

  #timeOut(): void {
    const state = this.#state;
    const { device, source } = state;
    if (
      source.phase === 'round' &&
      device.session.state !== HintState.closed &&
      state.guestActivity.what === -1
    ) {
      const queue = hidden<(object | undefined)[]>(device, 'queues')[VIRTIO_BALLOON_VQ_FREE_PAGE];
      const unseen =
        queue !== undefined &&
        device.fault === undefined &&
        state.guest.queue.saveState().availIdx !== hidden<number>(queue, 'lastAvailIdx');
      if (unseen) {
        throw new Violation(
          'Q7',
          'the host sleeps till its deadline though the ring holds what it waits for',
        );
      }
    }
    state.left.timeouts = Math.max(0, state.left.timeouts - 1);
    state.now += TIMEOUT_MS;
  }

  #goWrong(fault: WorldFault): void {
    const state = this.#state;
    state.left.faults -= 1;
    switch (fault) {
      case 'link-cut':
        state.cut = true;
        state.frames.length = 0;
        state.replies.length = 0;
        break;
      case 'link-breaks':
        state.down = true;
        state.frames.length = 0;
        state.replies.length = 0;
        this.#tell({ type: 'lost', reason: 'it broke' });
        break;
      case 'destination-dies':
        state.receiver.state = 'discarded';
        state.frames.length = 0;
        this.#reply({ type: 'error', reason: 'its thread died' });
        break;
      case 'reply-lost':
        state.replies.shift();
        break;
      case 'refuses-to-start':
        state.refuses = true;
        break;
    }
  }

  get #canBreak(): boolean {
    return this.#bounds.faults.includes('link-breaks');
  }

  /** To the destination as it was. After the commit it is not begun with anew. */
  #restoreLink(): void {
    const state = this.#state;
    state.down = false;
    if (!state.commitSent) {
      state.receiver.restart();
    }
    this.#tell({ type: 'restored', kept: true });
  }

  // ── the link and the destination ──────────────────────────────────────────────────────────────────────────

  /** The first word of a half of a page, as it is now. */
  #halfWord(pfn: number, half: number): number {
    return halfWord(this.#memory.pages(pfn, 1), half);
  }

  #destinationApplies(): void {
    const state = this.#state;
    const { receiver } = state;
    const frame = state.frames.shift()!;
    if (state.wantsRoom) {
      state.wantsRoom = false;
      state.rung = true;
    }
    try {
      switch (frame.type) {
        case 'pages':
          receiver.pageRun(frame.pfn, frame.pageCount, this.#payloadOf(frame));
          break;
        case 'zero':
          receiver.zeroRun(frame.pfn, frame.pageCount);
          break;
        case 'fill':
          receiver.fillRun(frame.pfn, frame.pageCount, frame.value);
          break;
        case 'round-end':
          receiver.roundEnd(frame.value);
          if (this.#canBreak) {
            this.#reply({ type: 'applied', round: frame.value });
          }
          break;
        case 'state':
          receiver.deviceState(new TextEncoder().encode(frame.text));
          break;
        case 'finish':
          receiver.finish();
          break;
        case 'commit':
          receiver.commit();
          break;
        case 'withdraw':
          receiver.withdraw();
          break;
        case 'cancel':
          receiver.cancel();
          break;
      }
    } catch (thrown) {
      receiver.fail(thrown);
    }
    if (this.#badStart !== undefined) {
      const bad = this.#badStart;
      this.#badStart = undefined;
      throw bad;
    }
  }

  /** What arrives of a run: its first halves as they were when they were read, the rest as it is now. */
  #payloadOf(frame: Frame): Uint8Array {
    const bytes = this.#memory.pages(frame.pfn, frame.pageCount).slice();
    const view = new DataView(bytes.buffer);
    frame.halves.forEach((word, i) => {
      // Page 0 holds the tables; the torn word of it is a word like any other.
      view.setInt32(i * PAGE_SIZE, word, true);
    });
    return bytes;
  }

  #reply(message: DestinationMessage): void {
    if (!this.#state.cut && !this.#state.down) {
      this.#tell(message);
    }
  }

  #tell(message: DestinationMessage): void {
    this.#state.replies.push(message);
    this.#state.rung = true;
  }

  // ── what the engine sees ──────────────────────────────────────────────────────────────────────────────────

  #declared(id: number, pfn: number, pageCount: number): void {
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      if (page === 0 || this.#state.guest.owns(page)) {
        throw new Violation('I4', `the driver declares page ${page} under id ${id}, and the guest uses it`);
      }
    }
    this.#state.declaredUnder.fill(id, pfn, pfn + pageCount);
  }

  #stampWrite(pfn: number): void {
    this.#state.writtenSince[pfn] = true;
    this.#state.leftBehind[pfn] = false;
  }

  /** A hint was accepted. */
  #accepted(gpa: number, lengthBytes: number, logBefore: number): void {
    const state = this.#state;
    for (let pfn = gpa / PAGE_SIZE; pfn < (gpa + lengthBytes) / PAGE_SIZE; pfn += 1) {
      if (state.declaredUnder[pfn] !== state.device.session.id) {
        throw new Violation(
          'I4',
          `page ${pfn} was declared free under id ${state.declaredUnder[pfn]} and accepted under ${state.device.session.id}`,
        );
      }
      state.leftBehind[pfn] = !state.writtenSince[pfn]!;
    }
    if ((logBefore & ~this.#logWord) !== 0) {
      throw new Violation('I3', 'a hint has cleared bits of the dirty log');
    }
  }

  // For the objects that the engine is given:

  get memory(): PrivateGuestMemory {
    return this.#memory;
  }

  get destinationMemory(): PrivateGuestMemory {
    return this.#destinationMemory;
  }

  get bounds(): WorldBounds {
    return this.#bounds;
  }

  get current(): WorldState {
    return this.#state;
  }

  get gate(): Gate {
    return this.#gate;
  }

  get device(): GuestDevice {
    return this.#device;
  }

  get log(): DirtyLog {
    return this.#log;
  }

  /** A hint goes to `sink`, with an ear to it. */
  hear(sink: HintSink, gpa: number, lengthBytes: number): boolean {
    const before = this.#gate.once(() => this.#logWord);
    const taken = sink.hint(gpa, lengthBytes);
    this.#gate.once(() => this.#accepted(gpa, lengthBytes, before));
    return taken;
  }

  get #logWord(): number {
    return new Int32Array(this.#logBuffer)[0]!;
  }

  /** The destination starts the guest: the last moment at which source and destination can be compared (I7, I10). */
  startsAtDestination(): void {
    const state = this.#state;
    if (!state.commitSent) {
      this.#badStart = new Violation('I10', 'the destination starts the guest, and no commit was sent');
      return;
    }
    if (state.refuses) {
      throw new Error('the destination does not start it');
    }
    state.destinationRuns = true;
    this.#badStart = this.#wrongAtStart();
  }

  /** What differs from the source's at the moment of the start, and may not. */
  #wrongAtStart(): Violation | undefined {
    const state = this.#state;
    for (let pfn = 0; pfn < this.#bounds.pages; pfn += 1) {
      if (this.#samePage(pfn)) {
        continue;
      }
      if (!state.leftBehind[pfn]) {
        return new Violation('I7', `page ${pfn} is not what it is at the source: ${this.#pageText(pfn)}`);
      }
      if (!this.#readsAsFree(pfn)) {
        return new Violation(
          'I7',
          `page ${pfn} was left behind and does not read as ${this.#bounds.poison === undefined ? 'zeroes' : 'poison'}: ${this.#pageText(pfn)}`,
        );
      }
    }
    return undefined;
  }

  /** Zero from end to end; or poisoned. */
  #readsAsFree(pfn: number): boolean {
    const { poison } = this.#bounds;
    const page = this.#destinationMemory.pages(pfn, 1);
    return poison === undefined
      ? page.every((byte) => byte === 0)
      : [0, 1].every((half) => halfWord(page, half) >>> 0 === poison);
  }

  #samePage(pfn: number): boolean {
    if (this.#bounds.poison !== undefined && pfn > 0) {
      // A fill writes more of the destination's page than is saved and put back: only that much is looked at.
      const there = this.#destinationMemory.pages(pfn, 1);
      return [0, 1].every((half) => halfWord(there, half) === this.#halfWord(pfn, half));
    }
    return Buffer.compare(this.#memory.pages(pfn, 1), this.#destinationMemory.pages(pfn, 1)) === 0;
  }

  // ── invariants ────────────────────────────────────────────────────────────────────────────────────────────

  check(): void {
    const state = this.#state;
    const { source } = state;
    const runsHere = !state.paused;
    if (state.destinationRuns && runsHere) {
      throw new Violation('I10', 'the guest runs at the source and at the destination');
    }
    if (state.commitSent && !state.commitVoided && runsHere) {
      throw new Violation('I10', 'the commit has left, and the guest runs at the source again');
    }
    if (state.hostActivity.what !== -1) {
      return; // the host is half-way through a step: what it keeps to itself is as before it
    }
    if (source.rounds.length === 0 && source.accounts.claimed.count() > 0) {
      throw new Violation('I2', 'a page was claimed before the log was drained');
    }
    const isBroken = state.down || source.phase === 'recovering' || state.replies.some(isLost);
    if (!source.done && !state.cut && !isBroken && !state.receiver.discarded && !state.commitSent) {
      this.#checkCoverage();
    }
    if (source.phase === 'recovering' && (state.paused || state.pauseWanted)) {
      throw new Violation('I8', 'the link is down and the guest does not run at the source');
    }
    if ((source.phase === 'cancelled' || source.phase === 'failed') && (state.paused || state.pauseWanted)) {
      throw new Violation('I8', `the migration has ${source.phase} and the guest does not run at the source`);
    }
  }

  /**
   * I1–I5 as one statement about a state: whatever differs at the destination is still on its way there. It is
   * marked in the log, due to be sent, in the sender's hand, on the link, about to be marked by the guest that is
   * writing it, or was left behind in order.
   */
  #checkCoverage(): void {
    const state = this.#state;
    const { source, guest } = state;
    if (source.rounds.length === 0) {
      return; // all of it is still to be sent
    }
    const dirty = this.#logWord;
    const run = hidden<{ pfn: number; pageCount: number }>(source, 'run');
    const cursor = hidden<object>(source, 'cursor');
    const held = hidden<number>(cursor, 'heldWord') === 0 ? hidden<number>(cursor, 'held') : 0;
    const { what } = state.guestActivity;
    const guestIsWriting = what >= GUEST_WRITES && what < GUEST_ALLOCATES ? what - GUEST_WRITES : -1;
    for (let pfn = 0; pfn < this.#bounds.pages; pfn += 1) {
      const bit = 1 << pfn;
      if ((dirty & bit) !== 0 || (held & bit) !== 0 || source.accounts.send.test(pfn)) {
        continue;
      }
      if (pfn === guestIsWriting || (pfn === 0 && what !== -1) || state.leftBehind[pfn]) {
        continue;
      }
      if ((pfn >= run.pfn && pfn < run.pfn + run.pageCount) || this.#onTheLink(pfn) || this.#samePage(pfn)) {
        continue;
      }
      const free = pfn > 0 && !guest.owns(pfn) ? 'free' : 'used';
      throw new Violation(
        'I7',
        `page ${pfn} (${free}) is lost: nothing will send it again (${this.#pageText(pfn)})`,
      );
    }
  }

  /** The last frame for the page that is on its way brings what the page holds now. */
  #onTheLink(pfn: number): boolean {
    const frame = this.#state.frames.findLast(
      (candidate) => pfn >= candidate.pfn && pfn < candidate.pfn + candidate.pageCount,
    );
    if (frame === undefined) {
      return false;
    }
    const half = frame.halves[pfn - frame.pfn];
    return frame.type === 'pages' && (half === undefined || half === this.#halfWord(pfn, 0));
  }

  /** Nothing can happen any more: everybody is where they should be, and the guest gets on with its life. */
  checkEnd(): void {
    const state = this.#state;
    const { source } = state;
    if (!source.done) {
      throw new Violation('I6', `nothing can happen any more, and the source is in phase ${source.phase}`);
    }
    if (source.phase === 'completed' && !state.destinationRuns) {
      throw new Violation('I8', 'the migration has completed and the guest does not run at the destination');
    }
    if (state.destinationRuns) {
      this.#checkLife(this.#arrived(), 'at the destination');
    } else if (source.phase !== 'unknown') {
      this.#checkLife({ guest: state.guest, device: state.device }, 'at the source');
    }
  }

  #arrived(): { guest: ExploredGuest; device: GuestDevice } {
    const { reportMode, dialect, eventIdx, pages } = this.#bounds;
    const saved = JSON.parse(this.#state.deviceText) as SavedMachine;
    const control = new ControlBuffer(atomicMapper, new ArrayBuffer(CONTROL_BYTES), {
      ring: () => {},
    } as unknown as EventWord);
    const log = new ArrayBuffer(4);
    const device = makeGuestDevice({
      memory: this.#destinationMemory,
      map: atomicMapper,
      control,
      log: new DirtyLog(new PageBitmap(atomicMapper.words(log, 0, 1), pages)),
      inflated: PageBitmap.allocate(atomicMapper, pages),
      eventIdx,
      restored: saved.device,
    });
    device.registers.restore(saved.device.registers);
    const guest = new ExploredGuest({
      dialect,
      memory: this.#destinationMemory,
      control,
      log,
      tables: this.#tables,
      reportMode,
      eventIdx,
      map: atomicMapper,
      gate: undefined,
      observer: { declared: () => {}, stampWrite: () => {} },
      restored: saved.guest,
    });
    return { guest, device };
  }

  /** Guest and device go on until neither has anything to do: memory given back, requests answered, contents whole. */
  #checkLife({ guest, device }: { guest: ExploredGuest; device: GuestDevice }, where: string): void {
    const now = this.#state.now;
    for (let i = 0; guest.serve(now) || device.poll(now, 64) > 0; i += 1) {
      if (i === 200) {
        throw new Violation('I6', `guest and device do not come to rest ${where}`);
      }
    }
    if (guest.held.count() > 0) {
      throw new Violation(
        'I8',
        `the guest ${where} has not got its memory back: ${guest.held.count()} pages are held`,
      );
    }
    const ailment = guest.ailment();
    if (ailment !== undefined) {
      throw new Violation('I7', `the guest ${where} is not well: ${ailment}`);
    }
    if (device.registers.pending !== 0) {
      throw new Violation(
        'I8',
        `the guest ${where} leaves requests unanswered: cmd_reg is ${device.registers.pending}`,
      );
    }
    if (device.fault !== undefined) {
      throw new Violation('Q4', `the device ${where} takes the ring for corrupt: ${device.fault.message}`);
    }
  }

  // ── in words ──────────────────────────────────────────────────────────────────────────────────────────────

  describe(action: number): { who: string; what: string } {
    const state = this.#state;
    const goesOn = (activity: Activity): string => (activity.what === -1 ? '' : '… ');
    if (action >= FAULT) {
      return { who: 'fault', what: this.#bounds.faults[action - FAULT]! };
    }
    if (action < HOST_STEPS) {
      return { who: 'guest', what: `${goesOn(state.guestActivity)}${guestActionText(action)}` };
    }
    switch (action) {
      case HOST_STEPS:
        return { who: 'host', what: `${goesOn(state.hostActivity)}${state.source.phase}` };
      case HOST_CANCELS:
        return { who: 'host', what: 'is asked to cancel' };
      case TIME_TICKS:
        return { who: 'time', what: `${TICK_MS} ms pass` };
      case TIME_OUT:
        return { who: 'time', what: 'every deadline passes' };
      case LINK_IS_RESTORED:
        return { who: 'link', what: 'is restored' };
      case DESTINATION_READS:
        return { who: 'destination', what: `reads half of ${frameText(state.frames[0]!)}` };
      default:
        return { who: 'destination', what: `applies ${frameText(state.frames[0]!)}` };
    }
  }

  cells(): string[] {
    const state = this.#state;
    const { source, device } = state;
    const words = this.#control.words;
    const bits = (word: number): string =>
      Array.from({ length: this.#bounds.pages }, (_, pfn) => ((word >>> pfn) & 1 ? pfn : '·')).join('');
    const request = words.load(CMD_REG);
    const named = [(request & 1) !== 0 ? 'START' : '', (request & 2) !== 0 ? 'STOP' : ''].filter(
      (name) => name !== '',
    );
    const page = (memory: PrivateGuestMemory, pfn: number): string => versionText(memory.pages(pfn, 1));
    const all = (memory: PrivateGuestMemory): string =>
      Array.from({ length: this.#bounds.pages - 1 }, (_, i) => page(memory, i + 1)).join(' ');
    return [
      named.join('+') || '–',
      String(words.load(CMD_ID_REG)),
      device.session.state,
      bits(this.#logWord),
      bits(source.accounts.send.words.load(0)),
      state.frames.map(frameText).join(', ') || '–',
      all(this.#memory),
      all(this.#destinationMemory),
    ];
  }

  #pageText(pfn: number): string {
    if (pfn === 0) {
      return "the guest's tables differ";
    }
    const at = (memory: PrivateGuestMemory): string => versionText(memory.pages(pfn, 1));
    return `source ${at(this.#memory)}, destination ${at(this.#destinationMemory)}`;
  }
}

/** What of a machine travels beside its RAM. */
interface SavedMachine {
  readonly device: GuestDeviceState;
  readonly guest: GuestState;
}

function isLost({ type }: DestinationMessage): boolean {
  return type === 'lost';
}

/** The first word of a half of a page. */
function halfWord(page: Uint8Array, half: number): number {
  return new DataView(page.buffer, page.byteOffset).getInt32(half * (PAGE_SIZE / 2), true);
}

/** The version in each half of a page; `0` reads as zeroes. */
function versionText(page: Uint8Array): string {
  const view = new DataView(page.buffer, page.byteOffset);
  const [first, second] = [view.getUint32(0, true) & 0xff, view.getUint32(PAGE_SIZE / 2, true) & 0xff];
  return first === second ? `v${first}` : `v${first}|v${second}`;
}

function frameText(frame: Frame): string {
  const pages = frame.pageCount === 1 ? `${frame.pfn}` : `${frame.pfn}–${frame.pfn + frame.pageCount - 1}`;
  return frame.pageCount > 0 ? `${frame.type} ${pages}` : frame.type;
}

function guestActionText(action: number): string {
  switch (action) {
    case GUEST_STOPS:
      return 'stops at a safe point';
    case GUEST_INTERRUPTS:
      return 'takes its interrupts';
    case GUEST_COMMAND:
      return 'answers the command register';
    case GUEST_REPORT:
      return 'reports';
    case GUEST_ALLOCATES:
      return 'allocates a page and writes it';
    default:
      return action >= GUEST_FREES
        ? `frees page ${action - GUEST_FREES}`
        : `writes page ${action - GUEST_WRITES}`;
  }
}

/** The source's machine, as the engine is given it. */
class WorldVm implements SourceVm {
  readonly #world: MigrationWorld;
  #device: HintDevice | undefined;

  constructor(world: MigrationWorld) {
    this.#world = world;
  }

  get memory(): PrivateGuestMemory {
    return this.#world.memory;
  }

  get device(): HintDevice {
    this.#device ??= new WatchedDevice(this.#world);
    return this.#device;
  }

  get failure(): LacunaError | undefined {
    return undefined;
  }

  migrationBegins(): void {}

  migrationEnds(): void {
    this.#world.current.device.showDone();
  }

  payload(pfn: number, pageCount: number): Uint8Array<ArrayBufferLike> {
    return this.memory.pages(pfn, pageCount);
  }

  drainDirty(sink: DirtySink): boolean {
    return this.#world.log.drainSlice(sink);
  }

  requestPause(): void {
    this.#world.gate.access(() => {
      this.#world.current.pauseWanted = true;
    });
  }

  get paused(): boolean {
    return this.#world.gate.access(() => this.#world.current.paused);
  }

  get stoppedAt(): number {
    return 0;
  }

  resume(): void {
    this.#world.gate.access(() => {
      this.#world.current.pauseWanted = false;
      this.#world.current.paused = false;
    });
  }

  saveDeviceState(): Uint8Array {
    return this.#world.gate.once(() => {
      const { device, guest } = this.#world.current;
      const saved: SavedMachine = { device: saveGuestDevice(device), guest: guest.saveState() };
      return new TextEncoder().encode(JSON.stringify(saved));
    });
  }
}

/** The device, with an ear to every hint that is accepted. */
class WatchedDevice implements HintDevice {
  readonly #world: MigrationWorld;
  readonly #device: GuestDevice;

  constructor(world: MigrationWorld) {
    this.#world = world;
    this.#device = world.device;
  }

  get session(): HintSession {
    return this.#device.session;
  }

  get upcomingId(): number {
    return this.#device.upcomingId;
  }

  get inflated(): PageBitmap {
    return this.#device.inflated;
  }

  /** It does not change once the driver drives the device (P3), so nobody can come in between. */
  get poison(): number | undefined {
    const { bounds, gate } = this.#world;
    return bounds.poison === undefined ? undefined : gate.once(() => this.#device.poison);
  }

  get fault(): QueueFault | undefined {
    return this.#device.fault;
  }

  openSession(sink: HintSink, now: number): number {
    return this.#device.openSession(new HeardSink(sink, this.#world), now);
  }

  closeSession(now: number): void {
    this.#device.closeSession(now);
  }

  poll(now: number, limit: number): number {
    return this.#device.poll(now, limit);
  }

  suppressNotifications(): void {
    this.#device.suppressNotifications();
  }

  armNotifications(): boolean {
    return this.#device.armNotifications();
  }

  freeze(): void {
    this.#device.freeze();
  }

  unfreeze(): void {
    this.#device.unfreeze();
  }
}

class HeardSink implements HintSink {
  readonly #sink: HintSink;
  readonly #world: MigrationWorld;

  constructor(sink: HintSink, world: MigrationWorld) {
    this.#sink = sink;
    this.#world = world;
  }

  hint(gpa: number, lengthBytes: number): boolean {
    return this.#world.hear(this.#sink, gpa, lengthBytes);
  }
}

/** The link: what is sent is applied when the destination gets to it. */
class WorldChannel implements SourceChannel {
  readonly #world: MigrationWorld;

  constructor(world: MigrationWorld) {
    this.#world = world;
  }

  get writable(): boolean {
    return this.#world.gate.once(() => {
      const { current, bounds } = this.#world;
      current.wantsRoom = current.cut || current.down || current.frames.length >= bounds.window;
      return !current.wantsRoom;
    });
  }

  get unflushedBytes(): number {
    return this.#world.gate.once(
      () => this.#world.current.frames.reduce((sum, frame) => sum + frame.pageCount, 0) * PAGE_SIZE,
    );
  }

  poll(): DestinationMessage | undefined {
    return this.#world.gate.once(() => {
      const message = this.#world.current.replies.shift();
      if (message?.type === 'not-started') {
        this.#world.current.commitVoided = true;
      }
      return message;
    });
  }

  pageRun(pfn: number, pageCount: number): void {
    this.#push({ type: 'pages', pfn, pageCount });
  }

  zeroRun(pfn: number, pageCount: number): void {
    this.#push({ type: 'zero', pfn, pageCount });
  }

  fillRun(pfn: number, pageCount: number, value: number): void {
    this.#push({ type: 'fill', pfn, pageCount, value });
  }

  roundEnd(round: number): void {
    this.#push({ type: 'round-end', value: round });
  }

  deviceState(state: Uint8Array): void {
    this.#push({ type: 'state', text: new TextDecoder().decode(state) });
  }

  finish(): void {
    this.#push({ type: 'finish' });
  }

  commit(): void {
    this.#world.gate.once(() => {
      this.#world.current.commitSent = true;
    });
    this.#push({ type: 'commit' });
  }

  withdraw(): void {
    this.#push({ type: 'withdraw' });
  }

  cancel(): void {
    this.#push({ type: 'cancel' });
  }

  #push(frame: Partial<Frame> & Pick<Frame, 'type'>): void {
    this.#world.gate.once(() => {
      const { frames, cut, down, receiver } = this.#world.current;
      if (!cut && !down && !receiver.discarded) {
        frames.push({
          type: frame.type,
          pfn: frame.pfn ?? 0,
          pageCount: frame.pageCount ?? 0,
          value: frame.value ?? 0,
          text: frame.text ?? '',
          halves: [],
        });
      }
    });
  }
}

class WorldDestination implements DestinationVm {
  readonly #world: MigrationWorld;

  constructor(world: MigrationWorld) {
    this.#world = world;
  }

  get memory(): PrivateGuestMemory {
    return this.#world.destinationMemory;
  }

  loadDeviceState(state: Uint8Array): void {
    this.#world.current.deviceText = new TextDecoder().decode(state);
  }

  start(): number {
    this.#world.startsAtDestination();
    return 0;
  }
}

/** Never change once they are made. */
const CONSTANT_CLASSES = [
  ControlBuffer,
  PrivateGuestMemory,
  RamLayout,
  Gate,
  WorldVm,
  WatchedDevice,
  WorldChannel,
  WorldDestination,
  MigrationWorld,
];

/** Options, tables of functions, and views: made once. What of them changes is reached elsewhere. */
const CONSTANT_FIELDS = ['__options', '__features', '__views', 'addresses', '__reply', '__oracle', 'map'];

/** A field of the code under test that it keeps to itself (see-through.ts). */
function hidden<T>(object: object, field: string): T {
  return (object as Record<string, unknown>)[`${VISIBLE_PREFIX}${field}`] as T;
}
