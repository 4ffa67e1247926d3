import { LacunaError } from '../../errors.js';

/**
 * The parts of a v86 instance that lacuna uses. v86 documents its constructor, `run` and the serial console; the rest are
 * properties of its objects that it does not promise to keep (npm's 0.5.462 does, and `test/integration/linux` says when
 * another does not). All of v86 runs on one thread: between two turns of the event loop the processor stands between two
 * instructions, and within a port's handler it stands in the middle of one.
 */
export interface V86Emulator {
  readonly v86: V86Machine;
}

/** Events of the emulator; v86's own listeners are told by it as well. */
export interface V86Bus {
  send(event: string, value?: unknown): void;
}

/** What runs the processor, a millisecond at a time. */
export interface V86Machine {
  readonly cpu: V86Cpu;
  readonly bus: V86Bus;
  running: boolean;
  stopping: boolean;
  /** False while the processor runs, that is, within a port's handler. */
  idle: boolean;
  /** A tick that is due is only made if its number is still this one. */
  tick_counter: number;
  run(): void;
  /** Runs the processor for about a millisecond, and says when it is to run next. */
  do_tick(): void;
  next_tick(delayMs: number): void;
  /** Everything, with `pack_memory` for RAM. */
  save_state(): ArrayBuffer;
  restore_state(state: ArrayBuffer): void;
}

export interface V86Cpu {
  readonly wasm_memory: { readonly buffer: ArrayBuffer };
  /** A proxy of a view of RAM; only its place is asked for. */
  readonly mem8: { readonly byteOffset: number };
  readonly memory_size: { readonly 0: number };
  readonly devices: { virtio_balloon?: V86Device };
  /** Programs that the firmware runs: one of them starts the kernel that v86 was given. */
  readonly option_roms: readonly unknown[];
  zero_memory(address: number, length: number): void;
  /** Forgets code that was compiled from `[start, end)`. */
  jit_dirty_cache(start: number, end: number): void;
  pack_memory: () => { packed_memory: Uint8Array; bitmap: { get_buffer(): ArrayBuffer } };
  unpack_memory: (bitmap: unknown, packed: Uint8Array) => void;
  reboot_internal(): void;
}

/** A device that v86 saves with its state: numbers, strings, arrays of them, typed arrays, and objects like itself. */
export interface V86Device {
  readonly virtio: V86VirtIO;
  get_state(): unknown[];
  set_state(state: unknown[]): void;
}

/** v86's virtio transport over PCI: it keeps the registers, and calls what is behind them. */
export interface V86VirtIO {
  readonly queues: readonly V86VirtQueue[];
  readonly driver_feature: Uint32Array;
  device_status: number;
  isr_status: number;
  reset(): void;
  notify_config_changes(): void;
  raise_irq(type: number): void;
  needs_reset(): void;
  get_state(): unknown[];
  set_state(state: unknown[]): void;
}

/** Where the driver has put a queue, as it wrote it: 32 bits, perhaps with a sign. */
export interface V86VirtQueue {
  readonly size: number;
  readonly enabled: boolean;
  readonly desc_addr: number;
  readonly avail_addr: number;
  readonly used_addr: number;
}

/** A register of a capability: `write` is given what the guest wrote. */
export interface V86Register {
  readonly bytes: 1 | 2 | 4;
  readonly name: string;
  read(): number;
  write(value: number): void;
}

/** What {@link V86VirtIO} is made of. */
export interface V86VirtIOOptions {
  readonly name: string;
  readonly pci_id: number;
  readonly device_id: number;
  readonly subsystem_device_id: number;
  readonly common: {
    readonly initial_port: number;
    readonly queues: readonly { readonly size_supported: number; readonly notify_offset: number }[];
    readonly features: readonly number[];
    on_driver_ok(): void;
  };
  readonly notification: {
    readonly initial_port: number;
    readonly single_handler: boolean;
    readonly handlers: readonly ((queue: number) => void)[];
  };
  readonly isr_status: { readonly initial_port: number };
  readonly device_specific: { readonly initial_port: number; readonly struct: readonly V86Register[] };
}

/** `isr_status` and `raise_irq`: a queue has news, or the config space has (VIRTIO 1.3 § 4.1.4.5). */
export const ISR_QUEUE = 1;

/** What has to be there, by where it is, as the type that it must be of. */
const NEEDED: readonly (readonly [path: string, type: 'function' | 'object' | 'number' | 'boolean'])[] = [
  ['v86.bus.send', 'function'],
  ['v86.run', 'function'],
  ['v86.do_tick', 'function'],
  ['v86.next_tick', 'function'],
  ['v86.running', 'boolean'],
  ['v86.stopping', 'boolean'],
  ['v86.idle', 'boolean'],
  ['v86.tick_counter', 'number'],
  ['v86.save_state', 'function'],
  ['v86.restore_state', 'function'],
  ['v86.cpu.wasm_memory', 'object'],
  ['v86.cpu.mem8.byteOffset', 'number'],
  ['v86.cpu.memory_size.0', 'number'],
  ['v86.cpu.zero_memory', 'function'],
  ['v86.cpu.jit_dirty_cache', 'function'],
  ['v86.cpu.pack_memory', 'function'],
  ['v86.cpu.unpack_memory', 'function'],
  ['v86.cpu.reboot_internal', 'function'],
  ['v86.cpu.devices', 'object'],
  ['v86.cpu.option_roms', 'object'],
];

/** What of v86's balloon, which is replaced, has to be there. */
const NEEDED_OF_VIRTIO: typeof NEEDED = [
  ['queues', 'object'],
  ['driver_feature', 'object'],
  ['device_status', 'number'],
  ['isr_status', 'number'],
  ['reset', 'function'],
  ['notify_config_changes', 'function'],
  ['raise_irq', 'function'],
  ['needs_reset', 'function'],
  ['get_state', 'function'],
  ['set_state', 'function'],
];

/**
 * The inside of a `V86` of npm's v86. It must have been loaded (its event `emulator-loaded`) and made with
 * `virtio_balloon: true`. Throws UNSUPPORTED, and says what is missing.
 */
export function openEmulator(emulator: object): V86Emulator {
  checkParts(emulator, NEEDED, 'not a loaded v86 emulator (wait for its event "emulator-loaded")');
  const opened = emulator as V86Emulator;
  const balloon = opened.v86.cpu.devices.virtio_balloon;
  if (balloon === undefined) {
    throw new LacunaError('UNSUPPORTED', 'make the emulator with the option virtio_balloon: true');
  }
  checkParts(balloon.virtio, NEEDED_OF_VIRTIO, "v86's virtio transport is not what it was");
  return opened;
}

function checkParts(whole: object, parts: typeof NEEDED, otherwise: string): void {
  for (const [path, type] of parts) {
    let part: unknown = whole;
    for (const name of path.split('.')) {
      part = (part as Record<string, unknown> | null | undefined)?.[name];
    }
    if (typeof part !== type || part === null) {
      throw new LacunaError(
        'UNSUPPORTED',
        `${otherwise}: ${path} is missing. lacuna/v86 was made for v86 0.5.462`,
      );
    }
  }
}
