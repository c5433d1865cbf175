// What was just done, as code to paste. The key is never in it: code reads it from the environment.

const shellQuoted = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const quoted = (text) => JSON.stringify(text);
const list = (values) => `[${values.map((value) => (Array.isArray(value) ? list(value) : value)).join(", ")}]`;

/** The query of a request with the bare photo as its body. */
export function queryOf({ model, prompt, multimask }) {
  const pairs = [["model", model.replace(/:latest$/, "")]];
  (prompt.points ?? []).forEach(([x, y], index) => pairs.push([prompt.point_labels[index] ? "point" : "background", `${x},${y}`]));
  if (prompt.box) pairs.push(["box", prompt.box.join(",")]);
  for (const text of prompt.texts ?? []) pairs.push(["text", text]);
  if (prompt.mask_input) pairs.push(["mask_input", prompt.mask_input]);
  if (multimask) pairs.push(["multimask", "true"]);
  return pairs.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%3A", ":")}`).join("&");
}

function curl({ base, photo, hasKey, ...request }) {
  const lines = [`curl ${shellQuoted(`${base}/api/generate?${queryOf(request)}`)}`];
  if (hasKey) lines.push('-H "X-API-Key: $API_KEY"');
  lines.push('-H "Accept: image/png"');
  lines.push(`--data-binary ${shellQuoted(`@${photo}`)}`, "-o mask.png");
  return lines.join(" \\\n  ");
}

function python({ base, photo, hasKey, model, prompt, multimask }) {
  const fields = [`model=${quoted(model)}`];
  if (prompt.points) {
    fields.push(`points=${list(prompt.points)}`);
    if (prompt.point_labels.includes(0)) fields.push(`labels=${list(prompt.point_labels)}`);
  }
  if (prompt.box) fields.push(`box=${list(prompt.box)}`);
  if (prompt.texts) fields.push(`texts=[${prompt.texts.map(quoted).join(", ")}]`);
  if (prompt.mask_input) fields.push(`mask_input=${quoted(prompt.mask_input)}`);
  if (multimask) fields.push("multimask=True");
  const lines = hasKey ? ["import os", ""] : [];
  lines.push(
    "from pathlib import Path",
    "",
    "from osamd.client import Client",
    "",
    `with Client(${quoted(base)}${hasKey ? ', api_key=os.environ["API_KEY"]' : ""}) as client:`,
    "    found = client.segment(",
    `        Path(${quoted(photo)}),`,
    ...fields.map((field) => `        ${field},`),
    "    )",
    "for number, annotation in enumerate(found.annotations):",
    '    Path(f"mask-{number}.png").write_bytes(annotation.mask_png)',
  );
  return lines.join("\n").replace("import os\n\nfrom", "import os\nfrom");
}

function javascript({ base, photo, hasKey, ...request }) {
  const headers = ['Accept: "image/png"'];
  if (hasKey) headers.unshift('"X-API-Key": process.env.API_KEY');
  return [
    'import { readFile, writeFile } from "node:fs/promises";',
    "",
    "const answer = await fetch(",
    `  ${quoted(`${base}/api/generate?${queryOf(request)}`)},`,
    "  {",
    '    method: "POST",',
    `    headers: { ${headers.join(", ")} },`,
    `    body: await readFile(${quoted(photo)}),`,
    "  },",
    ");",
    "if (!answer.ok) throw new Error(await answer.text());",
    'await writeFile("mask.png", Buffer.from(await answer.arrayBuffer()));',
  ].join("\n");
}

const WRITERS = { curl, python, javascript };

/**
 * @param {"curl"|"python"|"javascript"} language
 * @param {{base: string, photo: string, hasKey: boolean, model: string, prompt: object, multimask?: boolean}} request
 */
export const snippet = (language, request) => WRITERS[language](request);
