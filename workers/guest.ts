import type { Dialect } from '../src/balloon/dialect.js';
import { trapsOf } from '../src/balloon/future-registers.js';
import type { DevicePort } from '../src/balloon/registers.js';
import { PageContent, prepareContents } from '../src/guest/content.js';
import { FaultBoard, FaultyDriver } from '../src/guest/faulty-driver.js';
import { fillMemory } from '../src/guest/image.js';
import { GuestRuntime, mapDirtyLog } from '../src/guest/runtime.js';
import { decodeRegisters, runVcpu } from '../src/guest/vcpu.js';
import { ControlBuffer, EventWord, VCPU_STATE, VcpuState } from '../src/memory/control-buffer.js';
import { SharedGuestMemory } from '../src/memory/guest-memory.js';
import { RamLayout } from '../src/memory/ram-layout.js';
import { atomicMapper as map } from '../src/memory/shared-words.js';
import { WriteOracle } from '../src/memory/write-oracle.js';
import type { GuestThreadData } from '../src/vmm/worker-guest.js';
import { sayUp, work } from './thread.js';

work((data: GuestThreadData) => {
  const memory = new SharedGuestMemory(new RamLayout(data.blocks), data.buffers);
  const { pfnSpan } = memory.layout;
  const control = new ControlBuffer(map, data.control, new EventWord(map, data.event));
  const faults =
    data.faults === undefined
      ? undefined
      : new FaultyDriver(new FaultBoard(map, data.faults, pfnSpan), control);
  const portOf = (dialect: Dialect): DevicePort => {
    const traps = trapsOf(control, dialect);
    return faults?.port(traps, dialect) ?? traps;
  };
  const common = {
    map,
    memory,
    control,
    log: mapDirtyLog(map, data.log, pfnSpan),
    faults,
    trace: data.trace,
    oracle: data.oracle === undefined ? undefined : new WriteOracle(map, data.oracle, pfnSpan),
  };
  const boot = ({ image, config, freeMemory }: NonNullable<GuestThreadData['boot']>): GuestRuntime => {
    const content = new PageContent(config.seed);
    fillMemory(map, memory, image, content, freeMemory);
    return GuestRuntime.boot({ ...common, port: portOf(config.dialect), config, content }, image);
  };
  const arrive = (): GuestRuntime => {
    const registers = decodeRegisters(control.readState());
    const { dialect, seed } = registers.config;
    return GuestRuntime.resume(
      { ...common, port: portOf(dialect), content: new PageContent(seed) },
      registers,
    );
  };
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
});
