import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import type { ListenerEvent } from '../../transport/network/incoming-migration.js';
import type { MigrationListener } from '../../transport/network/migration-listener.js';
import type { NetworkChannel } from '../../transport/network/network-channel.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { type Arrival, connectGuest, receiveGuests } from '../../vmm/network-destination.js';
import type { WorkerGuest } from '../../vmm/worker-guest.js';
import { check, PATIENCE_MS, until } from './checks.js';
import type { At, FarSide, FarSideServices } from './far-side.js';
import { endGuest, type TravellingGuest } from './guests.js';
import { HostilePeers } from './hostile-peers.js';
import { LinkProxy } from './link-proxy.js';
import type { LinkCut, LinkSilence, NetworkPlan } from './network-plan.js';
import { openSockets } from './open-sockets.js';
import type { FaultKind, HopPlan, LinkMoment } from './plan.js';
import { Random } from './random.js';
import { WatchedThreads } from './watched-threads.js';

const HANDSHAKE_MS = 30_000;
const KEEP_MS = 120_000;
/** Both ends are this program. */
const KEY: TlsSettings = { psk: { identity: 'lacuna stress', key: new Uint8Array(32).fill(0x5a) } };
/** What a failure tells of what happened before it. */
const MOST_EVENTS = 60;
/** Another migration may have been given a port of ours meanwhile; not for long. */
const LOOK_AGAIN_MS = 20;

/** A destination that listens, a link to it that can be broken, and the source's channel: all of it in this process. */
export class NetworkFarSide implements FarSide {
  readonly #source: WorkerGuest;
  readonly #travelling: TravellingGuest;
  readonly #plan: HopPlan;
  readonly #network: NetworkPlan;
  readonly #services: FarSideServices;
  readonly #threads: WatchedThreads;
  readonly #ports = new Set<number>();
  readonly #arrivals: Arrival[] = [];
  readonly #events: string[] = [];
  readonly #openedAt: number = performance.now();
  readonly #done = new Set<FaultKind>();
  /** What is done at an event of the destination's. */
  readonly #actions: { readonly type: ListenerEvent['type']; left: number; readonly act: () => void }[] = [];
  readonly #lifts: (() => void)[] = [];
  #listener!: MigrationListener;
  #link!: LinkProxy;
  #channel!: NetworkChannel;
  #peers: HostilePeers | undefined;
  #restarting: Promise<void> = Promise.resolve();
  /** What may have broken the link, how often. */
  #breaks = 0;
  #restarts = 0;
  #epoch = 1;
  #startedOver = 0;
  /** The last round of this link is sent: a *ready* may be on its way. */
  #isFinishing = false;
  #isCommitted = false;
  /** Of the migration: nothing goes wrong any more. */
  #isOver = false;
  /** Nobody lets the source connect again. */
  #isLost = false;
  #gone: WorkerGuest | undefined;
  #closed: Promise<void> | undefined;

  private constructor(
    travelling: TravellingGuest,
    plan: HopPlan,
    network: NetworkPlan,
    services: FarSideServices,
  ) {
    this.#travelling = travelling;
    this.#source = travelling.guest;
    this.#plan = plan;
    this.#network = network;
    this.#services = services;
    this.#threads = new WatchedThreads(services.threads);
  }

  /** Throws what the connection is refused with, OUT_OF_MEMORY for one. */
  static async open(
    travelling: TravellingGuest,
    plan: HopPlan,
    network: NetworkPlan,
    services: FarSideServices,
  ): Promise<NetworkFarSide> {
    const far = new NetworkFarSide(travelling, plan, network, services);
    try {
      await far.#open();
      return far;
    } catch (thrown) {
      await far.close().catch(() => undefined);
      throw thrown;
    }
  }

  get channel(): NetworkChannel {
    return this.#channel;
  }

  arrange(at: At): void {
    const { cuts, silences, restarts, hostilePeers } = this.#plan.faults;
    const atLink = (moment: LinkMoment, act: () => void): void => {
      if ('afterBytes' in moment) {
        this.#link.afterBytes(moment.afterBytes, () => {
          if (!this.#isOver) {
            act();
          }
        });
      } else if ('atDestination' in moment) {
        this.#actions.push({ type: moment.atDestination, left: moment.nth, act });
      } else {
        at(moment, act);
      }
    };
    for (const cut of cuts ?? []) {
      atLink(cut.at, () => this.#cut(cut));
    }
    for (const silence of silences ?? []) {
      atLink(silence.at, () => this.#fallSilent(silence));
    }
    for (const moment of restarts ?? []) {
      atLink(moment, () => this.#restart());
    }
    if (hostilePeers !== undefined) {
      this.#peers = new HostilePeers(hostilePeers, {
        port: () => this.#link.target,
        migrationId: this.#channel.migrationId,
        epoch: () => this.#epoch,
      });
      atLink(hostilePeers.at, () => this.#peers?.start());
    }
  }

  onEvent(event: MigrationEvent): void {
    this.#note(`source: ${event.type === 'lost' ? `lost, ${event.reason}` : event.type}`);
    const { links } = this.#services.tally;
    switch (event.type) {
      case 'lost':
        links.lost += 1;
        this.#isFinishing = false;
        break;
      case 'restored':
        links.restored += 1;
        this.#epoch += 1;
        if (!event.kept) {
          links.startedOver += 1;
          this.#startedOver += 1;
        }
        break;
      case 'round-end':
        this.#isFinishing ||= event.record.final;
        break;
      case 'committed':
        this.#isCommitted = true;
        if (this.#isLost) {
          this.#isLost = false; // what becomes of a commit is asked until there is an answer
          this.#link.refusing = false;
        }
        break;
      default:
    }
  }

  *injected(): Iterable<FaultKind> {
    yield* this.#done;
    if ((this.#peers?.count ?? 0) > 0) {
      yield 'hostile-peer';
    }
  }

  describe(): string {
    return (
      `; the link: ${this.#link.openConnections} connections of ${this.#link.connections}, ${this.#link.bytesPassed} bytes, ` +
      `${this.#link.refusing ? 'refusing, ' : ''}${this.#breaks} breaks; threads: ${this.#threads.running.join(', ')}; ` +
      `what happened: ${this.#events.join('; ')}`
    );
  }

  over({ phase, error }: PrecopySource): void {
    this.#isOver = true;
    const { tally } = this.#services;
    tally.links.epochs += this.#epoch;
    check(
      !(phase === 'completed' && this.#isLost),
      () => 'the migration says that it has completed, and was never let connect again',
    );
    check(
      error?.code !== 'LINK_LOST' || this.#breaks > 0,
      () => `the link was given up, and nobody had broken it: ${error?.message}${this.describe()}`,
    );
    check(
      this.#startedOver <= this.#restarts,
      () =>
        `the migration was begun anew ${this.#startedOver} times, with ${this.#restarts} new destinations${this.describe()}`,
    );
    // Where a link may be silent for a moment only, a busy machine is enough to break it.
    check(
      this.#plan.faults.silences !== undefined || this.#epoch - 1 <= this.#breaks,
      () => `the link broke ${this.#epoch - 1} times, and was broken ${this.#breaks} times${this.describe()}`,
    );
  }

  async lift(): Promise<void> {
    this.#isOver = true;
    for (const lift of this.#lifts) {
      lift();
    }
    await this.#peers?.close();
    await this.#restarting;
  }

  async arrived({ phase, error }: PrecopySource): Promise<WorkerGuest | undefined> {
    await this.#channel.close();
    if (phase !== 'completed') {
      // Whether it runs here is known when nothing is under way any more.
      await this.#listener.close();
      check(
        this.#threads.guestsStarted === 0 && this.#arrivals.length === 0,
        () => `the destination was started (I10): ${error?.message}${this.describe()}`,
      );
      return undefined;
    }
    await until(this.#source, () => this.#arrivals.length > 0, `the guest to arrive${this.describe()}`);
    const { guest } = this.#arrivals[0]!;
    await until(guest, () => guest.paused, 'the guest to stand still at the destination');
    check(
      this.#threads.guestsStarted === 1 && this.#arrivals.length === 1,
      () => `${this.#threads.guestsStarted} guests were started at the destination (I10)${this.describe()}`,
    );
    return guest;
  }

  goOn(guest: WorkerGuest): void {
    this.#gone = guest;
    guest.run();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #open(): Promise<void> {
    const { streams, compression, tls, silenceMs, retry } = this.#network;
    await this.#listen();
    this.#link = await LinkProxy.open(this.#listener.port);
    this.#ports.add(this.#link.port);
    this.#channel = await connectGuest(this.#source, {
      endpoint: { host: '127.0.0.1', port: this.#link.port, ...(tls ? { tls: KEY } : {}) },
      streams,
      compression,
      label: 'a guest under stress',
      retry,
      silenceMs,
      connectTimeoutMs: HANDSHAKE_MS,
      random: new Random(this.#plan.seed).next,
      threads: this.#threads,
    });
  }

  async #listen(): Promise<void> {
    const { tls, silenceMs } = this.#network;
    this.#listener = await receiveGuests({
      host: '127.0.0.1',
      port: 0,
      ...(tls ? { tls: KEY } : {}),
      timeouts: { handshakeMs: HANDSHAKE_MS, silenceMs, keepMs: KEEP_MS },
      pool: this.#services.pool,
      threads: this.#threads,
      oracle: true,
      faults: this.#travelling.board.buffer,
      holdAtStart: true,
      refuses: this.#plan.faults.refuses,
      onRunning: (arrival) => this.#arrivals.push(arrival),
      onEvent: (event) => this.#heard(event),
    });
    this.#ports.add(this.#listener.port);
  }

  #heard({ type, text, peer }: ListenerEvent): void {
    this.#note(`${type} (${peer}: ${text})`);
    for (const action of this.#actions) {
      if (action.type === type && !this.#isOver) {
        action.left -= 1;
        if (action.left === 0) {
          action.act();
        }
      }
    }
  }

  /** Both ends' events, in order: what a failure tells. */
  #note(what: string): void {
    this.#events.push(`${Math.round(performance.now() - this.#openedAt)} ms ${what}`);
    if (this.#events.length > MOST_EVENTS) {
      this.#events.shift();
    }
  }

  #cut({ withReset, refuseMs }: LinkCut): void {
    this.#done.add('link-cuts');
    this.#note('the link is cut');
    this.#breaks += 1;
    this.#link.cut(withReset);
    if (refuseMs === 0) {
      return;
    }
    this.#link.refusing = true;
    const lift = (): void => {
      this.#link.refusing = false;
    };
    if (refuseMs !== Number.POSITIVE_INFINITY) {
      this.#after(refuseMs, lift);
    } else if (this.#isCommitted) {
      lift();
    } else {
      this.#isLost = true;
    }
  }

  #fallSilent({ ms, kind, directions }: LinkSilence): void {
    this.#done.add('link-silent');
    this.#note(`the link ${kind}`);
    this.#breaks += 1;
    this.#link.fallSilent(kind, directions);
    this.#after(ms, () => {
      this.#note('it speaks again');
      this.#link.speakAgain();
    });
  }

  /** Another destination can't know what became of a commit (I10): it takes this one's place before there can be one. */
  #restart(): void {
    if (this.#isFinishing || this.#isCommitted || this.#restarts > this.#startedOver) {
      return;
    }
    this.#done.add('destination-restarts');
    this.#note('another destination');
    this.#breaks += 1;
    this.#restarts += 1;
    const wasRefusing = this.#link.refusing;
    this.#link.refusing = true;
    this.#link.cut(true);
    const restart = async (): Promise<void> => {
      await this.#listener.close();
      await this.#listen();
      this.#note('it listens');
      this.#link.target = this.#listener.port;
      this.#link.refusing = wasRefusing && this.#isLost;
    };
    this.#restarting = restart();
  }

  #after(ms: number, act: () => void): void {
    const timer = setTimeout(act, ms);
    this.#lifts.push(() => {
      clearTimeout(timer);
      act();
    });
  }

  async #close(): Promise<void> {
    await this.#peers?.close();
    await this.#channel?.close();
    await this.#restarting.catch(() => undefined);
    await this.#listener?.close();
    await this.#link?.close();
    const strays = this.#arrivals.filter(({ guest }) => guest !== this.#gone);
    for (const { guest } of strays) {
      await endGuest(guest);
      this.#services.pool.giveBack(guest.memory);
    }
    check(
      strays.length === 0,
      () => `${strays.length} guests were started at the destination after all (I10)`,
    );
    const expected = this.#gone === undefined ? 0 : 1;
    check(
      this.#threads.guestsStarted === expected,
      () => `${this.#threads.guestsStarted} guests were started at the destination (I10)`,
    );
    const { running } = this.#threads;
    check(running.length === expected, () => `threads were left behind: ${running.join(', ')}`);
    await this.#checkSockets();
  }

  async #checkSockets(): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const open = openSockets(this.#ports);
      if (open.length === 0) {
        return;
      }
      check(performance.now() < deadline, () => `sockets were left behind: ${open.join(', ')}`);
      await new Promise((resolve) => {
        setTimeout(resolve, LOOK_AGAIN_MS);
      });
    }
  }
}
