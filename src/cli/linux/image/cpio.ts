/** A file of a cpio archive. What only root could make on a disk is only a number here. */
export interface CpioEntry {
  /** Without a slash in front. */
  readonly path: string;
  readonly kind: 'file' | 'folder' | 'link';
  /** Permissions, as in 0o755; a link has none of its own. */
  readonly mode?: number;
  /** What the file holds, or where the link leads. */
  readonly data?: Uint8Array;
}

// The types of file in st_mode (POSIX <sys/stat.h>).
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const TYPE = { file: S_IFREG, folder: S_IFDIR, link: S_IFLNK } as const;

const TRAILER = 'TRAILER!!!';

/**
 * An archive in the "newc" format, which Linux unpacks as its first root file system
 * (Documentation/driver-api/early-userspace/buffer-format.rst): for each entry a header of fixed size in hexadecimal, the
 * name and the data, each padded to four bytes. All is root's and nothing has a date, so that the same entries always are
 * the same bytes. Folders have to come before what is in them.
 */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.map((entry, index) => {
    const mode = TYPE[entry.kind] | (entry.kind === 'link' ? 0o777 : (entry.mode ?? 0o755));
    return cpioRecord(entry.path, index + 1, mode, entry.data ?? new Uint8Array(0));
  });
  return Buffer.concat([...parts, cpioRecord(TRAILER, 0, 0, new Uint8Array(0))]);
}

function cpioRecord(path: string, inode: number, mode: number, data: Uint8Array): Buffer {
  const name = Buffer.from(`${path}\0`);
  const fields = [
    inode,
    mode,
    0, // c_uid
    0, // c_gid
    1, // c_nlink
    0, // c_mtime
    data.length,
    0, // c_devmajor
    0, // c_devminor
    0, // c_rdevmajor
    0, // c_rdevminor
    name.length,
    0, // c_check
  ];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  const head = padded(Buffer.concat([Buffer.from(header), name]));
  return Buffer.concat([head, padded(data)]);
}

function padded(bytes: Uint8Array): Uint8Array {
  const over = bytes.length % 4;
  return over === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(4 - over)]);
}
