// Asks for the key when the server wants one. Whoever waits for it goes on when it is given.

import { byId, wireDialog } from "./dom.js";
import * as transport from "./transport.js";

export class KeyDialog {
  constructor(onKey) {
    this.onKey = onKey;
    this.dialog = byId("key-dialog");
    this.input = byId("key-input");
    this.asked = null;
    wireDialog(this.dialog);
    byId("key-form").addEventListener("submit", () => this.use());
    byId("key-forget").addEventListener("click", () => {
      transport.keep("");
      this.dialog.close();
      this.mark();
    });
    this.dialog.addEventListener("close", () => this.settle());
    this.mark();
  }

  /** Resolves when a key was given; rejects as stopped when the dialog was closed without one. */
  ask(trouble) {
    this.asked ??= new Promise((resolve, reject) => {
      this.waiter = { resolve, reject };
      const isGuess = trouble.status === 429;
      this.open(isGuess ? "Too many wrong keys from here; the right one is still taken." : transport.hasKey() ? "The server does not take this key." : "");
    }).finally(() => {
      this.asked = null;
    });
    return this.asked;
  }

  open(wrong = "") {
    byId("key-text").textContent = this.waiter ? "This server wants a key." : transport.hasKey() ? "A key is in use." : "No key is in use.";
    byId("key-wrong").textContent = wrong;
    byId("key-forget").hidden = !transport.hasKey();
    this.input.value = "";
    this.input.setAttribute("aria-invalid", String(Boolean(wrong)));
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
  }

  use() {
    if (!this.input.value.trim()) return;
    transport.keep(this.input.value);
    this.input.value = "";
    this.mark();
    if (this.waiter) this.waiter.resolve();
    else this.onKey();
    this.waiter = null;
  }

  settle() {
    this.input.value = "";
    this.waiter?.reject(new DOMException("no key was given", "AbortError"));
    this.waiter = null;
  }

  mark() {
    byId("key").classList.toggle("is-on", transport.hasKey());
    byId("key").title = transport.hasKey() ? "Key in use" : "No key";
    byId("key").setAttribute("aria-label", byId("key").title);
  }
}
