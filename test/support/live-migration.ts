import type { MigrateRequest } from '../../src/migration/migrate.js';
import type { PrecopySource } from '../../src/migration/precopy.js';
import { Receiver } from '../../src/migration/receiver.js';
import { LoopbackChannel } from '../../src/transport/loopback.js';
import { Arrival, type Faults, type Machine } from './machine.js';

/** What is left of a migration that is over: the promise's result, and who runs. */
export interface LiveMigration {
  readonly source: PrecopySource | undefined;
  /** What the promise was rejected with. */
  readonly rejection: unknown;
  /** The machine at the destination, if it runs there. */
  readonly arrived: Machine | undefined;
}

/**
 * A machine that is migrated by `migrate` itself, or by what wraps it, in real time: the guest has a slice at each
 * turn of the event loop.
 */
export async function migrateLive(
  machine: Machine,
  run: (request: MigrateRequest) => Promise<PrecopySource>,
  faults: Faults = {},
): Promise<LiveMigration> {
  const channel = new LoopbackChannel();
  const arrival = new Arrival(machine, faults);
  channel.connect(new Receiver(arrival, (message) => channel.reply(message)));
  let isOver = false;
  const turn = (): void => {
    machine.clock.now = performance.now();
    machine.step();
    if (!isOver) {
      setImmediate(turn);
    }
  };
  turn();
  try {
    const source = await run({
      vm: machine,
      channel,
      event: machine.event,
      onEvent: (event) => {
        if (event.type === 'session-issued') {
          machine.oracle.sessionIssued(event.id);
        }
      },
    });
    return { source, rejection: undefined, arrived: arrival.machine };
  } catch (rejection) {
    return { source: undefined, rejection, arrived: arrival.machine };
  } finally {
    isOver = true;
  }
}
