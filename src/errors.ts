/** Everything that lacuna refuses or reports carries one of these codes; they are part of the public API. */
export type LacunaErrorCode =
  // what the embedder asked for
  | 'INVALID_ARGUMENT'
  | 'OUT_OF_MEMORY'
  | 'CAPTURE_NOT_FOUND'
  | 'CAPTURE_MALFORMED'
  | 'GUEST_TOO_SMALL'
  // what the guest did
  | 'QUEUE_CORRUPT'
  | 'VCPU_STUCK'
  | 'GUEST_FAILED'
  | 'SELF_CHECK_FAILED'
  // what the other end or the link did
  | 'DESTINATION_FAILED'
  | 'DESTINATION_SILENT'
  | 'PROTOCOL_VIOLATION'
  | 'COUNT_MISMATCH'
  | 'COMMIT_UNCONFIRMED'
  | 'DEVICE_STATE_INVALID'
  | 'CONNECTION_FAILED'
  | 'AUTHENTICATION_FAILED'
  | 'UNSUPPORTED'
  | 'BUSY'
  | 'LINK_LOST'
  // how a migration ended
  | 'NOT_CONVERGING'
  | 'CANCELLED'
  | 'VERIFICATION_FAILED'
  // a mistake in a program that uses lacuna, or in lacuna
  | 'OUT_OF_RANGE'
  | 'ILLEGAL_STATE';

/**
 * The one error class of the project. `code` is stable and meant for programs, `message` says what to do
 * about it, `cause` holds what lies underneath.
 */
export class LacunaError extends Error {
  readonly code: LacunaErrorCode;

  constructor(code: LacunaErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'LacunaError';
    this.code = code;
  }
}

/** Whether `value` is a {@link LacunaError}, of the given code if one is named. */
export function isLacunaError(value: unknown, code?: LacunaErrorCode): value is LacunaError {
  return value instanceof LacunaError && (code === undefined || value.code === code);
}

/**
 * Whatever was thrown as a {@link LacunaError}: itself if it is one, and if not one of that code; `before` comes before its
 * message.
 */
export function asLacunaError(thrown: unknown, code: LacunaErrorCode, before = ''): LacunaError {
  return isLacunaError(thrown)
    ? thrown
    : new LacunaError(code, `${before}${messageOf(thrown)}`, { cause: thrown });
}

/** The message of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
