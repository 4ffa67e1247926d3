import { LacunaError, type LacunaErrorCode } from '../../errors.js';
import type { Thread } from '../threads.js';

/** Room for a failure that a thread leaves in shared memory. */
export const FAILURE_BYTES = 2048;

/** Writes a failure into {@link FAILURE_BYTES}; gives how many were needed. Words that are too long are cut off. */
export function writeFailure(into: Uint8Array<ArrayBufferLike>, { code, message }: LacunaError): number {
  const bytes = new Uint8Array(FAILURE_BYTES); // a shared one is refused by encodeInto()
  const { written } = new TextEncoder().encodeInto(`${code} ${message}`, bytes);
  into.set(bytes.subarray(0, written));
  return written;
}

/** The failure that a thread of this process has left. */
export function readFailure(bytes: Uint8Array<ArrayBufferLike>): LacunaError {
  const text = new TextDecoder().decode(bytes.slice());
  const space = text.indexOf(' ');
  return new LacunaError(text.slice(0, space) as LacunaErrorCode, text.slice(space + 1));
}

/** Why the thread of a stream has died, if it has: the stream died with it. */
export function threadFailure({ failure }: Thread): LacunaError | undefined {
  return failure && new LacunaError('LINK_LOST', failure.message, { cause: failure });
}
