// Masks as the API sends them (a grey PNG of the bounding box, in base64) into what is drawn and what is exported.

import { trace } from "./contours.js";
import { encodePng } from "./png.js";

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
  const shape = { box, path: null, area: 0, score: annotation.score, text: annotation.text, maskId: annotation.mask_id, png: annotation.mask, hasMask: Boolean(annotation.mask) };
  if (!annotation.mask) return shape;
  const shrink = Math.min(1, Math.sqrt(DRAWN_PIXELS / (box.width * box.height)));
  const width = Math.max(1, Math.round(box.width * shrink));
  const height = Math.max(1, Math.round(box.height * shrink));
  const bits = await bitsOf(annotation.mask, width, height);
  const [scaleX, scaleY] = [box.width / width, box.height / height];
  let count = 0;
  for (const bit of bits) count += bit;
  return { ...shape, path: outlineOf(bits, width, height, box, scaleX, scaleY), area: count * scaleX * scaleY };
}

function outlineOf(bits, width, height, { x: left, y: top }, scaleX = 1, scaleY = 1) {
  const path = new Path2D();
  for (const ring of trace(bits, width, height)) {
    for (let i = 0; i < ring.length; i += 2) {
      const [x, y] = [left + ring[i] * scaleX, top + ring[i + 1] * scaleY];
      if (i) path.lineTo(x, y);
      else path.moveTo(x, y);
    }
    path.closePath();
  }
  return path;
}

/** Where a stroke may have pixels, within the photo; null outside of it. */
function windowOfStroke({ radius, path }, photo) {
  const [xs, ys] = [path.filter((_, i) => i % 2 === 0), path.filter((_, i) => i % 2)];
  const x = Math.max(0, Math.floor(Math.min(...xs) - radius));
  const y = Math.max(0, Math.floor(Math.min(...ys) - radius));
  const width = Math.min(photo.width, Math.ceil(Math.max(...xs) + radius) + 1) - x;
  const height = Math.min(photo.height, Math.ceil(Math.max(...ys) + radius) + 1) - y;
  return width > 0 && height > 0 ? { x, y, width, height } : null;
}

function unionOf(windows) {
  const x = Math.min(...windows.map((one) => one.x));
  const y = Math.min(...windows.map((one) => one.y));
  return { x, y, width: Math.max(...windows.map((one) => one.x + one.width)) - x, height: Math.max(...windows.map((one) => one.y + one.height)) - y };
}

/** Copy or change bits of one window into another. */
function forEachInside(part, bits, whole, act) {
  for (let row = 0; row < part.height; row++) {
    const start = (row + part.y - whole.y) * whole.width + part.x - whole.x;
    for (let column = 0; column < part.width; column++) if (bits[row * part.width + column]) act(start + column);
  }
}

function rasterized({ radius, path }, part) {
  const context = new OffscreenCanvas(part.width, part.height).getContext("2d", { willReadFrequently: true });
  context.translate(-part.x, -part.y);
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: 2 * radius });
  context.beginPath();
  context.moveTo(path[0], path[1]);
  for (let i = 0; i < path.length; i += 2) context.lineTo(path[i], path[i + 1]);
  context.stroke();
  const { data } = context.getImageData(0, 0, part.width, part.height);
  return Uint8Array.from({ length: part.width * part.height }, (_, i) => (data[i * 4 + 3] > 127 ? 1 : 0));
}

/** Masks with strokes over them, as one shape; none where nothing is left. */
export async function paintedShapes(shapes, strokes, photo) {
  const before = await exactMask(shapes);
  const parts = strokes.map((stroke) => ({ stroke, part: windowOfStroke(stroke, photo) })).filter(({ part }) => part);
  const windows = [before, ...parts.map(({ part }) => part)].filter(Boolean);
  if (!windows.length) return [];
  const whole = unionOf(windows);
  const bits = new Uint8Array(whole.width * whole.height);
  if (before) forEachInside(before, before.bits, whole, (at) => (bits[at] = 1));
  for (const { stroke, part } of parts) {
    forEachInside(part, rasterized(stroke, part), whole, (at) => (bits[at] = stroke.isErase ? 0 : 1));
  }
  const box = tightBox(bits, whole);
  if (!box) return [];
  const inside = new Uint8Array(box.width * box.height);
  let area = 0;
  for (let row = 0; row < box.height; row++) {
    const start = (row + box.y - whole.y) * whole.width + box.x - whole.x;
    inside.set(bits.subarray(start, start + box.width), row * box.width);
  }
  for (const bit of inside) area += bit;
  return [{ box, path: outlineOf(inside, box.width, box.height, box), area, score: null, text: null, maskId: null, bits: inside, hasMask: true }];
}

/** Set the pixels of a mask in those of the photo. */
export function paste(pixels, photo, mask, value) {
  for (let y = 0; y < mask.height; y++) {
    const start = (y + mask.y) * photo.width + mask.x;
    for (let x = 0; x < mask.width; x++) if (mask.bits[y * mask.width + x]) pixels[start + x] = value;
  }
}

/** A grey PNG of the photo's size, 255 inside; null where there is no mask. */
export async function maskPng(shapes, photo) {
  const mask = await exactMask(shapes);
  if (!mask) return null;
  const pixels = new Uint8Array(photo.width * photo.height);
  paste(pixels, photo, mask, 255);
  return encodePng(pixels, photo.width, photo.height, 1);
}

function tightBox(bits, { x, y, width, height }) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (!bits[row * width + column]) continue;
      left = Math.min(left, column);
      right = Math.max(right, column);
      top = Math.min(top, row);
      bottom = row;
    }
  }
  return right < 0 ? null : { x: x + left, y: y + top, width: right - left + 1, height: bottom - top + 1 };
}

/** The union of shapes' masks, every pixel of it, in the smallest window that holds them; null where there is none. */
export async function exactMask(shapes) {
  const drawn = shapes.filter((shape) => shape.hasMask);
  if (!drawn.length) return null;
  const whole = unionOf(drawn.map(({ box }) => box));
  const bits = new Uint8Array(whole.width * whole.height);
  for (const shape of drawn) {
    const part = shape.bits ?? (await bitsOf(shape.png, shape.box.width, shape.box.height));
    forEachInside(shape.box, part, whole, (at) => (bits[at] = 1));
  }
  let area = 0;
  for (const bit of bits) area += bit;
  return { bits, ...whole, area };
}
