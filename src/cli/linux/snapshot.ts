import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { constants, gunzip, gzip } from 'node:zlib';
import { messageOf } from '../../errors.js';
import { bufferOf } from '../../memory/byte-ops.js';
import { cacheFolder, replaceFile } from './image/file-store.js';
import type { Log } from './image/guest-files.js';
import { type LinuxMachine, type MachineOptions, makeMachine, v86Version } from './machine.js';

/** How a machine is started. */
export interface StartOptions extends Omit<MachineOptions, 'role'> {
  /** Boot, although a booted machine is in the cache. */
  readonly fresh?: boolean;
  /** Is told what takes time, a line each. */
  readonly log?: Log;
  /** Ends the wait for a boot. */
  readonly bootDeadlineMs?: number;
}

/** Emulated, on a busy machine: a boot takes 9 to 30 s. */
const BOOT_DEADLINE_MS = 180_000;
/** Of what is kept: another number, and what older versions have kept is not looked at. */
const SNAPSHOT_VERSION = 1;

/**
 * A machine whose guest waits at its shell's prompt, and does not run yet. Booting takes ten seconds or more, so a machine
 * that has booted is kept in the cache, by what it was made of, and the next one starts from there; the guest's clock goes
 * on from then.
 */
export async function startMachine(options: StartOptions): Promise<LinuxMachine> {
  const { image, memoryBytes, fresh = false, log = () => {}, bootDeadlineMs = BOOT_DEADLINE_MS } = options;
  const file = snapshotFile(image.hash, memoryBytes);
  const machine = await makeMachine({ ...options, role: 'boot' });
  if (!fresh && (await restored(machine, file))) {
    log(`Linux ${image.kernelVersion} as it was when it had booted, from ${file}`);
    return machine;
  }
  log(`booting Linux ${image.kernelVersion}: that takes some ten seconds, and is kept in the cache`);
  const began = performance.now();
  machine.guest.resume();
  await machine.console.booted({ deadlineMs: bootDeadlineMs });
  machine.guest.requestPause();
  log(`booted in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  try {
    mkdirSync(join(file, '..'), { recursive: true });
    replaceFile(file, await compress(new Uint8Array(await machine.emulator.save_state()), { level: FAST }));
  } catch (thrown) {
    log(`the booted machine is not kept: ${messageOf(thrown)}`);
  }
  return machine;
}

const compress = promisify<Uint8Array, object, Buffer>(gzip);
const decompress = promisify<Uint8Array, Buffer>(gunzip);
const FAST: number = constants.Z_BEST_SPEED;

/** False: there is none, or none that this machine can use. */
async function restored(machine: LinuxMachine, file: string): Promise<boolean> {
  let packed: Uint8Array;
  try {
    packed = readFileSync(file);
  } catch {
    return false;
  }
  // What is not what was written does not decompress, by its checksum; and one of another version has another name.
  const state = await decompress(packed).catch(() => undefined);
  if (state === undefined) {
    return false;
  }
  await machine.emulator.restore_state(bufferOf(state));
  return true;
}

function snapshotFile(imageHash: string, memoryBytes: number): string {
  const key = createHash('sha256')
    .update([SNAPSHOT_VERSION, v86Version(), imageHash, memoryBytes].join('\n'))
    .digest('hex');
  return join(cacheFolder(), 'linux', `booted-${key.slice(0, 32)}.gz`);
}
