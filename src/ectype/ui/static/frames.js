// Packed frames: a JSON head and typed arrays in one body, as `ectype.ui.frames` writes and reads them.
//
// Four bytes with the length of the head, little-endian; the head, padded with spaces to a multiple of eight bytes; then
// the arrays that it lists as {name, dtype, shape}, each padded to a multiple of eight bytes.

const TYPES = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array };
const padded = (length) => Math.ceil(length / 8) * 8;

/** Return a frame of a head and typed arrays by name. */
export function pack(head, arrays = {}) {
  const listed = Object.entries(arrays).map(([name, values]) => {
    const dtype = Object.keys(TYPES).find((key) => values instanceof TYPES[key]);
    return { name, dtype, shape: [values.length] };
  });
  const text = new TextEncoder().encode(JSON.stringify({ ...head, arrays: listed }));
  const start = padded(4 + text.length);
  const total = Object.values(arrays).reduce((sum, values) => sum + padded(values.byteLength), start);
  const bytes = new Uint8Array(total).fill(32, 4, start);
  new DataView(bytes.buffer).setUint32(0, start - 4, true);
  bytes.set(text, 4);
  let at = start;
  for (const values of Object.values(arrays)) {
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
    at += padded(values.byteLength);
  }
  return bytes;
}

/** Return {head, arrays} of a frame; each array has the property `shape`. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  let at = 4 + length;
  for (const { name, dtype, shape } of head.arrays) {
    const count = shape.reduce((product, side) => product * side, 1);
    const values = new TYPES[dtype](buffer, at, count);
    values.shape = shape;
    arrays[name] = values;
    at += padded(values.byteLength);
  }
  return { head, arrays };
}
