/** What the guest image is made of, as a distribution ships it. */
export interface GuestFiles {
  /** Packages by name, with their version. */
  readonly packages: Readonly<Record<string, string>>;
  /** By the names of {@link GUEST_FILE}; kernel modules as `<name>.ko`. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** The names of what is always there. */
export const GUEST_FILE = {
  kernel: 'vmlinuz',
  busybox: 'busybox',
  bios: 'bios.bin',
  vgaBios: 'vgabios-stdvga.bin',
} as const;

/** Something that the image can't be had without, and what to do about it. */
export interface Missing {
  readonly missing: string;
}

/** Whether there is no image, but a reason. */
export function isMissing(value: object): value is Missing {
  return 'missing' in value;
}

/** Is told what is done, a line each. */
export type Log = (line: string) => void;

/** Gets the files from somewhere else than the cache. */
export type FetchGuestFiles = (log: Log) => Promise<GuestFiles | Missing>;
