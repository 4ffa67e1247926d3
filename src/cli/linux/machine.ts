import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LacunaError, messageOf } from '../../errors.js';
import { KIB, MIB } from '../../memory/page.js';
import { V86Guest, type V86GuestOptions } from '../../vmm/v86/v86-guest.js';
import { GuestConsole, type SerialPort } from './console.js';
import type { LinuxImage } from './image/linux-image.js';
import { refusedMemory } from './machine-memory.js';

/** What lacuna uses of a `V86`; the rest of it is behind {@link V86Guest}. */
export interface Emulator extends SerialPort {
  add_listener(event: 'emulator-loaded', listener: () => void): void;
  add_listener(event: 'serial0-output-byte', listener: (byte: number) => void): void;
  restore_state(state: ArrayBuffer): Promise<void>;
  save_state(): Promise<ArrayBuffer>;
  /** How many the processor has run since the machine was made. */
  get_instruction_counter(): number;
  destroy(): Promise<void>;
}

/** A machine of v86, with its console. */
export interface LinuxMachine {
  readonly emulator: Emulator;
  readonly guest: V86Guest;
  readonly console: GuestConsole;
  readonly memoryBytes: number;
  /** Stops it, and gives its memory back. */
  close(): Promise<void>;
}

/** How a machine is made. */
export interface MachineOptions extends V86GuestOptions {
  readonly image: LinuxImage;
  /** Whole MiB, from where the initrd ends. */
  readonly memoryBytes: number;
  /** `incoming`: its memory is cleared, for a guest that is to arrive. */
  readonly role: 'boot' | 'incoming';
}

/** Enough for a console of text, which nobody looks at. */
const VGA_MEMORY_BYTES: number = 256 * KIB;

/**
 * A machine that is ready to run. Throws UNSUPPORTED without v86, or with one that lacuna does not know, and
 * INVALID_ARGUMENT for a size of memory that it can't have.
 */
export async function makeMachine(options: MachineOptions): Promise<LinuxMachine> {
  const { image, memoryBytes, role } = options;
  const refused = refusedMemory(memoryBytes, image.initrd.byteLength);
  if (refused !== undefined) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `a machine of ${memoryBytes / MIB} MiB: ${refused}, with this initrd`,
    );
  }
  const V86 = await loadV86();
  const module = await processor(); // what is wrong with it is told here, and not in the midst of v86
  const emulator = new V86({
    wasm_fn: async (imports: object) => (await WebAssembly.instantiate(module, imports)).exports,
    memory_size: memoryBytes,
    vga_memory_size: VGA_MEMORY_BYTES,
    virtio_balloon: true,
    autostart: false,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    bios: { buffer: image.bios },
    vga_bios: { buffer: image.vgaBios },
    bzimage: { buffer: image.kernel },
    initrd: { buffer: image.initrd },
    cmdline: image.cmdline,
  });
  await new Promise<void>((resolve) => {
    emulator.add_listener('emulator-loaded', resolve);
  });
  const guest = role === 'boot' ? V86Guest.open(emulator, options) : V86Guest.incoming(emulator, options);
  const console = new GuestConsole(emulator);
  return {
    emulator,
    guest,
    console,
    memoryBytes,
    close: async () => {
      guest.requestPause();
      console.detach();
      await emulator.destroy();
    },
  };
}

/** TypeScript has it with a browser's types only. */
declare const WebAssembly: {
  compile(bytes: Uint8Array): Promise<object>;
  instantiate(module: object, imports: object): Promise<{ readonly exports: object }>;
};

let compiled: Promise<object> | undefined;

/** What v86 runs a guest with, compiled once for all machines of this process: the next one has what V8 made of it by then. */
function processor(): Promise<object> {
  compiled ??= readFile(join(dirname(fileURLToPath(import.meta.resolve('v86'))), 'v86.wasm')).then((bytes) =>
    WebAssembly.compile(bytes),
  );
  return compiled;
}

/** Of the v86 that is installed. */
export function v86Version(): string {
  const { version } = createRequire(import.meta.resolve('v86'))('../package.json') as { version: string };
  return version;
}

async function loadV86(): Promise<new (options: object) => Emulator> {
  try {
    return ((await import('v86')) as unknown as { V86: new (options: object) => Emulator }).V86;
  } catch (cause) {
    throw new LacunaError(
      'UNSUPPORTED',
      `Linux runs in v86, which is not installed here (${messageOf(cause)}): npm install v86@0.5.462`,
      { cause },
    );
  }
}
