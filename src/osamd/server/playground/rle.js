// COCO's compressed run lengths, as pycocotools writes them.

/**
 * @param {{bits: Uint8Array, x: number, y: number, width: number, height: number}} mask a window of the photo
 * @param {{width: number, height: number}} photo
 */
export function encodeRle(mask, photo) {
  const counts = [];
  let isInside = 0;
  let run = 0;
  const add = (value, length) => {
    if (!length) return;
    if (value !== isInside) {
      counts.push(run);
      run = 0;
      isInside = value;
    }
    run += length;
  };
  // Column by column, as COCO has it; what lies outside the window is counted without being looked at.
  add(0, mask.x * photo.height);
  for (let x = 0; x < mask.width; x++) {
    add(0, mask.y);
    for (let y = 0; y < mask.height; y++) add(mask.bits[y * mask.width + x] ? 1 : 0, 1);
    add(0, photo.height - mask.y - mask.height);
  }
  add(0, (photo.width - mask.x - mask.width) * photo.height);
  counts.push(run);
  return { size: [photo.height, photo.width], counts: compress(counts) };
}

// Five bits a letter, lowest first; from the third count on the difference to the one before the last.
function compress(counts) {
  let text = "";
  counts.forEach((count, index) => {
    let rest = index > 2 ? count - counts[index - 2] : count;
    let isMore = true;
    while (isMore) {
      let bits = rest & 31;
      rest >>= 5;
      isMore = bits & 16 ? rest !== -1 : rest !== 0;
      if (isMore) bits |= 32;
      text += String.fromCharCode(bits + 48);
    }
  });
  return text;
}
