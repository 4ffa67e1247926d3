import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HintSession } from '../../src/balloon/hint-session.js';
import { fillWords } from '../../src/memory/byte-ops.js';
import { ComparedMemory } from '../../src/memory/compared-memory.js';
import type { DirtySink } from '../../src/memory/dirty-log.js';
import { PrivateGuestMemory } from '../../src/memory/guest-memory.js';
import { gpaOf, PAGE_SIZE } from '../../src/memory/page.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import { resolveOptions } from '../../src/migration/options.js';
import { PrecopySource } from '../../src/migration/precopy.js';
import { Receiver } from '../../src/migration/receiver.js';
import type { HintDevice, SourceVm } from '../../src/migration/vm.js';
import { LoopbackChannel } from '../../src/transport/loopback.js';

const PAGES = 80;
/** Two blocks with a hole between them, neither of which begins or ends at a bitmap's word. */
const LAYOUT = new RamLayout([
  { startGpa: 0, endGpa: gpaOf(41) },
  { startGpa: gpaOf(47), endGpa: gpaOf(47 + PAGES - 41) },
]);
const PFNS: readonly number[] = Array.from({ length: PAGES }, (_, i) => (i < 41 ? i : i + 6));

/** What the guest does, or what is done; `page` is an index of {@link PFNS}. */
type Act =
  | { readonly do: 'write'; readonly page: number; readonly value: number }
  /** Gives the page up, and hints it if it is asked for hints. */
  | { readonly do: 'free'; readonly page: number; readonly pageCount: number }
  /** Takes a free page, and writes into it what it held before. */
  | { readonly do: 'reuse'; readonly page: number }
  | { readonly do: 'report' }
  | { readonly do: 'stop-sign' }
  /** The migration is called off, if it can be, and another one begins. */
  | { readonly do: 'again' }
  | { readonly do: 'step'; readonly times: number };

/** How I9 may be broken, to see that it is noticed. */
type Sabotage =
  | 'none'
  | 'left-out-as-it-is'
  | 'hints-taken-late'
  | 'sends-live-memory'
  | 'sends-what-was-left-out';

/** A guest whose VMM has no dirty log, with hints that are taken in its driver's kick. */
class ComparedVm implements SourceVm {
  readonly memory: PrivateGuestMemory = new PrivateGuestMemory(LAYOUT);
  readonly shadow: PrivateGuestMemory = new PrivateGuestMemory(LAYOUT);
  readonly compared: ComparedMemory = new ComparedMemory(this.memory, this.shadow, () => 0);
  readonly session: HintSession = new HintSession();
  readonly device: HintDevice;
  readonly failure = undefined;
  stoppedAt = 0;
  paused = false;
  /** What the guest has last written into each page. */
  readonly written = new Map<number, number>();
  /** What a free page held when it was given up. */
  readonly free = new Map<number, number>();
  readonly #sabotage: Sabotage;
  #handled = 0;
  #nextId = 2;
  #held: { readonly gpa: number; readonly bytes: number }[] = [];

  constructor(sabotage: Sabotage, poison: number | undefined) {
    this.#sabotage = sabotage;
    this.device = this.#makeDevice(poison);
    for (const [i, pfn] of PFNS.entries()) {
      this.write(pfn, i % 3);
    }
  }

  write(pfn: number, value: number): void {
    if (!this.paused) {
      const bytes = this.memory.pages(pfn, 1);
      fillWords(bytes, 0, PAGE_SIZE, value);
      this.written.set(pfn, value);
      this.free.delete(pfn);
    }
  }

  reuse(pfn: number): void {
    const old = this.free.get(pfn);
    if (old !== undefined) {
      this.write(pfn, old);
    }
  }

  giveUp(page: number, pageCount: number): void {
    if (this.paused) {
      return;
    }
    const pfns = PFNS.slice(page, page + pageCount);
    for (const pfn of pfns) {
      this.free.set(pfn, this.written.get(pfn)!);
    }
    for (const pfn of pfns) {
      this.#kick(gpaOf(pfn), PAGE_SIZE);
    }
  }

  report(): void {
    this.#handled += 1;
    this.session.marker(4, this.session.id, 0);
  }

  stopSign(): void {
    this.#handled += 1;
    this.session.marker(4, 0, 0);
  }

  #kick(gpa: number, bytes: number): void {
    this.#handled += 1;
    if (this.#sabotage === 'hints-taken-late') {
      this.#held.push({ gpa, bytes });
    } else {
      this.session.range(gpa, bytes, 0);
    }
  }

  #makeDevice(poison: number | undefined): HintDevice {
    return {
      session: this.session,
      upcomingId: 2,
      inflated: PageBitmap.allocate(atomicMapper, LAYOUT.pfnSpan),
      poison,
      fault: undefined,
      openSession: (sink, now) => {
        this.session.open(this.#nextId, sink, now);
        this.#nextId += 1;
        return this.session.id;
      },
      closeSession: () => this.session.close(),
      poll: () => {
        for (const { gpa, bytes } of this.#held.splice(0)) {
          this.session.range(gpa, bytes, 0);
        }
        const handled = this.#handled;
        this.#handled = 0;
        return handled;
      },
      suppressNotifications: () => {},
      armNotifications: () => this.#handled > 0,
      freeze: () => {},
      unfreeze: () => {},
    };
  }

  migrationBegins(): void {
    this.compared.restart();
  }

  migrationEnds(): void {}

  payload(pfn: number, pageCount: number): Uint8Array {
    switch (this.#sabotage) {
      case 'sends-live-memory':
        return this.memory.pages(pfn, pageCount);
      case 'sends-what-was-left-out':
        return this.shadow.pages(pfn, pageCount);
      default:
        return this.compared.payload(pfn, pageCount);
    }
  }

  drainDirty(sink: DirtySink): boolean {
    return this.compared.scanSlice(sink);
  }

  leaveOut(wordIndex: number, bits: number, value: number): void {
    if (this.#sabotage !== 'left-out-as-it-is') {
      this.compared.leaveOut(wordIndex, bits, value);
    }
  }

  requestPause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  saveDeviceState(): Uint8Array {
    return new Uint8Array(1);
  }
}

const EVERY_ACT: readonly fc.WeightedArbitrary<Act>[] = [
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('write' as const), page: index(), value: fc.nat(2) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('free' as const),
      page: index(),
      pageCount: fc.integer({ min: 1, max: 40 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('reuse' as const), page: index() }) },
  { weight: 2, arbitrary: fc.constant({ do: 'report' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'stop-sign' as const }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('step' as const), times: fc.integer({ min: 1, max: 6 }) }),
  },
];
/** With several attempts to migrate little happens in each. */
const AGAIN: fc.WeightedArbitrary<Act> = { weight: 1, arbitrary: fc.constant({ do: 'again' as const }) };

function scripts(acts: readonly fc.WeightedArbitrary<Act>[]): fc.Arbitrary<[Act[], number | undefined]> {
  return fc.tuple(
    fc.array(fc.oneof(...acts), { minLength: 10, maxLength: 120 }),
    fc.constantFrom(undefined, 0, 0xaaaa_aaaa),
  );
}

const ONE_ATTEMPT = scripts(EVERY_ACT);
const SEVERAL_ATTEMPTS = scripts([...EVERY_ACT, AGAIN]);

function index(): fc.Arbitrary<number> {
  return fc.nat(PAGES - 1);
}

/** Migrates a guest that does all of it on the way; the pages that do not hold at the destination what they must. */
function differences(script: readonly Act[], sabotage: Sabotage, poison: number | undefined): number[] {
  const vm = new ComparedVm(sabotage, poison);
  let now = 0;
  const begin = (): { source: PrecopySource; there: PrivateGuestMemory } => {
    const channel = new LoopbackChannel();
    const there = new PrivateGuestMemory(LAYOUT);
    channel.connect(
      new Receiver({ memory: there, loadDeviceState: () => {}, start: () => 1 }, (message) =>
        channel.reply(message),
      ),
    );
    const source = new PrecopySource(vm, channel, {
      ...resolveOptions({ schedule: 'overlap', maxRunPages: 4, downtimeLimitMs: 0, maxRounds: 4 }),
      clock: () => now,
      onEvent: () => {},
    });
    return { source, there };
  };
  let { source, there } = begin();
  const step = (): void => {
    now += 0.05;
    source.step();
  };
  for (const act of script) {
    switch (act.do) {
      case 'write':
        vm.write(PFNS[act.page]!, act.value);
        break;
      case 'free':
        vm.giveUp(act.page, act.pageCount);
        break;
      case 'reuse':
        vm.reuse(PFNS[act.page]!);
        break;
      case 'report':
        vm.report();
        break;
      case 'stop-sign':
        vm.stopSign();
        break;
      case 'again':
        if (source.canCancel) {
          source.cancel();
          while (!source.done) {
            step();
          }
          ({ source, there } = begin());
        }
        break;
      case 'step':
        for (let i = 0; i < act.times; i += 1) {
          step();
        }
        break;
    }
  }
  while (!source.done) {
    step();
  }
  expect(source.phase).toBe('completed');
  const expected = new Uint8Array(PAGE_SIZE);
  return PFNS.filter((pfn) => {
    fillWords(expected, 0, PAGE_SIZE, vm.written.get(pfn)!);
    return (
      Buffer.compare(there.pages(pfn, 1), vm.memory.pages(pfn, 1)) !== 0 ||
      (!vm.free.has(pfn) && Buffer.compare(expected, there.pages(pfn, 1)) !== 0)
    );
  });
}

describe('I9: a log by comparison', () => {
  it('brings every page over as it is, pages that were hinted and reused with their old bytes too', () => {
    fc.assert(
      fc.property(fc.oneof(ONE_ATTEMPT, SEVERAL_ATTEMPTS), ([list, poison]) => {
        expect(differences(list, 'none', poison)).toEqual([]);
      }),
      { numRuns: 1500, interruptAfterTimeLimit: 10_000 },
    );
  });

  it.each([
    ['left-out-as-it-is', ONE_ATTEMPT],
    ['hints-taken-late', ONE_ATTEMPT],
    ['sends-live-memory', ONE_ATTEMPT],
    ['sends-what-was-left-out', SEVERAL_ATTEMPTS],
  ] as const)('loses pages with %s', (sabotage, script) => {
    const found = fc.check(
      fc.property(script, ([list, poison]) => differences(list, sabotage, poison).length === 0),
      { numRuns: 50_000, endOnFailure: true, interruptAfterTimeLimit: 60_000 },
    );
    expect(found.failed).toBe(true);
  });
});
