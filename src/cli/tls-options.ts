import { readFileSync, statSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { LacunaError, messageOf } from '../errors.js';
import { checkTlsSettings, type TlsSettings } from '../transport/network/tls.js';

/** How a connection is secured; nothing: it is not. */
export interface TlsOptions {
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsCa?: string;
  readonly tlsPsk?: string;
  readonly tlsName?: string;
}

/** A line with a key of 64 bytes in it, and an identity of 128, is shorter. */
const LONGEST_PSK_FILE = 1024;
/** Others than the owner may read, write or execute it. */
const OPEN_TO_OTHERS = 0o077;

/** Adds {@link TlsOptions} to a command; the source's end has a name to expect besides. */
export function addTlsOptions(command: Command, end: 'source' | 'destination'): Command {
  command
    .option('--tls-cert <file>', "this end's certificate (PEM); both ends show one")
    .option('--tls-key <file>', 'its private key (PEM)')
    .option('--tls-ca <file>', "who has signed the other end's certificate (PEM)")
    .addOption(
      new Option(
        '--tls-psk <file>',
        'instead of certificates, a key that both ends know: one line, identity:hex, at least 16 bytes',
      ).conflicts(['tlsCert', 'tlsKey', 'tlsCa']),
    );
  return end === 'destination'
    ? command
    : command.addOption(
        new Option(
          '--tls-name <name>',
          "the name that the destination's certificate is for, if not the host's",
        ).conflicts('tlsPsk'),
      );
}

/** Reads the files and checks what is in them. Throws INVALID_ARGUMENT with what to do. undefined: no TLS. */
export function tlsSettingsOf(options: TlsOptions): TlsSettings | undefined {
  const { tlsCert, tlsKey, tlsCa, tlsPsk, tlsName } = options;
  if (tlsPsk === undefined && tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) {
    if (tlsName !== undefined) {
      throw invalid('--tls-name is of a certificate: give --tls-cert, --tls-key and --tls-ca as well');
    }
    return undefined;
  }
  const settings: TlsSettings = tlsPsk === undefined ? certificates(options) : { psk: readSharedKey(tlsPsk) };
  checkTlsSettings(settings);
  return settings;
}

function certificates({ tlsCert, tlsKey, tlsCa, tlsName }: TlsOptions): TlsSettings {
  if (tlsCert === undefined || tlsKey === undefined || tlsCa === undefined) {
    throw invalid('--tls-cert, --tls-key and --tls-ca belong together: both ends show a certificate');
  }
  return {
    cert: read('--tls-cert', tlsCert),
    key: read('--tls-key', tlsKey),
    ca: read('--tls-ca', tlsCa),
    ...(tlsName === undefined ? {} : { serverName: tlsName }),
  };
}

function readSharedKey(file: string): NonNullable<TlsSettings['psk']> {
  const text = read('--tls-psk', file, (path) => {
    const { mode, size } = statSync(path);
    // Whoever reads it can take guests and send some. On Windows the mode says nothing.
    if (process.platform !== 'win32' && (mode & OPEN_TO_OTHERS) !== 0) {
      throw new Error(`others may read it; chmod 600 ${path}`);
    }
    if (size > LONGEST_PSK_FILE) {
      throw new Error(`${size} bytes: it is one line, identity:hex`);
    }
  });
  const match = /^(?<identity>[^:\r\n]+):(?<hex>(?:[0-9a-f]{2})+)\r?\n?$/i.exec(text);
  if (match === null) {
    throw invalid(`--tls-psk ${file}: it is one line, an identity, a colon and the key in hex, as in \
tests:$(openssl rand -hex 32)`);
  }
  const { identity, hex } = match.groups!;
  return { identity: identity!, key: new Uint8Array(Buffer.from(hex!, 'hex')) };
}

function read(option: string, file: string, check?: (path: string) => void): string {
  try {
    check?.(file);
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw invalid(`${option} ${file}: ${messageOf(cause)}`, cause);
  }
}

function invalid(message: string, cause?: unknown): LacunaError {
  return new LacunaError('INVALID_ARGUMENT', message, { cause });
}

/** How a connection reads: "TLS with certificates". */
export function describeTls(tls: TlsSettings | undefined): string {
  return tls === undefined
    ? 'not encrypted'
    : tls.psk === undefined
      ? 'TLS, certificates'
      : 'TLS, a pre-shared key';
}
