// The one place for errors and questions, with what the user can do.

import { make } from "./dom.js";
import { icon } from "./icons.js";

export class Notice {
  constructor(element) {
    this.element = element;
    this.isWaiting = false;
  }

  /** @param {Object<string, () => void>} acts what to do, by the words on the button */
  show(title, text, acts = {}) {
    this.isWaiting = false;
    const actions = Object.entries(acts).map(([label, act]) => make("button", { class: "button small", onclick: act }, label));
    const close = make("button", { class: "icon-button", "aria-label": "Close", onclick: () => this.hide() }, icon("close"));
    this.draw(title, make("span", { class: "notice-text" }, text), [...actions, close]);
  }

  /** An error that waiting may fix: how long, and what to do instead. */
  wait(trouble, seconds, { tryNow, stop }) {
    const next = `Next try in ${seconds}\u00a0s.`;
    if (this.isWaiting === trouble) {
      this.element.querySelector(".countdown").textContent = next;
      return;
    }
    this.isWaiting = trouble;
    // Screen readers read the first sentence; not the countdown each second.
    const text = make("span", { class: "notice-text" }, `${trouble.text} `, make("span", { class: "countdown", "aria-live": "off" }, next));
    this.draw(trouble.title, text, [
      make("button", { class: "button small", onclick: tryNow }, "Try now"),
      make("button", { class: "button small quiet", onclick: stop }, "Stop"),
    ]);
    this.element.dataset.kind = trouble.kind;
  }

  endWait() {
    if (this.isWaiting) this.hide();
  }

  hide() {
    this.isWaiting = false;
    this.title = "";
    this.element.hidden = true;
    this.element.replaceChildren();
  }

  draw(title, text, actions) {
    this.title = title;
    delete this.element.dataset.kind;
    this.element.hidden = false;
    this.element.replaceChildren(make("span", { class: "notice-body" }, make("b", {}, title), text), make("span", { class: "notice-actions" }, ...actions));
  }
}
