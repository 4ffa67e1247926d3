import { LacunaError, type LacunaErrorCode } from '../errors.js';
import { PAGE_SIZE } from '../memory/page.js';
import { type RamBlock, RamLayout } from '../memory/ram-layout.js';
import type { PageCounts } from './channel.js';
import {
  Feature,
  ID_BYTES,
  MOST_DEVICE_STATE_BYTES,
  MOST_RUN_PAGES,
  MOST_STREAMS,
  MOST_TEXT_BYTES,
  STARTED_BYTES,
  STREAM_COUNTS_BYTES,
  WELCOME_BYTES,
} from './frames.js';

/** The payloads that are not pages (docs/WIRE-FORMAT.md has their layouts). Whatever is decoded comes from an untrusted peer. */

/** The version that is spoken here, and the only one. */
export const WIRE_VERSION = 1;

const MOST_BLOCKS = 64;
const MOST_LABEL_BYTES = 1024;
const MOST_GUEST_BYTES = 16_384;
const HELLO_BYTES = 80;
const BLOCK_BYTES = 16;
const TWO_TO_32 = 2 ** 32;
/** Page frame numbers have 32 bits. */
const GPA_LIMIT: number = TWO_TO_32 * PAGE_SIZE;

/** Nothing is dropped, not even a byte order mark. */
const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });

const RESUMES = 1;
const COMMITTED = 2;

/** Every feature that is known here. */
export const KNOWN_FEATURES: number = Feature.compressedRuns;

/** What a source says first. */
export interface Hello {
  /** Bits of {@link Feature} without which it won't go on. */
  readonly requiredFeatures: number;
  /** Bits of {@link Feature} that it would use if the destination knows them. */
  readonly optionalFeatures: number;
  /** 1…16. */
  readonly streams: number;
  /** There was a link of this migration before. */
  readonly resumes: boolean;
  /** The commit has left on one of them: the guest may run at the destination (I10). */
  readonly committed: boolean;
  /** Pages of the longest run that it would send. */
  readonly longestRunPages: number;
  readonly longestDeviceStateBytes: number;
  /** 16 bytes. */
  readonly migrationId: Uint8Array;
  /** Of the destination that it knows, 16 bytes; zeroes if it knows none. */
  readonly nonce: Uint8Array;
  readonly layout: RamLayout;
  /** For people: at most 1024 bytes in UTF-8. */
  readonly label: string;
  /** For the VMMs: at most 16384 bytes in UTF-8. */
  readonly guest: string;
}

/** What the destination makes of a hello. */
export type WelcomeStatus =
  /** It begins to receive. */
  | 'fresh'
  /** It has what it said was applied, and goes on from there. */
  | 'kept'
  /** The migration is over: a commit or a withdrawal is answered, and nothing else. */
  | 'settled'
  /** The commit has left, and this destination knows nothing of the migration. */
  | 'unknown';

const STATUSES: readonly WelcomeStatus[] = ['fresh', 'kept', 'settled', 'unknown'];

/** What a destination answers. */
export interface Welcome {
  /** Bits of {@link Feature} that are used. */
  readonly features: number;
  readonly status: WelcomeStatus;
  readonly longestRunPages: number;
  readonly longestDeviceStateBytes: number;
  /** Of this instance of the destination, 16 bytes. */
  readonly nonce: Uint8Array;
  /** 16 bytes each, one for every stream; none unless the status is *fresh* or *kept*. */
  readonly tickets: readonly Uint8Array[];
}

/** Throws INVALID_ARGUMENT for a hello that can't be said. */
export function encodeHello(hello: Hello): Uint8Array<ArrayBuffer> {
  const { blocks } = hello.layout;
  const label = encodeAtMost(MOST_LABEL_BYTES, hello.label, 'the label of a migration');
  const guest = encodeAtMost(MOST_GUEST_BYTES, hello.guest, 'what the machines are to know of each other');
  if (blocks.length > MOST_BLOCKS || hello.layout.pfnSpan > TWO_TO_32) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `a machine of ${blocks.length} blocks of memory: the wire has room for ${MOST_BLOCKS}, below ${GPA_LIMIT}`,
    );
  }
  const textAt = HELLO_BYTES + blocks.length * BLOCK_BYTES;
  const bytes = new Uint8Array(textAt + label.length + guest.length);
  const view = viewOf(bytes);
  view.setUint16(0, WIRE_VERSION, true);
  view.setUint16(2, WIRE_VERSION, true);
  view.setUint32(4, hello.requiredFeatures, true);
  view.setUint32(8, hello.optionalFeatures, true);
  view.setUint32(12, PAGE_SIZE, true);
  view.setUint32(16, hello.streams, true);
  view.setUint32(20, (hello.resumes ? RESUMES : 0) | (hello.committed ? COMMITTED : 0), true);
  view.setUint32(24, hello.longestRunPages, true);
  view.setUint32(28, hello.longestDeviceStateBytes, true);
  bytes.set(ofLength(hello.migrationId, 'the id of a migration'), 32);
  bytes.set(ofLength(hello.nonce, 'the nonce of a destination'), 48);
  view.setUint32(64, blocks.length, true);
  view.setUint32(68, label.length, true);
  view.setUint32(72, guest.length, true);
  blocks.forEach(({ startGpa, endGpa }, i) => {
    const at = HELLO_BYTES + i * BLOCK_BYTES;
    setGpa(view, at, startGpa);
    setGpa(view, at + 8, endGpa);
  });
  bytes.set(label, textAt);
  bytes.set(guest, textAt + label.length);
  return bytes;
}

/**
 * Throws UNSUPPORTED for a version, a required feature or a page size that isn't spoken here (the version is looked at
 * before anything else), and PROTOCOL_VIOLATION for what makes no sense.
 */
export function decodeHello(payload: Uint8Array): Hello {
  expect(payload.length >= 4, `a hello of ${payload.length} bytes`);
  const view = viewOf(payload);
  const version = view.getUint16(0, true);
  const leastVersion = view.getUint16(2, true);
  if (leastVersion > WIRE_VERSION || version < WIRE_VERSION) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the source speaks versions ${leastVersion} to ${version} of the wire format, this destination speaks ${WIRE_VERSION}: update the older of the two`,
    );
  }
  expect(payload.length >= HELLO_BYTES, `a hello of ${payload.length} bytes`);
  const requiredFeatures = view.getUint32(4, true);
  const unknown = (requiredFeatures & ~KNOWN_FEATURES) >>> 0;
  if (unknown !== 0) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the source requires features that this destination does not know (bits ${bitsOf(unknown)}): turn them off there, or update this end`,
    );
  }
  const pageSize = view.getUint32(12, true);
  if (pageSize !== PAGE_SIZE) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the source has pages of ${pageSize} bytes, this destination ${PAGE_SIZE}`,
    );
  }
  const streams = view.getUint32(16, true);
  expect(streams >= 1 && streams <= MOST_STREAMS, `a hello for ${streams} streams: 1 to ${MOST_STREAMS}`);
  const flags = view.getUint32(20, true);
  const longestRunPages = view.getUint32(24, true);
  expect(longestRunPages >= 1, 'a hello with runs of no page');
  const blockCount = view.getUint32(64, true);
  const labelBytes = view.getUint32(68, true);
  const guestBytes = view.getUint32(72, true);
  expect(flags <= (RESUMES | COMMITTED) && view.getUint32(76, true) === 0, 'a hello with unknown flags');
  expect(
    blockCount >= 1 && blockCount <= MOST_BLOCKS,
    `a hello with ${blockCount} blocks of memory: 1 to ${MOST_BLOCKS}`,
  );
  expect(
    labelBytes <= MOST_LABEL_BYTES && guestBytes <= MOST_GUEST_BYTES,
    `a hello with texts of ${labelBytes} and ${guestBytes} bytes`,
  );
  const labelAt = HELLO_BYTES + blockCount * BLOCK_BYTES;
  const guestAt = labelAt + labelBytes;
  const end = guestAt + guestBytes;
  // A source of a later version, which speaks this one too, may have more to say at the end.
  expect(
    payload.length === end || (payload.length > end && version > WIRE_VERSION),
    `a hello of ${payload.length} bytes, with ${end} bytes of contents`,
  );
  const optionalFeatures = view.getUint32(8, true);
  return {
    requiredFeatures,
    optionalFeatures,
    streams,
    resumes: (flags & RESUMES) !== 0,
    committed: (flags & COMMITTED) !== 0,
    longestRunPages,
    longestDeviceStateBytes: view.getUint32(28, true),
    migrationId: idAt(payload, 32),
    nonce: idAt(payload, 48),
    layout: decodeLayout(view, blockCount),
    label: printable(UTF8.decode(payload.subarray(labelAt, guestAt))),
    guest: UTF8.decode(payload.subarray(guestAt, end)),
  };
}

function decodeLayout(view: DataView, blockCount: number): RamLayout {
  const blocks: RamBlock[] = [];
  let last = 0;
  for (let i = 0; i < blockCount; i += 1) {
    const at = HELLO_BYTES + i * BLOCK_BYTES;
    const startGpa = getGpa(view, at);
    const endGpa = getGpa(view, at + 8);
    expect(
      startGpa >= last &&
        endGpa > startGpa &&
        endGpa <= GPA_LIMIT &&
        startGpa % PAGE_SIZE === 0 &&
        endGpa % PAGE_SIZE === 0,
      `a hello with memory at ${startGpa}–${endGpa}: blocks are whole pages, ascending, disjoint, not empty and below ${GPA_LIMIT}`,
    );
    last = endGpa;
    blocks.push({ startGpa, endGpa });
  }
  return new RamLayout(blocks);
}

/** What both ends know and at least one of them wants. */
export function agreedFeatures(hello: Pick<Hello, 'requiredFeatures' | 'optionalFeatures'>): number {
  return (hello.requiredFeatures | hello.optionalFeatures) & KNOWN_FEATURES;
}

/** Throws INVALID_ARGUMENT for a nonce or a ticket that has not 16 bytes. */
export function encodeWelcome(welcome: Welcome): Uint8Array<ArrayBuffer> {
  const { tickets } = welcome;
  const bytes = new Uint8Array(WELCOME_BYTES + tickets.length * ID_BYTES);
  const view = viewOf(bytes);
  view.setUint16(0, WIRE_VERSION, true);
  view.setUint32(4, welcome.features, true);
  view.setUint32(8, STATUSES.indexOf(welcome.status), true);
  view.setUint32(12, welcome.longestRunPages, true);
  view.setUint32(16, welcome.longestDeviceStateBytes, true);
  view.setUint32(20, tickets.length, true);
  bytes.set(ofLength(welcome.nonce, 'the nonce of a destination'), 24);
  tickets.forEach((ticket, i) => {
    bytes.set(ofLength(ticket, 'a ticket'), WELCOME_BYTES + i * ID_BYTES);
  });
  return bytes;
}

/** `asked` is what this is the answer to. Throws UNSUPPORTED for an unknown version, PROTOCOL_VIOLATION for what is no answer to it. */
export function decodeWelcome(payload: Uint8Array, asked: Hello): Welcome {
  expect(payload.length >= WELCOME_BYTES, `a welcome of ${payload.length} bytes`);
  const view = viewOf(payload);
  const version = view.getUint16(0, true);
  if (version !== WIRE_VERSION) {
    throw new LacunaError(
      'UNSUPPORTED',
      `the destination chose version ${version} of the wire format, this source speaks ${WIRE_VERSION}`,
    );
  }
  const features = view.getUint32(4, true);
  const mayBe = asked.requiredFeatures | asked.optionalFeatures;
  expect(
    (features & ~mayBe) === 0 && (asked.requiredFeatures & ~features) === 0,
    `a welcome with the features of bits ${bitsOf(features)}, which is not what was asked for`,
  );
  const code = view.getUint32(8, true);
  const status = STATUSES[code];
  if (status === undefined) {
    throw new LacunaError('PROTOCOL_VIOLATION', `a welcome of the unknown status ${code}`);
  }
  const longestRunPages = view.getUint32(12, true);
  expect(
    longestRunPages >= 1 && longestRunPages <= Math.min(asked.longestRunPages, MOST_RUN_PAGES),
    `a welcome for runs of ${longestRunPages} pages`,
  );
  const longestDeviceStateBytes = view.getUint32(16, true);
  expect(
    longestDeviceStateBytes <= MOST_DEVICE_STATE_BYTES,
    `a welcome for a device state of ${longestDeviceStateBytes} bytes`,
  );
  const count = view.getUint32(20, true);
  const receives = status === 'fresh' || status === 'kept';
  expect(count === (receives ? asked.streams : 0), `a welcome with ${count} tickets`);
  expect(payload.length === WELCOME_BYTES + count * ID_BYTES, `a welcome of ${payload.length} bytes`);
  expect(
    view.getUint16(2, true) === 0 && view.getUint32(40, true) === 0 && view.getUint32(44, true) === 0,
    'a welcome with bytes where zeroes should be',
  );
  const tickets: Uint8Array[] = [];
  for (let at = WELCOME_BYTES; at < payload.length; at += ID_BYTES) {
    tickets.push(idAt(payload, at));
  }
  return {
    features,
    status,
    longestRunPages,
    longestDeviceStateBytes,
    nonce: idAt(payload, 24),
    tickets,
  };
}

/** The payload of *ready*: what every stream came to, in their order. */
export function encodeCounts(counts: readonly PageCounts[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(counts.length * STREAM_COUNTS_BYTES);
  const view = viewOf(bytes);
  counts.forEach(({ pages, zeroPages, filledPages, rounds }, i) => {
    const at = i * STREAM_COUNTS_BYTES;
    view.setFloat64(at, pages, true);
    view.setFloat64(at + 8, zeroPages, true);
    view.setFloat64(at + 16, filledPages, true);
    view.setUint32(at + 24, rounds, true);
  });
  return bytes;
}

/** `streams`: how many there are. Throws PROTOCOL_VIOLATION. */
export function decodeCounts(payload: Uint8Array, streams: number): PageCounts[] {
  expect(
    payload.length === streams * STREAM_COUNTS_BYTES,
    `counts of ${payload.length} bytes for ${streams} streams`,
  );
  const view = viewOf(payload);
  return Array.from({ length: streams }, (_, i) => {
    const at = i * STREAM_COUNTS_BYTES;
    const counted = (offset: number): number => {
      const pages = view.getFloat64(at + offset, true);
      expect(Number.isSafeInteger(pages) && pages >= 0, `a count of ${pages} pages`);
      return pages;
    };
    expect(view.getUint32(at + 28, true) === 0, 'counts with bytes where zeroes should be');
    return {
      pages: counted(0),
      zeroPages: counted(8),
      filledPages: counted(16),
      rounds: view.getUint32(at + 24, true),
    };
  });
}

/** The payload of *started*: ms since the epoch. */
export function encodeStarted(startedAt: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(STARTED_BYTES);
  viewOf(bytes).setFloat64(0, startedAt, true);
  return bytes;
}

/** Throws PROTOCOL_VIOLATION. */
export function decodeStarted(payload: Uint8Array): number {
  expect(payload.length === STARTED_BYTES, `a time of ${payload.length} bytes`);
  const startedAt = viewOf(payload).getFloat64(0, true);
  expect(Number.isFinite(startedAt) && startedAt >= 0, `a guest that was started at ${startedAt}`);
  return startedAt;
}

/** The numbers of errors on the wire. What isn't here goes as 0, and an unknown number is read as that. */
const ERROR_NUMBERS: readonly LacunaErrorCode[] = [
  'DESTINATION_FAILED',
  'PROTOCOL_VIOLATION',
  'UNSUPPORTED',
  'AUTHENTICATION_FAILED',
  'BUSY',
  'OUT_OF_MEMORY',
  'COUNT_MISMATCH',
  'DEVICE_STATE_INVALID',
  'LINK_LOST',
];

/** The `value` of an *error* frame. */
export function errorNumber(code: LacunaErrorCode): number {
  return Math.max(0, ERROR_NUMBERS.indexOf(code));
}

/** What an *error* frame says. Its words are the peer's, but safe to be shown. */
export function decodeError(value: number, payload: Uint8Array): LacunaError {
  return new LacunaError(ERROR_NUMBERS[value] ?? 'DESTINATION_FAILED', decodeText(payload));
}

/** Words, cut off after as many characters as fit a frame. */
export function encodeText(words: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(MOST_TEXT_BYTES);
  return bytes.slice(0, new TextEncoder().encodeInto(words, bytes).written);
}

/** Words of a peer: what isn't UTF-8 or would do something to a terminal is replaced. */
export function decodeText(payload: Uint8Array): string {
  return printable(UTF8.decode(payload));
}

/** Without control characters, and without those that turn the direction of text. */
function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Bidi_Control}]/gu, '\u{fffd}');
}

function encodeAtMost(mostBytes: number, text: string, what: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > mostBytes) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `${what} has ${bytes.length} bytes; there is room for ${mostBytes}`,
    );
  }
  return bytes;
}

function ofLength(id: Uint8Array, what: string): Uint8Array {
  if (id.length !== ID_BYTES) {
    throw new LacunaError('INVALID_ARGUMENT', `${what} has ${ID_BYTES} bytes, not ${id.length}`);
  }
  return id;
}

/** A copy: the payload is the decoder's. (`slice` of a Buffer would be none.) */
function idAt(payload: Uint8Array, at: number): Uint8Array {
  return new Uint8Array(payload.subarray(at, at + ID_BYTES));
}

function setGpa(view: DataView, at: number, gpa: number): void {
  view.setUint32(at, gpa % TWO_TO_32, true);
  view.setUint32(at + 4, Math.floor(gpa / TWO_TO_32), true);
}

/** Not exact beyond 2^53, but then beyond {@link GPA_LIMIT} as well. */
function getGpa(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_TO_32;
}

function bitsOf(features: number): string {
  const bits = Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => ((features >>> bit) & 1) === 1);
  return bits.join(', ');
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function expect(isRight: boolean, words: string): void {
  if (!isRight) {
    throw new LacunaError('PROTOCOL_VIOLATION', words);
  }
}
