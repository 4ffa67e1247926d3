import { messageOf } from '../../errors.js';
import { equalBytes } from '../../memory/byte-ops.js';
import { invalid, isWhole } from './state-checks.js';

/**
 * A v86 machine's state without its RAM, on its way: two megabytes, of which some ten kilobytes are not zero (most is the
 * memory of a screen that shows nothing). So blocks of zeroes are left out.
 *
 * ```
 *   le32 magic "LV86"   le32 version   le32 length of v86's state   le32 blocks that follow
 *   a bit for each block of v86's state, from the lowest bit of the first byte on; whole bytes
 *   the blocks whose bit is set, 1024 bytes each (the last one may be shorter)
 * ```
 */
const MAGIC = 0x3638_564c;
const VERSION = 1;
const HEADER_BYTES = 16;
const BLOCK_BYTES = 1024;

const ZEROES: Uint8Array = new Uint8Array(BLOCK_BYTES);

/** Of v86's state: its magic, and the version of the v86 that it is of. */
const V86_STATE_MAGIC = 0x8676_8676;
const V86_STATE_VERSION = 6;
const V86_HEADER_BYTES = 16;
/** A screen has 8 MiB by default, and may have more; what else a machine has comes to less than one. */
const LONGEST_V86_STATE_BYTES: number = 64 * 1024 * 1024;

/** Without its zeroes. */
export function packState(state: ArrayBuffer): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(state);
  const blocks = Math.ceil(bytes.length / BLOCK_BYTES);
  const map = new Uint8Array(Math.ceil(blocks / 8));
  let packedBytes = HEADER_BYTES + map.length;
  let packed = 0;
  for (let block = 0; block < blocks; block += 1) {
    const from = block * BLOCK_BYTES;
    const to = Math.min(bytes.length, from + BLOCK_BYTES);
    if (!equalBytes(bytes.subarray(from, to), ZEROES.subarray(0, to - from))) {
      map[block >>> 3]! |= 1 << (block & 7);
      packedBytes += to - from;
      packed += 1;
    }
  }
  const out = new Uint8Array(packedBytes);
  const header = new DataView(out.buffer);
  header.setUint32(0, MAGIC, true);
  header.setUint32(4, VERSION, true);
  header.setUint32(8, bytes.length, true);
  header.setUint32(12, packed, true);
  out.set(map, HEADER_BYTES);
  let at = HEADER_BYTES + map.length;
  for (let block = 0; block < blocks; block += 1) {
    if (((map[block >>> 3]! >>> (block & 7)) & 1) === 1) {
      const piece = bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      out.set(piece, at);
      at += piece.length;
    }
  }
  return out;
}

/**
 * v86's state again, of a machine of `memoryBytes` bytes of RAM. It comes from a peer, who is not trusted: lengths and
 * places are checked here, so that v86 reads nothing but what is there, and makes no other memory of it. What its
 * devices make of the values is theirs. Throws DEVICE_STATE_INVALID.
 */
export function unpackState(packed: Uint8Array, memoryBytes: number): ArrayBuffer {
  const header = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  if (packed.length < HEADER_BYTES || header.getUint32(0, true) !== MAGIC) {
    throw invalid('it is not of a v86 machine');
  }
  const version = header.getUint32(4, true);
  if (version !== VERSION) {
    throw invalid(
      `it is of version ${version}, and this is version ${VERSION}: use one version of lacuna at both ends`,
    );
  }
  const length = header.getUint32(8, true);
  const blocks = Math.ceil(length / BLOCK_BYTES);
  const mapBytes = Math.ceil(blocks / 8);
  if (length > LONGEST_V86_STATE_BYTES || HEADER_BYTES + mapBytes > packed.length) {
    throw invalid(`it says that it is ${length} bytes long`);
  }
  const map = packed.subarray(HEADER_BYTES, HEADER_BYTES + mapBytes);
  const state = new Uint8Array(length);
  let at = HEADER_BYTES + mapBytes;
  for (let block = 0; block < blocks; block += 1) {
    if (((map[block >>> 3]! >>> (block & 7)) & 1) === 1) {
      const from = block * BLOCK_BYTES;
      const end = at + Math.min(BLOCK_BYTES, length - from);
      state.set(packed.subarray(at, end), from); // as much of it as there is
      at = end;
    }
  }
  if (at !== packed.length) {
    throw invalid(`it is ${packed.length} bytes long, and its blocks end at ${at}`);
  }
  checkV86State(state, memoryBytes);
  return state.buffer;
}

function checkV86State(state: Uint8Array<ArrayBuffer>, memoryBytes: number): void {
  if (state.length < V86_HEADER_BYTES) {
    throw invalid(`v86's part is ${state.length} bytes long`);
  }
  const [magic, version, length, infoBytes] = new Uint32Array(state.buffer, 0, 4);
  if (magic !== V86_STATE_MAGIC || version !== V86_STATE_VERSION) {
    throw invalid(
      `v86's part is of version ${version}, and this v86 reads version ${V86_STATE_VERSION}: use one version of v86 at both ends`,
    );
  }
  const buffersAt = (V86_HEADER_BYTES + infoBytes! + 3) & ~3;
  if (length !== state.length || infoBytes! > state.length || buffersAt > state.length) {
    throw invalid("v86's part is shorter than it says");
  }
  let info: { buffer_infos?: unknown; state?: unknown } | null;
  try {
    info = JSON.parse(
      new TextDecoder().decode(state.subarray(V86_HEADER_BYTES, V86_HEADER_BYTES + infoBytes!)),
    ) as typeof info;
  } catch (cause) {
    throw invalid(`v86's part: ${messageOf(cause)}`);
  }
  const { buffer_infos: buffers, state: values } = info ?? {};
  if (!Array.isArray(buffers) || !Array.isArray(values)) {
    throw invalid("v86's part has no values");
  }
  const room = state.length - buffersAt;
  for (const buffer of buffers as ({ offset?: unknown; length?: unknown } | null)[]) {
    const { offset, length: bytes } = buffer ?? {};
    if (!isWhole(offset, room) || !isWhole(bytes, room - offset)) {
      throw invalid("v86's part has a buffer outside itself");
    }
  }
  if (values[0] !== memoryBytes) {
    throw invalid(
      `it is of a machine with ${String(values[0])} bytes of RAM, and this one has ${memoryBytes}`,
    );
  }
}
