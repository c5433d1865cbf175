// Asks for the key when the server needs one. Requests that wait for it go on when it is given.

import { byId, wireDialog } from "./dom.js";
import * as transport from "./transport.js";
import { Trouble } from "./troubles.js";

export class KeyDialog {
  constructor(onKey) {
    this.onKey = onKey;
    this.dialog = byId("key-dialog");
    this.input = byId("key-input");
    this.asked = null;
    wireDialog(this.dialog);
    byId("key-form").addEventListener("submit", () => this.use());
    byId("key-forget").addEventListener("click", () => {
      this.forget();
      this.dialog.close();
    });
    this.dialog.addEventListener("close", () => this.settle());
    this.mark();
  }

  /** Resolves when a key was given; rejects when the dialog was closed without one. A refused key is forgotten. */
  async ask(trouble) {
    // Refused was an older key: try again with the present one.
    if (trouble.keyVersion !== transport.keyVersion() && transport.hasKey()) return;
    this.asked ??= new Promise((resolve, reject) => {
      this.waiter = { resolve, reject };
      const isThrottled = trouble.status === 429;
      const wrong = isThrottled ? "Too many wrong keys from this address. The right key still works." : "The server rejected this key.";
      const hadKey = transport.hasKey();
      if (hadKey && !isThrottled) this.forget();
      this.open(hadKey || isThrottled ? wrong : "");
    }).finally(() => {
      this.asked = null;
    });
    await this.asked;
  }

  forget() {
    transport.keep("");
    this.mark();
  }

  open(wrong = "") {
    byId("key-text").textContent = this.waiter ? "This server needs a key." : transport.hasKey() ? "A key is in use." : "No key is in use.";
    byId("key-wrong").textContent = wrong;
    byId("key-forget").hidden = !transport.hasKey();
    this.input.value = "";
    this.input.setAttribute("aria-invalid", Boolean(wrong));
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
    this.waiter?.reject(new Trouble("key", { detail: "This server answers only requests with its API key." }));
    this.waiter = null;
  }

  mark() {
    byId("key").classList.toggle("is-on", transport.hasKey());
    byId("key").title = transport.hasKey() ? "Key in use" : "No key";
    byId("key").setAttribute("aria-label", byId("key").title);
  }
}
