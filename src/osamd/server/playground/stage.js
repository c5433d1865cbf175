// The photo, the masks and the marks on a canvas. Draws on demand, at most once a frame.

import { fit, moved, nearestPixel, pixelAt, pointOf, zoomAt } from "./geometry.js";
import { patchOf } from "./photo.js";

const PATCH_AFTER_MS = 150;
// From this many screen pixels per photo pixel on, pixels are drawn as squares.
const SQUARE_SCALE = 4;
const MARK_RADIUS = 7;

export class Stage {
  /**
   * @param {HTMLElement} element
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} dock what lies over its lower end
   * @param {() => object} scene what to draw: {objects: [{color, shapes, points, box, isActive}], preview, dragged, cursor, opacity, isMasksHidden}
   * @param {() => void} onView told when the view changes
   */
  constructor(element, canvas, dock, scene, onView) {
    Object.assign(this, { element, canvas, dock, scene, onView });
    this.context = canvas.getContext("2d");
    this.photo = null;
    this.view = { scale: 1, x: 0, y: 0 };
    this.size = { width: 0, height: 0 };
    this.isFitted = true;
    this.frame = 0;
    this.layer = new OffscreenCanvas(1, 1).getContext("2d"); // the fills, of which each pixel belongs to one object
    new ResizeObserver(() => this.resize()).observe(element);
    this.watchRatio();
  }

  watchRatio() {
    const query = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    query.addEventListener("change", () => { this.resize(); this.watchRatio(); }, { once: true });
  }

  show(photo) {
    this.photo?.close();
    this.dropPatch();
    this.photo = photo;
    this.isFitted = true;
    this.resize();
  }

  resize() {
    const { width, height } = this.element.getBoundingClientRect();
    const before = this.size;
    this.size = { width, height };
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
    if (!this.photo || !width) return;
    if (this.isFitted) this.view = this.fitted();
    else this.view = moved(this.view, (width - before.width) / 2, (height - before.height) / 2, this.photo, this.size);
    this.changed();
    // A canvas of another size is empty, and what is printed is not waited for by a frame.
    this.paint();
  }

  fitted() {
    const side = this.size.width < 640 ? 8 : 24;
    return fit(this.photo, this.size, { top: side, side, bottom: this.dock.offsetHeight + 14 + side });
  }

  fitPhoto() {
    this.isFitted = true;
    this.view = this.fitted();
    this.changed();
  }

  zoom(factor, point = { x: this.size.width / 2, y: this.size.height / 2 }) {
    this.isFitted = false;
    const least = Math.min(this.fitted().scale, 1) / 2;
    this.view = moved(zoomAt(this.view, point, factor, least), 0, 0, this.photo, this.size);
    this.changed();
  }

  move(dx, dy) {
    this.isFitted = false;
    this.view = moved(this.view, dx, dy, this.photo, this.size);
    this.changed();
  }

  /** Bring a pixel into view. */
  reveal(pixel) {
    const point = pointOf(this.view, pixel);
    const room = 40;
    const dx = Math.max(room - point.x, 0) + Math.min(this.size.width - room - point.x, 0);
    const dy = Math.max(room - point.y, 0) + Math.min(this.size.height - room - point.y, 0);
    if (dx || dy) this.move(dx, dy);
  }

  pointOfEvent(event) {
    const { left, top } = this.element.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  pixelAt = (point) => pixelAt(this.view, point, this.photo);
  nearestPixel = (point) => nearestPixel(this.view, point, this.photo);

  changed() {
    clearTimeout(this.patchTimer);
    this.patchTimer = setTimeout(() => this.sharpen(), PATCH_AFTER_MS);
    this.onView();
    // Where the photo is on the stage, for tests.
    Object.assign(this.element.dataset, this.view);
    this.draw();
  }

  /** When zoomed in beyond the copy, draw the visible part from the photo itself. */
  async sharpen() {
    const { photo, view, size } = this;
    if (!photo?.isReduced || view.scale * devicePixelRatio * photo.width <= photo.copy.width * 1.1) return this.dropPatch();
    const from = this.nearestPixel({ x: 0, y: 0 });
    const to = this.nearestPixel({ x: size.width, y: size.height });
    const part = { x: from.x, y: from.y, width: to.x - from.x + 1, height: to.y - from.y + 1 };
    const bitmap = await patchOf(photo, part, Math.ceil(part.width * view.scale * devicePixelRatio)).catch(() => null);
    if (!bitmap) return;
    if (view !== this.view || photo !== this.photo) return bitmap.close();
    this.dropPatch();
    this.patch = { bitmap, ...part };
    this.element.dataset.isSharp = true;
    this.draw();
  }

  dropPatch() {
    this.patch?.bitmap.close();
    this.patch = null;
    delete this.element.dataset.isSharp;
  }

  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.photo) this.paint();
    });
  }

  paint() {
    const { context, photo, view } = this;
    const scene = this.scene();
    const ratio = this.canvas.width / Math.max(1, this.size.width);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    context.imageSmoothingEnabled = view.scale * ratio < SQUARE_SCALE;
    context.imageSmoothingQuality = "high";
    context.drawImage(photo.copy, 0, 0, photo.width, photo.height);
    if (this.patch) context.drawImage(this.patch.bitmap, this.patch.x, this.patch.y, this.patch.width, this.patch.height);
    context.save();
    context.beginPath();
    context.rect(0, 0, photo.width, photo.height);
    context.clip();
    const masked = scene.isMasksHidden ? [] : scene.objects;
    if (scene.opacity) this.paintFills(masked, scene.opacity);
    for (const object of masked) for (const shape of object.shapes) this.paintOutline(shape, object);
    for (const shape of scene.preview.shapes) this.paintPreview(shape, scene.preview.color);
    context.restore();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const object of masked.filter(({ isActive }) => isActive)) {
      if (object.box) this.paintBox(object.box, object.color, true);
      for (const point of object.points) this.paintMark(point, object.color);
    }
    if (scene.dragged) this.paintBox(scene.dragged, scene.preview.color, false);
    if (scene.stroke) this.paintStroke(scene.stroke, scene.preview.color);
    if (scene.cursor) this.paintCursor(scene.cursor);
    if (scene.brush) this.paintBrush(scene.brush);
  }

  paintStroke({ isErase, radius, path }, color) {
    const { context, view } = this;
    context.save();
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: 2 * radius, globalAlpha: 0.5 });
    context.strokeStyle = isErase ? "#1b1f27" : color;
    context.beginPath();
    context.moveTo(path[0], path[1]);
    for (let i = 0; i < path.length; i += 2) context.lineTo(path[i], path[i + 1]);
    context.stroke();
    context.restore();
  }

  paintBrush({ x, y, radius }) {
    const { context } = this;
    for (const [style, width] of [["rgb(0 0 0 / .6)", 3], ["#fff", 1.4]]) {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
  }

  outline(path, strokes) {
    const { context } = this;
    context.lineJoin = "round";
    for (const [style, width] of strokes) {
      context.strokeStyle = style;
      context.lineWidth = width / this.view.scale;
      context.stroke(path);
    }
  }

  /** Fill the masks. Where they overlap the last one counts, instead of a mixture of colours that is nobody's. */
  paintFills(objects, opacity) {
    const { context, layer, canvas } = this;
    if (layer.canvas.width !== canvas.width || layer.canvas.height !== canvas.height) {
      Object.assign(layer.canvas, { width: canvas.width, height: canvas.height });
    }
    layer.setTransform(1, 0, 0, 1, 0, 0);
    layer.clearRect(0, 0, canvas.width, canvas.height);
    layer.setTransform(context.getTransform());
    for (const { color, shapes } of objects) {
      layer.fillStyle = color;
      for (const { path } of shapes) if (path) layer.fill(path, "evenodd");
    }
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    // The hue first, which keeps light and dark, then a tint that shows on any ground.
    context.globalCompositeOperation = "color";
    context.globalAlpha = Math.min(1, opacity * 1.3);
    context.drawImage(layer.canvas, 0, 0);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = opacity * 0.45;
    context.drawImage(layer.canvas, 0, 0);
    context.restore();
  }

  paintOutline({ path, box }, { color, isActive }) {
    const drawn = path ?? new Path2D();
    if (!path) drawn.rect(box.x, box.y, box.width, box.height);
    this.outline(drawn, isActive ? [["rgb(0 0 0 / .35)", 4], ["#fff", 2.6], [color, 1.6]] : [["rgb(0 0 0 / .3)", 2.6], [color, 1.4]]);
  }

  paintPreview({ path }, color) {
    if (!path) return;
    const { context, view } = this;
    context.globalAlpha = 0.2;
    context.fillStyle = color;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    context.setLineDash([5 / view.scale, 4 / view.scale]);
    this.outline(path, [["rgb(0 0 0 / .45)", 2.8], ["#fff", 1.5]]);
    context.setLineDash([]);
  }

  paintBox([x1, y1, x2, y2], color, isSet) {
    const { context, view } = this;
    const [left, top] = [x1 * view.scale + view.x, y1 * view.scale + view.y];
    const [width, height] = [(x2 - x1 + 1) * view.scale, (y2 - y1 + 1) * view.scale];
    for (const [strokeStyle, lineWidth, dash] of [["rgb(0 0 0 / .4)", 3.5, []], ["#fff", 1.5, []], [color, 1.5, isSet ? [6, 6] : [4, 4]]]) {
      Object.assign(context, { strokeStyle, lineWidth });
      context.setLineDash(dash);
      context.strokeRect(left, top, width, height);
    }
    context.setLineDash([]);
  }

  /** Whether a pixel is inside an object's shapes. */
  isInside({ x, y }, shapes) {
    this.layer.setTransform(1, 0, 0, 1, 0, 0);
    return shapes.some(({ path }) => path && this.layer.isPointInPath(path, x + 0.5, y + 0.5, "evenodd"));
  }

  // Plus and minus, so that the two kinds differ by more than colour.
  paintMark({ x, y, label }, color) {
    const { context } = this;
    const at = pointOf(this.view, { x, y });
    const arm = MARK_RADIUS * 0.5;
    context.beginPath();
    context.arc(at.x, at.y, MARK_RADIUS, 0, 2 * Math.PI);
    context.fillStyle = label ? color : "#1b1f27";
    context.shadowColor = "rgb(0 0 0 / .45)";
    context.shadowBlur = 5 * devicePixelRatio;
    context.fill();
    context.shadowColor = "transparent";
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(at.x - arm, at.y);
    context.lineTo(at.x + arm, at.y);
    if (label) {
      context.moveTo(at.x, at.y - arm);
      context.lineTo(at.x, at.y + arm);
    }
    context.strokeStyle = label ? "#10141c" : "#fff";
    context.stroke();
  }

  paintCursor(pixel) {
    const { context } = this;
    const { x, y } = pointOf(this.view, pixel);
    for (const [style, width] of [["rgb(0 0 0 / .7)", 4], ["#fff", 1.6]]) {
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * 4, y + dy * 4);
        context.lineTo(x + dx * 16, y + dy * 16);
      }
      context.strokeStyle = style;
      context.lineWidth = width;
      context.lineCap = "round";
      context.stroke();
    }
  }
}
