// Ways for a photo to come: picked, dropped, pasted, or one of the examples.

import { byId } from "./dom.js";

export function wirePhotos(usePhoto, complain) {
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    // The same file may be picked twice in a row.
    event.target.value = "";
    if (file) usePhoto(file, file.name);
  });
  for (const button of document.querySelectorAll("[data-pick]")) button.addEventListener("click", () => byId("file").click());
  addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!item) return;
    event.preventDefault();
    usePhoto(item.getAsFile(), "pasted.png");
  });
  wireDrops(usePhoto, complain);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", async () => {
      const name = button.dataset.example;
      try {
        const response = await fetch(`playground/examples/${name}`);
        if (!response.ok) throw new Error();
        await usePhoto(await response.blob(), name);
      } catch {
        complain("The example could not be fetched.");
      }
    });
  }
}

function wireDrops(usePhoto, complain) {
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
    const file = [...event.dataTransfer.files].find(({ type }) => type.startsWith("image/"));
    if (file) usePhoto(file, file.name);
    else complain("That was no picture.");
  });
}
