// Files to take away, made here from the masks the API gave; only polygons are asked for, since the API traces them.

import { exactMask } from "./masks.js";
import { pixelsOf } from "./photo.js";
import { encodePng } from "./png.js";
import { encodeRle } from "./rle.js";

export const stemOf = (photo) => photo.name.replace(/\.[^.]*$/, "") || "photo";
const slug = (name) => name.trim().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "object";
const asJson = (value) => new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });

/** A grey PNG of the photo's size, 255 inside. */
export async function maskFile(asking, object) {
  const { photo } = asking;
  const mask = await exactMask(asking.shapesOf(object));
  if (!mask) return null;
  const pixels = new Uint8Array(photo.width * photo.height);
  for (let y = 0; y < mask.height; y++) {
    const start = (y + mask.y) * photo.width + mask.x;
    for (let x = 0; x < mask.width; x++) pixels[start + x] = mask.bits[y * mask.width + x] * 255;
  }
  const blob = await encodePng(pixels, photo.width, photo.height, 1);
  return { blob, name: `${stemOf(photo)}-${slug(object.name)}-mask.png` };
}

/** The object alone, transparent around it, as large as its bounding box. */
export async function cutoutFile(asking, object) {
  const { photo } = asking;
  const mask = await exactMask(asking.shapesOf(object));
  if (!mask) return null;
  const pixels = await pixelsOf(photo, mask);
  for (let i = 0; i < mask.bits.length; i++) pixels[i * 4 + 3] = mask.bits[i] * 255;
  const blob = await encodePng(pixels, mask.width, mask.height, 4);
  return { blob, name: `${stemOf(photo)}-${slug(object.name)}-cutout.png` };
}

/** COCO's annotation file of all objects, masks as compressed run lengths. */
export async function cocoFile(asking, doc) {
  const { photo } = asking;
  const categories = [];
  const annotations = [];
  for (const object of doc.objects) {
    for (const shape of asking.shapesOf(object)) {
      const mask = await exactMask([shape]);
      let category = categories.find(({ name }) => name === object.name);
      if (!category) categories.push((category = { id: categories.length + 1, name: object.name, supercategory: "" }));
      const { x, y, width, height } = shape.box;
      annotations.push({
        id: annotations.length + 1,
        image_id: 1,
        category_id: category.id,
        bbox: [x, y, width, height],
        area: mask ? mask.area : width * height,
        iscrowd: 0,
        segmentation: mask ? encodeRle(mask, photo) : [],
        ...(shape.score === null ? {} : { score: shape.score }),
      });
    }
  }
  if (!annotations.length) return null;
  const images = [{ id: 1, file_name: photo.name, width: photo.width, height: photo.height }];
  return { blob: asJson({ info: { description: `Made with osamd and ${asking.model}` }, images, categories, annotations }), name: `${stemOf(photo)}-coco.json` };
}

/** Polygons with holes of all objects, in the API's form. */
export async function polygonsFile(asking, doc) {
  const { photo } = asking;
  const objects = [];
  for (const object of doc.objects.filter((one) => asking.shapesOf(one).length)) {
    const annotations = await asking.inFormat(object, "polygon");
    for (const { mask } of annotations) if (mask) objects.push({ name: object.name, polygons: mask });
  }
  if (!objects.length) return null;
  return {
    blob: asJson({ image: photo.name, width: photo.width, height: photo.height, model: asking.model, objects }),
    name: `${stemOf(photo)}-polygons.json`,
  };
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
