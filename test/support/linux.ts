import { fileURLToPath } from 'node:url';
import { V86 } from 'v86';
import { bootOptions, keepBootable, type RebootingCpu } from '../../src/cli/linux/boot.js';
import { GuestConsole } from '../../src/cli/linux/console.js';
import { isMissing } from '../../src/cli/linux/image/guest-files.js';
import {
  type LinuxImage,
  type LinuxImageOptions,
  obtainLinuxImage,
} from '../../src/cli/linux/image/linux-image.js';

/**
 * The Linux guest's image, if it has been fetched (`npm run guest:linux`, as CI does). Tests fetch nothing: where there is
 * none this says loudly that they are skipped, and is undefined.
 */
export async function linuxForTests(options: LinuxImageOptions = {}): Promise<LinuxImage | undefined> {
  const image = await obtainLinuxImage({
    fetch: async () => ({ missing: 'it has not been fetched (npm run guest:linux)' }),
    ...options,
  });
  if (isMissing(image)) {
    console.warn(`\n*** NOT TESTED with Linux: ${image.missing}. ***\n`);
    return undefined;
  }
  return image;
}

/** A guest that runs in plain v86, without anything of lacuna's but its console. */
export interface PlainGuest {
  readonly emulator: V86;
  readonly console: GuestConsole;
}

/** Where v86's own code is, beside its module. */
const WASM = fileURLToPath(new URL('v86.wasm', import.meta.resolve('v86')));

/** Starts to boot an image, in a machine with v86's own balloon. */
export async function bootPlain(image: LinuxImage, memoryBytes: number): Promise<PlainGuest> {
  const emulator = new V86({
    ...bootOptions(image),
    wasm_path: WASM,
    memory_size: memoryBytes,
    vga_memory_size: 2 ** 21,
    virtio_balloon: true,
    autostart: false,
    disable_speaker: true,
  });
  await new Promise<void>((resolve) => {
    emulator.add_listener('emulator-loaded', () => resolve());
  });
  // Not in v86's types: what it emulates with.
  keepBootable((emulator as unknown as { v86: { cpu: RebootingCpu } }).v86.cpu, image);
  const console = new GuestConsole(emulator);
  await emulator.run();
  return { emulator, console };
}
