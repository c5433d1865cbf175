// Building elements without markup in strings: what users and servers send stays text.

export const byId = (id) => document.getElementById(id);

/** An element: attributes and properties by name, listeners by `on...`, children as nodes or text. */
export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  if (name === "button") node.type = "button";
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Arrow keys move within a group of radios or tabs, as assistive technology expects. */
export function roving(group, selector, choose) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const items = [...group.querySelectorAll(selector)].filter((item) => !item.disabled);
    const next = items[(items.indexOf(document.activeElement) + step + items.length) % items.length];
    event.preventDefault();
    event.stopPropagation();
    next?.focus();
    if (next) choose(next);
  });
}

/** Dialogs close by their button, by Escape, and by a click beside them. */
export function wireDialog(dialog) {
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
