// PNG files from pixels. The browser's own encoder writes RGBA only, and loses colours where alpha is 0.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const COLOR_TYPES = { 1: 0, 4: 6 }; // grey; RGB and alpha
const INDEXED = 3;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

export function crc32(...parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  const type = Uint8Array.from(name, (letter) => letter.charCodeAt(0));
  view.setUint32(0, data.length);
  bytes.set(type, 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(type, data));
  return bytes;
}

/**
 * @param {Uint8Array|Uint8ClampedArray} pixels rows from the top, `channels` bytes a pixel
 * @param {1|4} channels grey, or red, green, blue and alpha
 * @param {string[]} palette #rrggbb for each value of a pixel, instead of grey
 */
export async function encodePng(pixels, width, height, channels, palette = null) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, palette ? INDEXED : COLOR_TYPES[channels], 0, 0, 0], 8);
  const stride = width * channels;
  const rows = new Uint8Array((stride + 1) * height);
  for (let y = 0; y < height; y++) rows.set(pixels.subarray(y * stride, (y + 1) * stride), y * (stride + 1) + 1);
  const squeezed = new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate")));
  const data = new Uint8Array(await squeezed.arrayBuffer());
  const colors = palette?.flatMap((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  const table = colors ? [chunk("PLTE", Uint8Array.from(colors))] : [];
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header), ...table, chunk("IDAT", data), chunk("IEND", new Uint8Array(0))];
  return new Blob(parts, { type: "image/png" });
}
