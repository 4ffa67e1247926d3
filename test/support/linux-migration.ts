import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { GuestConsole } from '../../dist/src/cli/linux/console.js';
import type { CommandLineOptions, LinuxImage } from '../../dist/src/cli/linux/image/linux-image.js';
import { type LinuxMachine, makeMachine } from '../../dist/src/cli/linux/machine.js';
import { startMachine } from '../../dist/src/cli/linux/snapshot.js';
import { MIB, PAGE_SIZE } from '../../dist/src/memory/page.js';
import { type MigrateRequest, migrate } from '../../dist/src/migration/migrate.js';
import type { MigrationEvent, PrecopySource } from '../../dist/src/migration/precopy.js';
import { Receiver } from '../../dist/src/migration/receiver.js';
import { LoopbackChannel } from '../../dist/src/transport/loopback.js';
import { connectV86Guest } from '../../dist/src/vmm/v86/network.js';
import type { V86Guest } from '../../dist/src/vmm/v86/v86-guest.js';
import { linuxForTests } from './linux.js';

/*
 * The real Linux guest, migrated in tests. Everything is of the built files, as users have it.
 *
 *   LINUX          whether there is an image
 *   startLinux     a machine that has booted, from the cache where it is there
 *   hop            migrates it to another machine in this process, and compares the two at the last moment
 */

const images = new Map<string, Promise<LinuxImage | undefined>>();

async function linuxImage(options: CommandLineOptions = {}): Promise<LinuxImage> {
  const key = JSON.stringify(options);
  const obtained = images.get(key) ?? linuxForTests(options);
  images.set(key, obtained);
  const image = await obtained;
  if (image === undefined) {
    throw new Error('there is no image: skip this where LINUX is false');
  }
  return image;
}

/** Whether there is a Linux guest on this machine; where there is none, it has been said loudly. */
export const LINUX: boolean = await linuxImage().then(
  () => true,
  () => false,
);

/** For a hook or a test that may have to boot. */
export const BOOT_TIMEOUT_MS = 240_000;

/** What a machine in a test is. */
export interface LinuxOptions {
  readonly memoryMiB: number;
  readonly image?: CommandLineOptions;
}

/** A machine with its guest, and what it takes to make another one for it. */
export interface Linux extends LinuxMachine {
  readonly options: LinuxOptions;
}

/** What most tests use. */
export const USUAL: LinuxOptions = { memoryMiB: 256 };

/** A machine whose guest has booted and runs, its shell waiting for a command. */
export async function startLinux(options: LinuxOptions = USUAL): Promise<Linux> {
  const image = await linuxImage(options.image);
  const machine = await startMachine({ image, memoryBytes: options.memoryMiB * MIB });
  machine.guest.resume();
  return { ...machine, options };
}

/** The same in a state that was saved. */
export async function restoreLinux(state: ArrayBuffer, options: LinuxOptions = USUAL): Promise<Linux> {
  const machine = await makeLinux('boot', options);
  await machine.emulator.restore_state(state);
  machine.guest.resume();
  return machine;
}

/** A machine for a guest to arrive in. */
export function incomingLinux(options: LinuxOptions = USUAL): Promise<Linux> {
  return makeLinux('incoming', options);
}

async function makeLinux(role: 'boot' | 'incoming', options: LinuxOptions): Promise<Linux> {
  const image = await linuxImage(options.image);
  return { ...(await makeMachine({ image, memoryBytes: options.memoryMiB * MIB, role })), options };
}

/** How {@link hop} migrates. */
export interface HopOptions extends Omit<MigrateRequest, 'vm' | 'channel' | 'event'> {
  /** A channel that the test can hold. */
  readonly hold?: Hold;
  /** What becomes of the device state on its way. */
  readonly tamper?: (state: Uint8Array) => Uint8Array;
  /** The machine to arrive in; a new one by default. */
  readonly to?: Linux;
}

/** What became of a migration from one machine to another in this process. */
export interface Hop {
  /** Where the guest runs now. The other machine is gone. */
  readonly machine: Linux;
  readonly source: PrecopySource;
  /** Pages that were not the same on both sides when everything had arrived; undefined: it did not come to that. */
  readonly differing: readonly number[] | undefined;
  /** By the guest's own stamps, without what the comparison took. */
  readonly downtimeMs: number;
  /** A pass over RAM, on average. */
  readonly scanMs: number;
}

/**
 * Migrates a guest to another machine in this process. At the last moment, with all of it there and the guest stopped,
 * compares RAM page by page: with a log by comparison every page has to be the same, for what was left out was made so in the
 * guest, too (I9). The console goes where the guest goes, with what it has printed and nobody has read.
 */
export async function hop(from: Linux, options: HopOptions = {}): Promise<Hop> {
  const { hold = new Hold(false), tamper, to: given, ...request } = options;
  const to = given ?? (await incomingLinux(from.options));
  const { channel } = hold;
  let differing: number[] | undefined;
  let comparedMs = 0;
  const arrival = {
    memory: to.guest.memory,
    loadDeviceState: (state: Uint8Array): void => {
      const began = performance.now();
      differing = differingPages(from.guest, to.guest);
      comparedMs = performance.now() - began;
      to.guest.loadDeviceState(tamper?.(state) ?? state);
    },
    start: (): number => {
      from.console.attach(to.emulator);
      return to.guest.start();
    },
  };
  channel.connect(new Receiver(arrival, (message) => channel.reply(message)));
  const before = { ...from.guest.scans };
  const source = await migrate({ ...request, vm: from.guest, channel, event: from.guest.event });
  const { ms, passes } = from.guest.scans;
  const done = {
    source,
    differing,
    downtimeMs: source.guestStartedAt - source.guestStoppedAt - comparedMs,
    scanMs: (ms - before.ms) / (passes - before.passes),
  };
  const completed = source.phase === 'completed';
  await (completed ? from : to).emulator.destroy();
  return { ...done, machine: completed ? { ...to, console: from.console } : from };
}

function differingPages(one: V86Guest, other: V86Guest): number[] {
  const { pageCount } = one.memory.layout;
  const [a, b] = [one.memory.pages(0, pageCount), other.memory.pages(0, pageCount)];
  if (Buffer.compare(a, b) === 0) {
    return [];
  }
  return Array.from({ length: pageCount }, (_, pfn) => pfn).filter((pfn) => {
    const [from, to] = [pfn * PAGE_SIZE, (pfn + 1) * PAGE_SIZE];
    return Buffer.compare(a.subarray(from, to), b.subarray(from, to)) !== 0;
  });
}

/** A channel that takes nothing until it is told to: the migration stands still in its first round, and the guest goes on. */
export class Hold {
  readonly channel: LoopbackChannel = new LoopbackChannel();
  #held: boolean;

  constructor(held = true) {
    this.#held = held;
    Object.defineProperty(this.channel, 'writable', { get: () => !this.#held });
  }

  release(guest: V86Guest): void {
    this.#held = false;
    guest.event.ring();
  }
}

/**
 * Calls `act` in the guest's kick with which it hints its `block`th block of 4 MiB, from 1 on: in the middle of a report, and
 * in the middle of an instruction. Linux hints some forty of them here; from one turn of the event loop to the next, a few.
 */
export function atBlock(guest: V86Guest, block: number, act: () => void): void {
  const leaveOut = guest.leaveOut.bind(guest);
  let words = 0;
  guest.leaveOut = (...args): void => {
    leaveOut(...args);
    words += 1;
    if (words === block * WORDS_PER_BLOCK) {
      act();
    }
  };
}

/** v86's own objects, as far as tests reach into them. */
interface V86Inside {
  readonly v86: { readonly idle: boolean; readonly cpu: { reboot_internal(): void; main_loop(): number } };
}

/** What a write to the reset port comes to. */
export function reboot({ emulator }: Linux): void {
  (emulator as unknown as V86Inside).v86.cpu.reboot_internal();
}

/** From here on v86 throws when it is to run the processor. */
export function breakEmulator({ emulator }: Linux, error: Error): void {
  (emulator as unknown as V86Inside).v86.cpu.main_loop = () => {
    throw error;
  };
}

/** Pages of a block of 4 MiB, in words of 32. */
const WORDS_PER_BLOCK = 32;

/**
 * Counts what is left out, and how much of it while the processor did not stand within an instruction, which is to say, in a
 * kick of the driver's: later the guest may have taken the pages again (I9).
 */
export function watchLeaveOut({ guest, emulator }: Linux): { words: number; late: number } {
  const counts = { words: 0, late: 0 };
  const { v86 } = emulator as unknown as V86Inside;
  const leaveOut = guest.leaveOut.bind(guest);
  guest.leaveOut = (...args): void => {
    leaveOut(...args);
    counts.words += 1;
    counts.late += v86.idle ? 1 : 0;
  };
  return counts;
}

/** Resolves with the first event of a type that comes; give a migration its `onEvent`. */
export function eventOf(type: MigrationEvent['type']): {
  readonly happened: Promise<void>;
  readonly onEvent: (event: MigrationEvent) => void;
} {
  let resolve: (() => void) | undefined;
  const happened = new Promise<void>((done) => {
    resolve = done;
  });
  return {
    happened,
    onEvent: (event) => {
      if (event.type === type) {
        resolve?.();
      }
    },
  };
}

/** Memory that is free in the guest, in MiB. */
export async function memFree({ console }: Linux): Promise<number> {
  const text = await console.run('memfree');
  return Number(/MemFree (\d+) kB/.exec(text)![1]) / 1024;
}

/** Waits until as much is free. A guest that is told to takes what it has lent back as soon as its driver comes to it. */
export async function memFreeReaches(machine: Linux, mib: number): Promise<void> {
  const deadline = performance.now() + 30_000;
  let free = await memFree(machine);
  while (free < mib) {
    if (performance.now() > deadline) {
      throw new Error(`${free} MiB are free, and ${mib} should be`);
    }
    free = await memFree(machine);
  }
}

/** A program in the guest that counts on the console, in the shell's foreground. */
export class ConsoleCounter {
  readonly #console: GuestConsole;
  #text = '';

  private constructor(console: GuestConsole) {
    this.#console = console;
  }

  static start(console: GuestConsole): ConsoleCounter {
    console.start('counter');
    return new ConsoleCounter(console);
  }

  /** Waits until it has counted so much further. */
  async counts(more: number): Promise<void> {
    const unread = [...`${this.#text}${this.#console.unread}`.matchAll(LINE)];
    const last = Number(unread.at(-1)?.[1] ?? 0);
    this.#text += await this.#console.expect(new RegExp(`counter ${last + more} uptime [\\d.]+\\r?\\n`));
  }

  /** Ends it. All that it has ever printed, in that order. */
  async stop(): Promise<{ readonly numbers: number[]; readonly uptimes: number[] }> {
    this.#console.interrupt();
    this.#text += await this.#console.expect('guest# ');
    const lines = [...this.#text.matchAll(LINE)];
    return { numbers: lines.map((line) => Number(line[1])), uptimes: lines.map((line) => Number(line[2])) };
  }
}

const LINE = /counter (\d+) uptime ([\d.]+)\r?\n/g;

/** Another process that receives a guest over TCP. */
export class LinuxReceiver {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #port = 0;

  private constructor(options: LinuxOptions) {
    const script = fileURLToPath(new URL('linux-receiver.mjs', import.meta.url));
    this.#process = spawn(process.execPath, [script, String(options.memoryMiB)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
  }

  static async start(options: LinuxOptions = USUAL): Promise<LinuxReceiver> {
    const receiver = new LinuxReceiver(options);
    receiver.#port = Number(await receiver.#said('port '));
    return receiver;
  }

  async migrate(
    { guest }: Linux,
    request: Omit<MigrateRequest, 'vm' | 'channel' | 'event'> = {},
  ): Promise<PrecopySource> {
    const endpoint = { host: '127.0.0.1', port: this.#port };
    const channel = await connectV86Guest(guest, { endpoint, streams: 1, label: 'a test' });
    try {
      return await migrate({ ...request, vm: guest, channel, event: guest.event });
    } finally {
      await channel.close();
    }
  }

  /** Runs a command in the guest that has arrived. */
  async run(command: string): Promise<string> {
    this.#process.stdin!.write(`${command}\n`);
    return JSON.parse(await this.#said('ran ')) as string;
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  /** The rest of its next line that begins so. */
  async #said(beginning: string): Promise<string> {
    for (;;) {
      const { done, value } = await this.#lines.next();
      if (done === true) {
        throw new Error(`the receiving process has ended without "${beginning}"`);
      }
      if (value.startsWith(beginning)) {
        return value.slice(beginning.length);
      }
    }
  }
}
