// What the user has said about the photo: objects and their prompts. Values are never changed, only replaced, so that
// undo is a matter of keeping old ones. Masks are no part of it: they follow from the prompts (see asking.js).

// As in `osamd run --overlay`, brightened for screens; they stay apart for most kinds of colour vision.
export const COLORS = ["#2f9bff", "#ffae1a", "#12c99b", "#f17cc4", "#ff7038", "#8fd3ff", "#f4e04d"];
const MOST_STEPS = 200;

export const EMPTY = Object.freeze({ objects: [], activeId: null, nextId: 1 });

export const activeOf = (doc) => doc.objects.find((object) => object.id === doc.activeId) ?? null;
export const isBlank = (object) => !(object.points.length || object.box || object.texts.length || object.base);

function change(doc, id, fields) {
  return { ...doc, objects: doc.objects.map((object) => (object.id === id ? { ...object, ...fields } : object)) };
}

/** A new, blank object, which becomes the active one. A blank one that is there already is taken instead. */
export function newObject(doc) {
  const blank = doc.objects.find(isBlank);
  if (blank) return { ...doc, activeId: blank.id };
  const id = doc.nextId;
  const object = {
    id,
    name: `Object ${id}`,
    color: COLORS[(id - 1) % COLORS.length],
    points: [],
    box: null,
    texts: [],
    base: null, // the mask_id of a picked candidate, which later clicks refine
    picked: 0,
    isHidden: false,
  };
  return { objects: [...doc.objects, object], activeId: id, nextId: id + 1 };
}

const withActive = (doc) => (activeOf(doc) ? doc : newObject(doc));

/** Clicks after a candidate was picked refine that one. */
export function addPoint(doc, pixel, label, pickedMaskId = null) {
  const next = withActive(doc);
  const object = activeOf(next);
  const base = object.picked > 0 && pickedMaskId ? pickedMaskId : object.base;
  return change(next, object.id, {
    points: [...object.points, { x: pixel.x, y: pixel.y, label }],
    base,
    picked: base === object.base ? object.picked : 0,
    isHidden: false,
  });
}

export function setBox(doc, box) {
  const next = withActive(doc);
  return change(next, next.activeId, { box, base: null, picked: 0, isHidden: false });
}

export function setTexts(doc, texts) {
  const next = withActive(doc);
  return change(next, next.activeId, { texts, name: texts.join(", ") || activeOf(next).name, isHidden: false });
}

export const pick = (doc, index) => change(doc, doc.activeId, { picked: index });
export const withoutPicks = (doc) => ({ ...doc, objects: doc.objects.map((object) => ({ ...object, picked: 0 })) });
export const rename = (doc, id, name) => change(doc, id, { name });
export const activate = (doc, id) => ({ ...doc, activeId: id });
export const hide = (doc, id, isHidden) => change(doc, id, { isHidden });

export function clear(doc) {
  return doc.activeId === null ? doc : change(doc, doc.activeId, { points: [], box: null, texts: [], base: null, picked: 0 });
}

export function remove(doc, id) {
  const objects = doc.objects.filter((object) => object.id !== id);
  const activeId = doc.activeId === id ? (objects.at(-1)?.id ?? null) : doc.activeId;
  return { ...doc, objects, activeId };
}

/** Without what belongs to the model before: candidates, and the masks that clicks refined. */
export function withoutCandidates(doc) {
  return { ...doc, objects: doc.objects.map((object) => ({ ...object, base: null, picked: 0 })) };
}

/** The `prompt` of the API, or null for an object about which nothing was said. */
export function promptOf(object) {
  if (isBlank(object)) return null;
  const prompt = {};
  if (object.points.length) {
    prompt.points = object.points.map(({ x, y }) => [x, y]);
    prompt.point_labels = object.points.map(({ label }) => label);
  }
  if (object.box) prompt.box = object.box;
  if (object.texts.length) prompt.texts = object.texts;
  if (object.base) prompt.mask_input = object.base;
  return prompt;
}

/**
 * Steps back and forth. Which object is active is no step: `replace` puts it into the present one. Nor are names and what
 * is shown: `rewrite` puts them into every step, so that undo does not lose them.
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

  /** Change every step, those before and after too. */
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
