// Colours of objects: forty of them stay apart on a photo.

// As in `osamd run --overlay`, brightened for screens; they stay apart for most kinds of colour vision.
const FIRST = ["#2f9bff", "#ffae1a", "#12c99b", "#f17cc4", "#ff7038", "#8fd3ff", "#f4e04d"];
// Searched at random: with these steps of hue, lightness and chroma the closest two of forty are the furthest apart.
const HUE_STEP = 340;
const HUE_START = 118;
const SEARCHED = 40;
// Neighbours in the search have similar hues; this keeps them apart in the list.
const STRIDE = 13;
const TONES = [[0.59, 0.21], [0.39, 0.1], [0.53, 0.09], [0.74, 0.08]];

/** The colour of the object with a number from 1, as #rrggbb. */
export function colorOf(number) {
  const index = number - 1;
  if (index < FIRST.length) return FIRST[index];
  const place = index < SEARCHED ? FIRST.length + (((index - FIRST.length) * STRIDE) % (SEARCHED - FIRST.length)) : index;
  const [lightness, chroma] = TONES[place % TONES.length];
  return oklchHex(lightness, chroma, ((place * HUE_STEP + HUE_START) * Math.PI) / 180);
}

// Ottosson's OKLab (2020) to sRGB; what lies outside of it is cut off.
function oklchHex(lightness, chroma, hue) {
  const [a, b] = [chroma * Math.cos(hue), chroma * Math.sin(hue)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const bytes = linear.map((value) => {
    const bright = value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(1, Math.max(0, bright)));
  });
  return `#${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
