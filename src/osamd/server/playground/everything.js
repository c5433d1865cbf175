// Everything in the photo: masks appear as the server finds them, and those that are clicked become objects.

import { colorOf } from "./colors.js";
import { byId } from "./dom.js";
import { shapeOf } from "./masks.js";
import * as transport from "./transport.js";
import { Trouble } from "./troubles.js";

export class Everything {
  /** @param {{objects, keep, onChange, onTrouble}} hooks the document's objects, and what to do with annotations */
  constructor(asking, hooks) {
    Object.assign(this, { asking, hooks, isOn: false, isRunning: false, hovered: null });
    this.items = new Map(); // by the server's number: {annotation, shape, color}
    this.tried = 0; // part of the points
    byId("finds-all").addEventListener("click", () => hooks.keep(this.left.map(({ annotation }) => annotation)));
    byId("finds-end").addEventListener("click", () => this.stop());
  }

  /** What was found and is not an object, large ones first. */
  get left() {
    const kept = new Set(this.hooks.objects().flatMap(({ found, base }) => [found?.annotation, base]).filter(Boolean));
    const isLeft = ({ annotation }) => !kept.has(annotation) && !kept.has(annotation.mask_id);
    return [...this.items.values()].filter(isLeft).sort((a, b) => b.shape.area - a.shape.area);
  }

  async find() {
    this.end();
    const { signal } = (this.controller = new AbortController());
    Object.assign(this, { isOn: true, isRunning: true, tried: 0 });
    this.changed();
    const send = (body) => transport.everything(body, (line) => this.take(line, signal), signal);
    try {
      await this.asking.patience.run(() => this.asking.generate({ prompt: { everything: true } }, signal, {}, send), signal);
    } catch (error) {
      // Stopped masks stay to be chosen from.
      if (error.name !== "AbortError") this.hooks.onTrouble(error);
    } finally {
      if (this.controller.signal === signal && this.isOn) {
        this.isRunning = false;
        byId("announcement").textContent = this.text;
        this.changed();
      }
    }
  }

  /** A line of the stream. */
  async take(line, signal) {
    if (line.event === "error") throw new Trouble("failed", line);
    if (line.event === "image") this.items.clear(); // also of a stream that was cut off
    if (line.event === "dropped") line.numbers.forEach((number) => this.items.delete(number));
    if (line.event === "progress") this.tried = (line.points_tried + line.points_skipped) / line.points_total;
    if (line.event === "annotation") {
      const { annotation } = line;
      const shape = await shapeOf(annotation);
      signal.throwIfAborted();
      this.items.set(annotation.number, { annotation, shape, color: colorOf(annotation.number + 1) });
    }
    this.changed();
  }

  get text() {
    const { size } = this.items;
    if (this.isRunning) return `${size} found, ${Math.round(this.tried * 100)} % searched`;
    return size ? `${size} found. Click to keep` : "Nothing found";
  }

  /** The smallest mask at a pixel. */
  at(pixel, stage) {
    return pixel && this.left.findLast(({ shape }) => stage.isInside(pixel, [shape]));
  }

  /** Stop the search, or then choosing. */
  stop() {
    if (this.isRunning) this.controller.abort();
    else this.end();
  }

  end() {
    this.controller?.abort();
    const hadFocus = byId("finds").contains(document.activeElement);
    Object.assign(this, { isOn: false, isRunning: false, hovered: null });
    this.items.clear();
    this.changed();
    if (hadFocus) byId("stage").focus();
  }

  changed() {
    byId("finds").hidden = !this.isOn;
    byId("everything").setAttribute("aria-pressed", this.isOn);
    byId("finds-text").textContent = this.text;
    byId("finds-end").textContent = this.isRunning ? "Stop" : "Done";
    byId("finds-all").hidden = this.isRunning;
    byId("finds-all").disabled = !this.left.length;
    this.hooks.onChange();
  }
}
