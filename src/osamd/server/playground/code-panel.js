// "As code": the active object's request in three languages, to copy.

import { byId, make, roving } from "./dom.js";
import { icon } from "./icons.js";
import { snippet } from "./snippets.js";
import { baseUrl, hasKey } from "./transport.js";

const EMPTY = "Click on the photo to see the request here.";

export class CodePanel {
  constructor() {
    this.language = "curl";
    this.request = null;
    this.tabs = [...document.querySelectorAll("[data-language]")];
    for (const tab of this.tabs) tab.addEventListener("click", () => this.choose(tab));
    roving(this.tabs[0].parentElement, "[role=tab]", (tab) => this.choose(tab));
    byId("copy").addEventListener("click", () => this.copy());
    this.draw();
  }

  choose(tab) {
    this.language = tab.dataset.language;
    for (const other of this.tabs) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
    }
    byId("code").setAttribute("aria-labelledby", tab.id);
    this.draw();
  }

  update(request) {
    this.request = request;
    this.draw();
  }

  draw() {
    const text = this.request ? snippet(this.language, { base: baseUrl(), hasKey: hasKey(), ...this.request }) : EMPTY;
    byId("copy").disabled = !this.request;
    byId("code").classList.toggle("empty", !this.request);
    // Long addresses may wrap after each part; the copied text has no line break there.
    const parts = text.split(/(?<=[?&/])/).flatMap((part, index) => (index ? [make("wbr"), part] : [part]));
    if (byId("code").textContent !== text) byId("code").replaceChildren(...parts);
  }

  async copy() {
    const text = byId("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without https there is no clipboard API; a selection can still be copied.
      getSelection().selectAllChildren(byId("code"));
      document.execCommand("copy");
    }
    byId("copy").replaceChildren(icon("check"));
    byId("copy").setAttribute("aria-label", "Copied");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      byId("copy").replaceChildren(icon("copy"));
      byId("copy").setAttribute("aria-label", "Copy the code");
    }, 1600);
  }
}
