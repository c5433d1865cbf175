// The one place where troubles are told, with a way on.

import { icon, make } from "./dom.js";

export class Notice {
  constructor(element) {
    this.element = element;
    this.isWaiting = false;
  }

  show(title, text, again = null) {
    this.isWaiting = false;
    const actions = again ? [make("button", { type: "button", class: "button small", onclick: again }, "Try again")] : [];
    const close = make("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => this.hide() }, icon("close"));
    this.draw(title, make("span", { class: "notice-text" }, text), [...actions, close]);
  }

  /** A trouble that waiting may mend: how long, and what to do instead. */
  wait(trouble, seconds, { tryNow, stop }) {
    const next = `Next try in ${seconds}\u00a0s.`;
    if (this.isWaiting === trouble) {
      this.element.querySelector(".countdown").textContent = next;
      return;
    }
    this.isWaiting = trouble;
    // A countdown read out each second would be a nuisance; the first sentence is enough.
    const text = make("span", { class: "notice-text" }, `${trouble.text} `, make("span", { class: "countdown", "aria-live": "off" }, next));
    this.draw(trouble.title, text, [
      make("button", { type: "button", class: "button small", onclick: tryNow }, "Try now"),
      make("button", { type: "button", class: "button small quiet", onclick: stop }, "Stop"),
    ]);
    this.element.dataset.kind = trouble.kind;
  }

  endWait() {
    if (this.isWaiting) this.hide();
  }

  hide() {
    this.isWaiting = false;
    this.element.hidden = true;
    this.element.replaceChildren();
  }

  draw(title, text, actions) {
    delete this.element.dataset.kind;
    this.element.hidden = false;
    this.element.replaceChildren(make("span", { class: "notice-body" }, make("b", {}, title), text), make("span", { class: "notice-actions" }, ...actions));
  }
}
