/** A state as v86 saves it: its header, what its parts said, and their buffers. */
export function v86State(values: readonly unknown[], buffers: readonly Uint8Array[] = []): ArrayBuffer {
  let offset = 0;
  const places = buffers.map(({ length }) => {
    const place = { offset, length };
    offset = (offset + length + 3) & ~3;
    return place;
  });
  const info = new TextEncoder().encode(JSON.stringify({ buffer_infos: places, state: values }));
  const buffersAt = (HEADER_BYTES + info.length + 3) & ~3;
  const state = new Uint8Array(buffersAt + offset);
  state.set(new Uint8Array(new Uint32Array([MAGIC, VERSION, state.length, info.length]).buffer));
  state.set(info, HEADER_BYTES);
  for (const [i, buffer] of buffers.entries()) {
    state.set(buffer, buffersAt + places[i]!.offset);
  }
  return state.buffer;
}

const MAGIC = 0x8676_8676;
const VERSION = 6;
const HEADER_BYTES = 16;
