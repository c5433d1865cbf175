// The models: what each takes, its licence and size, whether it is downloaded; pulling one with its progress.

import { bytesText } from "./costs.js";
import { byId, make, wireDialog } from "./dom.js";
import * as transport from "./transport.js";

const shortName = (name) => name.replace(/:latest$/, "");

function stateOf(model) {
  if (model.is_loaded) return ["loaded", "Loaded"];
  if (model.is_present) return ["here", "Downloaded, loads on first use"];
  return ["away", model.may_pull ? "Not downloaded" : "Not downloaded; your key may not pull models"];
}

function licence({ license, license_url }) {
  const words = license || "unknown licence";
  if (!/^https?:\/\//.test(license_url)) return words;
  return make("a", { href: license_url, target: "_blank", rel: "noopener noreferrer" }, words);
}

export class ModelsPanel {
  /** @param {{choose: (model: object) => void, patience: import("./patience.js").Patience}} hooks */
  constructor(hooks) {
    this.hooks = hooks;
    this.models = [];
    this.pulls = new Map();
    this.chosen = "";
    this.dialog = byId("models-dialog");
    wireDialog(this.dialog);
    byId("model").addEventListener("click", () => this.open());
  }

  get isLoaded() {
    return Boolean(this.models.find(({ name }) => name === this.chosen)?.is_loaded);
  }

  async open() {
    this.draw();
    this.dialog.showModal();
    await this.load().catch(() => {});
  }

  async load() {
    const { data } = await this.hooks.patience.run(() => transport.catalog());
    const isNew = JSON.stringify(data.models) !== JSON.stringify(this.models);
    this.models = data.models;
    // A button that is replaced while it is pressed gets no click.
    if (isNew) this.draw();
    return this.models;
  }

  choose(model) {
    this.chosen = model.name;
    this.hooks.choose(model);
    this.draw();
  }

  draw() {
    const chosen = this.models.find(({ name }) => name === this.chosen);
    byId("model-name").textContent = chosen ? shortName(chosen.name) : "…";
    byId("model").setAttribute("aria-label", chosen ? `Model: ${shortName(chosen.name)}` : "Model");
    byId("model-state").className = `state-dot ${chosen ? stateOf(chosen)[0] : ""}`;
    const order = ["loaded", "here", "away"];
    const sorted = [...this.models].sort((a, b) => order.indexOf(stateOf(a)[0]) - order.indexOf(stateOf(b)[0]));
    const focused = document.activeElement?.dataset?.model;
    byId("models").replaceChildren(...sorted.map((model) => this.row(model)));
    if (focused) byId("models").querySelector(`[data-model="${CSS.escape(focused)}"]`)?.focus();
  }

  row(model) {
    const [state, words] = stateOf(model);
    const name = shortName(model.name);
    const pull = this.pulls.get(model.name);
    const isChosen = model.name === this.chosen;
    const download = model.download_size ? `${bytesText(model.download_size)} to download` : "download size unknown";
    const facts = [words, model.is_present ? model.size && bytesText(model.size) : download].filter(Boolean);
    const about = make(
      "span",
      { class: "model-text" },
      make("b", {}, name),
      make("span", { class: "about" }, `Takes ${model.takes}${model.capabilities.includes("multimask") ? "; offers candidates" : ""}`),
      make("span", { class: "about" }, `${facts.join(" · ")} · `, licence(model)),
    );
    const row = make("li", { class: `model ${isChosen ? "is-chosen" : ""}` }, make("span", { class: `state-dot ${state}` }), about);
    const offer = (text, label, onclick, look = "") => {
      row.append(make("button", { class: `button small ${look}`, "data-model": model.name, "aria-label": label, onclick }, text));
    };
    if (pull && !pull.isWrong) {
      offer("Close; download continues", `Close; download of ${name} continues`, () => pull.controller.abort());
    } else if (model.is_present) {
      const use = () => {
        this.choose(model);
        this.dialog.close();
      };
      const text = isChosen ? "In use" : "Use";
      offer(text, `${text} ${name}`, use, isChosen ? "quiet" : "");
    } else if (model.may_pull) {
      offer(pull ? "Try again" : "Pull", `${pull ? "Try again to pull" : "Pull"} ${name}`, () => this.pull(model));
    }
    if (pull) row.append(this.progress(model, pull));
    return row;
  }

  progress(model, { completed, total, text, isWrong }) {
    const bar = total ? make("progress", { max: String(total), value: String(completed), "aria-label": `Pulling ${model.name}` }) : null;
    return make("span", { class: `pull ${isWrong ? "wrong" : ""}`, "data-pull": model.name }, bar, make("span", { class: "about" }, text));
  }

  /** Pull a model and use it. Closing does not end the pull: the server continues. */
  async pull(model) {
    const controller = new AbortController();
    const state = { controller, completed: 0, total: 0, text: "Starting…", files: new Map() };
    this.pulls.set(model.name, state);
    this.draw();
    const onNews = (news) => {
      if (news.digest) state.files.set(news.digest, news);
      const files = [...state.files.values()];
      state.completed = files.reduce((sum, file) => sum + (file.completed ?? 0), 0);
      state.total = files.every((file) => file.total) ? files.reduce((sum, file) => sum + file.total, 0) : 0;
      const most = state.total ? ` of ${bytesText(state.total)}` : "";
      state.text = files.length ? `${bytesText(state.completed)}${most}${news.status.startsWith("verifying") ? ", verifying" : ""}` : news.status;
      // Only this is replaced: a button that is replaced while it is pressed gets no click.
      byId("models").querySelector(`[data-pull="${CSS.escape(model.name)}"]`)?.replaceWith(this.progress(model, state));
    };
    try {
      await transport.pull(model.name, onNews, controller.signal);
      this.pulls.delete(model.name);
      await this.load();
      const pulled = this.models.find(({ name }) => name === model.name);
      if (pulled?.is_present) this.choose(pulled);
    } catch (error) {
      this.pulls.delete(model.name);
      if (error.name === "AbortError") return;
      this.pulls.set(model.name, { ...state, total: 0, text: error.text || error.message, isWrong: true });
    } finally {
      this.draw();
    }
  }
}
