// The playground: user actions change the document, its prompts go to the server, masks come back.

import { Asking } from "./asking.js";
import { CodePanel } from "./code-panel.js";
import { CostPanel } from "./cost-panel.js";
import * as doc from "./document.js";
import { Classes } from "./classes.js";
import { byId, roving, wireDialog } from "./dom.js";
import { putIcons } from "./icons.js";
import { Everything } from "./everything.js";
import * as exports from "./exports.js";
import { Gestures } from "./gestures.js";
import { wirePhotos } from "./intake.js";
import { wireKeys } from "./keys.js";
import { KeyDialog } from "./key-dialog.js";
import { shapeOf } from "./masks.js";
import { ModelsPanel } from "./models-panel.js";
import { Notice } from "./notice.js";
import { candidateButtons, describe, ObjectsPanel } from "./objects-panel.js";
import { Patience } from "./patience.js";
import { openPhoto } from "./photo.js";
import { Photos } from "./photos.js";
import { hashOf, save, savedObjects } from "./saved.js";
import { Stage } from "./stage.js";
import { wireTheme } from "./theme.js";
import { Trouble } from "./troubles.js";

let history = new doc.History(); // of the open photo
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
    // The first photo loaded a model that was only downloaded before.
    if (!models.isLoaded) models.load().catch(() => {});
  },
  onCost: (cost) => costs.add(cost),
  onAnswer: (object) => {
    byId("announcement").textContent = `${doc.classOf(object)}: ${describe(object, asking)}`;
  },
  onMaskLost: () => changed(),
  onTrouble: complain,
});
const models = new ModelsPanel({ patience, choose: useModel });
const stage = new Stage(byId("stage"), byId("canvas"), byId("dock"), scene, () => {
  byId("zoom-fit").textContent = `${Math.round(stage.view.scale * 100)} %`;
});
const gestures = new Gestures(stage, {
  point: (pixel, label, event) => {
    if (everything.isOn) return keepAt(pixel);
    if (!asking.model) return needModel();
    if (!canUse("add")) return takesNo("clicks");
    const other = label && !event.altKey ? otherAt(pixel) : null;
    if (other) return replace(doc.activate(history.present, other.id));
    if (isRepeated(pixel, label)) return undefined;
    return commit(clicked(pixel, label));
  },
  box: (box) => {
    if (!asking.model) return needModel();
    if (!canUse("box")) return takesNo("box");
    return commit(doc.setBox(history.present, box));
  },
  stroke: (stroke) => commit(doc.addStroke(history.present, stroke)),
  tap: () => asking.model && !canUse("add") && takesNo("clicks"),
  hover,
  tool: useTool,
  redraw: () => stage.draw(),
});
const everything = new Everything(asking, { objects: () => history.present.objects, keep, onChange: refresh, onTrouble: complain });
const objects = new ObjectsPanel(byId("objects"), byId("stage"), {
  activate: (id) => replace(doc.activate(history.present, id)),
  rename: (id, name) => rewrite((step) => doc.rename(step, id, name)),
  named: (id) => {
    const object = history.present.objects.find((one) => one.id === id);
    if (!object) return;
    const name = doc.classOf(object);
    if (name !== object.name) rewrite((step) => doc.rename(step, id, name));
    if (name !== `Object ${id}`) classes.addLater(name);
  },
  hide: (id) => {
    const { isHidden } = history.present.objects.find((object) => object.id === id);
    rewrite((step) => doc.hide(step, id, !isHidden));
  },
  remove: (id) => commit(doc.remove(history.present, id)),
});
const classes = new Classes({ give: giveClass });
const photos = new Photos((entry) => showEntry(entry));
let isPreviewOn = matchMedia("(hover: hover)").matches;
let isMasksHidden = false;
let isOutlinesOnly = false;
let photosOpened = 0;
let failedSearch = null;
let loadingModels = null;
let hintTimer = 0;
// Closer to the last click than this, a click adds nothing.
const REPEATED_PX = 4;
let hintText = "";

function complain(trouble) {
  const again = trouble.kind === "refused" ? {} : { [trouble.kind === "key" ? "Enter key" : "Try again"]: tryAgain };
  notice.show(trouble.title ?? "Something went wrong", trouble.text ?? trouble.message, again);
}

/** Do again whatever has failed: the list of models, the upload, a search, masks. */
function tryAgain() {
  notice.hide();
  if (!models.chosen) return loadModels();
  if (asking.phase === "failed") asking.start();
  if (failedSearch) find(failedSearch);
  return changed();
}

/** Nothing can be asked before the list of models is there: load it, which asks for the key. */
function needModel() {
  loadModels();
  hint("The list of models is not loaded yet");
}

const canUse = (tool) => {
  const has = (name) => asking.capabilities.has(name);
  return ["pan", "brush", "eraser"].includes(tool) || (tool === "box" ? has("box") || has("boxes") : has("points"));
};
function wayOf() {
  const text = [canUse("box") && "drag a box", asking.wordModel && "type what to find"].filter(Boolean).join(" or ");
  return text && `${text[0].toUpperCase()}${text.slice(1)}.`;
}

const takesNo = (what) => hint(`This model takes no ${what}. ${wayOf()}`);

/** Another object's mask under a click. While the active object has no mask, clicks are always its own. */
function otherAt(pixel) {
  const active = doc.activeOf(history.present);
  if (!active || isMasksHidden || !asking.drawnShapesOf(active).length) return null;
  const isOn = (object) => !object.isHidden && stage.isInside(pixel, asking.drawnShapesOf(object));
  if (isOn(active)) return null;
  return history.present.objects.findLast((object) => object !== active && isOn(object)) ?? null;
}

function keep(annotations) {
  commit(doc.addFound(history.present, [], asking.model, annotations));
}

function keepAt(pixel) {
  const item = everything.at(pixel, stage);
  if (!item) return hint("Nothing was found here");
  everything.hovered = null;
  return keep([item.annotation]);
}

function findEverything() {
  if (!asking.model) return needModel();
  if (!canUse("add") || !asking.capabilities.has("masks")) return takesNo("clicks");
  return everything.isOn ? everything.end() : everything.find();
}

/** Whether a click says again what the last one said, as the second one of a double click does. */
function isRepeated(pixel, label) {
  const last = doc.activeOf(history.present)?.points.at(-1);
  return last?.label === label && Math.hypot(last.x - pixel.x, last.y - pixel.y) * stage.view.scale < REPEATED_PX;
}

function giveClass(name) {
  const { present } = history;
  if (!asking.photo) return;
  if (!doc.activeOf(present)) commit(doc.newObject(present, { name }));
  else rewrite((step) => doc.rename(step, present.activeId, name));
}

function newObject(isSameClass) {
  const active = doc.activeOf(history.present);
  if (active && doc.isBlank(active)) return;
  commit(doc.newObject(history.present, isSameClass && active ? { name: active.name } : {}));
}

function removeActive() {
  const { present } = history;
  if (doc.activeOf(present)) commit(doc.remove(present, present.activeId));
}

async function find(texts) {
  failedSearch = null;
  if (!asking.model) return needModel();
  const { wordModel: model } = asking;
  try {
    const annotations = await asking.search(texts);
    if (!annotations) return undefined;
    if (!annotations.length) return hint(`Nothing found for “${texts.join(", ")}”`);
    return commit(doc.addFound(history.present, texts, model, annotations));
  } catch (error) {
    failedSearch = texts;
    return complain(error);
  }
}

function scene() {
  const { present } = history;
  const active = doc.activeOf(present);
  const { hovered } = everything;
  const drawn = [...present.objects]
    .sort((a, b) => (a.id === present.activeId) - (b.id === present.activeId))
    .filter((object) => !object.isHidden)
    .map((object) => ({ ...object, isActive: object === active, shapes: asking.drawnShapesOf(object) }));
  const found = everything.isOn ? everything.left.map(({ shape, color }) => ({ shapes: [shape], color })) : [];
  return {
    objects: [...found, ...drawn],
    preview: { shapes: hovered ? [hovered.shape] : asking.previewShapes, color: (active ?? doc.newObject(present).objects.at(-1)).color },
    dragged: gestures.dragged,
    cursor: gestures.cursor,
    stroke: gestures.drag?.stroke,
    brush: gestures.brush,
    opacity: isOutlinesOnly ? 0 : byId("opacity").valueAsNumber / 100,
    isMasksHidden,
  };
}

function commit(next) {
  history.commit(next);
  keepWork();
  changed();
}

function replace(next) {
  history.replace(next);
  changed();
}

function rewrite(change) {
  history.rewrite(change);
  keepWork();
  changed();
}

function keepWork() {
  const { current } = photos;
  if (current?.hash) save(current.hash, history.present.objects.filter((object) => !doc.isBlank(object)));
}

function changed() {
  asking.update(history.present);
  if (everything.isOn) everything.changed();
  refresh();
}

/** The document after a click. A picked candidate or a painted mask is refined, where the model can do that. */
function clicked(pixel, label) {
  const object = doc.activeOf(history.present);
  const isOfThisModel = !object?.found || [asking.model, asking.wordModel].includes(object.found.model);
  const maskId = object && isOfThisModel && asking.capabilities.has("mask_input") ? asking.answeredShapesOf(object)[0]?.maskId : null;
  return doc.addPoint(history.present, pixel, label, (object && asking.paintedMaskOf(object)) ?? maskId);
}

function hover(pixel, label) {
  if (everything.isOn) everything.hovered = everything.at(pixel, stage) ?? null;
  const isSelecting = everything.isOn ? everything.hovered : pixel && label && otherAt(pixel);
  stage.element.classList.toggle("is-selecting", Boolean(isSelecting));
  if (!pixel || isSelecting || everything.isOn || !isPreviewOn || !asking.capabilities.has("points")) {
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
  if (everything.isOn) return "";
  if (asking.phase === "sending") return asking.sent ? `Uploading, ${Math.round(asking.sent * 100)} %` : "Uploading…";
  if (asking.phase === "reading") return "Encoding the photo…";
  if (asking.phase === "waiting") return loadingModels ? "Waiting for the server…" : "Photo not uploaded: this server needs a key";
  if (asking.phase === "failed") return "Photo not uploaded";
  if (asking.searching) return "Searching…";
  if (asking.pending.size) return asking.isQuick ? "" : "Computing the mask…";
  if (asking.phase !== "ready" || history.present.objects.length) return "";
  if (!isPreviewOn || asking.isQuick) return `Ready. ${canUse("add") ? "Click on something" : wayOf()}`;
  return `Ready. ${asking.previewer ? "Previews come from the built-in model. Click to get this model's mask" : "This model is too slow for previews. Click to get a mask"}`;
}

function refresh() {
  const { present } = history;
  const active = doc.activeOf(present);
  const text = statusText();
  const status = byId("status");
  status.hidden = !asking.photo || !text;
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("is-busy", ["sending", "reading"].includes(asking.phase) || asking.pending.size > 0);
  objects.update(present, asking);
  byId("objects-empty").hidden = present.objects.length > 0;
  byId("undo").disabled = !history.past.length;
  byId("redo").disabled = !history.future.length;
  byId("clear").disabled = !active || doc.isBlank(active);
  byId("new-object").disabled = byId("same-class").disabled = !asking.photo || !active || doc.isBlank(active);
  const hasMask = active && asking.shapesOf(active).some((shape) => shape.hasMask);
  const hasAny = present.objects.some((object) => !object.isHidden && asking.shapesOf(object).length);
  const hasOther = photos.entries.some(({ results }) => results.length);
  for (const button of document.querySelectorAll("[data-export]")) {
    const kind = button.dataset.export;
    button.disabled = ["mask", "cutout"].includes(kind) ? !hasMask : !(hasAny || (kind === "all" && hasOther));
  }
  byId("multimask").setAttribute("aria-pressed", Boolean((active ?? present).isMultimask));
  refreshCandidates(active);
  const found = active?.found;
  const prompt = found?.texts.length ? { texts: found.texts } : { everything: true };
  const fields = found ? { model: found.model, prompt } : active && asking.fieldsOf(active);
  const hasMasks = found ? Boolean(found.annotation.mask) : asking.capabilities.has("masks");
  code.update(fields && { isPainted: active.strokes.length > 0, model: asking.model, hasMasks, photo: asking.photo.name, picked: active.picked, ...fields });
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
  everything.end();
  const isDetector = ({ is_present, capabilities }) => is_present && capabilities.includes("texts") && !capabilities.includes("masks");
  asking.detector = models.models.find(isDetector)?.name ?? null;
  asking.useModel(model.name, model.capabilities);
  history.rewrite(doc.withoutCandidates);
  byId("words").hidden = !asking.wordModel;
  byId("everything").hidden = !(canUse("add") && asking.capabilities.has("masks"));
  byId("multimask").hidden = !asking.capabilities.has("multimask");
  for (const button of byId("tools").children) button.disabled = !canUse(button.dataset.tool);
  if (!canUse(gestures.tool)) useTool(canUse("box") ? "box" : "pan");
  else if (gestures.tool === "pan" && canUse("add")) useTool("add");
  stage.resize();
  changed();
}

function useTool(tool) {
  if (asking.model && !canUse(tool)) return takesNo(tool === "box" ? tool : "clicks");
  gestures.useTool(tool);
  for (const button of byId("tools").children) {
    const isChosen = button.dataset.tool === tool;
    button.setAttribute("aria-checked", isChosen);
    button.tabIndex = isChosen ? 0 : -1;
  }
  return undefined;
}

function step(move) {
  if (!history[move]()) return;
  keepWork();
  changed();
}

function nextCandidate() {
  const active = doc.activeOf(history.present);
  const answer = active && asking.answerOf(active);
  if (answer?.isMultimask && answer.shapes.length > 1) commit(doc.pick(history.present, (active.picked + 1) % answer.shapes.length));
}

function toggleMultimask() {
  if (!asking.capabilities.has("multimask")) return;
  const { present } = history;
  const next = doc.setMultimask(present, !(doc.activeOf(present) ?? present).isMultimask);
  if (doc.activeOf(present)) commit(next);
  else replace(next);
}

function toggleOutlines() {
  isOutlinesOnly = !isOutlinesOnly;
  byId("outlines").setAttribute("aria-pressed", isOutlinesOnly);
  stage.draw();
}

function hideMasks(isHidden) {
  isMasksHidden = isHidden;
  stage.draw();
}

function togglePreview() {
  isPreviewOn = !isPreviewOn;
  asking.retryPreviews();
  byId("preview").setAttribute("aria-pressed", isPreviewOn);
  hover(null);
}

const ACTS = {
  n: (event) => newObject(event.shiftKey),
  c: nextCandidate,
  m: toggleMultimask,
  p: togglePreview,
  g: findEverything,
  o: toggleOutlines,
  v: () => hideMasks(true),
  d: removeActive,
  delete: removeActive,
  backspace: removeActive,
  "+": () => stage.zoom(1.25),
  "=": () => stage.zoom(1.25),
  "-": () => stage.zoom(0.8),
  0: () => stage.fitPhoto(),
  pageup: () => photos.step(-1),
  pagedown: () => photos.step(1),
};

const BUTTONS = {
  everything: findEverything,
  undo: () => step("undo"),
  redo: () => step("redo"),
  clear: () => commit(doc.clear(history.present)),
  "new-object": () => newObject(false),
  "same-class": () => newObject(true),
  outlines: toggleOutlines,
  preview: togglePreview,
  multimask: toggleMultimask,
  "zoom-in": ACTS["+"],
  "zoom-out": ACTS["-"],
  "zoom-fit": ACTS[0],
  help: () => byId("help-dialog").showModal(),
  key: () => keyDialog.open(),
};

function press(name, event) {
  if (name === "?") BUTTONS.help();
  else if (!asking.photo) return false;
  else if (name === "escape" && everything.isOn) everything.stop();
  else if (/^[1-9]$/.test(name)) return classes.press(name);
  else if (name in ACTS) return ACTS[name](event) !== false;
  else return gestures.press(name, event);
  return true;
}

const usePhotos = (files) => showEntry(photos.add(files));

function showEntry(entry) {
  notice.hide();
  return openEntry(entry);
}

async function openEntry(entry) {
  const opened = ++photosOpened;
  let photo;
  let hash;
  try {
    photo = await openPhoto(entry.blob, entry.name);
    hash = entry.hash ?? (await hashOf(entry.blob));
  } catch (error) {
    photos.drop(entry);
    if (opened !== photosOpened) return undefined;
    notice.show("Not an image", error.message);
    // One of those that were chosen with it may do.
    const [next] = photos.entries;
    return photos.current || !next ? undefined : openEntry(next);
  }
  // Another one was opened while this one was decoded.
  if (opened !== photosOpened) return photo.close();
  everything.end();
  leaveEntry();
  const isFirst = !entry.hash;
  Object.assign(entry, { hash, photo: { name: photo.name, width: photo.width, height: photo.height } });
  photos.current = entry;
  photos.draw();
  history = entry.history;
  failedSearch = null;
  byId("announcement").textContent = "";
  byId("welcome").hidden = true;
  byId("stage").hidden = false;
  byId("dock").hidden = false;
  document.body.classList.add("has-photo");
  asking.open(photo, entry.memory);
  gestures.leave();
  stage.show(photo);
  byId("stage").focus({ preventScroll: true });
  if (!models.chosen) loadModels();
  if (isFirst) offerSaved(entry);
  changed();
}

/** Keep what the photo that is left needs to be exported, and to be opened again without requests. */
function leaveEntry() {
  const { current } = photos;
  if (!current) return;
  const results = exports.resultsOf(asking, history.present);
  const missing = history.present.objects.filter((object) => !object.isHidden && asking.isIncomplete(object)).length;
  Object.assign(current, { results, missing, memory: asking.memory });
}

const objectsText = (count) => (count === 1 ? "1 object" : `${count} objects`);

function offerSaved({ hash }) {
  const objects = savedObjects(hash);
  if (!objects.length) return;
  notice.show("You have worked on this photo before", `This browser kept the clicks and names of ${objectsText(objects.length)}.`, {
    Restore: async () => {
      notice.hide();
      await Promise.all(objects.map(({ found }) => found && shapeOf(found.annotation)));
      if (photos.current?.hash === hash) commit(doc.addSaved(history.present, objects));
    },
    Discard: () => {
      notice.hide();
      save(hash, []);
    },
  });
}

const MISSING = "Some masks are missing in the file";

function photosToExport(isAll) {
  leaveEntry();
  const entries = isAll ? photos.entries : [photos.current];
  const missing = entries.filter((entry) => entry.missing).map((entry) => `${entry.name}: ${objectsText(entry.missing)}`);
  const shown = entries.filter(({ results }) => results.length);
  if (missing.length && shown.length) {
    notice.show(MISSING, `${missing.join(", ")}. Open each of these photos, wait for its masks, and export again.`);
  } else if (notice.title === MISSING) notice.hide();
  return shown;
}

async function writeFile(kind) {
  await asking.whenPainted();
  const { present } = history;
  if (kind === "mask") return exports.maskFile(asking, doc.activeOf(present));
  if (kind === "cutout") return exports.cutoutFile(asking, doc.activeOf(present));
  const shown = photosToExport(kind === "all");
  if (!shown.length) return null;
  if (kind === "polygons") return exports.polygonsFile(asking, present);
  const names = exports.classesOf(shown, classes.names);
  const stem = exports.stemOf(shown[0].photo);
  const made = `Made with osamd and ${asking.model}`;
  if (kind.startsWith("coco")) return { blob: await exports.cocoOf(shown, names, kind !== "coco", made), name: `${stem}-${kind}.json` };
  if (kind === "yolo") return { blob: await exports.yoloZip(shown, names), name: `${stem}-yolo.zip` };
  if (kind === "label-map") return { blob: await exports.labelMapOf(shown[0], names), name: `${stem}-labels.png` };
  return { blob: await exports.everythingZip(shown, names, made), name: "annotations.zip" };
}

async function exportAs(kind) {
  const button = document.querySelector(`[data-export="${kind}"]`);
  button.classList.add("is-busy");
  try {
    const file = await writeFile(kind);
    if (file) exports.download(file);
  } catch (error) {
    if (error.name === "AbortError") hint("Export stopped. Start it again with its photo open");
    else complain(error);
  } finally {
    button.classList.remove("is-busy");
  }
}

function wire() {
  putIcons();
  for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
  byId("opacity").addEventListener("input", () => stage.draw());
  byId("preview").setAttribute("aria-pressed", isPreviewOn);
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
    if (texts.length) find(texts);
  });
  wireKeys({
    press,
    release: (name) => {
      if (name === " ") gestures.space(false);
      if (name === "v") hideMasks(false);
    },
    step,
  });
  addEventListener("blur", () => hideMasks(false));
  addEventListener("beforeunload", (event) => {
    if (photos.hasWork) event.preventDefault();
  });
}

async function start() {
  wire();
  wireTheme(byId("theme"));
  wirePhotos(usePhotos, (text) => notice.show("Not an image", text));
  useTool("add");
  refresh();
  loadModels();
}

/** Load the list of models, once at a time. */
function loadModels() {
  loadingModels ??= listModels().finally(() => {
    loadingModels = null;
    refresh();
  });
  return loadingModels;
}

async function listModels() {
  try {
    const list = await models.load();
    asking.standIn = list.find(({ name }) => name === "builtin:latest")?.name ?? null;
    models.choose(list.find(({ is_loaded }) => is_loaded) ?? list.find(({ is_present }) => is_present) ?? list[0]);
  } catch (error) {
    complain(error.name === "AbortError" ? new Trouble("stopped") : error);
  }
}

start();
