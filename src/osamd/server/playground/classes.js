// The class names in use, each with a number key, and the one that new objects get.

import { byId, make } from "./dom.js";
import { icon } from "./icons.js";

const NAME = "osamd.classes";
const MOST = 200;

export class Classes {
  /** @param {{give: (name: string) => void}} acts */
  constructor(acts) {
    this.acts = acts;
    this.names = [];
    try {
      const kept = JSON.parse(localStorage.getItem(NAME) ?? "[]");
      this.names = kept.filter((name) => typeof name === "string" && name).slice(0, MOST);
    } catch {
      // Storage that is forbidden or broken holds no names.
    }
    byId("class-form").addEventListener("submit", (event) => {
      event.preventDefault();
      for (const name of byId("class-input").value.split(",")) this.add(name);
      byId("class-input").value = "";
    });
    this.isPressed = false;
    for (const [type, isPressed] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
      addEventListener(type, () => (this.isPressed = isPressed), { capture: true });
    }
    this.draw();
  }

  /** Add a class when no button is pressed: a list that grows would move what is being clicked on. */
  addLater(name) {
    if (this.isPressed) addEventListener("pointerup", () => setTimeout(() => this.add(name)), { once: true });
    else this.add(name);
  }

  add(raw) {
    const name = raw.trim();
    if (!name || this.names.includes(name) || this.names.length >= MOST) return;
    this.keep([...this.names, name]);
  }

  keep(names) {
    this.names = names;
    try {
      if (names.length) localStorage.setItem(NAME, JSON.stringify(names));
      else localStorage.removeItem(NAME);
    } catch {
      // Then they last as long as the page.
    }
    this.draw();
  }

  /** The class of a number key, from 1. */
  press(digit) {
    const name = this.names[Number(digit) - 1];
    if (name) this.acts.give(name);
    return Boolean(name);
  }

  draw() {
    byId("class-names").replaceChildren(...this.names.map((name) => make("option", { value: name })));
    byId("classes").replaceChildren(...this.names.map((name, index) => {
      const key = index < 9 ? make("kbd", {}, String(index + 1)) : null;
      const give = make("button", { class: "class-give", title: `Give the active object the class ${name}`, onclick: () => this.acts.give(name) }, key, make("span", {}, name));
      const remove = make("button", { class: "class-remove", "aria-label": `Remove the class ${name} from the list`, onclick: () => {
        this.keep(this.names.filter((other) => other !== name));
        byId("class-input").focus();
      } }, icon("close"));
      return make("li", { class: "class" }, give, remove);
    }));
  }
}
