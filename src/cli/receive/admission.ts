import { z } from 'zod';
import { LacunaError } from '../../errors.js';
import type { GuestTrace } from '../../guest/trace.js';
import { decodeRegisters } from '../../guest/vcpu.js';
import type { WorkloadSpec } from '../../guest/workload.js';
import { EventWord } from '../../memory/control-buffer.js';
import type { MemoryPool } from '../../memory/memory-pool.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { Receiver } from '../../migration/receiver.js';
import type { DestinationVm } from '../../migration/vm.js';
import type { Admission, MigrationOffer } from '../../transport/network/incoming-migration.js';
import { parseDeviceState } from '../../vmm/device-state.js';
import { receivingVm } from '../../vmm/worker-destination.js';
import { WorkerGuest } from '../../vmm/worker-guest.js';
import type { DestinationMessage, PageCounts } from '../../wire/channel.js';

/** What is wanted of a guest that comes in. */
export interface Host {
  readonly pool: MemoryPool;
  /** The trace that comes with this lacuna under a name; undefined: there is none. */
  readonly traceOf: (name: string) => GuestTrace | undefined;
  /** It runs, since `startedAt` (ms since the epoch), and this host serves its device. */
  readonly onStarted: (guest: WorkerGuest, startedAt: number, workload: WorkloadSpec) => void;
}

/** What a source says of its guest (`MigrationOffer.guest`). Fields that are not known here are another lacuna's. */
const description = z.looseObject({
  kind: z.literal('lacuna-worker'),
  trace: z.string().max(256).optional(),
});

/**
 * Prepares to receive a built-in guest. Rejects with what the source is told: UNSUPPORTED for a guest that can't be run
 * here, OUT_OF_MEMORY.
 */
export async function admitGuest(
  offer: MigrationOffer,
  reply: (message: DestinationMessage) => void,
  applied: () => PageCounts,
  { pool, traceOf, onStarted }: Host,
): Promise<Admission> {
  const trace = traceOfGuest(offer.guest, traceOf);
  const memory = pool.takeFresh(offer.layout);
  const event = new EventWord(atomicMapper);
  const guest = WorkerGuest.incoming(memory, event, { trace });
  await guest.up;
  const vm: DestinationVm = receivingVm({
    blocks: memory.layout.blocks,
    buffers: memory.buffers,
    sourceBuffers: [],
    control: guest.control.buffer as SharedArrayBuffer,
    event: event.buffer,
    channel: new SharedArrayBuffer(0),
    trace,
    holdAtStart: false,
    refuses: undefined,
  });
  let deviceState: Uint8Array | undefined;
  let startedAt = Number.NaN;
  const sink = new Receiver(
    {
      memory,
      loadDeviceState: (state) => {
        vm.loadDeviceState(state);
        deviceState = state;
      },
      start: () => {
        startedAt = vm.start();
        return startedAt;
      },
    },
    reply,
    applied,
  );
  return {
    memory,
    sink,
    ended: (outcome) => {
      if (outcome === 'started') {
        guest.adopt(deviceState!);
        const { vcpu } = parseDeviceState(deviceState!, { layout: memory.layout, trace });
        onStarted(guest, startedAt, decodeRegisters(new TextEncoder().encode(vcpu)).config.workload);
      } else {
        void guest.kill();
      }
    },
  };
}

function traceOfGuest(
  text: string,
  traceOf: (name: string) => GuestTrace | undefined,
): GuestTrace | undefined {
  let said: z.infer<typeof description>;
  try {
    said = description.parse(JSON.parse(text));
  } catch (cause) {
    throw new LacunaError('UNSUPPORTED', 'the guest is none of those that this destination can run', {
      cause,
    });
  }
  if (said.trace === undefined) {
    return undefined;
  }
  const trace = traceOf(said.trace);
  if (trace === undefined) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the guest replays the trace "${said.trace}", which does not come with this destination's lacuna`,
    );
  }
  return trace;
}
