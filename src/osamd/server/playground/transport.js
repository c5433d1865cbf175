// The API over HTTP: addresses relative to the page, the key in a header, answers with what they cost.

import { noAnswer, Trouble, troubleOf } from "./troubles.js";

const KEY_NAME = "osamd.key";

// The key lives as long as the tab, or as the page where the browser forbids storage.
let key = "";
let version = 0; // counts keys, so that a late refusal of an old key does not discard a new one
try {
  key = sessionStorage.getItem(KEY_NAME) ?? "";
} catch {
  // Kept in this variable only.
}

export const hasKey = () => key !== "";

export const keyVersion = () => version;

export function keep(newKey) {
  key = newKey.trim();
  version += 1;
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // As above.
  }
}

/** The API's address without `/api/generate`. */
export const baseUrl = () => new URL(".", document.baseURI).href.replace(/\/$/, "");

function headersWith(more) {
  // Header values are Latin-1; a key cannot be anything else.
  return key && /^[\x20-\xff]+$/.test(key) ? { ...more, "X-API-Key": key } : { ...more };
}

export function timingsOf(header) {
  const timings = {};
  for (const part of (header ?? "").split(",")) {
    const [name, duration] = part.trim().split(";dur=");
    if (duration) timings[name] = Number(duration);
  }
  return timings;
}

const lost = (error) => {
  throw error.name === "AbortError" ? error : noAnswer();
};

const send = (method, path, { body, headers = {}, signal } = {}) =>
  fetch(path, { method, body, headers: headersWith(headers), signal, cache: "no-store", redirect: "error" }).catch(lost);

const read = (response) => response.text().catch(lost);

async function checked(sending) {
  const used = version;
  const response = await sending;
  if (response.ok) return response;
  const type = response.headers.get("Content-Type") ?? "";
  throw Object.assign(troubleOf(response.status, type, await read(response), response.headers), { keyVersion: used });
}

// Load balancers send a photo and clicks on it to the same server by this header.
const routed = (key) => (key ? { "X-Osamd-Image": key } : {});
const ofHandle = (fields) => routed(fields?.image_id?.slice(4, 12));

// Without TLS, browsers do not hash.
async function ofPhoto(blob) {
  const hash = await crypto.subtle?.digest("SHA-256", await blob.arrayBuffer()).catch(() => null);
  return routed(hash && new DataView(hash).getUint32(0).toString(16).padStart(8, "0"));
}

/** The JSON of an answer, and what it cost. */
async function ask(method, path, fields, signal) {
  const body = fields === undefined ? undefined : JSON.stringify(fields);
  const start = performance.now();
  const response = await checked(send(method, path, { body, headers: { "Content-Type": "application/json", ...ofHandle(fields) }, signal }));
  const text = await read(response);
  const ms = performance.now() - start;
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Trouble("asleep", { status: response.status });
  }
  return { data, cost: costOf(response.headers, ms, body?.length ?? 0, text.length) };
}

function costOf(headers, ms, bytesUp, bytesDown) {
  return {
    ms,
    bytesUp,
    bytesDown,
    stages: timingsOf(headers.get("Server-Timing")),
    cache: headers.get("X-Osamd-Cache"),
    device: headers.get("X-Osamd-Device"),
  };
}

export const catalog = () => ask("GET", "api/catalog");
export const generate = (fields, signal) => ask("POST", "api/generate", fields, signal);

/** Upload and embed a photo, its bytes unchanged. XMLHttpRequest, since fetch reports no upload progress. */
export async function embed(blob, model, { signal, onSent }) {
  const route = await ofPhoto(blob);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const start = performance.now();
    const used = version;
    const stop = () => {
      request.abort();
      reject(new DOMException("stopped", "AbortError"));
    };
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop);
    request.open("POST", `api/embed?model=${encodeURIComponent(model)}`);
    for (const [name, value] of Object.entries(headersWith({ "Content-Type": "application/octet-stream", ...route }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onerror = () => reject(noAnswer());
    request.onload = () => {
      const headers = { get: (name) => request.getResponseHeader(name) };
      const text = request.responseText;
      if (request.status < 200 || request.status > 299) {
        const trouble = troubleOf(request.status, headers.get("Content-Type") ?? "", text, headers);
        return reject(Object.assign(trouble, { keyVersion: used }));
      }
      try {
        const cost = costOf(headers, performance.now() - start, blob.size, text.length);
        return resolve({ data: JSON.parse(text), cost });
      } catch {
        return reject(new Trouble("asleep", { status: request.status }));
      }
    };
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.send(blob);
  });
}

/** Post fields; each line of the answer goes to `take`, until it returns true. */
async function stream(path, fields, take, signal) {
  const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson", ...ofHandle(fields) };
  const response = await checked(send("POST", path, { body: JSON.stringify(fields), headers, signal }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines.filter(Boolean)) if (await take(JSON.parse(line), response)) return;
    // An answer without its last line was cut off.
    if (done) throw noAnswer();
  }
}

/** Pull a model; each line of progress goes to `onNews`. */
export function pull(model, onNews, signal) {
  const take = (news, { headers }) => {
    if (news.error) throw new Trouble("failed", { detail: news.error, code: news.code, requestId: headers.get("X-Request-Id") ?? "" });
    return news.status === "success" || onNews(news);
  };
  return stream("api/pull", { model }, take, signal);
}

/** Find everything in a photo; each line goes to `onLine`. */
export function everything(fields, onLine, signal) {
  return stream("api/generate", fields, async (line) => (await onLine(line)) || line.event === "done", signal);
}
