import { workerData } from 'node:worker_threads';
import { VcpuTraps } from '../src/balloon/registers.js';
import { PageContent, prepareContents } from '../src/guest/content.js';
import { fillMemory } from '../src/guest/image.js';
import { GuestRuntime, mapDirtyLog } from '../src/guest/runtime.js';
import { decodeRegisters, runVcpu } from '../src/guest/vcpu.js';
import { ControlBuffer, EventWord, VCPU_STATE, VcpuState } from '../src/memory/control-buffer.js';
import { SharedGuestMemory } from '../src/memory/guest-memory.js';
import { RamLayout } from '../src/memory/ram-layout.js';
import { atomicMapper } from '../src/memory/shared-words.js';
import { WriteOracle } from '../src/memory/write-oracle.js';
import type { GuestThreadData } from '../src/vmm/worker-guest.js';
import { sayUp } from './thread.js';

const data = workerData as GuestThreadData;
const layout = new RamLayout(data.blocks);
const memory = new SharedGuestMemory(layout, data.buffers);
const control = new ControlBuffer(atomicMapper, data.control, new EventWord(atomicMapper, data.event));
const common = {
  map: atomicMapper,
  memory,
  control,
  log: mapDirtyLog(atomicMapper, data.log, layout.pfnSpan),
  port: new VcpuTraps(control),
  oracle: data.oracle === undefined ? undefined : new WriteOracle(atomicMapper, data.oracle, layout.pfnSpan),
};

function boot(start: NonNullable<GuestThreadData['boot']>): GuestRuntime {
  const { image, config, freeMemory } = start;
  const content = new PageContent(config.seed);
  fillMemory(atomicMapper, memory, image, content, freeMemory);
  return GuestRuntime.boot({ ...common, config, content }, image);
}

function arrive(): GuestRuntime {
  const registers = decodeRegisters(control.readState());
  return GuestRuntime.resume({ ...common, content: new PageContent(registers.config.seed) }, registers);
}

try {
  prepareContents(); // while there is time: a guest that arrives stands still
  const booted = data.boot === undefined ? undefined : boot(data.boot);
  sayUp();
  runVcpu(control, booted, arrive);
} catch (thrown) {
  control.words.store(VCPU_STATE, VcpuState.failed);
  control.words.notify(VCPU_STATE);
  throw thrown;
}
