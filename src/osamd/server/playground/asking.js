// Requests about one photo: embed it once, then ask for the mask of each object.
// Answers are kept by request, so that undo and redo cost nothing.

import { activeOf, promptOf } from "./document.js";
import { maskPng, paintedShapes, preparedShape, shapeOf } from "./masks.js";
import * as transport from "./transport.js";
import { Trouble } from "./troubles.js";

// A preview that takes longer than this follows the pointer badly, and costs the server more than it gives.
const PREVIEW_MS = 180;
const PREVIEW_PAUSE_MS = 40;
const REMEMBERED = 400;

function uriOf(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(blob);
  });
}

export class Asking {
  /**
   * @param {import("./patience.js").Patience} patience
   * @param {{onChange, onCost, onReady, onAnswer, onMaskLost, onTrouble}} hooks
   */
  constructor(patience, hooks) {
    this.patience = patience;
    this.hooks = hooks;
    this.model = null; // until the list of models is there
    this.capabilities = new Set();
    this.sent = 0;
    this.pending = new Map();
    this.shown = new Map(); // the last shapes of each object, drawn until newer ones arrive
    this.lostMasks = new Set(); // mask_ids that the server no longer knows
    this.announced = new Map(); // the answers that were announced, by object
    this.painted = new WeakMap(); // shapes with strokes over them, by the strokes
    this.paintings = new Set();
    this.masks = new Map(); // painted masks to refine, by name: functions that give a data URI
    this.searching = null;
    this.detector = null; // a model that only finds boxes, for words
    this.standIn = null; // a model quick enough to preview in a slow one's place
    this.forget();
  }

  /** Forget everything about the previous photo, and embed this one. */
  open(photo, memory) {
    this.forget();
    this.photo = photo;
    if (memory?.model === this.model && memory.model) {
      this.answers = memory.answers;
      this.embedding = memory.embedding;
      this.phase = "ready";
    } else this.start();
  }

  /** What spares requests when this photo is opened again. */
  get memory() {
    const { model, answers, embedding, phase } = this;
    return phase === "ready" ? { model, answers, embedding } : null;
  }

  useModel(model, capabilities) {
    this.model = model;
    this.capabilities = new Set(capabilities);
    const { photo } = this;
    this.forget();
    this.photo = photo;
    if (photo) this.start();
  }

  forget() {
    this.stop?.abort();
    this.stop = new AbortController(); // of what belongs to this photo and this model
    for (const { controller } of this.pending.values()) controller.abort();
    this.pending.clear();
    this.searching?.abort();
    this.announced.clear();
    this.answers = new Map();
    this.shown.clear();
    this.lostMasks.clear();
    this.asked = null; // what the last preview asked
    this.embedding = this.wordEmbedding = null;
    this.photo = null;
    this.endPreview();
    this.stopPreview?.abort();
    this.retryPreviews();
    this.phase = "empty"; // waiting, sending, reading, ready, failed
  }

  start() {
    this.phase = "waiting";
    if (this.model) this.handle().catch(() => {});
  }

  /** The photo's handle; the photo is sent when there is none yet. */
  handle() {
    this.embedding ??= this.embed();
    return this.embedding;
  }

  async embed() {
    const { signal } = this.stop;
    const tell = (phase, sent) => {
      if (signal.aborted) return;
      this.phase = phase;
      this.sent = sent;
      this.hooks.onChange();
    };
    try {
      const { data, cost } = await this.patience.run(() => {
        tell("sending", 0);
        const onSent = (part) => tell(part < 1 ? "sending" : "reading", part);
        return transport.embed(this.photo.blob, this.model, { signal, onSent });
      }, signal);
      if (data.width !== this.photo.width || data.height !== this.photo.height) {
        const sizes = `${data.width} × ${data.height} pixels on the server but ${this.photo.width} × ${this.photo.height} here`;
        throw new Trouble("refused", { detail: `The photo has ${sizes}, so clicks would land in the wrong place.` });
      }
      this.hooks.onCost({ ...cost, kind: "photo" });
      tell("ready", 1);
      this.hooks.onReady();
      return data;
    } catch (error) {
      if (!signal.aborted) {
        this.embedding = null;
        tell("failed", 0);
        this.hooks.onTrouble(error.name === "AbortError" ? new Trouble("stopped") : error);
      }
      throw error;
    }
  }

  /** Whether the model can be asked about an object. */
  takes(object) {
    const has = (name) => this.capabilities.has(name);
    return (
      (!object.points.length || has("points")) &&
      (!object.box || has("box") || has("boxes"))
    );
  }

  /** What is asked about an object, or null when nothing is. */
  fieldsOf(object) {
    const prompt = promptOf(object);
    if (!prompt || !this.takes(object)) return null;
    if (this.lostMasks.has(prompt.mask_input) || !this.capabilities.has("mask_input")) delete prompt.mask_input;
    const fields = { prompt };
    if (object.isMultimask && this.capabilities.has("multimask") && !prompt.mask_input) fields.multimask = true;
    return fields;
  }

  answerOf(object) {
    if (object.found) return { shapes: [preparedShape(object.found.annotation)], isMultimask: false };
    const fields = this.fieldsOf(object);
    return fields && this.answers.get(JSON.stringify(fields));
  }

  /** The shapes of an object to draw and to export, with its strokes. */
  shapesOf(object) {
    const shapes = this.answeredShapesOf(object);
    const { strokes } = object;
    if (!strokes.length) return shapes;
    const known = this.painted.get(strokes);
    if (known && known.under === shapes[0]) return known.shapes;
    const entry = { under: shapes[0], shapes, isPending: true };
    this.painted.set(strokes, entry);
    const { photo } = this;
    const painting = paintedShapes(shapes, strokes, photo).then((result) => {
      Object.assign(entry, { shapes: result, isPending: false });
      this.paintings.delete(painting);
      this.hooks.onChange();
      return result;
    });
    let uri;
    entry.uri = () => (uri ??= painting.then((result) => maskPng(result, photo)).then((png) => png && uriOf(png)));
    this.paintings.add(painting);
    return shapes;
  }

  /** Names the mask of an object with its strokes, for clicks to refine it; null without strokes, or an empty mask. */
  paintedMaskOf(object) {
    if (!this.capabilities.has("mask_input") || !object.strokes.length) return null;
    const isEmpty = !this.shapesOf(object).length;
    const entry = this.painted.get(object.strokes);
    if (isEmpty && !entry.isPending) return null;
    if (!entry.name) {
      entry.name = `painted ${this.masks.size}`;
      this.masks.set(entry.name, entry.uri);
    }
    return entry.name;
  }

  /** Whether the mask that was asked for, or strokes over it, are still to come. */
  isIncomplete(object) {
    return Boolean(this.painted.get(object.strokes)?.isPending || (this.fieldsOf(object) && !this.answerOf(object)));
  }

  /** Resolves when all strokes are part of their masks. */
  whenPainted() {
    return Promise.all(this.paintings);
  }

  /** The shapes that the server gave for an object, of candidates the picked one. */
  answeredShapesOf(object) {
    const answer = this.answerOf(object);
    if (!answer) return [];
    return answer.isMultimask ? answer.shapes.slice(object.picked, object.picked + 1) : answer.shapes;
  }

  /** The shapes to draw: the previous ones while a request is running. */
  drawnShapesOf(object) {
    const isAsked = object.found || this.fieldsOf(object);
    if (!isAsked && !object.strokes.length) return [];
    if (!isAsked || this.answerOf(object)) {
      const shapes = this.shapesOf(object);
      if (!this.painted.get(object.strokes)?.isPending) this.shown.set(object.id, shapes);
    }
    return this.shown.get(object.id) ?? [];
  }

  isPending(object) {
    return this.pending.has(object.id);
  }

  /** Ask for every mask that is missing, the active object's first. */
  update(doc) {
    this.endPreview();
    const active = activeOf(doc);
    const objects = [active, ...doc.objects.filter((object) => object !== active)].filter(Boolean);
    for (const [id, { controller }] of this.pending) {
      if (!objects.some((object) => object.id === id)) controller.abort();
    }
    // Undo gives numbers back, and the next object with this one is another.
    for (const id of this.shown.keys()) {
      if (!objects.some((object) => object.id === id)) this.shown.delete(id);
    }
    for (const object of objects) this.ask(object);
  }

  async ask(object) {
    const fields = this.fieldsOf(object);
    const key = JSON.stringify(fields);
    const before = this.pending.get(object.id);
    if (before?.key === key) return;
    before?.controller.abort();
    this.pending.delete(object.id);
    if (!fields || !this.photo || !this.model) return;
    const known = this.answers.get(key);
    if (known) {
      // A preview asked for it already; its cost counts as the click's.
      if (known.cost) this.hooks.onCost({ ...known.cost, kind: "click" });
      known.cost = null;
      this.announce(object, key);
      return;
    }
    const controller = new AbortController();
    this.pending.set(object.id, { key, controller });
    this.hooks.onChange();
    try {
      // A preview may be asking the same.
      const early = this.asked?.key === key ? await this.asked.reply.catch(() => null) : null;
      const { data, cost } = early ?? (await this.patience.run(() => this.generate(fields, controller.signal), controller.signal));
      const shapes = await Promise.all(data.annotations.map(shapeOf));
      controller.signal.throwIfAborted();
      this.remember(key, { shapes, isMultimask: Boolean(fields.multimask), cost: null });
      this.hooks.onCost({ ...cost, kind: "click" });
      this.announce(object, key);
    } catch (error) {
      // A newer click replaced this one, or the photo itself failed and says so.
      if (controller.signal.aborted || this.phase === "failed") return;
      if (!this.hasLost(fields, error)) {
        this.hooks.onTrouble(error.name === "AbortError" ? new Trouble("stopped") : error);
      }
    } finally {
      if (this.pending.get(object.id)?.controller === controller) this.pending.delete(object.id);
      this.hooks.onChange();
    }
  }

  /** Tell about an answer once, wherever it came from: a preview may have fetched it. */
  announce(object, key) {
    if (this.announced.get(object.id) === key) return;
    this.announced.set(object.id, key);
    this.hooks.onAnswer(object);
  }

  /** The model that takes words: the chosen one, or a chain of the detector and the chosen one; null without either. */
  get wordModel() {
    if (this.capabilities.has("texts")) return this.model;
    const isSegmenter = ["points", "box", "masks"].every((name) => this.capabilities.has(name));
    return this.detector && isSegmenter ? `${this.detector}+${this.model}` : null;
  }

  /** What a model finds for words: one annotation each. */
  async search(texts) {
    this.searching?.abort();
    const controller = (this.searching = new AbortController());
    const { signal } = controller;
    const model = this.wordModel;
    const ask = async () => {
      const silent = { signal: this.stop.signal, onSent() {} };
      // The detector has to see the photo, too.
      if (model !== this.model) await (this.wordEmbedding ??= transport.embed(this.photo.blob, model, silent));
      return this.generate({ model, prompt: { texts } }, signal);
    };
    this.hooks.onChange();
    try {
      const { data, cost } = await this.patience.run(ask, signal);
      await Promise.all(data.annotations.map(shapeOf));
      signal.throwIfAborted();
      this.hooks.onCost({ ...cost, kind: "click" });
      return data.annotations;
    } catch (error) {
      this.wordEmbedding = null;
      // A newer search or another photo replaced this one.
      if (signal.aborted) return null;
      throw error.name === "AbortError" ? new Trouble("stopped") : error;
    } finally {
      if (this.searching === controller) this.searching = null;
      this.hooks.onChange();
    }
  }

  /** Whether the mask to refine was lost; from then on only the clicks are sent. */
  hasLost(fields, error) {
    const { mask_input } = fields.prompt;
    if (error.kind !== "mask" || !mask_input) return false;
    this.lostMasks.add(mask_input);
    this.hooks.onMaskLost();
    return true;
  }

  remember(key, answer) {
    if (this.answers.size > REMEMBERED) this.answers.delete(this.answers.keys().next().value);
    this.answers.set(key, answer);
  }

  /** One request about the photo, which is uploaded again when its handle has expired. */
  async generate(fields, signal, more = {}, send = transport.generate) {
    for (let isSecond = false; ; isSecond = true) {
      const embedding = this.handle();
      const { image_id } = await embedding;
      signal.throwIfAborted();
      try {
        const body = { model: this.model, image_id, mask_layout: "crop", ...fields, ...more };
        const painted = this.masks.get(fields.prompt.mask_input);
        if (painted) body.prompt = { ...fields.prompt, mask_input: (await painted()) ?? undefined };
        signal.throwIfAborted();
        return await send(body, signal);
      } catch (error) {
        if (isSecond || error.kind !== "expired") throw error;
        if (this.embedding === embedding) this.embedding = null;
      }
    }
  }

  /** An object's polygons, traced by the API. */
  async tracedOf(object, signal) {
    const fields = this.fieldsOf(object);
    const ask = () => this.generate(fields, signal, { mask_format: "polygon" });
    try {
      const { annotations } = (await this.patience.run(ask, signal)).data;
      return fields.multimask ? annotations.slice(object.picked, object.picked + 1) : annotations;
    } catch (error) {
      if (this.hasLost(fields, error)) return this.tracedOf(object, signal);
      throw error;
    }
  }

  retryPreviews() {
    this.previewTimes = [];
    this.isPreviewRefused = false;
    this.standInEmbedding = null;
  }

  /** Whether previews keep up with the pointer, as far as is known. */
  get isQuick() {
    const times = [...this.previewTimes].sort((a, b) => a - b);
    return times.length < 3 || times[times.length >> 1] < PREVIEW_MS;
  }

  /** The model that previews: the chosen one, or where it is too slow the stand-in, or none. */
  get previewer() {
    if (this.isQuick) return this.model;
    return this.standIn === this.model ? null : this.standIn;
  }

  /** Show the mask that an object would have after one more click. One request at a time; the newest is asked next. */
  preview(object) {
    this.wantedPreview = object;
    const isPossible = this.phase === "ready" && this.previewer && !this.isPreviewRefused && !this.patience.waiting;
    if (isPossible && !this.isPreviewing) this.runPreviews();
  }

  endPreview() {
    this.wantedPreview = null;
    this.previewShapes = [];
  }

  async runPreviews() {
    this.isPreviewing = true;
    try {
      while (this.wantedPreview && this.previewer) {
        const wanted = this.wantedPreview;
        const once = this.isQuick ? this.previewOnce(wanted) : this.standInOnce(wanted);
        await once.catch((error) => {
          if (error.name !== "AbortError" && !this.hasLost(this.fieldsOf(wanted), error)) throw error;
        });
        if (this.wantedPreview === wanted) break;
        await new Promise((resolve) => setTimeout(resolve, PREVIEW_PAUSE_MS));
      }
    } catch {
      // Previews fail quietly; the click shows the error.
      this.isPreviewRefused = true;
    } finally {
      this.isPreviewing = false;
    }
  }

  /** A preview by the stand-in. Nothing of it is kept: the click asks the chosen model. */
  async standInOnce(object) {
    this.stopPreview = new AbortController();
    const { signal } = this.stopPreview;
    const silent = { signal: this.stop.signal, onSent() {} };
    this.standInEmbedding ??= transport.embed(this.photo.blob, this.standIn, silent);
    const { image_id } = (await this.standInEmbedding).data;
    const prompt = promptOf(object);
    if (!prompt) return;
    delete prompt.mask_input;
    const body = { model: this.standIn, image_id, mask_layout: "crop", prompt };
    const { data } = await transport.generate(body, signal);
    const shapes = await Promise.all(data.annotations.map(shapeOf));
    signal.throwIfAborted();
    if (!this.wantedPreview) return;
    this.previewShapes = shapes;
    this.hooks.onChange("preview");
  }

  async previewOnce(object) {
    const fields = this.fieldsOf(object);
    const key = JSON.stringify(fields);
    if (!this.answers.has(key)) {
      this.stopPreview = new AbortController();
      const { signal } = this.stopPreview;
      this.asked = { key, reply: this.generate(fields, signal) };
      const { data, cost } = await this.asked.reply;
      const shapes = await Promise.all(data.annotations.map(shapeOf));
      signal.throwIfAborted();
      const wasQuick = this.isQuick;
      this.previewTimes = [...this.previewTimes.slice(-8), cost.ms];
      if (this.isQuick !== wasQuick) this.hooks.onChange();
      if (!this.answers.has(key)) this.remember(key, { shapes, isMultimask: Boolean(fields.multimask), cost });
    }
    if (!this.wantedPreview) return;
    this.previewShapes = this.answeredShapesOf(object);
    this.hooks.onChange("preview");
  }
}
