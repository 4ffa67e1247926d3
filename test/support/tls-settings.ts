import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TlsSettings } from '../../src/transport/network/tls.js';

/** Made by `certificates/make.sh`. */
export type CertificateName = 'destination' | 'source' | 'elsewhere' | 'expired' | 'foreign';

function pem(file: string): string {
  return readFileSync(join(import.meta.dirname, 'certificates', file), 'utf8');
}

/** Settings of an end that shows `name` and trusts `authority`. */
export function certificateOf(
  name: CertificateName,
  authority: 'authority' | 'stranger' = 'authority',
): TlsSettings {
  return { ca: pem(`${authority}.pem`), cert: pem(`${name}.pem`), key: pem(`${name}.key`) };
}

/** A pre-shared key whose bytes are all `byte`. */
export function sharedKey(identity = 'tests', byte = 7): TlsSettings {
  return { psk: { identity, key: new Uint8Array(32).fill(byte) } };
}
