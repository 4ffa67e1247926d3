import { chmodSync, lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { LacunaError, messageOf } from '../../errors.js';

/** What a Unix socket's address has room for, on Linux 108 with its end; macOS has 104. */
const LONGEST_PATH = 103;
const SUFFIX = '.sock';
const ID = /^[0-9a-f]{32}$/;

/** The folder of control sockets, which may not be there yet: this user's, and nobody else's. */
export function controlFolder(): string {
  const runtime = process.env['XDG_RUNTIME_DIR'];
  return runtime === undefined || runtime === ''
    ? join(tmpdir(), `lacuna-${userInfo().uid}`)
    : join(runtime, 'lacuna');
}

/**
 * Makes the folder, if it is not there. Throws INVALID_ARGUMENT if it is not this user's alone: in /tmp anybody can have
 * made it, to be told what to do by the migrations of others.
 */
export function makeControlFolder(): string {
  const folder = controlFolder();
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const made = lstatSync(folder);
    const { uid } = userInfo();
    if (!made.isDirectory() || (uid !== -1 && made.uid !== uid)) {
      throw new Error('it is not a folder of this user');
    }
    if ((made.mode & 0o077) !== 0) {
      chmodSync(folder, 0o700);
    }
  } catch (cause) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${folder}, where the control socket goes: ${messageOf(cause)}; set XDG_RUNTIME_DIR to a folder of your own`,
      { cause },
    );
  }
  return folder;
}

/** Where the control socket of a migration is. Throws INVALID_ARGUMENT if a socket can't have that address. */
export function controlPath(migrationId: string): string {
  const path = join(controlFolder(), `${migrationId}${SUFFIX}`);
  if (Buffer.byteLength(path) > LONGEST_PATH) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${path} is too long for the address of a socket: set XDG_RUNTIME_DIR to a folder with a shorter name`,
    );
  }
  return path;
}

/** Ids of the migrations that have a socket here, alive or not. */
export function controlIds(): string[] {
  try {
    return readdirSync(controlFolder())
      .filter((name) => name.endsWith(SUFFIX))
      .map((name) => name.slice(0, -SUFFIX.length))
      .filter(isMigrationId)
      .sort();
  } catch {
    return []; // no folder: nobody has sent anything
  }
}

export function isMigrationId(text: string): boolean {
  return ID.test(text);
}
