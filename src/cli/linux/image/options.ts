import type { Command } from 'commander';

/** The options by which a user brings files of their own. */
export const OPTION = {
  kernel: '--kernel',
  initrd: '--initrd',
  bios: '--bios',
  vgaBios: '--vga-bios',
} as const;

/** What a user says about the guest's image; see {@link addImageOptions}. */
export interface ImageOptions {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly bios?: string;
  readonly vgaBios?: string;
  readonly initOnAlloc: boolean;
  readonly append?: string;
}

/** Adds the options that say what the guest is made of, to a command that has an `--init-on-alloc`. */
export function addImageFileOptions(command: Command): Command {
  return command
    .option(`${OPTION.kernel} <file>`, "a bzImage, instead of Debian's kernel; with an initrd for it")
    .option(`${OPTION.initrd} <file>`, 'its first root file system, instead of the one that is built here')
    .option(`${OPTION.bios} <file>`, "instead of Debian's SeaBIOS")
    .option(`${OPTION.vgaBios} <file>`, "instead of Debian's SeaBIOS for VGA")
    .option('--append <arguments>', "more for the kernel's command line");
}

/** Adds all of {@link ImageOptions}. */
export function addImageOptions(command: Command): Command {
  return addImageFileOptions(command).option(
    '--init-on-alloc',
    'the kernel zeroes memory when it gives it out, as Debian has it',
    false,
  );
}
