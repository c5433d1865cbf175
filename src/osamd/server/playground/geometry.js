// Screen and image coordinates. A view is {scale, x, y}: screen = image * scale + (x, y), in CSS pixels of the stage,
// where image runs from 0 at the left edge of the first pixel to width at the right edge of the last one.

export const MOST_SCALE = 40;

/** The view that shows the whole photo, with room around it; small photos grow to three times their size at most. */
export function fit(photo, stage, margin) {
  const width = Math.max(1, stage.width - 2 * margin.side);
  const height = Math.max(1, stage.height - margin.top - margin.bottom);
  const scale = Math.min(width / photo.width, height / photo.height, 3);
  return {
    scale,
    x: (stage.width - photo.width * scale) / 2,
    y: margin.top + (height - photo.height * scale) / 2,
  };
}

/** Zoom so that what is under the point stays under it. */
export function zoomAt(view, point, factor, least) {
  const scale = Math.min(MOST_SCALE, Math.max(least, view.scale * factor));
  const ratio = scale / view.scale;
  return { scale, x: point.x - (point.x - view.x) * ratio, y: point.y - (point.y - view.y) * ratio };
}

/** Move, but never so far that the photo leaves the stage. */
export function moved(view, dx, dy, photo, stage) {
  const keep = 48;
  const clamp = (value, size, room) => Math.min(room - keep, Math.max(keep - size, value));
  return {
    scale: view.scale,
    x: clamp(view.x + dx, photo.width * view.scale, stage.width),
    y: clamp(view.y + dy, photo.height * view.scale, stage.height),
  };
}

/** The pixel under a point of the stage, or null beside the photo. Whole numbers, as the API counts them. */
export function pixelAt(view, point, photo) {
  const x = Math.floor((point.x - view.x) / view.scale);
  const y = Math.floor((point.y - view.y) / view.scale);
  return x >= 0 && y >= 0 && x < photo.width && y < photo.height ? { x, y } : null;
}

/** The pixel nearest to a point of the stage, which may lie beside the photo. */
export function nearestPixel(view, point, photo) {
  const clamp = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value)));
  return {
    x: clamp((point.x - view.x) / view.scale, photo.width),
    y: clamp((point.y - view.y) / view.scale, photo.height),
  };
}

/** Where the middle of a pixel is on the stage. */
export function pointOf(view, pixel) {
  return { x: (pixel.x + 0.5) * view.scale + view.x, y: (pixel.y + 0.5) * view.scale + view.y };
}

/** [x1, y1, x2, y2] of two corners in any order, or null for a box too thin to mean anything. */
export function boxOf(a, b) {
  const box = [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
  return box[2] - box[0] >= 1 && box[3] - box[1] >= 1 ? box : null;
}
