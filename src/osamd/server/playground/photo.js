// A photo: its bytes go to the server as they are; what is drawn is a smaller copy, and a sharp patch when zoomed in.

// Longest side of the copy, in pixels. Drawing 24 megapixels at each movement would not be smooth.
const COPY_SIDE = 2560;

export class UnreadablePhoto extends Error {}

/** Read a photo. Width and height are those of the upright picture, as the API's. */
export async function openPhoto(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    if (!width || !height) throw new Error("no size");
    const shrink = Math.min(1, COPY_SIDE / Math.max(width, height));
    const copy = await createImageBitmap(image, {
      resizeWidth: Math.max(1, Math.round(width * shrink)),
      resizeHeight: Math.max(1, Math.round(height * shrink)),
      resizeQuality: "high",
    });
    return { blob, name, width, height, copy, isReduced: shrink < 1 };
  } catch {
    throw new UnreadablePhoto(`${name || "This file"} is no picture that this browser can show.`);
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** A part of the photo from its full pixels, at most so many of them wide. */
export async function patchOf(photo, part, mostWidth) {
  const shrink = Math.min(1, mostWidth / part.width);
  return createImageBitmap(photo.blob, part.x, part.y, part.width, part.height, {
    resizeWidth: Math.max(1, Math.round(part.width * shrink)),
    resizeHeight: Math.max(1, Math.round(part.height * shrink)),
    resizeQuality: "medium",
  });
}

/** Pixels of a part of the photo over white, RGBA. */
export async function pixelsOf(photo, part) {
  const bitmap = await createImageBitmap(photo.blob, part.x, part.y, part.width, part.height);
  const context = new OffscreenCanvas(part.width, part.height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, part.width, part.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, part.width, part.height).data;
}
