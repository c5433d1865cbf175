// Files to export, made here from the masks the API gave; only polygons of clicks are requested, since the API traces them.
//
// `photos` are {photo: {name, width, height}, results: [{name, color, shapes}]}, results without hidden objects.

import { colorOf } from "./colors.js";
import { partsOf, polygonsOf } from "./contours.js";
import { classOf } from "./document.js";
import { exactMask, maskPng, paste } from "./masks.js";
import { pixelsOf } from "./photo.js";
import { encodePng } from "./png.js";
import { encodeRle } from "./rle.js";
import { zip } from "./zip.js";

const MOST_CLASSES = 255;

export const stemOf = (photo) => photo.name.replace(/\.[^.]*$/, "") || "photo";
const slug = (name) => name.trim().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "object";
const asJson = (value) => new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });
const asText = (text) => new Blob([text], { type: "text/plain" });

/** What of a document is exported: visible objects that have a mask or a box. */
export function resultsOf(asking, doc) {
  return doc.objects
    .filter((object) => !object.isHidden)
    .map((object) => ({ name: classOf(object), color: object.color, shapes: asking.shapesOf(object) }))
    .filter(({ shapes }) => shapes.length);
}

/** The classes in the order of their numbers: those of the list, then those that only objects have. */
export const classesOf = (photos, listed) => [...new Set([...listed, ...photos.flatMap(({ results }) => results.map(({ name }) => name))])];

export async function maskFile(asking, object) {
  const { photo } = asking;
  const blob = await maskPng(asking.shapesOf(object), photo);
  return blob && { blob, name: `${stemOf(photo)}-${slug(classOf(object))}-mask.png` };
}

/** The object alone, transparent around it, as large as its bounding box. */
export async function cutoutFile(asking, object) {
  const { photo } = asking;
  const mask = await exactMask(asking.shapesOf(object));
  if (!mask) return null;
  const pixels = await pixelsOf(photo, mask);
  for (let i = 0; i < mask.bits.length; i++) pixels[i * 4 + 3] = mask.bits[i] * 255;
  const blob = await encodePng(pixels, mask.width, mask.height, 4);
  return { blob, name: `${stemOf(photo)}-${slug(classOf(object))}-cutout.png` };
}

/** COCO's annotations of all photos, masks as compressed run lengths or as polygons, one annotation an object. */
export async function cocoOf(photos, classes, isPolygons, description) {
  const annotations = [];
  const images = [];
  for (const { photo, results } of photos) {
    images.push({ id: images.length + 1, file_name: photo.name, width: photo.width, height: photo.height });
    for (const { name, shapes } of results) {
      for (const shape of shapes) {
        const mask = await exactMask([shape]);
        const { x, y, width, height } = shape.box;
        annotations.push({
          id: annotations.length + 1,
          image_id: images.length,
          category_id: classes.indexOf(name) + 1,
          bbox: [x, y, width, height],
          area: mask ? mask.area : width * height,
          iscrowd: 0,
          segmentation: !mask ? [] : isPolygons ? polygonsOf(mask) : encodeRle(mask, photo),
          ...(shape.score === null ? {} : { score: shape.score }),
        });
      }
    }
  }
  const categories = classes.map((name, index) => ({ id: index + 1, name, supercategory: "" }));
  return asJson({ info: { description }, images, categories, annotations });
}

/** Polygons with holes of the visible objects, in the API's form. */
export async function polygonsFile(asking, doc) {
  const { photo, model, stop: { signal } } = asking;
  const objects = [];
  for (const object of doc.objects.filter((one) => !one.isHidden && asking.shapesOf(one).some(({ hasMask }) => hasMask))) {
    // From here on, nothing is about the photo or the model that was opened meanwhile.
    signal.throwIfAborted();
    // What was found may be of another model, to which this photo's handle means nothing.
    if (object.strokes.length || object.found) {
      objects.push({ name: classOf(object), polygons: localPolygons(await exactMask(asking.shapesOf(object))) });
      continue;
    }
    const annotations = await asking.tracedOf(object, signal);
    for (const { mask } of annotations) if (mask) objects.push({ name: classOf(object), polygons: mask });
  }
  if (!objects.length) return null;
  return {
    blob: asJson({ image: photo.name, width: photo.width, height: photo.height, model, objects }),
    name: `${stemOf(photo)}-polygons.json`,
  };
}

/** The same of a mask that is here, along the edges of its pixels; whole numbers are middles of pixels. */
function localPolygons(mask) {
  const pairs = (points) => points.flatMap((value, index) => (index % 2 ? [] : [[value - 0.5, points[index + 1] - 0.5]]));
  return mask ? partsOf(mask).map(({ points, holes }) => ({ exterior: pairs(points), holes: holes.map(pairs) })) : [];
}

/** A label of YOLO-seg: a line an object, its class from 0 and one polygon in parts of the photo's size. */
async function yoloText({ photo, results }, classes) {
  const lines = [];
  for (const { name, shapes } of results) {
    for (const shape of shapes) {
      const mask = await exactMask([shape]);
      const { x, y, width, height } = shape.box;
      const corners = [x, y, x + width, y, x + width, y + height, x, y + height];
      const [polygon] = mask ? polygonsOf(mask, true) : [corners];
      const parts = Array.from(polygon, (value, index) => (value / (index % 2 ? photo.height : photo.width)).toFixed(6));
      lines.push(`${classes.indexOf(name)} ${parts.join(" ")}`);
    }
  }
  return lines.map((line) => `${line}\n`).join("");
}

const yoloYaml = (classes) => `path: .\ntrain: images\nval: images\nnames:\n${classes.map((name, index) => `  ${index}: ${JSON.stringify(name)}\n`).join("")}`;

/** A PNG with a palette whose pixels are class numbers from 1, 0 outside; later objects lie over earlier ones. */
export async function labelMapOf({ photo, results }, classes) {
  if (classes.length > MOST_CLASSES) throw new Error(`A label map holds at most ${MOST_CLASSES} classes, and there are ${classes.length}.`);
  const pixels = new Uint8Array(photo.width * photo.height);
  for (const { name, shapes } of results) {
    const mask = await exactMask(shapes);
    if (mask) paste(pixels, photo, mask, classes.indexOf(name) + 1);
  }
  const palette = ["#000000", ...classes.map((_, index) => colorOf(index + 1))];
  return encodePng(pixels, photo.width, photo.height, 1, palette);
}

/** Stems of the photos' names, told apart where they are alike. */
function stemsOf(photos) {
  const taken = new Set();
  return photos.map(({ photo }) => {
    const stem = stemOf(photo).replace(/[/\\]/g, "-");
    let name = stem;
    for (let number = 2; taken.has(name); number++) name = `${stem}-${number}`;
    taken.add(name);
    return name;
  });
}

async function yoloEntries(photos, classes) {
  const stems = stemsOf(photos);
  const labels = await Promise.all(photos.map((one) => yoloText(one, classes)));
  return [["data.yaml", asText(yoloYaml(classes))], ...labels.map((text, index) => [`labels/${stems[index]}.txt`, asText(text)])];
}

export const yoloZip = async (photos, classes) => zip(await yoloEntries(photos, classes));

/** Everything about all photos: COCO in both forms, YOLO-seg, label maps. */
export async function everythingZip(photos, classes, description) {
  const stems = stemsOf(photos);
  const maps = [];
  for (const [index, one] of photos.entries()) maps.push([`label-maps/${stems[index]}.png`, await labelMapOf(one, classes)]);
  return zip([
    ["coco.json", await cocoOf(photos, classes, false, description)],
    ["coco-polygons.json", await cocoOf(photos, classes, true, description)],
    ["classes.txt", asText(classes.map((name) => `${name}\n`).join(""))],
    ...(await yoloEntries(photos, classes)),
    ...maps,
  ]);
}

export function download({ blob, name }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
