// Pointers, wheel and keys, turned into what the user means.

import { boxOf } from "./geometry.js";

// Shorter movements are clicks; a finger is less steady than a mouse.
const STILL_PX = { mouse: 4, pen: 6, touch: 10 };
const WHEEL_STEP = 0.0016;
const KEY_STEP_PX = 12;
const LEFT = 0, MIDDLE = 1, RIGHT = 2;
const ARROWS = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };
const LETTERS = { a: "add", r: "remove", x: "box", h: "pan", w: "brush", e: "eraser" };
const BRUSH_STEP = 1.25;
const BRUSH_PX = { least: 2, first: 12, most: 120 };

export class Gestures {
  /**
   * @param {import("./stage.js").Stage} stage
   * @param {{point, box, stroke, tap, hover, tool, redraw}} means what to do; `hover` gets null outside of the photo
   */
  constructor(stage, means) {
    Object.assign(this, { stage, means });
    this.tool = "add";
    this.pointers = new Map();
    this.drag = null; // {kind: "click" | "box" | "pan" | "pinch", ...}
    this.dragged = null; // the box being drawn
    this.cursor = null; // the keyboard's pixel
    this.corner = null; // the first corner of a box by keyboard
    this.isSpaceDown = false;
    this.brushPx = BRUSH_PX.first; // radius on the screen
    this.brush = null; // where the brush is on the stage, and its radius
    const { element } = stage;
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.moveTo(event));
    element.addEventListener("pointerup", (event) => this.up(event));
    element.addEventListener("pointercancel", (event) => this.cancel(event));
    element.addEventListener("pointerleave", () => {
      this.brush = null;
      means.hover(null);
    });
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("blur", () => this.leave());
    addEventListener("blur", () => this.space(false));
  }

  labelOf(event) {
    const isBackground = this.tool === "remove";
    return (event.shiftKey || event.button === RIGHT) !== isBackground ? 0 : 1;
  }

  space(isDown) {
    this.isSpaceDown = isDown;
    this.stage.element.classList.toggle("is-pan", isDown || this.tool === "pan");
  }

  get isPainting() {
    return this.tool === "brush" || this.tool === "eraser";
  }

  resizeBrush(factor) {
    this.brushPx = Math.min(BRUSH_PX.most, Math.max(BRUSH_PX.least, this.brushPx * factor));
    if (this.brush) this.brush.radius = this.brushPx;
    this.means.redraw();
  }

  useTool(tool) {
    this.tool = tool;
    this.brush = null;
    this.stage.element.classList.toggle("is-painting", this.isPainting);
    this.stage.element.classList.toggle("is-pan", tool === "pan");
  }

  leave() {
    this.space(false);
    this.cursor = null;
    this.corner = null;
    this.dragged = null;
    // What is left of the gesture means nothing.
    if (["box", "stroke"].includes(this.drag?.kind)) this.drag = { kind: "cancelled" };
    this.means.redraw();
  }

  down(event) {
    if (!this.stage.photo) return;
    this.stage.element.setPointerCapture(event.pointerId);
    const point = this.stage.pointOfEvent(event);
    this.pointers.set(event.pointerId, point);
    this.cursor = null;
    this.corner = null;
    this.means.hover(null);
    if (this.pointers.size === 2) {
      this.dragged = null;
      this.drag = { kind: "pinch", ...this.pinch() };
    } else if (this.pointers.size === 1) {
      const isPan = event.button === MIDDLE || this.isSpaceDown || this.tool === "pan";
      this.drag = { kind: isPan ? "pan" : "click", start: point, last: point, label: this.labelOf(event), button: event.button };
      if (this.isPainting && !isPan && event.button !== RIGHT) {
        const stroke = { isErase: (this.tool === "eraser") !== event.shiftKey, radius: this.brushPx / this.stage.view.scale, path: [] };
        Object.assign(this.drag, { kind: "stroke", stroke });
        this.extend(point);
      }
    }
    if (event.button === MIDDLE) event.preventDefault();
  }

  pinch() {
    const [a, b] = [...this.pointers.values()];
    return { middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, spread: Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)) };
  }

  moveTo(event) {
    if (!this.stage.photo) return;
    const point = this.stage.pointOfEvent(event);
    if (this.isPainting) {
      this.brush = { ...point, radius: this.brushPx };
      this.means.redraw();
    }
    if (!this.pointers.has(event.pointerId)) {
      if (event.pointerType === "mouse") {
        this.means.hover(this.tool === "add" || this.tool === "remove" ? this.stage.pixelAt(point) : null, this.labelOf({ shiftKey: event.shiftKey }));
      }
      return;
    }
    this.pointers.set(event.pointerId, point);
    const { drag } = this;
    if (drag?.kind === "pinch") {
      const { middle, spread } = this.pinch();
      this.stage.zoom(spread / drag.spread, drag.middle);
      this.stage.move(middle.x - drag.middle.x, middle.y - drag.middle.y);
      Object.assign(drag, { middle, spread });
    } else if (drag?.kind === "click" && this.isFar(point, event.pointerType)) {
      // A finger moves the photo, unless the box was chosen; a mouse draws a box.
      const isPan = drag.button !== LEFT || (event.pointerType === "touch" && this.tool !== "box");
      drag.kind = isPan ? "pan" : "box";
    }
    if (drag?.kind === "stroke") {
      this.extend(point);
    } else if (drag?.kind === "pan") {
      this.stage.move(point.x - drag.last.x, point.y - drag.last.y);
      drag.last = point;
    } else if (drag?.kind === "box") {
      this.dragged = boxOf(this.stage.nearestPixel(drag.start), this.stage.nearestPixel(point));
      this.means.redraw();
    }
  }

  /** The stroke goes on to a point of the stage, in tenths of pixels of the photo. */
  extend({ x, y }) {
    const { view } = this.stage;
    this.drag.stroke.path.push(...[(x - view.x) / view.scale, (y - view.y) / view.scale].map((value) => Math.round(value * 10) / 10));
    this.means.redraw();
  }

  isFar(point, pointerType) {
    return Math.hypot(point.x - this.drag.start.x, point.y - this.drag.start.y) > (STILL_PX[pointerType] ?? STILL_PX.mouse);
  }

  /** A finger was lifted; the remaining ones go on moving the photo. */
  lift(event) {
    this.pointers.delete(event.pointerId);
    const [last] = this.pointers.values();
    if (this.drag?.kind !== "pinch") return;
    this.drag = this.pointers.size > 1 ? { kind: "pinch", ...this.pinch() } : last ? { kind: "pan", last } : this.drag;
  }

  up(event) {
    const { drag, dragged } = this;
    this.lift(event);
    if (!drag || this.pointers.size) return;
    this.drag = null;
    this.dragged = null;
    if (drag.kind === "click") {
      const pixel = this.stage.pixelAt(drag.start);
      if (pixel && this.tool !== "box" && !this.isPainting) this.means.point(pixel, drag.label, event);
    } else if (drag.kind === "stroke") {
      this.means.stroke(drag.stroke);
    } else if (drag.kind === "box" && dragged) {
      this.means.box(dragged);
    } else if (drag.kind === "pan" && drag.last === drag.start) {
      this.means.tap();
    }
    this.means.redraw();
  }

  cancel(event) {
    this.lift(event);
    if (!this.pointers.size) this.drag = null;
    this.dragged = null;
    this.means.redraw();
  }

  wheel(event) {
    if (!this.stage.photo) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    // A trackpad's pinch comes as a wheel with Ctrl, in much smaller steps.
    const step = event.ctrlKey ? WHEEL_STEP * 6 : WHEEL_STEP;
    this.stage.zoom(Math.exp(-event.deltaY * lines * step), this.stage.pointOfEvent(event));
  }

  /** A key by name; whether it meant something here. */
  press(name, event) {
    if (!this.stage.photo) return false;
    if (ARROWS[name]) this.step(ARROWS[name], event.shiftKey);
    else if (name === "enter") this.mark(event);
    else if (name === " ") this.space(true);
    else if (name === "escape") this.leave();
    else if (name === "[") this.resizeBrush(1 / BRUSH_STEP);
    else if (name === "]") this.resizeBrush(BRUSH_STEP);
    else if (name === "b") this.markCorner();
    else if (LETTERS[name]) this.means.tool(LETTERS[name]);
    else return false;
    return true;
  }

  step([dx, dy], isFine) {
    const { stage } = this;
    stage.element.focus({ preventScroll: true });
    const middle = stage.nearestPixel({ x: stage.size.width / 2, y: stage.size.height / 2 });
    const length = isFine ? 1 : Math.max(1, Math.round(KEY_STEP_PX / stage.view.scale));
    const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
    if (this.cursor) {
      this.cursor = { x: clamp(this.cursor.x + dx * length, stage.photo.width), y: clamp(this.cursor.y + dy * length, stage.photo.height) };
    } else {
      this.cursor = middle;
    }
    if (this.corner) this.dragged = boxOf(this.corner, this.cursor);
    stage.reveal(this.cursor);
    this.means.hover(this.corner ? null : this.cursor, this.labelOf({}));
    this.means.redraw();
  }

  mark(event) {
    if (!this.cursor) return this.step([0, 0], false);
    return this.means.point(this.cursor, this.labelOf(event), event);
  }

  markCorner() {
    if (!this.cursor) this.step([0, 0], false);
    if (!this.corner) {
      this.corner = this.cursor;
      return;
    }
    const box = boxOf(this.corner, this.cursor);
    this.corner = null;
    this.dragged = null;
    if (box) this.means.box(box);
    this.means.redraw();
  }
}
