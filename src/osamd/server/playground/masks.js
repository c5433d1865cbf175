// Masks as the API sends them (a grey PNG of the bounding box, in base64) into what is drawn and what is exported.

import { trace } from "./contours.js";

// What is drawn is traced at this many pixels at most; what is exported always at all of them.
const DRAWN_PIXELS = 1_000_000;

function pngBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

async function bitsOf(base64, width, height) {
  const bitmap = await createImageBitmap(pngBlob(base64), { resizeWidth: width, resizeHeight: height, resizeQuality: "pixelated" });
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const bits = new Uint8Array(width * height);
  for (let i = 0; i < bits.length; i++) bits[i] = data[i * 4] > 127 ? 1 : 0;
  return bits;
}

const windowOf = ({ xmin, ymin, xmax, ymax }) => ({ x: xmin, y: ymin, width: xmax - xmin + 1, height: ymax - ymin + 1 });

const shapes = new WeakMap();

/** The shape of an annotation that was prepared before. */
export const preparedShape = (annotation) => shapes.get(annotation);

/** A shape to draw: an outline in pixels of the photo, or only a box where the model gives no mask. */
export async function shapeOf(annotation) {
  const shape = await madeShape(annotation);
  shapes.set(annotation, shape);
  return shape;
}

async function madeShape(annotation) {
  const box = windowOf(annotation.bounding_box);
  const shape = { box, path: null, area: 0, score: annotation.score, text: annotation.text, maskId: annotation.mask_id, png: annotation.mask };
  if (!annotation.mask) return shape;
  const shrink = Math.min(1, Math.sqrt(DRAWN_PIXELS / (box.width * box.height)));
  const width = Math.max(1, Math.round(box.width * shrink));
  const height = Math.max(1, Math.round(box.height * shrink));
  const bits = await bitsOf(annotation.mask, width, height);
  const [scaleX, scaleY] = [box.width / width, box.height / height];
  const path = new Path2D();
  for (const ring of trace(bits, width, height)) {
    for (let i = 0; i < ring.length; i += 2) {
      const [x, y] = [box.x + ring[i] * scaleX, box.y + ring[i + 1] * scaleY];
      if (i) path.lineTo(x, y);
      else path.moveTo(x, y);
    }
    path.closePath();
  }
  let count = 0;
  for (const bit of bits) count += bit;
  return { ...shape, path, area: count * scaleX * scaleY };
}

/** The union of shapes' masks, every pixel of it, in the smallest window that holds them; null where there is none. */
export async function exactMask(shapes) {
  const drawn = shapes.filter((shape) => shape.png);
  if (!drawn.length) return null;
  const x = Math.min(...drawn.map(({ box }) => box.x));
  const y = Math.min(...drawn.map(({ box }) => box.y));
  const width = Math.max(...drawn.map(({ box }) => box.x + box.width)) - x;
  const height = Math.max(...drawn.map(({ box }) => box.y + box.height)) - y;
  const bits = new Uint8Array(width * height);
  for (const { png, box } of drawn) {
    const part = await bitsOf(png, box.width, box.height);
    for (let row = 0; row < box.height; row++) {
      const start = (row + box.y - y) * width + box.x - x;
      for (let column = 0; column < box.width; column++) bits[start + column] |= part[row * box.width + column];
    }
  }
  let area = 0;
  for (const bit of bits) area += bit;
  return { bits, x, y, width, height, area };
}
