import { LacunaError } from '../../errors.js';
import { Receiver } from '../../migration/receiver.js';
import type { MigrationOffer, ReceivedTotals } from '../../transport/network/incoming-migration.js';
import {
  type ListenOptions,
  listenForMigrations,
  type MigrationListener,
} from '../../transport/network/migration-listener.js';
import {
  type ConnectOptions,
  connectMigration,
  type NetworkChannel,
} from '../../transport/network/network-channel.js';
import type { V86Guest } from './v86-guest.js';

/** What `guest` says in the hello of a v86 machine. */
const KIND = 'v86';

/** How a v86 machine is connected. */
export type ConnectV86Options = Omit<ConnectOptions, 'memory' | 'event' | 'guest'>;

/** Connects a v86 machine to a destination that receives such machines. Rejects as {@link connectMigration} does. */
export function connectV86Guest(guest: V86Guest, options: ConnectV86Options): Promise<NetworkChannel> {
  const { shadow: memory, event } = guest;
  return connectMigration({ ...options, memory, event, guest: JSON.stringify({ kind: KIND }) });
}

/** A v86 machine that has arrived. */
export interface V86Arrival {
  readonly guest: V86Guest;
  readonly offer: MigrationOffer;
  /** ms since the epoch. */
  readonly startedAt: number;
}

/** Where v86 machines are received, and what becomes of them. */
export interface ReceiveV86Options extends Omit<ListenOptions, 'admit'> {
  /** Makes the machine that a guest arrives in: `V86Guest.incoming` of an emulator with `offer.layout.memoryBytes` of RAM. */
  readonly prepare: (offer: MigrationOffer) => Promise<V86Guest>;
  /** An offer was accepted; `received` says from now on what has come. */
  readonly onAdmitted?: (offer: MigrationOffer, received: () => ReceivedTotals) => void;
  /** The guest runs here, and its source knows: it is the caller's from here on. */
  readonly onRunning: (arrival: V86Arrival) => void;
  /** It came to nothing, and the machine that was made for it is of no use. */
  readonly onDiscarded?: (guest: V86Guest) => void;
}

/** Listens for v86 machines, one at a time, and runs those that arrive. Throws as {@link listenForMigrations} does. */
export function receiveV86Guests(options: ReceiveV86Options): Promise<MigrationListener> {
  return listenForMigrations({
    ...options,
    admit: async (offer, reply, applied, received) => {
      checkKind(offer);
      const guest = await options.prepare(offer);
      if (!guest.memory.layout.equals(offer.layout)) {
        options.onDiscarded?.(guest);
        throw new LacunaError(
          'UNSUPPORTED',
          `the machine here has ${guest.memory.layout.memoryBytes} bytes of RAM, and the guest ${offer.layout.memoryBytes}`,
        );
      }
      options.onAdmitted?.(offer, received);
      let startedAt = Number.NaN;
      const vm = {
        memory: guest.memory,
        loadDeviceState: (state: Uint8Array): void => guest.loadDeviceState(state),
        start: (): number => {
          startedAt = guest.start();
          return startedAt;
        },
      };
      return {
        memory: guest.memory,
        sink: new Receiver(vm, reply, applied),
        ended: (outcome) => {
          if (outcome === 'started') {
            options.onRunning({ guest, offer, startedAt });
          } else {
            options.onDiscarded?.(guest);
          }
        },
      };
    },
  });
}

function checkKind({ guest }: MigrationOffer): void {
  let kind: unknown;
  try {
    kind = (JSON.parse(guest) as { kind?: unknown } | null)?.kind;
  } catch {
    // then it is of no kind
  }
  if (kind !== KIND) {
    throw new LacunaError('UNSUPPORTED', `only machines of v86 are received here (lacuna receive --vmm v86)`);
  }
}
