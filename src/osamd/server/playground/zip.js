// ZIP files without compression: what goes in is small, or compressed already.

import { crc32 } from "./png.js";

const UTF8_NAMES = 0x0800;
const EARLIEST_DATE = 0x21; // 1 January 1980

function record(signature, fields, name) {
  const bytes = new Uint8Array(4 + fields.reduce((sum, [size]) => sum + size, 0) + name.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, signature, true);
  let at = 4;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  bytes.set(name, at);
  return bytes;
}

/** @param {[string, Blob][]} entries names and contents */
export async function zip(entries) {
  const files = [];
  const directory = [];
  let offset = 0;
  for (const [path, blob] of entries) {
    const data = new Uint8Array(await blob.arrayBuffer());
    const name = new TextEncoder().encode(path);
    // Version, flags, method, time, date, checksum, both sizes, length of the name, of more.
    const common = [[2, 20], [2, UTF8_NAMES], [2, 0], [2, 0], [2, EARLIEST_DATE], [4, crc32(data)], [4, data.length], [4, data.length], [2, name.length], [2, 0]];
    const head = record(0x04034b50, common, name);
    directory.push(record(0x02014b50, [[2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]], name));
    files.push(head, data);
    offset += head.length + data.length;
  }
  const size = directory.reduce((sum, { length }) => sum + length, 0);
  const { length } = entries;
  const end = record(0x06054b50, [[2, 0], [2, 0], [2, length], [2, length], [4, size], [4, offset], [2, 0]], new Uint8Array(0));
  return new Blob([...files, ...directory, end], { type: "application/zip" });
}
