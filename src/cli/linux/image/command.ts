import type { Command } from 'commander';
import pc from 'picocolors';
import { isLacunaError, LacunaError } from '../../../errors.js';
import { MIB } from '../../../memory/page.js';
import type { CliContext } from '../../context.js';
import { ExitCode } from '../../exit-code.js';
import { isMissing } from './guest-files.js';
import {
  IMAGE_PARTS,
  type ImagePart,
  type LinuxImage,
  type LinuxImageOptions,
  obtainLinuxImage,
} from './linux-image.js';
import { addImageOptions, type ImageOptions, OPTION } from './options.js';

/** The same, for {@link obtainLinuxImage}. */
export function imageOptions(options: ImageOptions): LinuxImageOptions {
  const own: Partial<Record<ImagePart, string>> = {};
  for (const part of IMAGE_PARTS) {
    const path = options[part];
    if (path !== undefined) {
      own[part] = path;
    }
  }
  return {
    own,
    initOnAlloc: options.initOnAlloc,
    ...(options.append === undefined ? {} : { extraArguments: options.append }),
  };
}

const HELP = `
The guest is Debian's 32-bit kernel with a root file system of busybox, the driver of the balloon, and a few tools of lacuna's.
Packages come from where this machine's own apt sources say, and what is needed of them is kept in $XDG_CACHE_HOME/lacuna, so
that it is fetched once. Nothing of this machine's packages or lists changes, and it takes no root.

Exit codes: 0 the image is there, 1 something is missing, 2 wrong usage, 130 interrupted.`;

/** Adds `lacuna linux image`. */
export function addLinuxImageCommand(linux: Command, { signal, done }: CliContext): void {
  addImageOptions(linux.command('image'))
    .summary('fetch what the Linux guest is made of')
    .description('Fetches what the Linux guest is made of, builds its initrd, and says what there is.')
    .option('--refresh', 'fetch again what is cached, for a newer kernel', false)
    .addHelpText('after', HELP)
    .action(async (options: ImageOptions & { readonly refresh: boolean }) => {
      done(await showImage({ ...imageOptions(options), refresh: options.refresh, signal }));
    });
}

/** The image, or an error that says what is missing. Throws UNSUPPORTED, INVALID_ARGUMENT. */
export async function imageFor(options: ImageOptions, signal: AbortSignal): Promise<LinuxImage> {
  const image = await obtainLinuxImage({
    ...imageOptions(options),
    signal,
    log: (line) => console.error(pc.dim(line)),
  });
  if (isMissing(image)) {
    throw new LacunaError('UNSUPPORTED', image.missing);
  }
  return image;
}

/** Gets an image and prints what it is. Returns the exit code. */
async function showImage(options: LinuxImageOptions): Promise<number> {
  try {
    const image = await obtainLinuxImage({ ...options, log: (line) => console.error(pc.dim(line)) });
    if (isMissing(image)) {
      console.error(`${pc.red('lacuna:')} ${image.missing}`);
      return ExitCode.verificationFailed;
    }
    console.log(describeImage(image));
    return ExitCode.ok;
  } catch (thrown) {
    if (isLacunaError(thrown, 'CANCELLED')) {
      console.error(thrown.message);
      return ExitCode.interrupted;
    }
    throw thrown;
  }
}

/** What an image is, for people. */
export function describeImage(image: LinuxImage): string {
  const sizeOf = (part: ImagePart): string => `${(image[part].byteLength / MIB).toFixed(2)} MiB`;
  return [
    `Linux ${image.kernelVersion}`,
    ...IMAGE_PARTS.map(
      (part) => `  ${OPTION[part].slice(2).padEnd(9)}${sizeOf(part).padStart(9)}  ${image.origins[part]}`,
    ),
    `  command line: ${image.cmdline}`,
    `  hash: ${image.hash}`,
  ].join('\n');
}
