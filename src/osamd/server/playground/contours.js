// Outlines of a mask along the edges of its pixels.

// Right, down, left, up; and for each the two pixels ahead of a corner, on the left and on the right of the way.
const STEP_X = [1, 0, -1, 0];
const STEP_Y = [0, 1, 0, -1];
const LEFT_X = [0, 0, -1, -1];
const LEFT_Y = [-1, 0, 0, -1];
const RIGHT_X = [0, -1, -1, 0];
const RIGHT_Y = [0, 0, -1, -1];

/**
 * Rings around all parts of a mask, outer ones clockwise, holes the other way.
 * @param {Uint8Array} bits width * height, non-zero inside
 * @returns {Int32Array[]} x, y, x, y, ... of each ring's corners; 0, 0 is the corner of the first pixel
 */
export function trace(bits, width, height) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] !== 0;
  const isDone = new Uint8Array(width * height);
  const rings = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      // Every ring passes the top edge of some pixel, going right.
      if (bits[y * width + x] && !isDone[y * width + x] && !inside(x, y - 1)) rings.push(follow(x, y, inside, isDone, width));
    }
  }
  return rings;
}

// The mask is on the right of the way. Pixels that touch at a corner belong together, as in the API's polygons.
function follow(startX, startY, inside, isDone, width) {
  const ring = [];
  let [x, y, direction, last] = [startX, startY, 0, -1];
  do {
    if (direction === 0) isDone[y * width + x] = 1;
    if (direction !== last) ring.push(x, y);
    last = direction;
    x += STEP_X[direction];
    y += STEP_Y[direction];
    if (inside(x + LEFT_X[direction], y + LEFT_Y[direction])) direction = (direction + 3) % 4;
    else if (!inside(x + RIGHT_X[direction], y + RIGHT_Y[direction])) direction = (direction + 1) % 4;
  } while (x !== startX || y !== startY || direction !== 0);
  return Int32Array.from(ring);
}

function areaOf(ring) {
  let sum = 0;
  for (let i = 0; i < ring.length; i += 2) {
    const j = (i + 2) % ring.length;
    sum += ring[i] * ring[j + 1] - ring[j] * ring[i + 1];
  }
  return sum / 2;
}

function isWithin(ring, x, y) {
  let is = false;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
    if (ring[i + 1] > y !== ring[j + 1] > y && x < ((ring[j] - ring[i]) * (y - ring[i + 1])) / (ring[j + 1] - ring[i + 1]) + ring[i]) is = !is;
  }
  return is;
}

/** Join a ring to another by a line there and back, which has no area: formats without holes can have them that way. */
function joined(ring, other) {
  let [best, at, from] = [Infinity, 0, 0];
  for (let i = 0; i < ring.length; i += 2) {
    for (let j = 0; j < other.length; j += 2) {
      const distance = (ring[i] - other[j]) ** 2 + (ring[i + 1] - other[j + 1]) ** 2;
      if (distance < best) [best, at, from] = [distance, i, j];
    }
  }
  return [...ring.slice(0, at + 2), ...other.slice(from), ...other.slice(0, from + 2), ...ring.slice(at)];
}

/** The parts of a mask along the edges of its pixels, in pixels of the photo: rings of x, y, x, y, ... and the holes in them. */
export function partsOf({ bits, x, y, width, height }) {
  const rings = trace(bits, width, height).map((ring) => {
    const points = Array.from(ring, (value, index) => value + (index % 2 ? y : x));
    return { ring, area: areaOf(ring), points, holes: [] };
  });
  const parts = rings.filter(({ area }) => area > 0).sort((a, b) => a.area - b.area);
  for (const { ring, points } of rings.filter(({ area }) => area < 0)) {
    // A ring begins at the corner of a pixel of the part that it belongs to, the smallest one around that pixel.
    parts.find((one) => isWithin(one.ring, ring[0] + 0.5, ring[1] + 0.5)).holes.push(points);
  }
  return parts.reverse();
}

/** Each part as one polygon x, y, x, y, ... with its holes joined to it; or all parts as one. */
export function polygonsOf(mask, isOne = false) {
  const polygons = partsOf(mask).map(({ points, holes }) => holes.reduce(joined, points));
  return isOne ? [polygons.reduce(joined)] : polygons;
}
