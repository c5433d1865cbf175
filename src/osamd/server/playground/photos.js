// Several photos, one of them open; each keeps its objects, its undo and its answers.

import { EMPTY, History, isBlank } from "./document.js";
import { byId } from "./dom.js";

export class Photos {
  /** @param {(entry: object) => void} open */
  constructor(open) {
    this.open = open;
    this.entries = []; // {blob, name, history, memory, photo, results, missing}
    this.current = null;
    byId("previous-photo").addEventListener("click", () => this.step(-1));
    byId("next-photo").addEventListener("click", () => this.step(1));
  }

  /** Add photos; the first of them is to be opened. */
  add(files) {
    const entries = files.map(({ blob, name }) => ({ blob, name, history: new History(), memory: null, photo: null, results: [] }));
    this.entries.push(...entries);
    this.draw();
    return entries[0];
  }

  drop(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    this.draw();
  }

  step(by) {
    const next = this.entries[this.entries.indexOf(this.current) + by];
    if (next) this.open(next);
    return Boolean(next);
  }

  get hasWork() {
    return this.entries.some(({ history }) => history.present !== EMPTY && history.present.objects.some((object) => !isBlank(object)));
  }

  draw() {
    const { length } = this.entries;
    const index = this.entries.indexOf(this.current);
    byId("photos").hidden = length < 2;
    byId("photos-place").textContent = `${index + 1} of ${length}`;
    byId("photos-name").textContent = this.current?.name ?? "";
    byId("previous-photo").disabled = index <= 0;
    byId("next-photo").disabled = index >= length - 1;
  }
}
