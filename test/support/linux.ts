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
