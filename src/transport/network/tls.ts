import {
  constants,
  createHash,
  createPrivateKey,
  randomBytes,
  timingSafeEqual,
  X509Certificate,
} from 'node:crypto';
import { isIP, type Socket } from 'node:net';
import {
  checkServerIdentity,
  connect,
  createSecureContext,
  createServer,
  type PeerCertificate,
  type SecureContextOptions,
  type TLSSocket,
} from 'node:tls';
import { LacunaError, messageOf } from '../../errors.js';

/**
 * How a connection is secured: by certificates (`ca`, `cert` and `key`, all three, in PEM), or by a pre-shared key. Both
 * ends prove who they are either way. Plain data: it can be cloned to a thread.
 */
export interface TlsSettings {
  /** Who may have signed the other end's certificate. The system's authorities are not asked. */
  readonly ca?: string;
  /** The certificate of this end, with those between it and the other end's `ca`, if there are any. */
  readonly cert?: string;
  /** The private key of `cert`. */
  readonly key?: string;
  /** A key that both ends know, 16 to 64 bytes, and what it is called, 1 to 128 bytes. */
  readonly psk?: { readonly identity: string; readonly key: Uint8Array };
  /** The name that the destination's certificate must be for, if that is not the host that is connected to. */
  readonly serverName?: string;
}

/** Nobody takes longer to prove who they are. */
export const TLS_HANDSHAKE_MS = 10_000;
/** The first byte of a TLS record says of what kind it is. */
export const TlsRecord = { alert: 0x15, handshake: 0x16 } as const;

/** Authenticated encryption only, with forward secrecy; the names of TLS 1.3 come first. */
const CERTIFICATE_SUITES =
  'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:' +
  'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:' +
  'ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305';
/** A pre-shared key goes with SHA-256 only in TLS 1.3 (OpenSSL takes it for a key of that hash). */
const PSK_SUITES = 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305';

const LEAST_KEY_BYTES = 16;
const MOST_KEY_BYTES = 64;
const MOST_IDENTITY_BYTES = 128;

/**
 * Checks settings before anything is connected. Throws INVALID_ARGUMENT for what can't be used, AUTHENTICATION_FAILED for a
 * certificate of this end's whose time is over.
 */
export function checkTlsSettings(tls: TlsSettings): void {
  const { ca, cert, key, psk } = tls;
  if (psk !== undefined) {
    if (ca !== undefined || cert !== undefined || key !== undefined) {
      throw invalid('give certificates (ca, cert, key) or a pre-shared key (psk), not both');
    }
    const identityBytes = Buffer.byteLength(psk.identity);
    if (identityBytes === 0 || identityBytes > MOST_IDENTITY_BYTES) {
      throw invalid(`the identity of the pre-shared key has 1 to ${MOST_IDENTITY_BYTES} bytes`);
    }
    if (psk.key.length < LEAST_KEY_BYTES || psk.key.length > MOST_KEY_BYTES) {
      throw invalid(
        `the pre-shared key has ${LEAST_KEY_BYTES} to ${MOST_KEY_BYTES} bytes, not ${psk.key.length}`,
      );
    }
    return;
  }
  if (ca === undefined || cert === undefined || key === undefined) {
    const missing = Object.entries({ ca, cert, key }).filter(([, value]) => value === undefined);
    throw invalid(
      `TLS needs ca, cert and key, for both ends show a certificate, or psk; ${missing.map(([name]) => name).join(', ')} missing`,
    );
  }
  const own = read('cert', () => new X509Certificate(cert));
  read('ca', () => new X509Certificate(ca));
  if (!own.checkPrivateKey(read('key', () => createPrivateKey(key)))) {
    throw invalid('the private key (key) does not belong to the certificate (cert)');
  }
  const now = Date.now();
  if (Date.parse(own.validTo) < now) {
    throw failed(`the certificate of this end (cert) expired on ${own.validTo}: renew it`);
  }
  if (Date.parse(own.validFrom) > now) {
    throw failed(
      `the certificate of this end (cert) is valid from ${own.validFrom} on: is this clock right?`,
    );
  }
  read('cert, key or ca', () => createSecureContext(contextOf(tls)));
}

/**
 * The source's end of TLS over `socket`, which is connected and of which nothing was read. The destination's certificate is
 * checked, its name too, and ours is sent; or both know the key. Rejects with AUTHENTICATION_FAILED, or CONNECTION_FAILED
 * if the connection broke; the socket is destroyed then.
 */
export function secureClient(
  socket: Socket,
  tls: TlsSettings,
  deadlineMs: number = TLS_HANDSHAKE_MS,
): Promise<TLSSocket> {
  const name = tls.serverName ?? socket.remoteAddress ?? '';
  return new Promise((resolve, reject) => {
    const { psk } = tls;
    let secured: TLSSocket;
    try {
      secured = connect({
        ...contextOf(tls),
        socket,
        ...(isIP(name) === 0 && name !== '' ? { servername: name } : {}),
        rejectUnauthorized: true,
        // With TLS 1.3 a server that knows the key is not asked for a certificate; one that shows one does not know it.
        checkServerIdentity: (_host, certificate: PeerCertificate) =>
          psk === undefined ? checkServerIdentity(name, certificate) : certificateInsteadOfKey(certificate),
        ...(psk === undefined
          ? {}
          : { pskCallback: () => ({ psk: Buffer.from(psk.key), identity: psk.identity }) }),
      });
    } catch (cause) {
      socket.destroy();
      reject(failed(`TLS can't be used: ${messageOf(cause)}`, cause));
      return;
    }
    const refuse = (error: LacunaError): void => {
      clearTimeout(timer);
      secured.on('error', ignore);
      secured.destroy();
      socket.destroy();
      reject(error);
    };
    const onError = (cause: unknown): void => refuse(explain(cause, 'destination', tls, name));
    const onClose = (): void => refuse(closed('destination', tls));
    const timer = setTimeout(() => refuse(silent('destination')), deadlineMs);
    secured.once('error', onError).once('close', onClose);
    secured.once('secureConnect', () => {
      clearTimeout(timer);
      secured.off('error', onError).off('close', onClose);
      resolve(secured);
    });
  });
}

/**
 * The destination's end of TLS over `socket`; what was read of it already must have been put back (`unshift`). Rejects as
 * {@link secureClient} does. A source that doesn't know the key is told the same whether it has the identity right or not.
 */
export function secureServer(
  socket: Socket,
  tls: TlsSettings,
  deadlineMs: number = TLS_HANDSHAKE_MS,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const { psk } = tls;
    try {
      // A server that never listens is how Node lets a connection be secured that was accepted elsewhere; one for each
      // connection, so that no session is ever resumed by another.
      const server = createServer({
        ...contextOf(tls),
        requestCert: psk === undefined,
        rejectUnauthorized: true,
        handshakeTimeout: deadlineMs,
        ...(psk === undefined
          ? {}
          : { pskCallback: (_socket: TLSSocket, identity: string) => keyFor(identity, psk) }),
      });
      server.once('secureConnection', resolve);
      server.once('tlsClientError', (cause: Error, secured: TLSSocket) => {
        secured.on('error', ignore);
        secured.destroy();
        socket.destroy();
        const { authorizationError } = secured;
        reject(explain(authorizationError ?? cause, 'source', tls, ''));
      });
      server.emit('connection', socket);
    } catch (cause) {
      socket.destroy();
      reject(failed(`TLS can't be used: ${messageOf(cause)}`, cause));
    }
  });
}

function contextOf({ ca, cert, key, psk }: TlsSettings): SecureContextOptions {
  return {
    minVersion: 'TLSv1.2',
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET,
    honorCipherOrder: false, // both ends may have either fast; all of them are good
    ...(psk === undefined
      ? { ca: ca ?? [], cert, key, ciphers: CERTIFICATE_SUITES }
      : { ca: [], ciphers: PSK_SUITES }),
  };
}

/** An identity that isn't known gets a key that nobody knows, and fails as a wrong key does. */
function keyFor(identity: string, psk: NonNullable<TlsSettings['psk']>): Buffer {
  const isKnown = timingSafeEqual(digest(identity), digest(psk.identity));
  const nobodys = randomBytes(psk.key.length);
  return isKnown ? Buffer.from(psk.key) : nobodys;
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function certificateInsteadOfKey(certificate: PeerCertificate | undefined): Error | undefined {
  return certificate === undefined || Object.keys(certificate).length === 0
    ? undefined
    : new Error('it showed a certificate where a pre-shared key was asked for');
}

type Side = 'source' | 'destination';

/** What went wrong, in words that say what to do. `peer` is the end that we speak to. */
function explain(cause: unknown, peer: Side, tls: TlsSettings, name: string): LacunaError {
  const code = codeOf(cause);
  switch (code) {
    case 'CERT_HAS_EXPIRED':
      return failed(`the ${peer}'s certificate has expired: renew it there (cert)`, cause);
    case 'CERT_NOT_YET_VALID':
      return failed(`the ${peer}'s certificate is not valid yet: look at the clocks of both machines`, cause);
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
      return tls.psk === undefined
        ? failed(
            `the ${peer}'s certificate was not signed by the authority that is trusted here: give this end the ` +
              `authority (ca) of the ${peer}'s cert`,
            cause,
          )
        : failed(
            `the ${peer} showed a certificate where a pre-shared key was asked for: give both ends the key`,
            cause,
          );
    case 'INVALID_PURPOSE':
    case 'ERR_SSL_UNSUPPORTED_CERTIFICATE_PURPOSE':
      return failed(
        `the ${peer}'s certificate is not made for a ${roleOf(peer)}: see its extended key usage`,
        cause,
      );
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return failed(
        `the destination's certificate is not for "${name}": connect to the name that it is for, or say which ` +
          `that is (serverName) (${messageOf(cause)})`,
        cause,
      );
    case 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE':
      return failed('the source showed no certificate: give it one (cert and key)', cause);
    case 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED':
      return failed(`the ${peer} wants a certificate: give this end one (cert and key)`, cause);
    case 'ERR_SSL_TLSV1_ALERT_UNKNOWN_CA':
    case 'ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE':
    case 'ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN':
    case 'ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED':
    case 'ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR':
      return failed(`the ${peer} refuses the certificate of this end (cert): ${messageOf(cause)}`, cause);
    case 'ERR_SSL_BINDER_DOES_NOT_VERIFY':
    case 'ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC':
    case 'ERR_SSL_SSLV3_ALERT_ILLEGAL_PARAMETER':
    case 'ERR_SSL_SSLV3_ALERT_BAD_RECORD_MAC':
      return tls.psk === undefined
        ? failed(`the TLS handshake with the ${peer} failed: ${messageOf(cause)}`, cause)
        : failed('the pre-shared key, or its identity, is not the same at both ends', cause);
    case 'ERR_SSL_NO_SHARED_CIPHER':
    case 'ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM':
    case 'ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE':
    case 'ERR_SSL_TLSV1_ALERT_INSUFFICIENT_SECURITY':
      return failed(
        `the ${peer} and this end found nothing that both can do: one may use a pre-shared key and the other ` +
          'certificates, or it offers no authenticated encryption (AEAD)',
        cause,
      );
    case 'ERR_SSL_UNSUPPORTED_PROTOCOL':
    case 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION':
      return failed(`the ${peer} speaks no TLS as new as 1.2`, cause);
    case 'ERR_SSL_WRONG_VERSION_NUMBER':
    case 'ERR_SSL_PACKET_LENGTH_TOO_LONG':
    case 'ERR_SSL_HTTP_REQUEST':
      return failed(
        `what answers as the ${peer} does not speak TLS: is it the right port, and does it use TLS?`,
        cause,
      );
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return silent(peer, cause);
    case 'ECONNRESET':
    case 'EPIPE':
      return closed(peer, tls, cause);
    default:
      return failed(`the TLS handshake with the ${peer} failed: ${messageOf(cause)}`, cause);
  }
}

function closed(peer: Side, tls: TlsSettings, cause?: unknown): LacunaError {
  const what = tls.psk === undefined ? "this end's certificate" : 'the pre-shared key';
  return new LacunaError(
    'CONNECTION_FAILED',
    `the ${peer} closed the connection during the TLS handshake: if it did not end, see there whether it refuses ${what}`,
    { cause },
  );
}

function silent(peer: Side, cause?: unknown): LacunaError {
  return new LacunaError(
    'CONNECTION_FAILED',
    `the ${peer} did not finish the TLS handshake in time: does it use TLS, and is the link there?`,
    { cause },
  );
}

/** An OpenSSL error has a `code`; what a server holds against a certificate is sometimes nothing but that code. */
function codeOf(cause: unknown): string {
  if (typeof cause === 'string') {
    return cause;
  }
  const { code } = (cause ?? {}) as { code?: unknown };
  return typeof code === 'string' ? code : messageOf(cause);
}

function roleOf(side: Side): string {
  return side === 'destination' ? 'server' : 'client';
}

function read<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw invalid(`TLS can't use ${what}: ${messageOf(cause)}`, cause);
  }
}

function ignore(): void {
  // The error that matters was told; what a socket that is being destroyed says besides is not.
}

function invalid(message: string, cause?: unknown): LacunaError {
  return new LacunaError('INVALID_ARGUMENT', message, { cause });
}

function failed(message: string, cause?: unknown): LacunaError {
  return new LacunaError('AUTHENTICATION_FAILED', message, { cause });
}
