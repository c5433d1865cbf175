// Prompts and names are kept in the browser by the photo's hash, to be offered again. Photos and masks of clicks are not.

import { crc32 } from "./png.js";

const PREFIX = "osamd.work.";
const MOST = 60;

/** Tells photos apart. It is no secret and guards nothing, and works without https. */
export async function hashOf(blob) {
  return `${blob.size}-${crc32(new Uint8Array(await blob.arrayBuffer())).toString(16)}`;
}

/** The objects kept for a photo, or none. */
export function savedObjects(hash) {
  try {
    const { objects } = JSON.parse(localStorage.getItem(PREFIX + hash) ?? "{}");
    return Array.isArray(objects) ? objects.filter(({ name, points }) => typeof name === "string" && Array.isArray(points)) : [];
  } catch {
    return [];
  }
}

export function save(hash, objects) {
  try {
    if (!objects.length) return localStorage.removeItem(PREFIX + hash);
    // A mask_id expires, so it is not worth keeping.
    const kept = objects.map(({ id, base, ...fields }) => fields);
    const text = JSON.stringify({ savedAt: Date.now(), objects: kept });
    for (const most of [MOST, MOST / 4, 0]) {
      try {
        makeRoom(most, hash);
        return localStorage.setItem(PREFIX + hash, text);
      } catch {
        // Full: drop more of the oldest.
      }
    }
  } catch {
    // Without storage nothing is kept.
  }
  return undefined;
}

function makeRoom(most, hash) {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX) && name !== PREFIX + hash);
  if (names.length < most) return;
  const ages = names
    .map((name) => [JSON.parse(localStorage.getItem(name)).savedAt ?? 0, name])
    .sort(([a], [b]) => b - a);
  for (const [, name] of ages.slice(Math.max(0, most - 1))) localStorage.removeItem(name);
}
