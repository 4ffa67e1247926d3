import { setTimeout as delay } from 'node:timers/promises';
import type { LinuxImage } from './image/linux-image.js';
import { makeMachine } from './machine.js';
import { leastMemory } from './machine-memory.js';

/** The firmware, and the beginning of the kernel: about a second here. */
const INSTRUCTIONS = 10e6;
/** A guest of one's own may wait for something, with the processor at rest. */
const MOST_MS = 5000;
const LOOK_MS = 20;

/**
 * Runs a machine that nobody needs for as long as it takes V8 to compile v86 well. A guest that arrives in a process that
 * has not run v86 yet is stopped longer, while its state is loaded, and then runs for half a second as if through treacle.
 */
export async function warmUp(image: LinuxImage, signal: AbortSignal): Promise<void> {
  const memoryBytes = leastMemory(image.initrd.byteLength);
  const machine = await makeMachine({ image, memoryBytes, role: 'boot' });
  try {
    const until = performance.now() + MOST_MS;
    machine.guest.resume();
    while (
      machine.emulator.get_instruction_counter() < INSTRUCTIONS &&
      performance.now() < until &&
      machine.guest.failure === undefined &&
      !signal.aborted
    ) {
      await delay(LOOK_MS);
    }
    machine.guest.requestPause();
    if (machine.guest.failure === undefined) {
      machine.guest.loadDeviceState(machine.guest.saveDeviceState());
    }
  } finally {
    await machine.close();
  }
}
