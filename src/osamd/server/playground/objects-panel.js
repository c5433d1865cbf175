// The list of objects: colour, class, share of the photo, visibility.

import { classOf, isBlank } from "./document.js";
import { make } from "./dom.js";
import { icon } from "./icons.js";

function percent(area, photo) {
  const part = (100 * area) / (photo.width * photo.height);
  return part >= 10 ? `${Math.round(part)} %` : part >= 0.1 ? `${part.toFixed(1)} %` : "< 0.1 %";
}

/** The line under an object's name. */
export function describe(object, asking) {
  if (isBlank(object)) return "Click on the photo";
  if (!asking.takes(object)) return "Not for this model";
  const shapes = asking.shapesOf(object);
  const { strokes } = object;
  if (!asking.answerOf(object) && (asking.fieldsOf(object) || !strokes.length)) return asking.isPending(object) ? "Waiting…" : "No answer";
  const isOnlyBackground = object.points.length && !object.box && !object.base && !strokes.length && object.points.every(({ label }) => !label);
  if (isOnlyBackground) return "Click on the object too: so far only background is marked";
  if (!shapes.length) return "Nothing found";
  const area = shapes.reduce((sum, shape) => sum + shape.area, 0);
  const score = shapes.length === 1 && shapes[0].score !== null ? `, score ${shapes[0].score.toFixed(2)}` : "";
  const clicks = object.points.length ? `, ${object.points.length} ${object.points.length === 1 ? "click" : "clicks"}` : "";
  const painted = strokes.length ? ", painted" : "";
  return `${area ? percent(area, asking.photo) : "box only"}${score}${clicks}${painted}`;
}

export class ObjectsPanel {
  /** @param {{activate, rename, named, hide, remove}} acts each called with the object's id */
  constructor(list, whenEmpty, acts) {
    this.list = list;
    this.whenEmpty = whenEmpty; // what gets the focus when the last row is deleted
    this.acts = acts;
    this.rows = new Map();
  }

  /** Rows are kept, so that a name that is being typed keeps the focus. */
  update(doc, asking) {
    const hadFocus = this.list.contains(document.activeElement);
    for (const [id, row] of this.rows) {
      if (doc.objects.some((object) => object.id === id)) continue;
      row.item.remove();
      this.rows.delete(id);
    }
    doc.objects.forEach((object, index) => {
      const row = this.rows.get(object.id) ?? this.add(object);
      if (this.list.children[index] !== row.item) this.list.insertBefore(row.item, this.list.children[index] ?? null);
      row.item.classList.toggle("is-active", object.id === doc.activeId);
      row.item.classList.toggle("is-pending", asking.isPending(object));
      row.select.setAttribute("aria-pressed", object.id === doc.activeId);
      row.select.setAttribute("aria-label", `Select ${classOf(object)}`);
      row.swatch.style.setProperty("--color", object.color);
      if (document.activeElement !== row.name) row.name.value = object.name;
      row.text.textContent = describe(object, asking);
      row.hide.setAttribute("aria-pressed", object.isHidden);
      row.hide.setAttribute("aria-label", `Hide ${classOf(object)}`);
      row.hide.replaceChildren(icon(object.isHidden ? "hidden" : "eye"));
      row.remove.setAttribute("aria-label", `Delete ${classOf(object)}`);
    });
    const active = this.rows.get(doc.activeId);
    if (this.shown !== active) active?.item.scrollIntoView({ block: "nearest" });
    this.shown = active;
    // A deleted row leaves the focus to its neighbour.
    if (hadFocus && !this.list.contains(document.activeElement)) (active?.select ?? this.whenEmpty).focus();
  }

  add({ id }) {
    const swatch = make("span", { class: "swatch" });
    const select = make("button", { class: "select", onclick: () => this.acts.activate(id) }, swatch);
    const name = make("input", {
      class: "name",
      type: "text",
      maxlength: "60",
      list: "class-names",
      "aria-label": "Class of the object",
      autocomplete: "off",
      spellcheck: "false",
      onfocus: () => this.acts.activate(id),
      oninput: (event) => this.acts.rename(id, event.target.value),
      onblur: () => this.acts.named(id),
      onkeydown: (event) => ["Enter", "Escape"].includes(event.key) && this.whenEmpty.focus(),
    });
    const text = make("span", { class: "about" });
    const hide = make("button", { class: "icon-button", title: "Show or hide", onclick: () => this.acts.hide(id) });
    const remove = make("button", { class: "icon-button", title: "Delete", onclick: () => this.acts.remove(id) }, icon("trash"));
    const item = make("li", { class: "object" }, select, make("span", { class: "object-text" }, name, text), hide, remove);
    const row = { item, select, swatch, name, text, hide, remove };
    this.rows.set(id, row);
    return row;
  }
}

/** Candidates of the active object, as radios with a picture of each. */
export function candidateButtons(answer, picked, color, choose) {
  return answer.shapes.map((shape, index) => {
    const canvas = make("canvas", { width: "72", height: "72", "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    if (shape.path) {
      const boxes = answer.shapes.map(({ box }) => box);
      const x = Math.min(...boxes.map((box) => box.x));
      const y = Math.min(...boxes.map((box) => box.y));
      const size = Math.max(...boxes.map((box) => Math.max(box.x + box.width - x, box.y + box.height - y)));
      context.scale(64 / size, 64 / size);
      context.translate(4 * size / 64 - x, 4 * size / 64 - y);
      context.fillStyle = color;
      context.fill(shape.path, "evenodd");
    }
    const score = shape.score === null ? `${index + 1}` : shape.score.toFixed(2);
    const isPicked = index === picked;
    return make(
      "button",
      {
        role: "radio",
        "aria-checked": String(isPicked),
        "aria-label": `Candidate ${index + 1}, ${shape.score === null ? "no score" : `score ${score}`}`,
        tabindex: isPicked ? "0" : "-1",
        onclick: () => choose(index),
      },
      canvas,
      make("span", {}, score),
    );
  });
}
