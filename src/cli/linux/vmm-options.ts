import { type Command, InvalidArgumentError, Option } from 'commander';
import { LacunaError } from '../../errors.js';
import { MIB } from '../../memory/page.js';
import { parseMemory, parseSize } from '../units.js';
import { addImageFileOptions, type ImageOptions } from './image/options.js';
import { refusedMemory } from './machine-memory.js';

/** What runs a guest: lacuna's own threads, or npm's v86. */
const VMMS = ['lacuna', 'v86'] as const;
export type VmmName = (typeof VMMS)[number];

/** What `send` and `receive` are told about that; the files are for v86. */
export interface VmmOptions extends Omit<ImageOptions, 'initOnAlloc'> {
  readonly vmm: VmmName;
}

/** A machine of v86, where its size is not said. */
export const DEFAULT_MACHINE_BYTES: number = 256 * MIB;

/** Adds {@link VmmOptions}. */
export function addVmmOptions(command: Command): Command {
  command.addOption(
    new Option('--vmm <name>', "whose guest it is: lacuna's own, or Linux in v86")
      .choices(VMMS)
      .default('lacuna'),
  );
  return addImageFileOptions(command);
}

/** "256", "256MiB": memory of a v86 machine, in bytes. Throws commander's error for what v86 can't have. */
export function parseMachineMemory(text: string): number {
  const bytes = /^\d+$/.test(text.trim()) ? Number(text) * MIB : parseSize(text);
  const refused = refusedMemory(parseMemory(String(bytes)));
  if (refused !== undefined) {
    throw new InvalidArgumentError(`${refused}.`);
  }
  return bytes;
}

/** Options that only the other VMM has are refused. `given` says which were given; `own` are names of properties. */
export function refuseOptions(
  vmm: VmmName,
  own: readonly string[],
  given: (option: string) => boolean,
): void {
  const wrong = own.filter(given);
  if (wrong.length > 0) {
    const flags = wrong.map((name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
    throw new LacunaError('INVALID_ARGUMENT', `not with --vmm ${vmm}: ${flags.join(', ')}`);
  }
}

/** What is for machines of v86 only. */
export const V86_ONLY = ['kernel', 'initrd', 'bios', 'vgaBios', 'append'] as const;
