// The objects in a photo and their prompts. Values are never changed, only replaced, so undo keeps the old ones. Masks are
// not part of it: they follow from the prompts (see asking.js), except those that a word search found.

import { colorOf } from "./colors.js";

const MOST_STEPS = 200;

export const EMPTY = Object.freeze({ objects: [], activeId: null, nextId: 1, isMultimask: false });

export const activeOf = (doc) => doc.objects.find((object) => object.id === doc.activeId) ?? null;
export const isBlank = (object) => !(object.points.length || object.box || object.found || object.base || object.strokes.length);
/** The class of an object in exported files: its name, never empty. */
export const classOf = (object) => object.name.trim() || `Object ${object.id}`;

function change(doc, id, fields) {
  return { ...doc, objects: doc.objects.map((object) => (object.id === id ? { ...object, ...fields } : object)) };
}

/** A new, blank object, which becomes the active one. A blank one that exists already is reused. */
export function newObject(doc, fields = {}) {
  const blank = doc.objects.find(isBlank);
  if (blank) return change({ ...doc, activeId: blank.id }, blank.id, fields);
  const id = doc.nextId;
  const object = {
    id,
    name: `Object ${id}`,
    color: colorOf(id),
    points: [],
    box: null,
    found: null, // {texts, model, annotation}: what a search found; for everything, no texts
    strokes: [], // of brush and eraser, drawn over whatever mask the prompts give
    base: null, // what later clicks refine: the mask_id of a picked candidate, or the name of a painted mask
    isMultimask: doc.isMultimask, // whether candidates are asked for
    picked: 0,
    isHidden: false,
    ...fields,
  };
  return { ...doc, objects: [...doc.objects, object], activeId: id, nextId: id + 1 };
}

const withActive = (doc) => (activeOf(doc) ? doc : newObject(doc));

/** Whether what clicks refine is a mask that was painted here, which any model can take. */
export const isPainted = (base) => Boolean(base?.startsWith("painted "));

/** Clicks refine a picked candidate or a painted mask. What a search found is refined from its mask or its box. */
export function addPoint(doc, pixel, label, maskId = null) {
  const next = withActive(doc);
  const object = activeOf(next);
  const isRefined = maskId && (isPainted(maskId) || object.picked > 0 || object.found);
  const base = isRefined ? maskId : object.base;
  return change(next, object.id, {
    points: [...object.points, { x: pixel.x, y: pixel.y, label }],
    box: object.found && !isRefined ? boxOf(object.found.annotation) : object.box,
    found: null,
    base,
    picked: base === object.base ? object.picked : 0,
    isHidden: false,
  });
}

const boxOf = ({ bounding_box: { xmin, ymin, xmax, ymax } }) => [xmin, ymin, xmax, ymax];

export function setBox(doc, box) {
  const next = withActive(doc);
  return change(next, next.activeId, { box, found: null, strokes: [], base: null, picked: 0, isHidden: false });
}

/** @param {{isErase: boolean, radius: number, path: number[]}} stroke in pixels of the photo; path is x, y, x, y, ... */
export function addStroke(doc, stroke) {
  const next = withActive(doc);
  return change(next, next.activeId, { strokes: [...activeOf(next).strokes, stroke], isHidden: false });
}

/** An object for each answer to a search, named after the word that found it, if any did. */
export function addFound(doc, texts, model, annotations) {
  let next = { ...doc, objects: doc.objects.filter((object) => !isBlank(object)) };
  for (const annotation of annotations) {
    const name = annotation.text || texts.join(", ");
    next = newObject(next, { ...(name && { name }), found: { texts, model, annotation } });
  }
  return { ...next, activeId: next.nextId - annotations.length };
}

/** Objects kept from an earlier visit, without blank ones of this one. */
export function addSaved(doc, objects) {
  const kept = { ...doc, objects: doc.objects.filter((object) => !isBlank(object)) };
  return objects.reduce((next, fields) => newObject(next, { ...fields, base: null }), kept);
}

export const pick = (doc, index) => change(doc, doc.activeId, { picked: index });

/** Ask for candidates of the active object, and of new ones, or no longer. */
export function setMultimask(doc, isMultimask) {
  return change({ ...doc, isMultimask }, doc.activeId, { isMultimask, picked: 0 });
}
export const rename = (doc, id, name) => change(doc, id, { name });
export const activate = (doc, id) => ({ ...doc, activeId: id });
export const hide = (doc, id, isHidden) => change(doc, id, { isHidden });

export function clear(doc) {
  return doc.activeId === null ? doc : change(doc, doc.activeId, { points: [], box: null, found: null, strokes: [], base: null, picked: 0 });
}

export function remove(doc, id) {
  const index = doc.objects.findIndex((object) => object.id === id);
  const objects = doc.objects.filter((object) => object.id !== id);
  const activeId = doc.activeId === id ? ((objects[index] ?? objects.at(-1))?.id ?? null) : doc.activeId;
  return { ...doc, objects, activeId };
}

/** Without what belongs to the previous model: candidates, and the masks that clicks refined. */
export function withoutCandidates(doc) {
  return { ...doc, objects: doc.objects.map((object) => ({ ...object, base: isPainted(object.base) ? object.base : null, picked: 0 })) };
}

/** The `prompt` of the API, or null where there is nothing to ask: the object is blank, found, or painted alone. */
export function promptOf(object) {
  if (object.found || !(object.points.length || object.box || object.base)) return null;
  const prompt = {};
  if (object.points.length) {
    prompt.points = object.points.map(({ x, y }) => [x, y]);
    prompt.point_labels = object.points.map(({ label }) => label);
  }
  if (object.box) prompt.box = object.box;
  if (object.base) prompt.mask_input = object.base;
  return prompt;
}

/**
 * Undo and redo. Selecting an object is not a step: `replace` puts it into the present one. Nor are names and visibility:
 * `rewrite` puts them into every step, so that undo does not lose them.
 */
export class History {
  constructor() {
    this.reset();
  }

  reset() {
    this.past = [];
    this.present = EMPTY;
    this.future = [];
  }

  commit(doc) {
    if (doc === this.present) return;
    this.past = [...this.past.slice(-MOST_STEPS), this.present];
    this.present = doc;
    this.future = [];
  }

  replace(doc) {
    this.present = doc;
  }

  /** Change every step, past and future too. */
  rewrite(change) {
    this.past = this.past.map(change);
    this.present = change(this.present);
    this.future = this.future.map(change);
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.present);
    this.present = this.past.pop();
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.present);
    this.present = this.future.pop();
    return true;
  }
}
