import { describe, expect, it } from 'vitest';
import type { GuestRuntime } from '../../../src/guest/runtime.js';
import { decodeRegisters, encodeRegisters, runVcpu } from '../../../src/guest/vcpu.js';
import {
  CHECK_BAD_PAGES,
  CHECK_BAD_PFN,
  CHECK_DONE,
  CHECK_PAGES,
  CHECK_REQUEST,
  type ControlBuffer,
  INTERRUPT_CONFIG,
  VCPU_REQUEST,
  VCPU_STATE,
  VcpuRequest,
  VcpuState,
  wantedOf,
} from '../../../src/memory/control-buffer.js';
import { epochMs } from '../../../src/memory/epoch.js';
import { atomicMapper, type SharedWords, type WordMapper } from '../../../src/memory/shared-words.js';
import { bootGuest, makeControl, moveGuest } from './booted.js';

/** What the host does while the vCPU sleeps: one entry each time. */
type Script = ((control: ControlBuffer) => void)[];

/** A vCPU that looks at its words so often without going to sleep never will. */
const MOST_LOADS = 100_000;

/** Words on which nobody sleeps: whoever would is handed to `asleep`, on the same thread. */
function scriptedWords(words: SharedWords, asleep: (timeoutMs: number) => void): SharedWords {
  let loads = 0;
  return {
    length: words.length,
    load: (index) => {
      loads += 1;
      if (loads > MOST_LOADS) {
        throw new Error('the vCPU runs on and on');
      }
      return words.load(index);
    },
    store: (index, value) => words.store(index, value),
    exchange: (index, value) => words.exchange(index, value),
    compareExchange: (index, expected, replacement) => words.compareExchange(index, expected, replacement),
    or: (index, bits) => words.or(index, bits),
    and: (index, bits) => words.and(index, bits),
    add: (index, value) => words.add(index, value),
    notify: (index) => words.notify(index),
    wait: (_index, _expected, timeoutMs) => asleep(timeoutMs),
    waitAsync: (index, expected) => words.waitAsync(index, expected),
  };
}

/** Runs the vCPU's loop to its end; the states that the host saw whenever it slept, and for how long it would have. */
function runScript(
  script: Script,
  runtimes: { booted?: GuestRuntime; arrive?: () => GuestRuntime },
  clock?: () => number,
): { control: ControlBuffer; states: number[]; sleeps: number[] } {
  const states: number[] = [];
  const sleeps: number[] = [];
  const map: WordMapper = {
    ...atomicMapper,
    words: (buffer, byteOffset, length) =>
      scriptedWords(atomicMapper.words(buffer, byteOffset, length), (timeoutMs) => {
        states.push(control.words.load(VCPU_STATE));
        sleeps.push(timeoutMs);
        const act = script.shift();
        if (act === undefined) {
          throw new Error('the vCPU sleeps and the script is over');
        }
        act(control);
      }),
  };
  const control = makeControl(map);
  control.request(VcpuRequest.pause);
  const never = (): never => {
    throw new Error('nothing is to arrive');
  };
  runVcpu(control, runtimes.booted, runtimes.arrive ?? never, clock);
  return { control, states, sleeps };
}

function request(what: (typeof VcpuRequest)[keyof typeof VcpuRequest]): (control: ControlBuffer) => void {
  return (control) => control.request(what);
}

const { run, pause, exit, runToSafePoint } = VcpuRequest;
const { running, paused, exited } = VcpuState;

describe('the vCPU', () => {
  it('waits, runs, pauses and ends as its host says', () => {
    const { runtime } = bootGuest();
    const { control, states, sleeps } = runScript(
      [request(run), request(pause), request(run), request(pause), request(exit)],
      { booted: runtime },
    );
    expect(states).toEqual([paused, running, paused, running, paused]);
    expect(sleeps).toEqual(states.map(() => Number.POSITIVE_INFINITY)); // the guest halts: only the doorbell wakes it
    expect(control.words.load(VCPU_STATE)).toBe(exited);
  });

  it('leaves its registers and a stamp when it pauses, and a stamp when it starts', () => {
    const { runtime } = bootGuest();
    const before = epochMs();
    const seen: { stopped: number; started: number; state: Uint8Array }[] = [];
    const look = (control: ControlBuffer): void => {
      seen.push({ stopped: control.stoppedAt, started: control.startedAt, state: control.readState() });
    };
    runScript(
      [
        request(run),
        (control) => {
          look(control);
          request(pause)(control);
        },
        (control) => {
          look(control);
          request(exit)(control);
        },
      ],
      { booted: runtime },
    );
    expect(seen[0]!.started).toBeGreaterThanOrEqual(before);
    expect(seen[1]!.stopped).toBeGreaterThanOrEqual(seen[0]!.started);
    expect(decodeRegisters(seen[1]!.state)).toEqual(runtime.saveRegisters());
  });

  it('stops at its first safe point where it is told so, and stays stopped', () => {
    const { runtime } = bootGuest();
    const { control, states } = runScript(
      [
        request(runToSafePoint),
        (words) => {
          expect(wantedOf(words.words.load(VCPU_REQUEST))).toBe(pause);
          expect(words.paused).toBe(true);
          request(exit)(words);
        },
      ],
      { booted: runtime },
    );
    expect(states).toEqual([paused, paused]);
    expect(control.startedAt).toBeGreaterThan(0);
    expect(control.stoppedAt).toBeGreaterThanOrEqual(control.startedAt);
  });

  it('sleeps no longer than until its workload has something to do', () => {
    const { runtime } = bootGuest({ workload: { kind: 'idle', pagesPerSecond: 50 } });
    const { sleeps } = runScript([request(run), request(exit)], { booted: runtime });
    expect(sleeps[1]).toBeGreaterThan(0);
    expect(sleeps[1]).toBeLessThanOrEqual(20);
  });

  it('makes a guest that arrives only when it is let run, and once', () => {
    const source = bootGuest();
    let made = 0;
    const arrive = (): GuestRuntime => {
      made += 1;
      return moveGuest(source).runtime;
    };
    runScript(
      [
        (control) => {
          expect(made).toBe(0);
          request(run)(control);
        },
        request(pause),
        request(run),
        request(exit),
      ],
      { arrive },
    );
    expect(made).toBe(1);
  });

  it('checks itself while it runs and while it is paused, when it is asked, and not again', () => {
    const guest = bootGuest();
    const used = guest.runtime.allocator.free.nextClear(1000);
    const ask = (control: ControlBuffer): void => void control.words.add(CHECK_REQUEST, 1);
    const results: number[][] = [];
    const read = ({ words }: ControlBuffer): void => {
      results.push([CHECK_DONE, CHECK_BAD_PAGES, CHECK_BAD_PFN].map((index) => words.load(index)));
    };
    const { control } = runScript(
      [
        ask,
        (c) => {
          read(c);
          request(run)(c);
        },
        (c) => {
          guest.memory.pages(used, 1).fill(0);
          read(c);
          ask(c);
        },
        (c) => {
          read(c);
          request(exit)(c);
        },
      ],
      { booted: guest.runtime },
    );
    expect(results).toEqual([
      [1, 0, -1],
      [1, 0, -1],
      [2, 1, used],
    ]);
    expect(control.words.load(CHECK_PAGES)).toBe(2048 - guest.runtime.allocator.freePages);
  });

  it('cannot check a guest that has not arrived', () => {
    const { control } = runScript([(c) => void c.words.add(CHECK_REQUEST, 1), request(exit)], {});
    expect(control.words.load(CHECK_DONE)).toBe(0);
  });
});

describe('a vCPU that is throttled', () => {
  /**
   * Time is what the script says: an entry is what happens while the vCPU sleeps, at such a moment. `steps` has, for each
   * slice of the guest, how far its clock was behind; `stepsAt` how many there had been at each entry.
   */
  function runThrottled(
    share: number,
    entries: readonly (readonly [at: number, act: (control: ControlBuffer) => void])[],
  ): { states: number[]; sleeps: number[]; steps: number[]; stepsAt: number[] } {
    const { runtime } = bootGuest();
    const steps: number[] = [];
    const stepsAt: number[] = [];
    const step = runtime.step.bind(runtime);
    runtime.step = (now) => {
      steps.push(epochMs() - now);
      return step(now);
    };
    let now = 0;
    const begin = (control: ControlBuffer): void => {
      control.throttle = share;
      control.request(run);
    };
    const script = [[0, begin] as const, ...entries].map(([at, act]) => (control: ControlBuffer): void => {
      now = at;
      stepsAt.push(steps.length);
      act(control);
    });
    return { ...runScript(script, { booted: runtime }, () => now), steps, stepsAt };
  }
  const nothing = (): void => undefined;

  it('runs for slices of 10 ms and stands still in between', () => {
    const { sleeps } = runThrottled(0.75, [
      [10, nothing],
      [40, nothing],
      [50, nothing],
      [80, request(exit)],
    ]);
    expect(sleeps.slice(1)).toEqual([10, 30, 10, 30]);
  });

  it('is not let run by a ring, nor by an interrupt, before its pause is over', () => {
    const { sleeps, steps, stepsAt } = runThrottled(0.5, [
      [10, nothing],
      [13, (control) => control.interrupt(INTERRUPT_CONFIG)],
      [14, (control) => control.ringGuest()],
      [20, nothing],
      [22, request(exit)],
    ]);
    expect(sleeps.slice(1)).toEqual([10, 10, 7, 6, 10]);
    expect(stepsAt).toEqual([0, 1, 2, 2, 2, 3]); // the second began while there was still a little left of the slice
    expect(steps.length).toBe(3);
  });

  it('stops and ends at once, in the midst of a pause', () => {
    const ended = runThrottled(0.875, [
      [10, nothing],
      [11, request(exit)],
    ]);
    expect(ended.sleeps.slice(1)).toEqual([10, 70]);
    const { sleeps, states, steps } = runThrottled(0.875, [
      [10, nothing],
      [11, request(pause)],
      [500, request(run)],
      [510, request(exit)],
    ]);
    expect(sleeps.slice(1)).toEqual([10, 70, Number.POSITIVE_INFINITY, 10]);
    expect(states.slice(1)).toEqual([running, running, paused, running]);
    expect(ended.steps.length).toBe(2); // none after the pause began
    expect(steps.length).toBe(3);
  });

  it('checks itself at once, in the midst of a pause, and goes on pausing', () => {
    const done: number[] = [];
    const { sleeps, steps } = runThrottled(0.75, [
      [10, nothing],
      [15, ({ words }) => void words.add(CHECK_REQUEST, 1)],
      [20, ({ words }) => void done.push(words.load(CHECK_DONE))],
      [21, request(exit)],
    ]);
    expect(sleeps.slice(1)).toEqual([10, 30, 25, 20]);
    expect(done).toEqual([1]);
    expect(steps.length).toBe(2);
  });

  it('goes on at once when the throttle is taken away', () => {
    const { sleeps } = runThrottled(0.75, [
      [10, nothing],
      [
        11,
        (control) => {
          control.throttle = 0;
        },
      ],
      [12, request(exit)],
    ]);
    expect(sleeps.slice(1)).toEqual([10, 30, Number.POSITIVE_INFINITY]);
  });

  it('has a clock that stands still in its pauses, so that it need not make up for them', () => {
    const { steps } = runThrottled(0.5, [
      [10, nothing],
      [20, nothing],
      [25, nothing],
      [30, nothing],
      [45, request(exit)], // woken late: all of it was taken
    ]);
    expect(steps[0]).toBeLessThan(1);
    expect(steps.at(-1)).toBeGreaterThanOrEqual(10);
    expect(steps.at(-1)).toBeLessThan(15);
  });

  it('takes a share to the thousandth, and never all of the time', () => {
    const control = makeControl();
    for (const [share, taken] of [
      [0.3, 0.3],
      [0.1239, 0.124],
      [0.9999, 0.999],
      [0, 0],
    ] as const) {
      control.throttle = share;
      expect(control.throttle).toBe(taken);
    }
  });
});

describe('registers as bytes', () => {
  it('come out as they went in', () => {
    const registers = bootGuest({
      workload: { kind: 'churn', pagesPerSecond: 10, keepBlocks: 3 },
    }).runtime.saveRegisters();
    expect(decodeRegisters(encodeRegisters(registers))).toEqual(registers);
  });

  it('of another version are refused', () => {
    const bytes = new TextEncoder().encode(JSON.stringify({ version: 2, registers: {} }));
    expect(() => decodeRegisters(bytes)).toThrow(/version 2.*reads version 1/);
  });
});
