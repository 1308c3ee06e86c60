// Packed data: gzip of (u32 length of the header, header as JSON, arrays aligned to 8 bytes); arrays stand in the header as {"array": [type, shape, offset]}.
const TYPES = { f4: Float32Array, f8: Float64Array, i4: Int32Array, i2: Int16Array, u2: Uint16Array, u1: Uint8Array };

function bytesOf(source) {
  if (typeof source === "string") return Uint8Array.from(atob(source.trim()), c => c.charCodeAt(0));
  return new Uint8Array(source.buffer ?? source, source.byteOffset ?? 0, source.byteLength);
}

export async function unpack(source) {
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old for the player (it lacks DecompressionStream).");
  let buffer;
  try {
    const stream = new Blob([bytesOf(source)]).stream().pipeThrough(new DecompressionStream("gzip"));
    buffer = await new Response(stream).arrayBuffer();
  } catch { throw new Error("The data of this player is damaged; make the page again."); }
  const length = new DataView(buffer).getUint32(0, true), start = Math.ceil((4 + length) / 8) * 8;
  const revive = (_, v) => {
    if (!v?.array) return v;
    const [type, shape, offset] = v.array;
    return new TYPES[type](buffer, start + offset, shape.reduce((a, b) => a * b, 1));
  };
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)), revive);
}
