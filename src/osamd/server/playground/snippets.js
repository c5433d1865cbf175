// The request as code to paste. The key is never in it: the code reads it from the environment.

const shellQuoted = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const quoted = (text) => JSON.stringify(text);
const list = (values) => `[${values.map((value) => (Array.isArray(value) ? list(value) : value)).join(", ")}]`;

/** The query of a request with the bare photo as its body. */
export function queryOf({ model, prompt, multimask }) {
  const pairs = [["model", model.replace(/:latest$/, "")]];
  (prompt.points ?? []).forEach(([x, y], index) => pairs.push([prompt.point_labels[index] ? "point" : "background", `${x},${y}`]));
  if (prompt.box) pairs.push(["box", prompt.box.join(",")]);
  if (prompt.everything) pairs.push(["everything", "true"]);
  for (const text of prompt.texts ?? []) pairs.push(["text", text]);
  if (multimask) pairs.push(["multimask", "true"]);
  return pairs.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%3A", ":")}`).join("&");
}

// As one PNG the API gives the union of all masks; of candidates only one is meant.
const isOnePng = ({ hasMasks, multimask }) => hasMasks && !multimask;

function curl({ base, photo, hasKey, ...request }) {
  const isPiped = request.hasMasks && request.multimask;
  // Without --fail-with-body curl exits with 0 on errors.
  const lines = [`curl -sS --fail-with-body ${shellQuoted(`${base}/api/generate?${queryOf(request)}`)}`];
  if (hasKey) lines.push('-H "X-API-Key: $API_KEY"');
  if (isOnePng(request)) lines.push('-H "Accept: image/png"');
  lines.push(`--data-binary ${shellQuoted(`@${photo}`)}`);
  if (isOnePng(request)) lines.push("-o mask.png", "|| { cat mask.png; rm -f mask.png; false; }");
  if (isPiped) lines.push("-o answer.json", `&& jq -r ".annotations[${request.picked}].mask" answer.json | base64 -d > mask.png`);
  return lines.join(" \\\n  ");
}

function python({ base, photo, hasKey, model, hasMasks, picked, prompt, multimask }) {
  const fields = [`model=${quoted(model)}`];
  if (prompt.points) {
    fields.push(`points=${list(prompt.points)}`);
    if (prompt.point_labels.includes(0)) fields.push(`labels=${list(prompt.point_labels)}`);
  }
  if (prompt.box) fields.push(`box=${list(prompt.box)}`);
  if (prompt.everything) fields.push("everything=True");
  if (prompt.texts) fields.push(`texts=[${prompt.texts.map(quoted).join(", ")}]`);
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
  );
  if (!hasMasks) lines.push("for annotation in found.annotations:", "    print(annotation.text, annotation.score, annotation.box)");
  else if (multimask) lines.push(`Path("mask.png").write_bytes(found.annotations[${picked}].mask_png)`);
  else lines.push("for number, annotation in enumerate(found.annotations):", '    Path(f"mask-{number}.png").write_bytes(annotation.mask_png)');
  return lines.join("\n").replace("import os\n\nfrom", "import os\nfrom");
}

function javascript({ base, photo, hasKey, ...request }) {
  const headers = isOnePng(request) ? ['Accept: "image/png"'] : [];
  if (hasKey) headers.unshift('"X-API-Key": process.env.API_KEY');
  const end = isOnePng(request)
    ? ['await writeFile("mask.png", Buffer.from(await answer.arrayBuffer()));']
    : [
        "const { annotations } = await answer.json();",
        request.hasMasks
          ? `await writeFile("mask.png", Buffer.from(annotations[${request.picked}].mask, "base64"));`
          : "for (const { text, score, bounding_box } of annotations) console.log(text, score, bounding_box);",
      ];
  return [
    `import { readFile${request.hasMasks ? ", writeFile" : ""} } from "node:fs/promises";`,
    "",
    "const answer = await fetch(",
    `  ${quoted(`${base}/api/generate?${queryOf(request)}`)},`,
    "  {",
    '    method: "POST",',
    ...(headers.length ? [`    headers: { ${headers.join(", ")} },`] : []),
    `    body: await readFile(${quoted(photo)}),`,
    "  },",
    ");",
    "if (!answer.ok) throw new Error(await answer.text());",
    ...end,
  ].join("\n");
}

const WRITERS = { curl, python, javascript };

/**
 * @param {"curl"|"python"|"javascript"} language
 * @param {{base, photo, hasKey, model, hasMasks, picked, prompt, multimask, isPainted}} request
 */
export function snippet(language, request) {
  const code = WRITERS[language](request);
  const notes = [];
  if (request.prompt.mask_input && !request.isPainted) notes.push("Without the mask that these clicks refined: a mask_id expires.", "The result may differ.");
  if (request.isPainted) notes.push("Without the brush strokes, which only this page has.");
  const mark = language === "javascript" ? "/".repeat(2) : "#";
  return [...notes.map((note) => `${mark} ${note}`), code].join("\n");
}
