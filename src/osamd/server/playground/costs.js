// Where the time of a request goes, and a small chart of the last ones.

export const PARTS = [
  { name: "transfer", label: "Transfer", stages: ["receive"] },
  { name: "queue", label: "Queue", stages: ["queue"] },
  { name: "encode", label: "Encode", stages: ["decode_image", "encode"] },
  { name: "decode", label: "Decode", stages: ["decode"] },
  { name: "mask", label: "Mask and rest", stages: ["parse", "mask", "reply"] },
];
const SHOWN = 28;
const HEIGHT = 56;
const WIDTH = 300;
const SVG = "http://www.w3.org/2000/svg";

/** Milliseconds by part. Time outside the server is transfer; what the server does not break down is in the last part. */
export function partsOf(cost) {
  const parts = Object.fromEntries(
    PARTS.map(({ name, stages }) => [name, stages.reduce((sum, stage) => sum + (cost.stages[stage] ?? 0), 0)]),
  );
  const known = Object.values(parts).reduce((sum, ms) => sum + ms, 0);
  const total = Math.max(cost.stages.total ?? 0, known);
  parts.transfer += Math.max(0, cost.ms - total);
  parts.mask += total - known;
  return parts;
}

export const msText = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export function bytesText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const [size, unit] = bytes < 1e6 ? [bytes / 1e3, "kB"] : bytes < 1e9 ? [bytes / 1e6, "MB"] : [bytes / 1e9, "GB"];
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} ${unit}`;
}

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Stacked bars of the last costs, the newest on the right. */
export function chartOf(costs) {
  const shown = costs.slice(-SHOWN);
  const most = Math.max(...shown.map(({ ms }) => ms), 1);
  const step = WIDTH / SHOWN;
  const label = `Milliseconds of the last requests: ${shown.map(({ ms }) => Math.round(ms)).join(", ")}`;
  const chart = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 1}`, role: "img", "aria-label": label, preserveAspectRatio: "none" });
  chart.append(element("rect", { x: 0, y: HEIGHT, width: WIDTH, height: 1, class: "axis" }));
  shown.forEach((cost, index) => {
    const parts = partsOf(cost);
    const x = (SHOWN - shown.length + index) * step;
    let y = HEIGHT;
    for (const { name } of PARTS) {
      const height = (parts[name] / most) * HEIGHT;
      y -= height;
      if (height > 0.1) chart.append(element("rect", { x: x + 1, y, width: step - 2, height, class: `part-${name}` }));
    }
  });
  return { chart, most };
}
