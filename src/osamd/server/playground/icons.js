// The icons: lines on a grid of 20 x 20.

const LINES = {
  plus: "M10 4v12M4 10h12",
  minus: "M4 10h12",
  add: "M3 10a7 7 0 1 0 14 0 7 7 0 1 0-14 0zM10 7v6M7 10h6",
  remove: "M3 10a7 7 0 1 0 14 0 7 7 0 1 0-14 0zM7 10h6",
  box: "M4 7V4h3M13 4h3v3M16 13v3h-3M7 16H4v-3",
  hand: "M10 3v14M3 10h14M7.5 5.2 10 2.8l2.5 2.4M7.5 14.8l2.5 2.4 2.5-2.4M5.2 7.5 2.8 10l2.4 2.5M14.8 7.5l2.4 2.5-2.4 2.5",
  undo: "M7 4 3.5 7.5 7 11M4 7.5h7.5a4.5 4.5 0 0 1 0 9H8",
  redo: "m13 4 3.5 3.5L13 11M16 7.5H8.5a4.5 4.5 0 0 0 0 9H12",
  fit: "M5 5h10a1.5 1.5 0 0 1 1.5 1.5v7a1.5 1.5 0 0 1-1.5 1.5h-10a1.5 1.5 0 0 1-1.5-1.5v-7a1.5 1.5 0 0 1 1.5-1.5zM7 8.5v3h3M13 8.5v3",
  key: "M3.5 13a3.5 3.5 0 1 0 7 0 3.5 3.5 0 1 0-7 0zM9.5 10.5l6.5-6.5M13.5 6.5l2 2",
  theme: "M3.5 10a6.5 6.5 0 1 0 13 0 6.5 6.5 0 1 0-13 0zM10 3.5v13M12 4v12M14 5.2v9.6",
  help: "M3 10a7 7 0 1 0 14 0 7 7 0 1 0-14 0zM8 8.2a2 2 0 1 1 2.8 1.9c-.6.3-.8.7-.8 1.4M10 13.7v.1",
  docs: "M4 4.5h5a1.5 1.5 0 0 1 1 .5 1.5 1.5 0 0 1 1-.5h5v11h-5a1.5 1.5 0 0 0-1 .5 1.5 1.5 0 0 0-1-.5H4zM10 5v11",
  photo: "M5 4h10a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-10a2 2 0 0 1-2-2v-8a2 2 0 0 1 2-2zM5.9 8.2a1.3 1.3 0 1 0 2.6 0 1.3 1.3 0 1 0-2.6 0zM3.5 14.5l4-4 3 3 2.5-2.5 3.5 3.5",
  down: "M10 3.5v9M6.5 9.5 10 13l3.5-3.5M4 16.5h12",
  copy: "M8.5 7h6a1.5 1.5 0 0 1 1.5 1.5v6a1.5 1.5 0 0 1-1.5 1.5h-6a1.5 1.5 0 0 1-1.5-1.5v-6a1.5 1.5 0 0 1 1.5-1.5zM13 4.5A1.5 1.5 0 0 0 11.5 4H5.5A1.5 1.5 0 0 0 4 5.5v6a1.5 1.5 0 0 0 .5 1.5",
  check: "m4.5 10.5 3.5 3.5 7.5-8",
  chevron: "m6 8 4 4 4-4",
  eye: "M2.5 10s2.8-5 7.5-5 7.5 5 7.5 5-2.8 5-7.5 5-7.5-5-7.5-5zM7.8 10a2.2 2.2 0 1 0 4.4 0 2.2 2.2 0 1 0-4.4 0z",
  hidden: "M3 8.5s2.6 3.5 7 3.5 7-3.5 7-3.5M5 11l-1.3 2M10 12v2.5M15 11l1.3 2",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.8 10h7.4l.8-10",
  close: "m5 5 10 10M15 5 5 15",
  brush: "M16.5 3.5 9 11M9 11c-2-.6-3.8.6-4 2.6-.1 1.3-.9 2-2 2.4 2.6 1.2 6.6.7 7-2.5.1-1-.3-2-1-2.5z",
  eraser: "m4 12 7.5-7.5a1.4 1.4 0 0 1 2 0l2.5 2.5a1.4 1.4 0 0 1 0 2L9.5 15.5h-3L4 13.5a1 1 0 0 1 0-1.5zM8 8.5l4.5 4.5M9.5 15.5H16",
  preview: "m6 3 9.5 7-4.3.9L9 15z",
  everything: "M3.5 3.5h5v5h-5zM11.5 3.5h5v5h-5zM3.5 11.5h5v5h-5zM14 11v6M11 14h6",
  layers: "m10 3.5 7 3.7-7 3.7-7-3.7zM3.5 10.5 10 14l6.5-3.5M3.5 13.5 10 17l6.5-3.5",
};

const svg = (name, attributes, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: LINES[name] }));
}

/** Put icons before the text of buttons and links. Those without text are named by their title, without its key. */
export function putIcons() {
  for (const node of document.querySelectorAll("[data-icon]")) {
    if (node.title && !node.textContent) node.ariaLabel ??= node.title.split(" (")[0];
    node.prepend(icon(node.dataset.icon));
  }
}
