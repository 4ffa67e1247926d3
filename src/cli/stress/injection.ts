import type { LacunaErrorCode } from '../../errors.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { REFUSED } from '../../vmm/worker-destination.js';
import { check } from './checks.js';
import type { FarSide } from './far-side.js';
import type { TravellingGuest } from './guests.js';
import type { FaultKind, HopPlan, Moment } from './plan.js';
import type { Tally } from './tally.js';

/** How a migration may end beside completing, if such a fault was planned. */
const ENDINGS: Partial<Record<FaultKind, readonly LacunaErrorCode[]>> = {
  'vcpu-stuck': ['VCPU_STUCK'],
  cancel: ['CANCELLED'],
  'transport-fails': ['DESTINATION_FAILED', 'DESTINATION_SILENT', 'COMMIT_UNCONFIRMED'],
  'transport-stalls': ['CANCELLED', 'DESTINATION_SILENT'],
  'reply-lost': ['DESTINATION_SILENT', 'COMMIT_UNCONFIRMED'],
  'destination-dies': ['DESTINATION_FAILED', 'DESTINATION_SILENT', 'COMMIT_UNCONFIRMED'],
  'destination-refuses': ['DESTINATION_FAILED'],
};
/** With these really done, a migration must not say that it has completed. */
const FATAL: readonly FaultKind[] = ['vcpu-stuck', 'transport-fails', 'reply-lost'];

/** How a migration by this plan may end beside completing. */
function endingsOf({ kinds, options, faults }: HopPlan): LacunaErrorCode[] {
  const codes = kinds.flatMap((kind) => ENDINGS[kind] ?? []);
  if (options.onStall === 'cancel') {
    codes.push('NOT_CONVERGING');
  }
  // A link that breaks is restored, whenever and however often that is; unless nobody lets it.
  if (faults.cuts?.some(({ refuseMs }) => refuseMs === Number.POSITIVE_INFINITY) === true) {
    codes.push('LINK_LOST');
  }
  return codes;
}

/** What a migration's faults are injected with. */
interface InjectionOptions {
  readonly travelling: TravellingGuest;
  readonly far: FarSide;
  readonly plan: HopPlan;
  readonly tally: Tally;
  /** The run is called off. */
  readonly signal: AbortSignal;
}

/** Does to one migration what its plan says, and counts what was really done. */
export class Injection {
  lastEvent = 'none';
  progress = 'none';
  readonly #travelling: TravellingGuest;
  readonly #far: FarSide;
  readonly #plan: HopPlan;
  readonly #tally: Tally;
  readonly #called: AbortSignal;
  readonly #abort = new AbortController();
  readonly #timers: ReturnType<typeof setTimeout>[] = [];
  readonly #actions: { readonly event: string; left: number; readonly act: () => void }[] = [];
  readonly #driverCountBefore: number;
  readonly #done = new Set<FaultKind>();
  #over = false;

  constructor({ travelling, far, plan, tally, signal }: InjectionOptions) {
    this.#travelling = travelling;
    this.#far = far;
    this.#plan = plan;
    this.#tally = tally;
    this.#called = signal;
    this.#driverCountBefore = this.#driverCount();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  begin(): void {
    const { faults } = this.#plan;
    const { guest, board } = this.#travelling;
    const { driver } = faults;
    if (driver?.at === 'before') {
      board.arm(driver.fault);
      guest.control.ringGuest(); // it may be halted
    } else if (driver !== undefined) {
      this.#at(driver.at, () => {
        board.arm(driver.fault);
        guest.control.ringGuest();
      });
    }
    for (const { at, pages } of faults.balloon ?? []) {
      this.#at(at, () => {
        this.#done.add('balloon');
        guest.device?.setBalloonTarget(pages);
      });
    }
    for (const at of faults.cancels ?? []) {
      this.#at(at, () => {
        this.#done.add('cancel');
        this.#abort.abort();
      });
    }
    this.#far.arrange((moment, act) => this.#at(moment, act));
    this.#called.addEventListener('abort', this.#onAbort, { once: true });
    if (this.#called.aborted) {
      this.#onAbort();
    }
  }

  onEvent(event: MigrationEvent): void {
    this.lastEvent = event.type;
    for (const action of this.#actions) {
      if (action.event === event.type) {
        action.left -= 1;
        if (action.left === 0) {
          action.act();
        }
      }
    }
    this.#far.onEvent(event);
  }

  /** The migration has ended; whether it may have ended so. */
  over(source: PrecopySource): void {
    this.#over = true;
    this.#countInjected(source);
    const { kinds } = this.#plan;
    const code = source.error?.code;
    if (source.phase === 'completed') {
      const fatal = FATAL.filter((kind) => this.#done.has(kind));
      if (kinds.includes('destination-refuses')) {
        fatal.push('destination-refuses');
      }
      check(
        fatal.length === 0,
        () => `the migration says that it has completed, in spite of ${fatal.join(', ')}`,
      );
      check(code === undefined, () => `a completed migration has an error: ${source.error?.message}`);
    } else {
      const allowed = endingsOf(this.#plan);
      if (this.#called.aborted) {
        allowed.push('CANCELLED');
      }
      check(
        code !== undefined && allowed.includes(code),
        () =>
          `the migration ended as ${source.phase} (${code}: ${source.error?.message}), ` +
          (allowed.length === 0
            ? 'and had to complete'
            : `and may end as ${[...new Set(allowed)].join(', ')} only`) +
          this.#far.describe(),
      );
    }
    this.#far.over(source);
  }

  /** Lifts what is still on. */
  async end(): Promise<void> {
    this.#over = true;
    this.#called.removeEventListener('abort', this.#onAbort);
    for (const timer of this.#timers) {
      clearTimeout(timer);
    }
    await this.#far.lift();
    this.#travelling.board.disarm();
    this.#travelling.guest.control.ringGuest();
    this.#abort.abort(); // one that hangs is not left behind; the others have ended
  }

  readonly #onAbort = (): void => this.#abort.abort();

  #at(moment: Moment, act: () => void): void {
    const once = (): void => {
      if (!this.#over) {
        act();
      }
    };
    if ('event' in moment) {
      this.#actions.push({ event: moment.event, left: moment.nth, act: once });
    } else {
      this.#timers.push(setTimeout(once, moment.afterMs));
    }
  }

  #driverCount(): number {
    const { driver } = this.#plan.faults;
    return driver === undefined ? 0 : this.#travelling.board.injected(driver.fault.name);
  }

  #countInjected(source: PrecopySource): void {
    const { driver } = this.#plan.faults;
    for (const kind of this.#far.injected()) {
      this.#done.add(kind);
    }
    if (driver !== undefined && this.#driverCount() > this.#driverCountBefore) {
      this.#done.add(driver.kind);
    }
    if (source.error?.message.includes(REFUSED) === true) {
      this.#done.add('destination-refuses');
    }
    this.#tally.injected(this.#done);
  }
}
