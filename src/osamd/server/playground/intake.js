// How photos come in: picked, dropped, pasted, or one of the examples.

import { byId } from "./dom.js";
import { FORMATS } from "./photo.js";

/** @param {(files: {blob: Blob, name: string}[]) => void} usePhotos */
export function wirePhotos(usePhotos, complain) {
  byId("file").addEventListener("change", (event) => {
    const files = named(event.target.files);
    // The same file may be picked twice in a row.
    event.target.value = "";
    if (files.length) usePhotos(files);
  });
  for (const button of document.querySelectorAll("[data-pick]")) button.addEventListener("click", () => byId("file").click());
  addEventListener("paste", (event) => {
    const { items = [], types = [] } = event.clipboardData ?? {};
    const item = [...items].find(({ type }) => type.startsWith("image/"));
    // Cells of a table come as text and as a picture; a field takes the text.
    if (!item || (types.includes("text/plain") && event.target.closest?.("input"))) return;
    event.preventDefault();
    usePhotos([{ blob: item.getAsFile(), name: "pasted.png" }]);
  });
  wireDrops(usePhotos, complain);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", async () => {
      const name = button.dataset.example;
      try {
        const response = await fetch(`playground/examples/${name}`);
        if (!response.ok) throw new Error();
        await usePhotos([{ blob: await response.blob(), name }]);
      } catch {
        complain("The example could not be loaded.");
      }
    });
  }
}

const named = (files) => [...files].map((file) => ({ blob: file, name: file.name }));

function wireDrops(usePhotos, complain) {
  const drop = byId("drop");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth -= 1;
    if (depth <= 0) drop.hidden = true;
  });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    drop.hidden = true;
    const files = [...event.dataTransfer.files];
    // Some systems give no type for HEIC and others: whether they can be shown turns out when they are decoded.
    const images = files.filter(({ type }) => !type || type.startsWith("image/"));
    if (images.length) usePhotos(named(images));
    else complain(`Expected an image: ${FORMATS}.`);
  });
}
