// A photo: its bytes go to the server unchanged; a smaller copy is drawn, and a sharp patch when zoomed in.
//
// Pixels are always read by drawing the <img>: createImageBitmap of a part ignores, in Chromium, that a photo may be
// stored rotated (EXIF).

// Longest side of the copy, in pixels. Drawing 24 megapixels at each movement would not be smooth.
const COPY_SIDE = 2560;

export const FORMATS = "JPEG, PNG, WebP, AVIF, GIF or BMP";

export class UnreadablePhoto extends Error {}

/** Read a photo. Width and height are those of the upright photo, as in the API. The caller closes it. */
export async function openPhoto(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const shrink = Math.min(1, COPY_SIDE / Math.max(width, height));
    const whole = { x: 0, y: 0, width, height };
    const copy = drawn(image, whole, shrink).canvas.transferToImageBitmap();
    const close = () => {
      copy.close();
      URL.revokeObjectURL(url);
    };
    return { blob, name, width, height, image, copy, isReduced: shrink < 1, close };
  } catch {
    URL.revokeObjectURL(url);
    const isHeic = /\.hei[cf]s?$/i.test(name) || /hei[cf]/.test(blob.type);
    const why = isHeic ? "HEIC photos open in Safari only; other browsers show" : "This browser shows";
    throw new UnreadablePhoto(`${name || "This file"} cannot be opened. ${why} ${FORMATS}.`);
  }
}

/** A canvas with a part of the photo over white. */
function drawn(image, part, shrink, options) {
  const width = Math.max(1, Math.round(part.width * shrink));
  const height = Math.max(1, Math.round(part.height * shrink));
  const context = new OffscreenCanvas(width, height).getContext("2d", options);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = shrink < 1 ? "high" : "low";
  context.drawImage(image, part.x, part.y, part.width, part.height, 0, 0, width, height);
  return context;
}

/** A part of the photo from its full pixels, at most so many of them wide. */
export async function patchOf({ image }, part, mostWidth) {
  // The browser may have dropped the decoded photo; this decodes it again off the main thread.
  await image.decode();
  return drawn(image, part, Math.min(1, mostWidth / part.width)).canvas.transferToImageBitmap();
}

/** Pixels of a part of the photo over white, RGBA. */
export async function pixelsOf({ image }, part) {
  await image.decode();
  return drawn(image, part, 1, { willReadFrequently: true }).getImageData(0, 0, part.width, part.height).data;
}
