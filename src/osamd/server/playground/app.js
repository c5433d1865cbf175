// The playground: what the user does goes into the document, the document's prompts go to the server, masks come back.

import { Asking } from "./asking.js";
import { CodePanel } from "./code-panel.js";
import { CostPanel } from "./cost-panel.js";
import * as doc from "./document.js";
import { byId, roving, wireDialog } from "./dom.js";
import * as exports from "./exports.js";
import { Gestures } from "./gestures.js";
import { wirePhotos } from "./intake.js";
import { KeyDialog } from "./key-dialog.js";
import { ModelsPanel } from "./models-panel.js";
import { Notice } from "./notice.js";
import { candidateButtons, describe, ObjectsPanel } from "./objects-panel.js";
import { Patience } from "./patience.js";
import { openPhoto } from "./photo.js";
import { Stage } from "./stage.js";
import { wireTheme } from "./theme.js";
import { Trouble } from "./troubles.js";

const history = new doc.History();
const notice = new Notice(byId("notice"));
const keyDialog = new KeyDialog(() => tryAgain());
const costs = new CostPanel();
const code = new CodePanel();
const patience = new Patience({
  onWait: (trouble, seconds) => notice.wait(trouble, seconds, { tryNow: () => patience.tryNow(), stop: () => patience.stop() }),
  onEnd: () => notice.endWait(),
  askForKey: (trouble) => keyDialog.ask(trouble),
});
const asking = new Asking(patience, {
  onChange: (what) => (what === "preview" ? stage.draw() : refresh()),
  onReady: () => {
    // The first photo has a model loaded that was only here before.
    if (!models.isLoaded) models.load().catch(() => {});
  },
  onCost: (cost) => costs.add(cost),
  onAnswer: (object) => {
    byId("announcement").textContent = `${object.name}: ${describe(object, asking)}`;
  },
  onMaskLost: () => changed(),
  onTrouble: complain,
});
const models = new ModelsPanel({ patience, choose: useModel });
const stage = new Stage(byId("stage"), byId("canvas"), byId("dock"), scene, () => {
  byId("zoom-fit").textContent = `${Math.round(stage.view.scale * 100)} %`;
});
const gestures = new Gestures(stage, {
  point: (pixel, label) => {
    if (!asking.capabilities.has("points")) return hint("This model takes no clicks. Drag a box, or type words.");
    return commit(clicked(pixel, label));
  },
  box: (box) => {
    if (!asking.capabilities.has("box") && !asking.capabilities.has("boxes")) return hint("This model takes no box.");
    return commit(doc.setBox(history.present, box));
  },
  hover,
  tool: useTool,
  act: (key) => actOfKey(key),
  redraw: () => stage.draw(),
});
const objects = new ObjectsPanel(byId("objects"), {
  activate: (id) => replace(doc.activate(history.present, id)),
  rename: (id, name) => rewrite((step) => doc.rename(step, id, name)),
  hide: (id) => {
    const { isHidden } = history.present.objects.find((object) => object.id === id);
    rewrite((step) => doc.hide(step, id, !isHidden));
  },
  remove: (id) => commit(doc.remove(history.present, id)),
});
let isPreviewOn = matchMedia("(hover: hover)").matches;
let photosGiven = 0;
let hintTimer = 0;
let hintText = "";

function complain(trouble) {
  const again = trouble.kind === "refused" ? null : tryAgain;
  notice.show(trouble.title ?? "Something went wrong", trouble.text ?? trouble.message, again);
}

/** Do again whatever has failed: the list of models, the photo, masks. */
function tryAgain() {
  notice.hide();
  if (!models.chosen) return loadModels();
  if (asking.phase === "failed") asking.start();
  return changed();
}

function scene() {
  const { present } = history;
  const active = doc.activeOf(present);
  return {
    objects: [...present.objects]
      .sort((a, b) => (a.id === present.activeId) - (b.id === present.activeId))
      .filter((object) => !object.isHidden)
      .map((object) => ({ ...object, isActive: object === active, shapes: asking.drawnShapesOf(object) })),
    preview: { shapes: asking.previewShapes, color: (active ?? doc.newObject(present).objects.at(-1)).color },
    dragged: gestures.dragged,
    cursor: gestures.cursor,
  };
}

function commit(next) {
  history.commit(next);
  changed();
}

function replace(next) {
  history.replace(next);
  changed();
}

function rewrite(change) {
  history.rewrite(change);
  changed();
}

function changed() {
  asking.update(history.present);
  refresh();
}

/** The document after a click. A candidate that was picked is refined, where the model can do that. */
function clicked(pixel, label) {
  const object = doc.activeOf(history.present);
  const maskId = object && asking.capabilities.has("mask_input") ? asking.shapesOf(object)[0]?.maskId : null;
  return doc.addPoint(history.present, pixel, label, maskId);
}

function hover(pixel, label) {
  if (!pixel || !isPreviewOn || !asking.capabilities.has("points")) {
    asking.endPreview();
    stage.draw();
  } else {
    asking.preview(doc.activeOf(clicked(pixel, label)));
  }
}

function hint(text) {
  hintText = text;
  clearTimeout(hintTimer);
  hintTimer = setTimeout(() => {
    hintText = "";
    refresh();
  }, 4000);
  refresh();
}

function statusText() {
  if (hintText) return hintText;
  if (asking.phase === "sending") return asking.sent ? `Sending the photo, ${Math.round(asking.sent * 100)} %` : "Sending the photo…";
  if (asking.phase === "reading") return "The model reads the photo…";
  if (asking.phase === "waiting") return "Waiting for the server…";
  if (asking.phase === "failed") return "The photo is not with the server";
  if (asking.pending.size) return asking.isQuick ? "" : "Asking for the mask…";
  if (asking.phase === "ready" && isPreviewOn && !asking.isQuick && !history.present.objects.length) {
    return asking.previewer ? "Ready. The preview is the built-in model's: click to see this one's mask" : "Ready. Too slow for a preview: click to see the mask";
  }
  if (asking.phase === "ready" && !history.present.objects.length) return asking.capabilities.has("points") ? "Ready. Click on something" : "Ready. Drag a box, or type words";
  return "";
}

function refresh() {
  const { present } = history;
  const active = doc.activeOf(present);
  const text = statusText();
  byId("status").hidden = !asking.photo || !text;
  if (byId("status").textContent !== text) byId("status").textContent = text;
  byId("status").classList.toggle("is-busy", asking.phase === "sending" || asking.phase === "reading" || asking.pending.size > 0);
  objects.update(present, asking);
  byId("objects-empty").hidden = present.objects.length > 0;
  byId("undo").disabled = !history.past.length;
  byId("redo").disabled = !history.future.length;
  byId("clear").disabled = !active || doc.isBlank(active);
  byId("new-object").disabled = !asking.photo || !active || doc.isBlank(active);
  const hasMask = active && asking.shapesOf(active).some((shape) => shape.png);
  const hasAny = present.objects.some((object) => asking.shapesOf(object).length);
  for (const button of document.querySelectorAll("[data-export]")) {
    button.disabled = ["mask", "cutout"].includes(button.dataset.export) ? !hasMask : !hasAny;
  }
  refreshCandidates(active);
  const fields = active && asking.fieldsOf(active);
  code.update(fields && { model: asking.model, hasMasks: asking.capabilities.has("masks"), photo: asking.photo.name, picked: active.picked, ...fields });
  stage.draw();
}

function refreshCandidates(active) {
  const answer = active && asking.answerOf(active);
  const isOffered = Boolean(answer?.isMultimask && answer.shapes.length > 1);
  byId("candidates").hidden = !isOffered;
  if (!isOffered) return;
  const hadFocus = byId("candidates").contains(document.activeElement);
  byId("candidates").replaceChildren(
    ...candidateButtons(answer, active.picked, active.color, (index) => commit(doc.pick(history.present, index))),
  );
  if (hadFocus) byId("candidates").querySelector('[aria-checked="true"]').focus();
}

function useModel(model) {
  asking.useModel(model.name, model.capabilities);
  history.rewrite(doc.withoutCandidates);
  byId("words").hidden = !asking.capabilities.has("texts");
  byId("multimask").hidden = !asking.capabilities.has("multimask");
  byId("multimask").setAttribute("aria-pressed", String(asking.isMultimask));
  stage.resize();
  changed();
}

function useTool(tool) {
  gestures.useTool(tool);
  for (const button of byId("tools").children) {
    const isChosen = button.dataset.tool === tool;
    button.setAttribute("aria-checked", String(isChosen));
    button.tabIndex = isChosen ? 0 : -1;
  }
}

function step(move) {
  if (history[move]()) changed();
}

function nextCandidate() {
  const active = doc.activeOf(history.present);
  const answer = active && asking.answerOf(active);
  if (answer?.isMultimask && answer.shapes.length > 1) commit(doc.pick(history.present, (active.picked + 1) % answer.shapes.length));
}

function toggleMultimask() {
  if (!asking.capabilities.has("multimask")) return;
  asking.isMultimask = !asking.isMultimask;
  byId("multimask").setAttribute("aria-pressed", String(asking.isMultimask));
  rewrite(asking.isMultimask ? (step) => step : doc.withoutPicks);
}

function togglePreview() {
  isPreviewOn = !isPreviewOn;
  asking.retryPreviews();
  byId("preview").setAttribute("aria-pressed", String(isPreviewOn));
  hover(null);
}

const ACTS = {
  n: () => commit(doc.newObject(history.present)),
  c: nextCandidate,
  m: toggleMultimask,
  p: togglePreview,
  delete: () => commit(doc.clear(history.present)),
  backspace: () => commit(doc.clear(history.present)),
  "+": () => stage.zoom(1.25),
  "=": () => stage.zoom(1.25),
  "-": () => stage.zoom(0.8),
  0: () => stage.fitPhoto(),
  "?": () => byId("help-dialog").showModal(),
};

function actOfKey(key) {
  ACTS[key]?.();
  return key in ACTS;
}

async function usePhoto(blob, name) {
  notice.hide();
  const given = ++photosGiven;
  try {
    const photo = await openPhoto(blob, name);
    // Another one was given while this one was decoded.
    if (given !== photosGiven) return photo.close();
    history.reset();
    byId("welcome").hidden = true;
    byId("stage").hidden = false;
    byId("dock").hidden = false;
    document.body.classList.add("has-photo");
    asking.open(photo);
    stage.show(photo);
    byId("stage").focus({ preventScroll: true });
    changed();
  } catch (error) {
    if (given === photosGiven) notice.show("No picture", error.message);
  }
}

async function exportAs(kind) {
  const active = doc.activeOf(history.present);
  const write = {
    mask: () => exports.maskFile(asking, active),
    cutout: () => exports.cutoutFile(asking, active),
    coco: () => exports.cocoFile(asking, history.present),
    polygons: () => exports.polygonsFile(asking, history.present),
  }[kind];
  const button = document.querySelector(`[data-export="${kind}"]`);
  button.classList.add("is-busy");
  try {
    const file = await write();
    if (file) exports.download(file);
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  } finally {
    button.classList.remove("is-busy");
  }
}

function wire() {
  byId("undo").addEventListener("click", () => step("undo"));
  byId("redo").addEventListener("click", () => step("redo"));
  byId("clear").addEventListener("click", ACTS.delete);
  byId("new-object").addEventListener("click", ACTS.n);
  byId("preview").addEventListener("click", togglePreview);
  byId("preview").setAttribute("aria-pressed", String(isPreviewOn));
  byId("multimask").addEventListener("click", toggleMultimask);
  byId("zoom-in").addEventListener("click", ACTS["+"]);
  byId("zoom-out").addEventListener("click", ACTS["-"]);
  byId("zoom-fit").addEventListener("click", ACTS[0]);
  byId("help").addEventListener("click", ACTS["?"]);
  byId("key").addEventListener("click", () => keyDialog.open());
  wireDialog(byId("help-dialog"));
  for (const button of byId("tools").children) button.addEventListener("click", () => useTool(button.dataset.tool));
  roving(byId("tools"), "button", (button) => useTool(button.dataset.tool));
  roving(byId("candidates"), "button", (button) => button.click());
  for (const button of document.querySelectorAll("[data-export]")) {
    button.addEventListener("click", () => exportAs(button.dataset.export));
  }
  byId("words").addEventListener("submit", (event) => {
    event.preventDefault();
    const texts = byId("words-input").value.split(",").map((text) => text.trim()).filter(Boolean);
    if (texts.length) commit(doc.setTexts(history.present, texts));
  });
  addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, textarea");
    if (isTyping || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const move = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : "";
    if (!move) return;
    event.preventDefault();
    step(move);
  });
}

async function start() {
  wire();
  wireTheme(byId("theme"));
  wirePhotos(usePhoto, (text) => notice.show("No picture", text));
  useTool("add");
  refresh();
  loadModels();
}

async function loadModels() {
  try {
    const list = await models.load();
    asking.standIn = list.find(({ name }) => name === "builtin:latest")?.name ?? null;
    models.choose(list.find(({ is_loaded }) => is_loaded) ?? list.find(({ is_present }) => is_present) ?? list[0]);
  } catch (error) {
    complain(error.name === "AbortError" ? new Trouble("stopped") : error);
  }
}

start();
