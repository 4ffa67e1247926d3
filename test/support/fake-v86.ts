import type {
  V86Cpu,
  V86Device,
  V86Emulator,
  V86Machine,
  V86VirtIO,
  V86VirtIOOptions,
} from '../../src/vmm/v86/emulator.js';
import { v86State } from './v86-state.js';

/*
 * What lacuna uses of v86, with nothing in it that runs a guest: a processor that does what the test says, and a transport
 * whose driver is the test.
 */

const DRIVER_OK = 4;

/** A queue as v86 keeps it. */
export interface FakeQueue {
  size: number;
  enabled: boolean;
  desc_addr: number;
  avail_addr: number;
  used_addr: number;
}

function unsetQueue(): FakeQueue {
  return { size: 0, enabled: false, desc_addr: 0, avail_addr: 0, used_addr: 0 };
}

/** v86's transport: it keeps what the driver writes, and notes what it is asked for. */
export class FakeVirtIO implements V86VirtIO {
  readonly options: V86VirtIOOptions;
  readonly queues: FakeQueue[];
  readonly driver_feature = new Uint32Array(4);
  device_status = 0;
  isr_status = 0;
  readonly asked: string[] = [];

  constructor(_cpu: V86Cpu, options: V86VirtIOOptions) {
    this.options = options;
    this.queues = options.common.queues.map(unsetQueue);
  }

  reset(): void {
    this.asked.push('reset');
    this.device_status = 0;
    this.driver_feature.fill(0);
    for (const queue of this.queues) {
      Object.assign(queue, unsetQueue());
    }
  }

  notify_config_changes(): void {
    this.asked.push('config');
  }

  raise_irq(type: number): void {
    this.asked.push(`irq ${type}`);
  }

  needs_reset(): void {
    this.asked.push('needs reset');
  }

  get_state(): unknown[] {
    return [this.device_status, [...this.driver_feature], this.queues.map((queue) => ({ ...queue }))];
  }

  set_state(state: unknown[]): void {
    const [status, features, queues] = state as [number, number[], FakeQueue[]];
    this.device_status = status;
    this.driver_feature.set(features);
    for (const [i, queue] of queues.entries()) {
      Object.assign(this.queues[i]!, queue);
    }
  }

  // ── what a driver does ────────────────────────────────────────────────────────────────────────────────────

  negotiate(...features: number[]): void {
    for (const feature of features) {
      this.driver_feature[feature >>> 5]! |= 1 << (feature & 31);
    }
  }

  driverOk(): void {
    this.device_status |= DRIVER_OK;
  }

  read(register: string): number {
    return this.#register(register).read();
  }

  write(register: string, value: number): void {
    this.#register(register).write(value);
  }

  kick(queue: number): void {
    this.options.notification.handlers[queue]!(queue);
  }

  #register(name: string) {
    return this.options.device_specific.struct.find((register) => register.name === name)!;
  }
}

/** What the processor does in a tick; returns after how many milliseconds the next one is due. */
export type Tick = () => number;

export class FakeMachine implements V86Machine {
  readonly cpu: V86Cpu & { devices: { virtio_balloon: V86Device } };
  readonly sent: string[] = [];
  readonly bus = { send: (event: string): number => this.sent.push(event) };
  running = false;
  stopping = false;
  idle = true;
  tick_counter = 0;
  /** Ticks that are due, by their number, and after how long. */
  readonly due: { readonly number: number; readonly delayMs: number }[] = [];
  tick: Tick = () => 0;
  /** What there is no code for any more, from where to where. */
  readonly forgotten: (readonly [number, number])[] = [];
  /** A memory's buffer; one that grows has another one afterwards. */
  #buffer: ArrayBuffer;
  readonly #ramOffset = 4096;

  constructor(pages: number) {
    this.#buffer = new ArrayBuffer(this.#ramOffset + pages * 4096);
    const buffer = (): ArrayBuffer => this.#buffer;
    const balloon = new FakeVirtIO(
      undefined as never,
      {
        common: { queues: [] },
      } as unknown as V86VirtIOOptions,
    );
    this.cpu = {
      get wasm_memory() {
        return { buffer: buffer() };
      },
      mem8: { byteOffset: this.#ramOffset },
      memory_size: { 0: pages * 4096 },
      devices: {
        virtio_balloon: { virtio: balloon, get_state: () => [], set_state: () => {} },
      },
      option_roms: [{}],
      zero_memory: (address, length) => this.ram.fill(0, address, address + length),
      jit_dirty_cache: (start, end) => this.forgotten.push([start, end]),
      pack_memory: () => ({
        packed_memory: this.ram.slice(),
        bitmap: { get_buffer: () => new ArrayBuffer(8) },
      }),
      unpack_memory: (_bitmap, packed) => this.ram.set(packed),
      reboot_internal: () => this.sent.push('rebooted'),
    };
  }

  get ram(): Uint8Array {
    return new Uint8Array(this.#buffer, this.#ramOffset, this.cpu.memory_size[0]);
  }

  /** As a WebAssembly memory that grows: what was there is elsewhere, and nothing is where it was. */
  grow(): void {
    const grown = new ArrayBuffer(this.#buffer.byteLength + 65_536);
    new Uint8Array(grown).set(new Uint8Array(this.#buffer));
    structuredClone(this.#buffer, { transfer: [this.#buffer] });
    this.#buffer = grown;
  }

  /** The balloon's transport, as it is now. */
  get virtio(): FakeVirtIO {
    return this.cpu.devices.virtio_balloon.virtio as FakeVirtIO;
  }

  get emulator(): V86Emulator {
    return { v86: this };
  }

  run(): void {
    this.stopping = false;
    if (!this.running) {
      this.running = true;
      this.bus.send('emulator-started');
    }
    this.next_tick(0);
  }

  do_tick(): void {
    if (this.stopping || !this.running) {
      this.stopping = false;
      this.running = false;
      this.bus.send('emulator-stopped');
      return;
    }
    this.idle = false;
    const delayMs = this.tick();
    this.next_tick(delayMs);
  }

  next_tick(delayMs: number): void {
    this.tick_counter += 1;
    this.idle = true;
    this.due.push({ number: this.tick_counter, delayMs });
  }

  /** Makes the tick that is due, if it still is; false: there is none. */
  elapse(): boolean {
    const next = this.due.splice(0).at(-1);
    if (next === undefined || next.number !== this.tick_counter) {
      return false;
    }
    this.do_tick();
    return true;
  }

  save_state(): ArrayBuffer {
    const { packed_memory, bitmap } = this.cpu.pack_memory();
    const bytes = new Uint8Array(bitmap.get_buffer());
    return v86State(
      [this.cpu.memory_size[0], this.cpu.devices.virtio_balloon.get_state().map(plain)],
      [packed_memory, bytes],
    );
  }

  restore_state(state: ArrayBuffer): void {
    const infoBytes = new Uint32Array(state, 0, 4)[3]!;
    const info = JSON.parse(new TextDecoder().decode(new Uint8Array(state, 16, infoBytes))) as {
      state: [number, unknown[]];
    };
    this.cpu.unpack_memory(undefined, new Uint8Array(0));
    this.cpu.devices.virtio_balloon.set_state(info.state[1]);
  }
}

function plain(part: unknown): unknown {
  return part instanceof FakeVirtIO ? part.get_state() : part;
}
