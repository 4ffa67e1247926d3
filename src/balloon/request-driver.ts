import {
  CMD_REG_OFFSET,
  CMD_REG_READ_TO_CLEAR_OFFSET,
  futureBit,
  futureOffset,
} from '../spec/command-register.js';
import type { QueueAddresses } from '../virtqueue/layout.js';
import {
  type BalloonCommands,
  CommandDriver,
  type CommandDriverState,
  type CommandFeature,
  mailFeatures,
} from './command-driver.js';
import type { Dialect } from './dialect.js';
import { ExitFeature, type ExitFeatureValue } from './exits.js';
import {
  type PolledRegister,
  PollingDriver,
  type PollingDriverState,
  polledBalloon,
  polledReport,
} from './polling-driver.js';
import type { DevicePort } from './registers.js';
import type { RequestInterface } from './request-interface.js';
import { type HintCommands, virtioConfig } from './virtio-driver.js';

/** What answers the config interrupt, whatever the design. */
export interface RequestDriver {
  /** The config interrupt was raised. */
  interrupt(): void;
  /** Whether {@link step} has something to do. */
  readonly busy: boolean;
  /** One exit at the most. */
  step(): void;
  saveState(): RequestDriverState;
}

interface RegisterAndPollingState {
  readonly register: CommandDriverState;
  readonly polling: PollingDriverState;
}

export type RequestDriverState = CommandDriverState | PollingDriverState | RegisterAndPollingState;

/** What requests are made of the rest of the driver. */
export interface RequestHandlers {
  readonly report: HintCommands;
  readonly balloon: BalloonCommands;
}

/** How a guest learns what its host wants. */
export interface RequestKind {
  readonly dialect: Dialect;
  /** A variant of the mail's dialect that is measured beside it. */
  readonly requests?: RequestInterface | undefined;
}

/** The driver that a guest has for a kind of requests: VIRTIO's, or the mail's with its two features, or a variant of it. */
export function makeRequestDriver(
  port: DevicePort,
  { report, balloon }: RequestHandlers,
  { dialect, requests }: RequestKind,
  restored: RequestDriverState | undefined,
): RequestDriver {
  if (dialect === 'virtio') {
    return new PollingDriver(port, virtioConfig(report, balloon), restored as PollingDriverState | undefined);
  }
  if (requests === undefined) {
    return new CommandDriver(port, mailFeatures(report, balloon), restored as CommandDriverState | undefined);
  }
  const future = Array.from({ length: requests.futureFeatures }, (_, k) => k);
  const mail = mailFeatures(report, balloon);
  const ballooning = requests.ballooning
    ? mail.filter(({ exitFeature }) => exitFeature === ExitFeature.ballooning)
    : [];
  const polledBesides = [...(requests.reporting ? [polledReport(report)] : []), ...future.map(polledFuture)];
  switch (requests.design) {
    case 'polling':
      return new PollingDriver(
        port,
        [...(requests.ballooning ? [polledBalloon(balloon)] : []), ...polledBesides],
        restored as PollingDriverState | undefined,
      );
    case 'register-and-polling': {
      const states = restored as RegisterAndPollingState | undefined;
      return new RegisterAndPolling(
        new CommandDriver(port, ballooning, states?.register),
        new PollingDriver(port, polledBesides, states?.polling),
      );
    }
    case 'command-register':
    case 'read-to-clear': {
      const reporting = mail.filter(({ exitFeature }) => exitFeature === ExitFeature.reporting);
      return new CommandDriver(
        requests.design === 'read-to-clear' ? new ReadToClearPort(port) : port,
        [...(requests.reporting ? reporting : []), ...ballooning, ...future.map(futureFeature)],
        restored as CommandDriverState | undefined,
      );
    }
  }
}

/** A feature to come behind the command register. All that it does is to read its parameter. */
export function futureFeature(k: number): CommandFeature {
  return {
    name: `FUTURE_${k}`,
    bit: futureBit(k),
    registers: [futureOffset(k)],
    exitFeature: ExitFeature.other,
    requested: () => {},
  };
}

/** The same without a command register. */
function polledFuture(k: number): PolledRegister {
  return {
    name: `future_${k}`,
    offset: futureOffset(k),
    exitFeature: ExitFeature.other,
    changed: () => {},
  };
}

/**
 * A command register that is acknowledged by being read: the driver is the mail's, its read takes the bits and its
 * acknowledgement is no exit.
 *
 * No request is lost: the trap takes and clears the bits in one atomic step. The host stores a parameter before it sets
 * the bit, so a bit that was taken has its parameter in place; one that is set later stays set, and has an interrupt of
 * its own. What the host sees is the same as with the mail's register: a bit that it has set is clear again.
 */
export class ReadToClearPort implements DevicePort {
  readonly #port: DevicePort;

  constructor(port: DevicePort) {
    this.#port = port;
  }

  readConfig(offset: number, feature: ExitFeatureValue): number {
    return this.#port.readConfig(offset === CMD_REG_OFFSET ? CMD_REG_READ_TO_CLEAR_OFFSET : offset, feature);
  }

  writeConfig(offset: number, value: number, feature: ExitFeatureValue): void {
    if (offset !== CMD_REG_OFFSET) {
      this.#port.writeConfig(offset, value, feature);
    }
  }

  kick(queue: number, feature: ExitFeatureValue): void {
    this.#port.kick(queue, feature);
  }

  setQueue(queue: number, addresses: QueueAddresses): void {
    this.#port.setQueue(queue, addresses);
  }

  driverOk(features: number): void {
    this.#port.driverOk(features);
  }
}

/** Two drivers behind one interrupt: first what the command register says, then the registers that are polled. */
class RegisterAndPolling implements RequestDriver {
  readonly #register: CommandDriver;
  readonly #polling: PollingDriver;

  constructor(register: CommandDriver, polling: PollingDriver) {
    this.#register = register;
    this.#polling = polling;
  }

  interrupt(): void {
    this.#register.interrupt();
    this.#polling.interrupt();
  }

  get busy(): boolean {
    return this.#register.busy || this.#polling.busy;
  }

  saveState(): RegisterAndPollingState {
    return { register: this.#register.saveState(), polling: this.#polling.saveState() };
  }

  step(): void {
    (this.#register.busy ? this.#register : this.#polling).step();
  }
}
