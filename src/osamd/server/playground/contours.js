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
